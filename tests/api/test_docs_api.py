"""docs/api.md is true: its commands are run as they stand there, and its tables are those of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvlog.api.described.operation import AGE, Operation
from kvlog.api.openapi import HEADERS, OPERATIONS
from kvlog.api.reading import READ
from kvlog.cluster import Cluster
from kvlog.ensemble import LocalEnsemble
from kvlog.problems import KINDS
from kvlog.processes import ProcessKeeper, free_ports

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"

COMMAND_S = 30
"""How long a command may take."""

WRITTEN = [f"127.0.0.1:{port}" for port in (5000, 5001, 5002)]
"""The nodes of the page; the first one leads."""

INTERRUPTED = "^C"
LEFT_OUT = "…"

VARYING = [
    (r'("\w+_ms": ?)(-?\d+|null)', r"\1#"),
    (r"-?\b\d+ ms\b", "# ms"),
    (r'("epoch": |epoch )\d+', r"\1#"),
    (r"\b[0-9a-f]{16,}\b", "#"),  # hashes, and the instances of nodes
    (r"((?:content-length|kvlog-staleness-ms): )\d+", r"\1#"),
    (r'("replicas": )\{[^}]*\}', r"\1#"),  # one that is slow at the moment is not waited for
    (r"(?m)^date: .*\n", ""),
]
"""What differs from run to run, and what stands for it in a comparison."""


@dataclass(frozen=True)
class Example:
    """A command of the page, where it stands, and what follows it there."""

    line: int
    command: str
    output: str

    @property
    def asks(self) -> tuple[str, str]:
        """The method and the path of its request."""
        url = re.search(r"http://127\.0\.0\.1:500\d(/[^ ?']*)", self.command)
        assert url is not None, self.command
        if method := re.search(r" -X ([A-Z]+) ", self.command):
            return method[1].lower(), url[1]
        if " -I " in self.command:
            return "head", url[1]
        return "post" if re.search(r" (-d|--data-binary) ", self.command) else "get", url[1]


def examples() -> Iterator[Example]:
    """All commands of the page, in order."""
    for block in re.finditer(r"(?ms)^```console\n(.*?)^```$", PAGE.read_text()):
        first = PAGE.read_text()[: block.start(1)].count("\n") + 1
        found: list[Example] = []
        for number, line in enumerate(block[1].splitlines(), start=first):
            if line.startswith("$ "):
                found.append(Example(number, line[2:], ""))
                continue
            last = found.pop()
            if line.startswith("> ") and not last.output:
                found.append(Example(last.line, f"{last.command}\n{line[2:]}", ""))
            else:
                found.append(Example(last.line, last.command, f"{last.output}{line}\n"))
        yield from found


def stable(text: str) -> str:
    """A text without what differs from run to run."""
    for varying, instead in VARYING:
        text = re.sub(varying, instead, text)
    return text.strip()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = PAGE.read_text().partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?m)^\| --- .*\n((?:\|.*\n)+)", below)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


class Nodes:
    """Three fresh nodes, and the addresses that the page has for them."""

    def __init__(self, cluster: Cluster) -> None:
        self._addresses = dict(zip(WRITTEN, (node.address for node in cluster.nodes), strict=True))

    def run(self, example: Example) -> str:
        """What a command puts out, with the addresses of the page."""
        command = example.command.replace("curl ", "curl -sS ", 1)
        for written, real in self._addresses.items():
            command = command.replace(written, real)
        endless = example.output.endswith(f"{INTERRUPTED}\n")
        output = self._begin(command, example.output.count("\n") - 1) if endless else self._whole(command)
        for written, real in self._addresses.items():
            output = output.replace(real, written)
        return output.replace("\r", "") + (f"\n{INTERRUPTED}" if endless else "")

    @staticmethod
    def _whole(command: str) -> str:
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, (command, done.stderr.decode())
        return done.stdout.decode()

    @staticmethod
    def _begin(command: str, lines: int) -> str:
        """The first lines of an output that has no end."""
        argv = ["timeout", str(COMMAND_S), "bash", "-c", f"exec {command}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            found = [process.stdout.readline() for _ in range(lines)]
            process.terminate()
        return b"".join(found).decode().rstrip("\n")


@pytest.fixture
def nodes(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Nodes]:
    """Three nodes that nobody has asked anything; they came up one by one, so that the first one leads."""
    for program in ("curl", "bash"):
        if shutil.which(program) is None:
            pytest.skip(f"the page's commands need {program}")
    cluster = Cluster(keeper, ensemble.hosts, ports=sorted(free_ports(3), key=str), root="/docs-api")
    for node in cluster.nodes:
        node.start()
        cluster.wait_until_settled()
    yield Nodes(cluster)
    cluster.stop()


def test_each_command_puts_out_what_the_page_says(nodes: Nodes):
    """One after the other, on the same nodes; times and the like are not compared."""
    for example in examples():
        output = nodes.run(example)
        parts = stable(example.output).split(LEFT_OUT)
        as_written = ".*".join(re.escape(part) for part in parts)

        assert re.fullmatch(as_written, stable(output), re.DOTALL), (
            f"docs/api.md:{example.line}\n{example.command}\n\nputs out\n\n{output}\n\nand not\n\n{example.output}"
        )


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_operation_has_a_command(operation: Operation):
    """Whatever the description has, the page shows."""
    path = re.sub(r"\\\{key\\\}", ".+", re.escape(operation.path))
    path = re.sub(r"\\\{\w+\\\}", "[^/]+", path)

    assert any(
        method == operation.method and re.fullmatch(path, asked)
        for method, asked in (example.asks for example in examples())
    )


def test_the_table_of_problems_is_the_one_in_the_code():
    """Types, statuses, titles and members."""
    expected = [
        [f"`kvlog:{kind}`", str(status.value), title, ", ".join(f"`{member}`" for member in members)]
        for kind, (status, title, members) in KINDS.items()
    ]

    assert [[*row, ""][:4] for row in rows("Problems")] == expected


def test_the_table_of_headers_is_the_one_in_the_code():
    """Names, and what they say; those of reads are among them."""
    assert rows("Headers") == [[f"`{name}`", text] for name, (text, _) in HEADERS.items()]
    assert set(AGE) <= set(HEADERS)


def test_the_table_of_read_parameters_has_all_of_them():
    """In the order in which the node lists them."""
    assert [re.split(r"[`=]", row[0])[1] for row in rows("How old a read may be")] == [each.name for each in READ]


def test_each_entry_of_the_contents_leads_to_a_heading():
    """By the anchors that forges make of headings."""
    headings = re.findall(r"(?m)^##+ (.+)$", PAGE.read_text())
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE.read_text())) == anchors
