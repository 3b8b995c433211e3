"""The story: how it begins, and its two lessons. Everything that is claimed is checked."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kvlog.cluster import ClusterNode
from kvlog.demo import accident, checks
from kvlog.demo.accident import Accident
from kvlog.demo.narrator import Step
from kvlog.demo.scene import KEYS, Scene, View, curl_explain, curl_post, curl_read, curl_update, explain, read
from kvlog.processes import wait_until

WHOLE_S = 10.0
"""How long it may take until every node has every entry, once the last of them was told to catch up."""


def begin(scene: Scene) -> None:
    """Start the nodes."""
    narrator, count = scene.narrator, len(scene.cluster.nodes)
    narrator.lesson("cluster", "kvlog: one log, several copies")
    promise = f"the {count} nodes come up and agree on a leader"
    with narrator.step("start", f"A cluster of {count} nodes", promise=promise) as step:
        step.say(
            "kvlog keeps the same data on several machines. Here all of them are processes on this one: each node"
            " has a copy of its own, on disk, and answers HTTP on a port of its own."
        )
        step.say(
            "The copies stay equal because every node applies the same updates in the same order. That order is a"
            " log, and ZooKeeper keeps it. Only one node at a time, the leader, appends to the log; the nodes"
            " elect it, with ZooKeeper's help."
        )
        step.say(
            f"Used here: {scene.zookeeper}. All of kvlog is below {scene.cluster.root} there, in znodes, which is"
            " ZooKeeper's word for small files."
        )
        with narrator.voice.busy(f"Starting {count} nodes"):
            leader = scene.cluster.start()
        scene.show_roles(step)
        step.check(
            f"port {leader.port} leads, and all {count} nodes say so",
            expected={leader.address},
            seen=checks.named_leaders(scene),
        )


def stale(scene: Scene) -> None:
    """The lesson of ``--stale``."""
    scene.narrator.lesson("stale", "A leader dies and comes back with old data")
    what = accident.happen(scene)
    _restart_stale(scene, what)
    _update_all(scene, what)
    _heal(scene, what)


def catch_up(scene: Scene) -> None:
    """The lesson of ``--catchup``."""
    scene.narrator.lesson("catchup", "A leader dies, comes back and catches up")
    what = accident.happen(scene)
    _restart_and_replay(scene, what)


def _restart_stale(scene: Scene, what: Accident) -> None:
    old = what.old
    with scene.narrator.step(
        "restart", f"Port {old.port} comes back with its old store", promise=f"port {old.port} starts again"
    ) as step:
        step.say(
            "It is started with --recover stale: keep the store as it was, replay nothing. That is meant for"
            " lessons like this one, and for looking into a store after an accident."
        )
        with scene.narrator.voice.busy(f"Starting port {old.port} again"):
            old.start(recover="stale")
        views = scene.look()
        scene.show(step, views)
        mine, others = _split(views, old)
        kept = {key: what.before[key] for key in KEYS}
        now = {key: scene.expected[key] for key in KEYS}
        checks.values(step, [mine], f"port {old.port} reads what it read before it died", kept)
        checks.values(step, others, "the other ports read what was written since", now)
        right = ", ".join(key for key in KEYS if kept[key] == now[key])
        step.say(
            f"{right} is right on port {old.port} only because nobody has changed it. The node cannot tell which"
            " of its values are old, for it has not seen what it missed. But it knows that it missed something,"
            " and how much, and says so with every answer:"
        )
        checks.exchange(scene, step, curl_read(old, KEYS[0]), mine.reads[KEYS[0]])
        checks.marks(step, views, old, what.missed)
        status = mine.status or {}
        step.check(
            f"its status names what it missed: entries {what.first} to {what.last}",
            expected=[{"first": what.first, "last": what.last}],
            seen=status.get("missed"),
        )
        step.check("it does not report itself ready", expected=False, seen=status.get("ready"))
        _explain(scene, step, what)


def _explain(scene: Scene, step: Step, what: Accident) -> None:
    """What the stale node itself says of an old value, once it looks into the log."""
    old, key = what.old, KEYS[0]
    step.say(
        "And it can explain itself: the log still holds what it missed, so on request it looks up what that does"
        f" to {key}:"
    )
    answer = explain(old, key)
    checks.sentences(scene, step, curl_explain(old, key), answer)
    changes = answer.body.get("not_applied", [])
    step.check(
        f"it names the missed write of {key}: the value that the others read",
        expected=[scene.expected[key]],
        seen=[change.get("value") for change in changes][-1:],
    )


def _update_all(scene: Scene, what: Accident) -> None:
    old = what.old
    with scene.narrator.step(
        "update-all", "Update all keys", promise="updates reach the stale node and the others"
    ) as step:
        value = scene.new_value()
        step.say(
            "What is new from now on, the stale node applies like the others. So let us update all three keys:"
        )
        leader = scene.leader
        scene.narrator.voice.listing([curl_update(leader, key, value) for key in KEYS])
        for key in KEYS:
            scene.update(leader, key, value)
        views = scene.look()
        scene.show(step, views)
        checks.values(step, views, f"all ports read {value}: no cell is stale", dict.fromkeys(KEYS, value))
        step.say(f"Yet port {old.port} goes on calling itself stale, and it is right:")
        mine, others = _split(views, old)
        answer = read(old, what.new_key)
        checks.exchange(scene, step, curl_read(old, what.new_key), answer)
        wanted = read(leader, what.new_key).body["value"]
        step.check(
            f"it does not know {what.new_key}, for which the leader reads {wanted}",
            expected=("", scene.expected[what.new_key]),
            seen=(answer.body["value"], wanted),
        )
        checks.marks(step, views, old, what.missed)
        digests = {view.digest for view in others}
        step.claim(
            "its digest differs from the others'",
            mine.digest not in digests,
            expected=f"none of {digests}",
            seen=mine.digest,
        )


def _heal(scene: Scene, what: Accident) -> None:
    old = what.old
    with scene.narrator.step("heal", "Heal the rest", promise=f"port {old.port} catches up on request") as step:
        step.say(
            f"On request, the node reads the {what.missed} missed entries from the log now. Where a key was"
            " updated since, the newer value stays."
        )
        answer = old.catch_up()
        checks.exchange(scene, step, curl_post(old, "/v1/admin/catchup"), answer)
        views = _look_when_whole(scene, (*KEYS, what.new_key))
        scene.show(step, views)
        step.check(
            f"it filled in {what.missed} entries, as many as it had missed",
            expected=("done", what.missed),
            seen=(answer.body.get("status"), _recovery(views, old).get("filled_entries")),
        )
        checks.all_equal(scene, step, views)


def _restart_and_replay(scene: Scene, what: Accident) -> None:
    old = what.old
    with scene.narrator.step(
        "restart",
        f"Port {old.port} comes back and replays",
        promise=f"port {old.port} starts again and catches up",
    ) as step:
        step.say(
            "It is started in the ordinary way: before it reports itself ready, it reads from the log what it has"
            " missed, and applies it in order."
        )
        begun = time.monotonic()
        with scene.narrator.voice.busy(f"Starting port {old.port} again"):
            old.start()
        seconds = time.monotonic() - begun
        views = _look_when_whole(scene, (*KEYS, what.new_key))
        recovery = _recovery(views, old)
        replayed, replay_s = recovery.get("replayed_entries"), float(recovery.get("seconds", 0))
        step.say(
            f"It replayed {replayed} entries in {replay_s:.3f} s. From the start of the process until it was"
            f" ready, {seconds:.1f} s went by."
        )
        step.data |= {"replayed_entries": replayed, "replay_seconds": replay_s, "start_seconds": round(seconds, 3)}
        scene.show(step, views)
        step.check(
            f"it replayed {what.missed} entries, as many as it had missed", expected=what.missed, seen=replayed
        )
        checks.all_equal(scene, step, views)


def _look_when_whole(scene: Scene, keys: Sequence[str]) -> list[View]:
    """Look once every node has every entry; or, when the time is up, at what is missing: the checks will tell."""

    def whole() -> bool:
        states = [node.status() for node in scene.cluster.running]
        return not any(state["stale"] for state in states) and len({s["applied_index"] for s in states}) == 1

    wait_until(whole, WHOLE_S)
    return scene.look(keys)


def _split(views: Sequence[View], node: ClusterNode) -> tuple[View, list[View]]:
    """The view of a node, and those of the others."""
    return next(view for view in views if view.node is node), [view for view in views if view.node is not node]


def _recovery(views: Sequence[View], node: ClusterNode) -> dict[str, int | float]:
    """What a node reports about how it recovered."""
    status = _split(views, node)[0].status
    return status["recovery"] if status else {}
