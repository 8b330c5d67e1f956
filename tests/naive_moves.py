"""Random moves for the engine and the naive exchange, drawn to the corners.

Sizes are those that finish something: an order, a level, a side, a position, or one lot more.
Prices meet what rests. Marks move as far as they can before somebody needs liquidation, which has
tests of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from engine_world import DOLLAR, ORACLES, signer
from naive_chains import GUARDIANS
from naive_duel import Duel, Sent
from naive_margin import DAY_MS, im_uusd, mm_uusd, position, tv_uusd, withdrawable_uusd
from naive_orders import POSITION_NOTIONAL
from naive_state import NaiveOrder

from protocol import actions as act
from protocol.events import Event
from protocol.markets import CASH_MOVE_LIMIT, PPM
from protocol.settlement import account_number, isolated_market, master_of

TO = b"t" * 20
LARGE_LOTS = 10_000_000
"""Markets with such orders are for the bounds of cash movements and positions."""

WEIGHTS = {
    "limit": 18, "kill": 4, "market": 5, "cancel": 2, "client": 1, "all": 1, "reduce": 2,
    "modify": 5,
    "quote": 5, "withdraw": 1, "transfer": 1, "position": 2, "leverage": 1, "protection": 1,
    "trigger": 3, "oco": 2, "bracket": 2, "twap": 1, "switch": 1,
}  # fmt: skip
WAITS_MS = (10,) * 40 + (20,) * 10 + (5_000,) * 9 + (30_000,) * 9 + (DAY_MS,)
ORDERS = ("limit", "market", "cancel", "reduce", "modify", "quote", "protection", "all")


class Moves:
    """Draws actions that fit the present state of a duel."""

    waits_ms: Sequence[int] = WAITS_MS
    """Times to the next block."""
    prices_percent = 35
    """How many blocks bring prices, where none are stale."""

    def __init__(self, duel: Duel, rng: random.Random) -> None:
        self.duel = duel
        self.rng = rng
        self.wait_ms = 10
        """Time to the next block."""
        self.last: list[Sent] = []
        """What the last block was made of."""
        self.kinds: dict[str, Callable[[int], Any]] = {
            "limit": self.limit, "kill": self.kill, "market": self.market_order,
            "cancel": self.cancel, "client": self.cancel_client, "all": self.cancel_all,
            "reduce": self.reduce, "modify": self.modify, "quote": self.quote,
            "withdraw": self.withdraw,
            "transfer": self.transfer, "position": self.move_position, "leverage": self.leverage,
            "protection": self.protection, "trigger": self.trigger, "oco": self.oco,
            "bracket": self.bracket, "twap": self.twap, "switch": self.switch,
        }  # fmt: skip

    # -- parts of actions

    def one_of(self, *choices: Any) -> Any:
        return choices[self.rng.randrange(len(choices))]

    def market(self, account: int) -> int:
        """A market, mostly an existing one, and that of an isolated account."""
        count = len(self.duel.x.markets)
        if isolated_market(account) >= 0 and self.rng.randrange(10):
            return isolated_market(account)
        return count if self.rng.randrange(40) == 39 else self.rng.randrange(count)

    def draw(self, account: int) -> tuple[int, int, int]:
        """(market, side, flags) of an order; reduce-only mostly where there is a position."""
        rng, market, side = self.rng, self.market(account), self.rng.randrange(2)
        x = self.duel.x
        held = position(x, account, self.known(market))
        if held and rng.randrange(2) and tv_uusd(x, account) < im_uusd(x, account):
            side = 0 if held < 0 else 1
        flags = rng.choice((0, 2, 4, 6)) if rng.randrange(3) == 0 else 0
        flags |= act.STP_MASTER if rng.randrange(4) == 0 else 0
        if rng.randrange(3 if held else 20) == 0:
            flags |= act.REDUCE_ONLY
            side = (0 if held < 0 else 1) if rng.randrange(8) else side
        return market, side, flags

    def known(self, market: int) -> int:
        return min(market, len(self.duel.x.markets) - 1)

    def price(self, market: int, side: int) -> int:
        """A price at the best of either side, at the mark, or near it."""
        market = self.known(market)
        x, mark = self.duel.x, self.duel.x.markets[self.known(market)].mark
        best = [o.price for o in (x.side_of(market, 0)[:1] + x.side_of(market, 1)[:1])]
        last = [x.side_of(market, 1 - side)[-1].price] if x.side_of(market, 1 - side) else []
        away = self.rng.randint(1, 12) * (1 if side else -1)
        through = -self.rng.randint(1, 80) * (1 if side else -1)
        choices = [mark, mark + away, mark + away, mark + through, *best, *best, *last]
        if self.rng.randrange(80) == 0:
            return int(self.one_of(0, 1 << 31))
        return max(1, self.rng.choice(choices))

    def lots(self, account: int, market: int, side: int) -> int:
        """A size that ends something exactly, or one more, or any."""
        x, market = self.duel.x, self.known(market)
        sizes = [1, self.rng.randint(1, 9), self.rng.randint(1, 40)]
        held = abs(position(x, account, market))
        mark, value = x.markets[market].mark, x.value(market)
        free = PPM * (tv_uusd(x, account) - im_uusd(x, account))
        edge = free // (mark * value * x.configs[market].initial_ppm)
        if edge > 0:
            sizes += [edge, edge + 1, edge // 2 + 1]
        if held:
            sizes += [held, held, held + 1, max(1, held - 1)]
        found = x.side_of(market, 1 - side)
        if found:
            level = sum(o.lots for o in found if o.price == found[0].price)
            sizes += [found[0].lots, level, sum(o.lots for o in found), level + 1]
        config = x.configs[market]
        if config.max_order_lots >= LARGE_LOTS:
            # About what fits one cash movement, and a position of the largest notional.
            split = CASH_MOVE_LIMIT // (mark * value)
            most = min(POSITION_NOTIONAL // (mark * value), config.max_order_lots)
            sizes += [split, split + 1, 3 * split, most, most // 2, most + 1]
        return self.rng.choice(sizes)

    def client(self) -> int:
        return max(0, self.rng.randint(-6, 4))

    def expires(self) -> int:
        """None, or in this block, the ones before it, or the next ones."""
        now = self.duel.time_ms + self.wait_ms
        return 0 if self.rng.randrange(4) else now + self.rng.randint(-1, 6) * 10

    def own_order(self, account: int) -> NaiveOrder | None:
        mine = [o for o in self.duel.x.orders if o.account == account]
        return self.rng.choice(mine) if mine else None

    # -- actions

    def limit(self, account: int) -> Any:
        market, side, flags = self.draw(account)
        tif = self.one_of(*[act.GTC] * 5, act.IOC, act.POST_ONLY)
        return act.Order(
            market, side, self.price(market, side), self.lots(account, market, side), tif,
            self.client(), flags, self.expires(),
        )  # fmt: skip

    def kill(self, account: int) -> Any:
        """Fill-or-kill of what the first orders opposite have together, or a lot more."""
        market, side, flags = self.draw(account)
        found = self.duel.x.side_of(self.known(market), 1 - side)
        if not found:
            return self.limit(account)
        count = self.rng.randint(1, len(found))
        met = [o.lots for o in found[:count] if o.account != account or self.rng.randrange(2)]
        lots = max(1, sum(met) + self.one_of(-1, 0, 0, 1))
        price = found[count - 1].price
        return act.Order(market, side, price, lots, act.FOK, self.client(), flags)

    def market_order(self, account: int) -> Any:
        market, side, flags = self.draw(account)
        slippage = self.one_of(1, 3_000, 20_000, 100_000, 500_000)
        lots = self.lots(account, market, side)
        return act.MarketOrder(market, side, lots, slippage, self.client(), flags)

    def cancel(self, account: int) -> Any:
        x = self.duel.x
        items: list[Any] = [*x.orders, *x.triggers, *x.twaps]
        mine = [item for item in items if item.account == account] or items
        if not mine or self.rng.randrange(12) == 0:
            return act.Cancel(self.market(account), self.rng.randrange(x.next_id + 1))
        found = self.rng.choice(mine)
        return act.Cancel(found.market, found.id)

    def cancel_client(self, account: int) -> Any:
        return act.CancelClient(self.market(account), self.rng.randint(0, 4))

    def cancel_all(self, account: int) -> Any:
        return act.CancelAll(self.one_of(self.market(account), act.ALL_MARKETS))

    def reduce(self, account: int) -> Any:
        found = self.own_order(account)
        if found is None:
            return self.cancel(account)
        return act.Reduce(found.market, found.id, self.one_of(1, 2, found.lots, found.lots - 1))

    def modify(self, account: int) -> Any:
        found = self.own_order(account)
        if found is None:
            return self.limit(account)
        price = self.one_of(found.price, self.price(found.market, found.side))
        lots = self.one_of(
            found.lots, found.lots + 1, max(1, found.lots - 1),
            self.lots(account, found.market, found.side),
        )  # fmt: skip
        return act.Modify(found.market, found.id, price, lots)

    def quote(self, account: int) -> Any:
        market = self.market(account)
        middle = self.price(market, self.rng.randrange(2))
        bids, asks = [], []
        below, above = middle - self.rng.randint(0, 2), middle + self.rng.randint(0, 2)
        for _ in range(self.rng.randrange(4)):
            bids.append((below, self.lots(account, market, 0)))
            below -= self.one_of(1, 1, 2, 0)
        for _ in range(self.rng.randrange(4)):
            asks.append((above, self.lots(account, market, 1)))
            above += self.one_of(1, 1, 2, 0)
        return act.MassQuote(market, bids, asks)

    def amount(self, account: int) -> int:
        free, settled = withdrawable_uusd(self.duel.x, account)
        return int(self.one_of(free, free + 1, settled, settled + 1, DOLLAR, free // 2, 0))

    def withdraw(self, account: int) -> Any:
        return act.Withdraw(self.amount(account), TO)

    def family(self, account: int) -> int:
        """An account of the same master, or a wrong one."""
        master, markets = master_of(account), len(self.duel.x.markets)
        parts = [(0, -1), (1, -1), (1, -1), (0, 0), (2, 1), (3, -1), (1, markets)]
        family = [account_number(master, index, market) for index, market in parts]
        return int(self.one_of(*family, self.rng.choice(self.duel.accounts), 2, 3))

    def transfer(self, account: int) -> Any:
        return act.Transfer(self.family(account), self.amount(account))

    def move_position(self, account: int) -> Any:
        market = self.market(account)
        size = position(self.duel.x, account, self.known(market))
        sign = -1 if size < 0 else 1
        lots = self.one_of(size, size, size + sign, sign, -sign, size // 2)
        return act.TransferPosition(self.family(account), market, lots)

    def leverage(self, account: int) -> Any:
        return act.SetLeverage(self.market(account), self.one_of(0, 1, 2, 3, 5, 9, 10, 11))

    def protection(self, account: int) -> Any:
        return self.one_of(
            act.SetProtection(
                self.market(account), self.rng.randint(1, 3), self.rng.randint(1, 40)
            ),
            act.SetProtection(self.market(account), 0, 0),
        )

    # -- what waits

    def trigger(self, account: int) -> Any:
        return self._trigger(account, *self.draw(account), self.rng.randrange(3))

    def _trigger(
        self, account: int, market: int, side: int, flags: int, kind: int
    ) -> act.TriggerOrder:
        rng = self.rng
        mark = self.duel.x.markets[self.known(market)].mark
        below = (kind == act.STOP) == (side == act.SELL)
        away = rng.randint(0, 15)
        ticks = away + 1 if kind == act.TRAILING else mark - away if below else mark + away
        limit = self.price(market, side) if rng.randrange(2) else 0
        slippage = 0 if limit else self.one_of(1_000, 20_000, 300_000)
        return act.TriggerOrder(
            market, side, self.lots(account, market, side), kind, ticks, limit, slippage,
            self.client(), flags, self.expires(),
        )  # fmt: skip

    def oco(self, account: int) -> Any:
        drawn = market, side, flags = self.draw(account)
        second = self._trigger(account, *drawn, self.one_of(0, 0, 1, 2))
        if self.rng.randrange(2):
            return act.Oco(self._trigger(account, *drawn, self.rng.randrange(3)), second)
        first = act.Order(
            market, side, self.price(market, side), self.lots(account, market, side),
            self.one_of(0, 0, 0, 0, 2, 1), self.client(), flags, self.expires(),
        )  # fmt: skip
        return act.Oco(first, second)

    def bracket(self, account: int) -> Any:
        market, side, flags = self.draw(account)
        parent = act.Order(
            market, side, self.price(market, side), self.lots(account, market, side),
            self.one_of(0, 0, 0, 1, 2, 3), self.client(), flags & ~act.REDUCE_ONLY, self.expires(),
        )  # fmt: skip
        exits = []
        for kind in (act.TAKE_PROFIT, self.one_of(act.STOP, act.TRAILING)):
            drawn = self._trigger(account, market, 1 - side, flags, kind)
            exits.append(msgspec.structs.replace(drawn, size_lots=0))
        return act.Bracket(parent, exits[0], exits[1])

    def twap(self, account: int) -> Any:
        market, side, flags = self.draw(account)
        duration = self.one_of(30_000, 60_000, 100_000, 29_999)
        lots = self.lots(account, market, side)
        return act.Twap(market, side, lots, duration, flags, self.client())

    def switch(self, account: int) -> Any:
        now = self.duel.time_ms + self.wait_ms
        return act.ScheduleCancel(now + self.one_of(5_000, 5_000, 4_999, 60_000, -now))

    # -- prices and modes

    def marks(self) -> list[Sent]:
        """Oracle batches that move marks, but nobody below maintenance."""
        x = self.duel.x
        prices = []
        saved = x.save()
        for market in x.markets:
            step = self.one_of(0, 1, 5, 30, 120, 600)
            aim = max(
                300, market.mark + self.rng.randint(-step, step) * max(1, market.mark // 1_000)
            )
            prices.append(act.OraclePrice(market.number, self._reachable(market.number, aim)))
        x.undo(saved)
        return [(key, 0, prices) for key in ORACLES]

    def _reachable(self, number: int, aim: int) -> int:
        """The mark nearest to `aim`, on the way from the present one, that nobody falls at."""
        x = self.duel.x
        mark = x.markets[number].mark
        step = max(1, mark // 1_000) * (1 if aim > mark else -1)
        while mark != aim:
            x.markets[number].mark = mark + step
            if any(tv_uusd(x, a.number) < mm_uusd(x, a.number) for a in x.traders()):
                x.markets[number].mark = mark
                break
            mark += step
        return mark

    def votes(self) -> list[Sent]:
        """All guardians agree, or one of them is alone; what is not open opens soon."""
        number = self.market(0)
        mode = act.OPEN
        if self.duel.x.markets[self.known(number)].mode == act.OPEN:
            mode = self.one_of(0, 1, 2, 3, 4)
        keys = self.one_of(GUARDIANS, GUARDIANS[:2], GUARDIANS[:1])
        return [(key, 0, [act.SetMode(number, mode)]) for key in keys]

    def batch(self, size: int, kinds: tuple[str, ...] = ()) -> Sent:
        """A batch of an account's owner: any actions, or those of certain kinds.

        Often it is somebody with less than the initial margin, who can do little but close.
        """
        x, rng = self.duel.x, self.rng
        names = kinds or tuple(name for name, weight in WEIGHTS.items() for _ in range(weight))
        everybody = [a.number for a in x.traders()]
        rich = [n for n in everybody if tv_uusd(x, n) >= DOLLAR]
        short = [n for n in everybody if tv_uusd(x, n) < im_uusd(x, n)]
        account = rng.choice(rich if rich and rng.randrange(8) else everybody)
        if short and rng.randrange(4) == 0:
            account = rng.choice(short)
            names = kinds or ("limit", "limit", "market", "modify", "position", "leverage")
        actions = [self.kinds[rng.choice(names)](account) for _ in range(size)]
        return signer(master_of(account)), account, actions

    def block(self, batches: int, size: int, kinds: tuple[str, ...] = ()) -> list[Event]:
        """A block of random batches, prices, votes, deposits and waiting."""
        rng = self.rng
        self.wait_ms = rng.choice(self.waits_ms)
        sent = [self.batch(size, kinds) for _ in range(batches)]
        closed = any(m.mode != act.OPEN for m in self.duel.x.markets)
        if rng.randrange(100) < (35 if closed else 3):
            sent += self.votes()
        stale = any(m.stale for m in self.duel.x.markets)
        if rng.randrange(100) < (70 if stale else self.prices_percent):
            sent += self.marks()
        rng.shuffle(sent)
        self.last = sent
        poor = [n for n in self.duel.accounts if tv_uusd(self.duel.x, n) < 5 * DOLLAR]
        deposits = [(n, rng.randint(1, 30 * DOLLAR)) for n in poor[:1] if rng.randrange(3) == 0]
        return self.duel.block(sent, deposits, self.wait_ms)
