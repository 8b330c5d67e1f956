"""Posted marks and funding indices: what oracle prices and time allow, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import ORACLES, START_MS, World, accept, market

from execution.native import NativeState, price_changes
from margin.funding import index_after, interval_rate_ppb
from protocol.actions import OraclePrice
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.prices import PriceChange

HOUR_MS = 3_600_000
CAP_PPB = 40_000_000
EXPIRY_MS = START_MS + 100_000


class Follower:
    """A native state of one market, fed with oracle prices and posted changes."""

    def __init__(self, **rules: Any) -> None:
        self.world = World([market(0, **rules)], accounts=0, dollars=0)
        self.native = NativeState(self.world.chain)
        self.time_ms = START_MS

    @property
    def chain(self) -> Chain:
        return self.world.chain

    def block(
        self, *posted: PriceChange, price: int = 0, after_ms: int = 10, sent: tuple[Any, ...] = ()
    ) -> None:
        """The next block; `price`: what all oracles tell in it (0: nothing)."""
        self.time_ms += after_ms
        tell = [OraclePrice(0, price)] if price else []
        raws = [self.world.batch(0, *tell, by=oracle) for oracle in ORACLES if tell]
        self.world.nonce = max(self.world.nonce, self.time_ms)
        self.native.apply(self.time_ms, [], [*raws, *sent], list(posted), accept)

    def refusal(self, *posted: PriceChange, **block: Any) -> Code:
        """Why a block with these changes is refused; the state is as before it."""
        leaves, time_ms = self.native.leaves(), self.time_ms
        with pytest.raises(Rejected) as caught:
            self.block(*posted, **block)
        self.native, self.time_ms = NativeState.restore(self.chain, leaves.items()), time_ms
        return caught.value.code


def mark(ticks: int, index: int = 0) -> PriceChange:
    return PriceChange(0, ticks, index)


def test_a_mark_without_a_book_is_the_committees_median() -> None:
    follower = Follower()
    # Nobody told a price yet: the mark stands where genesis puts it.
    assert follower.refusal(mark(1_001)) == Code.STALE_PRICES_MOVED
    follower.block(mark(1_010), price=1_010)
    # The wrong median: another price than the one that most of the committee told.
    low, high = (OraclePrice(0, ticks) for ticks in (1_011, 1_030))
    told = tuple(
        follower.world.batch(0, action, by=oracle)
        for action, oracle in zip((low, low, high), ORACLES, strict=True)
    )
    for wrong in (1_009, 1_012, 1_030):
        assert follower.refusal(mark(wrong), sent=told) == Code.MARK_OUT_OF_BAND
    assert follower.refusal(sent=told) == Code.MARK_OUT_OF_BAND
    follower.block(mark(1_011), sent=told)
    assert follower.native.prices[0].oracle_ticks == 1_011


def test_a_mark_with_a_book_stays_inside_its_band() -> None:
    # The band is half of the maintenance rate: 2.5 % of 10,000 ticks.
    follower = Follower(
        impact_notional_uusd=1_000_000, initial_price_ticks=10_000, max_open_interest_lots=1_000
    )
    for wrong in (9_749, 10_251):
        assert follower.refusal(mark(wrong), price=10_000) == Code.MARK_OUT_OF_BAND
    follower.block(mark(10_250), price=10_000)
    follower.block(mark(9_750))
    follower.block()
    # The oracle moves away: what stood at the edge has to follow.
    assert follower.refusal(price=10_001) == Code.MARK_OUT_OF_BAND


def test_stale_and_wild_prices_move_nothing() -> None:
    follower = Follower(
        oracle_age_ms=1_000, oracle_deviation_ppm=100_000, oracle_hold_ms=5_000,
        funding_interval_ms=HOUR_MS,
    )  # fmt: skip
    follower.block(mark(1_000 + 5), price=1_005)
    # Wild: further than a tenth at once.
    assert follower.refusal(mark(1_300), price=1_300) == Code.STALE_PRICES_MOVED
    follower.block(price=1_300)
    assert follower.native.prices[0].oracle_ticks == 1_005
    # Stale: nobody told a price for longer than its age.
    assert follower.refusal(mark(1_004), after_ms=2_000) == Code.STALE_PRICES_MOVED
    assert follower.refusal(mark(1_005, 7), after_ms=2 * HOUR_MS) == Code.STALE_PRICES_MOVED
    follower.block(after_ms=2_000)


def test_funding_moves_once_per_interval_and_by_its_cap() -> None:
    follower = Follower(funding_interval_ms=HOUR_MS)
    # One payment: 4 % / 8 of a lot of 1,000 ticks x 1,000 uUSD.
    most = index_after(0, 1_000_000, interval_rate_ppb(CAP_PPB, HOUR_MS))
    follower.block(price=1_000)
    assert follower.refusal(mark(1_000, 1)) == Code.FUNDING_BEYOND_CAP
    for wrong in (most + 1, -most - 1):
        found = follower.refusal(mark(1_000, wrong), after_ms=2 * HOUR_MS)
        assert found == Code.FUNDING_BEYOND_CAP
    follower.block(mark(1_000, most), after_ms=2 * HOUR_MS)
    # However long it has been, the next one comes in the next interval.
    assert follower.refusal(mark(1_000, most + 1)) == Code.FUNDING_BEYOND_CAP
    follower.block(mark(1_000, 0), after_ms=HOUR_MS)
    assert follower.native.prices[0].moved_ms == follower.time_ms


def test_a_market_without_funding_never_pays() -> None:
    follower = Follower()
    follower.block(price=1_000)
    assert follower.refusal(mark(1_000, 1), after_ms=9 * HOUR_MS) == Code.FUNDING_BEYOND_CAP


def test_a_dated_future_ends_between_the_prices_of_its_window() -> None:
    follower = Follower(expires_ms=EXPIRY_MS, settle_window_ms=20_000)
    follower.block(mark(1_010), price=1_010, after_ms=75_000)
    follower.block(mark(1_100), price=1_100, after_ms=10_000)
    # Inside the window the mark is a blend of what was and what is.
    assert follower.refusal(mark(1_101)) == Code.MARK_OUT_OF_BAND
    follower.block(mark(1_050))
    assert follower.refusal(mark(1_009)) == Code.MARK_OUT_OF_BAND
    follower.block(mark(1_020), after_ms=20_000)
    # Over: it may stay where it is, whatever the oracles say, and nowhere else but in the average.
    follower.block(price=2_000)
    assert follower.refusal(mark(900)) == Code.MARK_OUT_OF_BAND


def test_a_mark_that_open_interest_may_hold_back_may_stay() -> None:
    top = (1 << 31) - 1
    free, capped = Follower(), Follower(max_open_interest_lots=1_000)
    free.block(price=top)
    assert capped.refusal(price=top) == Code.MARK_OUT_OF_BAND


def test_price_changes_are_a_list_of_changes() -> None:
    world = World([market(0), market(1)], accounts=0, dollars=0)
    told = [
        world.batch(0, OraclePrice(0, 1_001), OraclePrice(1, 1_001), by=oracle)
        for oracle in ORACLES
    ]
    one, two = PriceChange(0, 1_001, 0), PriceChange(1, 1_001, 0)
    same, none = PriceChange(1, 1_000, 0), PriceChange(2, 1_000, 0)
    for wrong in ([two, one], [one, one, two], [one, same], [one, two, none]):
        with pytest.raises(Rejected) as caught:
            NativeState(world.chain).apply(START_MS + 1, [], told, wrong, accept)
        assert caught.value.code == Code.BAD_PRICES
    NativeState(world.chain).apply(START_MS + 1, [], told, [one, two], accept)


def test_a_prover_reads_the_changes_off_the_leaves_of_a_block() -> None:
    rules = market(0, funding_interval_ms=HOUR_MS)
    world = World([rules, market(1)], block_ms=HOUR_MS // 2)
    native = NativeState(world.chain)
    world.block([world.batch(0, OraclePrice(0, 1_003), by=oracle) for oracle in ORACLES])
    assert price_changes(native.posted(), world.last.changes) == [PriceChange(0, 1_003, 0)]
    world.block([])
    assert price_changes(native.posted(), world.last.changes) == []
    world.block([])
    [change] = price_changes(native.posted(), world.last.changes)
    # Nobody quotes: the index moves by the interest rate.
    assert change == PriceChange(0, 1_000, index_after(0, 1_003_000, 100_000 // 8))
