"""A node's settings: where they come from, and the sentence for each that makes no sense."""

import dataclasses
from pathlib import Path

import pytest

from kvlog.config import Settings, parse
from kvlog.core.machine import HISTORY_REVISIONS
from kvlog.errors import SettingsError

ZK = ("--zk", "127.0.0.1:2181")
DEFAULTS = Settings(
    host="127.0.0.1",
    port=5000,
    zk="127.0.0.1:2181",
    root="/kvlog",
    node_id="127.0.0.1:5000",
    advertise="127.0.0.1:5000",
    data_dir=Path("data/5000"),
    recover="catchup",
    session_timeout_s=10,
    demo=False,
    retain_entries=10_000,
    log_bytes_max=256 * 2**20,
    request_window=100_000,
    history=HISTORY_REVISIONS,
    failpoint="",
)


def test_only_zookeeper_has_to_be_said():
    """All else has a default."""
    assert parse(ZK, {}) == DEFAULTS
    assert parse(ZK, {}).url == "http://127.0.0.1:5000"


FLAGS = [
    ("host", ["--host", "10.0.0.1"], "KVLOG_HOST", "10.0.0.2"),
    ("port", ["--port", "5001"], "KVLOG_PORT", "5002"),
    ("zk", ["--zk", "a:1,b:2"], "KVLOG_ZK", "c:3"),
    ("root", ["--root", "/a/b"], "KVLOG_ROOT", "/c"),
    ("node_id", ["--id", "n1"], "KVLOG_ID", "n2"),
    ("advertise", ["--advertise", "h:1"], "KVLOG_ADVERTISE", "h:2"),
    ("data_dir", ["--data-dir", "/tmp/1"], "KVLOG_DATA_DIR", "/tmp/2"),
    ("recover", ["--recover", "stale"], "KVLOG_RECOVER", "catchup"),
    ("session_timeout_s", ["--session-timeout", "4.5"], "KVLOG_SESSION_TIMEOUT", "6"),
    ("demo", ["--demo", "0"], "KVLOG_DEMO", "1"),
    ("retain_entries", ["--retain", "20"], "KVLOG_RETAIN", "30"),
    ("log_bytes_max", ["--log-limit-mb", "1"], "KVLOG_LOG_LIMIT_MB", "2"),
    ("request_window", ["--request-window", "100"], "KVLOG_REQUEST_WINDOW", "200"),
    ("history", ["--history", "0"], "KVLOG_HISTORY", "200"),
    ("hot_path", ["--hot-path", "0"], "KVLOG_HOT_PATH", "1"),
]


@pytest.mark.parametrize(("field", "flag", "variable", "other"), FLAGS)
def test_flags_win_over_variables_and_both_over_defaults(field: str, flag: list[str], variable: str, other: str):
    """Each setting can be given both ways."""
    by_flag = getattr(parse([*ZK, *flag], {}), field)
    by_variable = getattr(parse(() if field == "zk" else ZK, {variable: other}), field)

    assert by_flag != by_variable
    assert by_flag == getattr(parse([*ZK, *flag], {variable: other}), field)


def test_every_setting_is_in_the_table():
    """A new setting is tested too; failpoints, which need another flag, by themselves."""
    assert {field.name for field in dataclasses.fields(Settings)} == {row[0] for row in FLAGS} | {"failpoint"}


def test_failpoints_are_armed_by_flag_or_variable_and_only_with_demo():
    """Nobody fails on purpose by accident."""
    spec = "after_append:kill@3"

    assert parse([*ZK, "--demo", "--failpoint", spec], {}).failpoint == spec
    assert parse([*ZK, "--demo"], {"KVLOG_FAILPOINT": spec}).failpoint == spec
    assert parse([*ZK, "--failpoint", ""], {"KVLOG_FAILPOINT": spec}).failpoint == ""
    for words, variables in (
        (["--failpoint", spec], {}),
        (["--failpoint", spec], {"KVLOG_DEMO": "0"}),
        ([], {"KVLOG_FAILPOINT": spec}),
    ):
        with pytest.raises(SettingsError, match="makes a node fail on purpose, so it is taken only with --demo"):
            parse([*ZK, *words], variables)


def test_other_variables_are_not_read():
    """Nothing but KVLOG_*."""
    assert parse(ZK, {"HOST": "x", "PORT": "1", "ZK": "y", "KVLOG_OTHER": "z"}) == DEFAULTS


def test_what_is_not_said_follows_from_the_address():
    """The advertised address, the id and the data directory."""
    found = parse([*ZK, "--host", "node-1.example", "--port", "7000"], {})

    assert (found.advertise, found.node_id, found.data_dir) == (
        "node-1.example:7000",
        "node-1.example:7000",
        Path("data/7000"),
    )


@pytest.mark.parametrize(
    ("words", "on"),
    [
        ([], False),
        (["--demo"], True),
        (["--demo", "1"], True),
        (["--demo", "yes"], True),
        (["--demo", "0"], False),
        (["--demo", "off"], False),
        (["--demo", "--demo", "0"], False),
    ],
)
def test_a_switch_is_on_or_off(words: list[str], on: bool):
    """Alone it means on; the last one counts."""
    assert on == parse([*ZK, *words], {}).demo


ERRORS = [
    ((), "--zk is missing: say where ZooKeeper is"),
    (("--zk", "localhost"), "--zk 'localhost': must be HOST:PORT"),
    (("--zk", "a:1,,b:2"), "--zk '': must be HOST:PORT"),
    (("--zk", "a:1/chroot"), "--zk 'a:1/chroot': must be HOST:PORT"),
    (("--zk", "a:0"), "--zk 'a:0': must be HOST:PORT"),
    (("--zk", "a:65536"), "--zk 'a:65536': must be HOST:PORT"),
    ((*ZK, "--port", "http"), "--port 'http': must be a number"),
    ((*ZK, "--port", "0"), "--port 0: must be from 1 to 65535"),
    ((*ZK, "--port", "65536"), "--port 65536: must be from 1 to 65535"),
    ((*ZK, "--port", "80.5"), "--port 80.5: must be a whole number"),
    ((*ZK, "--port", "nan"), "--port nan: must be from 1 to 65535"),
    ((*ZK, "--root", "kvlog"), "--root 'kvlog': must look like /kvlog"),
    ((*ZK, "--root", "/"), "--root '/': must look like /kvlog"),
    ((*ZK, "--root", "/kvlog/"), "--root '/kvlog/': must look like /kvlog"),
    ((*ZK, "--root", ""), "--root '': must look like /kvlog"),
    ((*ZK, "--recover", "maybe"), "--recover 'maybe': must be catchup or stale"),
    ((*ZK, "--host", "0.0.0.0"), "--host 0.0.0.0 listens everywhere"),
    ((*ZK, "--host", "::"), "--host :: listens everywhere"),
    ((*ZK, "--advertise", "nowhere"), "--advertise 'nowhere': must be HOST:PORT"),
    ((*ZK, "--advertise", "http://a:1"), "--advertise 'http://a:1': must be HOST:PORT"),
    ((*ZK, "--id", "a/b"), "--id 'a/b': up to 100 of the characters"),
    ((*ZK, "--id", "n" * 101), "up to 100 of the characters"),
    ((*ZK, "--id", "knoten-ä"), "up to 100 of the characters"),
    ((*ZK, "--session-timeout", "0.5"), "--session-timeout 0.5: must be from 1 to 120"),
    ((*ZK, "--session-timeout", "inf"), "--session-timeout inf: must be from 1 to 120"),
    ((*ZK, "--session-timeout", "long"), "--session-timeout 'long': must be a number"),
    ((*ZK, "--history", "-1"), "--history -1: must be from 0 to 10000000"),
    ((*ZK, "--history", "10000001"), "--history 10000001: must be from 0 to 10000000"),
    ((*ZK, "--demo", "perhaps"), "--demo 'perhaps': must be 1 or 0"),
]


@pytest.mark.parametrize(("words", "sentence"), ERRORS)
def test_a_setting_that_makes_no_sense_is_named(words: tuple[str, ...], sentence: str):
    """Which one, and what it should be; exit code 2."""
    with pytest.raises(SettingsError) as refusal:
        parse(words, {})

    assert sentence in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_an_unknown_flag_ends_the_program(capsys: pytest.CaptureFixture[str]):
    """Exit code 2, and the flag is named."""
    with pytest.raises(SystemExit) as end:
        parse([*ZK, "--ports", "1"], {})

    assert end.value.code == 2
    assert "--ports" in capsys.readouterr().err


def test_a_wildcard_host_needs_an_address_to_advertise():
    """Others cannot connect to "everywhere"."""
    found = parse([*ZK, "--host", "0.0.0.0", "--advertise", "node-1:5000"], {})

    assert (found.host, found.advertise, found.node_id) == ("0.0.0.0", "node-1:5000", "node-1:5000")


@pytest.mark.parametrize("host", ["::1", "2001:db8::7"])
def test_an_ipv6_host_is_advertised_in_brackets(host: str):
    """It needs nothing else to be said."""
    found = parse([*ZK, "--host", host], {})

    assert (found.host, found.advertise) == (host, f"[{host}]:5000")


def test_ipv6_servers_are_written_in_brackets():
    """For ZooKeeper and for the advertised address."""
    found = parse(["--zk", "[::1]:2181,[::1]:2182", "--advertise", "[2001:db8::7]:80", "--id", "n1"], {})

    assert (found.zk, found.url) == ("[::1]:2181,[::1]:2182", "http://[2001:db8::7]:80")


def test_help_says_it_all(capsys: pytest.CaptureFixture[str]):
    """Every setting is in --help."""
    with pytest.raises(SystemExit) as end:
        parse(["--help"], {})
    text = capsys.readouterr().out

    assert end.value.code == 0
    assert [flag for _, (flag, _), _, _ in FLAGS if flag not in text] == []
    assert "--failpoint" in text
