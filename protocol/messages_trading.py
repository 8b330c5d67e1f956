"""Messages of the public port of execution: accounts, orders, events."""

from __future__ import annotations

from protocol.actions import MarketOrder, Order
from protocol.codec import Wire

KIND_ORDER = 0
KIND_TRIGGER = 1
KIND_TWAP = 2
"""What an id stands for."""

FIRED = 5
"""Status of a trigger that has entered its order; the others stand in `protocol.events`."""


# --- requests


class SubscribeEvents(Wire, frozen=True, tag=10):
    """Stream events from `from_seq` on (0: from now on). With `accounts` empty, all events;
    otherwise those that concern one of the accounts, and what concerns everybody: marks, modes,
    funding rates, expiries and bad debt."""

    request_id: int
    from_seq: int
    accounts: list[int]


class SubscribeDiffs(Wire, frozen=True, tag=11):
    """Stream state diffs of blocks from `from_height` on."""

    request_id: int
    from_height: int


class AccountRequest(Wire, frozen=True, tag=12):
    """Ask for an account by number, or by address where `account` is 0."""

    request_id: int
    account: int
    address: bytes


class ResultRequest(Wire, frozen=True, tag=14):
    """Ask for the kept result of a signer's nonce."""

    request_id: int
    signer: bytes
    nonce_ms: int


class OrdersRequest(Wire, frozen=True, tag=15):
    """Ask for an account's resting orders."""

    request_id: int
    account: int


class OrderStatusRequest(Wire, frozen=True, tag=19):
    """Ask what became of an order, a trigger or a TWAP: by its id, or where that is 0 by the client
    id that `account` gave it (the newest with that id).

    Refused with unknown_order where there never was one, not_retained where it may have been
    forgotten: only the last so many that have ended are kept.
    """

    request_id: int
    order_id: int
    account: int
    client_id: int


class MarginRequest(Wire, frozen=True, tag=30):
    """Ask for the margin report of an account; `ranks`: with its places for deleveraging."""

    request_id: int
    account: int
    ranks: bool = False


class PreviewRequest(Wire, frozen=True, tag=31):
    """Ask what an order would do if it were executed now; nothing is done."""

    request_id: int
    account: int
    action: Order | MarketOrder


class StandingRequest(Wire, frozen=True, tag=35):
    """Ask for what stands for an account beside its resting orders: triggers, TWAPs, dead-man's
    switch and settings; and for its master's accounts."""

    request_id: int
    account: int


# --- answers and pushes


class EventsPush(Wire, frozen=True, tag=70):
    """Push: encoded `BlockEvents`."""

    request_id: int
    block: bytes


class DiffPush(Wire, frozen=True, tag=71):
    """Push: encoded `BlockDiff`."""

    request_id: int
    diff: bytes


class PositionView(Wire, frozen=True):
    """A position: signed size, signed cost, mark, and margin in micro-dollars.

    `funding_uusd`: unsettled funding, received above 0. `leverage`: the account's cap (0: none).
    `liquidation_ticks`: the last mark at which the account is not liquidated while all others
    stand still (0: none). `stale`: the market's prices are stale or wild.
    """

    market: int
    size_lots: int
    cost_uusd: int
    mark_ticks: int
    unrealised_uusd: int
    initial_margin_uusd: int
    maintenance_margin_uusd: int = 0
    funding_uusd: int = 0
    leverage: int = 0
    liquidation_ticks: int = 0
    stale: bool = False


class AccountView(Wire, frozen=True, tag=72):
    """An account as execution sees it now."""

    request_id: int
    account: int
    address: bytes
    cash_uusd: int
    equity_uusd: int
    initial_margin_uusd: int
    maintenance_margin_uusd: int
    open_orders: int
    positions: list[PositionView]
    height: int


class ResultView(Wire, frozen=True, tag=74):
    """A kept result: an encoded `BatchExecuted`."""

    request_id: int
    event: bytes


class OrdersView(Wire, frozen=True, tag=75):
    """Resting orders: (market, order_id, client_id, side, price_ticks, remaining_lots)."""

    request_id: int
    orders: list[tuple[int, int, int, int, int, int]]


class OrderStatusView(Wire, frozen=True, tag=79):
    """What became of an order, a trigger or a TWAP.

    `kind`: `KIND_ORDER`, ...; `status`: see `protocol.events`, and `FIRED`; `code` is not 0 where
    it was refused, `reason` says why it changed last without a fill (`protocol.events`).
    `price_ticks`: the limit of an order (0: market), the trigger of a trigger. `size_lots`: as
    asked for. `filled_ticks_lots`: sum of price x size over its fills, which gives the average
    price. `replaces` and `replaced_by`: ids of what it was modified from and to, and of a trigger
    and the order that it entered (0: none). Times are those of blocks.
    """

    request_id: int
    order_id: int
    kind: int
    account: int
    client_id: int
    market: int
    side: int
    price_ticks: int
    size_lots: int
    filled_lots: int
    filled_ticks_lots: int
    remaining_lots: int
    status: int
    code: int
    reason: int
    flags: int
    replaces: int
    replaced_by: int
    opened_ms: int
    changed_ms: int
    height: int


class MarginPosition(Wire, frozen=True):
    """A position, or resting orders alone (`size_lots` 0), as `execution.report` has them.

    `entry_ticks`: average entry, rounded against the account. `liquidation_ticks`: the last mark at
    which the account is not below maintenance while all others stand still (0: none). `rank` of
    `ranked`: place among the positions of its side by which they would take over positions of the
    other side, 0 first (`ranked` 0: not asked for).
    """

    market: int
    size_lots: int
    cost_uusd: int
    entry_ticks: int
    mark_ticks: int
    notional_uusd: int
    unrealised_uusd: int
    funding_uusd: int
    initial_margin_uusd: int
    maintenance_margin_uusd: int
    leverage: int
    liquidation_ticks: int
    stale: bool
    rank: int
    ranked: int


class MarginFigures(Wire, frozen=True):
    """An account as margin sees it, funding that is due included.

    `equity_uusd` counts positions in stale markets at the unfavourable end of their band,
    `liquidation_equity_uusd` at the favourable one: below maintenance the account is liquidated.
    `free_uusd`: left for new risk. `withdrawable_uusd`: before any cut for open bad debt.
    """

    cash_uusd: int
    equity_uusd: int
    initial_margin_uusd: int
    maintenance_margin_uusd: int
    liquidation_equity_uusd: int
    free_uusd: int
    withdrawable_uusd: int
    positions: list[MarginPosition]


class MarginView(Wire, frozen=True, tag=94):
    """Margin report of an account. `distressed_ms`: since when it is below maintenance (0: it is
    not)."""

    request_id: int
    account: int
    height: int
    distressed_ms: int
    figures: MarginFigures


class PreviewView(Wire, frozen=True, tag=95):
    """What an order would do: its result as `protocol.events.Result`, the sum of price x size of
    its fills, its fees (negative: rebates), and the account before and after."""

    request_id: int
    account: int
    height: int
    code: int
    status: int
    filled_lots: int
    filled_ticks_lots: int
    remaining_lots: int
    fees_uusd: int
    before: MarginFigures
    after: MarginFigures


class TriggerView(Wire, frozen=True):
    """A waiting trigger; as `protocol.actions.TriggerOrder`. `link`: id of what goes with it.
    `parent`: the bracket's order that it waits for. `best_ticks`: best mark of a trailing one."""

    market: int
    trigger_id: int
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
    parent: int
    best_ticks: int


class TwapView(Wire, frozen=True):
    """A running TWAP; as `protocol.actions.Twap`."""

    market: int
    twap_id: int
    client_id: int
    side: int
    size_lots: int
    done_lots: int
    flags: int
    began_ms: int
    duration_ms: int


class StandingView(Wire, frozen=True, tag=93):
    """What stands for an account. `settings`: (market, leverage, protection_fills,
    protection_window_ms). `dead_man_ms` 0: no switch is set; `dead_man_fired`: how often it went
    off on the UTC day of the last block. `accounts`: all accounts of the same master."""

    request_id: int
    account: int
    height: int
    triggers: list[TriggerView]
    twaps: list[TwapView]
    settings: list[tuple[int, int, int, int]]
    dead_man_ms: int
    dead_man_fired: int
    accounts: list[int]
