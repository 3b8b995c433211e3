"""What is measured, each case a module."""

from bench.case import Case
from bench.cases.catchup import Catchup
from bench.cases.client import PythonClient
from bench.cases.footprint import Footprint
from bench.cases.growth import Growth
from bench.cases.latency import Latency
from bench.cases.takeover import Takeover
from bench.cases.throughput import BulkWrites, LinearizableReads, LocalReads, Mixed, SingleWrites
from bench.cases.watches import Watches

CASES: dict[str, type[Case]] = {
    "reads": LocalReads,
    "linearizable": LinearizableReads,
    "writes": SingleWrites,
    "bulk": BulkWrites,
    "mixed": Mixed,
    "latency": Latency,
    "client": PythonClient,
    "watches": Watches,
    "takeover": Takeover,
    "catchup": Catchup,
    "growth": Growth,
    "footprint": Footprint,
}
"""By name, in the order of the tables."""
