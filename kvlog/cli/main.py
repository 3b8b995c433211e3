"""Runs one command; whatever goes wrong becomes a sentence on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

from kvlog.cli.arguments import parse
from kvlog.cli.commands import PROGRAM, Command
from kvlog.cli.completion import VARIABLE, complete
from kvlog.cli.user_commands import KeepLeaseAlive, TailLog, UserCommand, WatchKeys
from kvlog.errors import KvlogError, NotMet, SettingsError

DONE, FAILED, USAGE, NOT_MET = 0, 1, 2, 3

ENDLESS = (WatchKeys, TailLog, KeepLeaseAlive)
"""Commands that end well when they are interrupted."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Parse and run; the exit code: 0 done, 1 not done, 2 wrong usage, 3 no such key or condition not met."""
    signal.signal(signal.SIGTERM, _interrupt)
    command: Command | None = None
    try:
        if instruction := environment.get(VARIABLE):
            return complete(instruction, environment)
        command = parse(arguments, environment)
        run: Callable[[Command, Mapping[str, str]], int] = import_module("kvlog.cli.running").run
        code = run(command, environment)
        sys.stdout.flush()
    except SettingsError as error:
        return _fail(str(error), USAGE)
    except KeyboardInterrupt:
        return _interrupted(command)
    except NotMet as error:
        return _fail(str(error), NOT_MET)
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
    return code


def _interrupted(command: Command | None) -> int:
    if isinstance(command, ENDLESS):
        sys.stdout.flush()
        return DONE
    if isinstance(command, UserCommand):
        return _fail("interrupted; if it was to change something, that may have happened, or not")
    return _fail("interrupted; running the same command again is safe")


def _fail(reason: str, code: int = FAILED) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{PROGRAM}: {reason}\n")
    return code


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
