"""What a run is made on: an ensemble, nodes, and a proxy on every way between them."""

from __future__ import annotations

from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble


class Arena:
    """An ensemble of three servers, and three nodes, with a proxy on every way between them.

    Attributes:
        ensemble: whose servers can be killed, paused and started again.
        cluster: whose nodes reach the ensemble and each other through the proxies, and are reached by clients directly.
    """

    ensemble: LocalEnsemble
    cluster: Cluster
