"""The real engine of a stress run: its chain, its first state, and what each block did.

Everything here is read from a block's public result, its events and the leaves that it changed, so
the money that is counted is what the state root stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from execution import Engine
from execution import leaves as lv
from margin.linear import LinearPerpetual, MarginRates
from protocol.actions import (
    BUY,
    REDUCE_ONLY,
    SELL,
    STOP,
    Action,
    ActionBatch,
    SignedBatch,
    TriggerOrder,
)
from protocol.codec import encode
from protocol.errors import SafetyViolation
from protocol.events import (
    REASON_LIQUIDATION,
    BatchExecuted,
    Event,
    LiquidationBegun,
    LiquidationEnded,
    OrderChanged,
    Receipt,
)
from protocol.genesis import (
    Chain,
    Genesis,
    Identity,
    Limits,
    Liquidation,
    MarginTier,
    MarketConfig,
    Pace,
    parse_genesis,
)
from protocol.keys import address_of
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    INSURANCE_ACCOUNT,
    account_number,
)
from sim.stress_population import DOLLAR, Population

TICK_UUSD = 100_000
LOT_MICRO = 100
"""A tick is ten cents and a lot a ten-thousandth of a coin."""
INITIAL_PPM = 20_000
MAINTENANCE_PPM = 10_000
TIERS = (
    MarginTier(2_000_000 * DOLLAR, 50_000, 25_000),
    MarginTier(10_000_000 * DOLLAR, 100_000, 50_000),
)
ORACLES = tuple(bytes((0xE0 + number,)) * 32 for number in range(3))
UNSIGNED = bytes(64)
STOP_SLIPPAGE_PPM = 50_000
ENDLESS_ITEMS = 10_000_000


class Funds(NamedTuple):
    """Insurance fund and backstop at the start, and what the backstop may hold."""

    insurance_uusd: int
    backstop_uusd: int
    backstop_lots: int


def product() -> LinearPerpetual:
    """The product of the market."""
    rates = MarginRates(INITIAL_PPM, MAINTENANCE_PPM)
    return LinearPerpetual(TICK_UUSD * LOT_MICRO // 1_000_000, rates, TIERS)


def signer(account: int) -> bytes:
    """Public key of an account's owner; signatures count as valid."""
    return account.to_bytes(32, "big")


def signed(
    account: int, nonce_ms: int, actions: Sequence[Action], key: bytes | None = None
) -> bytes:
    """An encoded batch."""
    body = encode(ActionBatch(account, nonce_ms, 0, list(actions)))
    return encode(SignedBatch(1, signer(account) if key is None else key, body, UNSIGNED))


def make_chain(
    time_ms: int,
    price_ticks: int,
    staleness_ms: int,
    funds: Funds,
    blocks: int,
    *,
    endless: bool,
) -> Chain:
    """A chain with one market. Each of its blocks stands for so many, and has their budget of
    liquidations; `endless`: any."""
    pace = Pace(20, 100, 1_000, 500, 5_000, 1 << 20)
    peer = Identity("stress", "11" * 32, 1, "00")
    market = MarketConfig(
        0, "BTC-PERP", TICK_UUSD, LOT_MICRO, INITIAL_PPM, MAINTENANCE_PPM,
        taker_fee_ppm=400, maker_fee_ppm=0, min_notional_uusd=0, max_order_lots=50_000_000,
        max_position_lots=100_000_000, initial_price_ticks=price_ticks, margin_tiers=list(TIERS),
        impact_notional_uusd=20_000 * DOLLAR, oracle_age_ms=staleness_ms,
        backstop_max_lots=funds.backstop_lots,
    )  # fmt: skip
    limits = Limits()
    items = ENDLESS_ITEMS if endless else limits.liquidation_items_per_block * blocks
    limits = replace(limits, liquidation_items_per_block=items)
    genesis = Genesis(
        "stress", time_ms, 0, [peer], [peer], [], [key.hex() for key in ORACLES], [market], [],
        pace, pace, limits, cancels_first=True, liquidation=Liquidation(),
    )  # fmt: skip
    return parse_genesis(msgspec.json.encode(genesis))


def first_leaves(
    chain: Chain,
    time_ms: int,
    price_ticks: int,
    population: Population,
    others: Mapping[int, int],
    funds: Funds,
) -> dict[bytes, bytes]:
    """The state in which a run begins: positions, reserves, the cash of `others`, funds, stops."""
    leaves = Engine(chain).leaves()
    cash = {INSURANCE_ACCOUNT: funds.insurance_uusd, BACKSTOP_ACCOUNT: funds.backstop_uusd}
    owned = dict(others)
    for trader in population.traders:
        owned[trader.account] = trader.cash_uusd
        position = lv.PositionLeaf(trader.size_lots, trader.cost_uusd, 0)
        leaves[lv.position_key(trader.account, 0)] = encode(position)
        if trader.reserve_uusd:
            cash[account_number(trader.account, 1)] = trader.reserve_uusd
    for account, amount in cash.items():
        leaves[lv.account_key(account)] = encode(lv.AccountLeaf(b"", amount))
    for account, amount in owned.items():
        leaf = lv.AccountLeaf(address_of(signer(account)), amount)
        leaves[lv.account_key(account)] = encode(leaf)
    deposits = sum(cash.values()) + sum(owned.values())
    market = lv.decode_market(leaves[lv.market_key(0)])
    market = replace(
        market,
        mark_ticks=price_ticks,
        oracle_ticks=price_ticks,
        open_interest_lots=population.open_interest_lots,
    )
    leaves[lv.market_key(0)] = encode(market)
    leaves[lv.MONEY_KEY] = encode(lv.MoneyLeaf(deposits, 0))
    leaves[lv.CLOCK_KEY] = encode(lv.ClockLeaf(1, time_ms))
    return _with_stops(chain, leaves, time_ms, population)


def _with_stops(
    chain: Chain, leaves: dict[bytes, bytes], time_ms: int, population: Population
) -> dict[bytes, bytes]:
    stops = [trader for trader in population.traders if trader.stop_ticks]
    exchange = Exchange(chain, leaves)
    batches = []
    for trader in stops:
        side = SELL if trader.size_lots > 0 else BUY
        stop = TriggerOrder(
            0, side, abs(trader.size_lots), STOP, trader.stop_ticks,
            slippage_ppm=STOP_SLIPPAGE_PPM, flags=REDUCE_ONLY,
        )  # fmt: skip
        batches.append(signed(trader.account, time_ms, [stop]))
    facts = exchange.apply(time_ms, batches)
    for answer in facts.answers:
        if answer.code or answer.results[0].code:
            raise SafetyViolation(f"a stop of the first state was refused: {answer}")
    return exchange.leaves()


class Facts(NamedTuple):
    """What a block did.

    `holdings`: (size_lots, cash_uusd) of accounts that changed. `handled`: accounts whose turn in
    the liquidation phase came for the first time since they fell below maintenance: what rests was
    cancelled and orders were entered, filled or not. `visits`: accounts that had a turn, `moves`:
    cancels, fills and moves of that phase. `answers`: what became of its batches. `best`: best
    bid and ask after it (0: none).
    """

    time_ms: int
    mark_ticks: int
    mark_moved: bool
    stale: bool
    holdings: dict[int, tuple[int, int]]
    handled: list[int]
    visits: int
    moves: int
    receipts: list[Receipt]
    answers: list[BatchExecuted]
    best: tuple[int, int]


class Exchange:
    """The engine, and a second set of books kept from the leaves that its blocks change."""

    def __init__(self, chain: Chain, leaves: Mapping[bytes, bytes]) -> None:
        self._engine = Engine.restore(chain, leaves.items(), lambda *_: True)
        self._most_items = chain.genesis.limits.liquidation_items_per_block
        self.holdings: dict[int, list[int]] = {}
        """[size_lots, cash_uusd] by account."""
        self.market = lv.decode_market(leaves[lv.market_key(0)])
        self.cash_uusd = 0
        self._distressed: dict[int, None] = {}
        self._unhandled: dict[int, None] = {}
        self._exhausted = False
        self.money = lv.decode_money(leaves[lv.MONEY_KEY])
        self._take(leaves)

    def leaves(self) -> dict[bytes, bytes]:
        """The present state."""
        return self._engine.leaves()

    def state(self) -> dict[int, tuple[int, int]]:
        """(size_lots, cash_uusd) by account."""
        return {account: (size, cash) for account, (size, cash) in self.holdings.items()}

    def apply(self, time_ms: int, batches: Sequence[bytes]) -> Facts:
        """Execute a block. Raises `SafetyViolation` where money is not conserved."""
        engine = self._engine
        before = self.market.mark_ticks
        result = engine.apply(engine.height + 1, time_ms, b"", [], engine.inbox_cursor, batches)
        changed = self._take(result.changes)
        if self.cash_uusd != self.money.deposits_uusd - self.money.withdrawals_uusd:
            raise SafetyViolation(
                f"accounts hold {self.cash_uusd} uUSD, deposits less withdrawals are "
                f"{self.money.deposits_uusd - self.money.withdrawals_uusd}"
            )
        moved = self.market.mark_ticks != before
        return self._facts(time_ms, moved, result.events, changed)

    def _facts(
        self, time_ms: int, moved: bool, events: Iterable[Event], changed: Iterable[int]
    ) -> Facts:
        begun: dict[int, None] = {}
        sold: dict[int, None] = {}
        receipts: list[Receipt] = []
        answers: list[BatchExecuted] = []
        cancels = 0
        for event in events:
            if isinstance(event, BatchExecuted):
                answers.append(event)
            elif isinstance(event, Receipt):
                receipts.append(event)
                sold[event.of_account] = None
            elif isinstance(event, LiquidationBegun):
                begun[event.account] = self._unhandled[event.account] = None
            elif isinstance(event, LiquidationEnded) and event.account not in begun:
                if event.account not in sold:
                    self._unhandled.pop(event.account, None)
            elif isinstance(event, OrderChanged) and event.reason == REASON_LIQUIDATION:
                sold[event.account] = None
                cancels += 1
        # Where the budget was enough, everybody had a turn.
        handled = [one for one in self._unhandled if not self._exhausted or one in sold]
        for account in handled:
            del self._unhandled[account]
        visits = len(dict.fromkeys((*self._distressed, *begun)))
        view = self._engine.book_view(0, 0, 1)
        best = (view.bids[0][0] if view.bids else 0, view.asks[0][0] if view.asks else 0)
        holdings = {}
        for account in changed:
            size, cash = self.holdings[account]
            holdings[account] = (size, cash)
        return Facts(
            time_ms, self.market.mark_ticks, moved, self.market.stale, holdings, handled,
            min(visits, self._most_items), cancels + len(receipts), receipts, answers, best,
        )  # fmt: skip

    def _take(self, changes: Mapping[bytes, bytes | None]) -> dict[int, None]:
        """Follow changed leaves; returns the accounts among them, in order."""
        changed: dict[int, None] = {}
        for key, value in changes.items():
            kind = key[:1]
            if kind == lv.ACCOUNT and value is not None:
                account = lv.parse_account_key(key)
                held = self.holdings.setdefault(account, [0, 0])
                cash = lv.decode_account(value).cash_uusd
                self.cash_uusd += cash - held[1]
                held[1] = cash
                changed[account] = None
            elif kind == lv.POSITION:
                account, _ = lv.parse_position_key(key)
                held = self.holdings.setdefault(account, [0, 0])
                held[0] = 0 if value is None else lv.decode_position(value).size_lots
                changed[account] = None
            elif kind == lv.MARKET and value is not None:
                self.market = lv.decode_market(value)
            elif key == lv.MONEY_KEY and value is not None:
                self.money = lv.decode_money(value)
            elif key == lv.TURN_KEY:
                self._exhausted = value is not None
            elif kind == lv.DISTRESS:
                account = lv.parse_account_key(key)
                if value is None:
                    self._distressed.pop(account, None)
                else:
                    self._distressed[account] = None
        return changed

    def check(self) -> None:
        """Recompute everything the slow way; raises `SafetyViolation` on any difference."""
        self._engine.check()
        lots = sum(size for size, _ in self.holdings.values())
        if lots or not self._engine.money_conserved():
            raise SafetyViolation("money or positions are not conserved")
