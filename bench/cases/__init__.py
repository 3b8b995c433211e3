"""What is measured, each case a module."""

from bench.case import Case
from bench.cases.client import PythonClient
from bench.cases.latency import Latency
from bench.cases.throughput import BulkWrites, LinearizableReads, LocalReads, Mixed, SingleWrites

CASES: dict[str, type[Case]] = {
    "reads": LocalReads,
    "linearizable": LinearizableReads,
    "writes": SingleWrites,
    "bulk": BulkWrites,
    "mixed": Mixed,
    "latency": Latency,
    "client": PythonClient,
}
"""By name, in the order of the tables."""
