"""What docs/client.md and the client's docstrings show is done, as it stands there, with three real nodes."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvlog import AsyncClient, Client
from kvlog.client import errors
from kvlog.cluster import Cluster, ClusterNode

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "client.md"
ADDRESSES = "127.0.0.1:5000,127.0.0.1:5001,127.0.0.1:5002"

PREPARED = {"write_report": lambda **_: None, "do_the_work": lambda: None}
"""What the examples call of their reader's own."""


def blocks() -> list[str]:
    """The page's blocks of Python, each at its line, so that a traceback shows the page's."""
    text = PAGE.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


def examples(owner: type) -> Iterator[tuple[str, str]]:
    """The indented code in the docstrings of a class and its methods, by the names of these."""
    members = [(owner.__name__, owner), *inspect.getmembers(owner, inspect.isfunction)]
    for name, member in members:
        doc = inspect.getdoc(member) or ""
        for part in re.findall(r"(?:^    .*\n?|^\n)+", doc, re.MULTILINE):
            code = inspect.cleandoc(part)
            if (
                "client" in code
                and "(" in code
                and not doc.partition(part)[0].rstrip().endswith(("Args:", "Raises:"))
            ):
                yield name, code


@pytest.fixture
def addresses(nodes: list[ClusterNode]) -> str:
    """Those of the real nodes, in the place of those in the examples."""
    return ",".join(node.address for node in nodes)


def test_the_page_does_what_it_says(addresses: str):
    """All blocks one after the other, as a reader would type them."""
    names: dict[str, Any] = {}

    for block in blocks():
        exec(compile(block.replace(ADDRESSES, addresses), str(PAGE), "exec"), names)


def test_the_pages_links_lead_somewhere():
    """Each to a heading of the page."""
    text = PAGE.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)", text, re.M)
    }

    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= headings


def test_the_page_names_every_error():
    """And no other one."""
    known = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    table = PAGE.read_text().partition("| error | meaning |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:])))

    assert named - {"ValueError", "TimeoutError"} == known - {"ClientError"}


def test_the_docstrings_examples_work(standing: Cluster, addresses: str):
    """Those of both clients; who watches in one hears of a write."""
    found = [*examples(Client), *examples(AsyncClient)]
    assert [name for name, _ in found] == [
        "Client",
        "lease",
        "lock",
        "txn",
        "watch",
        "AsyncClient",
        "lease",
        "watch",
    ]

    for name, code in found:
        with Client(addresses) as client:
            client.put("color", "blue")
            soon = threading.Timer(0.5, client.put, ("jobs/1", "paint"))
            soon.start()
            follow(name, code.replace(ADDRESSES, addresses), addresses, client)
            soon.join()


def follow(name: str, code: str, addresses: str, client: Client) -> None:
    """Do what an example shows; one that would go on for ever ends behind its first event."""
    code = re.sub(r"(\n +)print\(event.*", r"\g<0>\1break", code)
    names = {**PREPARED, "Client": Client, "AsyncClient": AsyncClient, "client": client}
    if "await " not in code:
        exec(compile(code, f"<{name}>", "exec"), names)
        return
    exec("async def example(client):\n" + re.sub("^", "    ", code, flags=re.MULTILINE), names)

    async def run() -> None:
        async with AsyncClient(addresses) as asynchronous:
            await names["example"](asynchronous)

    asyncio.run(run())
