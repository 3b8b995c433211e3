"""Runs one command; whatever goes wrong becomes a sentence on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import NoReturn

from kvlog.cli.arguments import parse
from kvlog.cli.backup import back_up, verify_backup
from kvlog.cli.commands import (
    PROGRAM,
    AskRequest,
    Backup,
    Command,
    PrintCompletion,
    Recover,
    RemoveReplica,
    Restore,
    ShowStatus,
    SkipEntry,
    Verify,
)
from kvlog.cli.completion import VARIABLE, complete, print_completion
from kvlog.cli.nodes import ask_request, remove_replica, show_status
from kvlog.cli.recover import recover
from kvlog.cli.restore import restore
from kvlog.cli.skip import skip
from kvlog.errors import KvlogError, SettingsError

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Parse and run; returns the exit code: 0 done, 1 not done, 2 wrong usage."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if instruction := environment.get(VARIABLE):
            return complete(instruction, environment)
        _run(parse(arguments, environment))
        sys.stdout.flush()
    except SettingsError as error:
        return _fail(str(error), USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted; running the same command again is safe")
    except KvlogError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # Who read our output has left. Python would complain about it once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}; mend that and run the same command again")
    except Exception as error:  # noqa: BLE001 - people get a sentence, whatever it is
        return _fail(f"a bug in kvlog: {error!r}; please report it, with the command that you gave")
    return DONE


def _run(command: Command) -> None:
    match command:
        case Backup():
            back_up(command)
        case Verify():
            verify_backup(command)
        case Restore():
            restore(command)
        case Recover():
            recover(command)
        case SkipEntry():
            skip(command)
        case ShowStatus():
            show_status(command)
        case RemoveReplica():
            remove_replica(command)
        case AskRequest():
            ask_request(command)
        case PrintCompletion():
            print_completion(command)


def _fail(reason: str, code: int = FAILED) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{PROGRAM}: {reason}\n")
    return code


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
