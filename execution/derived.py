"""What follows from a shard's events and is no part of its state: trades and candles, the status of
every order, the liquidation feed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from execution.market_data import MarketData, MarketDataState
from execution.market_data_liquidations import FEED_EVENTS, LiquidationFeed, MemoryLog
from execution.order_status import Executed, OrderStatus, OrderStatusState
from protocol.codec import Decoder, Wire, encode
from protocol.events import (
    Event,
    Fill,
    OrderChanged,
    OrderOpened,
    TriggerChanged,
    TriggerFired,
    TriggerOpened,
    TwapChanged,
)
from protocol.genesis import Chain

CHUNK_ORDERS = 2_000
"""Orders encoded at a stretch: other threads wait meanwhile."""


class MarketsPart(Wire, frozen=True, tag=1):
    """Trades and candles."""

    state: MarketDataState


class OrdersPart(Wire, frozen=True, tag=2):
    """Some of the orders."""

    state: OrderStatusState


Part = MarketsPart | OrdersPart

_decode: Decoder[Part] = Decoder(Part, canonical=False)


class Derived:
    """Everything derived. `parts`: what `freeze` gave for the same block; empty: from genesis."""

    __slots__ = ("feed", "market_data", "orders")

    def __init__(
        self, chain: Chain, parts: Iterable[bytes] = (), feed: LiquidationFeed | None = None
    ) -> None:
        self.market_data = MarketData([market.value_uusd for market in chain.genesis.markets])
        self.orders = OrderStatus()
        self.feed = LiquidationFeed(MemoryLog()) if feed is None else feed
        for raw in parts:
            part = _decode(raw)
            if isinstance(part, MarketsPart):
                self.market_data.restore(part.state)
            else:
                self.orders.restore(part.state)

    def freeze(self) -> Iterator[bytes]:
        """Everything but the feed as it stands now, encoded part by part when asked for: in another
        thread if need be, while further blocks are taken."""
        markets = self.market_data.frozen()
        orders = self.orders.frozen(CHUNK_ORDERS)

        def parts() -> Iterator[bytes]:
            for market in markets:
                yield encode(MarketsPart(market))
            for some in orders:
                yield encode(OrdersPart(some))

        return parts()

    def take(
        self,
        height: int,
        time_ms: int,
        first_seq: int,
        events: Sequence[Event],
        executed: Iterable[Executed],
    ) -> None:
        """Follow the events of a block, and the batches that it executed, in order."""
        orders, market_data = self.orders, self.market_data
        orders.begin(height, time_ms)
        for seq, event in enumerate(events, first_seq):
            if type(event) is OrderOpened:
                orders.opened(event)
            elif type(event) is OrderChanged:
                orders.changed(event)
            elif type(event) is Fill:
                orders.fill(event)
                market_data.fill(seq, time_ms, event)
            elif type(event) in _OTHERS:
                self._other(seq, height, time_ms, event)
        orders.finish(executed)

    def _other(self, seq: int, height: int, time_ms: int, event: Event) -> None:
        if isinstance(event, FEED_EVENTS):
            self.feed.take(seq, height, time_ms, event)
        elif isinstance(event, TriggerOpened):
            self.orders.trigger_opened(event)
        elif isinstance(event, TriggerChanged):
            self.orders.trigger_changed(event)
        elif isinstance(event, TriggerFired):
            self.orders.trigger_fired(event)
        elif isinstance(event, TwapChanged):
            self.orders.twap_changed(event)


_OTHERS = frozenset({TriggerOpened, TriggerChanged, TriggerFired, TwapChanged, *FEED_EVENTS})
