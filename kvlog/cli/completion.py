"""Completion in shells: the script that a shell needs, and what it then asks for at each press of the key."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from click.shell_completion import BashComplete, FishComplete, ZshComplete, shell_complete

from kvlog.cli.arguments import program
from kvlog.cli.commands import SCRIPT, PrintCompletion

VARIABLE = "_KVLOG_COMPLETE"
"""By this a shell asks: with ``bash_source`` for the script, with ``bash_complete`` for what fits."""

_KINDS = {kind.name: kind for kind in (BashComplete, ZshComplete, FishComplete)}


def complete(instruction: str, environment: Mapping[str, str]) -> int:
    """Answer a shell; returns the exit code. What has been typed so far click finds in variables of its own."""
    return shell_complete(program, {"obj": environment}, SCRIPT, VARIABLE, instruction)


def print_completion(command: PrintCompletion) -> None:
    """``completion``: the script, on stdout."""
    sys.stdout.write(_KINDS[command.shell](program, {}, SCRIPT, VARIABLE).source())
