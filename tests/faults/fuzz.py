"""Fuzzes the parsers with coverage: ``python -m tests.faults.fuzz [--seconds N] [TARGET...]``; see scripts/fuzz.

Each target runs in a process of its own: libFuzzer ends the process that it runs in. It begins with the seeds of
targets.py; what has brought new coverage is kept until the end of the run. Ends with 1 if something was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import atheris

ALONE = "--alone"
INSTRUMENTED = ("kvlog", "tests.faults.targets", "json", "base64", "urllib.parse")

if sys.argv[1:2] == [ALONE]:
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from tests.faults.targets import TARGETS
else:
    from tests.faults.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
INPUT_BYTES_MAX = 4_096
INPUT_SECONDS_MAX = 60
MEMORY_MIB_MAX = 2_048

_RUNS = re.compile(r"Done ([0-9]+) runs")
_COVERAGE = re.compile(r"cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+)")


def fuzz(name: str, seconds: int, directory: Path) -> bool:
    """Run one target in a process of its own, and say what came of it; true if nothing was found."""
    seeds, found = directory / "seeds", CORPUS / name
    for each in (directory, seeds, found):
        each.mkdir(exist_ok=True, parents=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (seeds / f"seed-{number}").write_bytes(seed)
    words = directory / "words"
    escaped = ["".join(map("\\x{:02x}".format, word)) for word in TARGETS[name].dictionary]
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.faults.fuzz", ALONE, name),
            *(str(directory), str(seeds), str(found)),
            *(f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_SECONDS_MAX}"),
            *(f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-artifact_prefix={found}/", f"-dict={words}"),
            "-print_final_stats=1",
        ],
        cwd=ROOT,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    runs = sum(map(int, _RUNS.findall(said)))
    coverage = _COVERAGE.findall(said)
    lines, features, inputs = coverage[-1] if coverage else ("?", "?", "?")
    print(
        f"{name}: {runs:,} inputs in {time.monotonic() - began:.0f} s, {lines} places, {features} features, "
        f"{inputs} inputs kept: {'nothing found' if done.returncode == 0 else 'FOUND'}",
        flush=True,
    )
    if done.returncode:
        print(said[-4_000:], flush=True)
    if not any(found.iterdir()):
        found.rmdir()
    return done.returncode == 0


def main() -> int:
    """All targets that are named, or all there are."""
    parser = argparse.ArgumentParser(description="fuzz kvlog's parsers")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    given = parser.parse_args()
    unknown = [name for name in given.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="kvlog-fuzz-") as directory:
        clean = [fuzz(name, given.seconds, Path(directory) / name) for name in given.targets or TARGETS]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == [ALONE]:
        target = TARGETS[sys.argv[2]]
        atheris.Setup([sys.argv[0], *sys.argv[3:]], lambda data: target(data) and None)
        atheris.Fuzz()
    else:
        sys.exit(main())
