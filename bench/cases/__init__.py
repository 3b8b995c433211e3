"""What is measured, each case a module."""

from bench.case import Case
from bench.cases.client import PythonClient
from bench.cases.latency import Latency
from bench.cases.throughput import Throughput

CASES: dict[str, type[Case]] = {
    "throughput": Throughput,
    "latency": Latency,
    "client": PythonClient,
}
"""By name, in the order of the tables."""
