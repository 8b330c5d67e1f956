"""Seeded order flow for load: makers that keep requoting around a wandering price, and takers.

The flow does not wait for answers: it names its own orders by client id and always replaces the
oldest ones, so that batches can be made and signed ahead of time. The same seed gives the same
actions.
"""

from __future__ import annotations

from random import Random

from protocol.actions import (
    BUY,
    GTC,
    IOC,
    MAX_ACTIONS,
    SELL,
    Action,
    CancelClient,
    MarketOrder,
    Order,
)
from protocol.errors import ConfigError
from protocol.genesis import MarketConfig

QUOTES_PER_MARKET = 20
"""Orders a maker keeps in a market; its orders rest until that many newer ones replaced them."""

BAND_PPM = 4_000
"""How far the price wanders from where it began, either way."""

MARKET_ORDER_SHARE = 0.25
SLIPPAGE_PPM = 5_000


class Walk:
    """A market whose mid price wanders around its start, in steps of a basis point."""

    def __init__(self, config: MarketConfig, start_ticks: int) -> None:
        self.config = config
        self.unit_ticks = max(1, start_ticks // 10_000)
        self.mid_ticks = start_ticks
        self._low = start_ticks - start_ticks * BAND_PPM // 1_000_000
        self._high = start_ticks + start_ticks * BAND_PPM // 1_000_000
        notional = start_ticks * config.value_uusd
        self.least_lots = max(1, -(-2 * config.min_notional_uusd // notional))

    def step(self, draw: float) -> None:
        """Move by -1, 0 or 1 units for a draw from [0, 1)."""
        moved = self.mid_ticks + (int(draw * 3) - 1) * self.unit_ticks
        self.mid_ticks = min(self._high, max(self._low, moved))


class Flow:
    """Batches of `batch` actions for `accounts` accounts; the first ones are takers.

    `taker_share` is the share of taker batches. Client ids count up from `first_client_id`.
    """

    def __init__(
        self,
        seed: int,
        markets: list[tuple[MarketConfig, int]],
        *,
        accounts: int,
        batch: int,
        taker_share: float,
        first_client_id: int,
    ) -> None:
        if accounts < 2 or not 1 <= batch <= MAX_ACTIONS or not markets:
            raise ConfigError(
                f"load needs 2 accounts or more, a market, and batches of 1 to {MAX_ACTIONS}"
            )
        self._random = Random(seed).random
        self._walks = [Walk(config, start) for config, start in markets]
        self._batch = batch
        self._taker_share = taker_share
        self._takers = max(1, accounts // 4)
        self._accounts = accounts
        self._maker = self._takers
        self._taker = 0
        self._turn = 0
        self._client_id = first_client_id
        self._live: dict[tuple[int, int], list[int]] = {}

    def next_batch(self) -> tuple[int, list[Action]]:
        """Number of the account, and its actions."""
        self._turn += 1
        walk = self._walks[self._turn % len(self._walks)]
        walk.step(self._random())
        if self._random() < self._taker_share:
            self._taker = (self._taker + 1) % self._takers
            return self._taker, self._take(walk)
        self._maker += 1
        if self._maker >= self._accounts:
            self._maker = self._takers
        return self._maker, self._quote(self._maker, walk)

    def last_cancels(self) -> list[tuple[int, list[Action]]]:
        """Batches that cancel what may still rest."""
        batches: list[tuple[int, list[Action]]] = []
        for (account, market), live in self._live.items():
            for at in range(0, len(live), MAX_ACTIONS):
                part: list[Action] = [CancelClient(market, i) for i in live[at : at + MAX_ACTIONS]]
                batches.append((account, part))
        self._live.clear()
        return batches

    def _quote(self, account: int, walk: Walk) -> list[Action]:
        draw = self._random
        market = walk.config.market
        live = self._live.setdefault((account, market), [])
        actions: list[Action] = []
        append = actions.append
        for _ in range(self._batch):
            if len(live) >= QUOTES_PER_MARKET:
                append(CancelClient(market, live.pop(0)))
                continue
            self._client_id += 1
            side = self._client_id & 1
            away = walk.unit_ticks * (1 + int(draw() * 12)) + int(draw() * walk.unit_ticks)
            price = walk.mid_ticks - away if side == BUY else walk.mid_ticks + away
            live.append(self._client_id)
            lots = walk.least_lots + int(draw() * 5)
            append(Order(market, side, max(1, price), lots, GTC, self._client_id))
        return actions

    def _take(self, walk: Walk) -> list[Action]:
        draw = self._random
        market = walk.config.market
        reach = 15 * walk.unit_ticks
        actions: list[Action] = []
        for _ in range(self._batch):
            side = BUY if draw() < 0.5 else SELL
            lots = walk.least_lots + int(draw() * 4)
            if draw() < MARKET_ORDER_SHARE:
                actions.append(MarketOrder(market, side, lots, SLIPPAGE_PPM))
            else:
                price = walk.mid_ticks + reach if side == BUY else walk.mid_ticks - reach
                actions.append(Order(market, side, max(1, price), lots, IOC))
        return actions
