"""The operators' commands: what each takes, and the value that it becomes."""

from __future__ import annotations

import re
from pathlib import Path

import click

from kvlog.cli.commands import (
    AskRequest,
    Backup,
    CatchUp,
    Recover,
    RemoveReplica,
    Restore,
    ShowStatus,
    SkipEntry,
    TransferLead,
    Verify,
)
from kvlog.cli.options import (
    CheckedCommand,
    data_dir_option,
    directories,
    file_argument,
    json_option,
    node_option,
    place,
    place_options,
    seconds,
    urls,
)
from kvlog.core.entry import REASON_CHARACTERS_MAX
from kvlog.errors import SettingsError

SKIP_WAIT_S = 30.0
"""How long ``log skip`` waits for the nodes to go past the entry."""

# --- backups --------------------------------------------------------------------------------------------------


@click.command(cls=CheckedCommand)
@file_argument("the file to write")
@click.option("--force", is_flag=True, help="replace FILE if it is there")
@node_option
@json_option
def backup(file: Path, force: bool, nodes: tuple[str, ...], as_json: bool) -> Backup:
    """Write a node's data to a file.

    Downloads a consistent snapshot of it, checks it on the way, and puts it into FILE only once all of it is
    there. Nodes with missed entries are passed over. `verify FILE` checks the data itself.
    """
    return Backup(urls(nodes), file, force, as_json)


@click.command(cls=CheckedCommand)
@file_argument("the backup")
@json_option
def verify(file: Path, as_json: bool) -> Verify:
    """Check a backup.

    Checks the file's checksum, unpacks it beside the file, reads every key and recomputes the digest. Needs
    no node and no ZooKeeper, but free disk space of the file's size.
    """
    return Verify(file, as_json)


@click.command(cls=CheckedCommand)
@file_argument("the backup")
@place_options
@data_dir_option("data directory of the node that begins", repeated=False)
@json_option
def restore(file: Path, zk: str, root: str, data_dir: str, as_json: bool) -> Restore:
    """Begin an empty cluster with a backup.

    Checks FILE, puts it into the data directory of one node that does not run, and makes a new log below
    --root that begins behind it. Start that node then; all others come with empty data directories and take
    its snapshot. If it is interrupted, run the same command again.
    """
    return Restore(*place(zk, root), file, directories([data_dir])[0], as_json)


# --- the log --------------------------------------------------------------------------------------------------


@click.command(cls=CheckedCommand)
@place_options
@data_dir_option("data directory of a node; give all that are left, one --data-dir each", repeated=True)
@click.option("--start-a-new-log", "start", is_flag=True, help="do it; without this, only say what would be done")
@json_option
def recover(zk: str, root: str, data_dirs: tuple[str, ...], start: bool, as_json: bool) -> Recover:
    """Begin a new log after ZooKeeper has lost its data.

    Checks the stores of nodes that do not run, says which one has the most, and with --start-a-new-log makes
    a new log below --root that begins behind it. Acknowledged writes that only the lost log had are gone. The
    other stores are moved to store.before-recover: their nodes come back with a snapshot. If it is interrupted,
    run the same command again.
    """
    return Recover(*place(zk, root), directories(data_dirs), start, as_json)


@click.command(cls=CheckedCommand)
@click.argument("index", metavar="INDEX", help="index of the entry, as the halted nodes say it")
@click.option("--reason", required=True, metavar="TEXT", help=f"why, up to {REASON_CHARACTERS_MAX} characters")
@click.option(
    "--wait",
    default=f"{SKIP_WAIT_S:g}",
    show_default=True,
    metavar="SECONDS",
    help="how long to wait until all members have gone past it",
)
@node_option
@json_option
def skip(index: str, reason: str, wait: str, nodes: tuple[str, ...], as_json: bool) -> SkipEntry:
    """Leave out an entry at which every node has halted.

    Only if all nodes that the cluster counts on are up, none has applied the entry, and at least one has
    halted at it. What the entry held is lost for good; the reason goes into the log.
    """
    return SkipEntry(urls(nodes), _index(index), _reason(reason), seconds("--wait", wait), as_json)


def _index(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise SettingsError(f"INDEX {text!r}: must be the index of an entry, a whole number from 0")
    return int(text)


def _reason(text: str) -> str:
    if not text.strip() or len(text) > REASON_CHARACTERS_MAX:
        raise SettingsError(
            f"--reason: must have 1 to {REASON_CHARACTERS_MAX} characters, this one has {len(text)}"
        )
    return text.strip()


# --- what the nodes say ---------------------------------------------------------------------------------------


@click.command(cls=CheckedCommand)
@node_option
@json_option
def status(nodes: tuple[str, ...], as_json: bool) -> ShowStatus:
    """Show what each node says of itself.

    Asks a node who is there or counted on, and each of those how it stands; one line for each.

    LAG is how many entries a node is behind the highest index that any of them knows of, STALENESS how long ago
    it last had everything that was in the log, PATH how the last entry came to it.
    """
    return ShowStatus(urls(nodes), as_json)


@click.command(cls=CheckedCommand)
@click.argument("node_id", metavar="ID", help="the node's id, as `status` shows it")
@node_option
@json_option
def remove(node_id: str, nodes: tuple[str, ...], as_json: bool) -> RemoveReplica:
    """Stop counting on a node that does not come back.

    The log is no longer kept for it. If it comes back all the same, it takes a snapshot.
    """
    return RemoveReplica(urls(nodes), node_id, as_json)


@click.command(cls=CheckedCommand)
@click.argument("request_id", metavar="ID", help="the request's Idempotency-Key")
@click.option("--settle", is_flag=True, help="cancel it if it is not committed")
@node_option
@json_option
def request(request_id: str, settle: bool, nodes: tuple[str, ...], as_json: bool) -> AskRequest:
    """Show what became of a request.

    Whether the write with this Idempotency-Key was committed. With --settle an open one is cancelled, so that
    the answer is final.
    """
    return AskRequest(urls(nodes), request_id, settle, as_json)


@click.command(cls=CheckedCommand)
@node_option
@json_option
def transfer(nodes: tuple[str, ...], as_json: bool) -> TransferLead:
    """Have another node lead.

    The leader finishes what is under way, and hands over to whoever stands next; it goes on as a follower. No
    write fails by that. Any node may be asked, it knows the leader.
    """
    return TransferLead(urls(nodes), as_json)


@click.command(cls=CheckedCommand)
@node_option
@json_option
def catchup(nodes: tuple[str, ...], as_json: bool) -> CatchUp:
    """Fill in what a stale store has missed.

    It concerns the one node that is asked: name it with --node. The missed entries are read from the log, or,
    where they have been trimmed, another node's store takes the place of this one.
    """
    found = urls(nodes)
    if len(found) > 1:
        raise SettingsError("--node: name one node, the one whose store is stale, as `status` shows it")
    return CatchUp(found[0], as_json)
