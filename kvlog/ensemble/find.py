"""The choice between the ways to a ZooKeeper."""

import time
from typing import Literal

from kazoo.hosts import collect_hosts

from kvlog.ensemble.base import Ensemble, EnsembleError, Say, why_not_serving
from kvlog.ensemble.containers import DockerEnsemble
from kvlog.ensemble.local import LocalEnsemble
from kvlog.processes import ProcessKeeper

HIGHEST_PORT = 65535


class GivenEnsemble(Ensemble):
    """An ensemble that somebody else runs. Entering checks that at least one of its servers has a quorum."""

    def __init__(self, hosts: str) -> None:
        super().__init__()
        self.hosts = hosts
        self.description = f"the ZooKeeper at {hosts}"

    def _start(self) -> None:
        try:
            servers, _chroot = collect_hosts(self.hosts)
        except ValueError:
            servers = []
        if not servers or any(not host or not 0 < port <= HIGHEST_PORT for host, port in servers):
            raise EnsembleError(
                f"{self.hosts!r} names no ZooKeeper servers. Write them as host:port, separated by commas,"
                " for example 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183"
            )
        reasons = []
        for host, port in servers:
            reason = why_not_serving(host, port)
            if reason is None:
                return
            reasons.append(f"  {host}:{port} {reason}")
        raise EnsembleError(
            "None of the given ZooKeeper servers can be used:\n"
            + "\n".join(reasons)
            + "\nStart them, or correct the addresses, or leave the addresses out to have one started."
        )

    def _stop(self) -> None:
        pass  # it is not ours


def find_ensemble(
    keeper: ProcessKeeper, *, hosts: str | None, kind: Literal["auto", "docker", "local"], say: Say
) -> Ensemble:
    """A running ensemble: the given one, else one that is started with Docker, else with local Java.

    `hosts`, where given, is used or fails; nothing else is tried then. `kind` "docker" and "local" allow
    only that way. `say` is told what goes on. EnsembleError, when there is no way, lists each with what to
    do about it.
    """
    if hosts is not None:
        say(f"Looking for the ZooKeeper at {hosts} ...")
        given = GivenEnsemble(hosts)
        given.start()
        return given
    ways: list[tuple[str, Ensemble, str | None]] = []
    if kind in {"auto", "docker"}:
        ways.append(("with Docker", DockerEnsemble(keeper, say=say), DockerEnsemble.why_not()))
    if kind in {"auto", "local"}:
        ways.append(("as local Java processes", LocalEnsemble(keeper, say=say), LocalEnsemble.why_not()))
    reasons = []
    for name, ensemble, why_not in ways:
        reason = why_not
        if reason is None:
            say(f"Starting ZooKeeper {name} ...")
            begin = time.monotonic()
            try:
                ensemble.start()
            except EnsembleError as error:
                reason = str(error)
                say(f"Could not start ZooKeeper {name}: {reason}")
            else:
                say(f"ZooKeeper runs after {time.monotonic() - begin:.1f} s: {ensemble.description}.")
                return ensemble
        reasons.append(f"  {name}: {reason}")
    raise EnsembleError(
        "There is no ZooKeeper to work with. What was tried:\n"
        + "\n".join(reasons)
        + "\nEither make one of these possible, or give the address of a running ZooKeeper (host:port)."
    )
