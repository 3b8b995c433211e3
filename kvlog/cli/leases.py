"""The commands for leases and locks."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from kvlog.cli.console import document, note, say
from kvlog.cli.data import connect
from kvlog.cli.http import Answer, Nodes, done
from kvlog.cli.show import counted, line
from kvlog.cli.user_commands import GrantLease, KeepLeaseAlive, RevokeLease, RunLocked
from kvlog.client import ClientError, LeaseLost, Lock
from kvlog.errors import CommandFailed, NotMet, Unavailable

KEEP_ALIVE_SHARE = 3
"""A lease is kept alive every third of its time, and, when no node has answered that, four times as often."""

SIGNAL_CODE = 128
"""A command that a signal has ended has this and the signal's number for its exit code, as in shells."""


def grant_lease(command: GrantLease) -> None:
    """``lease grant``: its id."""
    with connect(command.target) as client:
        lease = client.lease(command.ttl_s)
    if command.target.as_json:
        document({"lease": lease.id, "ttl": lease.ttl})
    else:
        say(str(lease.id))


def keep_lease_alive(command: KeepLeaseAlive) -> None:
    """``lease keep-alive``: its whole time anew, again and again.

    Raises:
        NotMet: there is no such lease.
        Unavailable: no node has answered until its time was over.
    """
    nodes = Nodes(command.target.nodes)
    path = f"/v1/leases/{command.lease}/keep-alive"
    never = threading.Event()
    ttl, over_at = 0.0, 0.0
    while True:
        sent_at = time.monotonic()
        try:
            body = _lease_body(nodes.ask("POST", path, timeout_s=command.target.timeout_s), command.lease)
        except Unavailable as error:
            if time.monotonic() >= over_at:
                raise
            note(f"{error}; trying again")
            never.wait(ttl / KEEP_ALIVE_SHARE / 4)
            continue
        ttl = float(body.get("ttl", 0))
        over_at = sent_at + ttl
        if command.target.as_json:
            line({"lease": command.lease, "ttl": ttl})
        elif command.once:
            say(f"lease {command.lease} lives for another {ttl:g} s")
        if command.once:
            return
        never.wait(ttl / KEEP_ALIVE_SHARE)


def revoke_lease(command: RevokeLease) -> None:
    """``lease revoke``: how many keys went with it.

    Raises:
        NotMet: there is no such lease.
    """
    headers = {"Idempotency-Key": secrets.token_hex(16)}  # so that it may be asked of several nodes
    nodes = Nodes(command.target.nodes)
    path = f"/v1/leases/{command.lease}"
    answer = nodes.ask("DELETE", path, timeout_s=command.target.timeout_s, headers=headers)
    body = _lease_body(answer, command.lease)
    if command.target.as_json:
        document({"lease": command.lease, "deleted": body.get("deleted", 0), "revision": body.get("revision")})
    else:
        say(f"lease {command.lease} is revoked, and {counted(body.get('deleted', 0), 'key')} with it")


def _lease_body(answer: Answer, lease: int) -> dict[str, Any]:
    if answer.status == HTTPStatus.NOT_FOUND and answer.body.get("type") == "kvlog:no-such-lease":
        raise NotMet(f"there is no lease {lease}: it has expired, was revoked, or never was")
    return done(answer, f"do that to lease {lease}")


# --- locks ----------------------------------------------------------------------------------------------------


def run_locked(command: RunLocked, environment: Mapping[str, str]) -> int:
    """``lock``: the exit code of the command that was run.

    Raises:
        CommandFailed: there is no such command, or the lock was lost while it ran.
        LockHeld: somebody else has held it for as long as was to be waited.
    """
    if shutil.which(command.command[0], path=environment.get("PATH")) is None:
        raise CommandFailed(f"there is no command {command.command[0]!r} on this machine; the lock was not taken")
    with connect(command.target) as client:
        lock = client.lock(command.name, ttl=command.ttl_s, wait=command.wait_s)
        token = lock.acquire()
        try:
            code = _run(command, dict(environment) | {"KVLOG_LOCK_TOKEN": str(token)}, lock)
        finally:
            _give_back(lock)
    return code


def _give_back(lock: Lock) -> None:
    """Release the lock.

    Raises:
        CommandFailed: it was not held to the end.
    """
    try:
        lock.release()
    except LeaseLost as error:
        raise CommandFailed(
            f"the lock {lock.name!r} was lost before the command had ended: {error}; somebody else may have taken "
            "it meanwhile: see whether something was done twice"
        ) from error
    except ClientError as error:
        note(f"the lock could not be given back: {error}; it is free after {lock.ttl:g} s")


def _run(command: RunLocked, environment: Mapping[str, str], lock: Lock) -> int:
    """Run it to its end; it is told to end when the lock is lost."""
    with subprocess.Popen(command.command, env=environment) as process:  # noqa: S603 - that is what it is for
        threading.Thread(target=_end_if_lost, args=(lock, process), daemon=True).start()
        with _passed_on(process):
            code = process.wait()
    return code if code >= 0 else SIGNAL_CODE - code


def _end_if_lost(lock: Lock, process: subprocess.Popen[bytes]) -> None:
    if lock.lease is not None:
        lock.lease.lost.wait()
        process.terminate()  # does nothing to one that has ended


@contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Have SIGTERM reach the process, not us. A terminal's Ctrl-C reaches it by itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
