"""Whether a fill-or-kill order would fill as a whole, found out on copies.

Self-trade prevention, expired makers, makers without margin, protection and reduce-only orders that
shrink are met as they would be; nothing of the state changes.
"""

from __future__ import annotations

from execution.crossing import REMOVE, Crossing
from execution.leaves import settings_key
from execution.state import State
from margin.account import Account
from margin.market import Market
from matching.book import Resting
from protocol.actions import BUY, SELL, STP_CANCEL_MAKER, STP_MASTER, STP_MODES


class _Shadow:
    """A copy of an account, what is left of its reduce-only orders, and its protection."""

    __slots__ = ("_state", "account", "exposure", "fills_left", "reducing", "refused")

    def __init__(self, state: State, account: Account, market: Market) -> None:
        self._state = state
        self.account = account.clone(market.number)
        self.exposure = self.account.exposures[market.number]
        self.reducing = {key: order.remaining_lots for key, order in self.exposure.reducing.items()}
        self.fills_left = -1
        self.refused = False
        row = state.settings.get(settings_key(account.number, market.number))
        if row is not None and row.fills:
            counted = row.counted if state.time_ms - row.began_ms < row.window_ms else 0
            self.fills_left = row.fills - counted

    def count_refused(self) -> int:
        """Of the maker's orders all counted: steps that this takes, beside the one itself."""
        counted, self.refused = self.refused, True
        return 0 if counted else self._state.limits.refusal_fills - 1

    def fit(self) -> None:
        """Shrink the copies of reduce-only orders to the position."""
        size = self.exposure.size_lots
        for key, left in self.reducing.items():
            order = self.exposure.reducing[key]
            allowed = max(size if order.side == SELL else -size, 0)
            if left > allowed:
                self.reducing[key] = allowed
                self._state.risk.release(self.account, _copy(order, allowed), left - allowed)


def fillable(crossing: Crossing, state: State, limit_ticks: int, lots: int, max_steps: int) -> bool:
    """Whether the taker that `crossing.begin` set would fill `lots` within its limit and
    `max_steps` fills and removals. Looking costs as much as filling, and has a budget of its own in
    a block (`looks_left`): an order that uses it up would not fill."""
    market, side = crossing.market, crossing.side
    open_interest_lots = market.open_interest_lots
    taker = _Shadow(state, crossing.account, market)
    owners: dict[int, _Shadow] = {}
    found = False
    for maker in market.book.walk(SELL if side == BUY else BUY):
        state.looks_left -= 1
        beyond = maker.price_ticks > limit_ticks if side == BUY else maker.price_ticks < limit_ticks
        if beyond or max_steps <= 0 or state.looks_left < 0:
            break
        filled, used = _look(crossing, state, maker, owners, taker, lots, max_steps)
        state.looks_left -= max(used - 1, 0)
        max_steps -= used
        lots -= filled
        found = filled >= 0 and not lots
        if found or filled < 0:
            break
    market.open_interest_lots = open_interest_lots
    return found


def _look(
    crossing: Crossing,
    state: State,
    maker: Resting,
    owners: dict[int, _Shadow],
    taker: _Shadow,
    lots: int,
    max_steps: int,
) -> tuple[int, int]:
    """(lots that the maker would fill, steps it takes); lots below 0: the taker could not go on."""
    owner = state.accounts[maker.account]
    if maker.expires_ms and maker.expires_ms < state.time_ms:
        return 0, 1
    if owner is crossing.account or (
        crossing.flags & STP_MASTER and owner.master == crossing.account.master
    ):
        return (0, 1) if crossing.flags & STP_MODES == STP_CANCEL_MAKER else (-1, 0)
    shadow = owners.get(owner.number)
    if shadow is None:
        crossing.touch(owner)
        shadow = owners[owner.number] = _Shadow(state, owner, crossing.market)
    return _fill(crossing, maker, shadow, taker, lots, max_steps)


def _fill(
    crossing: Crossing, maker: Resting, shadow: _Shadow, taker: _Shadow, lots: int, max_steps: int
) -> tuple[int, int]:
    """(lots that the maker would fill, steps it takes); lots below 0: the taker could not go on."""
    risk = crossing.risk
    resting = _copy(maker, shadow.reducing.get(maker.order_id, maker.remaining_lots))
    filled = steps = 0
    while filled < lots and resting.remaining_lots and shadow.fills_left and steps < max_steps:
        wanted = min(lots - filled, resting.remaining_lots)
        fill = crossing.terms(
            resting, shadow.account, shadow.exposure, taker.account, taker.exposure, wanted
        )
        maker_out, taker_out = crossing.maker_out, crossing.taker_out
        crossing.maker_out = crossing.taker_out = None
        if fill < REMOVE:
            return -1, steps
        steps += 1
        if maker_out is None or taker_out is None:
            steps += shadow.count_refused()
            left = resting.remaining_lots
            resting.remaining_lots = 0
            risk.release(shadow.account, resting, left)
            shadow.reducing.pop(maker.order_id, None)
            break
        crossing.count_open_interest(shadow.exposure.size_lots, maker_out.size_lots)
        crossing.count_open_interest(taker.exposure.size_lots, taker_out.size_lots)
        risk.commit(shadow.account, shadow.exposure, maker_out)
        risk.commit(taker.account, taker.exposure, taker_out)
        resting.remaining_lots -= fill
        if maker.order_id in shadow.reducing:
            shadow.reducing[maker.order_id] = resting.remaining_lots
        shadow.fit()
        taker.fit()
        shadow.fills_left -= 1
        if not shadow.fills_left:
            steps += shadow.count_refused()
        filled += fill
    return filled, steps


def _copy(order: Resting, lots: int) -> Resting:
    return Resting(
        order.market, order.order_id, order.account, order.client_id, order.side,
        order.price_ticks, lots, order.flags, order.expires_ms, order.link,
    )  # fmt: skip
