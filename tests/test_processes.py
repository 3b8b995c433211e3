"""Child processes: they do what they are told, and they never outlive us."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until
from kvlog.reaper import Orders, clean_up, read_orders

ROOT = Path(__file__).resolve().parent.parent

SLEEP = "import time; print('up', flush=True); time.sleep(600)"

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP

POLITE = "import signal, os; signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); " + SLEEP

# Has a child itself, in the same group; prints both numbers.
PARENT = """
import os, subprocess, time
below = subprocess.Popen(["sleep", "600"])
print(os.getpid(), below.pid, flush=True)
time.sleep(600)
"""

# A program that keeps two children, one of them paused, has a command to run at the end, and says what runs.
KEEPING = """
import sys, time
from pathlib import Path
from kvlog.processes import ProcessKeeper

mark = sys.argv[1]
with ProcessKeeper() as keeper:
    running = keeper.start(["sleep", "600"], name="running", log=keeper.directory / "log")
    paused = keeper.start(["sleep", "600"], name="paused", log=keeper.directory / "log")
    paused.pause()
    keeper.run_at_end(["touch", mark])
    print(running.pid, paused.pid, keeper.directory, flush=True)
    if sys.argv[2] == "error":
        raise ValueError("on purpose")
    if sys.argv[2] == "wait":
        time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its exit code to be taken does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def own() -> Iterator[ProcessKeeper]:
    with ProcessKeeper() as own:
        yield own


def start(keeper: ProcessKeeper, code: str, name: str = "child") -> Child:
    """Starts a Python program and waits until it has said its first word."""
    child = keeper.start([sys.executable, "-c", code], name=name, log=keeper.directory / f"{name}.log")
    assert wait_until(lambda: child.log_tail() != "", 10), "the child does not come up"
    return child


def test_a_child_runs_until_it_is_killed_and_its_output_is_in_its_log(own: ProcessKeeper) -> None:
    child = start(own, SLEEP)
    assert child.running
    assert child.log_tail() == "up"
    child.kill()
    assert not child.running
    assert not alive(child.pid)
    child.kill()  # nothing happens the second time


def test_kill_ends_the_whole_group(own: ProcessKeeper) -> None:
    child = start(own, PARENT)
    above, below = map(int, child.log_tail().split())
    assert above == child.pid
    assert alive(below)
    child.kill()
    assert wait_until(lambda: not alive(below), 5)


def test_what_a_child_leaves_running_ends_with_it(own: ProcessKeeper) -> None:
    child = start(own, PARENT)
    below = int(child.log_tail().split()[1])
    os.kill(child.pid, signal.SIGKILL)
    assert wait_until(lambda: not child.running, 5)
    assert alive(below), "looking at `running` has changed something"
    assert child.wait(1) == -signal.SIGKILL
    assert wait_until(lambda: not alive(below), 5)


def test_terminate_gives_the_exit_code_of_a_child_that_ends_in_time(own: ProcessKeeper) -> None:
    assert start(own, POLITE).terminate(timeout_s=10) == 7


def test_terminate_kills_a_child_that_does_not_listen(own: ProcessKeeper) -> None:
    assert start(own, DEAF).terminate(timeout_s=0.2) == -signal.SIGKILL


def test_a_paused_child_stands_still_until_it_is_resumed(own: ProcessKeeper) -> None:
    child = start(own, SLEEP)
    child.pause()
    assert wait_until(lambda: stopped(child.pid), 5)
    assert child.running
    child.resume()
    assert wait_until(lambda: not stopped(child.pid), 5)


def test_an_ended_child_can_not_be_paused(own: ProcessKeeper) -> None:
    child = start(own, SLEEP)
    child.kill()
    with pytest.raises(ProcessLookupError, match=r"child .* has ended"):
        child.pause()


def test_waiting_for_a_child_that_goes_on_says_so(own: ProcessKeeper) -> None:
    child = start(own, SLEEP, "node 1")
    with pytest.raises(TimeoutError, match=r"node 1 .* still runs after 0\.1 s"):
        child.wait(0.1)


def test_a_child_that_ends_by_itself_gives_its_exit_code(own: ProcessKeeper) -> None:
    child = own.start(["sh", "-c", "echo last words; exit 3"], name="short", log=own.directory / "log")
    assert child.wait(10) == 3
    assert child.log_tail() == "last words"


def test_a_log_is_appended_to_and_its_tail_is_short(own: ProcessKeeper) -> None:
    log = own.directory / "log"
    for word in ("first", "second"):
        own.start(["sh", "-c", f"echo {word}; seq 100"], name="seq", log=log).wait(10)
    assert log.read_text().startswith("first\n1\n")
    assert "\nsecond\n" in log.read_text()
    assert own.start(["true"], name="true", log=log).log_tail(lines=2) == "99\n100"


def test_arguments_environment_and_directory_arrive_as_given(own: ProcessKeeper, tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['WORD'], os.getcwd())"
    argv = [sys.executable, "-c", code, "a b", "$HOME", "'", ""]
    child = own.start(argv, name="echo", log=own.directory / "log", env=os.environ | {"WORD": "x"}, cwd=tmp_path)
    assert child.wait(10) == 0
    assert child.log_tail() == f"{argv[3:]} x {tmp_path}"


def test_a_command_that_does_not_exist_is_an_error_with_its_name(own: ProcessKeeper) -> None:
    with pytest.raises(FileNotFoundError, match="node 1 can not start: there is no command 'no-such-program'"):
        own.start(["no-such-program"], name="node 1", log=own.directory / "log")


def test_a_keeper_that_is_not_open_starts_nothing() -> None:
    keeper = ProcessKeeper()
    with keeper:
        directory = keeper.directory
    with pytest.raises(RuntimeError, match="not open"):
        keeper.start(["true"], name="late", log=Path(os.devnull))
    assert not directory.exists()


def test_a_kept_directory_stays() -> None:
    with ProcessKeeper(keep=True) as keeper:
        (keeper.directory / "evidence").touch()
    (keeper.directory / "evidence").unlink()
    keeper.directory.rmdir()


def test_a_cancelled_command_does_not_run(tmp_path: Path) -> None:
    with ProcessKeeper() as keeper:
        for name in ("cancelled", "run"):
            keeper.run_at_end(["touch", str(tmp_path / name)])
        keeper.cancel_run(["touch", str(tmp_path / "cancelled")])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("ending", "number"),
    [
        ("wait", signal.SIGKILL),
        ("wait", signal.SIGTERM),
        ("wait", signal.SIGINT),
        ("wait", signal.SIGHUP),
        ("error", None),
        ("normal", None),
    ],
)
def test_nothing_is_left_however_the_keeper_ends(
    tmp_path: Path, ending: str, number: signal.Signals | None
) -> None:
    """Children, paused ones too, are killed, the command is run and the directory is deleted."""
    mark = tmp_path / "ran"
    keeping = subprocess.Popen(
        [sys.executable, "-c", KEEPING, str(mark), ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert keeping.stdout is not None
    with keeping.stdout as output:
        running, paused, directory = output.readline().split()
    if number is not None:
        keeping.send_signal(number)
    keeping.wait(20)
    assert wait_until(lambda: not alive(int(running)) and not alive(int(paused)), 10)
    assert wait_until(lambda: mark.exists() and not Path(directory).exists(), 10)


def test_killing_the_reaper_is_noticed_and_leaves_no_children() -> None:
    """Then the keeper itself kills its children when it ends, and says that something may be left."""
    keeper = ProcessKeeper(keep=True)
    keeper.__enter__()
    child = start(keeper, SLEEP)
    assert keeper._reaper is not None
    keeper._reaper.kill()
    keeper._reaper.wait(5)
    with pytest.raises(RuntimeError, match="clean-up process was killed"):
        start(keeper, SLEEP)
    with pytest.raises(RuntimeError, match="clean-up process ended with exit code -9"):
        keeper.__exit__(None, None, None)
    assert not alive(child.pid)
    shutil.rmtree(keeper.directory)


def test_half_an_order_is_no_order() -> None:
    """The keeper may die while it writes; what arrived must not be taken for the whole."""
    orders = read_orders(["group 12\n", "group 13\n", "forget 12\n", "remove /"])
    assert orders == Orders(groups=[13], commands=[], directories=[])


def test_an_order_that_is_none_does_not_stop_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_orders(["dance\n", "group x\n", "group 5\n"]).groups == [5]
    assert "did not understand the order 'dance'" in capsys.readouterr().err


def test_clean_up_says_which_command_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert not clean_up(Orders(commands=[["false"], ["no-such-program"]]))
    said = capsys.readouterr().err
    assert "please run: false" in said
    assert "please run: no-such-program" in said


def test_free_ports_are_free_distinct_and_not_for_outgoing_connections() -> None:
    ports = free_ports(30)
    assert len(set(ports)) == 30
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < max(lowest_outgoing, 20000)


def test_a_port_that_is_taken_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert taken.getsockname()[1] not in free_ports(20)


def test_wait_until_gives_up_at_its_deadline() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.1)
