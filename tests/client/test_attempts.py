"""Which node is asked next, when, for how long, and when a call gives up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlog.client.attempts import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    RETRY_AFTER_MAX_S,
    TRY_MAX_S,
    TRY_MIN_S,
    Attempts,
    GiveUp,
    Pause,
    Try,
)


def attempts(nodes: int = 3, *, first: int = 0, timeout: float = 6.0, chance: float = 1.0) -> Attempts:
    return Attempts(nodes, first=first, now=0.0, timeout=timeout, chance=lambda: chance)


def test_the_first_node_is_asked_first_and_the_others_in_their_order():
    """From the one that is named on, round and round."""
    policy = attempts(first=1)

    asked = []
    for now in (0.0, 0.1, 0.2):
        step = policy.next(now)
        assert isinstance(step, Try)
        asked.append(step.node)
        policy.failed(now, in_doubt=False)

    assert asked == [1, 2, 0]


def test_a_node_that_is_silent_costs_an_equal_share_of_the_time():
    """Three nodes and six seconds: two each; what one leaves over is shared by the others."""
    policy = attempts(timeout=6.0)

    assert policy.next(0.0) == Try(0, 2.0)
    policy.failed(2.0, in_doubt=True)
    assert policy.next(2.0) == Try(1, 2.0)
    policy.failed(2.5, in_doubt=True)
    assert policy.next(2.5) == Try(2, 3.5)


def test_a_try_is_never_longer_than_its_bound():
    """However much time there is."""
    assert attempts(timeout=600).next(0.0) == Try(0, TRY_MAX_S)
    assert attempts(1, timeout=3).next(0.0) == Try(0, 3)


def test_a_node_that_has_failed_is_left_alone_and_longer_each_time():
    """The pause doubles up to its bound; the part that chance has a say in is half of it."""
    policy, now, pauses = attempts(1, timeout=100), 0.0, []

    for _ in range(8):
        assert isinstance(policy.next(now), Try)
        policy.failed(now, in_doubt=False)
        step = policy.next(now)
        assert isinstance(step, Pause)
        pauses.append(step.seconds)
        now += step.seconds

    assert pauses == pytest.approx([min(BACKOFF_FIRST_S * 2**n, BACKOFF_MAX_S) for n in range(8)])
    luckier = attempts(1, chance=0.0)
    luckier.next(0.0)
    luckier.failed(0.0, in_doubt=False)
    assert luckier.next(0.0) == Pause(BACKOFF_FIRST_S / 2)


def test_nobody_is_waited_for_while_another_node_can_be_asked():
    """The pause of one that has failed holds up nothing."""
    policy = attempts(2, timeout=100)
    for now, node in ((0.0, 0), (0.01, 1)):
        assert policy.next(now) == Try(node, TRY_MAX_S)
        policy.failed(now, in_doubt=False)

    assert policy.next(0.02) == Pause(pytest.approx(BACKOFF_FIRST_S - 0.02))
    assert policy.next(BACKOFF_FIRST_S) == Try(0, TRY_MAX_S)


def test_a_node_that_names_a_time_is_left_alone_for_so_long():
    """Retry-After counts for that node alone, is never less than the pause, and has a bound."""
    for retry_after, alone in ((1.0, 1.0), (0.0, BACKOFF_FIRST_S), (3600.0, RETRY_AFTER_MAX_S), (math.inf, 2.0)):
        policy = attempts(2, timeout=100)
        policy.next(0.0)
        policy.failed(0.0, in_doubt=False, retry_after=retry_after)
        assert policy.next(0.0) == Try(1, TRY_MAX_S)
        policy.failed(0.0, in_doubt=False, retry_after=90)
        assert policy.next(0.0) == Pause(min(alone, RETRY_AFTER_MAX_S))


def test_at_the_deadline_it_gives_up():
    """Nothing is begun that could not be answered."""
    policy = attempts(timeout=1.0)
    policy.next(0.0)
    policy.failed(1.0 - TRY_MIN_S / 2, in_doubt=False)

    assert policy.next(1.0 - TRY_MIN_S / 2) == GiveUp(in_doubt=False)


def test_it_gives_up_rather_than_wait_for_what_comes_too_late():
    """Where everybody wants to be left alone for longer than there is time, the answer is known at once."""
    policy = attempts(1, timeout=1.0)
    policy.next(0.0)
    policy.failed(0.1, in_doubt=False, retry_after=1.0)

    assert policy.next(0.1) == GiveUp(in_doubt=False)


def test_one_try_in_doubt_leaves_the_call_in_doubt():
    """What later tries say does not take that back."""
    policy = attempts(timeout=1.0)
    for doubt in (False, True, False):
        policy.next(0.0)
        policy.failed(0.0, in_doubt=doubt)

    assert policy.next(1.0) == GiveUp(in_doubt=True)


def test_a_last_word_counts_once_each_node_was_asked_once():
    """A node that is dead, and one that says no better, are not asked again."""
    policy = attempts(3, timeout=100)
    policy.next(0.0)
    policy.failed(0.0, in_doubt=False, last_word=True)
    assert policy.next(0.0) == Try(1, TRY_MAX_S)
    policy.failed(0.0, in_doubt=False)
    assert policy.next(0.0) == Try(2, TRY_MAX_S)
    policy.failed(0.0, in_doubt=False, last_word=True)

    assert policy.next(0.0) == GiveUp(in_doubt=False)


def test_dead_nodes_are_asked_again_while_nobody_has_the_last_word():
    """Until the deadline."""
    policy = attempts(2, timeout=100)
    for _ in range(2):
        policy.next(0.0)
        policy.failed(0.0, in_doubt=False)

    assert policy.next(1.0) == Try(0, TRY_MAX_S)


OUTCOMES = st.tuples(
    st.floats(0.0, 3.0),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0, 100.0]),
    st.booleans(),
    st.floats(0.0, 0.99),
)


@given(
    nodes=st.integers(1, 5),
    first=st.integers(0, 9),
    timeout=st.floats(0.01, 20.0),
    outcomes=st.lists(OUTCOMES, min_size=1, max_size=5),
)
def test_every_call_ends_by_its_deadline(nodes: int, first: int, timeout: float, outcomes: list):
    """Whatever happens: each step fits into the time, there are finitely many, and a pause is never empty."""
    now, number = 0.0, 0
    policy = Attempts(
        nodes, first=first, now=0.0, timeout=timeout, chance=lambda: outcomes[number % len(outcomes)][4]
    )

    for number in range(10_000):
        step = policy.next(now)
        if isinstance(step, GiveUp):
            break
        assert 0 < step.seconds <= timeout - now + 1e-9
        if isinstance(step, Pause):
            now += step.seconds
            continue
        assert 0 <= step.node < nodes
        took, in_doubt, retry_after, last_word, _ = outcomes[number % len(outcomes)]
        now += min(took, step.seconds)
        policy.failed(now, in_doubt=in_doubt, retry_after=retry_after, last_word=last_word)
    else:
        raise AssertionError("it never gives up")

    assert now <= timeout
