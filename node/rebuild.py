"""The state of the shard out of the base layer's own data, and the proofs that claims need.

A validator's disk holds the ledger, whose leaves name every settled batch and the block that
settled it, and these blocks, which hold the ordered blocks of the batch. Executed again from
genesis, or from a state that was checked before, they give the state under the newest final root.
Nobody else is needed: no sequencer, no execution node, no prover.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from execution import Engine
from execution.exit_value import exit_keys, position_prefix
from execution.leaves import account_key
from node.app import decode_ledger_payload
from node.ledger_state import LedgerState
from protocol.batch_data import unpack_blocks
from protocol.chain import Block
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.exits import Claim
from protocol.inbox import block_inbox_height, next_cursor
from protocol.ledger_leaves import FinalLeaf, SettledBatch
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock, decode_payload
from protocol.settlement import (
    BatchHeader,
    OutboxEntry,
    PostBatch,
    decode_signed_transaction,
    decode_transaction,
)
from prover.tree import StateTree, TreeProof

BlockAt = Callable[[int], Block | None]
"""The ledger block of a height, None where it is not kept."""

Progress = Callable[[int, int], None]
"""(batches executed, batches in all)"""


class CheckedState(Wire, frozen=True):
    """All leaves of the shard after a final batch, for whoever wants to go on from there.

    `inbox_height`: base-layer height that the batch's last ordered block named.
    """

    chain_id: bytes
    batch: int
    inbox_height: int
    leaves: list[tuple[bytes, bytes]]


decode_checked_state: Decoder[CheckedState] = Decoder(CheckedState)


class RebuiltState:
    """The shard's state after a batch: `advance` takes it to the newest final one.

    A pure machine over the ledger as it stands and the blocks that its caller keeps. With `start`
    it begins there. Raises `Rejected(bad_proof)` where that state is not the ledger's.
    """

    def __init__(self, ledger: LedgerState, start: CheckedState | None = None) -> None:
        self._ledger = ledger
        self.chain = chain = ledger.chain
        if start is None:
            self._engine, self.batch, self._inbox_height = Engine(chain), 0, 0
        else:
            self.batch, self._inbox_height = start.batch, start.inbox_height
            tree = StateTree(start.leaves)
            self._require_known(start, tree.root)
            self._engine = Engine.restore(chain, start.leaves)
        self.tree = StateTree(sorted(self._engine.leaves().items()))

    def _require_known(self, start: CheckedState, root: bytes) -> None:
        ledger = self._ledger
        if start.chain_id != ledger.chain.chain_id:
            raise Rejected(Code.WRONG_CHAIN, "the kept state is of another chain")
        final, settled = ledger.final(), ledger.batch(start.batch)
        known = None if settled is None else settled.header.post_state_root
        height = 0 if settled is None else settled.inbox_height
        if start.batch > final.batch or (root, start.inbox_height) != (known, height):
            raise Rejected(
                Code.BAD_PROOF, f"the kept state is not the one after final batch {start.batch}"
            )

    def advance(self, block_at: BlockAt, progress: Progress | None = None) -> FinalLeaf:
        """Execute every final batch that is not executed yet; the end that was reached.

        Raises `Rejected(not_retained)` where a block is not kept, `SafetyViolation` where a final
        root is not what its data lead to: then its window passed without an honest challenger.
        """
        final = self._ledger.final()
        while self.batch < final.batch:
            settled = self._ledger.batch(self.batch + 1)
            if settled is None:
                raise SafetyViolation(f"final batch {self.batch + 1} is not in the ledger")
            self._execute(settled, block_at)
            self.batch += 1
            if progress is not None:
                progress(self.batch, final.batch)
        if self.tree.root != final.state_root:
            raise SafetyViolation(
                f"the state after final batch {final.batch} has another root than the ledger says"
            )
        return final

    def _execute(self, settled: SettledBatch, block_at: BlockAt) -> None:
        header = settled.header
        block = block_at(settled.ledger_height)
        if block is None:
            raise Rejected(
                Code.NOT_RETAINED,
                f"ledger block {settled.ledger_height} with batch {header.number} is not kept "
                "here; take another validator's data, or start from a kept state",
            )
        ledger, engine = self._ledger, self._engine
        limit = ledger.chain.genesis.limits.inbox_per_block
        changes: dict[bytes, bytes | None] = {}
        for ordered in posted_blocks(block, header):
            payload = decode_payload(ordered.payload) if ordered.payload else None
            self._inbox_height = block_inbox_height(ordered.payload, self._inbox_height)
            first = engine.inbox_cursor
            cursor = next_cursor(first, ledger.entries_at(self._inbox_height), limit)
            placed = ledger.entries(first, cursor - first, self._inbox_height)
            result = engine.apply(
                ordered.header.height, ordered.header.time_ms, ordered.header.block_id(),
                [entry for _, entry in placed], cursor, payload.batches if payload else [],
            )  # fmt: skip
            changes.update(result.changes)
        if self.tree.update(changes) != header.post_state_root:
            raise SafetyViolation(
                f"batch {header.number} is final, but its data lead to another state root"
            )

    def checked(self) -> CheckedState:
        """The state as it stands, to be kept."""
        return CheckedState(
            self._ledger.chain.chain_id, self.batch, self._inbox_height, list(self.tree.iterate())
        )

    def account_number(self, address: bytes) -> int:
        """The account that the ledger gave to an address, 0 for none."""
        return self._ledger.account_number(address)

    def claim(self, account: int) -> Claim:
        """The claim of an account, ready to be sent; raises `Rejected(unknown_account)`."""
        genesis = self.chain.genesis
        positions, values = exit_proofs(self.tree, account, len(genesis.markets))
        return Claim(account, encode(positions), encode(values))


def posted_blocks(block: Block, header: BatchHeader) -> list[OrderedBlock]:
    """The ordered blocks of the batch that a ledger block settled; raises `Rejected(not_found)`."""
    for post in _posts(block, header):
        with suppress(Rejected):
            ordered = unpack_blocks(post.data)
            if list_root([encode(one) for one in ordered]) == header.data_root:
                return ordered
    raise _not_there(block, header)


def posted_outbox(block: Block, header: BatchHeader) -> list[OutboxEntry]:
    """The outbox of the batch that a ledger block settled; raises `Rejected(not_found)`."""
    for post in _posts(block, header):
        if list_root([encode(entry) for entry in post.outbox]) == header.outbox_root:
            return post.outbox
    raise _not_there(block, header)


def _posts(block: Block, header: BatchHeader) -> Iterator[PostBatch]:
    """Transactions with this header; others with the same one may have been refused."""
    for raw in decode_ledger_payload(block.payload):
        try:
            action = decode_transaction(decode_signed_transaction(raw).payload).action
        except Rejected:
            continue  # a block may hold what does not decode; it took no effect
        if isinstance(action, PostBatch) and action.header == header:
            yield action


def _not_there(block: Block, header: BatchHeader) -> Rejected:
    return Rejected(
        Code.NOT_FOUND, f"block {block.header.height} does not hold batch {header.number}"
    )


def exit_proofs(tree: StateTree, account: int, markets: int) -> tuple[TreeProof, TreeProof]:
    """Proofs of all positions of an account, and of the other leaves that value it; `markets`: how
    many there are. Raises `Rejected(unknown_account)`."""
    if not 0 <= account < 1 << 63 or tree.get(account_key(account)) is None:
        raise Rejected(Code.UNKNOWN_ACCOUNT, f"there is no account {account} in the final state")
    prefix = position_prefix(account)
    keys = exit_keys(account, [key for key, _ in tree.iterate(prefix)])
    return tree.prove_first(prefix, markets), tree.prove(keys)
