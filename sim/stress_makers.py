"""Who trades in a stress run besides the population: makers, and takers who hunt stale quotes.

A maker sees the true price `feed_ms` late and quotes around it: a spread that grows with
volatility, sizes that shrink with it, prices that lean against its inventory, nothing beyond its
inventory limit. It withdraws when acknowledgements are slow, and returns when a probe comes back in
time. Takers see the true price sooner, and take what is quoted on the wrong side of it.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple, Protocol

from protocol.actions import BUY, IOC, SELL, Action, CancelAll, MassQuote, Order
from protocol.genesis import PPM
from sequencer.lanes import Lane
from sim.random import SplitMix64

PPB = 1_000_000_000
LEVELS = 4
MAKERS = 12
TAKERS = 3
DEPTH_PPM = 1_000
"""What all makers quote on one level of one side in usual volatility, of the open interest."""
INVENTORY_PPM = 10_000
"""Inventory limit of each maker, of the open interest; it has this much cash for it, twice."""
LEAST_SPREAD_PPM = 200
"""Least distance of a quote from the maker's price."""
QUOTE_MS = 500
"""Time between two quotes of a maker."""
REFRESH = 6
"""A quote whose price has not moved is sent again after so many turns."""
ACK_LIMITS_MS = (500, 1_000, 2_000)
"""Acknowledgements slower than this make a maker withdraw."""
PROBE_MS = 2_000
MOST_UNANSWERED = 4
TAKER_EDGE_PPM = 600
"""What a taker wants beyond the true price: its fee, and something for itself."""
TAKER_SIZE_PPM = 500
"""Most that a taker takes at once, of the open interest."""


class Sight(NamedTuple):
    """What somebody sees: the true price and its volatility (mean change in `step_ms`) as its feed
    has them, and the best bid and ask of the newest block that was executed (0: none)."""

    true_ticks: int
    volatility_ppb: int
    usual_ppb: int
    step_ms: int
    best: tuple[int, int]


class Wish(NamedTuple):
    """Actions that somebody sends now, as one batch."""

    actions: list[Action]
    lane: Lane


class Participant(Protocol):
    """Somebody with an account who watches prices and acts."""

    account: int
    feed_ms: int
    wire_ms: int

    def due(self, now_ms: int) -> bool:
        """Whether it looks now."""

    def act(self, now_ms: int, sight: Sight) -> Wish | None:
        """What it sends."""

    def answered(self, sent_ms: int, now_ms: int, code: int) -> None:
        """What it sent then was executed, or refused with a code; it knows now."""

    def holds(self, size_lots: int) -> None:
        """Its position is this."""


class Maker:
    """Quotes both sides."""

    def __init__(self, account: int, open_lots: int, rng: SplitMix64) -> None:
        self.account = account
        self.feed_ms = rng.between(20, 400)
        self.wire_ms = rng.between(1, 15)
        self.ack_limit_ms = rng.pick(ACK_LIMITS_MS)
        self.limit_lots = max(open_lots * INVENTORY_PPM // PPM, LEVELS)
        self.level_lots = max(open_lots * DEPTH_PPM // PPM // MAKERS, 1)
        self.size_lots = 0
        self.withdrawn = False
        self.withdrawals = 0
        self._unanswered: list[int] = []
        self._latency_ms = 0
        self._next_ms = 0
        self._phase_ms = rng.below(QUOTE_MS)
        self._quoted_ticks = self._quoted_lots = self._turns = 0
        self._wider = 1
        self._spoilt = False

    def due(self, now_ms: int) -> bool:
        """Every `QUOTE_MS`; while withdrawn, every `PROBE_MS`."""
        return now_ms >= self._next_ms

    def act(self, now_ms: int, sight: Sight) -> Wish | None:
        """Quotes, a withdrawal, a probe, or nothing where nothing changed."""
        self._next_ms = now_ms + QUOTE_MS + (0 if self._next_ms else self._phase_ms)
        if self._acknowledged_ms(now_ms) > self.ack_limit_ms:
            if not self.withdrawn:
                self.withdrawn = self._spoilt = True
                self.withdrawals += 1
                return self._send(now_ms, CancelAll(0), Lane.REDUCING)
            self._next_ms = now_ms + PROBE_MS
            if self._unanswered:
                return None
            return self._send(now_ms, MassQuote(0, [], []), Lane.OTHER)
        self.withdrawn = False
        if len(self._unanswered) >= MOST_UNANSWERED:
            return None
        half_ppm = self._half_spread_ppm(sight)
        self._turns += 1
        moved = abs(sight.true_ticks - self._quoted_ticks) * PPM > half_ppm * sight.true_ticks // 3
        if not (
            moved or self._spoilt or self._quoted_lots != self.size_lots or self._turns >= REFRESH
        ):
            return None
        self._quoted_ticks, self._quoted_lots, self._turns = sight.true_ticks, self.size_lots, 0
        self._spoilt = False
        return self._send(now_ms, self._quotes(sight, half_ppm), Lane.OTHER)

    def _send(self, now_ms: int, action: Action, lane: Lane) -> Wish:
        self._unanswered.append(now_ms)
        return Wish([action], lane)

    def _acknowledged_ms(self, now_ms: int) -> int:
        """Newest acknowledgement's time, or how long the oldest open one has waited."""
        waited = now_ms - self._unanswered[0] if self._unanswered else 0
        return max(self._latency_ms, waited)

    def _half_spread_ppm(self, sight: Sight) -> int:
        """Mean absolute change over the time until a quote can be replaced, with all delays."""
        horizon = (self.feed_ms + self._latency_ms + QUOTE_MS) // sight.step_ms + 1
        spread_ppm = sight.volatility_ppb * isqrt(horizon * 10_000) // 100 * PPM // PPB
        return min(max(spread_ppm, LEAST_SPREAD_PPM) * self._wider, PPM // 20)

    def _quotes(self, sight: Sight, half_ppm: int) -> MassQuote:
        calm = max(sight.volatility_ppb, sight.usual_ppb // 2, 1)
        lots = max(self.level_lots * max(sight.usual_ppb, 1) // calm, 1)
        lean_ppm = 2 * half_ppm * self.size_lots // self.limit_lots
        middle = sight.true_ticks * (PPM - lean_ppm) // PPM
        step = max(middle * half_ppm // PPM, 1)
        bids: list[tuple[int, int]] = []
        asks: list[tuple[int, int]] = []
        room_bid, room_ask = self.limit_lots - self.size_lots, self.limit_lots + self.size_lots
        for level in range(1, LEVELS + 1):
            size_bid, size_ask = min(lots * level, room_bid), min(lots * level, room_ask)
            if size_bid > 0 and middle > level * step:
                bids.append((middle - level * step, size_bid))
                room_bid -= size_bid
            if size_ask > 0:
                asks.append((middle + level * step, size_ask))
                room_ask -= size_ask
        return MassQuote(0, bids, asks)

    def answered(self, sent_ms: int, now_ms: int, code: int) -> None:
        """Learn how slow it is; after a refusal (the quote crossed the book) quote wider, once."""
        if sent_ms in self._unanswered:
            self._unanswered.remove(sent_ms)
        self._latency_ms = now_ms - sent_ms
        self._wider = min(self._wider * 2, 8) if code else 1
        self._spoilt = self._spoilt or bool(code)

    def holds(self, size_lots: int) -> None:
        """Inventory after a block."""
        self.size_lots = size_lots


class Taker:
    """Takes quotes that the true price has left behind; hedges elsewhere."""

    def __init__(self, account: int, open_lots: int, rng: SplitMix64) -> None:
        self.account = account
        self.feed_ms = rng.between(5, 60)
        self.wire_ms = rng.between(1, 10)
        self.most_lots = max(open_lots * TAKER_SIZE_PPM // PPM, 1)
        self._waiting = False

    def due(self, now_ms: int) -> bool:
        """Whenever nothing of its own is open."""
        return not self._waiting

    def act(self, now_ms: int, sight: Sight) -> Wish | None:
        """An immediate-or-cancel order at the price that still leaves the edge."""
        bid, ask = sight.best
        edge = sight.true_ticks * TAKER_EDGE_PPM // PPM
        if bid > sight.true_ticks + edge:
            order = Order(0, SELL, sight.true_ticks + edge, self.most_lots, IOC)
        elif 0 < ask < sight.true_ticks - edge:
            order = Order(0, BUY, sight.true_ticks - edge, self.most_lots, IOC)
        else:
            return None
        self._waiting = True
        return Wish([order], Lane.OTHER)

    def answered(self, sent_ms: int, now_ms: int, code: int) -> None:
        """Free to act again."""
        self._waiting = False

    def holds(self, size_lots: int) -> None:
        """Its position here is hedged elsewhere, so it does not mind."""


def make_participants(
    first_account: int, open_lots: int, notional_uusd: int, rng: SplitMix64
) -> tuple[list[Maker], list[Taker], dict[int, int]]:
    """Makers and takers of a market with this open interest, and the cash of each account."""
    makers = [Maker(first_account + n, open_lots, rng) for n in range(MAKERS)]
    takers = [Taker(first_account + MAKERS + n, open_lots, rng) for n in range(TAKERS)]
    cash = {one.account: 2 * notional_uusd * INVENTORY_PPM // PPM for one in makers}
    cash |= {one.account: notional_uusd for one in takers}
    return makers, takers, cash
