"""What the clients of a run do."""

from tests.faults.workloads.append import Append
from tests.faults.workloads.bank import Bank
from tests.faults.workloads.counter import Counter
from tests.faults.workloads.register import Register
from tests.faults.workloads.set import Set
from tests.faults.workloads.workload import Workload

WORKLOADS: dict[str, type[Workload]] = {each.name: each for each in (Register, Set, Counter, Bank, Append)}
"""All kinds of load, by name. Watchers are beside them: they ask for nothing."""

__all__ = ["WORKLOADS", "Workload"]
