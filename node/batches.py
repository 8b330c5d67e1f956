"""What the ledger checks of a batch before it settles: that it is exactly what was ordered.

The data must unpack, within bounds, to consecutive ordered blocks that continue the shard's log;
 the last one must carry a commit certificate of the sequencers. Roots,
cursor and counters must follow from the data and from the shard's last batch. Whether the roots are
those of a right execution is not checked here: that is what disputes are for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from consensus.members import MemberSet
from consensus.verify import verify_certificate
from protocol.batch_data import unpack_blocks
from protocol.chain import payload_hash
from protocol.codec import encode
from protocol.dispute import step_leaf
from protocol.errors import Code, Rejected
from protocol.genesis import CASH_MOVE_LIMIT
from protocol.inbox import block_inbox_height, next_cursor
from protocol.ledger_leaves import ShardLeaf
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock
from protocol.settlement import (
    BatchHeader,
    PostBatch,
    extend_outbox_hash,
)

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


class CheckedBatch(NamedTuple):
    """The shard after a batch, the root of its steps for disputes, its ordered blocks, and the
    inbox cursor after each of them."""

    after: ShardLeaf
    steps_root: bytes
    blocks: list[OrderedBlock]
    cursors: list[int]


def check_batch(
    rules: BatchRules,
    shard: ShardLeaf,
    post: PostBatch,
    signer: bytes,
    *,
    ledger_height: int,
    entries_at: Callable[[int], int],
) -> CheckedBatch:
    """What a batch says of the shard; raises `Rejected` with the code of the rule that it breaks.

    `ledger_height`: height of the ledger block that holds the batch; `entries_at(height)`: inbox
    entries that came up to a ledger height.
    """
    header = post.header
    _check_place(rules, shard, header, signer)
    outbox_hash = _check_outbox(shard, post)
    blocks = _check_blocks(rules, shard, post)
    inbox_height, cursors = _inbox_after(
        shard, blocks, rules.inbox_per_block, ledger_height, entries_at
    )
    cursor = cursors[-1]
    if header.inbox_cursor != cursor:
        raise Rejected(
            Code.BAD_INBOX_CURSOR,
            f"the batch claims inbox cursor {header.inbox_cursor}, its blocks lead to {cursor}",
        )
    ids = [*(block.header.parent_id for block in blocks[1:]), header.last_block_id]
    steps = [
        step_leaf(block_id, (before, after_it))
        for block_id, before, after_it in zip(
            ids, [shard.inbox_cursor, *cursors[:-1]], cursors, strict=True
        )
    ]
    after = ShardLeaf(
        batch=header.number,
        last_block=header.last_block,
        last_block_id=header.last_block_id,
        state_root=header.post_state_root,
        inbox_height=inbox_height,
        inbox_cursor=cursor,
        outbox_next=header.outbox_first + header.outbox_count,
        funds_uusd=shard.funds_uusd,
        outbox_hash=outbox_hash,
    )
    return CheckedBatch(after, list_root(steps), blocks, cursors)


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


def _check_outbox(shard: ShardLeaf, post: PostBatch) -> bytes:
    """The running hash of the shard's outbox with the batch's entries, which are the next ones."""
    header = post.header
    if header.outbox_first != shard.outbox_next:
        raise Rejected(
            Code.BAD_OUTBOX,
            f"the outbox begins at {header.outbox_first}, the next number is {shard.outbox_next}",
        )
    if not 0 <= header.outbox_count <= MAX_OUTBOX_ENTRIES:
        raise Rejected(Code.BAD_OUTBOX, f"an outbox has 0 to {MAX_OUTBOX_ENTRIES} entries")
    if len(post.outbox) != header.outbox_count:
        raise Rejected(
            Code.BAD_OUTBOX,
            f"{len(post.outbox)} outbox entries came, the header names {header.outbox_count}",
        )
    if list_root([encode(entry) for entry in post.outbox]) != header.outbox_root:
        raise Rejected(Code.BAD_OUTBOX, "the outbox root is not that of the entries")
    running = shard.outbox_hash
    for number, entry in enumerate(post.outbox, header.outbox_first):
        if entry.number != number:
            raise Rejected(
                Code.BAD_OUTBOX, f"outbox entry {entry.number} stands in the place of {number}"
            )
        running = extend_outbox_hash(running, entry)
    return running


def _check_blocks(rules: BatchRules, shard: ShardLeaf, post: PostBatch) -> list[OrderedBlock]:
    """The ordered blocks of the batch, after checking that they are the log's next ones."""
    header = post.header
    count = header.last_block - header.first_block + 1
    if not 1 <= count <= MAX_BATCH_BLOCKS:
        raise _bad(f"a batch has 1 to {MAX_BATCH_BLOCKS} blocks, not {count}")
    try:
        blocks = unpack_blocks(post.data)
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
) -> tuple[int, list[int]]:
    """Inbox height after the blocks, and the cursor after each; both are monotone."""
    height, cursor = shard.inbox_height, shard.inbox_cursor
    cursors: list[int] = []
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
        cursors.append(cursor)
    return height, cursors
