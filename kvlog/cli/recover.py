"""``recover``: begin a new log after ZooKeeper has lost its data, with the best of the stores that are left.

As with ``restore``, the log names what it was made from, and everything can be run again after a crash: the log is
made first, then the chosen store is told of it, then the others are moved away.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kvlog.cli.backup import examine
from kvlog.cli.commands import PROGRAM, Recover
from kvlog.cli.console import document, fields, note, say, table
from kvlog.cli.directories import locked, move
from kvlog.cli.restore import how_to_go_on, tell_log
from kvlog.core.machine import Position
from kvlog.errors import CommandFailed, StoreDamaged
from kvlog.store.directories import STORE, settle_files
from kvlog.zookeeper.seed import FoundLog, Seed, connect

MOVED = "store.before-recover"
"""What the stores that were not chosen are called afterwards."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A data directory, and what its store is worth. A damaged one has no position."""

    data_dir: Path
    position: Position | None = None
    damage: str = ""

    @property
    def usable(self) -> bool:
        """Whether a log can begin with it: it is sound, has missed nothing, and holds something of a log."""
        return self.verdict == "whole"

    @property
    def verdict(self) -> str:
        """The same in words."""
        if self.damage:
            return f"damaged: {self.damage}"
        if self.position is None:
            return "no store"
        if self.position.identity is None or self.position.applied_index < 0:
            return "empty"
        return "stale" if self.position.gaps else "whole"


def recover(command: Recover) -> None:
    """Look at all stores, choose one, and, if told so, make the log.

    Raises:
        CommandFailed: the stores or ZooKeeper do not allow it, or ``--start-a-new-log`` is missing.
    """
    for data_dir in command.data_dirs:
        if not data_dir.is_dir():
            raise CommandFailed(f"there is no directory {data_dir}; nothing was changed; correct that --data-dir")
    with ExitStack() as locks:
        for data_dir in command.data_dirs:
            locks.enter_context(locked(data_dir))
        with connect(command.zk, command.root) as place:
            log = place.find()
        candidates = [_candidate(data_dir) for data_dir in command.data_dirs]
        if not command.as_json:
            say(_table(candidates))
        result: dict[str, object] = {"stores": [_row(one) for one in candidates], "chosen": None, "new_log": None}
        try:
            chosen = _decide(command, log, candidates)
            result["chosen"] = str(chosen.data_dir)
            new = _new(chosen, _start(command, log, candidates, chosen))
        except CommandFailed:
            if command.as_json:
                document(result)
            raise
    if command.as_json:
        document(result | {"new_log": {"root": command.root, **new}})
    else:
        fields(("new log at", command.root), *new.items())
    note(how_to_go_on(command.zk, command.root, chosen.data_dir))
    note(f"once all are ready, the stores of before can go: each is kept as {MOVED} in its data directory")


def _decide(command: Recover, log: FoundLog | None, candidates: list[Candidate]) -> Candidate:
    """The store that the new log begins with.

    Raises:
        CommandFailed: there is none, or there is a log already that was not made from it.
    """
    if log is not None:
        _refuse_log_in_use(command, log)
    chosen = _rebased(candidates, log) or _choose(candidates)
    if log is not None and not _made_from(log, chosen):
        raise CommandFailed(
            f"there is a log at {command.root} already (cluster {log.identity.cluster_id}), and it was not made "
            f"from {chosen.data_dir}; nothing was changed; give the data directories with which it was made, or "
            f"remove it with ZooKeeper's `zkCli.sh deleteall {command.root}`, and run this command again"
        )
    return chosen


def _start(command: Recover, log: FoundLog | None, candidates: list[Candidate], chosen: Candidate) -> FoundLog:
    """Make the log, unless an earlier run has done it, and have the stores follow.

    Raises:
        CommandFailed: nobody has asked for that yet; says what it would mean.
    """
    if not command.start:
        raise CommandFailed(_would(command, candidates, chosen))
    position = _position(chosen)
    if log is None:
        with connect(command.zk, command.root) as place:
            log = place.create(Seed.of(position))
    if position.identity != log.identity:
        tell_log(chosen.data_dir / STORE, log)
    for other in candidates:
        if other is not chosen and (other.data_dir / STORE).exists():
            move(other.data_dir / STORE, _free_name(other.data_dir))
    return log


def _new(chosen: Candidate, log: FoundLog) -> dict[str, object]:
    """What the new log begins with."""
    position = _position(chosen)
    return {
        "cluster": log.identity.cluster_id,
        "from": str(chosen.data_dir),
        "index": log.first_index - 1,
        "revision": position.revision,
        "digest": position.digest,
    }


# --- looking --------------------------------------------------------------------------------------------------


def _candidate(data_dir: Path) -> Candidate:
    settle_files(data_dir)
    store = data_dir / STORE
    if not store.exists():
        return Candidate(data_dir)
    try:
        return Candidate(data_dir, examine(store, f"checking {store}").position)
    except StoreDamaged as error:
        return Candidate(data_dir, damage=error.reason)


def _row(candidate: Candidate) -> dict[str, object]:
    """A store in the table; what it does not say is None."""
    position = candidate.position
    return {
        "directory": str(candidate.data_dir),
        "cluster": position.identity.cluster_id if position and position.identity else None,
        "index": position.applied_index if position else None,
        "revision": position.revision if position else None,
        "missed": position.missed_entries if position else None,
        "verdict": candidate.verdict,
    }


def _table(candidates: list[Candidate]) -> str:
    rows = [["-" if value is None else str(value) for value in _row(one).values()] for one in candidates]
    return table(("DIRECTORY", "CLUSTER", "INDEX", "REVISION", "MISSED", "VERDICT"), rows)


def _refuse_log_in_use(command: Recover, log: FoundLog) -> None:
    if log.empty and log.seed:
        return
    raise CommandFailed(
        f"there is a log at {command.root} in ZooKeeper at {command.zk} already, of cluster "
        f"{log.identity.cluster_id}, and nodes have used it; nothing was changed; a node whose store is of that "
        "cluster only has to be started; one whose store is of another cluster takes a snapshot once `mv "
        "DIR/store "
        f"DIR/{MOVED}` was done in its data directory; if that log was begun by mistake after ZooKeeper had lost "
        f"its data, stop its nodes, remove it with ZooKeeper's `zkCli.sh deleteall {command.root}`, and run this "
        "command again"
    )


def _rebased(candidates: list[Candidate], log: FoundLog | None) -> Candidate | None:
    """The store that an earlier run of this command has told of the log that it made."""
    if log is None:
        return None
    return next((one for one in candidates if one.position and one.position.identity == log.identity), None)


def _choose(candidates: list[Candidate]) -> Candidate:
    """The whole store with the most, if the stores are of one cluster and do not contradict each other."""
    clusters: dict[str, list[str]] = {}
    for one in candidates:
        if one.position is not None and one.position.identity is not None:
            clusters.setdefault(one.position.identity.cluster_id, []).append(str(one.data_dir))
    if len(clusters) > 1:
        which = "; ".join(f"cluster {name}: {', '.join(dirs)}" for name, dirs in sorted(clusters.items()))
        raise CommandFailed(
            f"the stores are of different clusters ({which}); nothing was changed; run this command again with "
            "the "
            "directories of one cluster only"
        )
    usable = [one for one in candidates if one.usable]
    if not usable:
        raise CommandFailed(
            "none of the stores can begin a log: each is stale, damaged, empty or missing; nothing was changed; "
            "give "
            f"the data directories of other nodes, or begin with a backup: `{PROGRAM} restore FILE`"
        )
    chosen = max(usable, key=lambda one: _position(one).applied_index)
    best = _position(chosen)
    for one in usable:
        there = _position(one)
        if there.applied_index == best.applied_index and (there.hash, there.digest) != (best.hash, best.digest):
            raise CommandFailed(
                f"{one.data_dir} and {chosen.data_dir} stand at the same index {best.applied_index}, but their "
                "data "
                "differs, so one of them is wrong; nothing was changed; find out which (compare with a backup), "
                "and "
                "run this command again without it"
            )
    return chosen


def _made_from(log: FoundLog, chosen: Candidate) -> bool:
    position = _position(chosen)
    return position.identity == log.identity or log.seed == Seed.of(position).name


def _would(command: Recover, candidates: list[Candidate], chosen: Candidate) -> str:
    """What would be done, and what it would cost."""
    position = _position(chosen)
    more = [
        f"{one.data_dir} ({one.verdict}, index {one.position.applied_index})"
        for one in candidates
        if one.position is not None and not one.usable and one.position.applied_index > position.applied_index
    ]
    damaged = [f"{one.data_dir} (damaged)" for one in candidates if one.damage]
    beyond = (
        f"; stores that may have had more, but cannot be used: {', '.join(more + damaged)}"
        if more + damaged
        else ""
    )
    return (
        f"nothing was changed: a new log would begin at {command.root} with the store in {chosen.data_dir}, index "
        f"{position.applied_index}, revision {position.revision}; acknowledged writes that came later, and were "
        "only "
        f"in the lost log, would be gone for good{beyond}; the other stores would be kept as {MOVED}; make sure "
        "that "
        "ZooKeeper's data cannot be brought back and that the directories of all nodes that are left are given, "
        "then "
        "run this command again with --start-a-new-log"
    )


def _position(candidate: Candidate) -> Position:
    if candidate.position is None:
        raise CommandFailed(f"there is no usable store in {candidate.data_dir}")
    return candidate.position


def _free_name(data_dir: Path) -> Path:
    """A name under which a store can be kept, beside those of earlier recoveries."""
    target, number = data_dir / MOVED, 1
    while target.exists():
        number += 1
        target = data_dir / f"{MOVED}-{number}"
    return target
