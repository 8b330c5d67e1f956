"""A validator as a pure machine: replica, ledger, pool, reports of offences.

The process and the simulator run this very machine. It knows other validators by their keys; the
numbers that the replica has for them are mapped at every single step, since an epoch may begin
between two steps of one round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from consensus import (
    BlockSource,
    Broadcast,
    Committed,
    Effect,
    EpochBegan,
    Event,
    FellBehind,
    MemberSet,
    Misbehaviour,
    Persist,
    PersistBlock,
    Received,
    RecoveredState,
    Replica,
    ReplicaConfig,
    Send,
    Start,
    Tick,
    Verifier,
    Work,
)
from node.app import LedgerApplication
from node.gossip import OwnTransactions
from node.kept_state import needed_from
from node.peer import (
    MAX_GOSSIP_TRANSACTIONS,
    SnapshotAnswer,
    SnapshotQuestion,
    TransactionGossip,
)
from node.peer_numbers import PeerNumbers
from node.reports import EvidenceReporter
from node.rounds import FromPeer, Outgoing, Round, replica_config
from node.snapshot_sync import SnapshotSync, SyncLimits
from node.snapshots import SnapshotSource, checkpoint_of
from protocol.chain import genesis_header
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.keys import Key, verify
from protocol.ledger_leaves import EPOCH_KIND, VALIDATOR_KIND

HOUSEKEEPING_MS = 1_000
"""How often the pool is swept and own transactions are passed on again."""

MAX_QUESTIONS = 8
"""Questions about snapshots of one peer that wait for an answer; more are dropped."""

ANSWERS_PER_ROUND = 2
"""Answers to them in one round: one may take ten milliseconds, and consensus waits meanwhile."""


def genesis_members(chain: Chain) -> MemberSet:
    """The validators of genesis, as the only epoch of a chain whose ledger knows none."""
    return MemberSet(chain.chain_id, [one.member() for one in chain.genesis.validators])


class Validator:
    """One validator, or with a key that the epoch does not hold (or none) an observer.

    `run` takes messages of peers and whatever is due and gives a `Round`; `submit` and `gossip`
    take transactions between rounds. After each of these `next_deadline_ms` says when `run` has to
    be called at the latest. Nothing of a round may be sent before its batch is durable.

    `genesis_root` is the ledger root before the first block; `recovered`, `stored`, `retained_from`
    are those of `consensus.Replica`; `snapshots` serves those who fell behind; blocks older than
    the newest `retain_blocks` (0: keep all) are deleted. Once a round has a `snapshot`, this
    machine is over: another one starts from it. `now_ms` (Unix milliseconds) must not decrease.
    """

    def __init__(
        self,
        chain: Chain,
        key: Key | None,
        app: LedgerApplication,
        genesis_root: bytes,
        recovered: RecoveredState | None = None,
        *,
        config: ReplicaConfig | None = None,
        stored: BlockSource | None = None,
        snapshots: SnapshotSource | None = None,
        retain_blocks: int = 0,
        sync_limits: SyncLimits | None = None,
        retained_from: Callable[[], int] | None = None,
        verifier: Verifier = verify,
    ) -> None:
        self.chain = chain
        self.key = key
        self.app = app
        members = app.epoch() or genesis_members(chain)
        self.replica = Replica(
            config or replica_config(chain.genesis.ledger_pace),
            members,
            key,
            app,
            genesis_header(chain.chain_id, chain.genesis.time_ms, genesis_root),
            recovered,
            stored=stored,
            retained_from=retained_from,
            verifier=verifier,
        )
        self.members = members
        self.counters: dict[str, int] = {}
        self._numbers = PeerNumbers(members)
        self._own = OwnTransactions(app.mempool)
        self._reports = None if key is None else EvidenceReporter(chain.chain_id, key, app)
        self._snapshots = snapshots
        self._retain_blocks = retain_blocks
        self._pruned_below = 0
        self.kept_batch = 0
        """Newest final batch whose state is kept on disk, so that older data may go."""
        self._sync: SnapshotSync | None = None
        self._sync_limits = sync_limits
        self._verifier = verifier
        # Questions about snapshots by the peer that asked, whose turn it is first.
        self._questions: dict[bytes, deque[SnapshotQuestion]] = {}
        self.snapshot_failure = ""
        self._started = False
        self._work_ms: int | None = None
        self._beat_at_ms: int | None = None
        self._swept_ms: int | None = None

    @property
    def is_member(self) -> bool:
        """Whether the own key is in the current epoch's member set."""
        return self.key is not None and self.members.index_of(self.key.public) is not None

    def next_deadline_ms(self) -> int:
        """When `run` must be called even if no message comes; a moment that passed means now."""
        if not self._started or self._swept_ms is None or self._questions:
            return 0
        due = [
            self._swept_ms + HOUSEKEEPING_MS, self._work_ms, self._beat_at_ms,
            self.replica.next_deadline_ms(),
        ]  # fmt: skip
        if self._reports is not None:
            due.append(self._reports.next_ms())
        if self._sync is not None:
            due.append(self._sync.next_deadline_ms())
        return min(moment for moment in due if moment is not None)

    # --- transactions, between rounds

    def submit(self, raw: bytes, now_ms: int) -> tuple[bytes, list[Outgoing]]:
        """Take a client's transaction; its id, and what to send at once (nothing when known).

        Raises `Rejected` where the pool refuses it.
        """
        identity, new = self.app.submit(raw, now_ms)
        if not new:
            return identity, []
        self._own.add(identity, now_ms)
        self._note_work(now_ms)
        return identity, [Outgoing(None, TransactionGossip([raw]))]

    def gossip(self, message: TransactionGossip, now_ms: int) -> list[bytes]:
        """Take transactions that another validator passes on; those that are new in the pool.

        Raises `Rejected` for too many.
        """
        if len(message.transactions) > MAX_GOSSIP_TRANSACTIONS:
            raise Rejected(Code.TOO_MANY_ACTIONS, "too many transactions in one message")
        taken: list[bytes] = []
        for raw in message.transactions:
            try:
                if self.app.submit(raw, now_ms)[1]:
                    self._note_work(now_ms)
                    taken.append(raw)
            except Rejected:
                # It may be fine elsewhere or later; the validator that submitted it still has it.
                self._count("gossip_refused")
        return taken

    def _note_work(self, now_ms: int) -> None:
        if self._work_ms is None:
            self._work_ms = now_ms

    # --- rounds

    def run(self, events: Iterable[FromPeer], now_ms: int) -> Round:
        """Step through the events and whatever is due at `now_ms`."""
        done = Round()
        self._set_beat(now_ms)
        if not self._started:
            self._started = True
            self._step(Start(), now_ms, done)
        for event in events:
            self._receive(event, now_ms, done)
        if self._work_ms is not None:
            self._work_ms = None
            self._step(Work(), now_ms, done)
        deadline_ms = self.replica.next_deadline_ms()
        if deadline_ms is not None and deadline_ms <= now_ms:
            self._step(Tick(), now_ms, done)
        self._settle(done, now_ms)
        self._set_beat(now_ms)
        self._fetch_snapshot(done, now_ms)
        self._answer_questions(done, now_ms)
        self._keep_house(now_ms, done)
        return done

    def _set_beat(self, now_ms: int) -> None:
        """Have empty blocks go on where the ledger waits for its own time."""
        self.replica.beat_ms, self._beat_at_ms = self.app.beat(now_ms)

    def _answer_questions(self, done: Round, now_ms: int) -> None:
        """Answer some questions about snapshots, one of each peer in turn."""
        if self._snapshots is None:
            return
        for _ in range(min(ANSWERS_PER_ROUND, sum(map(len, self._questions.values())))):
            peer = next(iter(self._questions))
            waiting = self._questions.pop(peer)
            answer = self._snapshots.answer(peer, waiting.popleft(), now_ms)
            if answer is not None:
                done.messages.append(Outgoing(peer, answer))
            if waiting:
                self._questions[peer] = waiting

    def _receive(self, event: FromPeer, now_ms: int, done: Round) -> None:
        message = event.message
        if isinstance(message, TransactionGossip):
            try:
                self.gossip(message, now_ms)
            except Rejected as fault:
                self._count(f"rejected_{fault.code.label}")
        elif isinstance(message, SnapshotQuestion):
            if self._snapshots is not None:
                waiting = self._questions.setdefault(event.sender, deque())
                if len(waiting) < MAX_QUESTIONS:
                    waiting.append(message)
                else:
                    self._count("questions_dropped")
        elif isinstance(message, SnapshotAnswer):
            if self._sync is not None:
                asked = self._sync.receive(event.sender, message, now_ms)
                done.messages += [Outgoing(*one) for one in asked]
        else:
            self._step(Received(self._numbers.number(event.sender), message), now_ms, done)

    def _step(self, event: Event, now_ms: int, done: Round) -> None:
        for effect in self.replica.step(event, now_ms):
            self._sort(effect, now_ms, done)

    def _sort(self, effect: Effect, now_ms: int, done: Round) -> None:
        batch = done.batch
        if isinstance(effect, Send):
            key = self._numbers.key(effect.member)
            if key is None:
                self._count("unaddressed")
            else:
                done.messages.append(Outgoing(key, effect.message))
        elif isinstance(effect, Broadcast):
            done.messages.append(Outgoing(None, effect.message))
        elif isinstance(effect, PersistBlock):
            batch.proposed.append(effect.block)
        elif isinstance(effect, Persist):
            batch.voting_state = effect.state
        elif isinstance(effect, Committed):
            batch.committed_heights.append(effect.block.header.height)
            done.certificates[effect.block.header.height] = effect.certificate
        elif isinstance(effect, EpochBegan):
            self._enter_epoch(effect.members, done)
        elif isinstance(effect, Misbehaviour):
            self._saw_offence(effect, now_ms)
        elif isinstance(effect, FellBehind):
            self._on_fell_behind(effect, now_ms)

    def _enter_epoch(self, members: MemberSet, done: Round) -> None:
        self.members = members
        self._numbers.follow(members)
        self._count("epochs_entered")
        done.epoch_began = members
        done.peers_changed = True

    def _saw_offence(self, effect: Misbehaviour, now_ms: int) -> None:
        """Members take turns with reports, beginning behind the accused."""
        evidence = effect.evidence
        self._count("offences_seen")
        if self._reports is None or self.key is None:
            return
        index = self.members.index_of(self.key.public)
        if index is not None:
            rank = (index - evidence.member - 1) % len(self.members)
            self._reports.offence(evidence, rank, now_ms)

    def _on_fell_behind(self, effect: FellBehind, now_ms: int) -> None:
        """The replica cannot catch up block by block: ask the members that we know for a snapshot.

        It says so again while it lags, so an attempt that failed is followed by another.
        """
        self._count("fell_behind")
        if self._sync is not None:
            return
        asked = {*self.members.keys, *filter(None, [self._numbers.key(effect.peer)])}
        if self.key is not None:
            asked.discard(self.key.public)
        newest = self.replica.committed_block.header
        self._sync = SnapshotSync(
            checkpoint_of(self.members, newest.time_ms),
            newest.height,
            sorted(asked),
            now_ms,
            trusting_ms=self.chain.genesis.staking.trusting_ms,
            limits=self._sync_limits,
            verifier=self._verifier,
        )

    def _fetch_snapshot(self, done: Round, now_ms: int) -> None:
        """Go on with the snapshot that is being fetched, if any."""
        sync = self._sync
        if sync is None:
            return
        done.messages += [Outgoing(*one) for one in sync.step(now_ms)]
        if not sync.finished:
            return
        self._sync = None
        self.snapshot_failure = sync.failure or ""
        if sync.result is not None and sync.result.height > self.replica.committed_height:
            done.snapshot = sync.result
        else:
            self._count("snapshots_missed")

    def _settle(self, done: Round, now_ms: int) -> None:
        """Take what the application executed, and what that means for pool, reports and peers."""
        done.executed = done.batch.executed = self.app.take_executed()
        expected = [one.block.header.height for one in done.executed]
        if expected != done.batch.committed_heights:
            raise SafetyViolation("the replica and its application disagree on what is committed")
        if done.executed:
            self.snapshot_failure = ""  # it goes on without one
        # That a block ends its epoch shows when it is executed: its certificate is not the step's.
        for place, one in enumerate(done.executed):
            certificate = done.certificates.get(one.block.header.height)
            if certificate is not None and certificate.path:
                done.executed[place] = replace(one, certificate=certificate)
        for executed in done.executed:
            for result in executed.outcome.results:
                self._own.forget(result.id)
            for identity in executed.outdated:
                self._own.forget(identity)
            if any(key[:1] in (VALIDATOR_KIND, EPOCH_KIND) for key in executed.outcome.changes):
                done.peers_changed = True
            if self._snapshots is not None:
                self._snapshots.executed(executed.block.header, executed.outcome.changes, now_ms)
        if self._reports is not None:
            self._reports.executed(done.executed)

    def _keep_house(self, now_ms: int, done: Round) -> None:
        if self._swept_ms is None or now_ms >= self._swept_ms + HOUSEKEEPING_MS:
            self._swept_ms, done.swept = now_ms, True
            done.expired = self.app.mempool.expire(now_ms)
            for identity in done.expired:
                self._own.forget(identity)
            done.messages += [
                Outgoing(None, TransactionGossip([raw])) for raw in self._own.due(now_ms)
            ]
            self._prune(done)
        done.displaced = self.app.take_displaced()
        for displaced in done.displaced:
            self._own.forget(displaced.id)
        if self._reports is not None:
            for identity, raw in self._reports.due(now_ms):
                self._count("offences_reported")
                self._own.add(identity, now_ms)
                self._note_work(now_ms)
                done.messages.append(Outgoing(None, TransactionGossip([raw])))

    def _prune(self, done: Round) -> None:
        """Have blocks deleted that nobody is to be served any more."""
        if self._snapshots is None or not self._retain_blocks:
            return
        below = self._snapshots.prune_below(self.app.ledger.height, self._retain_blocks)
        below = needed_from(self.app.ledger, self.kept_batch, below)
        if below > self._pruned_below:
            self._pruned_below = done.batch.prune_below = below

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1
