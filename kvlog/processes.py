"""Child processes that never outlive us, and free ports for them.

    with ProcessKeeper() as keeper:
        node = keeper.start([sys.executable, "server.py"], name="node 1", log=keeper.directory / "node1.log")
        node.pause()
        node.resume()
        node.terminate(timeout_s=10)

However this process ends, kill -9 included, a small second process (`kvlog/reaper.py`) then kills every
child with its whole process group and deletes the keeper's directory. Leaving the `with` block takes the
same way.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

END_S = 10.0
"""Seconds that a killed process may take to vanish; longer means that the kernel holds it."""

REAPER_S = 300.0
"""Seconds that the whole clean-up may take when the keeper is left; each of its steps is bounded too."""

_REAPER = Path(__file__).with_name("reaper.py")

# The child's shell waits for one line and only then becomes the child. The keeper writes that line after it
# has told the reaper the child's number. If the keeper dies before, the shell reads end-of-file and ends:
# no child goes unseen.
_GATE = 'read -r go && exec "$@" </dev/null'


class ProcessKeeper:
    """Starts child processes and sees to it that all of them end when this process does.

    Used as a context manager; safe to call from several threads. The reach of the promise: a child that
    moves itself into another session (a daemon) escapes, and a plain `os.fork()` of this process delays the
    clean-up until the forked copy has ended too, because it inherits the pipe that the reaper watches.
    """

    directory: Path
    """A temporary directory for the children's files, deleted at the end unless `keep` was given."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._children: dict[int, Child] = {}
        self._reaper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="kvlog-"))
        self._reaper = subprocess.Popen(  # noqa: S603 - our own file, run by our own interpreter
            [sys.executable, "-I", str(_REAPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of a Ctrl-C in the terminal
            cwd="/",
            text=True,
        )
        if not self._keep:
            self._tell(f"remove {self.directory}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            reaper, self._reaper = self._reaper, None
            children = list(self._children.values())
            self._children.clear()
        if reaper is None:
            return
        reaper.communicate(timeout=REAPER_S)  # closes the pipe, which is the reaper's sign to begin
        if reaper.returncode < 0:  # it did not get to its work, which is: killing our children
            for child in children:
                child.kill()
        for child in children:
            child.reap()
        if reaper.returncode != 0:
            raise RuntimeError(
                f"The clean-up process ended with exit code {reaper.returncode}. Something may be left"
                f" behind: look at the lines above, if any, and at {self.directory}."
            )

    def start(
        self,
        argv: Sequence[str],
        *,
        name: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "Child":
        """Starts a command in a session and process group of its own; its output is appended to `log`.

        `name` is for people. `env` replaces our environment, where given. FileNotFoundError when there is
        no such command, RuntimeError when the keeper is not open.
        """
        path = (os.environ if env is None else env).get("PATH")
        if shutil.which(argv[0], path=path) is None:
            raise FileNotFoundError(f"{name} can not start: there is no command {argv[0]!r} on this machine.")
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - running what the caller asks for is the purpose
                ["/bin/sh", "-c", _GATE, name, *argv],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
                cwd=cwd,
            )
        child = Child(process, name, log, self._forget)
        assert process.stdin is not None
        # A child that somebody has killed already needs no line; `running` tells about it.
        with suppress(BrokenPipeError), process.stdin as gate:
            try:
                self._tell(f"group {process.pid}", child)
            except RuntimeError:
                child.kill()
                raise
            gate.write(b"go\n")
        return child

    def run_at_end(self, argv: Sequence[str]) -> None:
        """Has a command run when everything ends, after the children were killed; for at most a minute."""
        self._tell(f"run {json.dumps(list(argv))}")

    def cancel_run(self, argv: Sequence[str]) -> None:
        """Takes back what `run_at_end` was told."""
        self._tell(f"cancel {json.dumps(list(argv))}")

    def _forget(self, child: "Child") -> None:
        if self._children.pop(child.pid, None) is not None:
            self._tell(f"forget {child.pid}")

    def _tell(self, order: str, child: "Child | None" = None) -> None:
        """Hands the reaper an order; `child` is the one that the order makes ours."""
        with self._lock:
            if self._reaper is None or self._reaper.stdin is None:
                raise RuntimeError("This ProcessKeeper is not open: use it inside its `with` block.")
            try:
                self._reaper.stdin.write(order + "\n")
                self._reaper.stdin.flush()
            except BrokenPipeError:
                raise RuntimeError(
                    "The clean-up process was killed, so children could outlive us. Please start again."
                ) from None
            if child is not None:
                self._children[child.pid] = child


class Child:
    """One child process with its process group. Its end is the end of the group: nothing of it stays behind.

    Made by `ProcessKeeper.start`.
    """

    name: str
    """What people call it."""

    pid: int
    """The number of the process, and of its process group."""

    log: Path
    """The file with its standard output and standard error."""

    def __init__(
        self, process: subprocess.Popen[bytes], name: str, log: Path, forget: Callable[["Child"], None]
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._process = process
        self._forget = forget

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet; a paused one has not. Looking changes nothing."""
        if self._process.returncode is not None:
            return False
        try:
            # WNOWAIT leaves the ended process in the table: as long as it is there, nobody else can get its
            # number and be hit by a signal that is meant for the rest of its group.
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False  # another thread of ours has just taken its exit code

    def kill(self) -> None:
        """Kills the whole group, paused or not (SIGKILL). Nothing happens when it has ended before."""
        with suppress(ProcessLookupError):  # it had ended, perhaps just now in another thread
            self._signal_group(signal.SIGKILL)
        self.reap()
        self._forget(self)

    def terminate(self, timeout_s: float) -> int:
        """Asks the process itself to end (SIGTERM); kills the group if it has not after `timeout_s` seconds.

        Returns the exit code; -9 when it had to be killed. A paused process can not hear the request.
        """
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except TimeoutError:
            self.kill()
            return self.reap()

    def pause(self) -> None:
        """Stops the whole group where it is (SIGSTOP). ProcessLookupError when it has ended."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused group go on (SIGCONT). ProcessLookupError when it has ended."""
        self._signal_group(signal.SIGCONT)

    def wait(self, timeout_s: float) -> int:
        """Waits until the process ends by itself; returns its exit code (minus the signal, if one ended it).

        What it leaves running in its group is killed. TimeoutError when it runs on after `timeout_s` seconds.
        """
        if not wait_until(lambda: not self.running, timeout_s, every_s=0.01):
            raise TimeoutError(
                f"{self.name} (process {self.pid}) still runs after {timeout_s:g} s; its output: {self.log}"
            )
        self.kill()
        return self.reap()

    def reap(self) -> int:
        """Takes the exit code of a process that was killed or has ended, and returns it."""
        return self._process.wait(END_S)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its output, of at most 64 KiB; "" when there is none yet."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 65536))
                text = file.read(65536).decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal_group(self, number: int) -> None:
        if self._process.returncode is not None:
            raise ProcessLookupError(f"{self.name} (process {self.pid}) has ended.")
        os.killpg(self.pid, number)


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    *,
    every_s: float = 0.05,
    say: Callable[[str], None] | None = None,
    what: str = "",
) -> bool:
    """Looks every `every_s` seconds whether `condition` holds; False when it does not in `timeout_s` seconds.

    `say`, where given, is told every ten seconds that we still wait, for `what`, and how long at most.
    """
    begin = time.monotonic()
    spoken = begin
    while not condition():
        now = time.monotonic()
        if now - begin >= timeout_s:
            return False
        if say is not None and now - spoken >= 10:  # noqa: PLR2004 - said in the docstring
            spoken = now
            say(f"... still waiting for {what} ({now - begin:.0f} s of at most {timeout_s:.0f} s)")
        time.sleep(every_s)
    return True


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that nobody uses now. OSError when there are not so many.

    They lie below the range from which the kernel takes ports for outgoing connections. Else such a
    connection could sit on a server's port while that server is down, and the server could not come back.
    """
    ports: list[int] = []
    with ExitStack() as held:  # all are held until the last is found, so that none comes twice
        for port in random.SystemRandom().sample(_CANDIDATES, len(_CANDIDATES)):
            if len(ports) == count:
                break
            try:
                holder = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                holder.bind(("127.0.0.1", port))
            except OSError:
                continue  # in use
            ports.append(port)
    if len(ports) < count:
        raise OSError(f"Only {len(ports)} of {count} ports are free on 127.0.0.1; please end some servers.")
    return ports


def _candidates() -> range:
    try:
        first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except FileNotFoundError:
        first_outgoing = 32768  # the usual value, on a system that does not tell
    return range(10000, max(first_outgoing, 20000))


_CANDIDATES = _candidates()
