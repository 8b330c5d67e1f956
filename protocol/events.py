"""Results and events of execution, as subscribers receive them.

Every event has a sequence number, counted over the whole life of the shard without gap. A block's
events travel together.
"""

from __future__ import annotations

from typing import Final

from protocol.codec import Decoder, Wire

NONE: Final = 0
RESTING: Final = 1
FILLED: Final = 2
CANCELLED: Final = 3
WAITING: Final = 4
"""Status of the order an action was about: none, resting, filled, its rest cancelled, or waiting
(a trigger or TWAP)."""

REASON_CANCELLED: Final = 1
REASON_REDUCED: Final = 2
REASON_MARGIN: Final = 3
REASON_SELF_TRADE: Final = 4
REASON_REDUCE_ONLY: Final = 5
REASON_EXPIRED: Final = 6
REASON_LINKED: Final = 7
REASON_PROTECTION: Final = 8
REASON_DEAD_MAN: Final = 9
REASON_LIQUIDATION: Final = 10
REASON_MARKET_CLOSED: Final = 11
REASON_REPLACED: Final = 12
REASON_FIRED: Final = 13
REASON_DONE: Final = 14
REASON_REFUSED: Final = 15
REASON_UNBACKED: Final = 16
"""Why an order, trigger or TWAP changed without a fill. 1: its owner cancelled it, 2: or made it
smaller; 3: no margin left to fill it; 4: self-trade prevention; 5: reduce-only, and the position
shrank; 6: expired; 7: the order it was linked with filled, fired or went; 8: market-maker
protection; 9: dead-man's switch; 10: its account is liquidated; 11: the market closed; 12: modified
or quoted anew; 13: the trigger fired; 14: a TWAP has run its time or size; 15: what a trigger
entered was refused; 16: nothing stood behind the trigger any more, neither margin nor something to
reduce."""

LIQUIDATION_ORDER: Final = 0
LIQUIDATION_BACKSTOP: Final = 1
LIQUIDATION_DELEVERAGED: Final = 2
"""How a liquidated position was closed: by an order in the book, by the backstop, by
deleveraging."""


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
    """Two orders met at the maker's price. Fees are charged to each side; negative is a rebate.

    `liquidation`: the system closed a position of the taker; its fee went to the insurance fund.
    """

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
    liquidation: bool = False


class OrderOpened(Wire, frozen=True, tag=3):
    """An order rests in the book with this much left."""

    market: int
    order_id: int
    account: int
    client_id: int
    side: int
    price_ticks: int
    size_lots: int
    flags: int = 0
    expires_ms: int = 0


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
    """An account was debited by `amount_uusd` and `haircut_uusd`; the ledger will pay the amount as
    outbox entry `number`. The haircut is the withdrawal's share of open bad debt."""

    number: int
    account: int
    address: bytes
    amount_uusd: int
    haircut_uusd: int = 0


class AgentChanged(Wire, frozen=True, tag=8):
    """An agent key was approved until `expires_ms`, or revoked (0)."""

    account: int
    agent: bytes
    expires_ms: int


class MarketChanged(Wire, frozen=True, tag=9):
    """The mode in force of a market changed, or whether its prices are stale."""

    market: int
    mode: int
    stale: bool


class TriggerOpened(Wire, frozen=True, tag=10):
    """A trigger waits. `size_lots` is 0 while it is the exit of a bracket that has no fill yet."""

    market: int
    trigger_id: int
    account: int
    client_id: int
    side: int
    kind: int
    trigger_ticks: int
    limit_ticks: int
    slippage_ppm: int
    size_lots: int
    flags: int
    expires_ms: int
    link: int


class TriggerChanged(Wire, frozen=True, tag=11):
    """A trigger grew with its bracket (`reason` 0), or is gone (`size_lots` 0) with this reason."""

    market: int
    trigger_id: int
    account: int
    size_lots: int
    reason: int


class TriggerFired(Wire, frozen=True, tag=12):
    """A trigger fired at this mark; `result` is that of the order it entered."""

    market: int
    trigger_id: int
    account: int
    mark_ticks: int
    result: Result


class TwapChanged(Wire, frozen=True, tag=13):
    """A TWAP began (`done_lots` 0), filled a slice, or ended (`reason` not 0)."""

    market: int
    twap_id: int
    account: int
    side: int
    size_lots: int
    done_lots: int
    reason: int


class FundingRate(Wire, frozen=True, tag=14):
    """A funding payment fell due: rate of it in parts per billion of the oracle notional, and the
    index after it (thousandths of a micro-dollar that one long lot has paid since genesis)."""

    market: int
    rate_ppb: int
    index: int


class FundingPaid(Wire, frozen=True, tag=15):
    """Funding of a position was settled: the account received this (negative: paid)."""

    account: int
    market: int
    size_lots: int
    amount_uusd: int


class Expired(Wire, frozen=True, tag=16):
    """A dated future settled at this price; positions follow as their accounts are touched."""

    market: int
    price_ticks: int


class PositionSettled(Wire, frozen=True, tag=17):
    """A position in an expired market was exchanged for its worth."""

    account: int
    market: int
    size_lots: int
    amount_uusd: int


class Transferred(Wire, frozen=True, tag=18):
    """Cash moved between accounts of one master or to a fund; or a position (`size_lots` not 0),
    for which the giver received `amount_uusd`, its cost."""

    from_account: int
    to_account: int
    amount_uusd: int
    market: int
    size_lots: int


class SettingChanged(Wire, frozen=True, tag=19):
    """An account's leverage cap and market-maker protection in a market (0: none)."""

    account: int
    market: int
    leverage: int
    protection_fills: int
    protection_window_ms: int


class DeadManSet(Wire, frozen=True, tag=20):
    """A dead-man's switch was set for this time, switched off (0), or went off (`fired`)."""

    account: int
    time_ms: int
    fired: bool


class LiquidationBegun(Wire, frozen=True, tag=21):
    """An account fell below maintenance: equity, margin and the number of accounts waiting."""

    account: int
    equity_uusd: int
    maintenance_uusd: int
    waiting: int


class LiquidationEnded(Wire, frozen=True, tag=22):
    """An account is no longer below maintenance."""

    account: int
    equity_uusd: int
    maintenance_uusd: int


class Receipt(Wire, frozen=True, tag=23):
    """Receipt `number` of a liquidation step; receipts are counted from 0 over the shard's life.

    `kind`: `LIQUIDATION_ORDER`, `_BACKSTOP` or `_DELEVERAGED`. The account's equity and maintenance
    margin are those before the step, `rank` its place among those below maintenance (0: first).
    `size_lots`: signed change of the position. `amount_uusd`: what the account received for the
    size, fee excluded. `price_ticks`: zero price of an order (0 where priced in cash).
    `insurance_uusd`: what the insurance fund received (negative: paid). For a counterparty of a
    deleveraging `account` is the counterparty, `of_account` the liquidated one, `rank` the place
    by profit, and `share_uusd` its part of the shortfall. Without lots a deleveraging is one of
    cash: what the last counterparties could not carry, or a debt that has no position (market 0).
    """

    number: int
    kind: int
    height: int
    account: int
    of_account: int
    market: int
    size_lots: int
    mark_ticks: int
    price_ticks: int
    amount_uusd: int
    equity_uusd: int
    maintenance_uusd: int
    rank: int
    insurance_uusd: int
    share_uusd: int


class BadDebt(Wire, frozen=True, tag=24):
    """Nobody could carry this part of a shortfall; `total_uusd` is all that is open, and cuts every
    withdrawal alike until it is made good."""

    account: int
    amount_uusd: int
    total_uusd: int


Event = (
    BatchExecuted | Fill | OrderOpened | OrderChanged | MarkChanged
    | Deposited | WithdrawalQueued | AgentChanged | MarketChanged
    | TriggerOpened | TriggerChanged | TriggerFired | TwapChanged | FundingRate | FundingPaid
    | Expired | PositionSettled | Transferred | SettingChanged | DeadManSet
    | LiquidationBegun | LiquidationEnded | Receipt | BadDebt
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
