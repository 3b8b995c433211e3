"""Completion: what a shell gets when it asks, and the script that makes it ask."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, kvlog


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_that_of_the_variable(shell: str):
    """``completion SHELL`` prints what a shell gets with _KVLOG_COMPLETE=SHELL_source; it completes `kvlog`."""
    printed = kvlog("completion", shell)
    asked = kvlog(env={"_KVLOG_COMPLETE": f"{shell}_source"})

    assert (printed.code, asked.code) == (0, 0)
    assert printed.out == asked.out
    assert f"_KVLOG_COMPLETE={shell}_complete" in printed.out
    assert "_kvlog_completion" in printed.out


@pytest.mark.parametrize(
    ("typed", "fits"),
    [
        ("kvlog re", ["restore", "recover", "replicas", "request"]),
        ("kvlog replicas ", ["remove"]),
        ("kvlog log skip --re", ["--reason"]),
        ("kvlog completion z", ["zsh"]),
    ],
)
def test_what_fits_is_completed(typed: str, fits: list[str]):
    """Commands, groups of commands, options and choices."""
    words = typed.split(" ")
    asked = kvlog(env={"_KVLOG_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)})

    assert asked.out.splitlines() == [f"plain,{fit}" for fit in fits]


def test_bash_completes_with_it(tmp_path: Path):
    """The real shell, with the command as ``pip install`` makes it, and a variable that would be wrong usage."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash on this machine")
    command = tmp_path / "kvlog"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kvlog "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(kvlog completion bash)"; COMP_WORDS=(kvlog ver); COMP_CWORD=1; '
        '_kvlog_completion kvlog 2>/dev/null; echo "${COMPREPLY[@]}"'
    )
    ended = subprocess.run(
        [bash, "--norc", "-c", script],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "KVLOG_NODE": "ftp://x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stdout.strip()) == (0, "verify"), ended.stderr
