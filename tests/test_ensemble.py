"""Where a ZooKeeper comes from: given, in containers, or as local processes."""

import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from kazoo.client import KazooClient

import kvlog.ensemble.base
import kvlog.ensemble.containers
import kvlog.ensemble.local
from kvlog.ensemble import (
    DockerEnsemble,
    EnsembleError,
    GivenEnsemble,
    LocalEnsemble,
    LocalServer,
    find_ensemble,
)
from kvlog.ensemble.base import why_not_serving
from kvlog.processes import ProcessKeeper, free_ports, wait_until

needs_local = pytest.mark.skipif(LocalEnsemble.why_not() is not None, reason=str(LocalEnsemble.why_not()))


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)


@contextmanager
def answering(text: str) -> Iterator[int]:
    """A server that says `text` to everyone and hangs up; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return  # the test has ended
                with connection:
                    connection.recv(4096)
                    connection.sendall(text.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@contextmanager
def session(hosts: str) -> Iterator[KazooClient]:
    client = KazooClient(hosts=hosts, timeout=10)
    client.start(timeout=20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def modes(ensemble: LocalEnsemble) -> list[str | None]:
    return sorted((server.mode() for server in ensemble.servers), key=str)


def leader(ensemble: LocalEnsemble) -> LocalServer:
    return next(server for server in ensemble.servers if server.mode() == "leader")


def test_three_local_servers_have_one_leader(ensemble: LocalEnsemble) -> None:
    assert modes(ensemble) == ["follower", "follower", "leader"]
    assert ensemble.hosts == ",".join(f"127.0.0.1:{server.client_port}" for server in ensemble.servers)
    assert ensemble.description == "3 local ZooKeeper processes"


def test_local_servers_answer_on_loopback_only(ensemble: LocalEnsemble) -> None:
    """127.0.0.2 reaches a server that listens on all addresses; these do not."""
    for server in ensemble.servers:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server.client_port), timeout=5)


def test_local_servers_have_a_log(ensemble: LocalEnsemble) -> None:
    for server in ensemble.servers:
        assert re.search("LEADING|FOLLOWING", server.log.read_text())


def test_it_survives_the_kill_of_its_leader_which_then_comes_back(ensemble: LocalEnsemble) -> None:
    """What was written before, and while it was down, is on the server that came back."""
    with session(ensemble.hosts) as client:
        client.create("/ensemble-test", b"before")
        killed = leader(ensemble)
        killed.kill()
        assert killed.mode() is None
        assert not killed.running
        assert wait_until(lambda: "leader" in modes(ensemble), 20)
        client.retry(client.set, "/ensemble-test", b"meanwhile")
        killed.start()
        assert killed.mode() == "follower"
    with session(f"127.0.0.1:{killed.client_port}") as client:
        client.sync("/ensemble-test")
        assert client.get("/ensemble-test")[0] == b"meanwhile"
        client.delete("/ensemble-test")


def test_a_paused_server_serves_nobody_until_it_is_resumed(ensemble: LocalEnsemble) -> None:
    server = ensemble.servers[0]
    server.pause()
    try:
        assert server.mode() is None
        assert server.running
    finally:
        server.resume()
    assert wait_until(lambda: modes(ensemble) == ["follower", "follower", "leader"], 20)


def test_a_server_without_a_quorum_is_up_but_serves_nobody(ensemble: LocalEnsemble) -> None:
    first, second, third = ensemble.servers
    first.kill()
    second.kill()
    try:
        assert wait_until(lambda: "without a quorum" in str(why_not_serving("127.0.0.1", third.client_port)), 20)
        with pytest.raises(EnsembleError, match="without a quorum"):
            GivenEnsemble(ensemble.hosts).start()
    finally:
        first.start(wait=False)
        second.start(wait=False)
    assert wait_until(lambda: modes(ensemble) == ["follower", "follower", "leader"], 30)


@needs_local
def test_one_server_alone_is_possible_and_leaves_nothing_behind() -> None:
    with ProcessKeeper() as keeper:
        with LocalEnsemble(keeper, size=1) as ensemble:
            assert modes(ensemble) == ["standalone"]
            with session(ensemble.hosts) as client:
                assert client.exists("/zookeeper")
        assert not ensemble.servers[0].running
        assert ensemble.servers[0].log.exists()
    assert not keeper.directory.exists()


@needs_local
def test_a_port_that_somebody_takes_first_costs_only_a_second_attempt(
    keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def ports(count: int) -> list[int]:
            asked.append(free_ports(count))
            if len(asked) == 1:
                asked[0][-1] = taken.getsockname()[1]  # an election port
            return asked[-1]

        monkeypatch.setattr(kvlog.ensemble.local, "free_ports", ports)
        with LocalEnsemble(keeper) as ensemble:
            assert len(asked) == 2
            assert None not in modes(ensemble)


@needs_local
def test_a_server_that_can_not_start_is_an_error_with_its_log(
    keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvlog.ensemble.local, "_SETTINGS", ("tickTime=often",))
    with pytest.raises(EnsembleError, match="did not start") as raised:
        LocalEnsemble(keeper).start()
    assert "often" in str(raised.value)


def test_given_servers_are_used_when_one_of_them_serves(ensemble: LocalEnsemble, keeper: ProcessKeeper) -> None:
    (closed,) = free_ports(1)
    hosts = f"127.0.0.1:{closed},{ensemble.hosts}/a/root"
    with find_ensemble(keeper, hosts=hosts, kind="auto", say=print) as given:
        assert given.hosts == hosts
        assert hosts in given.description
    assert None not in modes(ensemble), "leaving a given ensemble must not end it"


def test_a_given_server_that_forbids_srvr_is_asked_for_a_session(
    ensemble: LocalEnsemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = "srvr is not executed because it is not in the whitelist.\n"
    monkeypatch.setattr(kvlog.ensemble.base, "srvr", lambda *_, **__: forbidden)
    assert why_not_serving("127.0.0.1", ensemble.servers[0].client_port) is None


def test_something_else_than_zookeeper_is_told_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvlog.ensemble.base, "ANSWER_S", 1.0)
    with answering("HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "gives no session" in str(why_not_serving("127.0.0.1", port))


def test_given_servers_that_do_not_answer_are_listed_with_what_to_do(keeper: ProcessKeeper) -> None:
    first, second = free_ports(2)
    with pytest.raises(EnsembleError) as raised:
        find_ensemble(keeper, hosts=f"127.0.0.1:{first},127.0.0.1:{second}", kind="auto", say=print)
    assert f"127.0.0.1:{first} does not answer" in str(raised.value)
    assert f"127.0.0.1:{second} does not answer" in str(raised.value)
    assert "Start them" in str(raised.value)


@pytest.mark.parametrize("hosts", ["", ",", "host:port", "host:99999", ":2181"])
def test_addresses_that_are_none_are_refused_with_an_example(hosts: str) -> None:
    with pytest.raises(EnsembleError, match=r"for\s+example 127\.0\.0\.1:2181"):
        GivenEnsemble(hosts).start()


def test_when_nothing_works_every_way_is_listed_with_what_to_do(
    no_docker: None, no_java: None, keeper: ProcessKeeper
) -> None:
    with pytest.raises(EnsembleError) as raised:
        find_ensemble(keeper, hosts=None, kind="auto", say=print)
    said = str(raised.value)
    assert "with Docker: No Docker engine answers" in said
    assert "as local Java processes: There is no Java" in said
    assert "apt-get install" in said
    assert "give the address of a running ZooKeeper" in said


def test_a_zookeeper_home_without_zookeeper_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvlog.ensemble.local, "_java", lambda: sys.executable)
    monkeypatch.setenv("ZOOKEEPER_HOME", str(tmp_path))
    assert str(tmp_path) in str(LocalEnsemble.why_not())


def test_an_unpacked_release_is_found_by_zookeeper_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvlog.ensemble.local, "_java", lambda: sys.executable)
    monkeypatch.setenv("ZOOKEEPER_HOME", str(tmp_path))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "zookeeper-3.9.5.jar").touch()
    assert LocalEnsemble.why_not() is None
    assert kvlog.ensemble.local._class_path() == f"{tmp_path}/lib/zookeeper-3.9.5.jar:{tmp_path}/conf"


@needs_local
def test_without_docker_local_processes_are_used(no_docker: None, keeper: ProcessKeeper) -> None:
    said: list[str] = []
    with find_ensemble(keeper, hosts=None, kind="auto", say=said.append) as found:
        assert isinstance(found, LocalEnsemble)
    assert said[0] == "Starting ZooKeeper as local Java processes ..."
    assert said[-1].startswith("ZooKeeper runs after ")


@needs_local
@pytest.mark.parametrize("fault", ["exit 1", "sleep 600"])
def test_an_engine_that_can_not_get_its_images_leads_to_local_processes(
    fault: str, keeper: ProcessKeeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether docker compose fails or hangs: the reason is said and the next way is taken."""
    compose = tmp_path / "docker-compose"
    compose.write_text(f'#!/bin/sh\ncase "$*" in *up*) echo no such image; {fault};; esac\n')
    compose.chmod(0o755)
    monkeypatch.setattr(DockerEnsemble, "why_not", staticmethod(lambda: None))
    monkeypatch.setattr(kvlog.ensemble.containers, "compose_command", lambda: [str(compose)])
    monkeypatch.setattr(kvlog.ensemble.containers, "PULL_S", 1.0)
    said: list[str] = []
    with find_ensemble(keeper, hosts=None, kind="auto", say=said.append) as found:
        assert isinstance(found, LocalEnsemble)
    assert any("Could not start ZooKeeper with Docker" in line and "no such image" in line for line in said)


def test_docker_alone_does_not_fall_back(no_docker: None, keeper: ProcessKeeper) -> None:
    with pytest.raises(EnsembleError, match="with Docker: No Docker engine answers") as raised:
        find_ensemble(keeper, hosts=None, kind="docker", say=print)
    assert "Java" not in str(raised.value)


def test_containers_serve_and_leave_nothing_behind(engine: docker.DockerClient, keeper: ProcessKeeper) -> None:
    with find_ensemble(keeper, hosts=None, kind="docker", say=print) as found:
        with session(found.hosts) as client:
            assert client.exists("/zookeeper")
        assert isinstance(found, DockerEnsemble)
    label = {"label": f"com.docker.compose.project={found.project}"}
    assert engine.containers.list(all=True, filters=label) == []
    assert engine.volumes.list(filters=label) == []
    assert engine.networks.list(filters=label) == []
