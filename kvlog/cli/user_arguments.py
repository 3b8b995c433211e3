"""The users' commands: what each takes, and the value that it becomes."""

from __future__ import annotations

from pathlib import Path

import click

from kvlog.cli.options import CheckedCommand, Seconds, Whole, file_argument, targeted, targeted_quietly
from kvlog.cli.user_commands import (
    DeleteKey,
    ExplainKey,
    GetKey,
    GrantLease,
    KeepLeaseAlive,
    ListKeys,
    LoadFile,
    PutKey,
    Reading,
    RevokeLease,
    RollBack,
    RunLocked,
    RunTxn,
    ShowDiff,
    ShowHistory,
    TailLog,
    Target,
    WatchKeys,
)
from kvlog.errors import SettingsError

TTL_MAX_S = 31_536_000
"""A year: the longest time that a key or a lease may be given."""

WHOLE = Whole()
REVISION = Whole(1)
TTL = Seconds(1, TTL_MAX_S)

key_argument = click.argument("key", metavar="KEY", help="the key")
limit_option = click.option("--limit", type=Whole(1), metavar="N", help="at most so many")
request_id_option = click.option(
    "--request-id", metavar="ID", help="Idempotency-Key of the write: sent again under it, it is done only once"
)
if_revision_option = click.option(
    "--if-revision", type=WHOLE, metavar="R", help="only if KEY still stands at this revision"
)


# --- keys and values ------------------------------------------------------------------------------------------


@click.command(cls=CheckedCommand)
@key_argument
@click.option("--at", type=WHOLE, metavar="R", help="the value as of this revision")
@click.option("--linearizable", is_flag=True, help="the latest value, confirmed by a quorum")
@click.option("--min-revision", type=WHOLE, metavar="R", help="wait until the node has come to this revision")
@click.option(
    "--max-stale-ms", type=WHOLE, metavar="MS", help="refuse a node that may be further behind than that"
)
@click.option("--max-lag", type=WHOLE, metavar="N", help="refuse a node that is more entries behind")
@targeted
def get(
    target: Target,
    key: str,
    at: int | None,
    linearizable: bool,
    min_revision: int | None,
    max_stale_ms: int | None,
    max_lag: int | None,
) -> GetKey:
    """Print the value of a key.

    Exactly its bytes; on a terminal a line break comes after them. A key that is not there ends with exit code 3.
    """
    if linearizable and at is not None:
        raise SettingsError("--at shows the past and --linearizable the latest value: leave one of them out")
    return GetKey(target, key, Reading(linearizable, min_revision, max_stale_ms, max_lag, at))


@click.command(cls=CheckedCommand)
@key_argument
@click.argument("value", required=False, metavar="[VALUE]", help="the value, as UTF-8; or --file")
@click.option(
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="where the value is; - for stdin",
)
@click.option("--ttl", "ttl_s", type=TTL, metavar="SECONDS", help="the key goes away after so long")
@click.option("--lease", type=REVISION, metavar="ID", help="the key goes away with this lease")
@click.option(
    "--if-revision",
    type=WHOLE,
    metavar="R",
    help="only if KEY still stands at this revision; 0: only if it is not there",
)
@click.option("--content-type", metavar="TYPE", help="what the value is, kept with it")
@click.option(
    "--ack",
    type=click.Choice(("replicas", "log")),
    default="replicas",
    show_default=True,
    help="what to wait for: that all replicas which keep up have it, or only that it is in the log",
)
@request_id_option
@targeted
def put(
    target: Target,
    key: str,
    value: str | None,
    *,
    file: Path | None,
    ttl_s: float | None,
    lease: int | None,
    if_revision: int | None,
    content_type: str | None,
    ack: str,
    request_id: str | None,
) -> PutKey:
    """Give a key a value.

    If --if-revision does not hold, nothing is changed, and the exit code is 3.
    """
    if (value is None) == (file is None):
        raise SettingsError("say the value, as VALUE or with --file FILE, and not both")
    if ttl_s is not None and lease is not None:
        raise SettingsError("--ttl and --lease: the key goes away by the one or the other; leave one of them out")
    return PutKey(
        target,
        key,
        value,
        file,
        ttl_s=ttl_s,
        lease=lease,
        if_revision=if_revision,
        content_type=content_type,
        ack=ack,
        request_id=request_id,
    )


@click.command(cls=CheckedCommand)
@key_argument
@if_revision_option
@request_id_option
@targeted
def delete(target: Target, key: str, if_revision: int | None, request_id: str | None) -> DeleteKey:
    """Take a key away.

    If it is not there, or --if-revision does not hold, nothing is changed, and the exit code is 3.
    """
    if if_revision == 0:
        raise SettingsError("--if-revision 0: says that the key is not there, so that there is nothing to delete")
    return DeleteKey(target, key, if_revision, request_id)


@click.command(name="list", cls=CheckedCommand)
@click.argument("prefix", required=False, default="", metavar="[PREFIX]", help="what the keys begin with")
@click.option("--from", "start", default="", metavar="KEY", help="begin with this key, or the next one")
@limit_option
@click.option("--keys-only", is_flag=True, help="without the values")
@click.option("--count", is_flag=True, help="only how many keys there are")
@click.option("--at", type=WHOLE, metavar="R", help="as of this revision")
@targeted
def list_(
    target: Target, prefix: str, start: str, limit: int | None, keys_only: bool, count: bool, at: int | None
) -> ListKeys:
    """List the keys that begin with PREFIX, all at one revision.

    Each in a line: key, revision and value, with tabs between them, and what is no printable text escaped. With
    --json each is a document in a line of its own, which `load` takes.
    """
    if count and (start or limit is not None or at is not None):
        raise SettingsError(
            "--count counts all keys with the prefix, as they are now: leave the other options out"
        )
    return ListKeys(target, prefix, start, limit, keys_only, count, at)


@click.command(cls=CheckedCommand)
@click.argument("prefix", required=False, default="", metavar="[PREFIX]", help="what the keys begin with")
@click.option("--key", metavar="KEY", help="this key alone")
@click.option(
    "--from", "start", type=REVISION, metavar="R", help="begin with this revision, not with what comes next"
)
@click.option("--limit", type=Whole(1), metavar="N", help="end after so many events")
@targeted
def watch(target: Target, prefix: str, key: str | None, start: int | None, limit: int | None) -> WatchKeys:
    """Show what is written, as it comes.

    Each change once and in order, whatever happens to the nodes; until Ctrl-C. Each in a line: revision, put or
    delete, key and value. With --json each revision is a document in a line of its own.
    """
    if prefix and key is not None:
        raise SettingsError("PREFIX and --key: watch the one or the other; leave one of them out")
    return WatchKeys(target, prefix, key, start, limit)


@click.command(cls=CheckedCommand)
@file_argument("the transaction, as JSON; - for stdin")
@request_id_option
@targeted
def txn(target: Target, file: Path, request_id: str | None) -> RunTxn:
    """Carry out a transaction: compare, then write, all or nothing.

    For example {"compare": [{"key": "a", "target": "revision", "op": "=", "value": 7}], "then": [{"op": "put",
    "key": "a", "value": "new"}], "else": [{"op": "get", "key": "a"}]}, as POST /v1/txn takes it. If what is
    compared does not hold, "else" is done, and the exit code is 3.
    """
    return RunTxn(target, file, request_id)


@click.command(cls=CheckedCommand)
@file_argument("puts and deletes, one in a line, as JSON; - for stdin")
@targeted
def load(target: Target, file: Path) -> LoadFile:
    """Carry out many puts and deletes.

    Each line is {"op": "put", "key": "...", "value": "..."} or {"op": "delete", "key": "..."}; without "op" it is
    a put, so that what `list --json` has written can be loaded again. They are done in order, in transactions of
    many; if it ends before the last one, it says in which line.
    """
    return LoadFile(target, file)


# --- the past -------------------------------------------------------------------------------------------------


@click.command(cls=CheckedCommand)
@key_argument
@limit_option
@targeted
def history(target: Target, key: str, limit: int | None) -> ShowHistory:
    """Show what a key has held, the newest first.

    Each in a line: revision, time (UTC), put or delete, and value. As far back as the node remembers. A key of
    which nothing is remembered ends with exit code 3.
    """
    return ShowHistory(target, key, limit)


@click.command(cls=CheckedCommand)
@click.argument("start", type=WHOLE, metavar="FROM", help="a revision")
@click.argument("end", type=WHOLE, required=False, metavar="[TO]", help="a later one; by default the present one")
@click.option("--prefix", default="", metavar="PREFIX", help="only keys that begin so")
@targeted
def diff(target: Target, start: int, end: int | None, prefix: str) -> ShowDiff:
    """Show which keys differ between two revisions.

    Lines with - are what a key held before, lines with + what it holds after.
    """
    if end is not None and end < start:
        raise SettingsError(f"FROM {start} comes after TO {end}: change them over")
    return ShowDiff(target, start, end, prefix)


@click.command(cls=CheckedCommand)
@click.argument("revision", type=WHOLE, metavar="REVISION", help="the revision to go back to")
@click.option("--key", metavar="KEY", help="what to bring back: this key")
@click.option("--prefix", metavar="PREFIX", help="what to bring back: all keys that begin so")
@click.option("--dry-run", is_flag=True, help="only say how many keys would change")
@targeted
def rollback(target: Target, revision: int, key: str | None, prefix: str | None, dry_run: bool) -> RollBack:
    """Bring keys back to what they were at a revision.

    In one transaction, as a new revision: nothing of the past is lost. If somebody changes one of the keys
    meanwhile, nothing is changed, and the exit code is 3.
    """
    if (key is None) == (prefix is None):
        raise SettingsError(
            'say what to bring back, with --key or with --prefix, and not both; --prefix "" is all'
        )
    return RollBack(target, revision, key, prefix, dry_run)


@click.command(cls=CheckedCommand)
@key_argument
@targeted
def explain(target: Target, key: str) -> ExplainKey:
    """Show how a key has come to what it is, and how the node knows."""
    return ExplainKey(target, key)


@click.command(cls=CheckedCommand)
@click.option(
    "--from", "start", type=WHOLE, metavar="INDEX", help="begin with this entry, not with what comes next"
)
@click.option("--limit", type=Whole(1), metavar="N", help="end after so many entries")
@targeted
def tail(target: Target, start: int | None, limit: int | None) -> TailLog:
    """Show the log's entries, as they come to a node.

    Until Ctrl-C. Each in a line: index, time (UTC), what is in it, by which way it came to the node, and how long
    after it was written the node had applied it.
    """
    return TailLog(target, start, limit)


# --- leases and locks -----------------------------------------------------------------------------------------


@click.command(cls=CheckedCommand)
@click.argument("ttl", type=TTL, metavar="SECONDS", help="how long it lives without a keep-alive")
@targeted
def grant(target: Target, ttl: float) -> GrantLease:
    """Make a new lease, and print its id.

    Keys that are put with --lease ID go away with it.
    """
    return GrantLease(target, ttl)


@click.command(name="keep-alive", cls=CheckedCommand)
@click.argument("lease", type=REVISION, metavar="ID", help="the lease")
@click.option("--once", is_flag=True, help="only once")
@targeted
def keep_alive(target: Target, lease: int, once: bool) -> KeepLeaseAlive:
    """Keep a lease from expiring, until Ctrl-C."""
    return KeepLeaseAlive(target, lease, once)


@click.command(cls=CheckedCommand)
@click.argument("lease", type=REVISION, metavar="ID", help="the lease")
@targeted
def revoke(target: Target, lease: int) -> RevokeLease:
    """End a lease, and with it all keys that are attached to it."""
    return RevokeLease(target, lease)


@click.command(cls=CheckedCommand, context_settings={"allow_interspersed_args": False})
@click.argument("name", metavar="NAME", help="the lock: a key of this name")
@click.argument("command", nargs=-1, required=True, metavar="COMMAND...", help="what to run meanwhile")
@click.option(
    "--ttl",
    "ttl_s",
    type=TTL,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="how long the lock outlives this command if it is killed or cut off",
)
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(0, 1e6),
    metavar="SECONDS",
    help="how long to wait for it; by default for ever",
)
@targeted_quietly
def lock(target: Target, name: str, command: tuple[str, ...], ttl_s: float, wait_s: float | None) -> RunLocked:
    """Run a command while holding a lock.

    Its options come before NAME. COMMAND finds the lock's fencing token in KVLOG_LOCK_TOKEN: it is higher each
    time the lock is taken, so that who gets a lower one than before can refuse. If the lock is lost, COMMAND is
    told to end (SIGTERM). The exit code is COMMAND's; 3 if the lock could not be had in time.
    """
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise SettingsError("say what to run while the lock is held, as `lock NAME -- COMMAND`")
    return RunLocked(target, name, words, ttl_s, wait_s)
