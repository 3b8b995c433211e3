"""The rules of the house, as far as a program can check them: who imports whom, what is banned, what is long."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ADAPTER = {"errors", "core", "ports", "config"}
REAL = ADAPTER | {"failpoints"}
"""What runs in a real node only, and can be made to fail there."""
PARTS = {
    "errors": set(),
    "problems": {"errors"},
    "failpoints": {"errors"},
    "guard": {"errors"},
    "watchdog": {"errors", "guard"},
    "core": {"errors", "core"},
    "clock": set(),
    "config": {"errors"},
    "ports": {"errors", "core", "config"},
    "memory": ADAPTER,
    "memory_store": ADAPTER,
    "store": REAL | {"store"},
    "snapshot": {"errors", "core"},
    "line": {"errors"},
    "peers": REAL | {"line", "snapshot", "store"},
    "zookeeper": REAL | {"zookeeper"},
    "zookeeper.peek": ADAPTER | {"zookeeper"},  # looks at the znodes for people, and only for them
    "watching": ADAPTER | {"watching"},
    "runtime": REAL | {"guard", "watchdog"},  # knows the ports, and no adapter
    # It forwards writes, which is no port: the core does not ask for it.
    "service": REAL | {"service", "runtime", "peers", "snapshot"},
    # peers and snapshot: what nodes say to each other over HTTP.
    "api": REAL | {"problems", "api", "service", "peers", "snapshot", "front", "watching", "kvlog"},
    "front": {"errors", "problems", "guard", "front"},  # knows no node: any WSGI application will do
    "assembly": REAL
    | {"clock", "guard", "runtime", "service", "watching", "api", "front", "store", "peers", "zookeeper"},
    "cli": {"errors", "core", "config", "cli", "client", "snapshot", "store", "zookeeper"}
    | {"kvlog"},  # kvlog: its version
    "__main__": {"cli"},
    "reaper": set(),
    "processes": {"errors"},
    "ensemble": {"errors", "processes", "ensemble"},
    "cluster": {"errors", "processes"},  # starts server.py and speaks HTTP, as a user would
    "demo": {"errors", "core", "processes", "ensemble", "cluster", "zookeeper.peek", "demo"},
    "client": {"client"},  # for users: it knows the API, and nothing of how a node does it
    "kvlog": {"client"},  # offers it, and imports it only when it is asked for
    "server.py": {"errors", "config", "assembly"},
    "demo.py": {"errors", "demo"},
}
"""Which parts of the package each part may import. A part is a module or a folder right below kvlog, or a module
that has a line of its own here."""

THIRD_PARTIES = {
    "msgspec": {
        "core",
        "memory_store",
        "store",
        "snapshot",
        "peers",
        "watching",
        "zookeeper",
        "api",
        "cli",
        "client",
    },
    "httpx": {"client"},
    "kazoo": {"zookeeper", "zookeeper.peek", "ensemble"},
    "lmdb": {"store"},
    "flask": {"api"},
    "werkzeug": {"api", "front"},  # front: the errors of a body that does not come
    "granian": {"front"},
    "urllib3": {"peers", "cluster", "cli"},
    "docker": {"ensemble"},
    "rich": {"demo", "cli"},
    "click": {"cli"},
}
"""Which parts may import which package of others."""

BANNED_IN_CORE = re.compile(
    r"(asyncio|concurrent|datetime|http|io|logging|multiprocessing|os|pathlib|queue|random|secrets|select|selectors"
    r"|shutil|signal|socket|ssl|subprocess|sys|tempfile|threading|time|urllib|uuid)(\..*)?"
)
"""The core is called and never calls: no I/O, no clock, no threads, no chance."""

READS_ENVIRONMENT = {"server.py", "__main__", "demo.py", "ensemble", "processes"}

NOT_IMPORTED = {
    "kvlog.__main__": "what `python -m kvlog` runs",
    "kvlog.cli.running": "loaded by kvlog.cli.main once there is something to do: completion has to be quick",
    "kvlog.memory_store": "the same for the port Store",
    "kvlog.memory": "the ports without anything outside, for the simulator and the tests",
    "kvlog.reaper": "a program of its own, which kvlog.processes starts by its path",
    "kvlog.cluster": "clusters for the demo, the tests and the benchmarks",
    "kvlog.core.describe": "the words of the golden scripts and of the simulator's traces",
}
"""Modules that no other one has to import, each with the reason."""

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 420
LONGER_MODULES: dict[str, str] = {}
"""Modules that may be longer, each with the reason."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package and both programs, by name."""
    found = {}
    for path in sorted((ROOT / "kvlog").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found | {name: ROOT / name for name in ("server.py", "demo.py") if (ROOT / name).exists()}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def part(name: str) -> str:
    """The part that a module belongs to: ``kvlog.core.entry`` to ``core``."""
    below = name.removeprefix("kvlog.")
    return below if below in PARTS else below.split(".")[0]


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, wherever in it that stands."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in modules() else node.module


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name in modules():
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


def none(offenders: list[str]) -> None:
    """Fail with all of them, if there are any."""
    assert not offenders, "\n" + "\n".join(offenders)


def graph() -> dict[str, set[str]]:
    """Module to the modules of this project that it imports."""
    return {name: {found for _, found in imports(name) if found in modules()} for name in modules()}


def test_each_part_imports_only_what_is_below_it():
    """The floors: what PARTS does not allow is not imported."""
    offenders = [
        f"{name}:{line} imports {found}"
        for name in modules()
        for line, found in imports(name)
        if found.split(".")[0] == "kvlog" and part(found) not in PARTS.get(part(name), set())
    ]

    none(offenders)


def test_every_part_has_its_place():
    """A new module or folder is put on its floor, in PARTS."""
    none(sorted({part(name) for name in modules()} - set(PARTS)))


def test_no_import_leads_back():
    """The graph of imports has no cycle."""
    below, cycles = graph(), []
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            cycles.append(" -> ".join((*way[way.index(name) :], name)))
        elif name not in done:
            for found in sorted(below[name]):
                visit(found, (*way, name))
            done.add(name)

    for name in below:
        visit(name, ())

    none(cycles)


def test_packages_of_others_stay_where_they_belong():
    """kazoo, lmdb, flask and the rest are each known to one part; nothing else comes in from outside."""
    offenders = [
        f"{name}:{line} imports {found}"
        for name in modules()
        for line, found in imports(name)
        if (top := found.split(".")[0]) not in sys.stdlib_module_names | {"kvlog"}
        and part(name) not in THIRD_PARTIES.get(top, set())
    ]

    none(offenders)


def test_the_core_is_pure():
    """Nothing under kvlog/core imports what does I/O, reads clocks, starts threads or draws lots."""
    offenders = [
        f"{name}:{line} imports {found}"
        for name in modules()
        if part(name) in {"core", "errors"}
        for line, found in imports(name)
        if BANNED_IN_CORE.fullmatch(found)
    ]

    none(offenders)


def test_the_environment_is_read_at_the_edge():
    """os.environ and os.getenv: only the programs, and what starts processes."""
    offenders = [
        f"{name}:{node.lineno}"
        for name in modules()
        if part(name) not in READS_ENVIRONMENT
        for node in ast.walk(tree(name))
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"environ", "environb", "getenv"}
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"  # a WSGI request has an environ, too
        )
        or (isinstance(node, ast.alias) and node.name in {"environ", "environb", "getenv"})
    ]

    none(offenders)


def test_imports_stand_at_the_top():
    """No import hides in a function."""
    offenders = [
        f"{name}:{inner.lineno}"
        for name, node in functions()
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]

    none(offenders)


def test_nothing_is_left_to_do():
    """No TODO, FIXME or XXX."""
    left = re.compile(r"\b(TODO|FIXME|XXX)\b")
    offenders = [
        f"{name}:{number} {line.strip()}"
        for name, path in modules().items()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if left.search(line)
    ]

    none(offenders)


def test_no_exception_is_caught_without_a_name():
    """No bare ``except:``."""
    offenders = [
        f"{name}:{node.lineno}"
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]

    none(offenders)


def test_functions_fit_on_a_page():
    """At most FUNCTION_LINES_MAX lines each."""
    offenders = [
        f"{name}:{node.lineno} {node.name}: {lines} lines"
        for name, node in functions()
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    none(offenders)


def test_modules_can_be_read_in_one_go():
    """At most MODULE_LINES_MAX lines each, but for the listed ones."""
    offenders = [
        f"{name}: {lines} lines"
        for name, path in modules().items()
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX and name not in LONGER_MODULES
    ]

    none(offenders)


def test_no_module_is_dead():
    """Each is imported by another one, or is listed with the reason why not."""
    used = set().union(*graph().values()) | set(NOT_IMPORTED) | {"server.py", "demo.py"}
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}

    none(sorted(set(modules()) - used - packages))
