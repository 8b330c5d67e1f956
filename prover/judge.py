"""What decides a dispute: one ordered block, executed on a witness of the state before it.

The step is a whole block and the witness the whole state, so that every phase of the block is
executed exactly. Both sides may have agreed on a root of nonsense: nothing that a witness holds can
do more here than be refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from execution import leaves as lv
from execution.engine import Engine
from protocol.codec import Decoder, encode
from protocol.errors import Code, Rejected, TrilemmaError
from protocol.genesis import CASH_LIMIT, PRICE_LIMIT, SIZE_LIMIT, Chain
from protocol.ledger_leaves import SettledBatch
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from protocol.settlement import MAX_BATCH_DATA_BYTES, InboxEntry
from protocol.tree_proof import decode_tree_proof, verify_proof
from prover.tree import StateTree

MAX_WITNESS_BYTES = MAX_BATCH_DATA_BYTES
"""Most compressed bytes of a witness: it travels in one ledger transaction."""

MAX_WITNESS_EXPANDED_BYTES = 16 * 1024 * 1024
"""Most bytes of a witness's leaves, which bounds what one proof makes every validator do."""

COMPRESSION_LEVEL = 6

Leaves = list[tuple[bytes, bytes]]

_decode_any: Decoder[Any] = Decoder(Any)
_decode_leaves: Decoder[Leaves] = Decoder(Leaves)
decode_ordered_block: Decoder[OrderedBlock] = Decoder(OrderedBlock)


def make_witness(leaves: Leaves) -> bytes:
    """A witness of the state with these leaves, which come in key order; raises
    `Rejected(bad_witness)` where the state is too large to be judged."""
    raw = encode(leaves)
    witness = zlib.compress(raw, COMPRESSION_LEVEL)
    if len(raw) > MAX_WITNESS_EXPANDED_BYTES or len(witness) > MAX_WITNESS_BYTES:
        raise _bad(f"the state of {len(raw)} bytes is too large for a witness")
    return witness


def execute_block(
    chain: Chain,
    pre_root: bytes,
    witness: bytes,
    block: bytes,
    entries: Callable[[int, int], Sequence[InboxEntry]],
    inbox_cursor: int,
) -> bytes:
    """State root (32 bytes) after an encoded `OrderedBlock`.

    `entries(first, end)`: inbox entries of the ledger; `inbox_cursor`: how many are taken in after
    the block. Raises `Rejected(bad_witness)` where the witness is not of `pre_root`, or of no state
    that the block can be executed on.
    """
    leaves = _open_witness(witness)
    try:
        tree = StateTree(leaves)
    except TrilemmaError as error:
        raise _bad(f"the witness is no set of leaves: {error}") from None
    if tree.root != pre_root:
        raise _bad("the witness is of another state than the one agreed on")
    ordered = decode_ordered_block(block)
    payload = decode_payload(ordered.payload) if ordered.payload else OrderedPayload(0, [])
    header = ordered.header
    try:
        _require_bounds(leaves)
        engine = Engine.restore(chain, leaves)
    except Exception as error:
        raise _bad(f"the leaves form no state: {error!r}") from None
    first = engine.inbox_cursor
    if not first <= inbox_cursor <= first + chain.genesis.limits.inbox_per_block:
        raise _bad("the state has another place in the inbox than the block")
    taken = entries(first, inbox_cursor)
    try:
        result = engine.apply(
            header.height, header.time_ms, header.block_id(), taken, inbox_cursor, payload.batches
        )
        return tree.update(result.changes)
    except Exception as error:
        # No state that the engine made does this: whoever agreed on such a root made it up, and
        # whatever breaks on it is his fault, not ours.
        raise _bad(f"the state cannot be executed: {error!r}") from None


def contradiction_keys(settled: SettledBatch) -> list[bytes]:
    """Leaves of the state after a batch by which what was posted with it is told from a lie."""
    markets = range(len(settled.prices))
    return [
        lv.COUNTERS_KEY, *map(lv.market_key, markets), *map(lv.pricing_key, markets),
    ]  # fmt: skip


def contradicts(settled: SettledBatch, proof: bytes) -> bool:
    """Whether what was posted of a batch is other than its own post-state root says: inbox and
    outbox, and where there are native checks the marks and funding indices.

    `proof`: the encoded `TreeProof` of `contradiction_keys` under that root; one without counters
    or a market is of no state. Raises `Rejected` for what is no such proof.
    """
    header, keys = settled.header, contradiction_keys(settled)
    shown = verify_proof(header.post_state_root, decode_tree_proof(proof), keys)
    try:
        if any(_prices(shown, number) != one for number, one in enumerate(settled.prices)):
            return True
    except Rejected:
        return True
    raw = shown[lv.COUNTERS_KEY]
    if raw is None:
        return True
    try:
        counters = lv.decode_counters(raw)
    except Rejected:
        return True
    return (counters.next_outbox, counters.inbox_cursor, counters.outbox_hash) != (
        header.outbox_first + header.outbox_count, header.inbox_cursor, settled.outbox_hash
    )  # fmt: skip


def _prices(shown: Mapping[bytes, bytes | None], number: int) -> tuple[int, int] | None:
    """Mark and funding index of a market; None where it is not there. Raises `Rejected`."""
    market, row = shown[lv.market_key(number)], shown[lv.pricing_key(number)]
    if market is None:
        return None
    index = 0 if row is None else lv.decode_pricing(row).funding_index
    return lv.decode_market(market).mark_ticks, index


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_WITNESS, text)


def _require_bounds(leaves: Leaves) -> None:
    """Raise `Rejected` for numbers that no state has: where the engine is compiled, some are
    machine words, and all ledgers must see the same thing happen on made-up ones too."""
    for key, value in leaves:
        numbers = [_decode_any(value)]
        for one in numbers:
            if isinstance(one, list):
                numbers.extend(one)
            elif isinstance(one, int) and not -CASH_LIMIT < one < CASH_LIMIT:
                raise _bad(f"leaf {key.hex()} has a number out of range")
        kind = key[:1]
        if kind == lv.ORDER:
            _, _, price_ticks, order_id = lv.parse_order_key(key)
            lots = lv.decode_order(value).remaining_lots
            fits = 0 < price_ticks < PRICE_LIMIT and 0 < lots < SIZE_LIMIT
            if not fits or not 0 < order_id < CASH_LIMIT:
                raise _bad(f"order {key.hex()} is out of range")
        elif kind == lv.MARKET:
            market = lv.decode_market(value)
            prices = (market.mark_ticks, market.oracle_ticks, market.last_ticks)
            if not all(0 <= one < PRICE_LIMIT for one in prices):
                raise _bad(f"market {key.hex()} has a price out of range")


def _open_witness(witness: bytes) -> Leaves:
    if len(witness) > MAX_WITNESS_BYTES:
        raise _bad(f"a witness has at most {MAX_WITNESS_BYTES} bytes")
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(witness, MAX_WITNESS_EXPANDED_BYTES + 1)
    except zlib.error as error:
        raise _bad(f"the witness is not zlib: {error}") from None
    if len(raw) > MAX_WITNESS_EXPANDED_BYTES:
        raise _bad(f"the witness expands beyond {MAX_WITNESS_EXPANDED_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise _bad("the witness is cut short or has bytes behind its end")
    try:
        return _decode_leaves(raw)
    except Rejected as error:
        raise _bad(f"the witness is no list of leaves: {error.text}") from None
