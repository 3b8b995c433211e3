"""What several commands take: options with their KVLOG_* variables, and what their values have to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from kvlog.cli.user_commands import Target
from kvlog.config import check_zookeeper
from kvlog.errors import SettingsError

NODE = "http://127.0.0.1:5000"
"""The node that is asked if none is given: that of ``python server.py`` without flags."""

_NODE = re.compile(r"https?://[^/\s?#]+")
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Result = TypeVar("_Result")


class Setting(click.Option):
    """An option that may also be given as a variable, of the environment that the command line came with.

    click would look into this process's own environment; here it is what ``parse`` was given. A variable of an
    option that may be repeated holds a list, separated by commas.
    """

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The variable's value; None if there is none."""
        environment: Mapping[str, str] = ctx.find_root().obj
        text = environment.get(str(self.envvar))
        if text is None or not self.multiple:
            return text
        return tuple(text.split(",")) if text else None


class CheckedCommand(click.Command):
    """A command whose senseless values are wrong usage of this very command, so that its help can be named."""

    def invoke(self, ctx: click.Context) -> Any:
        """Make the command's value."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.UsageError(str(error), ctx) from error


class CommandGroup(click.Group):
    """Commands that have a first word in common, in the order in which they were added, or in sections."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._sections: dict[str, tuple[str, ...]] = {}

    def add_commands(self, *commands: click.Command) -> None:
        """Add these."""
        for command in commands:
            self.add_command(command)

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add these, with a heading of their own in the help."""
        self.add_commands(*commands)
        self._sections[title] = tuple(str(command.name) for command in commands)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - its parent's signature
        """Their names, in order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the help says of them."""
        if not self._sections:
            super().format_commands(ctx, formatter)
        for title, names in self._sections.items():
            with formatter.section(title):
                width = formatter.width - 6 - max(map(len, self.commands))
                formatter.write_dl(
                    [
                        (f"{name:{max(map(len, self.commands))}}", self.commands[name].get_short_help_str(width))
                        for name in names
                    ]
                )


class Whole(click.ParamType[int]):
    """A whole number from ``low`` on."""

    name = "number"

    def __init__(self, low: int = 0) -> None:
        self._low = low

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value)
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < self._low:
            self.fail(f"{text!r} must be a whole number from {self._low}", param, ctx)
        return int(text)


class Seconds(click.ParamType[float]):
    """A number of seconds, from ``low`` to ``high``; decimals are allowed."""

    name = "seconds"

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        text = str(value)
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text) or not self._low <= float(text) <= self._high:
            self.fail(f"{text!r} must be a number of seconds from {self._low:g} to {self._high:g}", param, ctx)
        return float(text)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="the result in JSON on stdout, for programs; all else is on stderr"
)

node_option = click.option(
    "--node",
    "nodes",
    cls=Setting,
    envvar="KVLOG_NODE",
    multiple=True,
    default=(NODE,),
    show_envvar=True,
    show_default=True,
    metavar="URL[,...]",
    help="nodes to ask, as URL or HOST:PORT; the first that works is enough; may be repeated",
)


timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(0.1, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="how long a request may take, whichever nodes are tried",
)


def targeted(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Have a command take what all that ask nodes take; its function gets it as one value, in front."""
    return json_option(_targeted(function))


def targeted_quietly(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """The same without ``--json``, for a command whose output is another program's."""
    return _targeted(function)


def _targeted(function: Callable[..., _Result]) -> Callable[..., _Result]:
    @wraps(function)
    def inner(nodes: tuple[str, ...], timeout_s: float, as_json: bool = False, **rest: Any) -> _Result:
        return function(Target(urls(nodes), timeout_s, as_json), **rest)

    return node_option(timeout_option(inner))


def file_argument(text: str) -> Callable[[_Function], _Function]:
    """A file that the command reads or writes; ``text`` says what it is."""
    return click.argument("file", type=click.Path(path_type=Path), metavar="FILE", help=text)


def place_options(function: _Function) -> _Function:
    """Where in ZooKeeper the log is."""
    zk = click.option(
        "--zk",
        cls=Setting,
        envvar="KVLOG_ZK",
        default="",
        show_envvar=True,
        metavar="HOST:PORT[,...]",
        help="ZooKeeper's servers",
    )
    root = click.option(
        "--root",
        cls=Setting,
        envvar="KVLOG_ROOT",
        default="/kvlog",
        show_envvar=True,
        show_default=True,
        metavar="PATH",
        help="znode of the cluster",
    )
    return zk(root(function))


def data_dir_option(text: str, *, repeated: bool) -> Callable[[_Function], _Function]:
    """Data directories of nodes that do not run; ``text`` says of which."""
    return click.option(
        "--data-dir",
        "data_dirs" if repeated else "data_dir",
        cls=Setting,
        envvar="KVLOG_DATA_DIR",
        multiple=repeated,
        default=() if repeated else "",
        show_envvar=True,
        type=click.Path(),
        metavar="DIR",
        help=text,
    )


# --- what the values have to be -------------------------------------------------------------------------------


def place(zk: str, root: str) -> tuple[str, str]:
    """ZooKeeper's servers and the cluster's znode.

    Raises:
        SettingsError: one of them makes no sense.
    """
    check_zookeeper(zk, root)
    return zk, root


def urls(given: Sequence[str]) -> tuple[str, ...]:
    """URLs of nodes, each once, without a slash at the end; a bare HOST:PORT is taken for one.

    Raises:
        SettingsError: one of them is no URL of a node.
    """
    found = []
    for text in (part.strip() for item in given for part in item.split(",")):
        url = (text if "://" in text else f"http://{text}").rstrip("/")
        if not _NODE.fullmatch(url):
            raise SettingsError(f"--node {text!r}: must be the URL of a node, for example {NODE}")
        found.append(url)
    return tuple(dict.fromkeys(found))


def directories(given: Sequence[str]) -> tuple[Path, ...]:
    """Data directories.

    Raises:
        SettingsError: there is none, or one is given twice.
    """
    texts = [text for text in given if text]
    if not texts:
        raise SettingsError("--data-dir is missing: say where the node has its data, as --data-dir data/5000")
    paths = [Path(text) for text in texts]
    if len({path.resolve() for path in paths}) < len(paths):
        raise SettingsError("--data-dir: one of the directories is given twice")
    return tuple(paths)


def seconds(flag: str, text: str) -> float:
    """A number of seconds.

    Raises:
        SettingsError: it is none, or too large.
    """
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text):
        raise SettingsError(f"{flag} {text!r}: must be a number of seconds, up to 9999")
    return float(text)
