"""A bank: money goes from one account to another, and none is made or lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kvlog.errors import Unavailable
from tests.faults.clients import LINEARIZABLE, LOCAL, Client
from tests.faults.operations import Outcome
from tests.faults.workloads.workload import Workload, some_mode

ACCOUNTS = tuple(f"bank/{number}" for number in range(6))
EACH = 100
MOST = 20
"""That goes over at a time."""


class Bank(Workload):
    """The sum of all accounts is the same at every revision."""

    name: ClassVar[str] = "bank"

    def begin(self, client: Client) -> None:
        """Open the accounts.

        Raises:
            Unavailable: one could not be opened.
        """
        for account in ACCOUNTS:
            if (opened := client.write(account, str(EACH))).outcome is not Outcome.OK:
                raise Unavailable(f"{account} could not be opened: {opened.error}")

    def step(self, client: Client) -> None:
        """See all accounts, and move something from one to another if nothing has changed in them."""
        found = client.read_all("bank/", some_mode(client))
        if found.outcome is not Outcome.OK or len(found.result) < len(ACCOUNTS):
            return  # or it is from before they were opened
        payer, payee = client.draw.sample(ACCOUNTS, 2)
        has, gets = int(found.result[payer]), int(found.result[payee])
        if amount := min(has, client.draw.randint(1, MOST)):
            client.transfer({payer: (str(has), str(has - amount)), payee: (str(gets), str(gets + amount))})

    def end(self, clients: Sequence[Client]) -> None:
        """All accounts, on each node."""
        for client in clients:
            client.read_all("bank/", LINEARIZABLE)
            client.read_all("bank/", LOCAL)
