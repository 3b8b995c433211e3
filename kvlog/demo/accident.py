"""The part of the story that both lessons share: updates, the leader's death, updates without it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kvlog.cluster import Answer, ClusterNode
from kvlog.demo import checks
from kvlog.demo.narrator import Step
from kvlog.demo.scene import KEYS, TAKEOVER_S, Scene, curl_update
from kvlog.zookeeper.peek import StoredEntry

CHANGED_KEYS = ("key0", "key2")
"""The keys that are updated while the old leader is down; the others stay as they are."""


@dataclass(frozen=True, slots=True)
class Accident:
    """What happened until the old leader is started again.

    Attributes:
        old: the node that led, and is down.
        before: what every node read before it died.
        new_key: a key that was first set while it was down.
        first, last: the indices of the entries that it missed.
    """

    old: ClusterNode
    before: dict[str, str]
    new_key: str
    first: int
    last: int

    @property
    def missed(self) -> int:
        """How many entries it missed."""
        return self.last - self.first + 1


def happen(scene: Scene) -> Accident:
    """Tell it, and have it happen."""
    value = scene.new_value()
    _update_through_follower(scene, value)
    _read_everywhere(scene, value)
    if not scene.log_shown:
        _show_log(scene)
    before, index = dict(scene.expected), scene.indices[-1]
    old, survivor = scene.leader, scene.follower()
    value = scene.new_value()
    _kill(scene, old, survivor, value)
    return _update_while_down(scene, old, survivor, value, before=before, index=index)


def _update_through_follower(scene: Scene, value: str) -> None:
    with scene.narrator.step(
        "update", "An update through a follower", promise="a follower takes an update and has it committed"
    ) as step:
        leader, follower = scene.leader, scene.follower()
        step.say(f"A client need not know who leads. This update goes to port {follower.port}, a follower:")
        answer = scene.update(follower, KEYS[0], value)
        checks.exchange(scene, step, curl_update(follower, KEYS[0], value), answer)
        scene.narrator.explain(
            step,
            "The follower passed it on to the leader. The leader appended it to the log in ZooKeeper: `index` is"
            " its place there, `revision` counts the updates. Then the nodes applied it to their copies:"
            " `replicas` says which ones already have.",
        )
        step.check(
            f"it was sent to port {follower.port}, and the leader on port {leader.port} carried it out",
            expected=(follower.address, leader.address),
            seen=(answer.headers.get("kvlog-node"), answer.body.get("leader")),
        )
        step.say(f"{' and '.join(KEYS[1:])} are set to {value} in the same way.")
        for key in KEYS[1:]:
            scene.update(follower, key, value)


def _read_everywhere(scene: Scene, value: str) -> None:
    with scene.narrator.step("read", "Read on every port", promise="every node answers reads") as step:
        scene.narrator.explain(
            step,
            "A node answers a read from its own copy, without asking anybody. So let us ask each of them:",
            again="As before, every port is asked:",
        )
        views = scene.look()
        scene.show(step, views)
        checks.values(step, views, f"all ports read {value} for {', '.join(KEYS)}", dict.fromkeys(KEYS, value))
        scene.narrator.explain(
            step,
            "The digest is a checksum over everything that a node has stored (its first digits are shown). Same"
            " digest, same data: there is no need to compare key by key.",
        )
        checks.digests(step, views)


def _show_log(scene: Scene) -> None:
    with scene.narrator.step("log", "The log in ZooKeeper", promise="ZooKeeper shows the log") as step:
        entries = scene.peek.last_entries(2)
        step.say(
            "These are the last two updates as they stand in ZooKeeper: one znode for each entry, with a line of"
            " JSON and the checksum of that line."
        )
        for entry in entries:
            scene.narrator.voice.listing([entry.path, *entry.text.splitlines()])
        step.data["log"] = [{"path": entry.path, "text": entry.text} for entry in entries]
        step.say(
            "`epoch` is the leader's term of office. `prev_hash` is the checksum of the entry before: if an entry"
            " was altered, lost or out of order, every replica would notice."
        )
        first, second = entries
        step.check(
            f"entry {second.index} names the checksum of entry {first.index}",
            expected=first.item.hash,
            seen=second.item.entry.prev_hash,
        )
    scene.log_shown = True


def _kill(scene: Scene, old: ClusterNode, survivor: ClusterNode, value: str) -> None:
    with scene.narrator.step(
        "kill", f"kill -9 the leader on port {old.port}", promise="a survivor takes over and commits an update"
    ) as step:
        scene.narrator.explain(
            step,
            "Now the leader dies without a word: it tells neither ZooKeeper nor the other nodes. At once, a client"
            " sends an update to one of these and waits for the answer.",
            again="As before, the leader dies without a word, and a client sends an update to another node.",
        )
        pid = old.child.pid if old.child else 0
        begun = time.monotonic()
        old.kill()
        answer = scene.update(survivor, KEYS[0], value, timeout_s=TAKEOVER_S)
        seconds = time.monotonic() - begun
        scene.narrator.voice.listing([f"$ kill -9 {pid}"])
        for unknown in scene.repeated:
            checks.exchange(scene, step, curl_update(survivor, KEYS[0], value), unknown)
            scene.narrator.explain(
                step,
                "That node cannot tell whether the dead leader still got the update, and does not pretend to."
                " Setting the key to the same value once more does no harm, so the client repeats it.",
            )
        checks.exchange(scene, step, curl_update(survivor, KEYS[0], value), answer)
        _explain_takeover(scene, step, old, answer, seconds)


def _explain_takeover(scene: Scene, step: Step, old: ClusterNode, answer: Answer, seconds: float) -> None:
    timeout_s = scene.cluster.session_timeout_s
    members, candidates = scene.peek.members(), scene.peek.candidates()
    leader = scene.leader
    scene.show_roles(step)
    step.data |= {"takeover_seconds": round(seconds, 3), "session_timeout_seconds": timeout_s}
    step.check(
        f"port {leader.port} leads now: all survivors say so, and it carried the update out",
        expected=({leader.address}, leader.address),
        seen=(checks.named_leaders(scene), answer.body.get("leader")),
    )
    step.claim(
        f"from the kill to the answer it took {seconds:.2f} s; ZooKeeper's session timeout is {timeout_s:g} s",
        seconds < timeout_s,
        expected=f"less than {timeout_s:g} s",
        seen=f"{seconds:.2f} s",
    )
    scene.narrator.explain(
        step,
        "Why so fast? ZooKeeper itself has not noticed anything yet: only when it has heard nothing from a process"
        f" for the session timeout, {timeout_s:g} s, does it end the session. But the next node in line keeps"
        " asking at the leader's port. When connections are refused there, no process is left, and the next in"
        " line deletes the leader's znode in the election itself.",
    )
    step.check(
        f"ZooKeeper still holds the session of port {old.port}, but its znode in the election is gone",
        expected=(True, False),
        seen=(old.address in members, any(name.startswith(f"{old.address}_") for name in candidates)),
    )
    scene.narrator.explain(
        step,
        "And if the old leader was alive after all? Then still nothing bad happens: ZooKeeper takes an entry only"
        " if, in the same transaction, its writer's znode in the election exists. This is the fence. A leader that"
        " was replaced can write nothing.",
    )


def _update_while_down(
    scene: Scene, old: ClusterNode, survivor: ClusterNode, value: str, *, before: dict[str, str], index: int
) -> Accident:
    with scene.narrator.step(
        "down", f"Updates while port {old.port} is down", promise="updates are committed while a node is down"
    ) as step:
        new_key = f"news{len(before) - len(KEYS) + 1}"
        unchanged = [key for key in KEYS if key not in CHANGED_KEYS]
        step.say(
            f"The others go on: {CHANGED_KEYS[1]} is set to {value} as well, and so is a new key, {new_key}."
            f" Nobody changes {', '.join(unchanged)}."
        )
        for key in (*CHANGED_KEYS[1:], new_key):
            scene.update(survivor, key, value)
        entries = scene.log_after(index)
        step.say(f"This is what port {old.port} misses, read from the log:")
        scene.show_log(step, entries)
        scene.narrator.explain(
            step,
            "A barrier is the first entry of each new leader: once it is in the log, nothing of an earlier leader"
            " can come behind it.",
        )
        _check_entries(scene, step, entries, index)
        step.data["missed_entries"] = len(entries)
        return Accident(old, before, new_key, index + 1, index + len(entries))


def _check_entries(scene: Scene, step: Step, entries: Sequence[StoredEntry], index: int) -> None:
    """Claim that the entries behind ``index`` are what the story has written since, and barriers."""
    updates = [entry.index for entry in entries if not entry.is_barrier]
    answered = [each for each in scene.indices if each > index]
    barriers, others = len(entries) - len(updates), len(updates) - len(answered)
    parts = [
        f"the {len(answered)} updates that were answered",
        f"{barriers} barrier{'' if barriers == 1 else 's'}",
        *([f"{others} updates whose outcome was not known"] if others else []),
    ]
    dense = [entry.index for entry in entries] == list(range(index + 1, index + 1 + len(entries)))
    step.claim(
        f"these are {len(entries)} entries: {', and '.join(parts)}",
        dense and set(answered) <= set(updates) and others <= scene.unanswered,
        expected=f"from {index + 1} on without a gap, the updates {answered} and at most {scene.unanswered} more",
        seen=f"{[entry.index for entry in entries]}, with the updates {updates}",
    )
