"""``restore``: begin an empty cluster with a backup.

The order makes a crash harmless. The store is unpacked and checked under another name; then the log is made,
which names what it was made from (``seed``); then the store is told its new log; its own name it gets last. Run
again, the command knows the log by its seed, unpacks anew, and goes on. What cannot be gone on with it refuses.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from kvlog.cli.backup import read_header, unpack
from kvlog.cli.commands import PROGRAM, Restore
from kvlog.cli.console import document, fields, note
from kvlog.cli.directories import locked, move
from kvlog.errors import CommandFailed
from kvlog.snapshot import Header
from kvlog.store.directories import STORE, remove, settle_files
from kvlog.store.lmdb_store import LmdbStore
from kvlog.zookeeper.seed import FoundLog, Seed, connect

RESTORING = "store.restoring"
"""Name of the store in its data directory until it is whole and knows its log."""


def restore(command: Restore) -> None:
    """Check the backup, make the log, put the store in its place.

    Raises:
        CommandFailed: there is a cluster or a store already, or the backup cannot begin a log.
    """
    with locked(command.data_dir):
        header = read_header(command.file)
        if header.index < 0:
            raise CommandFailed(f"{command.file} holds nothing: begin with empty data directories instead")
        found = _look(command, header)
        settle_files(command.data_dir)  # a crash may have left the store under another name
        store = command.data_dir / STORE
        if store.exists():
            _refuse_store(found, store)
            _tell(command, store)
            return
        incoming = command.data_dir / RESTORING
        remove(incoming)
        position = unpack(command.file, incoming).position
        seed = Seed.of(position)
        if found is None:
            with connect(command.zk, command.root) as place:
                found = place.create(seed)
        tell_log(incoming, found)
        move(incoming, store)
        _tell(command, store)


def tell_log(store: Path, log: FoundLog) -> None:
    """Have a store that a log was made from belong to that log, and stand right before its beginning."""
    with closing(LmdbStore(store)) as opened:
        opened.rebase(log.identity, log.first_index - 1)


def _look(command: Restore, header: Header) -> FoundLog | None:
    """The log that an earlier run of this same command has made; None if there is no log.

    Raises:
        CommandFailed: there is another one, or nodes use it already.
    """
    with connect(command.zk, command.root) as place:
        found = place.find()
    if found is None:
        return None
    if found.seed != f"{header.hash}-{header.index}":
        raise CommandFailed(
            f"there is a cluster at {command.root} in ZooKeeper at {command.zk} already (cluster "
            f"{found.identity.cluster_id}), and a backup can only begin an empty one; nothing was changed; choose "
            "another --root, or, if nothing of that cluster is needed, stop its nodes, remove it with "
            "ZooKeeper's "
            f"`zkCli.sh deleteall {command.root}`, and run this command again"
        )
    store = command.data_dir / STORE
    if not found.empty and not store.exists():
        raise CommandFailed(
            f"the cluster at {command.root} was begun with this very backup, and nodes use it already; nothing "
            "was "
            f"changed; a node with an empty data directory takes a snapshot from the others: start it with "
            f"`python server.py --zk {command.zk} --root {command.root} --data-dir {command.data_dir}`"
        )
    if not store.exists():
        note(f"the log at {command.root} was made from this backup before; going on from there")
    return found


def _refuse_store(found: FoundLog | None, store: Path) -> None:
    """Refuse a store that is there, unless it is the one that this command has put there before.

    Raises:
        CommandFailed: it is another one.
    """
    if found is not None:
        with closing(LmdbStore(store)) as opened:
            if opened.position().identity == found.identity:
                note("this was restored before; nothing was changed")
                return
    raise CommandFailed(
        f"there is a store in {store} already, and it stays as it is; nothing was changed; choose another "
        f"--data-dir, or, if the store is not needed, `mv {store} {store}.before`, and run this command again"
    )


def _tell(command: Restore, store: Path) -> None:
    with closing(LmdbStore(store)) as opened:
        position = opened.position()
    result = {
        "restored": str(command.file),
        "into": str(store),
        "cluster": position.identity.cluster_id if position.identity else "",
        "index": position.applied_index,
        "revision": position.revision,
        "digest": position.digest,
    }
    if command.as_json:
        document(result)
    else:
        fields(*result.items())
    note(how_to_go_on(command.zk, command.root, command.data_dir))


def how_to_go_on(zk: str, root: str, data_dir: Path) -> str:
    """What to do once a new log and its store are there."""
    return (
        f"now start this node first, with its usual flags: `python server.py --zk {zk} --root {root} --data-dir "
        f"{data_dir}`; once it is ready start the others: with empty data directories they take its snapshot; "
        f"`{PROGRAM} status` shows when all are ready"
    )
