"""What a prover settles next, when, and whether what is settled is what it built.

A pure machine over the batcher: its holder asks the ledger, keeps what is built, and posts it.
"""

from __future__ import annotations

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
from prover.batcher import Batch, Batcher, Position
from prover.tree import MAX_KEY_BYTES, StateTree

STATE_KEYS_MAX = 64
"""Most leaves in one `StateProofRequest`."""


class Settlement:
    """The order of batches. `interval_ms`: least time between the starts of two batches;
    `idle_interval_ms`: so long wait blocks in which nothing happened."""

    def __init__(self, batcher: Batcher, interval_ms: int, idle_interval_ms: int) -> None:
        self._batcher = batcher
        self._interval_ms = interval_ms
        self._idle_interval_ms = idle_interval_ms
        self._last_start_ms = 0

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
        return self._last_start_ms + (self._interval_ms if busy else self._idle_interval_ms)

    def build(self, now_ms: int) -> tuple[Batch, PostBatch]:
        """The next batch, and what is to be posted of it once it is kept."""
        self._last_start_ms = now_ms
        end = self._batcher.end_of_next()
        batch = self._batcher.build(end)
        if batch.certificate is None:
            raise SafetyViolation(f"batch built up to block {end}, which is not certified")
        return batch, PostBatch(batch.header, batch.data, batch.certificate)

    # --- batches that the ledger has already

    def reaches(self, settled: BatchHeader) -> bool:
        """Whether blocks and diffs are there up to the end of a settled batch."""
        return min(self._batcher.next_block, self._batcher.next_diff) > settled.last_block

    def adopt(self, settled: BatchHeader) -> Batch:
        """Follow the next batch as the ledger has it: ours from before a loss of data."""
        batch = self._batcher.build(settled.last_block)
        require_same_root(batch.header, settled)
        return batch


def require_same_root(ours: BatchHeader, settled: BatchHeader) -> None:
    """Raises `SafetyViolation` where the settled batch of our batch's number has another root."""
    if ours.post_state_root != settled.post_state_root:
        raise SafetyViolation(f"settled batch {settled.number} has another state root than ours")


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
