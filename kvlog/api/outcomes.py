"""What has become of a write, in the words of the API: committed, refused or unknown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvlog.api.answers import View
from kvlog.api.problems import problem
from kvlog.core.commands import Failure
from kvlog.core.entry import OWN_ID
from kvlog.core.values import Clash, Committed, Refused, Rejected, Settled, Unknown
from kvlog.service.writes import Written

REPLAYED = "Idempotent-Replayed"
"""In an answer that repeats the first one to a request with the same Idempotency-Key."""

REFUSED, UNKNOWN = "refused", "unknown"


def committed(written: Written, result: Committed, **more: Any) -> dict[str, Any]:
    """The body that says where a write is in the log; what the route has to say comes between."""
    return {
        "outcome": "committed",
        **more,
        "revision": result.revision,
        "index": result.index,
        "leader": written.leader,
        "replicas": result.replicas,
    }


def answer(written: Written, succeeded: Callable[[Committed], View], *, whatever_holds: bool = False) -> View:
    """A write's answer: what ``succeeded`` makes of it, or the problem.

    ``whatever_holds``: conditions that did not hold are no problem.
    """
    result = written.outcome
    if not isinstance(result, Committed):
        return not_committed(written)
    if result.failed == Failure.LEASE:
        view = problem(
            "no-such-lease",
            f"nothing was written: as of revision {result.revision}, the lease is not there; it has ended, or "
            "never was: take a new one with POST /v1/leases",
        )
    elif result.failed and not whatever_holds:
        view = problem(
            "condition-failed",
            f"nothing was written: as of revision {result.revision}, the condition does not hold; read again, and "
            "decide anew",
            revision=result.revision,
        )
    else:
        view = succeeded(result)
    if result.repeated and not written.request_id.startswith(OWN_ID):
        view.headers[REPLAYED] = "true"
    return view


def not_committed(written: Written) -> View:
    """The answer to a write that is not in the log, as far as is known; what a request to settle has found."""
    result, request_id = written.outcome, written.request_id
    match result:
        case Settled():
            return View(settled(request_id, result))
        case Rejected():
            kind = "cancelled" if result.clash is Clash.CANCELLED else "id-reused"
            what = f"this write did not happen: {result.reason}; give it an Idempotency-Key of its own"
            return problem(kind, what, outcome=REFUSED)
        case Refused():
            what, again = "the write did not happen", "it is safe to try again"
            if request_id and not request_id.startswith(OWN_ID):
                what, again = "this try did nothing", "try again with the same Idempotency-Key"
            return problem(REFUSED, f"{what}: {result.reason}; {again}", outcome=REFUSED)
        case _:
            return _unknown(result.reason if isinstance(result, Unknown) else str(result), request_id)


def _unknown(reason: str, request_id: str) -> View:
    find_out = "read the key to find out"
    if request_id:
        find_out = f"DELETE /v1/requests/{request_id} finds out, and sees to it that it stays so"
    members: dict[str, Any] = {"request": request_id} if request_id else {}
    what = f"it is not known whether the write happened: {reason}; {find_out}"
    return problem(UNKNOWN, what, outcome=UNKNOWN, **members)


def settled(request_id: str, result: Settled) -> dict[str, Any]:
    """What has become of a request, for good."""
    outcome = "cancelled" if result.cancelled else "committed"
    return {"id": request_id, "outcome": outcome, "revision": result.revision, "index": result.index}
