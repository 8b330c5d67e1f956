"""What a move about the last step has to show: its block, the agreed state, more than before."""

from __future__ import annotations

from protocol.chain import payload_hash
from protocol.dispute import DisputeLeaf, Prove, leaf_limit, step_leaf, witness_limit
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.ledger_leaves import SettledBatch
from protocol.merkle import verify_list_proof
from protocol.ordering import OrderedBlock, decode_ordered_block
from prover.step_input import StepInput
from prover.witness import Added, execute, require_larger


def require_block(action: Prove, settled: SettledBatch, index: int) -> OrderedBlock:
    """The ordered block that a move is about, number `index` of its batch; raises `Rejected`."""
    header = settled.header
    size = header.last_block - header.first_block + 1
    block = decode_ordered_block(action.block)
    if payload_hash(block.payload) != block.header.payload_hash:
        raise Rejected(Code.BAD_PROOF, "the block's payload is not the one its header names")
    cursors = action.inbox_cursors
    if not all(0 <= one < 1 << 63 for one in cursors) or not verify_list_proof(
        settled.steps_root, step_leaf(block.header.block_id(), cursors), index, size,
        action.path,
    ):  # fmt: skip
        raise Rejected(
            Code.BAD_PROOF,
            f"the path does not lead from block {header.first_block + index} and its inbox "
            f"cursors to the steps of batch {header.number}",
        )
    return block


def judge(
    chain: Chain, action: Prove, witness: bytes, game: DisputeLeaf, step: StepInput
) -> tuple[bytes, bytes]:
    """What the witness of a move shows, and the root that the step gives on it; raises `Rejected`
    where it is not of the agreed state, or not larger than the last one."""
    limit = witness_limit(game)
    if len(witness) > limit:
        raise Rejected(Code.BAD_WITNESS, f"the witness has more than {limit} bytes")
    beyond = Added(action.added_accounts, action.added_leaves)
    shown = require_larger(witness, beyond, game.shown, leaf_limit(game))
    return shown, execute(chain, game.roots[0], witness, step)
