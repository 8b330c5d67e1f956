"""What the ledger checks of a batch before it settles: that it is exactly what was ordered.

The data must decompress, within bounds, to the canonical bytes of consecutive ordered blocks that
continue the shard's log; the last one must carry a commit certificate of the sequencers. Roots,
cursor and counters must follow from the data and from the shard's last batch. The bond is recorded
in the header and not locked: there is no dispute yet that it could be lost in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from consensus.members import MemberSet
from consensus.verify import verify_certificate
from protocol.chain import payload_hash
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import CASH_MOVE_LIMIT
from protocol.inbox import block_inbox_height, next_cursor
from protocol.ledger_leaves import ShardLeaf
from protocol.merkle import EMPTY_LIST_ROOT, list_root
from protocol.ordering import OrderedBlock, decode_blocks
from protocol.settlement import (
    EXPANSION_ALLOWANCE_BYTES,
    MAX_BATCH_DATA_BYTES,
    MAX_EXPANSION,
    BatchHeader,
    PostBatch,
)

MAX_EXPANDED_BYTES = 64 * 1024 * 1024
"""Most bytes of one batch's decompressed data, whatever its compressed size."""

MAX_BATCH_BLOCKS = 65_536
"""Most ordered blocks in one batch."""

MAX_OUTBOX_ENTRIES = 1 << 20
"""Most outbox entries of one batch."""


@dataclass(frozen=True, slots=True)
class BatchRules:
    """What a batch is checked against, besides the shard.

    `sequencers`: members of the ordered log, whose chain id is the log's; `provers`: public keys
    that may post.
    """

    chain_id: bytes
    shard: int
    sequencers: MemberSet
    provers: frozenset[bytes]
    inbox_per_block: int


def expand(data: bytes) -> bytes:
    """Decompress batch data (zlib); raises `Rejected` (bad_batch_data) beyond its bounds."""
    if len(data) > MAX_BATCH_DATA_BYTES:
        raise _bad(f"batch data has at most {MAX_BATCH_DATA_BYTES} bytes")
    bound = min(len(data) * MAX_EXPANSION + EXPANSION_ALLOWANCE_BYTES, MAX_EXPANDED_BYTES)
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, bound + 1)
    except zlib.error as error:
        raise _bad(f"the batch data is not zlib: {error}") from None
    if len(raw) > bound:
        raise _bad(f"the batch data expands beyond {bound} bytes")
    if not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
        raise _bad("the batch data is cut short or has bytes behind its end")
    return raw


def check_batch(
    rules: BatchRules,
    shard: ShardLeaf,
    post: PostBatch,
    signer: bytes,
    *,
    ledger_height: int,
    entries_at: Callable[[int], int],
) -> ShardLeaf:
    """The shard after the batch; raises `Rejected` with the code of the rule that it breaks.

    `ledger_height`: height of the ledger block that holds the batch; `entries_at(height)`: inbox
    entries that came up to a ledger height.
    """
    header = post.header
    _check_place(rules, shard, header, signer)
    _check_outbox(shard, header)
    blocks = _check_blocks(rules, shard, post)
    inbox_height, cursor = _inbox_after(
        shard, blocks, rules.inbox_per_block, ledger_height, entries_at
    )
    if header.inbox_cursor != cursor:
        raise Rejected(
            Code.BAD_INBOX_CURSOR,
            f"the batch claims inbox cursor {header.inbox_cursor}, its blocks lead to {cursor}",
        )
    return ShardLeaf(
        batch=header.number,
        last_block=header.last_block,
        last_block_id=header.last_block_id,
        state_root=header.post_state_root,
        inbox_height=inbox_height,
        inbox_cursor=cursor,
        outbox_next=header.outbox_first + header.outbox_count,
        funds_uusd=shard.funds_uusd,
    )


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_BATCH_DATA, text)


def _check_place(rules: BatchRules, shard: ShardLeaf, header: BatchHeader, signer: bytes) -> None:
    if signer not in rules.provers or header.prover != signer:
        raise Rejected(Code.NOT_A_PROVER, "a batch is posted by the genesis prover that it names")
    if header.chain_id != rules.chain_id:
        raise Rejected(Code.WRONG_CHAIN, "the batch belongs to another chain")
    if header.shard != rules.shard:
        raise Rejected(Code.WRONG_SHARD, f"there is no shard {header.shard}")
    if header.number != shard.batch + 1:
        raise Rejected(
            Code.WRONG_BATCH_NUMBER, f"batch {header.number} came where {shard.batch + 1} is next"
        )
    if header.first_block != shard.last_block + 1:
        raise Rejected(
            Code.WRONG_BATCH_NUMBER,
            f"the batch begins at block {header.first_block}, the shard is at {shard.last_block}",
        )
    if header.pre_state_root != shard.state_root:
        raise Rejected(Code.WRONG_PRE_STATE, "the batch starts from another state root")
    roots = (header.last_block_id, header.post_state_root, header.data_root, header.outbox_root)
    if any(len(root) != 32 for root in roots):
        raise Rejected(Code.WRONG_TYPE, "a root or block id has 32 bytes")
    if not 0 <= header.bond_uusd < CASH_MOVE_LIMIT:
        raise Rejected(Code.BAD_AMOUNT, "the bond is out of range")


def _check_outbox(shard: ShardLeaf, header: BatchHeader) -> None:
    if header.outbox_first != shard.outbox_next:
        raise Rejected(
            Code.BAD_OUTBOX,
            f"the outbox begins at {header.outbox_first}, the next number is {shard.outbox_next}",
        )
    if not 0 <= header.outbox_count <= MAX_OUTBOX_ENTRIES:
        raise Rejected(Code.BAD_OUTBOX, f"an outbox has 0 to {MAX_OUTBOX_ENTRIES} entries")
    if (header.outbox_count == 0) != (header.outbox_root == EMPTY_LIST_ROOT):
        raise Rejected(Code.BAD_OUTBOX, "the outbox root does not match the number of entries")


def _check_blocks(rules: BatchRules, shard: ShardLeaf, post: PostBatch) -> list[OrderedBlock]:
    """The ordered blocks of the batch, after checking that they are the log's next ones."""
    header = post.header
    count = header.last_block - header.first_block + 1
    if not 1 <= count <= MAX_BATCH_BLOCKS:
        raise _bad(f"a batch has 1 to {MAX_BATCH_BLOCKS} blocks, not {count}")
    try:
        blocks = decode_blocks(expand(post.data))
    except Rejected as error:
        raise _bad(f"the batch data is no list of ordered blocks: {error.text}") from None
    if len(blocks) != count:
        raise _bad(f"the batch data holds {len(blocks)} blocks, its header claims {count}")
    parent_id = shard.last_block_id
    for height, block in enumerate(blocks, header.first_block):
        found = block.header
        if found.chain_id != rules.sequencers.chain_id or found.height != height:
            raise _bad(f"block {found.height} stands in the place of block {height} of the log")
        if found.parent_id != parent_id:
            raise _bad(f"block {height} does not continue the log")
        if found.payload_hash != payload_hash(block.payload):
            raise _bad(f"the payload of block {height} is not the one that its header names")
        parent_id = found.block_id()
    if parent_id != header.last_block_id:
        raise _bad("the last block's id is not the one that the batch names")
    if list_root([encode(block) for block in blocks]) != header.data_root:
        raise _bad("the data root does not belong to the data")
    verify_certificate(rules.sequencers, blocks[-1].header, post.certificate)
    return blocks


def _inbox_after(
    shard: ShardLeaf,
    blocks: list[OrderedBlock],
    limit: int,
    ledger_height: int,
    entries_at: Callable[[int], int],
) -> tuple[int, int]:
    """Inbox height and cursor after the blocks; both are monotone."""
    height, cursor = shard.inbox_height, shard.inbox_cursor
    for block in blocks:
        try:
            named = block_inbox_height(block.payload, height)
        except Rejected as error:
            text = f"the payload of block {block.header.height} does not decode: {error.text}"
            raise _bad(text) from None
        if not height <= named <= ledger_height:
            raise Rejected(
                Code.BAD_INBOX_CURSOR,
                f"block {block.header.height} names ledger height {named}, "
                f"which is not between {height} and {ledger_height}",
            )
        height = named
        cursor = next_cursor(cursor, entries_at(height), limit)
    return height, cursor
