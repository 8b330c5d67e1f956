"""The sequencer as a pure machine: admission, durable acceptance, ordering, receipts.

Inputs are submissions, news of the base layer, messages of other sequencers and time. A submission
is answered twice: *accepted*, with a signed receipt, once it is on disk, and *ordered*, once its
block is committed. Submissions that arrive together are made durable together and share one
signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from consensus import (
    BlockSource,
    Broadcast,
    Committed,
    Event,
    MemberSet,
    Received,
    Replica,
    ReplicaConfig,
    Start,
    Tick,
    Work,
)
from protocol.actions import (
    NONCE_FUTURE_MS,
    NONCE_PAST_MS,
    ActionBatch,
    SignedBatch,
    actions_digest,
    batch_id,
    open_batch,
)
from protocol.chain import EMPTY_HASH, Block, Certified, Proposal, Remembered, genesis_header
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.keys import Key, require_signature
from sequencer.effects import (
    Accept,
    Order,
    Pass,
    PersistBatches,
    RecoveredSequencer,
    SequencerEffect,
    Ticket,
)
from sequencer.holding import FromPeer, HeldProposals
from sequencer.lanes import OWN
from sequencer.passing import STILL_MS, OwnBatches, RepeatedBatches, messages
from sequencer.peer import PassedBatches, PeerMessage
from sequencer.pool import BatchPool
from sequencer.receipts import make_receipts
from sequencer.settled import SettledLog
from sequencer.taking import TakenBatches

__all__ = [
    "Accept", "Order", "Pass", "PersistBatches", "RecoveredSequencer", "Sequencer",
    "SequencerEffect", "Ticket",
]  # fmt: skip

SIGNATURES_CHECKED_BELOW = 64
"""With fewer batches waiting than this, a false signature is refused at once, as a service to the
submitter. Under load that is left to execution, which checks every signature anyway."""

SESSION_OPEN_MAX = 8_192
"""Submissions of one session that may wait for their order, so that none fills the pool alone."""


SIGNER_BATCHES_MAX = 4_096
"""Batches of one signer that may wait, over all of its sessions here."""

NEWS_MS = 2_000
"""Sequencers tell each other so often what is certified: in a log that stands still, one that was
cut off would not notice what it missed."""


class Sequencer:
    """One sequencer. Every method returns effects in the order in which they must take place."""

    def __init__(
        self,
        chain: Chain,
        index: int,
        key: Key,
        recovered: RecoveredSequencer,
        stored: BlockSource,
        *,
        signs: bool = True,
    ) -> None:
        """Without `signs` it follows the others, and takes no submissions."""
        genesis, pace = chain.genesis, chain.genesis.sequencer_pace
        tip = recovered.consensus.tip
        height = tip.header.height if tip is not None else 0
        self._chain_id, self._shard = chain.chain_id, genesis.shard
        self.pool = BatchPool(
            pace.max_payload_bytes, genesis.limits.inbox_per_block, height,
            recovered.inbox_height, recovered.inbox_cursor,
            genesis.time_ms if tip is None else tip.header.time_ms, genesis.capacity,
            {bytes.fromhex(one) for one in [*genesis.oracles, *genesis.guardians]},
            len(genesis.sequencers) - 1, self.require_signature,
        )  # fmt: skip
        self.members = MemberSet(chain.log_id, [one.member() for one in genesis.sequencers])
        self.counters: Counter[str] = Counter()
        self._taken = TakenBatches(self.pool, self.counters)
        self._own, self._others = OwnBatches(self.pool.room_at_others), RepeatedBatches()
        self._restored: list[bytes] = []
        self._restore_pool(recovered)
        self.replica = Replica(
            ReplicaConfig(
                block_interval_ms=pace.block_interval_ms,
                empty_interval_ms=pace.empty_interval_ms,
                idle_interval_ms=pace.idle_interval_ms or None,
                timeout_ms=pace.timeout_ms,
                timeout_max_ms=pace.timeout_max_ms,
                max_payload_bytes=pace.max_payload_bytes,
            ),
            self.members,
            key if signs else None,
            self.pool,
            genesis_header(chain.log_id, genesis.time_ms, EMPTY_HASH),
            recovered.consensus,
            stored=stored,
        )
        self._index = index
        self._key = key
        self.signs = signs
        self.settled = SettledLog(empty=tip is None, alone=not self._shared, signs=signs)
        self.signer_batches_max = SIGNER_BATCHES_MAX
        self._fresh: dict[bytes, bytes] = {}
        self._asked: list[tuple[Ticket, bytes]] = []
        self._waiters: dict[bytes, list[Ticket]] = {}
        self._open: Counter[int] = Counter()
        self._held = HeldProposals(self.pool, pace.max_payload_bytes, pace.timeout_ms // 2)
        self._news_ms: int | None = None

    @property
    def _shared(self) -> bool:
        """Whether there are other sequencers."""
        return len(self.members) > 1

    def _restore_pool(self, recovered: RecoveredSequencer) -> None:
        ordered = self.pool.recall(recovered.recent)  # more of them than the pool remembers
        for raw in recovered.accepted:
            identity = batch_id(raw)
            if identity in ordered or identity in self.pool:
                continue
            origin = recovered.passed_by.get(identity, OWN)
            try:
                self.pool.add(identity, raw, *open_batch(raw), origin=origin, bounded=False)
            except Rejected as error:  # too old by now; a false price that was let in once
                self._taken.refuse(error)
                continue
            if origin != OWN:
                self._restored.append(identity)
            elif self._shared:
                self._own.add(identity, self.pool.lane(identity), len(raw))
        self._own.start(0, 0)  # the links do not stand yet: `tick` passes it on, as again

    # --- inputs

    def start(self, now_ms: int) -> list[SequencerEffect]:
        """Take up the recovered state; an empty log waits for `note_settled`."""
        for identity in self._restored:
            self._others.add(identity, now_ms, STILL_MS)
        self._restored.clear()
        self._news_ms = now_ms + NEWS_MS if self._shared else None
        return self.step(Start(), now_ms)

    def note_settled(self, height: int, now_ms: int) -> list[SequencerEffect]:
        """The base layer has settled the log up to `height`, 0 for nothing of it.

        Raises `SafetyViolation` where the log was longer once than it is here.
        """
        waited = self.settled.waiting
        self.settled.told(height, self.replica.committed_height)
        return self.step(Start(), now_ms) if waited else []

    @property
    def held_proposals(self) -> int:
        """Proposals that had to wait for news of the base layer, so far."""
        return self._held.count

    def next_deadline_ms(self) -> int | None:
        """When the shell must call `tick`; None when only an event can change anything."""
        if self.settled.waiting:
            return None
        due = (
            self.replica.next_deadline_ms(), self._own.deadline_ms(), self._news_ms,
            self._others.deadline_ms(), self._held.deadline_ms(),
        )  # fmt: skip
        return min((moment for moment in due if moment is not None), default=None)

    def check(
        self, raw: bytes, signers: Collection[bytes], now_ms: int
    ) -> tuple[SignedBatch, ActionBatch]:
        """Decode a batch of a session that has proven `signers`; raises `Rejected` where its shape,
        signer or nonce is not in order."""
        if not self.signs:
            raise Rejected(Code.NOT_READY, "this sequencer signs nothing; ask another one")
        if self.settled.waiting:
            raise Rejected(
                Code.NOT_READY, "the base layer has not told yet what is settled; send it again"
            )
        signed, batch = open_batch(raw)
        if signed.signer not in signers:
            raise Rejected(
                Code.SESSION_NOT_PROVEN,
                "the session has not proven this signer; sign its challenge (Authenticate) first",
            )
        if batch.nonce_ms <= now_ms - NONCE_PAST_MS:
            raise Rejected(Code.NONCE_EXPIRED, "the nonce lies more than two days in the past")
        if batch.nonce_ms >= now_ms + NONCE_FUTURE_MS:
            raise Rejected(Code.NONCE_TOO_NEW, "the nonce lies more than a day in the future")
        return signed, batch

    def submit(self, ticket: Ticket, raw: bytes, signers: Collection[bytes], now_ms: int) -> None:
        """Admit a batch of a session that has proven `signers`; `flush` answers it.

        Raises `Rejected` with the reason why it is not taken.
        """
        signed, batch = self.check(raw, signers, now_ms)
        if self._open[ticket[0]] >= SESSION_OPEN_MAX:
            raise Rejected(
                Code.RATE_LIMITED, f"{SESSION_OPEN_MAX} submissions wait already; await their order"
            )
        identity = batch_id(raw)
        if not self.knows(identity):
            if self.pool.of_signer(signed.signer) >= self.signer_batches_max:
                raise Rejected(
                    Code.RATE_LIMITED,
                    f"{self.signer_batches_max} batches of this signer wait; await their order",
                )
            if len(self.pool) < SIGNATURES_CHECKED_BELOW:
                self.require_signature(signed)
            self.pool.add(identity, raw, signed, batch)
            self._fresh[identity] = raw
        elif self._shared and identity in self.pool and identity not in self._own:
            self.pool.promise(identity)  # another sequencer had passed it on
            self._fresh[identity] = raw
        self._asked.append((ticket, identity))
        self._open[ticket[0]] += 1

    def require_signature(self, signed: SignedBatch) -> None:
        """Raise `Rejected` (bad_signature) unless the signer signed the batch."""
        digest = actions_digest(self._chain_id, self._shard, signed.payload)
        require_signature(signed.signer, signed.signature, digest)

    def knows(self, identity: bytes) -> bool:
        """Whether a batch is in the pool, or is remembered as committed."""
        return self.pool.knows(identity)

    def note_ledger(
        self, height: int, inbox_count: int, now_ms: int, grown_at: int | None = None
    ) -> list[SequencerEffect]:
        """The base layer is certified up to `height`, where its inbox holds `inbox_count` entries,
        the last one since `grown_at` (None: `height`)."""
        self.pool.note_ledger(height, inbox_count, grown_at)
        effects = self._hand_over(self._held.heard(), now_ms)
        return effects + (self.step(Work(), now_ms) if self.pool.has_work() else [])

    def flush(self, now_ms: int) -> list[SequencerEffect]:
        """Make what was submitted since the last flush durable, answer it, and go on ordering."""
        if not (self._asked or self._fresh):
            return []
        effects: list[SequencerEffect] = []
        if self._fresh:
            fresh, self._fresh = self._fresh, {}
            effects.append(PersistBatches(self.replica.committed_height, list(fresh.values())))
            effects += self._pass_on(fresh, now_ms)
        answers = self._answers(now_ms)
        ordering = self.step(Work(), now_ms)
        # Receipts go out with the first sync; notices of blocks of the same step follow them.
        notices = [effect for effect in ordering if isinstance(effect, Order)]
        others = [effect for effect in ordering if not isinstance(effect, Order)]
        return effects + others + answers + notices

    def _pass_on(self, accepted: dict[bytes, bytes], now_ms: int) -> list[SequencerEffect]:
        """Pass on what was accepted, and what came before it, as far as the others have room."""
        if not self._shared:
            return []
        for identity, raw in accepted.items():
            self._others.forget(identity)
            if identity in self.pool:  # and not ordered by others meanwhile
                self._own.add(identity, self.pool.lane(identity), len(raw))
        started = self._own.start(now_ms)
        return [Pass(message) for message in messages(started, self.pool.to_pass)]

    def _answers(self, now_ms: int) -> list[SequencerEffect]:
        """Receipts for what was asked since the last flush, and places where they are known."""
        if not self._asked:
            return []
        asked, self._asked = self._asked, []
        identities = [identity for _, identity in asked]
        receipts = make_receipts(self._key, self._index, self._chain_id, identities, now_ms)
        answers: list[SequencerEffect] = []
        for (ticket, identity), receipt in zip(asked, receipts, strict=True):
            answers.append(Accept(ticket, receipt))
            height = self.pool.committed_at(identity)
            if height is None:
                self._waiters.setdefault(identity, []).append(ticket)
            else:
                answers.append(self._notice(ticket, height, 0))
        return answers

    def receive(
        self, received: Iterable[tuple[int, PeerMessage]], now_ms: int
    ) -> list[SequencerEffect]:
        """Take messages of other sequencers, each with the member's index, in their order."""
        effects: list[SequencerEffect] = []
        for peer, message in received:
            if isinstance(message, PassedBatches):
                for identity in self._taken.take(peer, message, now_ms):
                    self._others.add(identity, now_ms, STILL_MS)
            elif isinstance(message, Proposal):
                effects += self._hand_over(self._held.offer(peer, message, now_ms), now_ms)
            else:
                if isinstance(message, Remembered) and not self.settled.counts(message):
                    message = Certified(message.qc, message.tc)  # for what it proves, no answer
                effects += self.step(Received(peer, message), now_ms)
        effects += self._hand_over(self._held.passed(self.replica.view), now_ms)
        to_store = self._taken.to_store(self.replica.committed_height)
        if to_store:
            effects += to_store
            effects += self.step(Work(), now_ms)
        return effects

    def _hand_over(self, proposals: Iterable[FromPeer], now_ms: int) -> list[SequencerEffect]:
        """Give consensus proposals whose time has come."""
        effects: list[SequencerEffect] = []
        for peer, proposal in proposals:
            effects += self.step(Received(peer, proposal), now_ms)
        return effects

    def step(self, event: Event, now_ms: int) -> list[SequencerEffect]:
        """A consensus event; committed blocks also yield the notices of their submitters, and make
        room at the others for what waits here. Before the replica may start there is none."""
        if self.settled.waiting:
            return []
        effects: list[SequencerEffect] = []
        notices: list[SequencerEffect] = []
        committed = False
        for effect in self.replica.step(event, now_ms):
            effects.append(effect)
            if isinstance(effect, Committed):
                committed = True
                self._own.wait_until(now_ms + STILL_MS)
                self._others.wait_until(now_ms + STILL_MS)
                notices += self._notices(effect.block)
        if committed:
            effects += self._pass_on({}, now_ms)
            effects += self._take_again(now_ms)
        return effects + notices

    def _take_again(self, now_ms: int) -> list[SequencerEffect]:
        """Let wait what others passed on before what it stands behind, and which may wait now."""
        taken = self._taken.again()
        if not taken:
            return []
        for identity in taken:
            self._others.add(identity, now_ms, STILL_MS)
        return [
            *self._taken.to_store(self.replica.committed_height), *self.step(Work(), now_ms)
        ]  # fmt: skip

    def tick(self, now_ms: int) -> list[SequencerEffect]:
        """Time has passed."""
        if self.settled.waiting:
            return []
        effects = self._hand_over(self._held.due(now_ms), now_ms)
        for repeats in (self._own, self._others):
            again = repeats.due(self.pool.to_pass, now_ms)
            if again is not None:
                self.counters["batches_passed_again"] += len(again.batches)
                effects.append(Pass(again))
        if self._news_ms is not None and now_ms >= self._news_ms:
            self._news_ms = now_ms + NEWS_MS
            effects.append(Broadcast(Certified(self.replica.high_qc, None)))
        return effects + self.step(Tick(), now_ms)

    def forget(self, session: int) -> None:
        """A session is gone: nobody waits for its notices any more."""
        if not self._open.pop(session, 0):
            return  # looking through all that waits costs something
        for identity in list(self._waiters):
            left = [ticket for ticket in self._waiters[identity] if ticket[0] != session]
            if left:
                self._waiters[identity] = left
            else:
                del self._waiters[identity]
        self._asked = [(ticket, key) for ticket, key in self._asked if ticket[0] != session]

    # --- answers

    def _notices(self, block: Block) -> list[SequencerEffect]:
        if not block.payload or not (self._waiters or self._own or self._others):
            return []
        height, time_ms = block.header.height, block.header.time_ms
        notices: list[SequencerEffect] = []
        for identity in self.pool.contents(block.payload).identities:
            self._own.forget(identity)
            self._others.forget(identity)
            waiting = self._waiters.pop(identity, ())
            notices += [self._notice(ticket, height, time_ms) for ticket in waiting]
        return notices

    def _notice(self, ticket: Ticket, height: int, time_ms: int) -> Order:
        if self._open[ticket[0]] > 0:
            self._open[ticket[0]] -= 1
        return Order(ticket, height, time_ms)
