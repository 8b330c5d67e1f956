"""Funding of perpetuals: premium samples, payments through the index, and the rate to come."""

from __future__ import annotations

from msgspec.structs import replace

from execution import leaves as lv
from execution.state import State
from margin.funding import (
    average_ppb,
    boundary_after,
    index_after,
    interval_rate_ppb,
    premium_ppb,
    rate_8h_ppb,
)
from margin.mark import impact_now
from margin.market import Market
from protocol.actions import HALTED
from protocol.events import FundingRate
from protocol.markets import FUNDING_SAMPLE_MS


class Funding:
    """Moves the funding indices of the shard's perpetuals; positions follow when their accounts are
    next touched (`Pricing.settle`)."""

    __slots__ = ("_markets", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._markets = [
            (lv.pricing_key(market.number), market)
            for market in state.markets
            if market.config.funding_interval_ms
        ]

    def run(self) -> None:
        """Take the samples and make the payments that are due in this block.

        A sample is taken in the first block of each `FUNDING_SAMPLE_MS` since the epoch, a payment
        made in the first block of each interval. Both rest while a market has no fresh price or is
        halted; a payment that fell due meanwhile, or during a gap between blocks, is made once,
        over the samples there are: nobody could trade against the rates that would have been.
        """
        state, now = self._state, self._state.time_ms
        moved = False
        for key, market in self._markets:
            row = state.pricing.get(key) or lv.PricingLeaf()
            if now < row.next_sample_ms and now < row.next_payment_ms:
                continue
            if not market.oracle_ticks or market.stale or market.mode == HALTED:
                continue
            if now >= row.next_sample_ms:
                row = _sampled(market, row, now)
            if not row.next_payment_ms:
                first_ms = boundary_after(now, market.config.funding_interval_ms)
                row = replace(row, next_payment_ms=first_ms)
            elif now >= row.next_payment_ms:
                row = self._pay(market, row)
                moved = True
            state.pricing.put(key, row)
        if moved:
            state.risk.version += 1

    def _pay(self, market: Market, row: lv.PricingLeaf) -> lv.PricingLeaf:
        state = self._state
        rate_ppb = _rate_ppb(market, row)
        lot_uusd = market.product.notional_uusd(1, market.oracle_ticks)
        index = index_after(market.funding_index, lot_uusd, rate_ppb)
        market.funding_index = index
        state.events.append(FundingRate(market.number, rate_ppb, index))
        return replace(
            row,
            premium_ppb=0,
            premium_samples=0,
            next_payment_ms=boundary_after(state.time_ms, market.config.funding_interval_ms),
            rate_ppb=rate_ppb,
            funding_index=index,
        )

    def predicted_ppb(self, market: Market) -> int:
        """The rate of the next payment if it were made now; 0 for a market without funding."""
        if not market.config.funding_interval_ms:
            return 0
        row = self._state.pricing.get(lv.pricing_key(market.number)) or lv.PricingLeaf()
        return _rate_ppb(market, row)


def _sampled(market: Market, row: lv.PricingLeaf, now: int) -> lv.PricingLeaf:
    ticks = market.oracle_ticks
    premium = premium_ppb(impact_now(market, ticks), ticks)
    return replace(
        row,
        premium_ppb=row.premium_ppb + premium,
        premium_samples=row.premium_samples + 1,
        next_sample_ms=boundary_after(now, FUNDING_SAMPLE_MS),
    )


def _rate_ppb(market: Market, row: lv.PricingLeaf) -> int:
    """Rate of one payment over the samples since the last one."""
    config = market.config
    premium = average_ppb(row.premium_ppb, row.premium_samples)
    rate_8h = rate_8h_ppb(premium, config.funding_interest_ppb, config.funding_cap_ppb)
    return interval_rate_ppb(rate_8h, config.funding_interval_ms)
