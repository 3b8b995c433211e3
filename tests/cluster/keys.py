"""Keys as users have them: /v1/kv."""

from __future__ import annotations

from kvlog.cluster import Answer, ClusterNode


def get(node: ClusterNode, key: str, **parameters: object) -> Answer:
    """The JSON form of a key, as a node answers it."""
    fields = {name: str(value) for name, value in parameters.items()}
    return node.request(
        "GET", f"/v1/kv/{key}", fields=fields, headers={"Accept": "application/json"}, timeout_s=30
    )


def put(node: ClusterNode, key: str, value: str, **parameters: object) -> int:
    """Write a key through a node; returns its revision."""
    query = "&".join(f"{name}={given}" for name, given in parameters.items())
    answer = node.request("PUT", f"/v1/kv/{key}?{query}", body=value.encode(), timeout_s=30)
    assert answer.status in (200, 201), answer
    return answer.body["revision"]
