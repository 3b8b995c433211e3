"""Which function does what a command asks for. Loaded once there is something to do: help needs none of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvlog.cli import backup, data, leases, load, nodes, past, recover, restore, skip, streams
from kvlog.cli import commands as of
from kvlog.cli import user_commands as users
from kvlog.cli.completion import print_completion
from kvlog.client import BadRequest, ClientError, ConditionFailed, LockHeld, NoNodes, NoSuchLease, Unknown
from kvlog.errors import CommandFailed, NotMet, SettingsError

_DO: dict[type[Any], Callable[[Any], None]] = {
    users.GetKey: data.get_key,
    users.PutKey: data.put_key,
    users.DeleteKey: data.delete_key,
    users.ListKeys: data.list_keys,
    users.RunTxn: data.run_txn,
    users.LoadFile: load.load_file,
    users.WatchKeys: streams.watch_keys,
    users.TailLog: streams.tail_log,
    users.ShowHistory: past.show_history,
    users.ShowDiff: past.show_diff,
    users.RollBack: past.roll_back,
    users.ExplainKey: past.explain_key,
    users.GrantLease: leases.grant_lease,
    users.KeepLeaseAlive: leases.keep_lease_alive,
    users.RevokeLease: leases.revoke_lease,
    of.Backup: backup.back_up,
    of.Verify: backup.verify_backup,
    of.Restore: restore.restore,
    of.Recover: recover.recover,
    of.SkipEntry: skip.skip,
    of.ShowStatus: nodes.show_status,
    of.RemoveReplica: nodes.remove_replica,
    of.AskRequest: nodes.ask_request,
    of.TransferLead: nodes.transfer_lead,
    of.CatchUp: nodes.catch_up,
    of.PrintCompletion: print_completion,
}


def run(command: of.Command, environment: Mapping[str, str]) -> int:
    """Do it; returns the exit code, which is not 0 only if it is that of another program which was run.

    Raises:
        KvlogError: it is not done. NotMet: because something is not so. SettingsError: because it makes no sense.
    """
    try:
        if isinstance(command, users.RunLocked):
            return leases.run_locked(command, environment)
        _DO[type(command)](command)
    except (ConditionFailed, LockHeld, NoSuchLease) as error:
        raise NotMet(str(error)) from error
    except BadRequest as error:
        raise SettingsError(str(error)) from error
    except Unknown as error:
        settle = f"client.settle({error.request_id!r})"
        said = str(error).replace(settle, f"`{of.PROGRAM} request {error.request_id} --settle`")
        raise CommandFailed(said) from error
    except NoNodes as error:
        raise CommandFailed(f"{error}; name nodes that work with --node HOST:PORT") from error
    except ClientError as error:
        raise CommandFailed(str(error)) from error
    return 0
