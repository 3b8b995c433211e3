"""The mutants: what kvlog's tests have to notice. docs/reliability.md shows them as a table.

``python -m tests.faults.mutants`` writes the table; ``KVLOG_MUTANT=name python -m pytest ...`` runs any tests with
one of them, those of tests/cluster included.
"""

from __future__ import annotations

from tests.faults.mutation import Edit, Mutant

CORE = "kvlog.core."

FENCE = "transaction.check(self._layout.candidate(effect.fence), version=-1)"
NO_FENCE = "transaction.check(self._layout.log, version=-1)"


RECENT = "tests/test_recent.py::"
FORWARDING = "tests/api/test_forwarding.py::test_"


def script(name: str) -> str:
    """A golden script of the core."""
    return f"tests/core/test_scripts.py::test_the_node_decides_as_the_script_says[{name}]"


def core(test: str) -> str:
    """A test of the core: ``module::test``, without what is the same for all."""
    return "tests/core/test_" + test.replace("::", ".py::test_")


APPENDS = (
    Mutant(
        "no-fence",
        "a leader that was replaced while it stood still appends behind its successor: acknowledged writes of one"
        " of them are cut off by the other's",
        (
            Edit("kvlog.zookeeper.log:ZooKeeperLog.append", FENCE, NO_FENCE),
            Edit("kvlog.memory:MemoryEnsemble.append", "if fence not in self.candidates:", "if not fence:"),
        ),
        (
            "tests/contract/test_log.py::test_an_append_without_its_fence_never_lands[memory]",
            "tests/contract/test_log.py::test_an_append_without_its_fence_never_lands[zookeeper]",
        ),
        seed=231,
    ),
    Mutant(
        "fast-takeover-without-fence",
        "a predecessor that does not answer is passed over, and its znode left: if it lives, or something that it"
        " has sent is still on its way, two leaders append",
        (
            Edit(
                CORE + "standing:Standing._remove_predecessor",
                "return [note, *self._questions.ask(RemoveCandidate(before.name), before.name)]",
                "self.candidates = tuple(one for one in self.candidates if one.name != before.name)\n"
                "        return [note]",
            ),
            Edit(
                CORE + "standing:Standing.candidates_listed",
                "self.candidates = candidates",
                "self.candidates = candidates = tuple(\n"
                "            one for one in candidates if self._removed.get(one.instance) != one.name\n"
                "        )",
            ),
        ),
        (script("takeover_of_a_dead_predecessor"),),
    ),
    Mutant(
        "no-barrier",
        "a new leader serves before anything of its epoch is in the log: what its predecessor has sent may still"
        " land behind it, and an append of unknown fate is never decided",
        (
            Edit(
                CORE + "leadership:Leadership.take_over", "if position.epoch == candidate.epoch:", "if candidate:"
            ),
        ),
        (core("leadership::the_barrier_comes_first"), script("first_election")),
        seed=1,
    ),
    Mutant(
        "tail-of-before-the-election",
        "a new leader takes a tail for the log's end that was told before it was elected, and lacks what its"
        " predecessor has acknowledged since",
        (
            Edit(
                CORE + "leadership:Leadership.tail_confirmed",
                "if asked_at >= self._elected_at:",
                "if asked_at >= 0:",
            ),
        ),
        (core("leadership::a_tail_that_was_asked_for_before_the_election_does_not_count"),),
    ),
    Mutant(
        "ack-before-zookeeper",
        "a write is answered when its entry is sent: one that never lands was acknowledged",
        (
            Edit(
                CORE + "writer:Writer.next_append",
                "effects.append(Append(fence, header.batch_id, index, data, log_bytes + len(data)))",
                "effects.append(Append(fence, header.batch_id, index, data, log_bytes + len(data)))\n"
                "            effects += self._commit(self.in_flight, index)\n"
                "            self.in_flight.landings.clear()",
            ),
        ),
        (core("writer::committed_is_said_once_the_entry_is_seen"), core("writer::a_fenced_append_is_refused")),
        seed=7,
    ),
    Mutant(
        "append-again-when-unknown",
        "what is in an append without an answer is appended once more: if it had landed, it has happened twice",
        (
            Edit(
                CORE + "node:Node._on_append_unknown",
                "self.leadership.writer.lost()\n"
                "        if self.role in (Role.ELECTED, Role.LEADER):\n"
                "            self._become(Input.UNSURE)",
                "writer = self.leadership.writer\n"
                "        batch, writer.in_flight = writer.in_flight, None\n"
                "        writer._pending.clear()\n"
                "        writer.queue.extendleft(reversed([one.write for one in batch.landings]))",
            ),
        ),
        (script("leader_loses_connection_and_finds_its_append"),),
        seed=97,
    ),
    Mutant(
        "unknown-appends-are-forgotten",
        "appends go on behind one of unknown fate, and its writes are never answered",
        (Edit(CORE + "writer:Writer.lost", "self.unresolved.append(self.in_flight)\n", "\n"),),
        (core("writer::nothing_is_appended_behind_an_unknown_fate"),),
        seed=28,
    ),
    Mutant(
        "stale-nodes-stand-for-election",
        "a node that lacks entries leads, and evaluates conditions against what it has",
        (Edit(CORE + "conduct:Conduct._electable", "whole and self._handover", "self._handover"),),
        (script("stale_start_skips_and_is_not_electable"),),
        seed=170,
    ),
    Mutant(
        "the-living-are-removed",
        "a candidate whose process does not answer in time loses its znode: each pause ends a leadership",
        (
            Edit(
                CORE + "standing:_is_gone",
                "return event.reach is Reach.REFUSED or",
                "return event.reach is not Reach.ANSWERS or",
            ),
        ),
        (core("standing::a_predecessor_is_removed_only_when_its_process_is_gone"),),
    ),
    Mutant(
        "leads-without-a-connection",
        "a leader that has lost its connection takes writes as before, and does not ask for the tail when it is"
        " back",
        (Edit(CORE + "node:Node._on_disconnected", "self._become(Input.DISCONNECTED)", ""),),
        (script("leader_loses_connection_and_finds_its_append"),),
    ),
)

LOG = (
    Mutant(
        "past-a-bad-entry",
        "a replica leaves out what it cannot apply, and differs from then on from those that could",
        (
            Edit(
                CORE + "cursor:Cursor.read_done",
                "self.bad = error",
                "import msgspec\n\n"
                "            self.next_index, self.last_hash = error.index + 1, ''\n"
                "            self.position = msgspec.structs.replace(self.position, applied_index=error.index)",
            ),
            Edit(CORE + "cursor:Cursor.offer", "if first < after or (", "if first < after and ("),
            Edit(
                CORE + "applying:apply_entry",
                'invariant(item.index == position.applied_index + 1, f"{item.index} applied after {position}")',
                "",
            ),
            Edit(
                CORE + "applying:apply_entry",
                "not position.hash or entry.skip is not None or entry.first_revision == position.revision + 1,",
                "True,",
            ),
        ),
        (script("bad_entry_halts"), core("trimmed::what_comes_before_a_bad_entry_is_taken")),
        seed=15,
    ),
    Mutant(
        "no-chain-check",
        "what a former leader pushes, or a stranger writes, is applied although it does not continue the log",
        (
            Edit(
                CORE + "cursor:Cursor._verified",
                "if last_hash and item.entry.prev_hash != last_hash:",
                "if not item.entry.prev_hash:",
            ),
        ),
        (
            core("cursor::an_entry_that_does_not_continue_the_log_is_refused"),
            core("cursor::an_entry_of_another_log_is_refused"),
        ),
    ),
    Mutant(
        "pushes-in-any-order",
        "an entry that is pushed early is applied, and what should have come before it never is",
        (
            Edit(CORE + "cursor:Cursor.offer", "if index != self.next_index:", "if index < self.next_index:"),
            Edit(CORE + "cursor:Cursor.offer", "self.next_index += 1", "self.next_index = index + 1"),
            Edit(
                CORE + "cursor:Cursor._verified",
                "if last_hash and item.entry.prev_hash != last_hash:",
                "if not item.entry.prev_hash:",
            ),
            Edit(
                CORE + "cursor:Cursor.offer",
                "if first < after or (self.last_hash and item.entry.skip is None and first != after):",
                "if first < after:",
            ),
        ),
        (core("cursor::an_entry_out_of_turn_is_left_alone"), script("follower_takes_pushes_in_order")),
        seed=104,
    ),
    Mutant(
        "missing-at-the-first-look",
        "an entry that a lagging server does not show yet is taken for damage, and the node halts",
        (Edit(CORE + "cursor:Cursor.observe", " and self._missing_again", ""),),
        (core("cursor::an_entry_missing_behind_a_confirmed_tail_is_damage"),),
        seed=16,
    ),
    Mutant(
        "missing-below-the-beginning",
        "an entry that is trimmed between two looks is taken for damage, and the node halts",
        (Edit(CORE + "cursor:Cursor.observe", "index >= self.first_index and self._missing", "self._missing"),),
        (core("cursor::an_entry_that_is_trimmed_between_two_looks_is_no_damage"),),
    ),
    Mutant(
        "another-clusters-log",
        "a node with the wrong --zk or --root applies another cluster's log to its store",
        (
            Edit(
                CORE + "node:Node._on_connected",
                "elif identity is not None and identity != event.identity:",
                "elif identity is None and self.cursor.position.gaps:",
            ),
        ),
        (script("log_of_another_cluster_exits"), script("log_made_anew_exits")),
    ),
    Mutant(
        "shorter-log",
        "when ZooKeeper has lost data, new entries take the indices of lost ones that some stores have applied",
        (
            Edit(
                CORE + "node:Node._on_tail_read",
                "if event.confirmed and event.tail_index < applied:",
                "if event.tail_index < -1:",
            ),
        ),
        (script("tail_answered_after_more_was_applied"),),
    ),
    Mutant(
        "goes-on-with-what-was-skipped",
        "a replica that has applied an entry before it was skipped for everybody differs from the others for good",
        (
            Edit(
                CORE + "node:Node._on_tail_read",
                "if (skipped := has_applied_what_was_skipped(self.cursor.position, event.skips)) is not None:",
                "if (skipped := has_applied_what_was_skipped(self.cursor.position, event.skips)) == -1:",
            ),
        ),
        (script("applied_what_was_skipped_exits"),),
    ),
    Mutant(
        "skip-over-a-good-entry",
        "an entry that another replica has applied is skipped: that replica has to end, and what it"
        " had acknowledged is gone",
        (Edit(CORE + "skipping:Skipping.request", "elif holders:", "elif holders is None:"),),
        (core("skipping::a_good_entry_of_another_replica_is_not_skipped"),),
    ),
    Mutant(
        "skip-chained-to-itself",
        "what a leader that has not met the bad entry appends behind a skip is bad as well, and has to be skipped",
        (
            Edit(
                CORE + "skipping:Skipping.read",
                "chained_to, first_revision = prev_hash, revision + 1",
                'chained_to, first_revision = "", revision + 1',
            ),
        ),
        (core("skipping::a_skip_with_nothing_good_behind_it_leaves_the_chain_as_it_was"),),
    ),
    Mutant(
        "watch-is-set-once",
        "after the first entry that a watch tells of, a replica that pushes do not reach learns of others from its"
        " poll only, a second late",
        (
            Edit(
                CORE + "node:Node._on_segment_changed",
                "self._watched_segment, self._watch_at = None, self._now + WATCH_PAUSE_S",
                "self._watch_at = self._now + WATCH_PAUSE_S",
            ),
        ),
        (script("watch_is_set_again_after_a_pause"),),
    ),
    Mutant(
        "watch-without-a-pause",
        "a segment of a thousand entries is listed for every one of hundreds a second",
        (
            Edit(
                CORE + "node:Node._on_segment_changed",
                "self._watched_segment, self._watch_at = None, self._now + WATCH_PAUSE_S",
                "self._watched_segment, self._watch_at = None, self._now",
            ),
        ),
        (script("watch_is_set_again_after_a_pause"),),
    ),
)

READS = (
    Mutant(
        "unconfirmed-linearizable-read",
        "a read that has to see all acknowledged writes sees what its node has",
        (
            Edit(
                CORE + "reads:Reads.submit",
                "waiting = self._unconfirmed if read.linearizable else self._waiting",
                "waiting = self._waiting",
            ),
        ),
        (
            core("reads::a_confirmation_that_was_asked_for_earlier_is_not_used"),
            script("linearizable_read_waits_for_its_confirmation"),
        ),
        seed=5,
    ),
    Mutant(
        "unconfirmed-leader-read",
        "a leader takes its own state for the latest one: replaced while it stood still, it answers what was",
        (
            Edit(
                CORE + "node:Node._on_read_submitted",
                "self._out += self._reads.submit(event, self.cursor, self._now)",
                "self._out += self._reads.submit(event, self.cursor, self._now)\n"
                "        if self.role is Role.LEADER:\n"
                "            self._reads.tail_confirmed(self.cursor.next_index - 1, self._now)",
            ),
        ),
        (script("leaders_linearizable_read_waits_for_its_confirmation"),),
        seed=3,
        long=True,
    ),
    Mutant(
        "reused-confirmation",
        "a read goes on with what a quorum has confirmed before it came, and misses what was acknowledged since",
        (Edit(CORE + "reads:Reads.tail_confirmed", "if asked_at >= each.submitted_at:", "if asked_at >= 0:"),),
        (
            core("reads::a_confirmation_that_was_asked_for_earlier_is_not_used"),
            core("reads::a_confirmation_serves_none_that_came_after_it_was_asked_for"),
        ),
        seed=34,
    ),
    Mutant(
        "confirmation-by-one-server",
        "the tail is asked of one ZooKeeper server alone, which may lag, or may be cut off from the others",
        (
            Edit(
                "kvlog.zookeeper.session:ZooKeeperSession.ask_quorum",
                "transaction = self.client.transaction()\n"
                "        transaction.check(self.layout.cluster, version=-1)\n"
                "        transaction.check(self.layout.log, version=-1)\n"
                "        return transaction.commit_async()",
                "done = self.client.handler.async_result()\n        done.set([True, True])\n        return done",
            ),
        ),
        ("tests/contract/test_zookeeper.py::test_a_confirmed_tail_has_passed_a_quorum",),
    ),
    Mutant(
        "stale-store-reads",
        "a node that has missed entries confirms that a read sees everything",
        (
            Edit(CORE + "reads:Reads.submit", "if cursor.position.gaps:", "if cursor is None:"),
            Edit(CORE + "reads:Reads.ready", "if position.gaps:", "if position is None:"),
        ),
        (core("reads::a_stale_store_answers_none_of_them"),),
        seed=40,
    ),
    Mutant(
        "hot-read-does-not-wait",
        "the hot path answers a linearizable read at once, from what its node has",
        (Edit("kvlog.service.reads:Reads.key_at_once", " or options.linearizable", ""),),
        ("tests/api/test_hot_path.py::test_the_hot_path_answers_what_it_is_there_for",),
    ),
)

WRITES = (
    Mutant(
        "conditions-against-what-is-applied",
        "two conditional writes, one behind the other, both find the state before the first",
        (
            Edit(
                CORE + "pending:Pending.get",
                "return self._store.get(key) if written is None else written.record",
                "return self._store.get(key)",
            ),
        ),
        (
            core("writer::writes_of_one_entry_see_each_other"),
            core("writer::writes_see_entries_that_are_not_applied_yet"),
        ),
        seed=1,
    ),
    Mutant(
        "ids-among-what-is-pending-only",
        "a write that comes again once the first one is applied happens twice",
        (
            Edit(
                CORE + "pending:Pending.request",
                "return self._requests.get(request_id) or self._store.request(request_id)",
                "return self._requests.get(request_id)",
            ),
        ),
        (core("repetition::a_batch_of_repetitions_appends_nothing"),),
        seed=1,
    ),
    Mutant(
        "ids-among-what-is-applied-only",
        "a write that comes again before the first one is applied happens twice",
        (
            Edit(
                CORE + "pending:Pending.request",
                "return self._requests.get(request_id) or self._store.request(request_id)",
                "return self._store.request(request_id)",
            ),
        ),
        (
            core("repetition::a_repetition_in_the_same_entry_is_answered_with_it"),
            core("repetition::a_repetition_of_what_is_not_applied_yet_is_answered_with_it"),
        ),
        seed=1,
    ),
    Mutant(
        "ids-in-the-leaders-memory-only",
        "a write that comes again at the next leader happens twice",
        (
            Edit(
                CORE + "pending:Pending.request",
                "return self._requests.get(request_id) or self._store.request(request_id)",
                "return self._requests.get(request_id)",
            ),
            Edit(
                CORE + "pending:Pending.applied",
                "{name: held for name, held in self._requests.items() if held.index > index}",
                "self._requests",
            ),
        ),
        (core("repetition::a_repetition_after_a_change_of_leaders_is_answered_with_the_first_result"),),
        seed=7,
    ),
    Mutant(
        "cancellation-is-ignored",
        "a write that was settled as never to happen is answered as if it had",
        (Edit(CORE + "writer:_repetition", "if known.cancelled:", "if known is None:"),),
        (core("repetition::settling_an_unknown_request_cancels_it_for_good"),),
    ),
    Mutant(
        "settling-does-not-look-first",
        "a committed write is called cancelled for good",
        (
            Edit(
                CORE + "writer:Writer.next_append",
                "if write.request_id else None",
                "if write.request_id and not isinstance(write.command, Settle) else None",
            ),
        ),
        (core("repetition::settling_a_committed_request_says_where_it_is"),),
        seed=60,
    ),
    Mutant(
        "answered-before-the-replicas",
        "`ack=replicas` is answered once the entry is in the log: a read on another port does not see the write",
        (Edit(CORE + "writer:Writer._land", "if landing.write.ack is Ack.LOG:", "if landing.write:"),),
        (core("writer::a_write_that_waits_for_replicas_is_answered_when_they_have_it"),),
    ),
    Mutant(
        "hot-path-acks-early",
        "the hot path does not wait for the replicas, whatever was asked for",
        (
            Edit(
                "kvlog.service.writes:Writes.write_later",
                "_submitted(token, write, deadline), answered)",
                "_submitted(token, replace(write, ack=Ack.LOG), deadline), answered)",
            ),
        ),
        (
            "tests/api/test_hot_path.py::test_a_write_waits_for_the_replicas_as_it_was_asked_to[replicas-replicas1]",
        ),
    ),
    Mutant(
        "forwarded-without-an-id",
        "a node that lost the leader's answer cannot ask the next leader for it: it has the write done twice",
        (Edit("kvlog.service.writes:Writes._write", "if not write.request_id:", "if write.timeout_s < 0:"),),
        ("tests/api/test_forwarding.py::test_a_write_whose_answer_got_lost_is_asked_for_again_under_one_id",),
    ),
    Mutant(
        "wishes-outlive-the-leadership",
        "the end of a lease that a leader wanted before it lost its place is carried out when it leads again,"
        " although another leader has confirmed a keep-alive meanwhile",
        (
            Edit(
                CORE + "writer:Writer.take_queue",
                "writes = [write for write in self.queue if write.token != NOBODY]\n        self.queue.clear()",
                "writes = [write for write in self.queue if write.token != NOBODY]\n"
                "        self.queue = deque(write for write in self.queue if write.token == NOBODY)",
            ),
        ),
        (core("writer::what_a_leader_wants_by_itself_ends_with_its_leadership"),),
    ),
    Mutant(
        "lone-client-waits",
        "a single client pays for groups that never come",
        (Edit(CORE + "gathering:Gathering.__init__", "self._expected = 1", "self._expected = 2"),),
        (core("gathering::a_lone_client_never_waits"),),
    ),
    Mutant(
        "group-does-not-go-at-its-time",
        "writes wait for clients that do not come again, until somebody else comes",
        (Edit(CORE + "gathering:Gathering.complete", "return now >= self.wake_at", "return False"),),
        (
            core("gathering::a_group_waits_for_as_long_as_a_turn_and_never_longer_than_the_most"),
            script("group_waits_for_those_who_went_before"),
        ),
    ),
    Mutant(
        "group-without-those-who-went-before",
        "groups fall apart: after a few turns each write pays for an append of its own",
        (
            Edit(
                CORE + "gathering:Gathering.done",
                "self._expected = self._gone + waiting",
                "self._expected = max(1, waiting)",
            ),
        ),
        (core("gathering::those_who_went_before_are_waited_for_beside_those_who_have_come_meanwhile"),),
    ),
    Mutant(
        "followers-want-to-be-woken",
        "a node that does not lead is woken for writes that it will not append",
        (
            Edit(
                CORE + "conduct:Conduct.wake_at",
                "self.leadership.gathering.wake_at if self.role is Role.LEADER else None",
                "self.leadership.gathering.wake_at",
            ),
        ),
        (core("gathering::who_leads_no_more_wants_no_waking"),),
    ),
    Mutant(
        "woken-again-and-again",
        "the deciding thread spins for as long as a time that is over is named",
        (Edit("kvlog.runtime:Runtime._decide", " and wake_at != woken_at", ""),),
        ("tests/test_runtime.py::test_a_node_is_woken_when_it_wants_to_be_and_once_for_each_time",),
    ),
    Mutant(
        "what-comes-between-requests-is-lost",
        "an event behind requests that are taken together is dropped: an append, say, is never known to have"
        " landed",
        (
            Edit(
                "kvlog.runtime:Runtime._gathered",
                "return ev.Gathered(tuple(requests)), behind",
                "return ev.Gathered(tuple(requests)), None",
            ),
        ),
        ("tests/test_runtime.py::test_what_comes_between_requests_keeps_its_place",),
    ),
)

LEASES = (
    Mutant(
        "leases-keep-an-old-time",
        "E1: a new leader counts the time of leases from what it knew when it led before: it ends some that live",
        (
            Edit(CORE + "leadership:Leadership.serve", "self.leases.clear()", ""),
            Edit(CORE + "conduct:Conduct._become", "self.leadership.leases.clear()", ""),
        ),
        (core("leases::who_leads_again_gives_every_lease_its_whole_time"),),
    ),
    Mutant(
        "keep-alive-without-an-entry",
        "E2: a leader that was replaced confirms keep-alives that its successor has not heard of",
        (
            Edit(
                CORE + "writer:Writer._take_in",
                "forming.landings.append(Landing(write, outcome_of(request, at - 1, index), index))",
                "self.acking.append(Landing(write, outcome_of(request, at - 1, index), index - 1))",
            ),
        ),
        (script("lease_that_is_over_is_ended"),),
    ),
    Mutant(
        "keep-alive-is-not-heard",
        "a lease ends although its holder keeps it alive",
        (
            Edit(
                CORE + "leadership:Leadership.submit",
                "self.leases.renew(write.command.lease, now)",
                "pass",
            ),
        ),
        (core("leadership::a_keep_alive_counts_although_the_log_is_full"),),
        seed=11,
    ),
)

RETENTION = (
    Mutant(
        "mark-without-flush",
        "a replica says that it holds what a power cut takes from it, and the log is trimmed by its word",
        (Edit("kvlog.store.lmdb_store:LmdbStore.sync", "self._files.environment.sync(True)", "pass"),),
        ("tests/test_lmdb_store.py::test_a_sync_flushes_what_the_last_commit_has_left_to_the_next_one",),
    ),
    Mutant(
        "mark-of-what-is-applied",
        "the same: the mark tells what is applied, not what is durable",
        (
            Edit(
                CORE + "retention:Retention.mark",
                "mark = self._mark_of(synced, cursor)",
                "mark = self._mark_of(cursor.position, cursor)",
            ),
        ),
        (core("retention::a_mark_says_what_was_durable_not_what_is_applied"),),
        seed=1,
    ),
    Mutant(
        "trim-what-was-sent",
        "what the leader has sent is trimmed, whoever holds it durably: a power cut loses it for good",
        (
            Edit(CORE + "retention:Retention.trim", "self.held_by_majority + 1", "cursor.next_index"),
            Edit(CORE + "retention:Retention.trim", "tuple(self._holders)", "()"),
        ),
        (core("retention::nothing_is_trimmed_that_a_majority_does_not_hold"),),
        seed=2,
    ),
    Mutant(
        "minority-licenses-a-trim",
        "what a single replica of three holds is trimmed: it may lose its disk",
        (
            Edit(
                CORE + "retention:Retention._holders",
                "majority = len(self.replicas) // 2 + 1",
                "majority = max(1, len(self.replicas) // 2)",
            ),
        ),
        (core("retention::what_a_majority_of_the_registered_holds"),),
        seed=18,
    ),
    Mutant(
        "stale-replicas-count-as-holders",
        "what only replicas with missed entries hold is trimmed",
        (
            Edit(
                CORE + "retention:Retention._holders", "if replica.holding is Holding.WHOLE", "if replica.node_id"
            ),
        ),
        (core("retention::what_a_majority_of_the_registered_holds"),),
    ),
    Mutant(
        "trim-without-the-marks-versions",
        "a trim is licensed by a mark that was taken back since it was decided (a lost disk)",
        (
            Edit(
                "kvlog.zookeeper.trim:Trimmer._note",
                "transaction.check(self._layout.replica(mark.node_id), version=mark.version)",
                "transaction.check(self._layout.replica(mark.node_id), version=-1)",
            ),
        ),
        ("tests/contract/test_log.py::test_a_trim_is_licensed_by_the_marks_as_they_are[zookeeper]",),
    ),
    Mutant(
        "trim-without-fence",
        "a former leader trims by what it knew when it led",
        (Edit("kvlog.zookeeper.trim:Trimmer._fenced", FENCE, NO_FENCE),),
        ("tests/contract/test_log.py::test_a_former_leader_trims_nothing[zookeeper]",),
    ),
)

COPIES = (
    Mutant(
        "copy-behind-the-own-store",
        "a store goes back to what another one was",
        (
            Edit(
                CORE + "installing:Installing._install",
                "if fetching is None or ahead < 0 or (ahead == 0 and not cursor.position.gaps):",
                "if fetching is None:",
            ),
        ),
        (
            core("installing::a_copy_that_is_not_ahead_is_not_needed_any_more"),
            script("copy_that_is_behind_is_not_installed"),
        ),
    ),
    Mutant(
        "store-with-gaps-goes-on-while-it-copies",
        "what a stale store has applied while it copied another one's is taken back",
        (
            Edit(
                CORE + "conduct:Conduct._advance",
                "standing_still = self.installing.busy and self.cursor.position.gaps",
                "standing_still = False",
            ),
        ),
        (script("stale_store_is_filled_from_a_snapshot"),),
    ),
    Mutant(
        "stale-stores-are-copied",
        "a copy lacks what the copied store has missed",
        (
            Edit(
                CORE + "installing:Installing._best",
                "and marks.get(member.node_id, unknown).holding is not Holding.STALE",
                "",
            ),
        ),
        (core("installing::a_stale_node_is_not_asked"),),
    ),
    Mutant(
        "all-lost-before-the-replicas-are-known",
        "a new node ends with the advice to restore a backup, although others hold everything",
        (
            Edit(
                CORE + "installing:Installing._hopeless",
                "known = self._node_id in up and self._node_id in registered",
                "known = True",
            ),
        ),
        (core("installing::the_state_is_not_lost_before_the_replicas_are_known"),),
    ),
    Mutant(
        "copy-without-its-checksum",
        "a copy that was altered on its way becomes the store",
        (
            Edit(
                "kvlog.snapshot:Decoder._last_line",
                'if line != self._checksum.hexdigest().encode() + b"\\n":',
                "if not line:",
            ),
        ),
        ("tests/test_snapshot.py::test_a_snapshot_with_a_flipped_bit_is_none",),
    ),
    Mutant(
        "old-files-stay-open",
        "a node goes on with the store that a copy has replaced, and what it writes is gone with it",
        (
            Edit(
                "kvlog.store.lmdb_store:LmdbStore.install",
                "self._files = open_files(self._directory, create=True)",
                "open_files(self._directory, create=True)",
            ),
        ),
        ("tests/contract/test_store.py::test_an_installed_snapshot_takes_the_stores_place",),
    ),
    Mutant(
        "old-records-stay-in-memory",
        "reads tell what was in the store that a copy has replaced",
        (
            Edit(
                "kvlog.store.lmdb_store:LmdbStore.install",
                "self._recent = self._nothing_recent()",
                "self._recent.changed(position, {})",
            ),
        ),
        ("tests/test_recent.py::test_an_installed_store_brings_its_own_records",),
    ),
    Mutant(
        "old-store-comes-back",
        "after a crash between installing a copy and removing the old store, the old one takes its place again",
        (
            Edit(
                "kvlog.store.directories:settle_files",
                "if old.exists() and not store.exists():\n",
                "if old.exists():\n            remove(store)\n",
            ),
        ),
        ("tests/test_lmdb_store.py::test_a_crash_anywhere_in_replacing_leaves_one_whole_store[both renamed]",),
    ),
    Mutant(
        "old-put-wins-when-filling",
        "a missed put takes the place of a later one",
        (Edit(CORE + "applying:fill_entry", "if latest <= revision:", "if latest >= 0:"),),
        (core("machine::a_missed_older_put_does_not_win"),),
        seed=40,
    ),
    Mutant(
        "put-older-by-one-wins-when-filling",
        "the same, of two in a row only",
        (Edit(CORE + "applying:fill_entry", "if latest <= revision:", "if latest <= revision + 1:"),),
        (core("machine::a_stale_replica_that_is_filled_is_like_any_other"),),
    ),
    Mutant(
        "no-tombstones-over-gaps",
        "a missed put brings a key back that was deleted since",
        (Edit(CORE + "applying:_write_over_gaps", "transaction.bury(effect.key, revision)", "pass"),),
        (core("machine::a_missed_put_of_a_deleted_key_does_not_come_back"),),
        seed=46,
    ),
    Mutant(
        "old-ids-stay-when-filling",
        "a store that has missed entries remembers other requests than the others, and its digest differs",
        (
            Edit(CORE + "applying:fill_entry", "_forget(transaction, last_revision - position.window)", "pass"),
            Edit(
                CORE + "applying:fill_entry",
                "if request.id and revision > last_revision - position.window:",
                "if request.id:",
            ),
        ),
        (core("memory_of_requests::a_store_that_missed_entries_ends_like_one_that_missed_nothing"),),
    ),
)

STORE = (
    Mutant(
        "seals-are-not-looked-at",
        "a value whose bits were flipped is told as if it had been written",
        (Edit("kvlog.store.lmdb_files:Files.unseal", "if crc32(key + data) != SEALED:", "if not data:"),),
        ("tests/test_lmdb_store.py::test_reading_what_was_not_written_fails",),
    ),
    Mutant(
        "held-while-another-state-is-committed",
        "H2: a record from memory is told with the position of another state",
        (
            Edit(
                "kvlog.store.recent:Recent.read",
                "if record is _UNKNOWN or position is None or self._position is not position:",
                "if record is _UNKNOWN or position is None:",
            ),
        ),
        (RECENT + "test_a_record_that_is_found_while_a_state_is_committed_is_not_given_with_the_old_position",),
    ),
    Mutant(
        "kept-from-an-earlier-state",
        "H1: what was looked up before a change is held as if it was the state after it",
        (
            Edit(
                "kvlog.store.recent:Recent.keep",
                "if known is not None and known.applied_index == position.applied_index and known == position:",
                "if known is not None:",
            ),
        ),
        ("tests/test_recent.py::test_what_was_looked_up_in_an_earlier_state_is_not_held",),
    ),
    Mutant(
        "held-until-it-is-committed",
        "H1: while a state is committed, and if that fails, the record before it is told",
        (
            Edit(
                "kvlog.store.recent:Recent.change",
                "record = self._records.pop(key, _UNKNOWN)",
                "record = _UNKNOWN",
            ),
        ),
        ("tests/test_recent.py::test_what_was_to_change_is_looked_up_if_its_commit_has_failed",),
    ),
    Mutant(
        "past-stays-over-a-gap",
        "the past is told with holes in it",
        (Edit(CORE + "applying:open_gap", "transaction.clear_kept()", "pass"),),
        (core("machine::nothing_is_kept_over_a_gap"),),
    ),
    Mutant(
        "floor-stays-when-a-gap-is-filled",
        "states are told of which nothing is kept",
        (
            Edit(
                CORE + "applying:fill_entry",
                "history=position.history if gaps else last_revision,",
                "history=position.history,",
            ),
        ),
        (core("machine::nothing_is_kept_over_a_gap"),),
    ),
    Mutant(
        "tombstones-outlive-their-rows",
        "the store grows by every key that was ever deleted",
        (
            Edit(
                CORE + "applying:_trim_history",
                "if transaction.tombstone(key) == at:\n            transaction.unbury(key)",
                "if transaction.tombstone(key) == at:\n            pass",
            ),
        ),
        (core("machine::only_so_many_revisions_are_kept"),),
    ),
    Mutant(
        "tombstones-go-with-another-deletions-row",
        "a key that was deleted twice has no past any more",
        (
            Edit(
                CORE + "applying:_trim_history",
                "if transaction.tombstone(key) == at:",
                "if transaction.tombstone(key):",
            ),
        ),
        (core("machine::a_deletion_that_is_dropped_leaves_a_later_tombstone_alone"),),
    ),
    Mutant(
        "walk-stops-too-early",
        "a key is told as it was a revision too late",
        (
            Edit(
                "kvlog.store.lmdb_history:History.before",
                "while changed > revision:",
                "while changed > revision + 1:",
            ),
        ),
        ("tests/contract/test_store_past.py::test_a_key_is_read_as_it_was_at_each_revision",),
    ),
    Mutant(
        "walk-goes-below-the-floor",
        "versions are told that are not kept any more, or the walk meets nothing and takes it for damage",
        (
            Edit(
                "kvlog.store.lmdb_history:History.versions",
                "while changed > position.history:",
                "while changed > 0:",
            ),
        ),
        ("tests/contract/test_store_past.py::test_a_keys_past_ends_at_the_floor",),
    ),
    Mutant(
        "walk-in-a-circle",
        "a past that leads back to itself holds a thread for ever",
        (
            Edit(
                "kvlog.store.lmdb_history:History._row",
                "if row is None or _changed_before(row) >= revision:",
                "if row is None:",
            ),
        ),
        ("tests/test_lmdb_store.py::test_a_past_that_leads_nowhere_is_damage",),
        patience_s=2,
    ),
    Mutant(
        "deleted-keys-were-never-there",
        "a range of the past leaves out what was deleted since",
        (Edit("kvlog.store.lmdb_pages:Range._then", "merge(present, deleted)", "present"),),
        ("tests/contract/test_store_past.py::test_both_stores_tell_any_past_as_it_was",),
    ),
    Mutant(
        "long-start-is-cut",
        "a page that begins behind a long key has that key once more",
        (
            Edit(
                "kvlog.store.lmdb_pages:seek",
                "return cursor.next() if len(name) > KEY_BYTES_MAX and cursor.key() == shortened else True",
                "return True",
            ),
        ),
        ("tests/contract/test_store_past.py::test_a_text_that_is_longer_than_any_key_is_as_good",),
    ),
    Mutant(
        "own-keys-are-shown",
        "clients see how kvlog keeps leases",
        (Edit("kvlog.store.lmdb_pages:Range.__init__", "if not prefix.startswith(SYSTEM):", "if not files:"),),
        ("tests/contract/test_store_past.py::test_kvlogs_own_keys_are_seen_only_by_who_asks_for_them",),
    ),
    Mutant(
        "prefix-does-not-end",
        "a range tells everything behind it as well",
        (
            Edit(
                "kvlog.store.lmdb_pages:Range._scan",
                "if not name.startswith(self._prefix):",
                "if not name:",
            ),
        ),
        ("tests/contract/test_store_past.py::test_a_range_has_all_keys_with_its_prefix_and_no_other",),
    ),
)

WATCHING = "tests/watching/test_feed.py::test_"
LIFE = "tests/watching/test_feed.py::TestLife::runTest"
JOINS = WATCHING + "a_watcher_that_begins_in_the_past_joins_without_a_hole_or_a_repetition_in_every_order"

WATCHES = (
    Mutant(
        "joins-behind-a-hole",
        "a watcher misses what happened between its last piece and the first batch",
        (
            Edit(
                "kvlog.watching.feed:Feed._join",
                "if batch.after > watcher.through or (batch.through > watcher.through and not looked_at):",
                "if batch.through > watcher.through and not looked_at:",
            ),
        ),
        (LIFE,),
    ),
    Mutant(
        "joins-with-a-batch-that-did-not-look",
        "a watcher misses what is in a batch that was made before anybody wanted it",
        (
            Edit(
                "kvlog.watching.feed:Feed._join",
                "looked_at = self._watchers[watcher] <= batch.as_of",
                "looked_at = True",
            ),
        ),
        (JOINS,),
    ),
    Mutant(
        "events-are-told-twice",
        "a watcher is told again what its pieces have told",
        (
            Edit(
                "kvlog.watching.watcher:Watcher.add",
                "new = [frame for frame in frames if frame.revision > reached]",
                "new = [frame for frame in frames if reached >= 0]",
            ),
        ),
        (JOINS,),
    ),
    Mutant(
        "live-while-the-feed-is-further",
        "a watcher that has read all that was there counts as live, although a batch has gone by since",
        (
            Edit(
                "kvlog.watching.feed:Feed.piece",
                "if piece.whole and piece.through >= self.through:\n"
                "            self._enter(watcher, Stage.JOINING)",
                "if piece.whole:\n            self._enter(watcher, Stage.LIVE)",
            ),
        ),
        (LIFE,),
    ),
    Mutant(
        "progress-beyond-what-was-taken",
        "a client that goes on from its last progress misses what was waiting for it",
        (
            Edit(
                "kvlog.watching.watcher:Watcher.delivered",
                "return self._frames[0].revision - 1 if self._frames else self.through",
                "return self.through",
            ),
        ),
        (WATCHING + "progress_does_not_tell_of_what_waits",),
    ),
    Mutant(
        "gap-ends-no-watch",
        "a watcher is not told that its node has missed something",
        (
            Edit(
                "kvlog.watching.feed:Feed.interrupt",
                "for watcher in self._watchers:",
                "for watcher in list(self._watchers)[:0]:",
            ),
        ),
        (WATCHING + "a_gap_ends_every_watch_once_it_has_taken_what_waits",),
    ),
)

PEERS = (
    Mutant(
        "client-forgets-its-doubt",
        "the Python client says of a write that it was refused, although an earlier try may have done it",
        (
            Edit(
                "kvlog.client.attempts:Attempts.failed", "self._in_doubt |= in_doubt", "self._in_doubt = in_doubt"
            ),
        ),
        ("tests/client/test_attempts.py::test_one_try_in_doubt_leaves_the_call_in_doubt",),
    ),
    Mutant(
        "push-is-sent-a-third-time",
        "a line goes on sending a request of unknown fate",
        (
            Edit(
                "kvlog.line:Line.post",
                "                if not kept:\n                    raise\n",
                "",
            ),
        ),
        ("tests/test_line.py::test_a_request_over_a_new_connection_is_sent_once",),
    ),
    Mutant(
        "failed-line-is-kept",
        "the next answer that is read is that of an earlier request",
        (
            Edit(
                "kvlog.line:Line.post",
                "            self.close()\n            raise Unavailable",
                "            raise Unavailable",
            ),
        ),
        ("tests/test_line.py::test_a_peer_that_answers_nothing_is_waited_for_for_a_time",),
        patience_s=2,
    ),
    Mutant(
        "what-comes-behind-is-an-answer",
        "what a peer sends behind an answer is taken for the next one",
        (
            Edit(
                "kvlog.line:Line._exchange",
                'if self._received or headers.get("connection", "").lower() == "close":',
                'if headers.get("connection", "").lower() == "close":',
            ),
        ),
        ("tests/test_line.py::test_what_comes_behind_an_answer_is_not_taken_for_the_next_one",),
    ),
)

DIGESTS = (
    Mutant(
        "digests-of-different-logs",
        "a replica ends because of what others hold behind another entry of the same index",
        (
            Edit(
                CORE + "agreement:comparable",
                "return (one.index, one.hash) == (other.index, other.hash) and same_way",
                "return one.index == other.index and same_way",
            ),
        ),
        (core("agreement::what_cannot_be_compared_is_not"),),
    ),
    Mutant(
        "digests-made-in-different-ways",
        "in a cluster of two versions, those of the fewer nodes end",
        (
            Edit(
                CORE + "agreement:comparable",
                "return (one.index, one.hash) == (other.index, other.hash) and same_way",
                "return (one.index, one.hash) == (other.index, other.hash)",
            ),
        ),
        (core("agreement::what_cannot_be_compared_is_not"),),
    ),
    Mutant(
        "digests-over-gaps",
        "a stale store ends because it does not hold what it says that it has missed",
        (
            Edit(
                CORE + "agreement:checkpoint",
                "if position.gaps or position.applied_index < 0:",
                "if position.applied_index < 0:",
            ),
        ),
        (core("agreement::a_store_with_gaps_compares_nothing_and_publishes_nothing"),),
    ),
    Mutant(
        "minority-decides-who-is-wrong",
        "one replica that is wrong ends another one that is right",
        (Edit(CORE + "agreement:Agreement.compare", "if len(names) > len(registered) // 2:", "if names:"),),
        (core("agreement::without_a_majority_nobody_ends"),),
    ),
    Mutant(
        "transactions-beyond-checkpoints",
        "replicas that never stand at the same entry have nothing to compare: who differs is not found",
        (
            Edit(
                CORE + "cursor:Cursor.next_apply",
                "count = min(APPLY_ENTRIES, entries_to_checkpoint(self._ready[0].index), len(self._ready))",
                "count = min(APPLY_ENTRIES, len(self._ready))",
            ),
        ),
        (core("agreement::a_transaction_of_the_store_ends_at_a_checkpoint"),),
    ),
)

SECTIONS = {
    "Appending, and who leads": APPENDS,
    "Following the log": LOG,
    "Reads": READS,
    "Writes": WRITES,
    "Leases": LEASES,
    "Marks and trimming": RETENTION,
    "Copies, gaps and filling": COPIES,
    "Comparing digests": DIGESTS,
    "The store, and the past": STORE,
    "Watches": WATCHES,
    "Peers and clients": PEERS,
}

MUTANTS = {mutant.name: mutant for mutants in SECTIONS.values() for mutant in mutants}


def table() -> str:
    """The mutants as they stand in docs/reliability.md."""
    lines = []
    for title, mutants in SECTIONS.items():
        lines += [f"### {title}", "", "| mutant | what goes wrong | caught by |", "| --- | --- | --- |"]
        for mutant in mutants:
            tests = [f"`{test.removeprefix('tests/')}`" for test in mutant.killed_by]
            tests += [f"`sim/`, {'long' if mutant.long else 'short'} schedules"] if mutant.seed else []
            lines.append(f"| `{mutant.name}` | {mutant.breaks} | {', '.join(tests)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
