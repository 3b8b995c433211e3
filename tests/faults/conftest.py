"""The fixtures of tests/cluster."""

from __future__ import annotations

from tests.cluster.conftest import (
    cluster,
    follower,
    fragile_ensemble,
    key,
    leader,
    make_cluster,
    nodes,
    stand,
    standing,
)

__all__ = [
    "cluster",
    "follower",
    "fragile_ensemble",
    "key",
    "leader",
    "make_cluster",
    "nodes",
    "stand",
    "standing",
]
