"""What several test files share: a keeper of child processes, a real ZooKeeper ensemble, and a Docker engine."""

import os
import signal
from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

from kvlog.ensemble import DockerEnsemble, Ensemble, GivenEnsemble, LocalEnsemble
from kvlog.processes import ProcessKeeper
from tests.faults.trial import ENSEMBLE

# A shell lets what it runs in the background ignore Ctrl-C, and whatever that starts ignores it, too: programs
# that are told to end by it would not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IMAGES = ("zookeeper:3.9.5", "python:3.11-slim")


@pytest.fixture(scope="session")
def keeper() -> Iterator[ProcessKeeper]:
    """Keeps the child processes of the whole test run; they end with it, whatever ends it."""
    with ProcessKeeper() as keeper:
        yield keeper


@pytest.fixture(scope="session")
def ensemble(keeper: ProcessKeeper) -> Iterator[Ensemble]:
    """Three real ZooKeeper servers. Who harms one heals it; who writes takes a root of its own.

    The trial of a mutant (tests.faults.trial) uses those of whoever tries it, and harms none.
    """
    if ENSEMBLE in os.environ:
        yield GivenEnsemble(os.environ[ENSEMBLE])
        return
    reason = LocalEnsemble.why_not()
    if reason is not None:
        pytest.skip(reason)
    with LocalEnsemble(keeper) as ensemble:
        yield ensemble


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A Docker engine that has the public images that we build on, or can get them."""
    reason = DockerEnsemble.why_not()
    if reason is not None:
        pytest.skip(reason)
    client = docker.from_env(timeout=100)
    try:
        for image in IMAGES:
            try:
                client.images.get(image)
            except ImageNotFound:
                try:
                    client.images.pull(image)
                except (DockerException, OSError) as error:
                    pytest.skip(f"The Docker engine can not get the image {image}: {error}")
        try:
            client.containers.run(
                "python:3.11-slim", "pip download -q --no-deps -d /tmp click", remove=True, stderr=True
            )
        except DockerException as error:
            pytest.skip(f"Containers of this Docker engine do not reach a Python package index: {error}")
        yield client
    finally:
        client.close()
