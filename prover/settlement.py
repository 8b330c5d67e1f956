"""What a prover settles next, when, and whether what is settled is what it would have built.

A pure machine over the batcher: its holder asks the ledger, keeps what is built, and posts it.
"""

from __future__ import annotations

import msgspec

from execution.engine import Engine
from execution.log import log_genesis_id
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.merkle import list_proof
from protocol.messages import (
    StateProofRequest,
    StateProofView,
    WithdrawalRequest,
    WithdrawalView,
)
from protocol.settlement import BatchHeader, PostBatch, decode_outbox_entry
from protocol.windows import OPEN_BATCHES_MAX
from prover.batcher import Batch, Batcher, Position
from prover.tree import MAX_KEY_BYTES, StateTree
from prover.waiting import WAITING_BYTES

TURN_MS = 2_000
"""Provers of a chain take turns with batches; who is not next waits so much longer for each
place that it stands behind."""

STATE_KEYS_MAX = 64
"""Most leaves in one `StateProofRequest`."""


class Settlement:
    """The order of batches. `interval_ms`: least time between the starts of two batches;
    `idle_interval_ms`: so long wait blocks in which nothing happened. `place` of `provers`: which
    one of the chain's provers this is."""

    def __init__(
        self,
        batcher: Batcher,
        interval_ms: int,
        idle_interval_ms: int,
        place: int = 0,
        provers: int = 1,
    ) -> None:
        self._batcher = batcher
        self._place = place
        self._provers = provers
        self._interval_ms = interval_ms
        self._idle_interval_ms = idle_interval_ms
        self._last_start_ms = 0

    @property
    def shared(self) -> bool:
        """Whether there are other provers."""
        return self._provers > 1

    # --- batches of our own

    def due_ms(self, now_ms: int) -> int | None:
        """When a batch is worth posting, by the clock of `now_ms` and at most that where it is so
        now; None while there is nothing to build one of."""
        batcher = self._batcher
        if batcher.end_of_next() <= batcher.position.block:
            return None
        if batcher.full():
            return now_ms
        busy = batcher.actions_waiting()
        interval_ms = self._interval_ms if busy else self._idle_interval_ms
        return self._last_start_ms + interval_ms + self._behind() * TURN_MS

    def _behind(self) -> int:
        """Provers whose turn it is before ours."""
        return (self._place - self._batcher.position.number) % self._provers

    def build(self, now_ms: int) -> tuple[Batch, PostBatch]:
        """The next batch, and what is to be posted of it once it is kept."""
        self._last_start_ms = now_ms
        end = self._batcher.end_of_next()
        batch = self._batcher.build(end)
        if batch.certificate is None:
            raise SafetyViolation(f"batch built up to block {end}, which is not certified")
        outbox = [decode_outbox_entry(raw) for raw in batch.outbox]
        return batch, PostBatch(batch.header, batch.data, batch.certificate, outbox, batch.prices)

    # --- batches that the ledger has already

    def reaches(self, settled: BatchHeader) -> bool:
        """Whether blocks and diffs are there up to the end of a settled batch; those that are not
        have room, whatever waits."""
        self._batcher.wanted_block = settled.last_block
        return min(self._batcher.next_block, self._batcher.next_diff) > settled.last_block

    def follow(self, settled: BatchHeader) -> Batch | None:
        """Build the next batch as the ledger has it; None, and nothing built, where our execution
        contradicts it. Raises `SafetyViolation` for that where no batch can be taken back."""
        batch = self._batcher.build(settled.last_block)
        if same_batch(batch.header, settled):
            return batch
        if not self._batcher.can_take_back:
            raise SafetyViolation(
                f"settled batch {settled.number} is final, and contradicts our execution"
            )
        self._batcher.take_back()
        return None


def same_batch(ours: BatchHeader, other: BatchHeader) -> bool:
    """Whether two headers say the same of the same blocks, whoever posted them."""
    return ours == msgspec.structs.replace(other, prover=ours.prover, bond_uusd=ours.bond_uusd)


def place_of(chain: Chain, public_key: bytes) -> tuple[int, int]:
    """Which of the chain's provers this key is, and how many there are; a key that is not among
    them posts in vain, and comes last."""
    keys = [bytes.fromhex(key) for key in chain.genesis.provers]
    place = keys.index(public_key) if public_key in keys else len(keys) - 1
    return place, len(keys)


def interval_ms(chain: Chain, least_ms: int) -> int:
    """Time between two batches, so that those of a window take no more than half of the room that
    the ledger has for open ones."""
    return max(least_ms, chain.genesis.settlement.window_ms * 2 // OPEN_BATCHES_MAX)


def removable(chain: Chain) -> bool:
    """Whether a batch that was built can have to be taken back: there are windows, or rivals."""
    return chain.genesis.settlement.window_ms > 0 or len(chain.genesis.provers) > 1


def make_batcher(
    chain: Chain,
    public_key: bytes,
    tree: StateTree,
    position: Position,
    waiting_bytes: int = WAITING_BYTES,
) -> Batcher:
    """The batcher of a prover, as the chain's rules want it."""
    return Batcher(
        chain.chain_id, chain.genesis.shard, public_key, tree, position,
        bond_uusd=chain.genesis.settlement.prover_bond_uusd, removable=removable(chain),
        priced=chain.genesis.settlement.native_checks, waiting_bytes=waiting_bytes,
    )  # fmt: skip


def genesis(chain: Chain) -> tuple[Position, StateTree]:
    """Where settlement begins, and the state there."""
    tree = StateTree(sorted(Engine(chain).leaves().items()))
    return Position(0, 0, log_genesis_id(chain), tree.root, 0, 0), tree


def withdrawal_view(
    request: WithdrawalRequest, found: tuple[int, list[bytes]] | None, unsettled: int | None
) -> WithdrawalView:
    """An outbox entry with its proof, out of its batch's number and encoded entries.

    `unsettled`: number of the batch that is posted but not settled. Raises `Rejected`.
    """
    if found is None:
        raise Rejected(Code.NOT_FOUND, f"withdrawal {request.number} is in no batch yet")
    batch, entries = found
    if batch == unsettled:
        raise Rejected(Code.NOT_READY, f"batch {batch} is posted, but not settled yet")
    index = request.number - decode_outbox_entry(entries[0]).number
    entry = decode_outbox_entry(entries[index])
    return WithdrawalView(request.request_id, batch, entry, list_proof(entries, index))


def state_proof_view(request: StateProofRequest, batcher: Batcher) -> StateProofView:
    """The proof of leaves after the last batch built; raises `Rejected`."""
    keys = request.keys
    if not 1 <= len(keys) <= STATE_KEYS_MAX:
        raise Rejected(Code.WRONG_TYPE, f"a proof shows 1 to {STATE_KEYS_MAX} leaves")
    if not all(1 <= len(key) <= MAX_KEY_BYTES for key in keys):
        raise Rejected(Code.WRONG_TYPE, f"the key of a leaf has 1 to {MAX_KEY_BYTES} bytes")
    if not batcher.position.number:
        raise Rejected(Code.NOT_READY, "there is no batch yet")
    proof = batcher.tree.prove(keys)
    return StateProofView(request.request_id, batcher.position.number, encode(proof))
