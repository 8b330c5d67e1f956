"""What must stand behind the triggers of an account while they wait.

A trigger pays no fee and holds no margin. So that nobody fills a market with them for nothing, all
that wait for an account are asked for margin together, as if they rested at the mark: a side's lots
count by how far they could take the position beyond where orders may. A linked pair counts once,
with the larger of both, and not for what a resting order of it counts already. A reduce-only
trigger opens nothing; it counts as the least order of its market.

What closes asks for nothing up to twice the position: a stop and a take-profit for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from execution.leaves import parse_trigger_key
from execution.state import State
from margin.account import Account, Exposure
from margin.market import Market
from protocol.actions import REDUCE_ONLY, Order, TriggerOrder
from protocol.errors import Code

Weight = tuple[int, int, int]
"""What a trigger counts for: market, side, lots."""

Needs = dict[int, list[int]]
"""By market, the margin that all buys ask for beyond orders and position, and that of all sells.
The larger one counts: the position that both lead to is smaller than that of one."""


class TriggerBacking:
    """Answers for the triggers of one account, whose totals must be fresh; changes nothing. The
    work is that of looking at all of them, `triggers_per_account` at most."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def refusal(self, account: Account, *legs: TriggerOrder | Order) -> Code:
        """Whether margin speaks against another trigger, or another pair. One that raises nothing
        in its market is fine, whatever the account lacks."""
        market, side = self._state.markets[legs[0].market], legs[0].side
        lots = _lots_by_market(self.weights(account).values())
        lots.setdefault(market.number, [0, 0])
        needs = self._needs(account, lots)
        before_uusd = max(needs[market.number])
        more = lots[market.number]
        more[side] += max(_leg_lots(market, leg) for leg in legs)
        needs |= self._needs(account, {market.number: more})
        if max(needs[market.number]) <= before_uusd:
            return Code.OK
        covered = _total_uusd(needs) <= account.tv_uusd - account.im_uusd
        return Code.OK if covered else Code.INSUFFICIENT_MARGIN

    def first_unbacked(self, account: Account) -> int:
        """The trigger to drop first as long as margin does not cover all (0: it does): the newest
        of those on a side that counts."""
        weights = self.weights(account)
        needs = self._needs(account, _lots_by_market(weights.values()))
        if _total_uusd(needs) <= max(account.tv_uusd - account.im_uusd, 0):
            return 0
        return max(
            trigger_id
            for trigger_id, (market, side, _) in weights.items()
            if needs[market][side] == max(needs[market]) > 0
        )

    def weights(self, account: Account) -> dict[int, Weight]:
        """What the triggers count for, where they do; a pair of triggers under the older id."""
        markets, rows, waiting = self._state.markets, self._state.triggers.rows, account.triggers
        found = {}
        for trigger_id, key in waiting.items():
            row = rows[key]
            market = markets[parse_trigger_key(key)[0]]
            lots = _lots(market, row.flags, row.size_lots)
            if row.link in waiting:
                if row.link < trigger_id:
                    continue
                other = rows[waiting[row.link]]
                lots = max(lots, _lots(market, other.flags, other.size_lots))
            elif row.link:
                order = account.orders[row.link]
                lots -= 0 if order.flags & REDUCE_ONLY else order.remaining_lots
            if lots > 0 and not market.settled_ticks:
                found[trigger_id] = (market.number, row.side, lots)
        return found

    def _needs(self, account: Account, lots: dict[int, list[int]]) -> Needs:
        needs = {}
        for number, (bid_lots, ask_lots) in lots.items():
            market = self._state.markets[number]
            e = account.exposures.get(number) or Exposure(account.number, number)
            base_uusd = _initial_uusd(market, e, 0, 0)
            needs[number] = [
                _initial_uusd(market, e, bid_lots, 0) - base_uusd,
                _initial_uusd(market, e, 0, ask_lots) - base_uusd,
            ]
        return needs


def nothing_to_reduce(account: Account, market: int) -> bool:
    """Whether an account has neither a position in a market nor an order that may make one."""
    e = account.exposures.get(market)
    return e is None or not (e.size_lots or e.bid_lots or e.ask_lots)


def _total_uusd(needs: Needs) -> int:
    return sum(max(sides) for sides in needs.values())


def _lots_by_market(weights: Iterable[Weight]) -> dict[int, list[int]]:
    """The lots of buys and of sells."""
    lots: dict[int, list[int]] = {}
    for number, side, more in weights:
        if number not in lots:
            lots[number] = [0, 0]
        lots[number][side] += more
    return lots


def _leg_lots(market: Market, leg: TriggerOrder | Order) -> int:
    """An order is asked for margin when it enters; the pair is asked for what is larger."""
    if isinstance(leg, Order) and leg.flags & REDUCE_ONLY:
        return 0
    return _lots(market, leg.flags, leg.size_lots)


def _lots(market: Market, flags: int, size_lots: int) -> int:
    return _least_lots(market) if flags & REDUCE_ONLY else size_lots


def _least_lots(market: Market) -> int:
    """Lots of the least order of a market, at its mark."""
    least_uusd = market.min_notional_uusd
    if not least_uusd:
        return 0
    return -(-least_uusd // market.product.notional_uusd(1, market.mark_ticks))


def _initial_uusd(market: Market, e: Exposure, bid_lots: int, ask_lots: int) -> int:
    """Initial margin of the position and the orders at the mark, with so much more resting."""
    return market.product.initial_uusd(
        e.size_lots, e.bid_lots + bid_lots, e.ask_lots + ask_lots, e.reduce_bid_lots,
        e.reduce_ask_lots, market.mark_ticks, market.scaled_ppm, e.leverage,
    )  # fmt: skip
