"""The command line: which commands there are, and how one becomes a value.

What a command does is neither here nor in ``user_arguments`` and ``operator_arguments``: a command's function
there only checks what was given. So every command line can be looked at without anything being done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from kvlog import __version__
from kvlog.cli import operator_arguments as operators
from kvlog.cli import user_arguments as users
from kvlog.cli.commands import PROGRAM, SCRIPT, Command, PrintCompletion
from kvlog.cli.options import CheckedCommand, CommandGroup
from kvlog.errors import SettingsError

SHELLS = ("bash", "zsh", "fish")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Command:
    """The command from a command line without the program's name, and from the environment.

    Raises:
        SettingsError: what is given makes no sense; says what it should be, and which help has more.
        SystemExit: ``--help`` or ``--version``, or a command is missing; what there is has been shown.
    """
    try:
        with program.make_context(PROGRAM, list(arguments), obj=environment) as context:
            command: Command = program.invoke(context)
            return command
    except click.exceptions.Exit as ended:
        raise SystemExit(ended.exit_code) from ended
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        raise SystemExit(error.exit_code) from error
    except click.UsageError as error:
        text = error.format_message().rstrip(".")
        path = error.ctx.command_path if error.ctx else PROGRAM
        raise SettingsError(f"{text[:1].lower()}{text[1:]}\n`{path} --help` shows what there is") from error


@click.command(cls=CheckedCommand)
@click.argument("shell", type=click.Choice(SHELLS), help="for which shell")
def completion(shell: str) -> PrintCompletion:
    """Print the script with which a shell completes these commands.

    It completes `kvlog`, the command that `pip install .` makes.

    In ~/.bashrc: eval "$(kvlog completion bash)"

    In ~/.zshrc, after compinit: eval "$(kvlog completion zsh)"

    For fish: kvlog completion fish > ~/.config/fish/completions/kvlog.fish
    """
    return PrintCompletion(shell)


lease = CommandGroup("lease", help="See to leases, with which keys go away.")
lease.add_commands(users.grant, users.keep_alive, users.revoke)

log = CommandGroup("log", help="Look at the log, or repair it.")
log.add_commands(users.tail, operators.skip)

replicas = CommandGroup("replicas", help="See to the nodes that trimming counts on.")
replicas.add_commands(operators.remove)


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--node, --zk, --root and --data-dir may also be given as KVLOG_NODE and so on; flags win. "
    "Exit codes: 0 done, 1 not done, 2 wrong usage, 3 no such key or condition not met.",
)
@click.version_option(__version__, prog_name=SCRIPT, message="%(prog)s %(version)s")
def program() -> None:
    """Reads, writes and looks after a kvlog cluster."""


program.add_section(
    "Keys and values", users.get, users.put, users.delete, users.list_, users.watch, users.txn, users.load
)
program.add_section("The past", users.history, users.diff, users.rollback, users.explain)
program.add_section("Leases and locks", lease, users.lock)
program.add_section(
    "For operators",
    operators.status,
    log,
    operators.transfer,
    operators.catchup,
    operators.backup,
    operators.verify,
    operators.restore,
    operators.recover,
    replicas,
    operators.request,
)
program.add_section("Others", completion)
