"""Closing the positions of accounts that are worth nothing against those who profit.

The insurance fund pays first. What it cannot pay is shared by the counterparties that take the
positions over, in cash; what they cannot carry without falling below maintenance is bad debt.
"""

from __future__ import annotations

from collections.abc import Iterable

from execution.liquidation_moves import Items, Moves, off_book
from execution.realised import Realised
from execution.receipts import Receipts
from execution.state import State
from execution.trading import Trading
from margin.account import Account, Exposure
from margin.deleveraging import (
    HOUR_MS,
    Opposite,
    Ranking,
    allocate,
    divide_lots,
    divide_shortfall,
    haircut_room_uusd,
)
from margin.holders import Holders
from margin.liquidation import SAFE, stage
from margin.market import Market
from protocol.errors import SafetyViolation
from protocol.events import LIQUIDATION_DELEVERAGED, BadDebt, Fill
from protocol.settlement import master_of

LATE_MOST = 4_096
"""So many changes of a market wait for the next ranking; more are taken over when they come."""


class Opposites:
    """Who holds positions in each market, ranked by profit when a deleveraging asks.

    Positions that changed since the last ranking are taken over by the next one. Rankings live no
    longer than the block and follow what it does.
    """

    __slots__ = (
        "_holders", "_hours", "_kin", "_late", "_moves", "_rankings", "_realised", "_seen",
        "_state",
    )  # fmt: skip

    def __init__(self, state: State, realised: Realised, moves: Moves) -> None:
        self._state = state
        self._realised = realised
        self._moves = moves
        self._holders = [Holders() for _ in state.markets]
        self._kin: list[dict[int, dict[int, None]]] = [{} for _ in state.markets]
        """Holders of each market by master: what one does changes the profit of all of them."""
        self._late: list[dict[int, None]] = [{} for _ in state.markets]
        """Accounts by market whose rows are out of date."""
        self._hours = [0] * len(state.markets)
        """Hour of each market's last ranking: later, other hours count."""
        self._rankings: dict[int, tuple[Ranking, Ranking]] = {}
        """Rankings of the shorts and of the longs, by market."""
        self._seen = 0
        self.begin(state.accounts)

    def begin(self, changed: Iterable[int]) -> None:
        """A block's liquidations begin; these accounts changed since the last one's."""
        late = self._late
        for number in changed:
            for market in self._state.accounts[number].exposures:
                late[market][number] = None
        for market, numbers in enumerate(late):
            if len(numbers) >= LATE_MOST:
                self._take_over(market)
        self._rankings = {}
        self._seen = len(self._state.events)
        self._moves.changed.clear()

    def ranking(self, market: Market, longs: bool) -> Ranking:
        """The longs or the shorts of a market as they stand now."""
        self.follow()
        found = self._rankings.get(market.number)
        if found is None:
            self._take_over(market.number)
            found = self._rankings[market.number] = (
                self._ranked(market, False), self._ranked(market, True)
            )  # fmt: skip
        return found[longs]

    def _ranked(self, market: Market, longs: bool) -> Ranking:
        def first(count: int) -> list[Opposite]:
            return holders.first(market, longs, count)

        def holds(number: int) -> bool:
            # A closed position may have been forgotten before anybody was told.
            return self._side(number, market.number) == longs

        holders = self._holders[market.number]
        return Ranking(first, holds)

    def _take_over(self, market: int) -> None:
        """Bring the rows of a market up to date."""
        holders, kin, late = self._holders[market], self._kin[market], self._late[market]
        hour = self._state.time_ms // HOUR_MS
        if hour != self._hours[market]:
            self._hours[market] = hour
            late.update(dict.fromkeys(holders.accounts()))
        masters: dict[int, None] = {}
        for number in late:
            master = master_of(number)
            masters[master] = None
            kin.setdefault(master, {})[number] = None
        self._late[market] = {}
        for master in masters:
            for number in list(kin[master]):
                e = self._state.accounts[number].exposures.get(market)
                if e is not None and e.size_lots:
                    holders.put(number, e.size_lots, self._gain_uusd(e))
                else:
                    holders.put(number, 0, 0)
                    del kin[master][number]
            if not kin[master]:
                del kin[master]

    def _gain_uusd(self, e: Exposure) -> int:
        """Profit of a position without what it is worth: realised within a day, less its cost."""
        return self._realised.share_uusd(e.account, e.market) - e.cost_uusd

    def _side(self, account: int, market: int) -> bool | None:
        """Whether an account is long (True) or short (False) in a market, None for neither."""
        e = self._state.accounts[account].exposures.get(market)
        return e.size_lots > 0 if e is not None and e.size_lots else None

    def opposite(self, number: int, market: Market) -> Opposite:
        """An account's size and profit in a market."""
        e = self._state.accounts[number].exposures.get(market.number)
        if e is None or not e.size_lots:
            return Opposite(number, 0, 0)
        profit_uusd = market.product.value_uusd(e.size_lots, market.mark_ticks)
        return Opposite(number, profit_uusd + self._gain_uusd(e), abs(e.size_lots))

    def follow(self) -> None:
        """Take over what fills and moves changed since the last look."""
        events, moved = self._state.events, self._moves.changed
        for event in events[self._seen :]:
            if type(event) is Fill:
                moved[event.maker_account, event.market] = None
                moved[event.taker_account, event.market] = None
        self._seen = len(events)
        for number, market in moved:
            self._late[market][number] = None
            self._kin[market].setdefault(master_of(number), {})[number] = None
        masters = {(master_of(number), market): None for number, market in moved}
        for master, market in masters:
            if market in self._rankings:
                for number in self._kin[market][master]:
                    self._put(number, market)
        moved.clear()

    def _put(self, number: int, market: int) -> None:
        """An account stands elsewhere in the rankings of a market."""
        side = self._side(number, market)
        for longs, ranking in enumerate(self._rankings[market]):
            if side == bool(longs):
                ranking.put(self.opposite(number, self._state.markets[market]))
            else:
                ranking.put(Opposite(number, 0, 0))


class Deleveraging:
    """Makes accounts flat at the expense of the insurance fund and of their counterparties."""

    __slots__ = ("_bearers", "_moves", "_receipts", "_state", "_trading", "opposites")

    def __init__(
        self,
        state: State,
        trading: Trading,
        receipts: Receipts,
        moves: Moves,
        opposites: Opposites,
    ) -> None:
        self._bearers: dict[int, tuple[Market, int]] = {}
        """Counterparties of the account in hand that may carry something, in their rank: where they
        took a position over first, and the worth of all that they took."""
        self._state = state
        self._trading = trading
        self._receipts = receipts
        self._moves = moves
        self.opposites = opposites

    def close(self, account: Account, rank: int, items: Items) -> None:
        """Close an account with TV <= 0. Positions in stale or frozen markets stay, with their
        share of the shortfall; when the budget ends, so does the rest until the next block."""
        state, risk = self._state, self._state.risk
        tv, mm = risk.liquidation(account)
        held = self._moves.positions(account)
        movable = [e for e in held if off_book(state.markets[e.market])]
        if held and not movable:
            return
        self._bearers = {}
        weights = [risk.maintenance_of_uusd(state.markets[e.market], e.size_lots) for e in movable]
        due_uusd = max(-tv, 0)
        if len(movable) < len(held):
            due_uusd = -(-due_uusd * sum(weights) // mm)
        paid_uusd = min(max(state.insurance.cash_uusd, 0), due_uusd)
        if paid_uusd:
            self._moves.pay(account, paid_uusd)
        shares = allocate(due_uusd - paid_uusd, weights, [due_uusd] * len(weights))
        left_uusd = 0
        if not held:
            left_uusd = due_uusd - paid_uusd
            market = state.markets[0]
            self._add(account, account, market, 0, 0, (tv, mm), rank, -paid_uusd, left_uusd)
        for e, share_uusd in zip(movable, shares, strict=True):
            if items.over:
                return
            left_uusd = self._close_position(
                account, e, left_uusd + share_uusd, rank, items, paid_uusd, (tv, mm)
            )
            paid_uusd, (tv, mm) = 0, risk.liquidation(account)
        if left_uusd and not any(e.size_lots for e in movable):
            left_uusd -= self._share_rest(account, left_uusd, rank)
            if left_uusd:
                self._owe(account, left_uusd)

    def _share_rest(self, account: Account, rest_uusd: int, rank: int) -> int:
        """Share what the last steps could not carry among all counterparties of the account, in
        proportion to what they took, in cash alone; returns the sum of haircuts."""
        accounts, risk = self._state.accounts, self._state.risk
        others = [accounts[number] for number in self._bearers]
        weights = [worth_uusd for _, worth_uusd in self._bearers.values()]
        standing = [risk.liquidation(other) for other in others]
        cuts = divide_shortfall(rest_uusd, weights, [haircut_room_uusd(*one) for one in standing])
        if not sum(cuts):
            return 0
        market = next(iter(self._bearers.values()))[0]
        before = risk.liquidation(account)
        self._add(account, account, market, 0, sum(cuts), before, rank, 0, rest_uusd)
        for place, (other, cut) in enumerate(zip(others, cuts, strict=True)):
            if cut:
                market = self._bearers[other.number][0]
                self._add(other, account, market, 0, -cut, standing[place], place, 0, cut)
                self._moves.transfer(other, account, cut)
        return sum(cuts)

    def _owe(self, account: Account, amount_uusd: int) -> None:
        """What nobody could carry becomes open bad debt: the fund's cash falls below 0."""
        self._moves.pay(account, amount_uusd)
        total_uusd = -self._state.insurance.cash_uusd
        self._state.events.append(BadDebt(account.number, amount_uusd, total_uusd))

    def reduce(self, account: Account, items: Items) -> None:
        """Close positions of an account with TV > 0 at the mark, one after another, until it is no
        longer below maintenance: the backstop's own end."""
        risk, markets = self._state.risk, self._state.markets
        for e in self._moves.positions(account):
            tv, mm = risk.liquidation(account)
            if items.over or stage(tv, mm) == SAFE:
                return
            if off_book(markets[e.market]):
                self._close_position(account, e, 0, 0, items, 0, (tv, mm))

    def _close_position(
        self,
        account: Account,
        e: Exposure,
        share_uusd: int,
        rank: int,
        items: Items,
        paid_uusd: int,
        before: tuple[int, int],
    ) -> int:
        """Close a position, in as many steps as its counterparties need; returns what of its share
        of the shortfall they could not carry. `paid_uusd`, `before`: what the fund has just paid,
        and TV and MM before that, for the first step's receipt."""
        market = self._state.markets[e.market]
        ranking = self.opposites.ranking(market, e.size_lots < 0)
        place = 0
        while e.size_lots and (place == 0 or not items.over):
            size = abs(e.size_lots)
            taken = ranking.take(self._state.limits.deleverage_counterparties)
            parts = divide_lots(size, taken)
            lots = sum(parts)
            if not lots:
                raise SafetyViolation(f"market {market.number}: nobody is opposite to {size} lots")
            part_uusd = share_uusd if lots == size else share_uusd * lots // size
            carried = self._step(
                account, e, taken, parts, part_uusd, (rank, place), paid_uusd, before
            )
            share_uusd -= carried
            place += len(taken)
            items.spend(sum(1 for part in parts if part))
            for opposite, part in zip(taken, parts, strict=True):
                if not part:
                    ranking.put(opposite)
            paid_uusd, before = 0, self._state.risk.liquidation(account)
        return share_uusd

    def _step(
        self,
        account: Account,
        e: Exposure,
        opposites: list[Opposite],
        parts: list[int],
        share_uusd: int,
        places: tuple[int, int],
        paid_uusd: int,
        before: tuple[int, int],
    ) -> int:
        """One step: each opposite takes its part and its haircut; returns the sum of haircuts."""
        market, accounts = self._state.markets[e.market], self._state.accounts
        rank, place = places
        others = [accounts[opposite.account] for opposite in opposites]
        standing = [
            self._standing(other, market, part) for other, part in zip(others, parts, strict=True)
        ]
        cuts = divide_shortfall(share_uusd, parts, [room for _, _, room in standing])
        sign = 1 if e.size_lots > 0 else -1
        worth_uusd = market.product.value_uusd(sign * sum(parts), market.mark_ticks)
        self._add(
            account, account, market, -sign * sum(parts), worth_uusd + sum(cuts), before, rank,
            -paid_uusd, share_uusd,
        )  # fmt: skip
        for number, (other, part, cut) in enumerate(zip(others, parts, cuts, strict=True)):
            if not part:
                continue
            cash_uusd = market.product.value_uusd(sign * part, market.mark_ticks) + cut
            self._add(
                other, account, market, sign * part, -cash_uusd, standing[number][:2],
                place + number, 0, cut,
            )  # fmt: skip
            self._moves.exchange(other, account, market, sign * part, -cash_uusd)
            tv, mm, _ = standing[number]
            if tv >= mm:
                first, worth = self._bearers.get(other.number, (market, 0))
                worth += market.product.notional_uusd(part, market.mark_ticks)
                self._bearers[other.number] = (first, worth)
        return sum(cuts)

    def _standing(self, other: Account, market: Market, lots: int) -> tuple[int, int, int]:
        """TV and MM of a counterparty, and the most that it can lose when it closes this many lots:
        nothing where it is below maintenance itself."""
        risk = self._state.risk
        self._trading.touch(other)
        tv, mm = risk.liquidation(other)
        if tv < mm or not lots:
            return tv, mm, 0
        size = other.exposures[market.number].size_lots
        after = size - lots if size > 0 else size + lots
        released = risk.maintenance_of_uusd(market, size) - risk.maintenance_of_uusd(market, after)
        return tv, mm, haircut_room_uusd(tv, mm - released)

    def _add(
        self,
        account: Account,
        of_account: Account,
        market: Market,
        size_lots: int,
        amount_uusd: int,
        before: tuple[int, int],
        rank: int,
        insurance_uusd: int,
        share_uusd: int,
    ) -> None:
        self._receipts.add(
            LIQUIDATION_DELEVERAGED, account.number, of_account.number, market.number, size_lots,
            market.mark_ticks, 0, amount_uusd, *before, rank, insurance_uusd, share_uusd,
        )  # fmt: skip
