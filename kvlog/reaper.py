"""Ends what another process started, once that process has ended, in whatever way.

A program of its own, started by `kvlog.processes.ProcessKeeper`. It reads orders from its standard input,
one a line, and carries them out at end-of-file. The kernel closes the keeper's end of that pipe however the
keeper dies, kill -9 included, so no death of the keeper goes unnoticed. The orders:

    group PGID          kill this process group (SIGKILL, which also ends stopped processes)
    forget PGID         that group has ended: its number may belong to somebody else soon
    run JSON-ARGV       run this command, for at most RUN_S seconds
    cancel JSON-ARGV    do not run it after all
    remove DIRECTORY    delete this directory with all that is in it

Groups are killed first, then commands run, then directories are deleted. The exit code is 0 when all of
that worked, else 1, with a line on standard error for each thing left behind. Only the standard library is
imported, and nothing of kvlog: the reaper has to work when kvlog is what broke.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

RUN_S = 60.0
"""Seconds that one command may take before it is killed."""

REMOVE_S = 10.0
"""Seconds to go on deleting a directory into which dying processes may still write."""


@dataclass
class Orders:
    """What to clean up: values in the order in which they were given."""

    groups: list[int] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)

    def take(self, line: str) -> None:
        """Notes one order; ValueError when it is none."""
        verb, _, value = line.partition(" ")
        if verb == "group":
            self.groups.append(int(value))
        elif verb == "forget":
            self.groups.remove(int(value))
        elif verb == "run":
            self.commands.append(json.loads(value))
        elif verb == "cancel":
            self.commands.remove(json.loads(value))
        elif verb == "remove":
            self.directories.append(Path(value))
        else:
            raise ValueError(f"no such order: {verb!r}")


def read_orders(lines: Iterable[str]) -> Orders:
    """The orders that hold when `lines` end."""
    orders = Orders()
    for line in lines:
        if not line.endswith("\n"):
            break  # the keeper died in the middle of writing this one
        try:
            orders.take(line[:-1])
        except ValueError as error:
            complain(f"did not understand the order {line[:-1]!r} ({error})")
    return orders


def clean_up(orders: Orders) -> bool:
    """Carries the orders out; False when something is left behind."""
    done = [kill_group(group) for group in orders.groups]
    done += [run(argv) for argv in orders.commands]
    done += [remove(directory) for directory in orders.directories]
    return all(done)


def kill_group(group: int) -> bool:
    """Kills a process group; True also when it was gone already."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        complain(f"may not kill the process group {group}; end it with: sudo kill -9 -- -{group}")
        return False
    return True


def run(argv: list[str]) -> bool:
    """Runs a command; False when it fails, cannot start or takes longer than RUN_S."""
    try:
        # Its output goes nowhere: nobody may be left to read it, and a full pipe would stop the command.
        process = subprocess.Popen(  # noqa: S603 - the keeper, our parent, chose the command
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        complain(f"could not start {argv[0]} ({error}); please run: {' '.join(argv)}")
        return False
    try:
        code = process.wait(RUN_S)
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        complain(f"a clean-up command took longer than {RUN_S:g} s; please run: {' '.join(argv)}")
        return False
    if code != 0:
        complain(f"a clean-up command failed with exit code {code}; please run: {' '.join(argv)}")
    return code == 0


def remove(directory: Path) -> bool:
    """Deletes a directory; False when it is still there after REMOVE_S."""
    deadline = time.monotonic() + REMOVE_S
    while directory.exists():
        # A process that was just killed may create one more file while we delete: again, until it is gone.
        shutil.rmtree(directory, ignore_errors=True)
        if time.monotonic() > deadline:
            complain(f"could not delete {directory}; please delete it")
            return False
        time.sleep(0.02)
    return True


def complain(sentence: str) -> None:
    """One line on standard error, which is the keeper's."""
    sys.stderr.write(f"kvlog clean-up: {sentence}\n")


def main() -> int:
    """Reads orders until the keeper has ended, carries them out, returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the keeper must not end its reaper
    return 0 if clean_up(read_orders(sys.stdin)) else 1


if __name__ == "__main__":
    sys.exit(main())
