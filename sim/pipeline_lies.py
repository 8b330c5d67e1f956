"""Batches that a lying prover posts: none of them is what was ordered."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from protocol.batch_data import pack_blocks, unpack_blocks
from protocol.codec import encode
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock
from protocol.settlement import PostBatch

Lie = Callable[[PostBatch], PostBatch]


def _with_blocks(post: PostBatch, blocks: list[OrderedBlock]) -> PostBatch:
    """The posting over other blocks, with everything that hashes them put right."""
    header = replace(post.header, data_root=list_root([encode(block) for block in blocks]))
    return replace(post, header=header, data=pack_blocks(blocks))


def _blocks(post: PostBatch) -> list[OrderedBlock]:
    return unpack_blocks(post.data)


def _payload(post: PostBatch) -> PostBatch:
    blocks = _blocks(post)
    blocks[-1] = OrderedBlock(blocks[-1].header, blocks[-1].payload + b"\x00")
    return _with_blocks(post, blocks)


def _own_block(post: PostBatch) -> PostBatch:
    """A block of its own making at the end, under the certificate of the right one."""
    blocks = _blocks(post)
    header = replace(blocks[-1].header, time_ms=blocks[-1].header.time_ms + 1)
    blocks[-1] = OrderedBlock(header, blocks[-1].payload)
    lie = _with_blocks(post, blocks)
    return replace(lie, header=replace(lie.header, last_block_id=header.block_id()))


def _withheld(post: PostBatch) -> PostBatch:
    return _with_blocks(post, _blocks(post)[:-1])


def _nothing(post: PostBatch) -> PostBatch:
    return replace(post, data=b"")


def _garbage(post: PostBatch) -> PostBatch:
    return replace(post, data=post.data[: len(post.data) // 2])


def _cursor(post: PostBatch) -> PostBatch:
    return replace(post, header=replace(post.header, inbox_cursor=post.header.inbox_cursor + 1))


def _number(post: PostBatch) -> PostBatch:
    return replace(post, header=replace(post.header, number=post.header.number + 1))


def _pre_state(post: PostBatch) -> PostBatch:
    return replace(post, header=replace(post.header, pre_state_root=bytes(32)))


def _outbox(post: PostBatch) -> PostBatch:
    return replace(post, header=replace(post.header, outbox_first=post.header.outbox_first + 1))


def _certificate(post: PostBatch) -> PostBatch:
    """A single quorum certificate in the place of the pair."""
    proof = post.certificate
    return replace(post, certificate=replace(proof, child_qc=proof.qc))


LIES: list[tuple[str, Lie]] = [
    ("payload", _payload), ("own_block", _own_block), ("withheld", _withheld),
    ("nothing", _nothing), ("garbage", _garbage), ("cursor", _cursor), ("number", _number),
    ("pre_state", _pre_state), ("outbox", _outbox), ("certificate", _certificate),
]  # fmt: skip
"""Name and lie; each of them breaks a rule that the ledger checks."""
