"""All checkers at once, on runs of a system that is right but for one thing."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping

import pytest

from tests.faults.checkers import linearizable, suite
from tests.faults.checkers.by_hand import Story, cas, delete, read, read_all, transfer, write
from tests.faults.checkers.linearizable import Decision
from tests.faults.checkers.meaning import wanted
from tests.faults.operations import Delivery, Ended, Operation, Outcome

STEPS = 500
NODES = ("n1", "n2", "n3")
ACCOUNTS = ("bank/1", "bank/2", "bank/3")


class World:
    """Six clients, three nodes of which each is behind by some revisions, and a log; ``bug``: what is wrong.

    Each operation has one moment at which it happens, about which its invocation and its return lie.
    """

    def __init__(self, seed: int, bug: str = "") -> None:
        self.story = Story()
        self._draw = random.Random(seed)
        self._bug = bug
        self._free = dict.fromkeys(range(6), 0.0)
        self._applied = dict.fromkeys(NODES, 0)
        self._states: list[dict[str, str]] = [{}]
        self._numbers: dict[str, int] = defaultdict(int)
        self._now = 10.0
        for account in ACCOUNTS:
            self._done(write(account, "10", self._at(0), workload="bank", process=0))
        self._now += 10
        for _ in range(STEPS):
            self._step()
        self._now += 10
        self._applied = dict.fromkeys(NODES, self.story.revision)
        for node in NODES:
            self._say_all("set", process=7, node=node, mode="local")
        self._watch()

    def _at(self, process: int) -> tuple[float, float]:
        """When an operation that happens now was invoked and returned: a client has one under way at a time."""
        self._now += 0.1
        begin = max(self._free[process] + 0.001, self._now - self._draw.uniform(0.01, 0.5))
        end = max(self._now + self._draw.uniform(0.001, 0.5), begin)
        self._free[process] = end
        return begin, end

    def _step(self) -> None:
        """One client does something, and some nodes apply something."""
        node = self._draw.choice(NODES)
        if self._draw.random() < 0.2:
            self._applied[node] = self._draw.randint(self._applied[node], self.story.revision)
        process = self._draw.choice([each for each, free in self._free.items() if free < self._now])
        workload = self._draw.choice(["register", "register", "set", "counter", "append", "bank"])
        if self._draw.random() < 0.4:
            self._read(workload, process, node)
        else:
            self._write(self._wanted(workload, process, node))

    # --- what clients ask for -----------------------------------------------------------------------------

    def _new(self, workload: str) -> str:
        self._numbers[workload] += 1
        return str(self._numbers[workload])

    def _wanted(self, workload: str, process: int, node: str) -> Operation:
        at, state = self._at(process), self._states[-1]
        told = {"workload": workload, "process": process, "node": node}
        if self._draw.random() < 0.5:
            told["request_id"] = f"id-{self._new('id')}"
        match workload:
            case "set":
                number = self._new("set")
                return write(f"set/{number}", f"{process}-{number}", at, **told)
            case "counter":
                before = int(state.get("counter", 0))
                return cas("counter", str(before) if before else None, str(before + 1), at, **told)
            case "append":
                key = self._draw.choice(["list/1", "list/2"])
                before = state.get(key)
                return cas(key, before, f"{before},{self._new(key)}" if before else self._new(key), at, **told)
            case "bank":
                one = self._draw.choice([account for account in ACCOUNTS if int(state[account]) > 0])
                other = self._draw.choice([account for account in ACCOUNTS if account != one])
                moves = {one: self._move(one, -1), other: self._move(other, 1)}
                return transfer(moves, at, **told)
        key = f"register/{self._draw.randint(1, 3)}"
        value = f"{process}-{self._new('register')}"
        return self._draw.choice(
            [
                write(key, value, at, **told),
                cas(key, self._draw.choice([state.get(key), "other"]), value, at, **told),
                delete(key, at, **told),
            ]
        )

    def _move(self, account: str, change: int) -> tuple[str, str]:
        before = self._states[-1][account]
        return before, str(int(before) + change)

    def _read(self, workload: str, process: int, node: str) -> None:
        local = self._draw.random() < 0.4
        told = {"process": process, "node": node, "mode": "local" if local else "linearizable"}
        if workload in ("set", "bank"):
            self._say_all(workload, **told)
            return
        key = {"counter": "counter", "append": "list/1"}.get(workload, "register/1")
        at = self._at(process)
        shown = self._seen(node, local=local)
        self.story.says(read(key, self._states[shown].get(key), at, revision=shown, workload=workload, **told))

    def _say_all(self, workload: str, *, process: int, node: str, mode: str) -> None:
        if process not in self._free:
            self._free[process] = self._now
        at = self._at(process)
        shown = self._seen(node, local=mode == "local")
        values = {key: value for key, value in self._states[shown].items() if key.startswith(f"{workload}/")}
        self.story.says(
            read_all(values, at, revision=shown, workload=workload, process=process, node=node, mode=mode)
        )

    # --- what happens -------------------------------------------------------------------------------------

    def _seen(self, node: str, *, local: bool) -> int:
        """The revision whose state a read is shown."""
        if local or (self._bug == "stale reads" and self._draw.random() < 0.6):
            return self._applied[node]
        self._applied[node] = self.story.revision
        return self.story.revision

    def _write(self, asked: Operation) -> None:
        draw = self._draw.random()
        if not self.story.holds(asked) and not (self._bug == "unchecked conditions" and draw < 0.3):
            self._done(asked, Outcome.FAILED)
        elif self._draw.random() < 0.05:
            self.story.says(self._answered(asked, Outcome.REFUSED))
            if self._bug == "refused and done":
                self._log(asked)
        elif self._draw.random() < 0.15:
            self._unknown(asked)
        elif self._bug == "lost" and draw < 0.05 and asked.workload != "bank":
            self._done(asked)
            self._forget()
        else:
            self._done(asked)
            if self._bug == "done twice" and draw < 0.05 and asked.argument is not None:
                self._log(asked)

    def _unknown(self, asked: Operation) -> None:
        """Never done, or done: then by now, long after the client was told."""
        if self._draw.random() < 0.5:
            self.story.says(self._answered(asked, Outcome.UNKNOWN))
        else:
            self._done(asked, Outcome.UNKNOWN)

    def _done(self, asked: Operation, outcome: Outcome = Outcome.OK) -> None:
        self.story.does(self._answered(asked, outcome))
        self._keep()

    def _log(self, asked: Operation) -> None:
        """It happens, whatever its client was told; under no id, as if nobody had looked."""
        self.story.does(write("unheard", "x", (0, 1), workload="unheard") if asked.request_id else asked)
        self.story.operations.pop()
        self._keep()

    def _forget(self) -> None:
        """What has just been done is not there, though the log goes on."""
        self._states[-1] = dict(self._states[-2])
        state = self.story.chain.records
        for key in wanted(self.story.operations[-1]):
            state.pop(key, None)
        self._states[-1] = {key: record.value.decode() for key, record in state.items()}

    def _keep(self) -> None:
        records = self.story.chain.records
        self._states.append({key: record.value.decode() for key, record in records.items()})

    def _answered(self, asked: Operation, outcome: Outcome) -> Operation:
        fields = {name: getattr(asked, name) for name in asked.__slots__}
        return Operation(**{**fields, "outcome": outcome})

    def _watch(self) -> None:
        """One watcher of registers, told by three nodes in turn."""
        for revision, (before, after) in enumerate(zip(self._states, self._states[1:], strict=False), start=1):
            changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
            for key in (each for each in changed if each.startswith("register/")):
                node = NODES[revision // 50 % 3]
                self.story.deliveries.append(Delivery(1, revision, key, after.get(key), node, 0))
        self.story.watchers.append(Ended(1, "register/", 0, self.story.revision))


def found(story: Story) -> Mapping[str, set[str]]:
    """The invariants that each checker finds broken."""
    violations = suite.check(story.evidence)
    return {name: {each.invariant for each in those} for name, those in violations.items() if those}


@pytest.mark.parametrize("seed", range(4))
def test_a_right_system_breaks_no_promise(seed: int):
    """And every object is small enough to be decided."""
    story = World(seed).story

    assert found(story) == {}
    assert {each.decision for each in linearizable.examine(story.evidence)} == {Decision.LINEARIZABLE}


@pytest.mark.parametrize(
    ("bug", "finders"),
    [
        ("stale reads", {"revisions": "I5", "linearizable": "I5", "sets": "I5", "appends": "I5"}),
        ("unchecked conditions", {"revisions": "I10", "linearizable": "I10"}),
        ("refused and done", {"revisions": "I2", "outcomes": "I2"}),
        ("done twice", {"revisions": "I3", "sets": "I3"}),
        ("lost", {"revisions": "I10", "linearizable": "I10"}),
    ],
)
def test_a_system_that_breaks_a_promise_is_found_out(bug: str, finders: Mapping[str, str]):
    """By the white box, and by those that know nothing of revisions."""
    broken: dict[str, set[str]] = defaultdict(set)
    for seed in range(2):
        for name, invariants in found(World(seed, bug).story).items():
            broken[name] |= invariants

    assert {name for name, invariant in finders.items() if invariant not in broken[name]} == set(), dict(broken)
