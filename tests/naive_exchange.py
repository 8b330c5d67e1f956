"""A naive exchange: the rules of trading over plain lists, with nothing kept that can be asked.

It is what the engine is compared with, event by event. Written from the documented rules alone:
every margin is computed from all orders and positions, every match sorts the book anew, and what
must happen as a whole or not at all works on a copy of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import naive_backing as backing
import naive_custody as custody
import naive_requests as requests
import naive_waiting as waiting
from naive_margin import DAY_MS, up
from naive_state import Books, NaiveMarket

from protocol import actions as act
from protocol import events as ev
from protocol.errors import Code
from protocol.events import Event, Result
from protocol.genesis import Genesis
from protocol.markets import PPM
from protocol.settlement import InboxDeposit, InboxEntry

HANDLERS: dict[type, Callable[[Books, int, Any], Result]] = {
    act.Order: requests.limit_order,
    act.MarketOrder: requests.market_order,
    act.Cancel: requests.cancel,
    act.CancelClient: requests.cancel_client,
    act.CancelAll: requests.cancel_all,
    act.Reduce: requests.reduce,
    act.Modify: requests.modify,
    act.MassQuote: requests.mass_quote,
    act.Withdraw: custody.withdraw,
    act.Transfer: custody.transfer,
    act.TransferPosition: custody.transfer_position,
    act.SetLeverage: custody.set_leverage,
    act.SetProtection: custody.set_protection,
    act.TriggerOrder: waiting.trigger_order,
    act.Oco: waiting.oco,
    act.Bracket: waiting.bracket,
    act.Twap: waiting.twap,
    act.ScheduleCancel: waiting.schedule_cancel,
}


class NaiveExchange:
    """Blocks in, events out."""

    def __init__(self, genesis: Genesis) -> None:
        self.x = Books(genesis)

    def block(
        self,
        time_ms: int,
        inbox: Sequence[InboxEntry],
        batches: Sequence[tuple[bytes, act.ActionBatch]],
    ) -> list[Event]:
        """The events of a block of fresh, well signed batches of owners, oracles and guardians."""
        x = self.x
        x.time = time_ms
        x.events, x.outbox, x.traded, x.left = [], [], {}, set()
        x.fills_left = x.looks_left = x.limits.fills_per_block
        others = []
        for entry in inbox:
            if isinstance(entry, InboxDeposit):
                custody.deposit(x, entry)
            else:
                signed, forced = act.open_batch(entry.signed)
                others.append((signed.signer, forced))
        for signer, batch in batches:
            if all(type(a) is act.OraclePrice for a in batch.actions):
                results = [self._price(signer, batch, a) for a in batch.actions]
            elif all(type(a) is act.SetMode for a in batch.actions):
                results = [self._vote(signer, a) for a in batch.actions]
            else:
                others.append((signer, batch))
                continue
            self._results(signer, batch, results)
        waiting.run_expiries(x)
        for market in x.markets:
            self._fix_mark(market)
        first = [b for b in others if x.genesis.cancels_first and only_cancels(b[1])]
        for signer, batch in first:
            self._run(signer, batch)
        waiting.run_schedules(x)
        waiting.run_triggers(x)
        for signer, batch in others:
            if (signer, batch) not in first:
                self._run(signer, batch)
        backing.drop_unbacked(x)
        for master, uusd in x.traded.items():
            day = x.time // DAY_MS
            x.volumes[master, day] = x.volumes.get((master, day), 0) + uusd
        if not any(config.fee_tiers for config in x.configs):
            x.volumes = {}
        return x.events

    def _run(self, signer: bytes, batch: act.ActionBatch) -> None:
        if batch.account in self.x.accounts:
            x, of = self.x, batch.account
            found = [HANDLERS[type(action)](x, of, action) for action in batch.actions]
        else:
            found = [Result(Code.UNKNOWN_ACCOUNT) for _ in batch.actions]
        self._results(signer, batch, found)

    def _results(self, signer: bytes, batch: act.ActionBatch, results: list[Result]) -> None:
        self.x.events.append(ev.BatchExecuted(batch.account, signer, batch.nonce_ms, 0, results))

    # -- prices and modes

    def _price(self, signer: bytes, batch: act.ActionBatch, action: Any) -> Result:
        x = self.x
        if code := requests.market_code(x, action.market):
            return Result(code)
        if not 0 < action.price_ticks < requests.price_limit(x, action.market):
            return Result(Code.BAD_PRICE)
        prices = x.markets[action.market].prices
        oracle = x.oracles.index(signer)
        if oracle in prices and batch.nonce_ms < prices[oracle][1]:
            return Result(Code.STALE_ORACLE)
        prices[oracle] = (action.price_ticks, batch.nonce_ms, x.time)
        return Result(0)

    def _fix_mark(self, market: NaiveMarket) -> None:
        """The lower median of the committee, where more than half of it counts."""
        x = self.x
        config = x.configs[market.number]
        counted = sorted(
            price
            for price, nonce, received in market.prices.values()
            if not config.oracle_age_ms or x.time - min(nonce, received) <= config.oracle_age_ms
        )
        known = 2 * len(counted) > len(x.oracles)
        mode, stale = market.voted, bool(config.oracle_age_ms) and not known
        if (mode, stale) != (market.mode, market.stale):
            market.mode, market.stale = mode, stale
            x.events.append(ev.MarketChanged(market.number, mode, stale))
        if known:
            market.oracle = counted[(len(counted) - 1) // 2]
            if market.oracle != market.mark:
                market.mark = market.oracle
                x.events.append(ev.MarkChanged(market.number, market.mark))
        market.scaled = self._scaled_ppm(market)

    def _scaled_ppm(self, market: NaiveMarket) -> int:
        """The initial rate that open interest asks for."""
        config = self.x.configs[market.number]
        lots = self.x.open_interest(market.number)
        above = lots * market.mark * config.value_uusd - config.scale_from_uusd
        if not config.scale_to_uusd or above <= 0:
            return 0
        rise = (PPM - config.initial_ppm) * above
        rate = config.initial_ppm + up(rise, config.scale_to_uusd - config.scale_from_uusd)
        return min(PPM, rate)

    def _vote(self, signer: bytes, action: Any) -> Result:
        """A guardian's vote; what more than half of them want is in force at once."""
        x = self.x
        if signer not in x.guardians:
            return Result(Code.NOT_AUTHORISED)
        if code := requests.market_code(x, action.market):
            return Result(code)
        if not act.CANCEL_ONLY <= action.mode <= act.HALTED:
            return Result(Code.BAD_MODE)
        market = x.markets[action.market]
        market.votes[x.guardians.index(signer)] = action.mode
        agreed = [mode for mode in market.votes.values() if mode == action.mode]
        if 2 * len(agreed) > len(x.guardians):
            market.voted = action.mode
        return Result(0)


def only_cancels(batch: act.ActionBatch) -> bool:
    """Whether a batch comes first under `cancels_first`: it takes from nobody."""
    cancels = (act.Cancel, act.CancelClient, act.CancelAll, act.Reduce, act.MassQuote)
    return all(
        isinstance(action, cancels)
        or (isinstance(action, act.Order) and action.tif == act.POST_ONLY)
        for action in batch.actions
    )
