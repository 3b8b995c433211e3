"""How long a lease is known to live by its holder's clock."""

from __future__ import annotations

import pytest

from kvlog.client.term import Term


def test_it_counts_from_before_the_request_was_sent():
    """The nodes began later, so that it is never held for alive when it may have ended."""
    term = Term(9.0, 100.0)

    assert [term.left(now) for now in (100.0, 104.0, 109.0, 110.0)] == [9.0, 5.0, 0.0, 0.0]
    term.extend(104.0)
    assert term.left(112.0) == 1.0
    term.extend(103.0)
    assert term.left(112.0) == 1.0


def test_it_is_kept_alive_every_third_of_its_time():
    """Behind a failure sooner, and at its end at the latest, for then it is over."""
    term = Term(9.0, 100.0)

    assert [term.due(now) for now in (100.0, 102.0, 103.0, 108.0)] == [3.0, 1.0, 0.0, 0.0]
    term.extend(103.0)
    assert term.due(103.5) == 2.5
    term.postpone(106.0)
    assert term.due(106.0) == 0.75
    term.postpone(111.5)
    assert term.due(111.5) == pytest.approx(0.5)


def test_what_has_ended_does_not_come_back():
    """Not even by a keep-alive that was answered before."""
    term = Term(9.0, 100.0)
    term.end()
    term.extend(105.0)

    assert (term.left(105.0), term.due(105.0)) == (0.0, 0.0)
