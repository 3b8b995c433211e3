"""One node of the course assignment's design, written down as plainly as it is meant.

    python -m bench.peers.course_node HTTP_PORT ZOOKEEPER_HOSTS

The data is a dictionary. The node with the lowest ephemeral znode leads. It makes each update a sequential znode,
changes its dictionary, and sends the whole of it to each of the others over HTTP; then it answers. All of that
happens in one update at a time, or they would overtake each other. Flask serves it with Werkzeug's development
server, a thread per connection, and a connection per request.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
from typing import Any

import urllib3
from flask import Flask, Response, request
from kazoo.client import KazooClient

ROOT = "/course"
ANSWER_S = 30.0


class Node:
    """What one process knows."""

    def __init__(self, address: str, hosts: str) -> None:
        self.address = address
        self.values: dict[str, str] = {}
        self.members: list[str] = []
        """Addresses, the leader's first."""
        self._pool = urllib3.PoolManager(retries=False)
        self._one_at_a_time = threading.Lock()
        self._zookeeper = KazooClient(hosts=hosts, timeout=10.0)
        self._zookeeper.start(timeout=ANSWER_S)
        self._zookeeper.ensure_path(f"{ROOT}/log")
        self._zookeeper.create(
            f"{ROOT}/election/node-", address.encode(), ephemeral=True, sequence=True, makepath=True
        )
        self._zookeeper.ChildrenWatch(f"{ROOT}/election", self._elected)

    def _elected(self, names: list[str]) -> None:
        self.members = [self._zookeeper.get(f"{ROOT}/election/{name}")[0].decode() for name in sorted(names)]

    @property
    def leads(self) -> bool:
        """Whether its znode is the lowest."""
        return self.members[:1] == [self.address]

    def update(self, key: str, value: str) -> None:
        """Write one key, everywhere."""
        if not self.leads:
            self._post(self.members[0], "/update", {"key": key, "value": value})
            return
        with self._one_at_a_time:
            entry = json.dumps({"key": key, "value": value}).encode()
            self._zookeeper.create(f"{ROOT}/log/update-", entry, sequence=True)
            self.values[key] = value
            self._push()

    def load(self, items: dict[str, str]) -> None:
        """Write many keys without the log: what has to be there before something is measured."""
        with self._one_at_a_time:
            self.values.update(items)
            self._push()

    def _push(self) -> None:
        for member in self.members[1:]:
            self._post(member, "/sync", self.values)

    def _post(self, member: str, path: str, body: dict[str, str]) -> None:
        response = self._pool.request("POST", f"http://{member}{path}", json=body, timeout=ANSWER_S)
        if response.status != 200:  # noqa: PLR2004 - OK
            raise RuntimeError(f"{member} has answered {response.status}")

    def state(self) -> dict[str, Any]:
        """For the verification."""
        content = json.dumps(sorted(dict(self.values).items())).encode()
        return {
            "members": self.members,
            "revision": self._zookeeper.exists(f"{ROOT}/log").children_count,
            "digest": hashlib.sha256(content).hexdigest(),
        }


def application(node: Node) -> Flask:
    """The routes."""
    app = Flask("course")

    @app.get("/read")
    def read() -> tuple[dict[str, Any], int]:
        key = request.args["key"]
        value = node.values.get(key)
        return {"key": key, "value": value}, 200 if value is not None else 404

    @app.post("/update")
    def update() -> dict[str, str]:
        body = request.get_json()
        node.update(body["key"], body["value"])
        return {"status": "ok", "key": body["key"]}

    @app.post("/sync")
    def sync() -> dict[str, str]:
        node.values = request.get_json()
        return {"status": "ok"}

    @app.post("/load")
    def load() -> dict[str, str]:
        node.load(request.get_json())
        return {"status": "ok"}

    @app.get("/state")
    def state() -> dict[str, Any]:
        return node.state()

    @app.get("/all")
    def everything() -> Response:
        return Response(json.dumps(dict(node.values)), mimetype="application/json")

    return app


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    PORT = int(sys.argv[1])
    application(Node(f"127.0.0.1:{PORT}", sys.argv[2])).run(port=PORT, threaded=True)
