"""Accounts between which money moves: there is always the same amount of it, and no account owes any (I10).

The workload "bank": accounts that are opened once (Kind.WRITE), whole numbers in text; Kind.TRANSFER takes from
some what it gives to others, all at once or not at all; Kind.READ_ALL reads all accounts at one revision. A
transfer of which one half was done, or done twice, or that saw an old balance, changes the sum. The log is looked
at as well, revision by revision, where it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kvlog.core.entry import LogEntry, Put
from tests.faults.checkers.meaning import Values, expected, of_workload, requests, seen, told, wanted
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Kind, Operation, Outcome

WORKLOAD = "bank"


def check(evidence: Evidence) -> list[Violation]:
    """Reads, and revisions of the log, that show another amount of money than there is.

    Raises:
        ValueError: the workload itself makes money, or opens an account twice.
    """
    operations = requests(of_workload(evidence.operations, WORKLOAD))
    opened = [each for each in operations if each.kind is Kind.WRITE]
    accounts = {each.key: int(each.argument) for each in opened}
    if len(accounts) != len(opened) or any(each.outcome is not Outcome.OK for each in opened):
        raise ValueError("an account was opened twice, or it is not known whether it was opened")
    for each in operations:
        if each.kind is Kind.TRANSFER and _sum(expected(each)) != _sum(wanted(each)):
            raise ValueError(f"a transfer makes money: {told(each)}")
    open_ns = max((each.returned_ns or each.invoked_ns for each in opened), default=0)
    reads = [
        each
        for each in operations
        if each.kind is Kind.READ_ALL and each.outcome is Outcome.OK and each.invoked_ns > open_ns
    ]
    return [*_reads(reads, accounts), *_log(evidence.log, accounts)]


def _sum(balances: Values) -> int:
    return sum(int(balance or 0) for balance in balances.values())


def _wrong(balances: Values, accounts: Mapping[str, int]) -> str:
    """What is wrong with these balances; empty if nothing is."""
    total = sum(accounts.values())
    if balances.keys() != accounts.keys() or None in balances.values():
        return f"it has the accounts {sorted(balances)}, and there are {sorted(accounts)}"
    if owing := {account: balance for account, balance in balances.items() if int(balance or 0) < 0}:
        return f"money is owed: {owing}"
    if _sum(balances) != total:
        return f"there is {_sum(balances)} in all, and should be {total}: {dict(balances)}"
    return ""


def _reads(reads: Sequence[Operation], accounts: Mapping[str, int]) -> Iterator[Violation]:
    for read in reads:
        early = read.mode != "linearizable" and seen(read).keys() < accounts.keys()  # of before they were opened
        if not early and (wrong := _wrong(seen(read), accounts)):
            yield Violation("I10", f"{told(read)}: {wrong}", (read,))


def _log(log: Sequence[LogEntry], accounts: Mapping[str, int]) -> Iterator[Violation]:
    """Every revision since all accounts were open has all the money."""
    balances: Values = {}
    for item in log:
        for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
            touched = [effect for effect in request.effects if effect.key in accounts]
            was_open = len(balances) == len(accounts)
            was_wrong = _wrong(balances, accounts)
            for effect in touched:
                balances[effect.key] = effect.value if isinstance(effect, Put) else None
            if touched and was_open and not was_wrong and (wrong := _wrong(balances, accounts)):
                yield Violation("I10", f"revision {revision}: {wrong}")
