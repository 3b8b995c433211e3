"""How entries came here is remembered for the latest ones, for people."""

from kvlog.core.arrivals import KEPT_MAX, Arrivals
from kvlog.core.values import Path
from tests.chain import Chain


def test_an_arrival_tells_path_and_times():
    """By which way, when it was written, when it came, and when it was applied."""
    chain, arrivals = Chain(), Arrivals()
    arrivals.came(chain.put("a", "1"), Path.PUSH, 1_700_000_000_005)
    arrivals.came(chain.write(("a", "2"), ("b", "1")), Path.WATCH, 1_700_000_000_007)
    arrivals.applied(0, 1_700_000_000_009)

    first, second = arrivals.of_index(0), arrivals.of_index(1)

    assert first is not None
    assert second is not None
    assert (first.path, first.written_ms, first.came_ms) == (Path.PUSH, 1_700_000_000_000, 1_700_000_000_005)
    assert (first.applied_ms, second.applied_ms) == (1_700_000_000_009, None)
    assert (second.first_revision, second.last_revision) == (2, 3)
    assert arrivals.last == second


def test_only_the_latest_are_remembered():
    """What is forgotten is not confused with what is there, applied or not."""
    chain, arrivals = Chain(), Arrivals()
    for number in range(KEPT_MAX + 10):
        arrivals.came(chain.put("a", "1"), Path.POLL, number)
        if number == KEPT_MAX // 2:
            arrivals.applied(number, number)

    assert arrivals.of_index(9) is None
    assert arrivals.of_index(10) is not None
    arrivals.applied(KEPT_MAX + 8, 77)
    times = [arrivals.of_index(index) for index in (KEPT_MAX // 2, KEPT_MAX // 2 + 1, KEPT_MAX + 8, KEPT_MAX + 9)]
    assert [arrival.applied_ms for arrival in times if arrival] == [KEPT_MAX // 2, 77, 77, None]


def test_what_never_came_one_by_one_is_not_known():
    """A snapshot brings entries that nobody here has seen."""
    chain, arrivals = Chain(), Arrivals()
    chain.put("a", "1")
    arrivals.came(chain.put("a", "2"), Path.APPEND, 5)

    assert arrivals.of_index(0) is None
    assert arrivals.of_index(2) is None
