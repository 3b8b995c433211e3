"""The command line itself: help, wrong usage, exit codes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kvlog import __version__
from kvlog.cli.arguments import parse
from kvlog.cli.commands import (
    AskRequest,
    Backup,
    Recover,
    RemoveReplica,
    Restore,
    ShowStatus,
    SkipEntry,
    Verify,
)
from kvlog.cli.options import NODE
from kvlog.errors import SettingsError

from .conftest import ROOT, kvlog

COMMANDS = [
    ("backup",),
    ("verify",),
    ("restore",),
    ("recover",),
    ("log",),
    ("log", "skip"),
    ("status",),
    ("replicas",),
    ("replicas", "remove"),
    ("request",),
    ("completion",),
]


def test_each_command_has_help(capsys: pytest.CaptureFixture[str]):
    """--help ends with 0 and says how the command is used."""
    for command in [(), *COMMANDS]:
        with pytest.raises(SystemExit) as ended:
            parse([*command, "--help"], {})
        assert ended.value.code == 0
        assert " ".join(("Usage: python -m kvlog", *command)) in capsys.readouterr().out


def test_help_works_as_a_process():
    """``python -m kvlog --help`` lists the commands."""
    result = kvlog("--help")

    assert result.code == 0
    for command in COMMANDS:
        assert command[0] in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["backup"],
        ["backup", "f", "--nonsense"],
        ["backup", "f", "--node", "ftp://x"],
        ["backup", "f", "--node", ""],
        ["backup", "f", "--node", "http://h:1/path"],
        ["restore", "f", "--data-dir", "d"],
        ["restore", "f", "--zk", "h:1"],
        ["restore", "f", "--zk", "h", "--data-dir", "d"],
        ["restore", "f", "--zk", "h:1", "--root", "kvlog/", "--data-dir", "d"],
        ["recover", "--zk", "h:1"],
        ["recover", "--zk", "h:1", "--data-dir", "d", "--data-dir", "./d"],
        ["log"],
        ["log", "skip", "5"],
        ["log", "skip", "-5", "--reason", "r"],
        ["log", "skip", "five", "--reason", "r"],
        ["log", "skip", "5", "--reason", " "],
        ["log", "skip", "5", "--reason", "r" * 501],
        ["log", "skip", "5", "--reason", "r", "--wait", "nan"],
        ["replicas", "remove"],
        ["request"],
        ["completion", "csh"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str]):
    """Missing, unknown and senseless arguments never begin anything."""
    with pytest.raises((SystemExit, SettingsError)) as refused:
        parse(arguments, {})

    assert refused.value.code == 2 if isinstance(refused.value, SystemExit) else refused.value.exit_code == 2


@pytest.mark.parametrize("arguments", [["nonsense"], ["restore", "f", "--data-dir", "d"]])
def test_wrong_usage_ends_with_2(arguments: list[str]):
    """And says on stderr what is wrong."""
    result = kvlog(*arguments)

    assert result.code == 2
    assert result.out == ""
    assert "no such command 'nonsense'" in result.err or "--zk is missing" in result.err


@pytest.mark.parametrize("arguments", [["log", "skip", "5"], ["log", "skip", "five", "--reason", "r"]])
def test_wrong_usage_names_the_help_of_its_command(arguments: list[str]):
    """That of the whole program would not have the missing option."""
    with pytest.raises(SettingsError, match=r"\n`python -m kvlog log skip --help` shows what there is"):
        parse(arguments, {})


@pytest.mark.parametrize("arguments", [[], ["log"], ["replicas"]])
def test_without_a_command_the_help_is_shown(arguments: list[str]):
    """On stderr, as wrong usage: who runs this in a script must not take it for done."""
    result = kvlog(*arguments)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(" ".join(("Usage: python -m kvlog", *arguments, "[OPTIONS] COMMAND")))


def test_the_version_is_that_of_the_package():
    """For bug reports."""
    result = kvlog("--version")

    assert (result.code, result.out, result.err) == (0, f"kvlog {__version__}\n", "")


def test_all_that_show_a_result_have_it_as_json():
    """--json is an option of every command but ``completion``, whose result is no data."""
    given = {
        ("backup", "f"): Backup((NODE,), Path("f"), force=False, as_json=True),
        ("verify", "f"): Verify(Path("f"), as_json=True),
        ("restore", "f", "--zk", "z:1", "--data-dir", "d"): Restore(
            "z:1", "/kvlog", Path("f"), Path("d"), as_json=True
        ),
        ("recover", "--zk", "z:1", "--data-dir", "d"): Recover(
            "z:1", "/kvlog", (Path("d"),), start=False, as_json=True
        ),
        ("log", "skip", "5", "--reason", "r"): SkipEntry((NODE,), 5, "r", 30.0, as_json=True),
        ("status",): ShowStatus((NODE,), as_json=True),
        ("replicas", "remove", "n1"): RemoveReplica((NODE,), "n1", as_json=True),
        ("request", "r1"): AskRequest((NODE,), "r1", settle=False, as_json=True),
    }

    for arguments, expected in given.items():
        assert parse([*arguments, "--json"], {}) == expected


def test_variables_stand_for_flags_and_flags_win():
    """KVLOG_NODE, KVLOG_ZK, KVLOG_ROOT and KVLOG_DATA_DIR, as with server.py."""
    variables = {
        "KVLOG_NODE": "h1:1,http://h2:2/",
        "KVLOG_ZK": "z:2181",
        "KVLOG_ROOT": "/r",
        "KVLOG_DATA_DIR": "d1,d2",
    }

    assert parse(["status"], variables) == ShowStatus(("http://h1:1", "http://h2:2"), as_json=False)
    assert parse(["backup", "f", "--node", "h3:3"], variables) == Backup(("http://h3:3",), Path("f"), force=False)
    assert parse(["recover"], variables) == Recover("z:2181", "/r", (Path("d1"), Path("d2")), start=False)
    assert parse(["status"], {"KVLOG_NODE": ""}) == ShowStatus((NODE,))
    restore = parse(["restore", "f", "--root", "/other", "--data-dir", "d"], variables)
    assert restore == Restore("z:2181", "/other", Path("f"), Path("d"))


def test_nodes_are_given_one_by_one_or_in_a_list():
    """--node is repeatable and comma separated; the default is a node's own."""
    several = parse(["request", "r1", "--node", "a:1,b:2", "--node", "c:3", "--node", "a:1", "--settle"], {})

    assert several == AskRequest(("http://a:1", "http://b:2", "http://c:3"), "r1", settle=True)
    assert parse(["log", "skip", "7", "--reason", " bad disk "], {}) == SkipEntry(
        ("http://127.0.0.1:5000",), 7, "bad disk", 30.0
    )


def test_an_interrupted_command_says_so():
    """SIGTERM or Ctrl-C while it waits for a node: exit code 1, a sentence, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "kvlog", "status", "--node", url], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        silent.settimeout(20)
        with silent.accept()[0], process:
            os.kill(process.pid, signal.SIGTERM)
            _, said = process.communicate(timeout=20)

    assert process.returncode == 1
    assert said == "python -m kvlog: interrupted; running the same command again is safe\n"
