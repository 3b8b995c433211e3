"""What the report of a run says: the totals, and that nothing in it is taken for markup."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chain import Chain
from tests.faults.checkers.violation import Violation
from tests.faults.checks import Verdict
from tests.faults.observer import Sample, Span, spans
from tests.faults.operations import Delivery, Ended, Evidence, History, Kind, Operation, Outcome
from tests.faults.remains import HISTORY, LOGS, Course, Remains, load, save
from tests.faults.report import Times, totals_of, write_report
from tests.faults.rounds import Round

S = 10**9
N1, N2 = "127.0.0.1:1", "127.0.0.1:2"


def operation(number: int, outcome: Outcome, *, at_s: float, took_s: float | None = 0.01, **more) -> Operation:
    invoked = round(at_s * S)
    fields = {
        "process": 1,
        "workload": "register",
        "kind": Kind.WRITE,
        "node": N1,
        "key": "register/1",
        "argument": f"1-{number}",
    } | more
    returned = None if took_s is None else invoked + round(took_s * S)
    return Operation(number=number, invoked_ns=invoked, returned_ns=returned, outcome=outcome, **fields)


@pytest.fixture
def remains(tmp_path) -> Remains:
    """A run of two minutes with two rounds, three epochs and five operations."""
    chain = Chain()
    chain.barrier("n1")
    chain.write(("register/1", "1-1"), ("register/1", "1-2"))
    chain.barrier("n2")
    chain.barrier("n1")
    operations = (
        operation(1, Outcome.OK, at_s=100, took_s=0.5, request_id="p1-1", revision=1, index=1),
        operation(2, Outcome.OK, at_s=110, revision=2, index=1),
        operation(3, Outcome.REFUSED, at_s=120, took_s=2.25, error="<script>alert(1)</script>"),
        operation(4, Outcome.UNKNOWN, at_s=130, took_s=None),
        operation(5, Outcome.OK, at_s=150, kind=Kind.READ, workload="set", argument=None, result="x"),
    )
    rounds = (
        Round(("kill-leader",), 15.0, 105 * S, ["<b>killed</b> n1"], 108 * S, {N1: 1.0, N2: 3.0}, 4.0),
        Round(
            ("kill-leader", "zk-hold"), 15.0, 140 * S, ["x", "y"], 144 * S, {N1: None, N2: 2.0}, None, "n1 & n2"
        ),
    )
    samples = (
        Sample(100 * S, N1, 101 * S, 0, "i1", "leader", 2),
        Sample(100 * S, N2, 101 * S, 0, "i2", "follower", 2),
        Sample(106 * S, N1),
        Sample(160 * S, N2, 161 * S, 0, "i2", "leader", 3),
    )
    course = Course(7, ("kill-leader", "zk-hold"), 12, "2026-01-01T00:00:00+00:00", (N1, N2), 100 * S, 220 * S)
    course.moves = 3
    deliveries = (
        Delivery(1, 1, "register/1", "1-1", N1, 101 * S),
        Delivery(1, 2, "register/1", "1-2", N2, 102 * S),
    )
    evidence = Evidence(operations, tuple(chain.entries), deliveries, (Ended(1, "", 0, 2),))
    return Remains(course, evidence, rounds, samples, tmp_path / LOGS)


def test_the_totals_are_those_of_the_run(remains):
    """Operations by outcome, faults by kind with the time to the first writes, changes of leader, and so on."""
    verdicts = [Verdict("revisions", ()), Verdict("liveness", (Violation("I14", "late"),), note="2 undecided")]

    totals = totals_of(remains, verdicts)

    assert totals.operations == {"ok": 3, "failed": 0, "refused": 1, "unknown": 1}
    assert totals.by_workload["set"] == {"ok": 1, "failed": 0, "refused": 0, "unknown": 0}
    assert totals.faults == {"kill-leader": Times(3, 2.0, 3.0), "zk-hold": Times(1, 2.0, 2.0)}
    assert totals.first_writes == Times(3, 2.0, 3.0)
    assert (totals.minutes, totals.rounds, totals.leader_changes) == (2.0, 2, 2)
    assert (totals.entries, totals.revisions, totals.under_ids, totals.slowest_s) == (4, 2, 1, 2.25)
    assert (totals.watchers, totals.watcher_moves, totals.changes_told) == (1, 3, 2)
    assert (totals.checkers, totals.violations) == ({"revisions": 0, "liveness": 1}, 1)
    assert totals.notes == {"liveness": "2 undecided"}


def test_the_page_needs_nothing_else_and_takes_nothing_for_markup(remains, tmp_path):
    """It is well-formed, asks for no script, style or image from elsewhere, and shows texts as they are."""
    operations = (remains.evidence.operations[2],)
    verdict = Verdict("revisions", (Violation("I2", "<i>seen</i> & refused", operations),))

    write_report(remains, [verdict], tmp_path)

    page = (tmp_path / "report.html").read_text()
    assert "&lt;i&gt;seen&lt;/i&gt; &amp; refused" in page
    assert "&lt;b&gt;killed&lt;/b&gt; n1" in page
    for markup in ("<script", "<b>", "<i>", "<link", "<img", "href", "src="):
        assert markup not in page
    picture = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    titles = [title.text for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert "kill-leader, 3.0 s: <b>killed</b> n1" in titles
    assert f"{N1}: leader" in titles
    assert f"{N1}: no answer" in titles


def test_the_totals_are_there_for_programs_with_all_violations(remains, tmp_path):
    """report.json, from which tables are made."""
    verdict = Verdict("revisions", tuple(Violation("I1", f"lost {number}") for number in range(30)))

    write_report(remains, [verdict], tmp_path)

    found = json.loads((tmp_path / "report.json").read_text())
    assert found["operations"] == {"ok": 3, "failed": 0, "refused": 1, "unknown": 1}
    assert found["faults"]["zk-hold"] == {"count": 1, "median": 2.0, "longest": 2.0}
    assert [each["what"] for each in found["violations"]] == [f"lost {number}" for number in range(30)]
    assert "has found 10 more" in (tmp_path / "report.html").read_text()


def test_a_run_of_nothing_has_a_report(tmp_path):
    """Whatever went wrong, and however early."""
    course = Course(1, (), 0, "2026-01-01T00:00:00+00:00", (N1,), invalid=["the load: broken"])

    totals = write_report(Remains(course, Evidence((), ()), (), (), tmp_path), [], tmp_path)

    assert totals.operations == {"ok": 0, "failed": 0, "refused": 0, "unknown": 0}
    assert "This run shows nothing: the load: broken" in (tmp_path / "report.html").read_text()


def test_what_a_run_leaves_behind_is_the_same_read_again(remains, tmp_path):
    """So that evidence can be checked anew."""
    history = History(Path(tmp_path / HISTORY))
    for each in remains.evidence.operations:
        history.note(each)
    history.close()

    save(remains, tmp_path)
    again = load(tmp_path)

    rounds = [replace(each, names=tuple(each.names)) for each in again.rounds]
    assert (again.evidence, tuple(rounds), again.samples) == (remains.evidence, remains.rounds, remains.samples)
    assert again.course.first_ns == remains.course.first_ns


def test_spans_are_what_a_node_said_for_a_while():
    """Each ends where the next one begins."""
    samples = [Sample(1, N1, role="leader"), Sample(2, N1, role="leader"), Sample(3, N1), Sample(5, N1)]

    assert list(spans(samples)) == [Span(N1, "leader", 1, 3), Span(N1, "", 3, 5)]
