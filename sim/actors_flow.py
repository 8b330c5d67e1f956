"""What simulated traders ask for: actions of every kind, sound ones and others."""

from __future__ import annotations

from collections.abc import Callable

from protocol.actions import (
    ALL_MARKETS,
    BUY,
    DEAD_MAN_LEAST_MS,
    FOK,
    GTC,
    IOC,
    POST_ONLY,
    REDUCE_ONLY,
    SELL,
    STOP,
    STP_CANCEL_BOTH,
    STP_CANCEL_TAKER,
    STP_DECREMENT,
    STP_MASTER,
    TAKE_PROFIT,
    TRAILING,
    Action,
    Bracket,
    CancelAll,
    CancelClient,
    MarketOrder,
    MassQuote,
    Modify,
    Oco,
    Order,
    Reduce,
    ScheduleCancel,
    SetLeverage,
    SetProtection,
    TriggerOrder,
    Twap,
)
from sim.pipeline_venue import Venue
from sim.random import PPM, SplitMix64

FLAGS = (
    0, 0, 0, 0, REDUCE_ONLY, STP_CANCEL_TAKER, STP_CANCEL_BOTH, STP_DECREMENT, STP_MASTER,
    REDUCE_ONLY | STP_DECREMENT | STP_MASTER,
)  # fmt: skip
NEAR_PPM = 2_000
"""Limits lie so far from the price at most."""
FAR_PPM = 12_000
"""Triggers lie so far from it at most."""
SLIPPAGE_PPM = 20_000
RECENT_IDS = 20
Make = Callable[[int, int], Action]


class Flow:
    """Draws actions of one trader around prices that it is told.

    `price(market)` is what the trader believes. `orders`: what rested when it last asked, as
    (market, order_id, client_id, side, price_ticks, remaining_lots).
    """

    def __init__(
        self,
        random: SplitMix64,
        venue: Venue,
        price: Callable[[int], int],
        now_ms: Callable[[], int],
    ) -> None:
        self.orders: list[tuple[int, int, int, int, int, int]] = []
        self._random = random
        self._venue = venue
        self._price = price
        self._now_ms = now_ms
        self._client_id = 0
        self._kinds: list[tuple[int, Make]] = [
            (40, self._limit), (10, self._market), (8, self._cancel), (6, self._modify),
            (3, self._quotes), (8, self._trigger), (5, self._oco), (5, self._bracket),
            (3, self._twap), (2, self._dead_man), (1, self._cancel_all), (3, self._leverage),
            (2, self._protection), (4, self._reduce),
        ]  # fmt: skip
        self._shares = sum(share for share, _ in self._kinds)

    def actions(self) -> list[Action]:
        """The actions of one batch."""
        return [self._action() for _ in range(self._random.between(1, 4))]

    def _action(self) -> Action:
        random = self._random
        market, side = random.below(len(self._venue.markets)), random.below(2)
        draw = random.below(self._shares)
        for share, make in self._kinds:
            draw -= share
            if draw < 0:
                return make(market, side)
        raise AssertionError("the shares do not sum up")

    # --- parts

    def _near(self, market: int, ppm: int = NEAR_PPM) -> int:
        price = self._price(market)
        return max(1, price + price * self._random.between(-ppm, ppm) // PPM)

    def _away(self, market: int) -> int:
        return max(1, self._price(market) * self._random.between(200, FAR_PPM) // PPM)

    def _lots(self) -> int:
        most = self._venue.large_lots if self._random.chance(self._venue.large_ppm) else 30
        return self._random.between(1, most)

    def _next_id(self) -> int:
        self._client_id += 1
        return self._client_id

    def _expiry(self) -> int:
        random = self._random
        return self._now_ms() + random.between(100, 2_000) if random.chance(200_000) else 0

    # --- orders

    def _limit(self, market: int, side: int) -> Order:
        random = self._random
        tif = random.pick((GTC, GTC, GTC, GTC, IOC, POST_ONLY, FOK))
        expires_ms = self._expiry()
        return Order(
            market, side, self._near(market), self._lots(), tif, self._next_id(),
            random.pick(FLAGS), expires_ms,
        )  # fmt: skip

    def _market(self, market: int, side: int) -> Action:
        return MarketOrder(
            market, side, self._lots(), SLIPPAGE_PPM, 0, self._random.pick(FLAGS)
        )  # fmt: skip

    def _cancel(self, market: int, side: int) -> Action:
        del side
        newest = self._client_id
        return CancelClient(market, self._random.between(max(1, newest - RECENT_IDS), newest + 1))

    def _modify(self, market: int, side: int) -> Action:
        if not self.orders:
            return self._limit(market, side)
        number, order_id, _, _, _, left = self._random.pick(self.orders)
        price = self._near(number)
        return Modify(number, order_id, price, self._random.between(1, left + 10))

    def _reduce(self, market: int, side: int) -> Action:
        if not self.orders:
            return self._limit(market, side)
        number, order_id, _, _, _, left = self._random.pick(self.orders)
        return Reduce(number, order_id, self._random.between(1, left))

    def _quotes(self, market: int, side: int) -> Action:
        del side
        random, price = self._random, self._price(market)
        step = max(1, price * 300 // PPM)
        levels = range(1, random.between(1, 4))
        lots = self._lots()
        return MassQuote(
            market,
            [(max(1, price - n * step), lots) for n in levels],
            [(price + n * step, lots) for n in levels],
        )

    # --- what waits

    def _exit(self, market: int, side: int, kind: int, lots: int) -> TriggerOrder:
        """A trigger of an order of this side."""
        random, price, away = self._random, self._price(market), self._away(market)
        above = (kind == STOP) == (side == BUY)
        at = away if kind == TRAILING else max(1, price + away if above else price - away)
        limit = at if kind != TRAILING and random.chance(300_000) else 0
        slippage_ppm = 0 if limit else SLIPPAGE_PPM
        return TriggerOrder(market, side, lots, kind, at, limit, slippage_ppm)

    def _trigger(self, market: int, side: int) -> Action:
        kind = self._random.pick((STOP, TAKE_PROFIT, TRAILING))
        made = self._exit(market, side, kind, self._lots())
        return TriggerOrder(
            market, side, made.size_lots, kind, made.trigger_ticks, made.limit_ticks,
            made.slippage_ppm, self._next_id(), self._random.pick(FLAGS), self._expiry(),
        )  # fmt: skip

    def _oco(self, market: int, side: int) -> Action:
        lots, price, away = self._lots(), self._price(market), self._away(market)
        stop = self._exit(market, side, STOP, lots)
        if self._random.chance(500_000):
            return Oco(self._exit(market, side, TAKE_PROFIT, lots), stop)
        ticks = max(1, price - away if side == BUY else price + away)
        return Oco(Order(market, side, ticks, lots, GTC, self._next_id()), stop)

    def _bracket(self, market: int, side: int) -> Action:
        other = SELL if side == BUY else BUY
        parent = Order(market, side, self._near(market), self._lots(), GTC, self._next_id())
        kind = self._random.pick((STOP, TRAILING))
        return Bracket(
            parent, self._exit(market, other, TAKE_PROFIT, 0), self._exit(market, other, kind, 0)
        )

    def _twap(self, market: int, side: int) -> Action:
        random = self._random
        flags = random.pick((0, 0, REDUCE_ONLY))
        return Twap(market, side, self._lots(), random.pick((30_000, 60_000)), flags,
                    self._next_id())  # fmt: skip

    # --- the account

    def _dead_man(self, market: int, side: int) -> Action:
        del market, side
        random = self._random
        ahead_ms = DEAD_MAN_LEAST_MS + random.between(-100, 1_500)
        return ScheduleCancel(0 if random.chance(300_000) else self._now_ms() + ahead_ms)

    def _cancel_all(self, market: int, side: int) -> Action:
        del side
        return CancelAll(self._random.pick((market, ALL_MARKETS)))

    def _leverage(self, market: int, side: int) -> Action:
        del side
        return SetLeverage(market, self._random.pick((0, 0, 5, 10, 20, 50)))

    def _protection(self, market: int, side: int) -> Action:
        del side
        return SetProtection(market, *self._random.pick(((0, 0), (1, 100), (3, 2_000))))
