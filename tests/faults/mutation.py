"""kvlog with one thing broken on purpose: the same text, but for a few lines that are others.

The text is changed as a module is imported; nothing on the disk is. Whoever imports ``tests`` with the variable
KVLOG_MUTANT set has that mutant from then on: pytest, the processes that a test spawns, and nodes that are started
by ``broken_server.py``. kvlog itself knows nothing of it.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

VARIABLE = "KVLOG_MUTANT"

ROOT = Path(__file__).resolve().parents[2]


class StaleMutant(Exception):
    """The place that a mutant changes is not what it was: the mutant has to be written anew."""


@dataclass(frozen=True, slots=True)
class Edit:
    """``old`` becomes ``new`` in a function or class of a module, where it must stand exactly once.

    ``place``: the module, a colon, and the name of the function or class within it ("Class.method").
    """

    place: str
    old: str
    new: str

    @property
    def module(self) -> str:
        """The module's name."""
        return self.place.partition(":")[0]

    @property
    def within(self) -> str:
        """The name of the function or class."""
        return self.place.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One thing that is broken.

    Attributes:
        name: says what is broken, in words with hyphens.
        breaks: what goes wrong then, in a sentence.
        edits: how.
        killed_by: the tests that fail then, as pytest names them; all cases of a test, if it has no brackets.
        seed: a schedule of the simulator in which that shows, if it is to: others are tried behind it.
        long: whether that takes a long schedule.
        patience_s: after how long a test that does not end counts as failed: some mutants go round in circles.
    """

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    killed_by: tuple[str, ...]
    seed: int = 0
    long: bool = False
    patience_s: float = 30.0


def path_of(module: str) -> Path:
    """Where a module's text is. Imports nothing: some packages import all that is in them."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise StaleMutant(f"there is no module {module}")
    return path


def changed(source: str, edits: Sequence[Edit]) -> str:
    """The text of a module with all of these edits.

    Raises:
        StaleMutant: one of them does not fit.
    """
    for edit in edits:
        lines = source.splitlines(keepends=True)
        first, last = _lines_of(source, edit)
        text = "".join(lines[first:last])
        if (found := text.count(edit.old)) != 1:
            raise StaleMutant(f"{edit.place} has {edit.old!r} {found} times, not once: write the mutant anew")
        if edit.old == edit.new:
            raise StaleMutant(f"{edit.place}: {edit.old!r} is not changed at all")
        source = "".join([*lines[:first], text.replace(edit.old, edit.new), *lines[last:]])
    return source


def _lines_of(source: str, edit: Edit) -> tuple[int, int]:
    """The lines of the function or class that is to be changed: the first one, and the one behind the last."""
    node: ast.AST = ast.parse(source)
    for name in edit.within.split("."):
        inside = [
            each
            for each in ast.iter_child_nodes(node)
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and each.name == name
        ]
        if len(inside) != 1:
            raise StaleMutant(f"{edit.module} has no {edit.within}: write the mutant anew")
        node = inside[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    assert node.end_lineno is not None
    return node.lineno - 1, node.end_lineno


class _Loader(SourceFileLoader):
    """Loads a module from its changed text; compiled files are neither used nor written."""

    def __init__(self, module: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(module, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - it loads one module only
        source = self.get_data(self.path).decode()
        return compile(changed(source, self._edits), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Has the modules of a mutant loaded by _Loader."""

    def __init__(self, mutant: Mutant) -> None:
        self._modules = {edit.module for edit in mutant.edits}
        self._mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - wherever the package is, the text is the project's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname not in self._modules:
            return None
        edits = [edit for edit in self._mutant.edits if edit.module == fullname]
        return spec_from_file_location(
            fullname, path_of(fullname), loader=_Loader(fullname, str(path_of(fullname)), edits)
        )


def switch_on(mutant: Mutant) -> None:
    """From here on, kvlog is this mutant, in this process and those that it starts through ``tests``.

    Raises:
        StaleMutant: it does not fit, or a module that it changes has been imported already.
    """
    for edit in mutant.edits:
        if edit.module in sys.modules:
            raise StaleMutant(f"{edit.module} has been imported already")
    for module in {edit.module for edit in mutant.edits}:
        changed(path_of(module).read_text(), [edit for edit in mutant.edits if edit.module == module])
    sys.meta_path.insert(0, _Finder(mutant))
    os.environ[VARIABLE] = mutant.name
