"""ZooKeeper servers as containers, by docker compose."""

import os
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path

import docker
from docker.errors import DockerException

from kvlog.ensemble.base import ANSWER_S, START_S, Ensemble, EnsembleError, Say, why_not_serving
from kvlog.processes import ProcessKeeper, free_ports, wait_until

PULL_S = 120.0
"""Seconds for docker compose to create the containers; the first time it downloads the image."""

COMPOSE_FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
COMPOSE_SERVICES = ("zk1", "zk2", "zk3")


class DockerEnsemble(Ensemble):
    """The three ZooKeeper containers of docker-compose.yml, under a name and on host ports of their own."""

    project: str
    """The name under which docker compose keeps it apart from others."""

    def __init__(self, keeper: ProcessKeeper, *, say: Say | None = None) -> None:
        super().__init__()
        self._keeper = keeper
        self._say = say
        self._down: list[str] | None = None
        self.project = f"kvlog-{os.getpid()}-{os.urandom(3).hex()}"
        self.description = "three ZooKeeper containers, started with docker compose"

    @staticmethod
    def why_not() -> str | None:
        """None when containers can be started from here, else the sentence that says what is missing."""
        if not COMPOSE_FILE.exists():
            return f"{COMPOSE_FILE} is not there: containers can be started from a checkout of kvlog only."
        try:
            _knock()
            client = docker.from_env(timeout=ANSWER_S)
            try:
                client.ping()
            finally:
                client.close()
        except PermissionError:
            return "A Docker engine is there, but this user may not use it: add the user to the group docker."
        except (DockerException, OSError) as error:
            return f"No Docker engine answers; is it installed and started? ({_first_line(error)})"
        if compose_command() is None:
            return "A Docker engine answers, but neither `docker compose` nor `docker-compose` is installed."
        return None

    def _start(self) -> None:
        reason = self.why_not()
        compose = compose_command()
        if reason is not None or compose is None:
            raise EnsembleError(reason or "docker compose is gone.")
        ports = free_ports(3)
        env = os.environ | {f"KVLOG_ZK{i}_PORT": str(port) for i, port in enumerate(ports, start=1)}
        command = [*compose, "--file", str(COMPOSE_FILE), "--project-name", self.project]
        self._down = [*command, "down", "--volumes", "--timeout", "1"]
        self._keeper.run_at_end(self._down)
        log = self._keeper.directory / f"{self.project}.log"
        up = [*command, "up", "--detach", *COMPOSE_SERVICES]
        child = self._keeper.start(up, name="docker compose", log=log, env=env)
        what = "docker compose (it may be downloading)"
        if not wait_until(lambda: not child.running, PULL_S, say=self._say, what=what):
            child.kill()
            raise EnsembleError(f"docker compose needs over {PULL_S:g} s. Its output:\n{child.log_tail(5)}")
        if child.wait(0) != 0:
            raise EnsembleError(f"docker compose could not start ZooKeeper. Its output:\n{child.log_tail(5)}")
        healthy = ["healthy"] * len(ports)
        if not wait_until(
            lambda: (
                _container_states(self.project) == healthy
                and all(why_not_serving("127.0.0.1", port) is None for port in ports)
            ),
            START_S,
            every_s=0.2,
            say=self._say,
            what="the three containers to be healthy",
        ):
            states = ", ".join(_container_states(self.project))
            raise EnsembleError(
                f"The ZooKeeper containers were started, but do not serve on 127.0.0.1 after {START_S:g} s:"
                f" their states are {states}."
            )
        self.hosts = ",".join(f"127.0.0.1:{port}" for port in ports)

    def _stop(self) -> None:
        down, self._down = self._down, None
        if down is None:
            return
        child = self._keeper.start(down, name="docker compose down", log=self._keeper.directory / "down.log")
        if wait_until(lambda: not child.running, START_S) and child.wait(0) == 0:
            self._keeper.cancel_run(down)
        else:
            child.kill()  # it is tried once more when the keeper ends


def _knock() -> None:
    """OSError when nobody listens on the engine's socket.

    The docker package would find that out too, but it then forgets to close its own end.
    """
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(ANSWER_S)
            end.connect(host.removeprefix("unix://"))


@cache
def compose_command() -> list[str] | None:
    """How docker compose is called on this machine: as part of docker, as a program, or not at all (None)."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        try:
            found = subprocess.run([*command, "version"], capture_output=True, timeout=10)  # noqa: S603, PLW1510
        except subprocess.TimeoutExpired:
            continue
        if found.returncode == 0:
            return command
    return None


def _container_states(project: str) -> list[str]:
    """What Docker knows of each container of a compose project: "healthy", "starting", "exited", ..."""
    try:
        client = docker.from_env(timeout=10)
        try:
            label = f"com.docker.compose.project={project}"
            containers = client.containers.list(all=True, filters={"label": label})
            states = [container.attrs["State"] for container in containers]
        finally:
            client.close()
    except (DockerException, OSError) as error:
        raise EnsembleError(f"The Docker engine stopped answering ({_first_line(error)}).") from error
    return [
        state["Health"]["Status"] if state["Running"] and "Health" in state else state["Status"]
        for state in states
    ]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
