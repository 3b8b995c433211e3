"""ZooKeeper servers as local Java processes, which can be killed, paused and started again."""

import os
import shutil
import tempfile
from pathlib import Path

from kvlog.ensemble.base import START_S, Ensemble, EnsembleError, Say, mode_in, srvr
from kvlog.processes import Child, ProcessKeeper, free_ports, wait_until

ATTEMPTS = 3
"""How often the ensemble is started, with new ports each time, when somebody else took one of its ports."""

DEBIAN_JAR = Path("/usr/share/java/zookeeper.jar")

_INSTALL = "sudo apt-get install libzookeeper-java default-jre-headless"
_MAIN_CLASS = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
_JVM = ("-Xmx1000m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""The heap is what ZooKeeper's own scripts give, and grows as it is needed: with a quarter of it, a server stood
still for longer than a write may take, once the log had 55 MB. An ensemble for a demonstration or a test lives for
minutes: to optimize its code further costs more than that gives back."""

_SETTINGS = (
    "tickTime=500",  # milliseconds; sessions may last from 2 to 20 ticks
    "initLimit=20",
    "syncLimit=10",
    "clientPortAddress=127.0.0.1",
    "maxClientCnxns=0",  # no limit: here all clients have the same address
    "admin.enableServer=false",  # it would want port 8080
    "4lw.commands.whitelist=*",
    "autopurge.snapRetainCount=3",
    "autopurge.purgeInterval=1",  # hours; the default is never, which fills the disk
)


class LocalServer:
    """One server of a LocalEnsemble: a Java process with a data directory that survives its end."""

    client_port: int
    """Where it serves clients, on 127.0.0.1; the same after each start."""

    log: Path
    """Its log; each start appends."""

    def __init__(self, keeper: ProcessKeeper, name: str, argv: list[str], log: Path, client_port: int) -> None:
        self.client_port = client_port
        self.log = log
        self._keeper = keeper
        self._name = name
        self._argv = argv
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there, which it also is while paused."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        """The number of its process; None while it is down."""
        return self._child.pid if self._child is not None and self._child.running else None

    def mode(self) -> str | None:
        """Its mode: "leader", "follower" or "standalone"; None while it is down, paused or without quorum."""
        try:
            return mode_in(srvr("127.0.0.1", self.client_port, timeout_s=1))
        except OSError:
            return None

    def start(self, *, wait: bool = True) -> None:
        """Starts the process on the same data; nothing happens when it runs.

        With `wait` it returns when the server serves, which takes a quorum; EnsembleError after START_S
        seconds.
        """
        if not self.running:
            self.kill()  # takes the exit code of a process that ended by itself
            self._child = self._keeper.start(self._argv, name=self._name, log=self.log)
        if not wait:
            return
        wait_until(lambda: self.mode() is not None or not self.running, START_S)
        if not self.running:
            raise EnsembleError(f"{self._name} ended at its start. The end of its log:\n{self.log_tail()}")
        if self.mode() is None:
            raise EnsembleError(f"{self._name} runs but does not serve in {START_S:g} s: is there a quorum?")

    def kill(self) -> None:
        """Ends the process at once (SIGKILL); its data stays. Nothing happens when it is down."""
        if self._child is not None:
            self._child.kill()

    def pause(self) -> None:
        """Stops the process where it is: connections stay open and nothing answers."""
        self._existing().pause()

    def resume(self) -> None:
        """Lets a paused process go on."""
        self._existing().resume()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        return "" if self._child is None else self._child.log_tail(lines)

    def _existing(self) -> Child:
        if self._child is None:
            raise ProcessLookupError(f"{self._name} was not started.")
        return self._child


class LocalEnsemble(Ensemble):
    """ZooKeeper servers as local Java processes on 127.0.0.1, from an installed ZooKeeper.

    It is taken from $ZOOKEEPER_HOME (an unpacked release) if that is set, else from Debian's package.
    """

    servers: list[LocalServer]

    def __init__(self, keeper: ProcessKeeper, size: int = 3, *, say: Say | None = None) -> None:
        super().__init__()
        self._keeper = keeper
        self._size = size
        self._say = say
        self.servers = []
        self.description = f"{size} local ZooKeeper processes"

    @staticmethod
    def why_not() -> str | None:
        """None when local servers can run on this machine, else the sentence that says what is missing."""
        if _java() is None:
            return f"There is no Java on this machine. On Debian or Ubuntu: {_INSTALL}"
        if _class_path() is not None:
            return None
        home = os.environ.get("ZOOKEEPER_HOME")
        if home:
            return f"ZOOKEEPER_HOME is {home}, but there are no .jar files of ZooKeeper in it or in its lib/."
        return f"ZooKeeper is not installed on this machine. On Debian or Ubuntu: {_INSTALL}"

    def _start(self) -> None:
        java, class_path = _java(), _class_path()
        if java is None or class_path is None:
            raise EnsembleError(self.why_not() or "ZooKeeper was uninstalled just now.")
        for attempt in range(1, ATTEMPTS + 1):
            self._configure(java, class_path)
            for server in self.servers:
                server.start(wait=False)
            wait_until(
                lambda: self._serving() or self._failure() is not None,
                START_S,
                every_s=0.1,
                say=self._say,
                what="ZooKeeper to elect its leader",
            )
            if self._serving():
                return
            failure = self._failure() or f"There was no leader after {START_S:g} s."
            logs = "\n".join(f"--- {server.log}\n{server.log_tail()}" for server in self.servers)
            self._stop()
            if "BindException" not in failure or attempt == ATTEMPTS:
                raise EnsembleError(f"The local ZooKeeper did not start. {failure}\n{logs}")

    def _stop(self) -> None:
        for server in self.servers:
            server.kill()

    def _serving(self) -> bool:
        return all(server.mode() is not None for server in self.servers)

    def _failure(self) -> str | None:
        for server in self.servers:
            # A server that can not have its quorum port does not end, it tries for ever: hence the look at
            # the log.
            if "BindException" in server.log_tail(1000):
                return "Another process took one of its ports (BindException)."
            if not server.running:
                return "One of its processes ended."
        return None

    def _configure(self, java: str, class_path: str) -> None:
        """New servers with new ports and empty data."""
        base = Path(tempfile.mkdtemp(prefix="zookeeper-", dir=self._keeper.directory))
        size = self._size
        ports = free_ports(3 * size)
        client, quorum, election = ports[:size], ports[size : 2 * size], ports[2 * size :]
        members = [
            f"server.{number}=127.0.0.1:{quorum[number - 1]}:{election[number - 1]}"
            for number in range(1, size + 1)
        ]
        self.servers = []
        for number in range(1, size + 1):
            directory = base / f"server-{number}"
            (directory / "data").mkdir(parents=True)
            (directory / "data" / "myid").write_text(f"{number}\n")
            settings = [
                *_SETTINGS,
                f"dataDir={directory / 'data'}",
                f"clientPort={client[number - 1]}",
                *(members if size > 1 else []),  # one server alone runs without an election
            ]
            config = directory / "zoo.cfg"
            config.write_text("\n".join(settings) + "\n")
            argv = [java, *_JVM, "-cp", class_path, _MAIN_CLASS, str(config)]
            name, log = f"ZooKeeper server {number}", directory / "zookeeper.log"
            self.servers.append(LocalServer(self._keeper, name, argv, log, client[number - 1]))
        self.hosts = ",".join(f"127.0.0.1:{port}" for port in client)


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home) / "bin" / "java") if home else "java") or shutil.which("java")


def _class_path() -> str | None:
    """The jars of the installed ZooKeeper, with a logger so that its logs exist; None when there are none."""
    home = os.environ.get("ZOOKEEPER_HOME")
    if home:
        jars = sorted(Path(home).glob("lib/*.jar")) + sorted(Path(home).glob("*.jar"))
        if not any(jar.name.startswith("zookeeper-") for jar in jars):
            return None
        return ":".join(map(str, [*jars, Path(home) / "conf"]))  # conf/ has the logger's settings
    jars = [jar for jar in (DEBIAN_JAR, DEBIAN_JAR.with_name("slf4j-simple.jar")) if jar.exists()]
    return ":".join(map(str, jars)) if DEBIAN_JAR in jars else None
