"""Compare and set, by many, on different nodes, while leaders are killed: not one step is lost or made twice."""

from __future__ import annotations

import uuid
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from kvlog.cluster import Cluster, ClusterNode
from kvlog.errors import Unavailable
from kvlog.processes import wait_until

STEPS = 1_000
KILLS = 2


class Stepper:
    """A client that raises a counter by compare-and-set, at one node as long as that answers."""

    def __init__(self, cluster: Cluster, first: int) -> None:
        self.cluster = cluster
        self.at = first
        self.name = uuid.uuid4().hex[:8]
        self.done = 0
        self.tried: Counter[int] = Counter()

    def node(self) -> ClusterNode:
        return self.cluster.nodes[self.at % len(self.cluster.nodes)]

    def run(self) -> None:
        while self.done < STEPS:
            value, etag = self.read()
            request_id = f"{self.name}-{sum(self.tried.values())}"
            status = self.set(value + 1, etag, request_id)
            self.tried[status] += 1
            self.done += status == 200

    def read(self) -> tuple[int, str]:
        """The counter as this node has it; if that is old, the comparison finds it out."""
        while True:
            try:
                answer = self.node().request("GET", "/v1/kv/counter", headers={"Accept": "application/json"})
                return int(answer.body["value"]), answer.headers["etag"]
            except Unavailable:
                self.at += 1

    def set(self, value: int, etag: str, request_id: str) -> int:
        """One step, under one id until it has a definite outcome: 200 if it was made, 412 if it was not."""
        headers = {"If-Match": etag, "Idempotency-Key": request_id}
        while True:
            try:
                node = self.node()
                answer = node.request(
                    "PUT", "/v1/kv/counter", body=str(value).encode(), headers=headers, timeout_s=15
                )
            except Unavailable:
                self.at += 1
                continue
            if answer.status not in (503, 504):
                assert answer.status in (200, 412), answer
                return answer.status


@pytest.mark.parametrize("clients", [2])
def test_a_counter_ends_at_exactly_what_was_counted(
    cluster: Cluster, clients: int, capsys: pytest.CaptureFixture[str]
):
    """Two clients, 1,000 steps each, on different nodes, through two kills of the leader."""
    first = cluster.nodes[0].request("PUT", "/v1/kv/counter", body=b"0", headers={"If-None-Match": "*"})
    assert first.status == 201
    steppers = [Stepper(cluster, number) for number in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        runs: list[Future[None]] = [pool.submit(stepper.run) for stepper in steppers]
        for kill in range(1, KILLS + 1):
            due = kill * clients * STEPS // (KILLS + 1)
            assert wait_until(
                lambda due=due: sum(s.done for s in steppers) >= due or any(r.done() for r in runs), 120
            )
            victim = cluster.wait_for_leader()
            victim.kill()
            victim.start()
        for run in runs:
            run.result(180)
    cluster.wait_for_agreement()

    with capsys.disabled():
        print(f"\n{[dict(stepper.tried) for stepper in steppers]} answers")
    for node in cluster.nodes:
        answer = node.request("GET", "/v1/kv/counter", headers={"Accept": "application/json"})
        assert (answer.body["value"], answer.body["version"]) == (str(clients * STEPS), clients * STEPS + 1)
