"""Elements that are put once each, and reads of all of them: what is lost, late or doubled (I1, I2, I3, I6).

The workload "set": each element is a key of its own, put once (Kind.WRITE) with a value that no other one has, and
read with all the others (Kind.READ_ALL). An element is known from when its put or a read that shows it is
answered; from then on every linearizable read has to show it, and at the end the last read at every node. Named
after Jepsen's checker "set-full". No revision is looked at, and the log only for how often an element is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.faults.checkers.meaning import ms, of_workload, proposals, requests, seen, told
from tests.faults.checkers.replay import Replay
from tests.faults.checkers.violation import Violation
from tests.faults.operations import Evidence, Kind, Operation, Outcome

WORKLOAD = "set"

_NAMED_MAX = 5


def check(evidence: Evidence) -> list[Violation]:
    """What a set has lost, shows late, or has too much; see the module's docstring."""
    operations = requests(of_workload(evidence.operations, WORKLOAD))
    puts = [each for each in operations if each.kind is Kind.WRITE]
    reads = [each for each in operations if each.kind is Kind.READ_ALL and each.outcome is Outcome.OK]
    return [
        *_missing(_known(puts, reads), reads),
        *_final(puts, reads),
        *_strange(puts, reads),
        *_sessions(reads),
        *_doubled(evidence, puts),
    ]


def _known(puts: Sequence[Operation], reads: Sequence[Operation]) -> Mapping[str, int]:
    """Since when each element is known to be there."""
    known: dict[str, int] = {}
    for each in (*(put for put in puts if put.outcome is Outcome.OK), *reads):
        if each.returned_ns is not None:
            for key in seen(each) or [each.key]:
                known[key] = min(known.get(key, each.returned_ns), each.returned_ns)
    known.pop("", None)  # a read that was shown nothing
    return known


def _missing(known: Mapping[str, int], reads: Sequence[Operation]) -> Iterator[Violation]:
    """Linearizable reads without an element that was known before: late if one comes to show it, else lost."""
    for read in reads:
        if read.mode != "linearizable":
            continue
        shown = seen(read)
        missing = {key: since for key, since in known.items() if since < read.invoked_ns and key not in shown}
        if not missing:
            continue
        later = {key for other in reads if other.invoked_ns > read.invoked_ns for key in seen(other)}
        for invariant, verb, keys in (
            ("I5", "are shown by later reads only", sorted(missing.keys() & later)),
            ("I1", "are lost", sorted(missing.keys() - later)),
        ):
            if keys:
                ago = ms(read.invoked_ns - min(missing[key] for key in keys))
                what = f"{_some(keys)} {verb}, known for up to {ago} when it began"
                yield Violation(invariant, f"{told(read)}: {what}", (read,))


def _final(puts: Sequence[Operation], reads: Sequence[Operation]) -> Iterator[Violation]:
    """The last read of all at each node, once all is done, shows everything that was acknowledged."""
    acknowledged = {each.key for each in puts if each.outcome is Outcome.OK}
    done = max((each.returned_ns or each.invoked_ns for each in puts), default=0)
    last = {read.node: read for read in reads if read.invoked_ns > done}
    for read in last.values():
        if read.mode != "linearizable" and (lost := sorted(acknowledged - seen(read).keys())):
            yield Violation("I9", f"{told(read)}: is the last one here, and {_some(lost)} are not there", (read,))


def _strange(puts: Sequence[Operation], reads: Sequence[Operation]) -> Iterator[Violation]:
    """Reads that show what nobody has put, what was refused, what was put later, or one value twice."""
    proposed = proposals(puts)
    for read in reads:
        shown = seen(read)
        if len(set(shown.values())) < len(shown):
            yield Violation("I3", f"{told(read)}: two elements have one value", (read,))
        for key, value in shown.items():
            who = [each for each in proposed.get((key, value or ""), []) if each.outcome is not Outcome.REFUSED]
            if not who:
                what = f"{key} is {value!r}, which nobody has put, or which was refused"
                yield Violation("I2", f"{told(read)}: {what}", (read,))
            elif all(each.invoked_ns > (read.returned_ns or each.invoked_ns) for each in who):
                yield Violation("I5", f"{told(read)}: {key} was put later: {told(who[0])}", (read, who[0]))


def _sessions(reads: Sequence[Operation]) -> Iterator[Violation]:
    """What a process was shown by a node stays there."""
    shown: dict[tuple[int, str, int], Operation] = {}
    for read in reads:
        before = shown.get((read.process, read.node, read.life), read)
        if gone := sorted(seen(before).keys() - seen(read).keys()):
            yield Violation("I6", f"{told(read)}: {_some(gone)} were there in {told(before)}", (before, read))
        shown[read.process, read.node, read.life] = read


def _doubled(evidence: Evidence, puts: Sequence[Operation]) -> Iterator[Violation]:
    """Elements that the log has more than once."""
    replay = Replay(evidence.log)
    for (key, value), who in proposals(puts).items():
        places = [each.revision for each in replay.puts.get((key, value), [])]
        if len(places) > 1:
            yield Violation("I3", f"{key} was put at revisions {places}: {told(who[0])}", tuple(who))


def _some(keys: Sequence[str]) -> str:
    """How many, and the first of them."""
    more = ", ..." if len(keys) > _NAMED_MAX else ""
    return f"{len(keys)} elements ({', '.join(keys[:_NAMED_MAX])}{more})"
