"""The demo: with sound nodes every claim is true, with a broken one the demo says which claim is false."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

import demo as program
from kvlog import demo
from kvlog.cluster import Answer, Cluster, ClusterNode, server_command
from kvlog.demo.narrator import Narrator, TextVoice
from kvlog.demo.scene import Scene
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports
from kvlog.zookeeper.peek import Peek

ROOT = Path(__file__).resolve().parents[1]
BROKEN_SERVER = ROOT / "tests" / "broken_server.py"
DEMO_S = 60
"""The demo's own bound, on a machine that does nothing else; the deadline of each test here is longer."""

MARK = "KVLOG_TEST_DEMO"


def command_line(ensemble: LocalEnsemble, *flags: str) -> list[str]:
    ports = ",".join(map(str, free_ports(3)))
    return [sys.executable, str(ROOT / "demo.py"), "--zk", ensemble.hosts, "--ports", ports, *flags]


def run(ensemble: LocalEnsemble, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(ensemble, *flags), capture_output=True, text=True, timeout=2 * DEMO_S, check=False
    )


def marked(mark: str) -> set[int]:
    """The processes that were started with this mark in their environment, by whomever."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except (OSError, ProcessLookupError):
            continue  # it has ended, or is not ours
    return found


def roots(ensemble: LocalEnsemble) -> list[str]:
    """The roots of demos in the ensemble."""
    client = KazooClient(ensemble.hosts)
    client.start(timeout=10)
    try:
        return [name for name in client.get_children("/") if name.startswith("kvlog-demo-")]
    finally:
        client.stop()
        client.close()


@contextmanager
def started(ensemble: LocalEnsemble, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The demo as a process in the background, killed if it has not ended in time; and its mark."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command_line(ensemble, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: mark, "PYTHONUNBUFFERED": "1"},
    )
    deadline = threading.Timer(2 * DEMO_S, process.kill)
    deadline.start()
    try:
        with process:
            yield process, mark
    finally:
        deadline.cancel()


@pytest.mark.parametrize("lesson", ["stale", "catchup"])
def test_a_lesson_is_told_as_json_lines_and_every_claim_is_true(ensemble: LocalEnsemble, lesson: str) -> None:
    done = run(ensemble, f"--{lesson}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(step) == {"step", "say", "data", "claims"} for step in steps)
    claims = [claim for step in steps for claim in step["claims"]]
    assert len(claims) > 10
    assert all(claim["true"] for claim in claims)
    by_name: dict[str, Any] = {step["step"]: step["data"] for step in steps}
    missed = by_name[f"{lesson}.down"]["missed_entries"]
    reads = {read["port"]: read for read in by_name[f"{lesson}.restart"]["reads"]}
    if lesson == "stale":
        (old,) = [read for read in reads.values() if read["stale"]]
        assert old["missed_entries"] == missed
        assert old["values"] == {"key0": "v1", "key1": "v1", "key2": "v1"}
        assert not any(read["stale"] for read in by_name["stale.heal"]["reads"])
    else:
        assert by_name["catchup.restart"]["replayed_entries"] == missed
        assert len({read["digest"] for read in reads.values()}) == 1
    assert roots(ensemble) == []


def test_both_lessons_as_plain_text_fit_eighty_columns_without_escape_codes(ensemble: LocalEnsemble) -> None:
    done = run(ensemble)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.isascii()
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("    $ ")] == []
    assert [line for line in lines if line.endswith(" ")] == []
    assert "v1 <- stale" in done.stdout
    assert "claims were checked, and all are true" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("lesson", ["stale", "catchup"])
@pytest.mark.parametrize(
    ("how", "numbers", "claim"),
    [
        ("drops", {2}, "all ports read v1"),
        ("versions", {2}, "all 3 ports have the same digest"),
        # Whoever leads is killed, so all of them are broken: it shows in the one that was started again.
        ("restarted", {0, 1, 2}, "all 3 ports have the same digest"),
    ],
)
def test_a_broken_replica_makes_a_claim_false(
    ensemble: LocalEnsemble,
    capsys: pytest.CaptureFixture[str],
    lesson: str,
    how: str,
    numbers: set[int],
    claim: str,
) -> None:
    def command(number: int) -> list[str]:
        broken = [sys.executable, str(BROKEN_SERVER), how]
        return broken if number in numbers else server_command(number)

    options = demo.Options(
        stale=lesson == "stale", catch_up=lesson == "catchup", ports=tuple(free_ports(3)), zk=ensemble.hosts
    )
    assert demo.run(options, command=command) == 1
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith(f"demo: this claim is false: {claim}")
    assert re.search("; expected .+, seen .+", last)
    assert "[FALSE]" in said.out
    assert roots(ensemble) == []


def test_a_replica_that_stops_answering_makes_a_claim_false_in_bounded_time(
    ensemble: LocalEnsemble, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(number: int) -> list[str]:
        return [sys.executable, str(BROKEN_SERVER), "stops"] if number == 2 else server_command(number)

    options = demo.Options(stale=False, catch_up=True, ports=tuple(free_ports(3)), zk=ensemble.hosts, json=True)
    assert demo.run(options, command=command) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("demo: this claim is false: ")
    assert json.loads(said.out.splitlines()[-1])["claims"][-1]["true"] is False


def test_an_update_without_a_known_outcome_is_repeated_until_it_has_one(
    keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Answer(504, {"outcome": "unknown"}, {})
    answers = [unknown, unknown, Answer(200, {"outcome": "committed", "index": 7}, {})]
    monkeypatch.setattr(ClusterNode, "update", lambda *_, **__: answers.pop(0))
    cluster = Cluster(keeper, "127.0.0.1:2181", ports=free_ports(3))
    narrator = Narrator(TextVoice(terminal=False))
    scene = Scene(cluster, Peek(cluster.hosts, cluster.root), narrator, zookeeper="none")
    assert scene.update(cluster.nodes[0], "key0", "v1").status == 200
    assert scene.repeated == [unknown, unknown]
    assert scene.unanswered == 2
    assert scene.indices == [7]
    assert scene.expected == {"key0": "v1"}


def test_ctrl_c_midway_exits_130_and_leaves_nothing_behind(ensemble: LocalEnsemble) -> None:
    with started(ensemble, "--stale") as (process, mark):
        assert process.stdout is not None
        assert any("kill -9 the leader" in line for line in process.stdout)
        assert len(marked(mark)) > 3
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == "demo: interrupted; everything that was started is gone\n"
    assert process.returncode == 130
    assert marked(mark) == set()
    assert roots(ensemble) == []


def test_keep_leaves_the_nodes_running_until_ctrl_c(ensemble: LocalEnsemble) -> None:
    with started(ensemble, "--catchup", "--keep", "--json") as (process, mark):
        assert process.stdout is not None
        step = next(step for line in process.stdout if (step := json.loads(line))["step"] == "keep")
        commands = step["data"]["commands"]
        assert len(commands) == 3 * 5
        ports = {re.search(r"127\.0\.0\.1:(\d+)/", command)[1] for command in commands}  # type: ignore[index]
        for port in ports:
            socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1].endswith("... Cleaning up\n")
    assert process.returncode == 0
    assert marked(mark) == set()


def test_a_port_in_use_is_said_in_a_sentence(ensemble: LocalEnsemble, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        options = demo.Options(stale=True, catch_up=True, ports=(*free_ports(2), port), zk=ensemble.hosts)
        assert demo.run(options) == 3
    said = capsys.readouterr()
    assert re.fullmatch(rf"demo: port {port} of 127\.0\.0\.1 .*--ports \d+,\d+,\d+\n", said.err)
    assert said.out == ""


def test_no_zookeeper_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    options = demo.Options(stale=True, catch_up=True, ports=tuple(free_ports(3)), zk=f"127.0.0.1:{port}")
    assert demo.run(options) == 3
    assert capsys.readouterr().err.startswith("demo: None of the given ZooKeeper servers can be used")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nodes", "2"],
        ["--nodes", "10"],
        ["--ports", "5000,5001"],
        ["--ports", "5000,5001,5001"],
        ["--ports", "5000,5001,70000"],
        ["--ports", "5000,5001,x"],
        ["--nodes", "4", "--ports", "5000,5001,5002"],
        ["--docker", "--local"],
        ["--zk", "127.0.0.1:2181", "--local"],
    ],
)
def test_arguments_that_make_no_sense_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.parse(arguments)
    assert ended.value.code == 2
    assert "demo.py: error: " in capsys.readouterr().err


def test_arguments_and_their_defaults() -> None:
    assert program.parse([]) == demo.Options(stale=True, catch_up=True, ports=(5000, 5001, 5002))
    assert program.parse(["--stale"]).catch_up is False
    assert program.parse(["--catchup"]).stale is False
    assert program.parse(["--nodes", "5"]).ports == (5000, 5001, 5002, 5003, 5004)
    assert program.parse(["--local"]).kind == "local"
