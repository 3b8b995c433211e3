"""The command line itself: help, wrong usage, exit codes."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kvlog import __version__
from kvlog.cli.arguments import parse, program
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
from kvlog.cli.user_commands import (
    GetKey,
    ListKeys,
    PutKey,
    Reading,
    RollBack,
    RunLocked,
    ShowDiff,
    TailLog,
    Target,
    WatchKeys,
)
from kvlog.errors import SettingsError

from .conftest import ROOT, kvlog, started

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
    ("transfer",),
    ("catchup",),
    ("get",),
    ("put",),
    ("delete",),
    ("list",),
    ("watch",),
    ("txn",),
    ("load",),
    ("history",),
    ("diff",),
    ("rollback",),
    ("explain",),
    ("lease",),
    ("lease", "grant"),
    ("lease", "keep-alive"),
    ("lease", "revoke"),
    ("lock",),
    ("log", "tail"),
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
        ["catchup", "--node", "h1:1,h2:2"],
        ["get"],
        ["get", "k", "--at", "-1"],
        ["get", "k", "--at", "1_0"],
        ["get", "k", "--at", "3", "--linearizable"],
        ["get", "k", "--timeout", "0"],
        ["put", "k"],
        ["put", "k", "v", "--file", "f"],
        ["put", "k", "v", "--ttl", "0.5"],
        ["put", "k", "v", "--ttl", "1e3"],
        ["put", "k", "v", "--ttl", "5", "--lease", "7"],
        ["put", "k", "v", "--ack", "some"],
        ["delete", "k", "--if-revision", "0"],
        ["list", "p", "--count", "--limit", "3"],
        ["list", "--limit", "0"],
        ["watch", "p", "--key", "k"],
        ["watch", "--from", "0"],
        ["txn"],
        ["load"],
        ["diff"],
        ["diff", "7", "3"],
        ["rollback", "3"],
        ["rollback", "3", "--key", "k", "--prefix", "p"],
        ["lease", "grant", "0"],
        ["lease", "keep-alive", "0"],
        ["lock", "name"],
        ["lock", "name", "--"],
        ["lock", "--json", "name", "true"],
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
    """--json is an option of every command but those whose output is another program's: a shell's, or any."""
    quiet = {("completion",), ("lock",)}
    groups = {command[:1] for command in COMMANDS if len(command) > 1}
    assert {command for command in COMMANDS if "--json" not in options_of(command)} == quiet | groups

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


def options_of(command: tuple[str, ...]) -> set[str]:
    """The options of a command."""
    found: click.Command = program
    for name in command:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return {option for parameter in found.params for option in parameter.opts}


def test_every_command_is_in_a_section_of_the_help(capsys: pytest.CaptureFixture[str]):
    """None is left out of `--help`, and none is in it twice."""
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]

    assert {name: first_words.count(name) for name in program.commands} == dict.fromkeys(program.commands, 1)


def test_what_users_ask_for_has_a_target_and_what_belongs_to_it():
    """Nodes, time and form are the same for all of them."""
    target = Target(("http://h1:1", "http://h2:2"), 2.5, as_json=True)
    common = ["--node", "h1:1,h2:2", "--timeout", "2.5", "--json"]
    reading = Reading(linearizable=False, min_revision=1, max_stale_ms=2, max_lag=3, at=4)
    reading_flags = ["--min-revision", "1", "--max-stale-ms", "2", "--max-lag", "3", "--at", "4"]
    given = {
        ("get", "k", *reading_flags): GetKey(target, "k", reading),
        ("put", "k", "", "--if-revision", "0", "--ack", "log"): PutKey(target, "k", "", if_revision=0, ack="log"),
        ("put", "k", "--file", "-", "--lease", "7"): PutKey(target, "k", None, Path("-"), lease=7),
        ("list",): ListKeys(target),
        ("list", "p", "--from", "pa", "--limit", "3", "--keys-only", "--at", "9"): ListKeys(
            target, "p", "pa", 3, keys_only=True, at=9
        ),
        ("watch", "--key", "k", "--from", "5", "--limit", "1"): WatchKeys(target, "", "k", 5, 1),
        ("rollback", "5", "--prefix", "", "--dry-run"): RollBack(target, 5, None, "", dry_run=True),
        ("diff", "5", "5"): ShowDiff(target, 5, 5),
        ("log", "tail", "--from", "0"): TailLog(target, 0),
    }

    for arguments, expected in given.items():
        assert parse([*arguments, *common], {}) == expected


@pytest.mark.parametrize("marker", [[], ["--"]])
def test_a_lock_takes_any_command_behind_its_name(marker: list[str]):
    """What looks like an option there is the command's own."""
    found = parse(["lock", "--ttl", "5", "--wait", "0", "name", *marker, "ls", "--json", "-l"], {})

    assert found == RunLocked(Target((NODE,)), "name", ("ls", "--json", "-l"), 5.0, 0.0)


def test_help_needs_none_of_what_commands_need():
    """Completion asks at each press of a key: what takes long to import is left for when it is used."""
    script = "import sys, kvlog.cli.main; print(*sorted({'httpx', 'kazoo', 'lmdb', 'urllib3'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ended.stdout == "\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("status",), "interrupted; running the same command again is safe"),
        (("put", "k", "v"), "interrupted; if it was to change something, that may have happened, or not"),
    ],
)
def test_an_interrupted_command_says_so(command: tuple[str, ...], said: str):
    """SIGTERM or Ctrl-C while it waits for a node: exit code 1, a sentence, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        with (
            started(*command, "--node", f"http://127.0.0.1:{silent.getsockname()[1]}") as process,
            silent.accept()[0],
        ):
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert err == f"python -m kvlog: {said}\n"
