"""The sequencer as a pure machine: admission, durable acceptance, ordering, receipts.

Inputs are submissions, news of the base layer, messages of other sequencers and time. A submission
is answered twice: *accepted*, with a signed receipt, once it is on disk, and *ordered*, once its
block is committed. Submissions that arrive together are made durable together and share one
signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from consensus import (
    BlockSource,
    Committed,
    Effect,
    Event,
    MemberSet,
    RecoveredState,
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
from protocol.chain import EMPTY_HASH, Block, genesis_header
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.keys import Key, require_signature
from protocol.merkle import list_proofs, list_root
from protocol.ordering import Receipt, decode_payload, receipt_digest
from sequencer.pool import BatchPool

Ticket = tuple[int, int]
"""Who asked: session number and request id, chosen by the shell."""

SIGNATURES_CHECKED_BELOW = 64
"""With fewer batches waiting than this, a false signature is refused at once, as a service to the
submitter. Under load that is left to execution, which checks every signature anyway."""

SESSION_OPEN_MAX = 8_192
"""Submissions of one session that may wait for their order, so that none fills the pool alone."""


class PersistBatches(msgspec.Struct, frozen=True):
    """Store accepted batches until `Forget`; `height` is the newest committed one."""

    height: int
    batches: list[bytes]


class Accept(msgspec.Struct, frozen=True):
    """Answer a submission with its receipt."""

    ticket: Ticket
    receipt: Receipt


class Order(msgspec.Struct, frozen=True):
    """Tell a submitter that its batch is committed at `height`."""

    ticket: Ticket
    height: int
    time_ms: int


SequencerEffect = PersistBatches | Accept | Order | Effect


class RecoveredSequencer(msgspec.Struct, frozen=True):
    """What the shell reads back: consensus state, accepted batches, and recently committed ones.

    `accepted` are stored batches in their order, committed ones among them; `recent` are committed
    blocks, oldest first, reaching back at least to the oldest batch in `accepted`.
    """

    consensus: RecoveredState
    accepted: list[bytes]
    recent: list[Block]
    inbox_height: int
    inbox_cursor: int


class Sequencer:
    """One sequencer. Every method returns effects in the order in which they must take place."""

    def __init__(
        self,
        chain: Chain,
        index: int,
        key: Key,
        recovered: RecoveredSequencer,
        stored: BlockSource,
    ) -> None:
        genesis, pace = chain.genesis, chain.genesis.sequencer_pace
        tip = recovered.consensus.tip
        height = tip.header.height if tip is not None else 0
        self.pool = BatchPool(
            pace.max_payload_bytes, genesis.limits.inbox_per_block, height,
            recovered.inbox_height, recovered.inbox_cursor,
            genesis.time_ms if tip is None else tip.header.time_ms, genesis.capacity,
            {bytes.fromhex(one) for one in [*genesis.oracles, *genesis.guardians]},
        )  # fmt: skip
        self._restore_pool(recovered)
        members = MemberSet(chain.log_id, [one.member() for one in genesis.sequencers])
        self.replica = Replica(
            ReplicaConfig(
                block_interval_ms=pace.block_interval_ms,
                empty_interval_ms=pace.empty_interval_ms,
                idle_interval_ms=pace.idle_interval_ms or None,
                timeout_ms=pace.timeout_ms,
                timeout_max_ms=pace.timeout_max_ms,
                max_payload_bytes=pace.max_payload_bytes,
            ),
            members,
            key,
            self.pool,
            genesis_header(chain.log_id, genesis.time_ms, EMPTY_HASH),
            recovered.consensus,
            stored=stored,
        )
        self._chain_id = chain.chain_id
        self._shard = genesis.shard
        self._index = index
        self._key = key
        self._fresh: list[bytes] = []
        self._asked: list[tuple[Ticket, bytes]] = []
        self._waiters: dict[bytes, list[Ticket]] = {}
        self._open: Counter[int] = Counter()

    def _restore_pool(self, recovered: RecoveredSequencer) -> None:
        for block in recovered.recent:
            if block.payload:
                for raw in decode_payload(block.payload).batches:
                    self.pool.remember(batch_id(raw), block.header.height)
        for raw in recovered.accepted:
            identity = batch_id(raw)
            if self.pool.committed_at(identity) is None and identity not in self.pool:
                self.pool.add(identity, raw, *open_batch(raw), bounded=False)

    # --- inputs

    def start(self, now_ms: int) -> list[SequencerEffect]:
        """Take up the recovered state."""
        return self.step(Start(), now_ms)

    @staticmethod
    def check(
        raw: bytes, signers: Collection[bytes], now_ms: int
    ) -> tuple[SignedBatch, ActionBatch]:
        """Decode a batch of a session that has proven `signers`; raises `Rejected` where its shape,
        signer or nonce is not in order."""
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
            if len(self.pool) < SIGNATURES_CHECKED_BELOW:
                self.require_signature(signed)
            self.pool.add(identity, raw, signed, batch)
            self._fresh.append(raw)
        self._asked.append((ticket, identity))
        self._open[ticket[0]] += 1

    def require_signature(self, signed: SignedBatch) -> None:
        """Raise `Rejected` (bad_signature) unless the signer signed the batch."""
        digest = actions_digest(self._chain_id, self._shard, signed.payload)
        require_signature(signed.signer, signed.signature, digest)

    def knows(self, identity: bytes) -> bool:
        """Whether a batch is in the pool, or is remembered as committed."""
        return identity in self.pool or self.pool.committed_at(identity) is not None

    def note_ledger(self, height: int, inbox_count: int, now_ms: int) -> list[SequencerEffect]:
        """The base layer is certified up to `height`, its inbox holding `inbox_count` entries."""
        self.pool.note_ledger(height, inbox_count)
        return self.step(Work(), now_ms) if self.pool.has_work() else []

    def flush(self, now_ms: int) -> list[SequencerEffect]:
        """Make what was submitted since the last flush durable, answer it, and go on ordering."""
        if not self._asked:
            return []
        effects: list[SequencerEffect] = []
        if self._fresh:
            effects.append(PersistBatches(self.replica.committed_height, self._fresh))
            self._fresh = []
        asked, self._asked = self._asked, []
        receipts = self._receipts([identity for _, identity in asked], now_ms)
        answers: list[SequencerEffect] = []
        for (ticket, identity), receipt in zip(asked, receipts, strict=True):
            answers.append(Accept(ticket, receipt))
            height = self.pool.committed_at(identity)
            if height is None:
                self._waiters.setdefault(identity, []).append(ticket)
            else:
                answers.append(self._notice(ticket, height, 0))
        ordering = self.step(Work(), now_ms)
        # Receipts go out with the first sync; notices of blocks of the same step follow them.
        notices = [effect for effect in ordering if isinstance(effect, Order)]
        others = [effect for effect in ordering if not isinstance(effect, Order)]
        return effects + others + answers + notices

    def step(self, event: Event, now_ms: int) -> list[SequencerEffect]:
        """A consensus event; committed blocks also yield the notices of their submitters."""
        effects: list[SequencerEffect] = []
        notices: list[SequencerEffect] = []
        for effect in self.replica.step(event, now_ms):
            effects.append(effect)
            if isinstance(effect, Committed):
                notices += self._notices(effect.block)
        return effects + notices

    def tick(self, now_ms: int) -> list[SequencerEffect]:
        """Time has passed."""
        return self.step(Tick(), now_ms)

    def forget(self, session: int) -> None:
        """A session is gone: nobody waits for its notices any more."""
        for identity in list(self._waiters):
            left = [ticket for ticket in self._waiters[identity] if ticket[0] != session]
            if left:
                self._waiters[identity] = left
            else:
                del self._waiters[identity]
        self._asked = [(ticket, key) for ticket, key in self._asked if ticket[0] != session]
        self._open.pop(session, None)

    # --- answers

    def _receipts(self, identities: list[bytes], now_ms: int) -> list[Receipt]:
        root = list_root(identities)
        size = len(identities)
        signature = self._key.sign(receipt_digest(self._chain_id, now_ms, root, size))
        paths = list_proofs(identities)
        return [
            Receipt(self._index, identity, now_ms, root, place, size, path, signature)
            for place, (identity, path) in enumerate(zip(identities, paths, strict=True))
        ]

    def _notices(self, block: Block) -> list[SequencerEffect]:
        if not block.payload or not self._waiters:
            return []
        height, time_ms = block.header.height, block.header.time_ms
        return [
            self._notice(ticket, height, time_ms)
            for raw in decode_payload(block.payload).batches
            for ticket in self._waiters.pop(batch_id(raw), ())
        ]

    def _notice(self, ticket: Ticket, height: int, time_ms: int) -> Order:
        if self._open[ticket[0]] > 0:
            self._open[ticket[0]] -= 1
        return Order(ticket, height, time_ms)
