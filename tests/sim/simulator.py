"""A whole cluster in one thread and in virtual time, with every fault drawn from one seed.

The nodes are the real core over the memory adapters. What the simulator decides is when, whether and how often
things arrive: requests to ZooKeeper and their answers, pushes, probes, watches, snapshots; who crashes, loses
power (and with it what its store has not made durable), loses its disk, stops for a while, loses its connection
or its session; and when a stranger puts something into the log. Segments, retention and the memory for requests
are small, so that all of them matter. The same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from kvlog.core import agreement, entry, retention
from kvlog.core import effects as do
from kvlog.core import events as ev
from kvlog.core.applying import apply_entry
from kvlog.core.commands import (
    Command,
    Compare,
    DeleteKey,
    Grant,
    KeepAlive,
    Relation,
    Revoke,
    SetKey,
    Settle,
    Target,
    Txn,
    Unchanged,
    update,
)
from kvlog.core.describe import describe
from kvlog.core.entry import LogEntry, decode_entry
from kvlog.core.evaluate import LEASES, evaluate, lease_in, lease_key, lease_number
from kvlog.core.machine import Change, Changes, Identity, Position
from kvlog.core.node import Node
from kvlog.core.role import Role
from kvlog.core.values import (
    Ack,
    Committed,
    Holding,
    Member,
    NodeSettings,
    PushAnswer,
    Reach,
    Reached,
    Redirect,
    Refused,
    Rejected,
    Settled,
    Unknown,
)
from kvlog.errors import BadEntry
from kvlog.memory import ManualClock, MemoryEnsemble, MemorySession
from kvlog.memory_store import MemoryState, MemoryStore, MemoryTransaction
from kvlog.runtime import Executor, StoreWork, carry_out
from tests.state import State

TICK_S = 0.05
SESSION_TIMEOUT_S = 2.0
WRITE_TIMEOUT_S = 3.0
SEGMENT_ENTRIES = 8
MARK_S = 0.4
CHECKPOINT_ENTRIES = 8
WINDOW = 400
"""Revisions for which requests are remembered: more than a client's retries can be apart in a run (a retry comes
within seconds; a run writes some 20 a second), fewer than a long run has."""

BURSTS = (1, 1, 1, 1, 1, 1, 1, 2, 4, 6)
"""How many requests come to a node at the same time."""


OPERATORS: dict[str, Callable[[int], ev.Event]] = {"heal": ev.CatchupRequested, "transfer": ev.TransferRequested}


@dataclass
class Write:
    """A client's request, from its invocation to its outcome. ``settles``: the write that it is to settle."""

    number: int
    key: str
    deadline: float
    invoked_at: float
    node: str
    request_id: str = ""
    settles: Write | None = None
    other: Command | None = None  # what it asks for, if that is not to set the key
    unsure: bool = False  # an earlier try got no answer
    answered_at: float | None = None
    outcome: object = None

    @property
    def value(self) -> str:
        return f"value-{self.number}"

    @property
    def command(self) -> Command:
        if self.settles is not None:
            return Settle()
        return self.other or update(self.key, self.value)

    @property
    def mark(self) -> str:
        """What it is known by in the log."""
        return self.request_id or self.value


@dataclass
class Call:
    """A request to ZooKeeper that is on its way, or whose answer is."""

    request: Callable[[], ev.Event]
    failed: ev.Event
    executed: bool = False
    answered: bool = False


class Network:
    """One node's connection to the ensemble: in order both ways, until it breaks."""

    def __init__(self, sim: Simulator, node: SimNode) -> None:
        self.sim, self.node = sim, node
        self.up = False
        self.calls: list[Call] = []
        self.last_request_at = self.last_answer_at = 0.0

    def carry(self, request: Callable[[], ev.Event], failed: ev.Event) -> None:
        if not self.up:
            self.node.post(failed)
            return
        call = Call(request, failed)
        self.calls.append(call)
        self.last_request_at = max(self.last_request_at, self.sim.now) + self.sim.delay()
        self.sim.at(self.last_request_at, lambda: self.execute(call))

    def execute(self, call: Call) -> None:
        if call.executed:
            return
        call.executed = True
        event = call.request()
        if call.answered:  # the connection broke meanwhile: nobody hears of it
            return
        self.last_answer_at = max(self.last_answer_at, self.sim.now) + self.sim.delay()
        self.sim.at(self.last_answer_at, lambda: self.answer(call, event))

    def answer(self, call: Call, event: ev.Event) -> None:
        if not call.answered:
            call.answered = True
            self.calls.remove(call)
            self.node.post(event)

    def deliver(self, event: ev.Event) -> None:
        if self.up:
            self.last_answer_at = max(self.last_answer_at, self.sim.now) + self.sim.delay()
            self.sim.at(self.last_answer_at, lambda: self.node.post(event))

    def break_off(self) -> None:
        """Lose the connection: requests under way arrive late or never, answers never."""
        self.up = False
        calls, self.calls = self.calls, []
        for call in calls:
            call.answered = True
            if not call.executed and self.sim.random.random() < 0.5:
                call.executed = True  # as far as the schedule is concerned: it never arrives
            self.node.post(call.failed)


class SimNode:
    """A process: the core, its store (which survives crashes) and its connections."""

    def __init__(self, sim: Simulator, node_id: str) -> None:
        self.sim, self.node_id = sim, node_id
        self.store = MemoryStore(sim.snapshots, history=sim.history)
        self.lost_disk = False  # and its published mark may still say otherwise
        self.life = 0
        self.alive = False
        self.paused_until = 0.0
        self.core: Node | None = None
        self.tokens: dict[int, Callable[[object], None]] = {}
        self.inbox: deque[tuple[int, ev.Event]] = deque()
        self.wakes_at: float | None = None
        self.store_busy_until = 0.0

    @property
    def instance(self) -> str:
        return f"{self.node_id}i{self.life}"

    def start(self, recover: str) -> None:
        self.life += 1
        self.alive = True
        self.tokens = {}
        self.network = Network(self.sim, self)
        settings = NodeSettings(
            self.node_id,
            f"addr-{self.node_id}",
            self.instance,
            recover,
            SESSION_TIMEOUT_S,
            self.sim.retain,
            self.sim.log_bytes_max,
        )
        me = Member(self.node_id, self.instance, settings.address, recover)
        self.core = Node(settings, self.store, self.store.position())
        self.session = MemorySession(
            self.sim.ensemble,
            me,
            self.post,
            self.sim.clock,
            self.network.carry,
            self.network.deliver,
            lambda: self.sim.random.random() >= self.sim.lag,
        )
        self.executor = Executor(
            log=self.session,
            election=self.session,
            peers=self,
            store=self.store_work,
            reply=self.reply,
            note=lambda effect: self.sim.trace(f"{self.node_id} -- {effect.text}"),
            stop=self.stop_effect,
        )
        self.sim.trace(f"{self.node_id} starts ({recover})", self.store.position())
        life = self.life
        self.sim.later(self.sim.delay(), lambda: self.connect(life))
        self.tick(life)

    def connect(self, life: int) -> None:
        if self.alive and life == self.life and not self.network.up:
            self.network.up = True
            self.session.connect()

    def crash(self) -> None:
        """kill -9: memory and connections are gone; the store and, for a while, the session remain."""
        self.sim.trace(f"{self.node_id} crashes")
        self.alive = False
        self.network.break_off()
        tokens, self.tokens = self.tokens, {}
        for answer in tokens.values():
            answer(None)
        session_id = self.session.session_id
        self.sim.later(SESSION_TIMEOUT_S, lambda: self.sim.ensemble.end_session(session_id))

    def lose_disk(self) -> None:
        """The store is gone for good."""
        self.sim.trace(f"{self.node_id} loses its disk")
        self.store = MemoryStore(self.sim.snapshots, history=self.sim.history)
        self.lost_disk = True

    @property
    def holds(self) -> int:
        """The index up to which this node's disk holds everything, whatever happens; -1 if nothing."""
        position = self.store.durable.position
        return min((gap.first - 1 for gap in position.gaps), default=position.applied_index)

    def disconnect(self, *, expire: bool) -> None:
        self.sim.trace(f"{self.node_id} loses its connection{' and session' if expire else ''}")
        self.network.break_off()
        self.post(ev.SessionSuspended())
        if expire:
            self.sim.ensemble.end_session(self.session.session_id)
        life = self.life
        self.sim.later(self.sim.random.uniform(0.01, 1.0), lambda: self.connect(life))

    def tick(self, life: int) -> None:
        if self.alive and life == self.life:
            self.post(ev.Tick())
            self.sim.later(TICK_S, lambda: self.tick(life))

    def post(self, event: ev.Event) -> None:
        self.inbox.append((self.life, event))
        self.sim.at(self.sim.now, self.pump)

    def pump(self) -> None:
        """Take what has come in, in order; a process that is stopped does so once it goes on."""
        if self.paused_until > self.sim.now:
            self.sim.at(self.paused_until, self.pump)
            return
        while self.inbox:
            life, event = self.inbox.popleft()
            if self.alive and life == self.life and self.core is not None:
                self.step(self.core, self.gathered(life, event))
                self.wake(self.core)

    def gathered(self, life: int, first: ev.Event) -> ev.Event:
        """The requests that have come together, or only the first of them, as the threads of a node have it."""
        if not isinstance(first, ev.WriteSubmitted | ev.ReadSubmitted) or self.sim.random.random() < 0.3:
            return first
        requests = [first]
        while self.inbox and self.inbox[0][0] == life:
            event = self.inbox[0][1]
            if not isinstance(event, ev.WriteSubmitted | ev.ReadSubmitted):
                break
            requests.append(event)
            self.inbox.popleft()
        if len(requests) == 1:
            return first
        self.sim.faults["gathered"] += 1
        return ev.Gathered(tuple(requests))

    def wake(self, core: Node) -> None:
        """See to it that the node is woken when it wants to be: once for each time that it names."""
        wake_at, life = core.wake_at, self.life
        if wake_at is None or wake_at == self.wakes_at:
            return
        self.wakes_at = wake_at

        def woken() -> None:
            if self.alive and life == self.life and core.wake_at == wake_at:
                self.sim.faults["woken"] += 1
                self.post(ev.Woken())

        self.sim.at(max(self.sim.now, wake_at), woken)

    def step(self, core: Node, event: ev.Event) -> None:
        if not isinstance(event, ev.Tick):
            self.sim.trace(f"{self.node_id} <-", event)
        if isinstance(event, ev.Applied) and not event.position.gaps and event.position.applied_index >= 0:
            self.sim.positions.append((self.node_id, event.position))
        for effect in core.step(event, self.sim.now, round(self.sim.now * 1000)):
            if not isinstance(effect, do.Note):
                self.sim.trace(f"{self.node_id} ->", effect)
            self.executor.execute(effect)
        if isinstance(event, ev.MarkPublished) and self.holds >= self.sim.ensemble.first_index - 1:
            self.lost_disk = False

    # --- ports ---

    def store_work(self, effect: StoreWork) -> None:
        """One thread does it all, in order."""
        life = self.life

        def work() -> None:
            if self.alive and life == self.life:
                self.post(carry_out(self.store, effect))

        self.store_busy_until = max(self.store_busy_until, self.sim.now) + self.sim.delay()
        self.sim.at(self.store_busy_until, work)

    def fetch_snapshot(self, effect: do.FetchSnapshot) -> None:
        life, target = self.life, self.sim.by_address(effect.member.address)

        def finish(event: ev.Event) -> None:
            if self.alive and life == self.life:
                self.post(event)

        def arrive() -> None:
            node_id, position = target.node_id, target.store.position()
            if not target.alive or target.instance != effect.member.instance:
                finish(ev.SnapshotFailed(node_id, "nothing listens there"))
            elif position.gaps or position.applied_index < effect.min_index:
                finish(ev.SnapshotFailed(node_id, "it does not reach that far", position.applied_index))
            elif self.sim.random.random() < self.sim.push_loss:
                finish(ev.SnapshotFailed(node_id, "cut off"))
            else:
                self.sim.faults["snapshot"] += 1
                source = f"snapshot-{len(self.sim.snapshots)}"
                self.sim.snapshots[source] = target.store.state
                finish(ev.SnapshotProgress(1, 2))
                took = self.sim.random.uniform(0.01, 0.5)
                self.sim.later(took, lambda: finish(ev.SnapshotFetched(source, position)))

        self.sim.later(self.sim.delay(), arrive)

    def stop_effect(self, effect: do.Exit | do.Distrust) -> None:
        self.sim.failures.append(f"{self.node_id} exited: {effect.reason}")
        if isinstance(effect, do.Distrust):
            self.sim.at(self.sim.now, self.crash)
            self.sim.at(self.sim.now, self.lose_disk)  # it is put aside

    def reply(self, effect: do.Reply) -> None:
        answer = self.tokens.pop(effect.token, None)
        if answer is not None:
            answer(effect.answer)

    def request(self, make: Callable[[int], ev.Event], answer: Callable[[object], None]) -> None:
        token = self.sim.next_token()
        self.tokens[token] = answer
        self.post(make(token))

    def push(self, effect: do.Push) -> None:
        life, target = self.life, self.sim.by_address(effect.member.address)
        done = False

        def finish(answer: object) -> None:
            nonlocal done
            if not done and self.alive and life == self.life:
                done = True
                node_id = effect.member.node_id
                ok = isinstance(answer, PushAnswer)
                event = ev.PushAnswered(node_id, answer) if ok else ev.PushFailed(node_id)
                self.sim.later(self.sim.delay(), lambda: self.post(event) if life == self.life else None)

        def arrive() -> None:
            if target.alive:
                target.request(lambda token: ev.PushArrived(token, effect.body), finish)
            else:
                finish(None)

        if self.sim.random.random() >= self.sim.push_loss:
            self.sim.later(self.sim.delay(), arrive)
        if self.sim.random.random() < self.sim.push_loss:  # once more, much later
            self.sim.later(self.sim.random.uniform(0, 2), arrive)
        self.sim.later(1.5, lambda: finish(None))

    def probe(self, effect: do.Probe) -> None:
        life = self.life

        def look() -> None:
            target = self.sim.by_address(effect.address)
            if not target.alive:
                found = ev.Probed(effect.address, Reach.REFUSED, "")
            elif target.paused_until > self.sim.now:
                found = ev.Probed(effect.address, Reach.UNKNOWN, "")
            else:
                found = ev.Probed(effect.address, Reach.ANSWERS, target.instance)
            if self.alive and life == self.life:
                self.post(found)

        self.sim.later(self.sim.delay(), look)


@dataclass
class Simulator:
    """See the module's docstring."""

    seed: int
    size: int = 3
    random: random.Random = field(init=False)
    clock: ManualClock = field(default_factory=ManualClock)
    ensemble: MemoryEnsemble = field(default_factory=lambda: MemoryEnsemble(Identity("memory", 1, WINDOW)))
    snapshots: dict[str, MemoryState] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    positions: list[tuple[str, Position]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    traced: list[tuple[float, str, object]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    push_loss: float = 0.2
    lag: float = 0.3

    def __post_init__(self) -> None:
        entry.SEGMENT_ENTRIES = SEGMENT_ENTRIES
        retention.MARK_S = MARK_S
        agreement.CHECKPOINT_ENTRIES = CHECKPOINT_ENTRIES
        self.random = random.Random(self.seed)
        self.retain = self.random.choice([0, 5, 20, 60, 10_000])
        self.log_bytes_max = self.random.choice([60_000, 120_000, 1 << 28, 1 << 28])
        self.history = self.random.choice([0, 10, 40, 100_000])
        self.acknowledged = 0  # the highest revision that a client has been told of
        self.renewals: list[tuple[int, float]] = []  # leases, and when keep-alives were sent that were confirmed
        self.strangers = self.random.random() < 0.3  # whether somebody else writes into the log
        self.trimmed = 0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = 0
        self.tokens = 0
        self.nodes = {f"n{number}": SimNode(self, f"n{number}") for number in range(1, self.size + 1)}

    # --- time ---

    @property
    def now(self) -> float:
        return self.clock.now

    def at(self, time: float, action: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.heap, (time, self.order, action))

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def delay(self) -> float:
        """Mostly a millisecond or so, now and then a hundred."""
        return self.random.uniform(0.0002, 0.003) if self.random.random() < 0.97 else self.random.uniform(0, 0.15)

    def run_until(self, time: float, condition: Callable[[], bool] | None = None) -> bool:
        while self.heap and self.heap[0][0] <= time:
            self.clock.now, _, action = heapq.heappop(self.heap)
            action()
            if self.ensemble.first_index > self.trimmed:
                self.check_trim()
            if condition is not None and condition():
                return True
        self.clock.now = max(self.now, time)
        return condition is not None and condition()

    def trace(self, text: str, about: object = None) -> None:
        self.traced.append((self.now, text, about))

    @property
    def lines(self) -> list[str]:
        """The trace, as people read it; put into words only when somebody does."""
        return [
            f"{now:9.4f} {text}{'' if about is None else f' {describe(about)}'}"
            for now, text, about in self.traced
        ]

    def next_token(self) -> int:
        self.tokens += 1
        return self.tokens

    def by_address(self, address: str) -> SimNode:
        return self.nodes[address.removeprefix("addr-")]

    # --- clients ---

    def write_to(self, node: str) -> Write:
        key = f"key{self.random.randrange(6)}"
        number = len(self.writes)
        request_id = f"w{number}" if self.random.random() < 0.7 else ""
        write = Write(number, key, self.now + WRITE_TIMEOUT_S, self.now, node, request_id)
        self.writes.append(write)
        self.submit(write)
        return write

    def burst(self) -> None:
        """Some clients ask the same node at the same time."""
        node = self.random.choice(sorted(self.nodes))
        for _ in range(self.random.choice(BURSTS)):
            self.ask(node)

    def ask(self, node: str) -> None:
        """Anything that clients do."""
        kind = self.random.choice(["write", "write", "command", "command", "read"])
        if kind == "read":
            self.read(self.nodes[node])
        elif kind == "write":
            self.write_to(node)
        else:
            number = len(self.writes)
            write = Write(number, "", self.now + WRITE_TIMEOUT_S, self.now, node, f"w{number}")
            write.other = self.command(write.value)
            self.writes.append(write)
            self.submit(write)

    def command(self, value: str) -> Command:
        """A transaction, or something about leases, as some node's store suggests it."""
        store = self.nodes[self.random.choice(sorted(self.nodes))].store
        keys = self.random.sample([f"key{number}" for number in range(6)], 3)
        leases = [lease_number(key) for key in store.state.records if key.startswith(LEASES)] or [5]
        lease = self.random.choice(leases)
        records = [store.get(key) for key in keys]
        compare = Compare(keys[0], Target.REVISION, Relation.EQUAL, records[0].revision if records[0] else 0)
        ttl_ms = self.random.choice([300, 1_000, 5_000])
        return self.random.choice(
            [
                Txn((SetKey(keys[0], value.encode()),), (compare,)),
                Txn((SetKey(keys[0], value.encode()), DeleteKey(keys[1])), (compare,), (DeleteKey(keys[2]),)),
                Txn((DeleteKey(keys[0]),)),
                Txn((SetKey(keys[0], b"once"),), (Unchanged("key", store.position().revision),)),
                Txn(tuple(SetKey(key, value.encode(), ttl_ms=ttl_ms) for key in keys)),
                Txn(tuple(SetKey(key, b"\xff" + value.encode(), lease=lease) for key in keys)),
                Grant(ttl_ms),
                KeepAlive(lease),
                KeepAlive(lease),
                Revoke(lease),
            ]
        )

    def read(self, node: SimNode) -> None:
        """A read that has to see all that was acknowledged before it (Q1)."""
        if not node.alive:
            return
        acknowledged, linearizable = self.acknowledged, self.random.random() < 0.7
        deadline = self.now + WRITE_TIMEOUT_S
        life = node.life

        def answered(answer: object) -> None:
            if isinstance(answer, Reached) and node.life == life:
                self.faults["read"] += 1
                position = node.store.position()
                if position.gaps or position.revision < acknowledged:
                    self.failures.append(f"a read at {position} does not see revision {acknowledged}")

        node.request(
            lambda token: ev.ReadSubmitted(
                token, deadline, min_revision=0 if linearizable else acknowledged, linearizable=linearizable
            ),
            answered,
        )

    def settle(self, write: Write) -> None:
        """Nobody knows what became of it: see to it that it is known."""
        node = self.random.choice(sorted(self.nodes))
        settle = Write(len(self.writes), "", self.now + WRITE_TIMEOUT_S, self.now, node, write.request_id, write)
        self.writes.append(settle)
        self.submit(settle)

    def submit(self, write: Write, not_epoch: int = 0) -> None:
        node = self.nodes[write.node]
        if not node.alive:
            self.again(write, Refused("no node there"))
            return
        ack = self.random.choice([Ack.LOG, Ack.REPLICAS])
        self.send(write, node, lambda token: self.submitted(write, token, ack, not_epoch=not_epoch))

    def submitted(
        self, write: Write, token: int, ack: Ack, *, forwarded: bool = False, not_epoch: int = 0
    ) -> ev.WriteSubmitted:
        return ev.WriteSubmitted(
            token,
            write.command,
            ack,
            write.deadline,
            forwarded=forwarded,
            not_epoch=not_epoch,
            request_id=write.request_id,
        )

    def send(self, write: Write, node: SimNode, make: Callable[[int], ev.Event]) -> None:
        """Let the node have it; with an id it may come twice, and an answer may get lost."""
        node.request(make, lambda answer: self.answered(write, answer))
        if write.request_id and self.random.random() < 0.05:
            write.unsure = True  # a refusal of the one says nothing about the other
            node.request(make, lambda answer: self.answered(write, answer))

    def answered(self, write: Write, answer: object) -> None:
        if isinstance(answer, Redirect):
            self.later(self.delay(), lambda: self.forward(write, answer))
        elif isinstance(answer, Refused) and answer.retry and self.now < write.deadline:
            self.later(0.05, lambda: self.submit(write))
        elif answer is None or (write.request_id and self.random.random() < 0.02):
            write.unsure = True
            self.again(write, Unknown("no answer"))
        else:
            self.finish(write, answer)

    def again(self, write: Write, outcome: object) -> None:
        """With an id it is safe to try again, at another node."""
        if write.request_id and self.now < write.deadline:
            write.node = self.random.choice(sorted(self.nodes))
            self.later(0.05, lambda: self.submit(write) if write.outcome is None else None)
        else:
            self.finish(write, outcome)

    def forward(self, write: Write, to: Redirect) -> None:
        target = self.by_address(to.leader.address)
        if not target.alive:
            self.submit(write, not_epoch=to.epoch)
            return
        self.send(write, target, lambda token: self.submitted(write, token, Ack.REPLICAS, forwarded=True))

    def finish(self, write: Write, outcome: object) -> None:
        if write.outcome is not None:
            return
        if isinstance(outcome, Refused) and write.unsure:
            outcome = Unknown("an earlier try got no answer")
        write.outcome, write.answered_at = outcome, self.now
        if isinstance(outcome, Committed):
            self.acknowledged = max(self.acknowledged, outcome.revision)
            if isinstance(write.other, KeepAlive) and not outcome.failed:
                self.renewals.append((write.other.lease, write.invoked_at))
        self.trace(f"client: write {write.number}", outcome)
        if isinstance(outcome, Unknown) and write.request_id:
            self.settle(write.settles or write)

    # --- faults ---

    def fault(self) -> None:
        kinds = ["crash", "power", "disk", "disconnect", "expire", "pause", "heal", "transfer"]
        kind = self.random.choice([*kinds, "stranger"] if self.strangers else kinds)
        node = self.nodes[self.random.choice(sorted(self.nodes))]
        if kind in ("crash", "power", "disk") and node.alive:
            if kind == "disk" and not self.may_lose_disk(node):
                return
            node.crash()
            if kind == "power":
                node.store.lose_power()
            elif kind == "disk":
                node.lose_disk()
            recover = self.random.choice(["catchup", "catchup", "catchup", "stale"])
            self.later(self.random.uniform(0.01, 3), lambda: None if node.alive else node.start(recover))
        elif kind in ("disconnect", "expire") and node.alive and node.network.up:
            node.disconnect(expire=kind == "expire")
        elif kind == "pause" and node.alive:
            self.trace(f"{node.node_id} stops for a while")
            node.paused_until = self.now + self.random.uniform(0.1, 4)
            if node.paused_until - self.now > SESSION_TIMEOUT_S:
                session_id = node.session.session_id
                self.later(SESSION_TIMEOUT_S, lambda: self.lose_paused(node, session_id))
        elif kind in OPERATORS and node.alive:
            node.request(OPERATORS[kind], lambda _: None)
        elif kind == "stranger":
            self.ensemble.append_stranger(self.random.choice([b"garbage", b"", b"{}\n" + b"0" * 32]))
            self.later(self.random.uniform(0.5, 2), self.skip)
        else:
            return
        self.faults[kind] += 1

    def may_lose_disk(self, node: SimNode) -> bool:
        """One at a time: what is trimmed is on a majority, so another one has it."""
        others = [other for other in self.nodes.values() if other is not node]
        mark = self.ensemble.replicas.get(node.node_id)
        least = max(self.ensemble.first_index - 1, mark.durable_index if mark else -1)
        return (
            not node.lost_disk
            and not any(other.lost_disk for other in others)
            and any(other.holds >= least for other in others)
        )

    def skip(self) -> None:
        """An operator looks for nodes that have halted, and has the entry skipped if nobody has applied it."""
        for node in self.nodes.values():
            core = node.core
            if not node.alive or core is None or core.halted is None:
                continue
            index = core.halted.index
            if any(_has_applied(other.store.position(), index) for other in self.nodes.values()):
                continue
            self.faults["skip"] += 1
            node.request(lambda token, index=index: ev.SkipRequested(token, index, "garbage"), lambda _: None)

    def lose_paused(self, node: SimNode, session_id: int) -> None:
        self.ensemble.end_session(session_id)

        def notice() -> None:
            if node.alive and node.session.session_id == session_id:
                node.disconnect(expire=True)

        # It notices only once it goes on, and behind what has come in for it meanwhile.
        self.at(max(self.now, node.paused_until) + self.delay(), notice)

    # --- a run ---

    def run(
        self, seconds: float, *, writes_per_s: float = 20, faults_per_s: float = 0.7, rest_s: float = 4
    ) -> None:
        """Writes and faults for so long, ``rest_s`` without either, then heal."""
        for name in sorted(self.nodes):
            self.nodes[name].start("catchup")
        end = self.now + seconds
        time = self.now
        bursts_per_s = writes_per_s * len(BURSTS) / sum(BURSTS)
        while (time := time + self.random.expovariate(bursts_per_s)) < end:
            self.at(time, self.burst)
        time = self.now
        while (time := time + self.random.expovariate(faults_per_s)) < end:
            self.at(time, self.fault)
        self.run_until(end + rest_s)
        self.heal()

    def heal(self) -> None:
        """No more faults: everybody up, nothing lost; then wait until all agree."""
        self.push_loss = self.lag = 0
        for name in sorted(self.nodes):
            node = self.nodes[name]
            node.paused_until = self.now
            node.pump()
            if not node.alive:
                node.start("catchup")
            life = node.life
            node.connect(life)
            node.request(ev.CatchupRequested, lambda _: None)
        self.skip_until_quiet()
        if not self.run_until(self.now + 40, self.quiet):
            states = [f"{n.node_id} {n.core.role if n.core else '-'}" for n in self.nodes.values()]
            self.failures.append(f"no agreement within 40 s after the last fault: {states}")
            return
        for name in sorted(self.nodes):
            self.last_write(name)

    def last_write(self, name: str) -> None:
        """A write through this node gets through, at once or, where the log is full, once it has been trimmed."""
        for _ in range(10):
            write = self.write_to(name)
            if not self.run_until(self.now + 5, self.quiet):
                self.failures.append("no agreement after a last write")
            if isinstance(write.outcome, Committed):
                return
            full = isinstance(write.outcome, Refused) and "takes" in write.outcome.reason
            if not full:
                break
            self.run_until(self.now + 1)
        self.failures.append(f"a last write ended as {write.outcome}")

    def skip_until_quiet(self) -> None:
        """The operator stays at it."""
        if not self.quiet():
            self.skip()
            for node in self.nodes.values():
                node.request(ev.CatchupRequested, lambda _: None)
            self.later(0.5, self.skip_until_quiet)

    def quiet(self) -> bool:
        cores = [node.core for node in self.nodes.values() if node.core is not None]
        positions = [node.store.position() for node in self.nodes.values()]
        return (
            all(write.outcome is not None for write in self.writes)
            and sum(core.role is Role.LEADER for core in cores) == 1
            and all(p.applied_index == self.ensemble.tail_index and not p.gaps for p in positions)
        )

    # --- checks ---

    def check_trim(self) -> None:
        """R1 to R4: whenever the log begins later, a majority of the registered replicas really holds the rest."""
        first, self.trimmed = self.ensemble.first_index, self.ensemble.first_index
        self.faults["trim"] += 1
        registered = [self.nodes[node_id] for node_id in self.ensemble.replicas]
        holders = [node.node_id for node in registered if node.holds >= first - 1 or node.lost_disk]
        if len(holders) <= len(registered) // 2:
            self.failures.append(f"trimmed up to {first}, but only {holders} hold that")

    def check(self) -> None:
        """Raise AssertionError unless every promise held."""
        assert not self.failures, self.failures
        log = self.replayed()
        self.check_log(log)
        self.check_outcomes(log)
        self.check_replicas(log)
        self.check_marks()

    def replayed(self) -> list[LogEntry]:
        """All entries there ever were, skips in the place of what was skipped."""
        skips = self.ensemble.skips
        return [decode_entry(index, skips.get(index, data)) for index, data in enumerate(self.ensemble.entries)]

    def check_log(self, log: list[LogEntry]) -> None:
        """C2, N2, W5, K1: a whole chain, epochs that never go back, one barrier each, right evaluations."""
        self.check_requests(log)
        for before, item in pairwise(log):
            assert item.entry.prev_hash == before.hash
            assert item.entry.epoch >= before.entry.epoch
            assert (item.entry.epoch > before.entry.epoch) == (item.entry.leader is not None)
            assert item.entry.first_revision == before.entry.last_revision + 1
        for index in self.ensemble.skips:
            try:
                good = decode_entry(index, self.ensemble.entries[index])
            except BadEntry:
                continue
            raise AssertionError(f"{good} was skipped")

    def check_requests(self, log: list[LogEntry]) -> None:
        """W5, E1, E2: every request does what its command does to the state before it; no lease ends too soon."""
        asked = {write.mark: write.command for write in self.writes if write.settles is None}
        state = State()
        granted_ms: dict[int, int] = {}
        for item in log:
            for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
                if request.cancels:
                    continue
                lease = 0 if request.id else ended_lease(request)
                if lease:
                    command: Command = Revoke(lease)
                    self.check_end(lease, state, granted_ms[lease], item.entry.time_ms)
                else:
                    command = asked[request.id or effect_value(request.effects[0])]
                expected = evaluate(state, command, revision, request_id=request.id, check=request.fingerprint)
                too_old = request.failed and isinstance(command, Txn) and has_unchanged(command)
                assert too_old or same_request(request, expected), f"{request} at {revision}, {expected} expected"
                for effect in request.effects:
                    granted_ms.setdefault(lease_number(effect.key), item.entry.time_ms)
                state.apply(request, revision)

    def check_end(self, lease: int, state: State, granted_ms: int, ended_ms: int) -> None:
        """E1, E2: its whole time has passed since it was granted, and since each confirmed keep-alive was sent."""
        record = state.get(lease_key(lease))
        assert record is not None, f"lease {lease} ended twice"
        renewed = max((at for renewed, at in self.renewals if renewed == lease), default=0.0)
        lived_ms = ended_ms - max(granted_ms, round(renewed * 1000))
        assert lived_ms >= lease_in(record.value).ttl_ms - 1, f"lease {lease} lived {lived_ms} ms only"
        self.faults["lease ended"] += 1

    def check_outcomes(self, log: list[LogEntry]) -> None:
        """W1 to W3, W6, and the order of what did not overlap."""
        found: dict[str, list[int]] = {}
        cancelled: dict[str, int] = {}
        for item in log:
            for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
                if request.cancels:
                    cancelled[request.id] = revision
                else:
                    mark = request.id or effect_value(request.effects[0])
                    found.setdefault(mark, []).append(revision)
        for write in self.writes:
            if not isinstance(write.other, KeepAlive):
                self.check_outcome(write, found.get((write.settles or write).mark, []), cancelled)
        done = [
            write
            for write in self.writes
            if isinstance(write.outcome, Committed) and not isinstance(write.other, KeepAlive)
        ]
        highest = 0
        ends = sorted(done, key=lambda write: write.answered_at or 0)
        position = 0
        for later in sorted(done, key=lambda write: write.invoked_at):
            while position < len(ends) and (ends[position].answered_at or 0) < later.invoked_at:
                highest = max(highest, ends[position].outcome.revision)
                position += 1
            assert later.outcome.revision > highest, f"write {later.number} came after revision {highest}"

    @staticmethod
    def check_outcome(write: Write, revisions: list[int], cancelled: dict[str, int]) -> None:
        """``revisions``: where the write is in the log; ``cancelled``: what is cancelled there, and where."""
        of = write.settles or write
        said = f"write {write.number}: {write.outcome}, found {revisions}, cancelled {cancelled}"
        assert len(revisions) <= 1, said
        match write.outcome:
            case Committed(revision=revision) | Settled(cancelled=False, revision=revision):
                assert revisions == [revision], said
            case Settled(revision=revision):
                assert (revisions, cancelled[of.request_id]) == ([], revision), said
            case Rejected():
                assert (revisions, of.request_id in cancelled) == ([], True), said
            case Refused():
                assert revisions == [] or write.settles, said
            case Unknown():
                pass
            case other:
                raise AssertionError(f"write {write.number} ended as {other}")

    def check_replicas(self, log: list[LogEntry]) -> None:
        """M1, M4, M7 to M10: every position that a whole store was ever at is that of the replay up to there."""
        transaction = MemoryTransaction({}, {}, {})
        reference = Position(identity=self.ensemble.identity)
        at: dict[int, Position] = {}
        for item in log:
            reference = apply_entry(transaction, reference, item)
            at[item.index] = reference
        for node_id, position in self.positions:
            assert forever(position) == at[position.applied_index], f"{node_id} diverged: {position}"
        for node in self.nodes.values():
            position, state = node.store.position(), node.store.state
            assert forever(position) == reference, node.node_id
            assert node.store.items() == sorted(transaction.records.items()), node.node_id
            assert dict(node.store.requests()) == transaction.requests, node.node_id
            assert state.attached == transaction.attached_keys, node.node_id
            kept = {
                revision: changes
                for revision, changes in transaction.changes.items()
                if revision > position.history
            }
            assert since(state.kept, position.history) == since(kept, position.history), node.node_id

    def check_marks(self) -> None:
        """R1, R2: what is published at the end is so, unless the disk is lost and the next mark is on its way."""
        for mark in self.ensemble.replicas.values():
            node = self.nodes[mark.node_id]
            if mark.holding is Holding.WHOLE and not node.lost_disk:
                assert node.holds >= mark.durable_index, mark


def _has_applied(position: Position, index: int) -> bool:
    return position.applied_index >= index and not any(gap.first <= index <= gap.last for gap in position.gaps)


def forever(position: Position) -> Position:
    """A position as it would be if everything that ever happened was kept."""
    return msgspec.structs.replace(position, history=0)


def since(kept: dict[int, Changes], history: int) -> dict[int, list[Change]]:
    """Changes by revision, without what leads to those that are not kept any more."""
    replace = msgspec.structs.replace
    return {
        revision: [
            replace(each, deleted=each.deleted if each.deleted > history else 0) for each in changes.changes
        ]
        for revision, changes in kept.items()
    }


def has_unchanged(command: Txn) -> bool:
    """Whether it has a condition that a node may take to be broken because it has forgotten too much."""
    return any(isinstance(condition, Unchanged) for condition in command.conditions)


def ended_lease(request: entry.Request) -> int:
    """The lease that the leader has ended with a request, 0 if it is a client's."""
    if any(isinstance(effect, entry.Put) and not lease_number(effect.key) for effect in request.effects):
        return 0
    return lease_number(request.effects[-1].key)


def effect_value(effect: entry.Effect) -> str:
    """The value by which a write without an id is known."""
    return effect.value if isinstance(effect, entry.Put) else ""


def same_request(request: entry.Request, other: entry.Request) -> bool:
    """Whether both are the same, but for the order of the effects."""
    effects = (sorted(map(msgspec.json.encode, each.effects)) for each in (request, other))
    return next(effects) == next(effects) and request.failed == other.failed
