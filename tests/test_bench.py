"""The benchmarks: what is believed, what is shown, and what wrk's scripts see. Nothing is timed."""

from __future__ import annotations

import base64
import importlib
import json
import re
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bench.case import Case, Figure, Scale, Unverified
from bench.cases.loading import Account
from bench.inputs import Inputs
from bench.load import Kind, Load, Outcome, judged, parse, wrk
from bench.report import markdown
from bench.results import Measured, Results, read, this_machine
from bench.runs import Bench
from bench.systems.base import System
from bench.systems.loaded import LoadedSystem
from kvlog.processes import ProcessKeeper

SAID = {
    "requests": 100,
    "seconds": 1.0,
    "p50_ms": 1.5,
    "p99_ms": 9.25,
    "longest_ms": 12.0,
    "sent": 104,
    "answered": 100,
    "writes_sent": 104,
    "writes_answered": 100,
    "sockets": {"connect": 0, "read": 0, "write": 0, "timeout": 0},
    "wrong": {},
    "first_wrong": "",
}
LOAD = Load(Kind.PUT, 4, 1.0)


# --- inputs -----------------------------------------------------------------------------------------------


def test_a_value_tells_its_key_and_its_write():
    """And nothing that was changed is taken for one."""
    inputs = Inputs.drawn(7, keys=20)
    value = inputs.value("key-00000003", 12345)

    assert len(value) == 100
    assert inputs.number_in("key-00000003", value) == 12345
    assert inputs.number_in("key-00000004", value) is None
    assert inputs.number_in("key-00000003", value[:-1] + "~") is None


def test_the_same_seed_gives_the_same_inputs():
    """Another one gives others."""
    assert Inputs.drawn(7, keys=20) == Inputs.drawn(7, keys=20)
    assert Inputs.drawn(7, keys=20).order != Inputs.drawn(8, keys=20).order


def test_all_keys_take_their_turn():
    """The last write of each key is found without going through all of them."""
    inputs = Inputs.drawn(7, keys=20)
    last = {inputs.keys[inputs.order[(number - 1) % 20]]: number for number in range(1, 54)}

    assert {key: inputs.last_write(key, 53) for key in inputs.keys} == last
    assert sorted(inputs.last_write(key, 5) for key in inputs.keys) == [0] * 15 + [1, 2, 3, 4, 5]


# --- what wrk says ----------------------------------------------------------------------------------------


def test_the_line_for_us_is_found_in_what_wrk_prints():
    """Around it stands what wrk says to people."""
    output = f"Running 1s test @ http://127.0.0.1:1\n  1 threads\n\nresult: {json.dumps(SAID)}\n"

    outcome = judged(parse(output), LOAD)

    assert outcome == Outcome(100, 1.0, 1.5, 9.25, 12.0, 104, 100)
    assert outcome.per_second == 100


def test_no_result_is_no_outcome():
    """A script that broke says so in wrk's output."""
    with pytest.raises(Unverified, match="attempt to index a nil value"):
        parse("load.lua: attempt to index a nil value\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"wrong": {"status 503": 2}, "first_wrong": "status 503: busy"},
            "2 of status 503; the first of them: .*busy",
        ),
        ({"sockets": {"connect": 0, "read": 0, "write": 0, "timeout": 3}}, "3 of timeout"),
        ({"requests": 0, "answered": 0, "sent": 4}, "nothing was answered"),
        ({"sent": 105}, "5 requests were under way at the end, on 4 connections"),
        ({"writes_sent": 99}, "-1 requests were under way"),
        ({"requests": 200}, "wrk has counted 200 answers, and its script 100"),
    ],
)
def test_what_does_not_fit_together_has_no_outcome(change: dict[str, Any], reason: str):
    """One wrong answer, one that did not come, or counts that cannot be."""
    with pytest.raises(Unverified, match=reason):
        judged({**SAID, **change}, LOAD)


# --- wrk's scripts, against servers that are right or wrong -------------------------------------------------


class Dictionary(ThreadingHTTPServer):
    """Answers as each of the systems does, from one dictionary; in what it does wrong it is told by ``fault``."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, inputs: Inputs, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.values = inputs.prepared()
        self.fault = fault
        self.asked = 0

    def value(self, key: str) -> str:
        self.asked += 1
        if self.asked > 20 and self.fault == "old padding":
            return self.values[key][:-1] + "~"
        return self.values[min(self.values) if self.asked > 20 and self.fault == "another key" else key]


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Dictionary

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def answer(self, body: str, status: int = 200) -> None:
        if self.server.fault == "refused" and self.server.asked > 20:
            status = 503
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def body(self) -> str:
        return self.rfile.read(int(self.headers["Content-Length"])).decode()

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        if path.path == "/read":  # the course design
            key = parse_qs(path.query)["key"][0]
            self.answer(json.dumps({"key": key, "value": self.server.value(key)}))
        else:
            self.answer(self.server.value(path.path.rpartition("/")[2]))

    def do_PUT(self) -> None:
        key = urlsplit(self.path).path.rpartition("/")[2]
        self.server.values[key] = self.body()
        done = "refused" if self.server.fault == "not committed" else "committed"
        self.answer(json.dumps({"outcome": done, "key": key, "revision": 1}))

    def do_POST(self) -> None:
        said = json.loads(self.body())
        match urlsplit(self.path).path:
            case "/update":
                self.server.values[said["key"]] = said["value"]
                self.answer(json.dumps({"status": "ok", "key": said["key"]}))
            case "/bulk":
                self.server.values |= said
                self.answer(json.dumps({"count": len(said), "revision": 2}))
            case "/v1/txn":
                puts = said["then"][:-1] if self.server.fault == "one is missing" else said["then"]
                self.server.values |= {put["key"]: put["value"] for put in puts}
                results = [{"op": "put", "key": put["key"]} for put in puts]
                self.answer(json.dumps({"outcome": "committed", "succeeded": True, "results": results}))
            case "/v3/kv/txn":
                for put in (one["requestPut"] for one in said["success"]):
                    self.server.values[unpacked(put["key"])] = unpacked(put["value"])
                responses = [{"response_put": {}}] * len(said["success"])
                self.answer(json.dumps({"succeeded": True, "responses": responses}, separators=(",", ":")))
            case "/v3/kv/put":
                self.server.values[unpacked(said["key"])] = unpacked(said["value"])
                self.answer('{"header":{"revision":"7"}}')
            case _:
                value = base64.b64encode(self.server.value(unpacked(said["key"])).encode()).decode()
                self.answer(f'{{"header":{{}},"kvs":[{{"key":"{said["key"]}","value":"{value}"}}],"count":"1"}}')


def unpacked(text: str) -> str:
    return base64.b64decode(text, validate=True).decode()


INPUTS = Inputs.drawn(7, keys=500)
FIRST = 1001

RIGHT = (
    ("kvlog", Kind.MIXED),
    ("kvlog", Kind.BULK),
    ("etcd", Kind.MIXED),
    ("etcd", Kind.BULK),
    ("pysyncobj", Kind.MIXED),
    ("pysyncobj", Kind.BULK),
    ("course", Kind.MIXED),
)
WRONG = {
    (Kind.READ, "another key"): "the value of a key that was not asked for",
    (Kind.READ, "old padding"): "a value that nobody wrote",
    (Kind.READ, "refused"): "status 503",
    (Kind.PUT, "not committed"): "a write that is not done",
    (Kind.BULK, "one is missing"): "a bulk write that is not done",
}


def load(dialect: str, kind: Kind, fault: str = "") -> tuple[Outcome | Unverified, dict[str, str]]:
    """What came of a second of load on the server above, and what is in its dictionary then."""
    with ProcessKeeper() as keeper, Dictionary(INPUTS, fault) as server:
        address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            return wrk(keeper, dialect, address, Load(kind, 2, 1.0, FIRST), INPUTS), server.values
        except Unverified as error:
            return error, server.values
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def loads() -> dict[tuple[str, Kind, str], tuple[Outcome | Unverified, dict[str, str]]]:
    """All loads that are looked at below, side by side: wrk takes a second at least."""
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed: apt-get install wrk")
    wanted = [*((*right, "") for right in RIGHT), *(("kvlog", *wrong) for wrong in WRONG)]
    with ThreadPoolExecutor(len(wanted)) as threads:
        return dict(zip(wanted, threads.map(lambda one: load(*one), wanted), strict=True))


@pytest.mark.parametrize(("dialect", "kind"), RIGHT)
def test_a_script_writes_what_the_account_expects(loads: dict[Any, Any], dialect: str, kind: Kind):
    """Every answer is taken for right, and each key holds the last write whose turn it was, from the first on."""
    outcome, values = loads[dialect, kind, ""]

    assert isinstance(outcome, Outcome), outcome
    last = FIRST - 1 + outcome.writes_sent * kind.updates
    under_way = (outcome.writes_sent - outcome.writes_answered) * kind.updates
    due = {key: number if (number := INPUTS.last_write(key, last)) >= FIRST else 0 for key in INPUTS.keys}
    missed = [key for key in INPUTS.keys if INPUTS.number_in(key, values[key]) != due[key]]
    assert outcome.writes_answered > 0
    assert len(missed) <= under_way


@pytest.mark.parametrize(("kind", "fault"), WRONG)
def test_a_script_sees_a_wrong_answer(loads: dict[Any, Any], kind: Kind, fault: str):
    """And then there is no outcome."""
    outcome, _ = loads["kvlog", kind, fault]

    assert isinstance(outcome, Unverified), outcome
    assert WRONG[kind, fault] in str(outcome)


# --- the account of what was written ------------------------------------------------------------------------


class FakeSystem(LoadedSystem):
    """A dictionary for each of two nodes; does one thing wrong, if told so."""

    name = "fake"
    kinds = frozenset(Kind)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.nodes: list[dict[str, str]] = [{}, {}]
        self.count = 0
        self.starts = 0
        self.stops = 0

    def start(self) -> None:
        self.starts += 1

    def stop(self) -> None:
        self.stops += 1

    def version(self) -> str:
        return "1.0"

    @property
    def addresses(self) -> tuple[str, ...]:
        return ("one", "two")

    def find_leader(self) -> str:
        return "one"

    def pids(self) -> dict[str, tuple[int, ...]]:
        return {}

    def put(self, key: str, value: str) -> None:
        self.put_many({key: value})

    def put_many(self, items: dict[str, str]) -> None:
        for node in self.nodes:
            node.update(items)

    def get(self, key: str, *, node: int = 0) -> str | None:
        return self.nodes[node].get(key)

    def load(self, load: Load, inputs: Inputs) -> Outcome:
        """Ten writes are sent, eight of them are acknowledged, nine are committed."""
        for number in range(load.first, load.first + 9):
            key = inputs.keys[inputs.order[(number - 1) % len(inputs.order)]]
            if self.fault != "loses one" or number != load.first + 3:
                self.put(key, inputs.value(key, number))
        self.count += {"commits twice": 18, "commits too little": 7}.get(self.fault, 9)
        if self.fault == "another node lags":
            self.nodes[1] |= {inputs.keys[0]: "old"}
        return Outcome(8, 1.0, 1.0, 2.0, 3.0, writes_sent=10, writes_answered=8)

    def revision(self) -> int:
        return self.count

    def contents(self, node: int) -> dict[str, str]:
        return dict(self.nodes[node])

    def agree(self) -> None:
        """They do, as far as they say."""


def account(fault: str) -> Account:
    made = Account(FakeSystem(fault), Inputs.drawn(7, keys=20))
    made.prepare()
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is committed after a load here."""
    monkeypatch.setattr("bench.cases.loading.QUIET_S", 0.0)


def test_what_was_under_way_at_the_end_may_be_there_or_not():
    """Load after load."""
    made = account("")
    for _ in range(5):
        made.run(Kind.PUT, 2, 1.0)

    made.check_all_nodes()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "loses one",
            "2 keys do not have what was last written to them, although only 1 updates were not committed",
        ),
        ("commits twice", "10 writes were sent and 8 acknowledged, but 18 were committed"),
        ("commits too little", "10 writes were sent and 8 acknowledged, but 7 were committed"),
    ],
)
def test_a_load_that_lost_or_doubled_something_has_no_outcome(fault: str, reason: str):
    """By the system's own count, and by the values of all keys."""
    with pytest.raises(Unverified, match=reason):
        account(fault).run(Kind.PUT, 2, 1.0)


def test_a_node_that_has_something_else_is_found():
    """Though the leader is right."""
    made = account("another node lags")
    made.run(Kind.PUT, 2, 1.0)

    with pytest.raises(Unverified, match=r"node 1 has something else for 1 keys: \['key-00000000'\]"):
        made.check_all_nodes()


# --- runs ---------------------------------------------------------------------------------------------------


class FakeCase(Case):
    """Measures 4711, which must not be seen anywhere if it is not verified."""

    wrong: Unverified | OSError | None = None

    def generate(self) -> None:
        """Nothing is needed."""

    def prepare(self, _: System) -> None:
        """Nothing either."""

    def execute(self, _: System) -> list[Figure]:
        self.facts["fact"] = "4711 too"
        return [Figure("speed", 4711.0, "1/s", more_is_better=True)]

    def verify(self, _: System) -> None:
        if self.wrong is not None:
            raise self.wrong


class WrongCase(FakeCase):
    wrong = Unverified("a key was lost")


class FailingCase(FakeCase):
    wrong = OSError("/somewhere/here is gone")


class FreshCase(FakeCase):
    fresh = True


class LaterCase(FakeCase):
    """Comes behind the others."""


def run(*cases: type[Case]) -> tuple[Results, list[FakeSystem], list[str]]:
    """One run of these on one system; with the systems that were made and used, and what was said."""
    systems: list[FakeSystem] = []
    said: list[str] = []

    def make() -> System:
        systems.append(FakeSystem())
        return systems[-1]

    by_name = {case.__name__: case for case in cases}
    bench = Bench({"fake": make}, by_name, seed=1, scale=Scale(1.0, 1.0), say=said.append)
    results = Results({}, {}, {}, dict.fromkeys(by_name, "What it is."), measured=list(bench.run(1)))
    return results, [system for system in systems if system.starts], said


def test_a_case_that_is_verified_has_its_figures():
    """All cases of a run share a system."""
    results, systems, said = run(FakeCase, LaterCase)

    assert results.verified
    assert "4,711" in markdown(results, {})
    assert [(system.starts, system.stops) for system in systems] == [(1, 1)]
    assert "1 figures, verified" in said[0]


def test_a_case_that_is_not_verified_has_no_figures():
    """Neither in the file nor in the report nor along the way; only why. What comes after it has a new system."""
    results, systems, said = run(WrongCase, FakeCase)

    wrong = results.measured[0]
    assert not results.verified
    assert (wrong.figures, wrong.facts, wrong.unverified) == ((), {}, "a key was lost")
    assert "4,711" not in markdown(Results({}, {}, {}, results.titles, measured=[wrong]), {})
    assert "4711" not in said[0]
    assert "not verified: a key was lost" in said[0]
    assert [(system.starts, system.stops) for system in systems] == [(1, 1), (1, 1)]


def test_a_case_that_fails_has_no_figures():
    """What it says may hold paths, and is told to whoever runs it, but not written down."""
    results, _, said = run(FailingCase)

    assert results.measured[0].unverified == "OSError in the midst of it"
    assert "/somewhere/here" in said[0]


def test_a_case_that_wants_a_system_for_itself_gets_one():
    """Nothing runs on it before or after."""
    _, systems, _ = run(FakeCase, FreshCase, LaterCase)

    assert [(system.starts, system.stops) for system in systems] == [(1, 1)] * 3


# --- the report -----------------------------------------------------------------------------------------------


def figure(name: str, value: float, unit: str = "1/s") -> Figure:
    return Figure(name, value, unit, more_is_better=unit == "1/s")


def measured(number: int, system: str, rate: float, p99: float) -> Measured:
    figures = (
        figure("writes at 16", rate),
        figure("writes at 16: p50", p99 / 4, "ms"),
        figure("writes at 16: p99", p99, "ms"),
    )
    return Measured(number, system, "writes", figures, {"note": f"run {number}"} if system == "kvlog" else {})


RESULTS = Results(
    {"processor": "P", "cores": "2"},
    {"kvlog": "0.1.0"},
    {"runs": "3", "seed": "1"},
    {"writes": "Writes of single keys."},
    ["etcd is asked over its JSON gateway."],
    [
        *(measured(1, "kvlog", 1000.0, 12.0), measured(1, "etcd", 2000.0, 8.0), measured(1, "slow", 7.0, 900.0)),
        *(measured(2, "kvlog", 1500.0, 10.0), measured(2, "etcd", 1000.0, 9.0)),
        Measured(2, "slow", "writes", unverified="a key was lost"),
        *(measured(3, "kvlog", 1200.0, 11.0), measured(3, "etcd", 4000.0, 7.0), measured(3, "slow", 8.0, 800.0)),
    ],
)

REPORT = """
## Writes

Writes of single keys.

| | | median | | to etcd | time of a request |
| --- | --- | ---: | --- | ---: | ---: |
| writes at 16 | kvlog | 1,200 1/s | (1,000 to 1,500) | 0.50 | p50 2.75 ms, p99 11 ms |
|  | etcd | 2,000 1/s | (1,000 to 4,000) |  | p50 2 ms, p99 8 ms |

- **slow: not verified** in run 2, and therefore without figures: a key was lost
- kvlog: note: run 1; run 2; run 3

![writes](writes.svg)
"""


def test_the_report_shows_medians_and_ratios_within_a_run():
    """1000/2000, 1500/1000 and 1200/4000 make 0.50; the ratio of the medians would be 0.60."""
    found = markdown(RESULTS, {"writes": ["writes.svg"]})

    assert found.startswith("# Results\n\nMedians of 3 runs, ")
    assert "- Machine: processor P; cores 2\n- Versions: kvlog 0.1.0\n- Run: runs 3; seed 1\n" in found
    assert "- etcd is asked over its JSON gateway.\n" in found
    assert found.endswith(REPORT)


def test_results_are_read_as_they_were_written(tmp_path: Path):
    """And those of another format are not."""
    path = tmp_path / "results.json"
    RESULTS.write(path)

    assert read(path) == RESULTS
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match=r"results\.json is not of format 1"):
        read(path)


def test_the_machine_is_described_without_its_name():
    """No host name and no path."""
    found = this_machine()

    assert list(found) == ["processor", "cores", "memory", "kernel", "files on"]
    assert not any("/" in value and re.search(r"/\w+/", value) for value in found.values())
    assert socket.gethostname() not in " ".join(found.values())


def test_the_command_line_ends_with_1_if_something_was_not_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The results and the report are written all the same."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -r bench/requirements.txt")
    command = importlib.import_module("bench.run")
    monkeypatch.setattr(command, "SYSTEMS", {"fake": FakeSystem})
    for case, code in ((FakeCase, 0), (WrongCase, 1)):
        monkeypatch.setattr(command, "CASES", {"case": case})
        monkeypatch.setattr("sys.argv", ["bench", "--out", str(tmp_path), "--runs", "2"])

        assert command.main() == code
        assert len(read(tmp_path / "results.json").measured) == 2
        assert ("4,711" in (tmp_path / "report.md").read_text()) == (code == 0)
    assert "Not all of it could be verified" in capsys.readouterr().err
