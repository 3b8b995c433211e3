"""docker-compose.yml and Dockerfile: what they promise, and that three nodes in containers work together."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kvlog.ensemble.containers import compose_command
from kvlog.processes import ProcessKeeper, free_ports, wait_until

ROOT = Path(__file__).resolve().parent.parent
ZOOKEEPERS = ["zk1", "zk2", "zk3"]
NODES = ["kvlog1", "kvlog2", "kvlog3"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is in requirements-dev.txt: scripts/setup --dev")
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])


def test_the_services_are_three_zookeepers_a_view_of_them_and_three_nodes(
    services: dict[str, dict[str, Any]],
) -> None:
    assert sorted(services) == sorted([*ZOOKEEPERS, *NODES, "zoonavigator"])


def test_nodes_start_only_with_the_profile_cluster(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service.get("profiles") == (["cluster"] if name in NODES else None)


def test_images_are_public_ones_with_a_version(services: dict[str, dict[str, Any]]) -> None:
    assert {services[name]["image"] for name in ZOOKEEPERS} == {"zookeeper:3.9.5"}
    assert services["zoonavigator"]["image"] == "elkozmon/zoonavigator:1.1.3"
    assert all(services[name]["build"] == "." for name in NODES)


def test_every_port_is_published_on_loopback_only_and_can_be_changed(
    services: dict[str, dict[str, Any]],
) -> None:
    expected = {f"zk{i}": f"127.0.0.1:${{KVLOG_ZK{i}_PORT:-{2180 + i}}}:2181" for i in (1, 2, 3)}
    expected |= {f"kvlog{i}": f"127.0.0.1:${{KVLOG{i}_PORT:-{4999 + i}}}:5000" for i in (1, 2, 3)}
    expected |= {"zoonavigator": "127.0.0.1:${ZOONAVIGATOR_PORT:-9000}:9000"}
    assert {name: service["ports"] for name, service in services.items()} == {
        name: [port] for name, port in expected.items()
    }


def test_each_zookeeper_knows_itself_and_the_other_two(services: dict[str, dict[str, Any]]) -> None:
    members = " ".join(f"server.{i}=zk{i}:2888:3888;2181" for i in (1, 2, 3))
    for number, name in enumerate(ZOOKEEPERS, start=1):
        settings = services[name]["environment"]
        assert settings["ZOO_MY_ID"] == str(number)
        assert settings["ZOO_SERVERS"] == members
        assert {"srvr", "ruok", "mntr"} <= set(settings["ZOO_4LW_COMMANDS_WHITELIST"].split(","))
        assert settings["ZOO_ADMINSERVER_ENABLED"] == "false"
        assert int(settings["ZOO_AUTOPURGE_PURGEINTERVAL"]) > 0


def test_zookeepers_and_nodes_have_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    for name in ZOOKEEPERS:
        assert "srvr" in services[name]["healthcheck"]["test"][-1]
    for name in NODES:
        assert "http://127.0.0.1:5000/healthz" in services[name]["healthcheck"]["test"][-1]


def test_nodes_wait_for_every_zookeeper_and_nobody_waits_for_the_view(
    services: dict[str, dict[str, Any]],
) -> None:
    healthy = {name: {"condition": "service_healthy"} for name in ZOOKEEPERS}
    assert all(services[name]["depends_on"] == healthy for name in NODES)
    assert not any("zoonavigator" in service.get("depends_on", ()) for service in services.values())


def test_each_node_advertises_the_name_under_which_the_others_reach_it(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in NODES:
        assert services[name]["command"] == (
            f"python server.py --host 0.0.0.0 --port 5000 --advertise {name}:5000"
            " --zk zk1:2181,zk2:2181,zk3:2181 --data-dir /data"
        )


def test_what_must_last_is_in_a_volume_of_its_own(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    used = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert sorted(used) == sorted(compose["volumes"])
    assert all(services[name]["volumes"] == [f"{name}-data:/data"] for name in NODES)


def test_nodes_do_not_run_as_root_and_have_time_to_end(services: dict[str, dict[str, Any]]) -> None:
    assert "\nUSER kvlog\n" in (ROOT / "Dockerfile").read_text()
    assert all(services[name]["init"] is True for name in NODES)
    assert all(services[name]["stop_grace_period"] == "20s" for name in NODES)


def test_the_view_connects_to_the_ensemble_by_itself(services: dict[str, dict[str, Any]]) -> None:
    settings = services["zoonavigator"]["environment"]
    chosen = settings["AUTO_CONNECT_CONNECTION_ID"]
    assert settings[f"CONNECTION_{chosen}_CONN"] == "zk1:2181,zk2:2181,zk3:2181"


def call(port: int, path: str, body: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON answer of a node; (0, {}) while it does not answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}
    except OSError:
        return 0, {}


def test_a_value_written_through_one_container_is_read_from_all_three(
    engine: object, keeper: ProcessKeeper
) -> None:
    compose = compose_command()
    assert compose is not None
    project = f"kvlog-test-{os.getpid()}"
    ports = free_ports(6)
    names = [f"KVLOG_ZK{i}_PORT" for i in (1, 2, 3)] + [f"KVLOG{i}_PORT" for i in (1, 2, 3)]
    env = os.environ | {name: str(port) for name, port in zip(names, ports, strict=True)}
    command = [*compose, "-f", str(ROOT / "docker-compose.yml"), "-p", project, "--profile", "cluster"]
    down = [*command, "down", "--volumes", "--rmi", "local", "--timeout", "5"]
    keeper.run_at_end(down)  # whatever happens to this test run
    log = keeper.directory / "compose.log"
    try:
        # Named one by one, as zoonavigator is not needed here.
        argv = [*command, "up", "--detach", "--build", *ZOOKEEPERS, *NODES]
        up = keeper.start(argv, name="docker compose up", log=log, env=env)
        assert wait_until(lambda: not up.running, 110), up.log_tail()
        assert up.wait(1) == 0, up.log_tail()
        nodes = ports[3:]
        for port in nodes:
            assert wait_until(lambda port=port: call(port, "/healthz")[0] == 200, 30)
        written = {"key": "from", "value": "a container"}
        assert wait_until(lambda: call(nodes[1], "/update", written)[0] == 200, 30)
        for port in nodes:
            assert wait_until(lambda port=port: call(port, "/read?key=from") == (200, written), 10)
    finally:
        child = keeper.start(down, name="docker compose down", log=log, env=env)
        code = child.wait(60)
    assert code == 0, child.log_tail()
    keeper.cancel_run(down)
