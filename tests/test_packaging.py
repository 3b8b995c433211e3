"""pyproject.toml: what `pip install .` would make. Nothing is built, so nothing is downloaded."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import kvlog

ROOT = Path(__file__).resolve().parent.parent

FOR_TESTS_ONLY = {"pytest"}
"""In requirements.txt, because two commands have to do; an installed kvlog does without."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The whole of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> dict[str, str]:
    """requirements.txt by the names of its packages."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return {line.partition("==")[0]: line for line in lines if line}


def test_an_installed_kvlog_depends_on_what_a_checkout_has(project: dict[str, Any]):
    """The same packages at the same versions, but for those of the tests."""
    expected = [line for name, line in requirements().items() if name not in FOR_TESTS_ONLY]

    assert project["project"]["dependencies"] == expected


def test_the_version_is_written_down_once(project: dict[str, Any]):
    """In the package."""
    assert project["project"]["dynamic"] == ["version"]
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "kvlog.__version__"}
    assert kvlog.__version__.count(".") == 2


def test_the_command_is_there(project: dict[str, Any]):
    """`kvlog` names a function without arguments that returns the exit code."""
    (name, value), *others = project["project"]["scripts"].items()
    assert (name, others) == ("kvlog", [])

    assert callable(EntryPoint(name, value, "console_scripts").load())


def test_the_command_calls_itself_by_its_own_name(project: dict[str, Any], tmp_path: Path):
    """What pip would write, run: its sentences say `kvlog`, so that they can be typed as they stand there."""
    module, _, function = project["project"]["scripts"]["kvlog"].partition(":")
    script = tmp_path / "kvlog"
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [sys.executable, str(script), *arguments],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    assert run("--version") == (0, f"kvlog {kvlog.__version__}\n", "")
    assert run("log", "skip", "5") == (
        2,
        "",
        "kvlog: missing option '--reason'\n`kvlog log skip --help` shows what there is\n",
    )


def test_all_of_the_package_is_installed(project: dict[str, Any]):
    """Every folder with modules is a package, and tests and benchmarks stay out."""
    include = project["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {path.parent for path in (ROOT / "kvlog").rglob("*.py")}

    assert include == ["kvlog", "kvlog.*"]
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
