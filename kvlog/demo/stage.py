"""Everything around the story: an ensemble and nodes to tell it with, and the end of them whatever happens."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

from kvlog.cluster import Cluster, NodeCommand, server_command
from kvlog.demo import lessons
from kvlog.demo.narrator import ClaimFalse, JsonVoice, Narrator, TextVoice, Voice
from kvlog.demo.scene import Scene, curl_get, curl_post, curl_read, curl_update
from kvlog.ensemble import Ensemble, EnsembleError, find_ensemble
from kvlog.errors import InUse, Unavailable
from kvlog.processes import ProcessKeeper, free_ports
from kvlog.zookeeper.peek import Peek

SESSION_TIMEOUT_S = 10.0
"""ZooKeeper's session timeout for the nodes: kvlog's default."""

ALL_TRUE, CLAIM_FALSE, USAGE, NOT_SET_UP, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo is to do.

    Attributes:
        stale: tell the lesson of the stale replica.
        catch_up: tell the lesson of catching up, after the other one.
        ports: of the nodes, on 127.0.0.1; at least three.
        zk: ``host:port,...`` of a ZooKeeper that runs; None to have one started.
        kind: how one is started.
        keep: leave everything running at the end, until Ctrl-C.
        json: say each step as a line of JSON.
    """

    stale: bool
    catch_up: bool
    ports: tuple[int, ...]
    zk: str | None = None
    kind: Literal["auto", "docker", "local"] = "auto"
    keep: bool = False
    json: bool = False


def run(options: Options, *, command: NodeCommand = server_command) -> int:
    """Tell the story and clean up after it; returns the exit code. ``command`` starts the nodes."""
    voice = _voice(options)
    try:
        with ExitStack() as stack:
            _perform(options, voice, command, stack)
    except ClaimFalse as error:
        return _fail(CLAIM_FALSE, f"this claim is false: {error}")
    except (EnsembleError, InUse) as error:
        return _fail(NOT_SET_UP, str(error))
    except BrokenPipeError:
        # Nobody reads any more. What Python would still write at its end is to go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted; everything that was started is gone")
    return ALL_TRUE


def _voice(options: Options) -> Voice:
    if options.json:
        return JsonVoice()
    return TextVoice(terminal=sys.stdout.isatty())


def _fail(code: int, reason: str) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"demo: {reason}\n")
    return code


def _perform(options: Options, voice: Voice, command: NodeCommand, stack: ExitStack) -> None:
    begun = time.monotonic()
    _check_ports(options.ports)
    keeper = stack.enter_context(ProcessKeeper())
    with voice.busy("Looking for a ZooKeeper") as say:
        ensemble = stack.enter_context(find_ensemble(keeper, hosts=options.zk, kind=options.kind, say=say))
    # Somebody else's ZooKeeper may hold a cluster at the usual place.
    root = "/kvlog" if options.zk is None else f"/kvlog-demo-{secrets.token_hex(4)}"
    cluster = Cluster(
        keeper,
        ensemble.hosts,
        ports=options.ports,
        root=root,
        session_timeout_s=SESSION_TIMEOUT_S,
        command=command,
    )
    peek = Peek(ensemble.hosts, root)
    narrator = Narrator(voice)
    stack.callback(_end, cluster, peek if options.zk is not None else None, voice)
    scene = Scene(cluster, peek, narrator, zookeeper=ensemble.description)
    lessons.begin(scene)
    if options.stale:
        lessons.stale(scene)
    if options.catch_up:
        lessons.catch_up(scene)
    narrator.end_lesson()
    _close(narrator, time.monotonic() - begun)
    if options.keep:
        with suppress(KeyboardInterrupt):  # here it is the ordinary end
            _keep(cluster, ensemble, narrator)


def _check_ports(ports: tuple[int, ...]) -> None:
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                others = ",".join(map(str, sorted(free_ports(len(ports)))))
                raise InUse(
                    f"port {port} of 127.0.0.1 cannot be had ({error.strerror}): another process has it; stop"
                    f" that one, or choose other ports, for example --ports {others}"
                ) from error


def _end(cluster: Cluster, peek: Peek | None, voice: Voice) -> None:
    """End the nodes; then delete what they wrote to a ZooKeeper that is not ours."""
    with suppress(BrokenPipeError):  # nobody may be listening any more; it is to be done all the same
        voice.progress("Cleaning up")
    for node in cluster.running:
        if node.child is not None:
            node.child.kill()
    if peek is None:
        return
    try:
        peek.remove()
    except Unavailable as error:
        sys.stderr.write(f"demo: {peek.root} could not be deleted, please do so: {error}\n")


def _close(narrator: Narrator, seconds: float) -> None:
    with narrator.step("end", "The end", promise="the demo ends") as step:
        step.say(f"{narrator.claims} claims were checked, and all are true. The whole took {seconds:.0f} s.")
        step.data |= {"claims": narrator.claims, "seconds": round(seconds, 1)}


def _keep(cluster: Cluster, ensemble: Ensemble, narrator: Narrator) -> None:
    """Say how to play with what runs, and wait for Ctrl-C."""
    with narrator.step("keep", "Your turn", promise="the nodes stay") as step:
        step.say("Everything goes on running. In another terminal, try for each port:")
        commands = []
        for node in cluster.nodes:
            lines = [
                curl_read(node, "key0"),
                curl_update(node, "key0", "mine"),
                curl_get(node, "/v1/status"),
                curl_post(node, "/kill"),
                curl_post(node, "/v1/admin/catchup"),
            ]
            narrator.voice.listing(lines)
            commands += [line.removeprefix("$ ") for line in lines]
        node = cluster.nodes[0]
        restart = (
            f"$ {sys.executable} server.py --demo --recover stale \\\n"
            f"    --port {node.port} --data-dir {node.data_dir} \\\n"
            f"    --root {cluster.root} --zk {ensemble.hosts}"
        )
        step.say(
            f"A node that you have killed, for example on port {node.port}, is started again from kvlog's"
            " directory with:"
        )
        narrator.voice.listing([restart])
        step.say(f"The log is in ZooKeeper at {ensemble.hosts}, below {cluster.root}.")
        step.say("Ctrl-C here ends everything and deletes it.")
        step.data |= {"commands": commands, "zookeeper": ensemble.hosts, "root": cluster.root}
    signal.pause()
