"""Results and events of execution, as subscribers receive them.

Every event has a sequence number, counted over the whole life of the shard without gap. A block's
events travel together.
"""

from __future__ import annotations

from protocol.codec import Decoder, Wire

NONE = 0
RESTING = 1
FILLED = 2
CANCELLED = 3
"""Status of the order an action was about: none, resting, filled, or its rest cancelled."""

REASON_CANCELLED = 1
REASON_REDUCED = 2
REASON_MARGIN = 3
"""Why a resting order changed without a fill: its owner, or no margin left to fill it."""


class Result(Wire, frozen=True):
    """Result of one action of a batch.

    `code` is a `protocol.errors.Code`; the order fields are 0 where no order is concerned. For a
    withdrawal `order_id` carries the outbox number.
    """

    code: int
    status: int = NONE
    order_id: int = 0
    filled_lots: int = 0
    remaining_lots: int = 0


class BatchExecuted(Wire, frozen=True, tag=1):
    """A signed batch was executed, or refused as a whole with `code` (then no results).

    `duplicate`: it was executed before and these are its first results.
    """

    account: int
    signer: bytes
    nonce_ms: int
    code: int
    results: list[Result]
    duplicate: bool = False


class Fill(Wire, frozen=True, tag=2):
    """Two orders met at the maker's price. Fees are charged to each side; negative is a rebate."""

    market: int
    price_ticks: int
    size_lots: int
    maker_account: int
    maker_order: int
    taker_account: int
    taker_order: int
    taker_side: int
    maker_fee_uusd: int
    taker_fee_uusd: int


class OrderOpened(Wire, frozen=True, tag=3):
    """An order rests in the book with this much left."""

    market: int
    order_id: int
    account: int
    client_id: int
    side: int
    price_ticks: int
    size_lots: int


class OrderChanged(Wire, frozen=True, tag=4):
    """A resting order shrank without a fill; at `remaining_lots` 0 it is gone."""

    market: int
    order_id: int
    account: int
    side: int
    price_ticks: int
    remaining_lots: int
    reason: int


class MarkChanged(Wire, frozen=True, tag=5):
    """The mark of a market for this block."""

    market: int
    mark_ticks: int


class Deposited(Wire, frozen=True, tag=6):
    """An inbox deposit was credited."""

    index: int
    account: int
    address: bytes
    amount_uusd: int


class WithdrawalQueued(Wire, frozen=True, tag=7):
    """An account was debited; the ledger will pay outbox entry `number`."""

    number: int
    account: int
    address: bytes
    amount_uusd: int


class AgentChanged(Wire, frozen=True, tag=8):
    """An agent key was approved until `expires_ms`, or revoked (0)."""

    account: int
    agent: bytes
    expires_ms: int


Event = (
    BatchExecuted | Fill | OrderOpened | OrderChanged | MarkChanged
    | Deposited | WithdrawalQueued | AgentChanged
)  # fmt: skip


class BlockEvents(Wire, frozen=True):
    """Events of one block. `seqs` gives each event's number where the subscriber filters;
    empty, they are `first_seq`, `first_seq` + 1, and so on. `next_seq` follows the last event of
    the block, whether or not it was for this subscriber."""

    height: int
    time_ms: int
    first_seq: int
    next_seq: int
    seqs: list[int]
    events: list[Event]


class BlockDiff(Wire, frozen=True):
    """State change of one block: leaves written, and removed (value None), and what settles."""

    height: int
    block_id: bytes
    inbox_cursor: int
    changes: list[tuple[bytes, bytes | None]]
    outbox: list[bytes]
    actions: int


decode_block_events: Decoder[BlockEvents] = Decoder(BlockEvents, canonical=False)
decode_block_diff: Decoder[BlockDiff] = Decoder(BlockDiff, canonical=False)
