"""Recorded order-by-order flow in LOBSTER's form, as actions of many accounts.

A message file has one row per event: seconds after midnight, type (1 new order, 2 partial cancel,
3 delete, 4 execution of a visible order, 5 of a hidden one, 6 cross trade, 7 halt), order id, size,
price x 10,000, direction of the resting order (1 buy, -1 sell). A book file has the levels *after*
each message: ask, ask size, bid, bid size per level, best first; +-9999999999 where there is none.

What a row becomes: 1 rests an order (GTC); 2 and 3 shrink or cancel it; 4 is an order of a taker
(IOC) at that price and size, and the exchange decides whom it meets; 5, 6 and 7 change nothing.

With a book file the book is seeded from row 0, after its message. From then on a published row
follows from the row before and the message, except for levels that become visible at the edge of
the recorded depth, behind all that the row before showed. Those are *adopted*: after the row has
been compared, a seed account's orders make the exchange show them too. Where the best level itself
was revealed that way, as often with one recorded level, the row is compared once it is adopted, and
what stood before must be gone. A row that does not follow counts as uncovered, and is compared too.

The recording's queue positions are not ours for good: an order that was named in a row may have
been used up by our own price-time priority. Then other orders of its level give the rest, so that
the sizes of levels stay those of the recording. Without a book file nothing is seeded: events
about orders placed before the first row are counted as unknown and skipped, orders that the
recording trades through are cancelled as stale, and rows are compared with the naive book of
`client.recorded_book`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

import msgspec

from client.recorded_book import RecordedBook, Resting
from protocol.actions import BUY, GTC, IOC, SELL, CancelClient, Order
from protocol.errors import ConfigError
from protocol.genesis import PPM, MarketConfig

NEW, PARTIAL_CANCEL, DELETE, EXECUTION = 1, 2, 3, 4
LAST_TYPE = 7
EMPTY_PRICE = 9_999_999_999
UUSD_PER_PRICE_UNIT = 100
"""LOBSTER prices count ten-thousandths of a dollar."""

SEED = 0
"""Number of the account that seeds and adopts levels."""

STICKY_ORDERS = 200
"""New orders that go to one maker before the next has its turn: longer batches per signature."""

Levels = list[tuple[int, int]]


class Message(NamedTuple):
    """A row of a message file: time in nanoseconds, sizes in base units, price in dollars / 1e4."""

    time_ns: int
    kind: int
    order_id: int
    size: int
    price: int
    direction: int


class Quotes(NamedTuple):
    """Best bid and ask: price in ticks and size in lots, 0 where the side is empty."""

    bid_ticks: int
    bid_lots: int
    ask_ticks: int
    ask_lots: int


class ReduceClient(NamedTuple):
    """Shrink the order of this client id; the driver knows the exchange's id for it."""

    client_id: int
    by_lots: int


class Intent(NamedTuple):
    """An action of an account (by its number in the replay)."""

    account: int
    action: Order | CancelClient | ReduceClient


class Step(NamedTuple):
    """One row: what to send, what the exchange must show after it (None: the row that seeds), and
    what to send after that comparison."""

    row: int
    time_ns: int
    intents: list[Intent]
    expected: Quotes | None
    adopt: list[Intent]


class MapperCounts(msgspec.Struct):
    """What became of the rows. `foreign_lots` were taken from other orders of a level because the
    named one was used up; `adopted_levels` were revealed at the edge of the recorded depth, in
    `revealed_rows` the best one; `uncovered_rows` do not follow from the row before and the
    message; `stale_orders` are gone in the recording without a row that says so."""

    rows: int = 0
    placed: int = 0
    cancelled: int = 0
    executed: int = 0
    ignored: int = 0
    unknown: int = 0
    stale_orders: int = 0
    short_lots: int = 0
    foreign_lots: int = 0
    adopted_levels: int = 0
    revealed_rows: int = 0
    uncovered_rows: int = 0


def parse_message(line: str, row: int) -> Message:
    """A row of a message file; raises `ConfigError` naming the row."""
    fields = line.split(",")
    try:
        seconds, _, fraction = fields[0].partition(".")
        time_ns = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
        kind, order_id, size, price, direction = (int(field) for field in fields[1:6])
    except ValueError:
        raise ConfigError(f"row {row} is no LOBSTER message: {line.strip()[:80]!r}") from None
    if not 1 <= kind <= LAST_TYPE or direction not in (1, -1) or size < 0:
        raise ConfigError(f"row {row} is no LOBSTER message: {line.strip()[:80]!r}")
    return Message(time_ns, kind, order_id, size, price, direction)


class Mapper:
    """Turns rows into intents of `accounts` accounts: the seed, then takers, then makers."""

    def __init__(self, market: MarketConfig, accounts: int) -> None:
        if accounts < 3:
            raise ConfigError("a replay needs at least 3 accounts: seed, taker and maker")
        if PPM % market.lot_micro:
            raise ConfigError(f"{market.symbol}: one share is not a whole number of lots")
        self.market = market
        self.book = RecordedBook()
        self.counts = MapperCounts()
        self.takers = range(1, 1 + max(1, accounts // 4))
        self.makers = range(self.takers.stop, accounts)
        self._lots = PPM // market.lot_micro
        self._maker = self.makers.start
        self._taker = self.takers.start
        self._maker_uses = 0
        self._next_client_id = 1
        self._named: dict[int, int] = {}
        self._published: tuple[Levels, Levels] | None = None
        self._depth = 0

    def steps(self, messages: Iterable[str], book: Iterable[str] | None = None) -> Iterator[Step]:
        """One `Step` per row; with a book file, the first one seeds the book from row 0.

        Raises `ConfigError` for a row that is malformed, or a book file that ends too early.
        """
        rows: Iterator[str | None] = repeat(None) if book is None else iter(book)
        for row, line in enumerate(messages):
            levels = next(rows, "")
            if levels == "":
                raise ConfigError(f"the book file ends before row {row} of the message file")
            message = parse_message(line, row)
            self.counts.rows += 1
            if levels is None:
                intents = self._apply(message)
                quotes = Quotes(*self.book.best(BUY), *self.book.best(SELL))
                yield Step(row, message.time_ns, intents, quotes, [])
                continue
            published = self._parse_levels(levels, row)
            if self._published is None:
                self._depth = len(levels.split(",")) // 4
                yield Step(row, message.time_ns, [], None, self._adopt(published))
            else:
                yield self._follow(row, message, published)
            self._published = published

    def _follow(self, row: int, message: Message, published: tuple[Levels, Levels]) -> Step:
        intents = self._apply(message)
        known = self._known(BUY), self._known(SELL)
        covered = all(self._follows(side, known[side], published[side]) for side in (BUY, SELL))
        revealed = any(published[side] and not known[side] for side in (BUY, SELL))
        expected = Quotes(*_first(published[BUY]), *_first(published[SELL]))
        adopt = self._adopt(published)
        if covered and revealed:
            self.counts.revealed_rows += 1
            return Step(row, message.time_ns, intents + adopt, expected, [])
        self.counts.uncovered_rows += not covered
        return Step(row, message.time_ns, intents, expected, adopt)

    def _known(self, side: int) -> Levels:
        """What the row before and the message, which the book holds, tell of the next row."""
        before = self._published[side] if self._published else []
        if len(before) < self._depth:
            return self.book.top(side, self._depth)
        in_sight = len(self.book.prices(side, before[-1][0]))
        return self.book.top(side, min(in_sight, self._depth))

    def _follows(self, side: int, known: Levels, levels: Levels) -> bool:
        """Whether a row shows what is known, and then only levels that stood out of sight."""
        before = self._published[side] if self._published else []
        revealed = [price for price, _ in levels[len(known) :]]
        if levels[: len(known)] != known or (revealed and len(before) < self._depth):
            return False
        return all((p < before[-1][0]) if side == BUY else (p > before[-1][0]) for p in revealed)

    def _parse_levels(self, line: str, row: int) -> tuple[Levels, Levels]:
        try:
            numbers = [int(field) for field in line.split(",")]
        except ValueError:
            numbers = []
        if not numbers or len(numbers) % 4:
            raise ConfigError(f"row {row} of the book file is not made of four columns per level")
        sides: tuple[Levels, Levels] = ([], [])
        lots = self._lots
        for side, first in ((SELL, 0), (BUY, 2)):
            append = sides[side].append
            for at in range(first, len(numbers), 4):
                if abs(numbers[at]) != EMPTY_PRICE:
                    append((self._ticks(numbers[at], row), numbers[at + 1] * lots))
        return sides

    def _ticks(self, price: int, row: int) -> int:
        ticks, rest = divmod(price * UUSD_PER_PRICE_UNIT, self.market.tick_uusd)
        if rest or ticks <= 0:
            raise ConfigError(
                f"row {row}: price {price / 10_000} is no whole number of {self.market.symbol} "
                "ticks; choose a market with a finer tick"
            )
        return ticks

    # --- messages

    def _apply(self, message: Message) -> list[Intent]:
        kind = message.kind
        if kind > EXECUTION:
            self.counts.ignored += 1
            return []
        side = BUY if message.direction == 1 else SELL
        price = self._ticks(message.price, self.counts.rows - 1)
        lots = message.size * self._lots
        if kind == NEW:
            return self._new(message.order_id, side, price, lots)
        if kind == EXECUTION:
            return self._execute(message.order_id, side, price, lots)
        self.counts.cancelled += 1
        return self._shrink_level(message.order_id, side, price, lots)

    def _new(self, order_id: int, side: int, price: int, lots: int) -> list[Intent]:
        other = SELL if side == BUY else BUY
        stale = self._clear(other, price) if self.book.crosses(side, price) else []
        self.counts.placed += 1
        self._maker_uses += 1
        owner = self._maker
        if (
            self._maker_uses % STICKY_ORDERS == 0
            or self.book.open_orders.get(owner, 0) >= STICKY_ORDERS
        ):
            self._maker = owner = min(
                (maker for maker in self.makers if maker != owner or len(self.makers) == 1),
                key=lambda maker: self.book.open_orders.get(maker, 0),
            )
        intents = self._place(owner, side, price, lots)
        first = intents[0].action
        if isinstance(first, Order):
            self._named[order_id] = first.client_id
        return stale + intents

    def _clear(self, side: int, worst_ticks: int) -> list[Intent]:
        """Cancel what the recording shows to be gone: orders up to `worst_ticks`, best first."""
        intents = []
        for price in self.book.prices(side, worst_ticks):
            level = self.book.level(side, price)
            for order in list(level.orders.values()) if level else []:
                self.counts.stale_orders += 1
                intents.append(self._shrink(order, order.lots))
        return intents

    def _place(self, owner: int, side: int, price: int, lots: int) -> list[Intent]:
        """Rest `lots`, in several orders where one would be over the market's limit."""
        intents = []
        while lots > 0:
            part = min(lots, self.market.max_order_lots)
            client_id = self._next_client_id
            self._next_client_id += 1
            self.book.add(Resting(client_id, owner, side, price, part))
            order = Order(self.market.market, side, price, part, GTC, client_id)
            intents.append(Intent(owner, order))
            lots -= part
        return intents

    def _execute(self, order_id: int, side: int, price: int, lots: int) -> list[Intent]:
        if self._published is None and not self._is_resting(order_id):
            self.counts.unknown += 1
            return []
        # An execution at a price shows that nothing better rests there any more.
        intents = self._clear(side, price + 1 if side == BUY else price - 1)
        best, available = self.book.best(side)
        if best != price:
            self.counts.unknown += 1
            return intents
        lots = self._limit(lots, available)
        self.counts.executed += 1
        if self.counts.executed % STICKY_ORDERS == 0:
            following = self._taker + 1
            self._taker = following if following in self.takers else self.takers.start
        other = SELL if side == BUY else BUY
        while lots > 0:
            part = min(lots, self.market.max_order_lots)
            self.book.take(side, part)
            intents.append(Intent(self._taker, Order(self.market.market, other, price, part, IOC)))
            lots -= part
        return intents

    def _is_resting(self, order_id: int) -> bool:
        return self._named.get(order_id, 0) in self.book.orders

    def _limit(self, lots: int, available: int) -> int:
        self.counts.short_lots += max(0, lots - available)
        return min(lots, available)

    def _shrink_level(self, order_id: int, side: int, price: int, lots: int) -> list[Intent]:
        """Take `lots` from a level: from the named order first, then from others of the level."""
        client_id = self._named.get(order_id, 0)
        order = self.book.orders.get(client_id)
        level = self.book.level(side, price)
        if level is None or (self._published is None and order is None):
            self.counts.unknown += 1
            return []
        lots = self._limit(lots, level.lots)
        intents = []
        if order is not None and order.price_ticks == price and order.side == side:
            part = min(order.lots, lots)
            intents.append(self._shrink(order, part))
            lots -= part
            if lots:
                self.counts.foreign_lots += lots
        return intents + self._shrink_any(side, price, lots)

    def _shrink_any(self, side: int, price: int, lots: int) -> list[Intent]:
        """Take `lots` from a level: from seeded orders, then from the back of the queue."""
        level = self.book.level(side, price)
        if level is None or lots <= 0:
            return []
        queue = list(level.orders.values())
        queue.reverse()
        queue.sort(key=lambda order: order.owner != SEED)
        intents = []
        for order in queue:
            part = min(order.lots, lots)
            intents.append(self._shrink(order, part))
            lots -= part
            if not lots:
                break
        return intents

    def _shrink(self, order: Resting, lots: int) -> Intent:
        gone = lots == order.lots
        self.book.shrink(order, lots)
        if gone:
            return Intent(order.owner, CancelClient(self.market.market, order.client_id))
        return Intent(order.owner, ReduceClient(order.client_id, lots))

    # --- levels at the edge of the recorded depth

    def _adopt(self, published: tuple[Levels, Levels]) -> list[Intent]:
        removals: list[Intent] = []
        additions: list[Intent] = []
        for side in (BUY, SELL):
            levels = published[side]
            if self.book.top(side, len(levels)) != levels or len(levels) < self._depth:
                self._adopt_side(side, levels, removals, additions)
        return removals + additions

    def _adopt_side(
        self, side: int, levels: Levels, removals: list[Intent], additions: list[Intent]
    ) -> None:
        complete = len(levels) < self._depth
        wanted = dict(levels)
        worst = levels[-1][0] if levels else 0
        known = self.book.all_prices(side) if complete else self.book.prices(side, worst)
        for price in known:
            level = self.book.level(side, price)
            extra = (level.lots if level else 0) - wanted.get(price, 0)
            if extra > 0:
                removals.extend(self._shrink_any(side, price, extra))
                self.counts.adopted_levels += 1
        for price, lots in levels:
            level = self.book.level(side, price)
            missing = lots - (level.lots if level else 0)
            if missing > 0:
                additions.extend(self._place(SEED, side, price, missing))
                self.counts.adopted_levels += 1


def _first(levels: Levels) -> tuple[int, int]:
    return levels[0] if levels else (0, 0)
