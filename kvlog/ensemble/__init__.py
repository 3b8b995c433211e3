"""A ZooKeeper ensemble for the demo, the tests and the benchmarks: given, in containers, or local processes.

    with ProcessKeeper() as keeper, find_ensemble(keeper, hosts=None, kind="auto", say=print) as zookeeper:
        print(zookeeper.description, zookeeper.hosts)

For real use people bring their own ensemble. What is started here lives as long as its keeper and then leaves
nothing behind.
"""

from kvlog.ensemble.base import Ensemble, EnsembleError, Say
from kvlog.ensemble.containers import DockerEnsemble
from kvlog.ensemble.find import GivenEnsemble, find_ensemble
from kvlog.ensemble.local import LocalEnsemble, LocalServer

__all__ = [
    "DockerEnsemble",
    "Ensemble",
    "EnsembleError",
    "GivenEnsemble",
    "LocalEnsemble",
    "LocalServer",
    "Say",
    "find_ensemble",
]
