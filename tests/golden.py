"""Golden scripts: what a node decides, event by event, in files that people can read.

A script is a list of blocks, each with a blank line behind it:

    # What the block shows, in words.
    command argument option=value
    (command)                        the same, but its output is not shown
    ---
    command argument option=value
      Effect field=value ...

Above ``---`` are the commands, most of them one event for the node; below it is the output: each event's command,
and what ``describe`` says of each effect that followed. The blocks of a file share one node, log and clock.
``UPDATE_GOLDEN=1 pytest tests/core/test_scripts.py`` writes the output anew: read the difference before you
keep it.

Names are short: node ``n1`` is instance ``i1`` at ``n1:80``; ``n1~0`` is an earlier process of it, instance
``i0``. ``n1@5`` is its candidate znode with sequence number 5, and epoch 105.
"""

from __future__ import annotations

import difflib
import os
import shlex
from pathlib import Path

import msgspec

from kvlog.core import effects as do
from kvlog.core import entry
from kvlog.core import events as ev
from kvlog.core.commands import KeepAlive, Settle, update
from kvlog.core.describe import describe
from kvlog.core.entry import Leader
from kvlog.core.machine import Identity
from kvlog.core.node import Node
from kvlog.core.values import (
    LOG_BYTES_MAX,
    Ack,
    Candidate,
    Holding,
    Member,
    NodeSettings,
    PushAnswer,
    PushBody,
    Reach,
    Replica,
)
from kvlog.memory_store import MemoryState, MemoryStore
from kvlog.runtime import carry_out
from tests.chain import Chain

IDENTITY = Identity("c1", 1)
SESSION_TIMEOUT_S = 10.0
EPOCH_BASE = 100

ROUTINE = (do.Sync, do.PublishMark, do.ListReplicas)
"""Not shown, but in scripts that answer them: the marks have tests of their own (test_retention)."""


def run_script(path: Path) -> None:
    """Run a script and compare; with UPDATE_GOLDEN, write what came out instead."""
    blocks = parse(path.read_text())
    world, expected, actual, segment = World(), "", "", entry.SEGMENT_ENTRIES
    try:
        for comment, commands, output in blocks:
            head = "".join(f"{line}\n" for line in (*comment, *commands, "---"))
            said = "".join(f"{line}\n" for command in commands for line in world.obey(command))
            expected += f"{head}{''.join(f'{line}{chr(10)}' for line in output)}\n"
            actual += f"{head}{said}\n"
    finally:
        entry.SEGMENT_ENTRIES = segment
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(actual.rstrip("\n") + "\n")
        return
    difference = difflib.unified_diff(
        expected.splitlines(), actual.splitlines(), "expected", "actual", lineterm=""
    )
    assert expected == actual, "\n".join((f"{path.name}: the node decides otherwise", *difference))


def parse(text: str) -> list[tuple[list[str], list[str], list[str]]]:
    """The blocks of a script: comment lines, commands, expected output lines."""
    blocks = []
    for part in text.strip("\n").split("\n\n"):
        head, _, tail = f"{part}\n".partition("---\n")
        lines = head.splitlines()
        comment = [line for line in lines if line.startswith("#")]
        blocks.append((comment, [line for line in lines if not line.startswith("#")], tail.splitlines()))
    return blocks


def member(name: str, mode: str = "catchup") -> Member:
    """``n1``, or ``n1~0`` for its earlier process."""
    node_id, _, instance = name.partition("~")
    return Member(node_id, f"i{instance or node_id[1:]}", f"{node_id}:80", mode)


def candidate(text: str) -> Candidate:
    """``n1@5`` or ``n1~0@5``."""
    name, _, number = text.partition("@")
    of = member(name)
    sequence = int(number)
    znode = f"{of.node_id}_{of.instance}_{sequence:010d}"
    return Candidate(znode, sequence, of.node_id, of.instance, of.address, EPOCH_BASE + sequence)


class World:
    """One node, its store, and what it hears of the rest of the world. Commands are the ``do_`` methods."""

    def __init__(self) -> None:
        self.now = 0.0
        self.session = 1
        self.log = Chain()  # what is in ZooKeeper
        self.instead: dict[int, bytes] = {}  # in place of entries: something damaged, or a skip
        self.skips: set[int] = set()
        self.first_index = 0
        self.snapshots: dict[str, MemoryState] = {}
        self.store = MemoryStore(self.snapshots)
        self.routine: tuple[type, ...] = ROUTINE
        self.me = member("n1")
        self.asked: dict[type, do.Effect] = {}  # the last effect of each kind
        self.store_work: list[do.Apply | do.SkipTo | do.Adopt | do.Install] = []
        self.node: Node | None = None

    def obey(self, line: str) -> list[str]:
        """Carry out a command; returns the lines of its output."""
        command = line.removeprefix("(").removesuffix(")") if line.startswith("(") else line
        verb, *words = shlex.split(command)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        arguments = [word for word in words if "=" not in word]
        event = getattr(self, "do_" + verb.replace("-", "_"))(*arguments, **options)
        if event is None:
            return []
        effects = self.step(event)
        shown = (effect for effect in effects if not isinstance(effect, self.routine))
        return [] if line.startswith("(") else [line, *(f"  {describe(effect)}" for effect in shown)]

    def step(self, event: ev.Event) -> list[do.Effect]:
        assert self.node is not None
        effects = self.node.step(event, self.now, round(self.now * 1000))
        for effect in effects:
            self.asked[type(effect)] = effect
            if isinstance(effect, do.Apply | do.SkipTo | do.Adopt | do.Install):
                self.store_work.append(effect)
        return effects

    # --- the world ---

    def do_log(self, kind: str, *words: str) -> None:
        """Somebody appends.

        ``log barrier n2@5``, ``log put KEY VALUE``, ``log put KEY VALUE COUNT``, or ``log write KEY VALUE KEY
        VALUE`` for two requests in one entry.
        """
        if kind == "barrier":
            of = candidate(words[0])
            self.log.barrier(of.node_id, of.epoch)
        elif kind == "write":
            self.log.write(*zip(words[::2], words[1::2], strict=True))
        else:
            for _ in range(int(words[2]) if len(words) == 3 else 1):
                self.log.put(words[0], words[1])

    def do_segments(self, entries: str) -> None:
        """A segment has so many entries, in this script."""
        entry.SEGMENT_ENTRIES = int(entries)

    def do_damage(self, index: str, data: str = "?") -> None:
        """Something has happened to an entry in ZooKeeper."""
        self.instead[int(index)] = data.encode()

    def do_marks(self) -> None:
        """From now on, what concerns marks is shown."""
        self.routine = ()

    def do_start(
        self,
        recover: str = "catchup",
        *,
        applied: str = "-1",
        foreign: str = "",
        retain: str = "0",
        limit: str = str(LOG_BYTES_MAX),
    ) -> None:
        """The node starts; its store has applied the log up to ``applied``, or is of another cluster."""
        entries = tuple(self.log.entries[: int(applied) + 1])
        if entries or foreign:
            self.store.adopt(Identity("other", 1) if foreign else IDENTITY)
            self.store.apply(entries, fill=False)
        settings = NodeSettings(
            node_id=self.me.node_id,
            address=self.me.address,
            instance=self.me.instance,
            recover=recover,
            session_timeout_s=SESSION_TIMEOUT_S,
            retain_entries=int(retain),
            log_bytes_max=int(limit),
        )
        self.node = Node(settings, self.store, self.store.position())

    def do_at(self, seconds: str) -> None:
        """It is so late now."""
        self.now = float(seconds)

    def do_given(self, role: str, own: str = "n1@5", *others: str) -> None:
        """The node starts, catches up with the log and is ``follower`` or ``leader`` with this znode."""
        if self.node is None:
            self.do_start(applied=str(len(self.log.entries) - 1))
        for line in ("connected", "applied", f"members n1 {' '.join(other.split('@')[0] for other in others)}"):
            self.obey(f"({line})")
        for line in ("joined", f"members n1 {' '.join(other.split('@')[0] for other in others)}"):
            self.obey(f"({line})")
        for line in ("probed n1 answers", "tail", "entries", "applied", f"enrolled {own}"):
            self.obey(f"({line})")
        listed = sorted((own, *others), key=lambda name: int(name.split("@")[1]))
        self.obey(f"(candidates {' '.join(listed)})")
        if role == "leader":
            for line in ("tail", "appended", "applied"):
                self.obey(f"({line})")
        assert self.node is not None
        assert self.node.role == role, f"the node is {self.node.role}"

    # --- events: the session and the others ---

    def do_tick(self) -> ev.Event:
        return ev.Tick()

    def do_woken(self) -> ev.Event:
        return ev.Woken()

    def do_connected(self, session: str = "", *, log: str = "1") -> ev.Event:
        self.session = int(session or self.session)
        return ev.SessionConnected(self.session, Identity(IDENTITY.cluster_id, int(log)))

    def do_suspended(self) -> ev.Event:
        return ev.SessionSuspended()

    def do_lost(self) -> ev.Event:
        return ev.SessionLost()

    def do_joined(self) -> ev.Event:
        return ev.Joined(self.session)

    def do_join_blocked(self, holder: str, address: str = "") -> ev.Event:
        held = member(holder)
        return ev.JoinBlocked(Member(held.node_id, held.instance, address or held.address, held.mode))

    def do_members(self, *names: str) -> ev.Event:
        return ev.MembersListed(tuple(member(name) for name in names))

    def do_enrolled(self, name: str) -> ev.Event:
        found = candidate(name)
        return ev.Enrolled(found.name, found.epoch, self.session)

    def do_candidates(self, *names: str) -> ev.Event:
        return ev.CandidatesListed(tuple(candidate(name) for name in names))

    def do_gone(self, name: str) -> ev.Event:
        return ev.CandidatesChanged(candidate(name).name)

    def do_probed(self, name: str, reach: str, address: str = "") -> ev.Event:
        found = member(name)
        return ev.Probed(address or found.address, Reach(reach), found.instance if reach == "answers" else "")

    def do_failed(self, kind: str) -> ev.Event:
        return ev.Failed(self.asked[getattr(do, kind)])

    # --- events: the log ---

    def do_tail(self, index: str = "", *, asked: str = "", first: str = "") -> ev.Event:
        """The answer to the last ReadTail; by default the log's tail, asked for just now.

        ``first``: the log has been trimmed, and begins there.
        """
        self.first_index = int(first or self.first_index)
        effect = self.asked[do.ReadTail]
        assert isinstance(effect, do.ReadTail)
        tail = int(index) if index else len(self.log.entries) - 1
        asked_at = float(asked) if asked else self.now
        before = sum(len(data) for data in self.log.data(0, self.first_index - 1))
        skips = tuple(sorted(self.skips))
        return ev.TailRead(tail, asked_at, effect.confirm, self.first_index, before, skips)

    def do_confirmed(self, index: str = "", *, asked: str = "") -> ev.Event:
        """The answer to the last ConfirmTail; by default the log's tail, asked for just now."""
        assert do.ConfirmTail in self.asked
        tail = int(index) if index else len(self.log.entries) - 1
        return ev.TailConfirmed(tail, float(asked) if asked else self.now)

    def held(self, first: int, last: int) -> list[bytes]:
        """What ZooKeeper holds in the place of these entries, up to the first one that is not there."""
        if first < self.first_index:
            return []
        found = dict(enumerate(self.log.data(first, last), start=first))
        return [self.instead.get(index, data) for index, data in found.items()]

    def do_seen(self, *ended: str) -> ev.Event:
        """The watch tells of the log's last entry; ``ended``: and of no other."""
        return ev.SegmentChanged(len(self.log.entries) - 1, watching=not ended)

    def do_entries(self, *damage: str) -> ev.Event | None:
        """The answer to the last ReadEntries; ``damaged`` flips a bit in the last one."""
        effect = self.asked.pop(do.ReadEntries, None)
        if not isinstance(effect, do.ReadEntries):
            return None
        found = self.held(effect.first_index, effect.first_index + effect.count - 1)
        if damage:
            found[-1] = found[-1][:-1] + b"?"
        return ev.EntriesRead(effect.first_index, tuple(found))

    def do_entries_at(self, first: str, last: str) -> ev.Event:
        """The answer to a ReadEntries before the last one."""
        return ev.EntriesRead(int(first), tuple(self.held(int(first), int(last))))

    def do_applied(self) -> ev.Event | None:
        """The store does what it was asked to."""
        return carry_out(self.store, self.store_work.pop(0)) if self.store_work else None

    def append(self) -> do.Append:
        effect = self.asked[do.Append]
        assert isinstance(effect, do.Append)
        return effect

    def do_lands(self) -> None:
        """The last append is in the log, but no answer comes."""
        self.log.add(self.append().data)

    def do_appended(self, index: str = "") -> ev.Event:
        """The last append is in the log, and ZooKeeper says so."""
        append = self.append()
        self.log.add(append.data)
        return ev.Appended(append.batch_id, int(index) if index else append.index)

    def do_fenced(self) -> ev.Event:
        return ev.AppendFenced(self.append().batch_id)

    def do_unknown(self) -> ev.Event:
        return ev.AppendUnknown(self.append().batch_id)

    # --- events: snapshots, marks, skips ---

    def do_fetched(self, applied: str) -> ev.Event:
        """The copy that was asked for is here: of a store that has applied the log up to ``applied``."""
        fetch = self.asked[do.FetchSnapshot]
        assert isinstance(fetch, do.FetchSnapshot)
        store = MemoryStore()
        store.adopt(IDENTITY)
        store.apply(tuple(self.log.entries[: int(applied) + 1]), fill=False)
        self.snapshots[fetch.member.node_id] = store.state
        return ev.SnapshotFetched(fetch.member.node_id, store.position())

    def do_not_fetched(self, reason: str, *, applied: str = "") -> ev.Event:
        """Whoever was asked for a copy has none to give; ``applied``: its store ends there."""
        fetch = self.asked[do.FetchSnapshot]
        assert isinstance(fetch, do.FetchSnapshot)
        return ev.SnapshotFailed(fetch.member.node_id, reason, int(applied) if applied else None)

    def do_synced(self) -> ev.Event:
        return ev.Synced(self.store.sync())

    def do_published(self) -> ev.Event:
        """The answer to the last PublishMark."""
        effect = self.asked[do.PublishMark]
        assert isinstance(effect, do.PublishMark)
        return ev.MarkPublished(effect.mark)

    def do_replicas(self, *marks: str) -> ev.Event:
        """The registered replicas: ``n2:50`` holds entry 50, ``n3:20:stale`` misses some behind 20."""
        found = []
        for mark in marks:
            node_id, index, *holding = mark.split(":")
            found.append(Replica(node_id, f"{node_id}:80", int(index), Holding(*holding or ["whole"])))
        return ev.ReplicasListed(tuple(found))

    def do_trimmed(self, *, left: str = "") -> ev.Event:
        """The answer to the last Trim; ``left``: there are more segments to drop."""
        effect = self.asked[do.Trim]
        assert isinstance(effect, do.Trim)
        self.first_index = effect.first_index
        before = sum(len(data) for data in self.log.data(0, self.first_index - 1))
        return ev.Trimmed(self.first_index, before, not left)

    def do_skip(self, token: str, index: str, reason: str = "damaged") -> ev.Event:
        return ev.SkipRequested(int(token), int(index), reason)

    def do_skip_written(self) -> ev.Event:
        """The last WriteSkip is in the log, or another node's was there before; ZooKeeper says so."""
        effect = self.asked[do.WriteSkip]
        assert isinstance(effect, do.WriteSkip)
        if effect.index not in self.skips:
            self.instead[effect.index] = effect.data
        self.skips.add(effect.index)
        return ev.SkipWritten(effect.index)

    def do_skipped(self, index: str) -> None:
        """Another node has written a skip."""
        place = int(index)
        before, after = (self.log.entries[other].entry for other in (place - 1, place + 1))
        skip = entry.Skip("damaged", after.prev_hash)
        header = self.log.entries[place].entry
        changed = msgspec.structs.replace(
            header, requests=(), epoch=before.epoch, first_revision=after.first_revision, skip=skip
        )
        self.instead[place] = entry.encode_entry(changed)
        self.skips.add(place)

    def do_removed(self, node_id: str) -> ev.Event:
        return ev.ReplicaRemoved(node_id)

    def do_remove(self, token: str, node_id: str) -> ev.Event:
        return ev.RemovalRequested(int(token), node_id)

    # --- events: requests ---

    def do_pushed(self, token: str, first: str, last: str, *, by: str, cluster: str = "c1") -> ev.Event:
        """The leader ``by`` pushes the entries ``first`` to ``last``; none if last is before first."""
        of = candidate(by)
        entries = self.log.data(int(first), int(last))
        leader = Leader(of.node_id, of.address)
        return ev.PushArrived(int(token), PushBody(cluster, leader, of.epoch, int(last), int(first), entries))

    def do_pushed_as(self, token: str, first: str, real: str, *, by: str) -> ev.Event:
        """The leader ``by`` pushes entry ``real``, but says that it is ``first``."""
        of = candidate(by)
        leader = Leader(of.node_id, of.address)
        entries = self.log.data(int(real), int(real))
        return ev.PushArrived(int(token), PushBody("c1", leader, of.epoch, int(first), int(first), entries))

    def do_push_answered(self, name: str, applied: str, *, epoch: str = "105") -> ev.Event:
        return ev.PushAnswered(name, PushAnswer(int(applied), int(epoch)))

    def do_push_failed(self, name: str) -> ev.Event:
        return ev.PushFailed(name)

    def do_write(
        self,
        token: str,
        key: str,
        value: str,
        *flags: str,
        ack: str = "log",
        within: str = "5",
        not_epoch: str = "0",
        named: str = "",
    ) -> ev.Event:
        return ev.WriteSubmitted(
            int(token),
            update(key, value),
            Ack(ack),
            self.now + float(within),
            forwarded="forwarded" in flags,
            not_epoch=int(not_epoch),
            request_id=named,
        )

    def do_settle(self, token: str, request_id: str) -> ev.Event:
        return ev.WriteSubmitted(int(token), Settle(), Ack.LOG, self.now + 5, request_id=request_id)

    def do_catchup(self, token: str) -> ev.Event:
        return ev.CatchupRequested(int(token))

    def do_handover(self, token: str) -> ev.Event:
        return ev.HandoverRequested(int(token))

    def do_transfer(self, token: str) -> ev.Event:
        return ev.TransferRequested(int(token))

    def do_read(self, token: str, *, min_revision: str = "0", linearizable: str = "") -> ev.Event:
        return ev.ReadSubmitted(
            int(token), self.now + 5, min_revision=int(min_revision), linearizable=bool(linearizable)
        )

    def do_leases(self, *ids_and_ttls: str) -> ev.Event:
        """The store holds these leases: ``7000:1500`` lives 1,500 ms."""
        pairs = (pair.split(":") for pair in ids_and_ttls)
        return ev.LeasesListed(tuple((int(lease), int(ttl_ms)) for lease, ttl_ms in pairs))

    def do_keep_alive(self, token: str, lease: str) -> ev.Event:
        return ev.WriteSubmitted(int(token), KeepAlive(int(lease)), Ack.LOG, self.now + 5)
