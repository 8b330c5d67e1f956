"""Margin without an engine: markets, accounts and order flow straight on `Risk`."""

from __future__ import annotations

from random import Random
from typing import Any

from margin import Account, Exposure, Market, Risk, naive
from matching import Resting
from protocol.actions import BUY, REDUCE_ONLY, SELL
from protocol.errors import Code
from protocol.markets import FeeTier, MarginTier, MarketConfig

MILLION = 1_000_000


def config(number: int, **changes: Any) -> MarketConfig:
    """A market of value 1000 uUSD per tick x lot, 10 % initial margin, mark 1000: a lot is $1."""
    fields: dict[str, Any] = {
        "market": number,
        "symbol": f"M{number}",
        "tick_uusd": 1_000_000,
        "lot_micro": 1_000,
        "initial_ppm": 100_000,
        "maintenance_ppm": 50_000,
        "taker_fee_ppm": 500,
        "maker_fee_ppm": 100,
        "min_notional_uusd": 0,
        "max_order_lots": 1_000_000,
        "max_position_lots": 10_000_000,
        "initial_price_ticks": 1_000,
    }
    return MarketConfig(**(fields | changes))


TIERS = [MarginTier(3_333_333, 170_003, 90_001), MarginTier(20_000_007, 500_000, 330_000)]
FEE_TIERS = [FeeTier(10**12, 300, -50), FeeTier(10**13, 250, -100)]


class MarginWorld:
    """Three markets and some accounts; `step` does something random and legal to them."""

    def __init__(self, seed: int, accounts: int = 5) -> None:
        self.rng = Random(seed)
        self.markets = [
            Market(config(0)),
            Market(config(1, margin_tiers=TIERS, fee_tiers=FEE_TIERS, max_position_lots=90)),
            Market(config(2, initial_ppm=33_333, maintenance_ppm=11_111, lot_micro=7_000)),
        ]
        self.risk = Risk(self.markets)
        self.accounts = {16 + n: Account(16 + n, b"") for n in range(accounts)}
        for account in self.accounts.values():
            account.cash_uusd = self.rng.randrange(1, 40) * MILLION
        self.next_id = 1
        self.fees_uusd = 0
        self.pool_uusd = 0
        self.seen: dict[str, int] = {}

    def saw(self, what: str) -> None:
        """Count what happened."""
        self.seen[what] = self.seen.get(what, 0) + 1

    def step(self) -> None:
        """One random change."""
        rng = self.rng
        market = rng.choice(self.markets)
        if rng.random() < 0.12:
            self.change_market(market)
            return
        account = rng.choice(list(self.accounts.values()))
        self.touch(account)
        act = rng.choice(
            [self.rest, self.rest, self.rest, self.take, self.take, self.shrink, self.leverage,
             self.move]
        )  # fmt: skip
        act(account, market)

    def touch(self, account: Account) -> None:
        """Settle funding and rebuild totals, as trading does first."""
        if account.version == self.risk.version:
            return
        for number, e in account.exposures.items():
            amount = self.risk.funding_uusd(e, self.markets[number])
            account.cash_uusd += amount
            self.pool_uusd -= amount
            e.funding_index = self.markets[number].funding_index
        self.risk.refresh(account)

    def change_market(self, market: Market) -> None:
        """A new mark, or something else that margin depends on."""
        rng = self.rng
        kind = rng.randrange(5)
        if kind < 3:
            mark = max(1, market.mark_ticks + rng.randrange(-40, 41))
            self.risk.set_mark(market, mark)
        elif kind == 3:
            market.stale = not market.stale
            market.scaled_ppm = rng.choice([0, 0, 70_001, 400_000])
            self.risk.version += 1
        else:
            market.funding_index += rng.randrange(-40_000, 40_001)
            self.risk.version += 1
            self.saw("funding")

    def rest(self, account: Account, market: Market) -> None:
        """Place an order a little off or through the mark; it never meets the book."""
        rng, e = self.rng, account.exposure(market.number)
        side, lots = rng.choice((BUY, SELL)), rng.randrange(1, 40)
        price = max(1, market.mark_ticks + rng.randrange(-20, 21))
        if market.book.crosses(side, price):
            return
        reduce_only = rng.random() < 0.4
        if reduce_only:
            open_lots = e.size_lots if side == SELL else -e.size_lots
            if open_lots <= 0:
                return
            lots = min(lots, open_lots)
        code = self.risk.place(account, e, market, side, price, lots, reduce_only)
        self.saw(f"{code.label}{' reduce-only' if reduce_only else ''}")
        if code:
            return
        order = Resting(
            market.number, self.next_id, account.number, 0, side, price, lots,
            REDUCE_ONLY if reduce_only else 0,
        )  # fmt: skip
        self.next_id += 1
        market.book.add(order)
        account.orders[order.order_id] = order
        if reduce_only:
            e.reducing[order.order_id] = order

    def take(self, account: Account, market: Market) -> None:
        """Trade with the best order of somebody else, where margin of both allows it."""
        rng, risk = self.rng, self.risk
        side = rng.choice((BUY, SELL))
        maker = next(iter(market.book.walk(1 - side)), None)
        if maker is None or maker.account == account.number:
            return
        owner = self.accounts[maker.account]
        self.touch(owner)
        mine, theirs = account.exposure(market.number), owner.exposures[market.number]
        lots = rng.randrange(1, maker.remaining_lots + 1)
        price = maker.price_ticks
        tier = rng.randrange(len(market.fees_ppm))
        admitted = risk.admit(account, mine, market, side, price, lots, 1)
        taken = risk.outcome(account, mine, market, side, price, lots, market.fees_ppm[tier][0],
                             None)  # fmt: skip
        made = risk.outcome(owner, theirs, market, maker.side, price, lots,
                            market.fees_ppm[tier][1], maker)  # fmt: skip
        if not risk.legal(owner, theirs, market, made):
            self.saw("maker refused")
            self.drop(owner, maker)
            return
        legal = risk.legal(account, mine, market, taken)
        if admitted == Code.OK and not legal:
            raise AssertionError("an admitted fill is not legal")
        if not legal:
            self.saw("taker refused")
            return
        self.saw("reducing fill" if taken.tv_uusd < taken.total_im_uusd else "fill")
        before = account.tv_uusd, risk.maintenance_uusd(account), mine.size_lots
        theirs_before = owner.tv_uusd, risk.maintenance_uusd(owner), theirs.size_lots
        market.book.take(side, price, lots, AlwaysGate(), 1)
        if not maker.remaining_lots:
            del owner.orders[maker.order_id]
            theirs.reducing.pop(maker.order_id, None)
        risk.commit(owner, theirs, made)
        risk.commit(account, mine, taken)
        self.fees_uusd += made.fee_uusd + taken.fee_uusd
        self.check_legality(account, mine, *before)
        self.check_legality(owner, theirs, *theirs_before)
        for holder, e in ((account, mine), (owner, theirs)):
            self.fit(holder, e)

    def check_legality(self, account: Account, e: Exposure, tv: int, mm: int, size: int) -> None:
        """What `legal` promised, said once more in plain words."""
        after_tv, after_im = naive.totals(account, self.markets)
        if after_tv >= after_im:
            return
        after_mm = self.risk.maintenance_uusd(account)
        if abs(e.size_lots) >= abs(size) or e.size_lots * size < 0:
            raise AssertionError("without initial margin a position grew or flipped")
        if after_tv * mm < tv * after_mm or (not after_mm and after_tv < 0):
            raise AssertionError("the margin ratio fell")

    def fit(self, account: Account, e: Exposure) -> None:
        """Shrink reduce-only orders to the position."""
        for order in list(e.reducing.values()):
            allowed = max(e.size_lots if order.side == SELL else -e.size_lots, 0)
            by_lots = order.remaining_lots - allowed
            if by_lots <= 0:
                continue
            self.saw("fitted")
            if allowed:
                self.markets[order.market].book.reduce(order, by_lots)
                self.risk.release(account, order, by_lots)
            else:
                self.drop(account, order)

    def drop(self, account: Account, order: Resting) -> None:
        """An order leaves the book."""
        lots = self.markets[order.market].book.cancel(order)
        del account.orders[order.order_id]
        account.exposures[order.market].reducing.pop(order.order_id, None)
        self.risk.release(account, order, lots)

    def shrink(self, account: Account, market: Market) -> None:
        """Cancel an order, or make it smaller."""
        if not account.orders:
            return
        order = self.rng.choice(list(account.orders.values()))
        by_lots = self.rng.randrange(1, order.remaining_lots + 1)
        if by_lots == order.remaining_lots:
            self.drop(account, order)
        else:
            self.markets[order.market].book.reduce(order, by_lots)
            self.risk.release(account, order, by_lots)

    def leverage(self, account: Account, market: Market) -> None:
        """Set a leverage cap."""
        account.exposure(market.number).leverage = self.rng.choice([0, 1, 3, 9])
        self.risk.refresh(account)

    def move(self, account: Account, market: Market) -> None:
        """Hand a part of a position to another account at some price, without a test."""
        rng = self.rng
        e = account.exposure(market.number)
        other = rng.choice(list(self.accounts.values()))
        if not e.size_lots or other is account or rng.random() < 0.5:
            return
        self.touch(other)
        lots = rng.randrange(1, abs(e.size_lots) + 1) * (1 if e.size_lots > 0 else -1)
        cash = lots * max(1, market.mark_ticks + rng.randrange(-9, 10)) * 1_000 + rng.randrange(9)
        theirs = other.exposure(market.number)
        preview = self.risk.moved(account, e, market, -lots, cash)
        self.risk.move(account, e, market, -lots, cash)
        self.risk.move(other, theirs, market, lots, -cash)
        if (account.tv_uusd, account.im_uusd) != (preview.tv_uusd, preview.total_im_uusd):
            raise AssertionError("a move is not what its preview says")
        for holder, exposure in ((account, e), (other, theirs)):
            self.fit(holder, exposure)
        self.saw("move")


class AlwaysGate:
    """Lets the book fill."""

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        """All of it."""
        return lots

    def filled(self, maker: Resting, lots: int) -> None:
        """Nothing to do."""

    def removed(self, maker: Resting, lots: int) -> None:
        """Never happens."""
        raise AssertionError("nobody is refused")
