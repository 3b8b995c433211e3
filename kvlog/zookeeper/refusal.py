"""What a node says when it cannot go on with the log in ZooKeeper, and what resolves it, as exact commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from kvlog.core.machine import Identity

NEW_ROOT = "NEW_ROOT"
"""In a command: any root below which there is no log yet."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Where a node looks for its log, and where its own store is. Each method is one last line."""

    hosts: str
    root: str
    data_dir: Path

    def no_log(self, mine: Identity) -> str:
        """There is nothing where the log should be."""
        return f"there is no log below {self._place}, but {self._belongs_to(mine)}. {self._resolve()}"

    def store_put_aside(self) -> str:
        """There is no log, and this node's store, which would know of one, was damaged."""
        return (
            f"there is no log below {self._place}, and the store in {self.data_dir} was damaged and put aside: "
            "this node cannot know whether there should be one; if there never was, move store.damaged away. "
            f"{self._resolve()}"
        )

    def another_log(self, mine: Identity, found: Identity) -> str:
        """There is a log, but not the one that the store belongs to."""
        if mine.cluster_id != found.cluster_id:
            what = f"cluster {found.cluster_id}"
        else:
            what = f"a log that was made anew (log {found.log_czxid:#x})"
        return f"below {self._place} is {what}, but {self._belongs_to(mine)}. {self._resolve(NEW_ROOT)}"

    def broken_log(self, what: str) -> str:
        """A part of the log that nobody but a person can have removed or changed is not as it should be."""
        return f"below {self._place} {what}: it was deleted or changed by hand. {self._resolve()}"

    def restored(self, mine: Identity | None) -> str:
        """ZooKeeper serves others, but not who has seen what it has lost."""
        belongs = "" if mine is None else f"; {self._belongs_to(mine)}"
        return (
            f"ZooKeeper at {self.hosts} answers others, but refuses this node, which has seen newer data: it was "
            f"restored from an older copy, or has lost what it had{belongs}. {self._resolve(NEW_ROOT)}"
        )

    def foreign(self, path: str) -> str:
        """Something else uses the root."""
        return f"{path} in ZooKeeper at {self.hosts} was not made by kvlog. Choose another --root"

    def leftovers(self, missing: str) -> str:
        """A log cannot be made, because parts of one are there."""
        return (
            f"there are znodes of a log below {self._place}, but {missing} is not there: it was deleted by hand. "
            "Nothing was touched. Delete what is left of it, or choose another --root"
        )

    def _belongs_to(self, mine: Identity) -> str:
        return f"the store in {self.data_dir} belongs to cluster {mine.cluster_id} (log {mine.log_czxid:#x})"

    @property
    def _place(self) -> str:
        return f"{self.root} in ZooKeeper at {self.hosts}"

    def _resolve(self, root: str = "") -> str:
        """What to do; which of it, only a person can know. ``root`` is where a new log may be, if not here."""
        directory, store = quote(str(self.data_dir)), self.data_dir / "store"
        return (
            "Nothing was touched. If --zk or --root is wrong, start this node with the right one. If ZooKeeper "
            "has lost its data, stop all nodes and make a new log from the best store that is left: "
            f"python -m kvlog recover --zk {quote(self.hosts)} --root {root or quote(self.root)} "
            f"--data-dir {directory} [--data-dir DIR...] --start-a-new-log . To start this node empty instead: "
            f"mv {quote(str(store))} {quote(f'{store}.before')}"
        )
