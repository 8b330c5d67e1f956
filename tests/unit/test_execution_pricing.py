"""What a block's prices are: median, staleness, jumps, modes, marks; and what guardians vote."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import GUARDIANS, START_MS, market
from pricing_world import Machine, PricingWorld

from execution import leaves as lv
from execution.pricing import stricter
from execution.state import State
from margin.mark import EMA_UNIT
from protocol.actions import CANCEL_ONLY, HALTED, OPEN, POST_ONLY_MODE, REDUCE_ONLY_MODE
from protocol.errors import Code
from protocol.events import MarkChanged, MarketChanged
from protocol.genesis import DAY_MS, Reopening
from protocol.markets import PPM

AGED = {"oracle_age_ms": 3_000}
JUMPY = {"oracle_deviation_ppm": 100_000, "oracle_hold_ms": 2_000}
BOOKED = {"impact_notional_uusd": 100_000_000}
KEYS = [key.hex() for key in GUARDIANS]


def world(count: int = 1, genesis: dict[str, Any] | None = None, **changes: Any) -> PricingWorld:
    return PricingWorld([market(n, **changes) for n in range(count)], **(genesis or {}))


# -- without features


def test_without_features_the_mark_is_the_median_and_nothing_else_is_written() -> None:
    w = world(2)
    w.block(20, 1_010)
    assert w.events == []
    assert w.mark() == 1_000
    w.block(20, None, 1_020)
    assert w.events == [MarkChanged(0, 1_010)]
    assert w.market().oracle_ticks == w.mark() == 1_010
    w.block(20, None, None, 1_015)
    assert w.events == [MarkChanged(0, 1_015)]
    w.block(10 * DAY_MS)
    assert w.events == []
    assert not w.market().stale
    assert not w.state.pricing.rows
    assert w.mark(1) == 1_000


def test_a_quiet_market_is_left_alone() -> None:
    w = world()
    w.all(1_010)
    w.block()
    version = w.state.risk.version
    w.block()
    assert w.state.risk.version == version
    assert set(w.changes) == {lv.CLOCK_KEY}


def test_marks_raise_the_version_and_so_does_a_new_day() -> None:
    w = world()
    version = w.state.risk.version
    w.all(1_010)
    assert w.state.risk.version > version
    version = w.state.risk.version
    w.block(DAY_MS - (w.time_ms % DAY_MS) - 1)
    assert w.state.risk.version == version
    w.block(1)
    assert w.time_ms % DAY_MS == 0
    assert w.state.risk.version == version + 1


def test_stakes_weigh_the_oracles() -> None:
    w = world(genesis={"oracle_stakes": [1, 1, 3]})
    w.block(20, 900, 900)
    assert not w.market().oracle_ticks
    w.block(20, None, None, 1_100)
    assert w.mark() == 1_100


# -- stale


def test_before_the_first_price_an_aged_market_is_stale_at_its_initial_price() -> None:
    w = world(**AGED)
    w.block()
    assert w.events == [MarketChanged(0, OPEN, True)]
    assert w.mark() == 1_000
    w.block(20, 1_010)
    assert w.market().stale
    w.block(20, None, 1_020)
    assert w.events == [MarketChanged(0, OPEN, False), MarkChanged(0, 1_010)]


def test_prices_go_stale_and_the_mark_stands() -> None:
    w = world(**AGED)
    w.all(1_010)
    w.block(2_980, 1_100)
    assert w.mark() == 1_010
    w.block(20)
    assert not w.market().stale, "as old as allowed"
    version = w.state.risk.version
    w.block(1)
    assert w.events == [MarketChanged(0, OPEN, True)]
    assert w.state.risk.version > version
    assert (w.mark(), w.market().oracle_ticks) == (1_010, 1_010)
    w.block(5, None, 1_050, 1_060)
    assert w.events == [MarketChanged(0, OPEN, False), MarkChanged(0, 1_060)]


def test_a_price_is_as_old_as_its_observation_and_never_younger_than_its_block() -> None:
    w = world(**AGED)
    w.all(1_010, late_ms=2_990)
    w.block(10)
    assert not w.market().stale
    w.block(1)
    assert w.market().stale
    w.all(1_010, late_ms=-DAY_MS)
    w.block(3_000)
    assert not w.market().stale
    w.block(1)
    assert w.market().stale


def test_vague_prices_do_not_count() -> None:
    w = world(oracle_confidence_ppm=500)
    w.all(1_010, confidence_ppm=501)
    assert w.mark() == 1_000
    assert not w.market().stale, "no price was ever known, and no age is asked for"
    w.all(1_010, confidence_ppm=500)
    assert w.mark() == 1_010
    w.all(1_020, confidence_ppm=501)
    assert w.events == [MarketChanged(0, OPEN, True)]
    assert w.mark() == 1_010
    w.block(20, 1_030, 1_030)
    assert w.events == [MarketChanged(0, OPEN, False), MarkChanged(0, 1_030)]


# -- wild


def test_a_jump_waits_until_it_has_held() -> None:
    w = world(**JUMPY)
    w.all(1_000)
    w.all(1_101)
    assert w.events == [MarketChanged(0, OPEN, True)]
    assert (w.mark(), w.market().oracle_ticks) == (1_000, 1_000)
    wild_ms = w.time_ms
    assert (w.row().wild_ms, w.row().wild_ticks) == (wild_ms, 1_101)
    w.all(1_150, 1_000)
    w.block(999)
    assert w.market().stale
    w.block(1)
    assert w.time_ms == wild_ms + 2_000
    assert w.events == [MarketChanged(0, OPEN, False), MarkChanged(0, 1_150)]
    assert not w.state.pricing.rows, "nothing is left of it"


def test_a_jump_that_goes_back_was_nothing() -> None:
    w = world(**JUMPY)
    w.all(1_000)
    w.all(1_300)
    w.all(1_020)
    assert w.events == [MarketChanged(0, OPEN, False), MarkChanged(0, 1_020)]


def test_a_jump_that_jumps_on_waits_anew() -> None:
    w = world(**JUMPY)
    w.all(1_000)
    w.all(1_300)
    w.all(700, 1_900)
    w.block(1_999)
    assert w.market().stale
    w.block(1)
    assert w.mark() == 700


# -- modes


def test_guardians_change_a_mode_by_majority() -> None:
    w = world(2, {"guardians": KEYS})
    w.block()
    assert w.vote(0, 1, HALTED) == Code.OK
    w.block()
    assert w.events == []
    assert w.vote(2, 1, HALTED) == Code.OK
    assert w.market(1).mode == OPEN, "modes are fixed for the block"
    w.block()
    assert w.events == [MarketChanged(1, HALTED, False)]
    assert (w.market(1).mode, w.market(0).mode) == (HALTED, OPEN)
    w.vote(0, 1, OPEN)
    w.block()
    assert w.market(1).mode == HALTED, "one vote withdrawn is no majority for another mode"
    w.vote(1, 1, OPEN)
    w.block()
    assert w.events == [MarketChanged(1, OPEN, False)]
    assert lv.pricing_key(1) not in w.state.pricing.rows


def test_half_of_the_guardians_are_no_majority() -> None:
    w = world(1, {"guardians": KEYS[:2]})
    w.vote(0, 0, REDUCE_ONLY_MODE)
    w.block()
    assert w.market().mode == OPEN
    w.vote(1, 0, REDUCE_ONLY_MODE)
    w.block()
    assert w.market().mode == REDUCE_ONLY_MODE


def test_votes_that_are_none() -> None:
    w = world(1, {"guardians": KEYS})
    assert w.vote(0, 1, OPEN) == Code.UNKNOWN_MARKET
    assert w.vote(0, -1, OPEN) == Code.UNKNOWN_MARKET
    assert w.vote(0, 0, 5) == w.vote(0, 0, -1) == w.vote(0, 0, 1 << 63) == Code.BAD_MODE
    assert not w.state.votes.rows


MODES = (CANCEL_ONLY, POST_ONLY_MODE, OPEN, REDUCE_ONLY_MODE, HALTED)


def test_the_stricter_mode_forbids_what_either_forbids() -> None:
    assert all(stricter(a, b) == stricter(b, a) for a in MODES for b in MODES)
    assert all(stricter(a, OPEN) == stricter(a, a) == a for a in MODES)
    assert all(stricter(a, HALTED) == HALTED for a in MODES)
    assert all(stricter(a, CANCEL_ONLY) == CANCEL_ONLY for a in MODES if a != HALTED)
    assert stricter(POST_ONLY_MODE, REDUCE_ONLY_MODE) == CANCEL_ONLY


STAGES = {"reopening": Reopening(60_000, 1_000, 2_000), "guardians": KEYS}


def test_after_a_gap_a_market_opens_in_stages_on_fresh_prices() -> None:
    w = world(1, STAGES, **AGED)
    w.all(1_000)
    w.all(1_000, 60_000)
    assert w.market().mode == OPEN, "no gap yet"
    w.block(60_001)
    assert w.events == [MarketChanged(0, CANCEL_ONLY, True)]
    w.block(5_000)
    assert w.market().mode == CANCEL_ONLY, "no price, no stage"
    w.all(900)
    assert w.events == [MarketChanged(0, CANCEL_ONLY, False), MarkChanged(0, 900)]
    w.all(900, 999)
    assert w.market().mode == CANCEL_ONLY
    w.all(900, 1)
    assert w.events == [MarketChanged(0, POST_ONLY_MODE, False)]
    w.all(900, 1_999)
    assert w.market().mode == POST_ONLY_MODE
    w.all(900, 1)
    assert w.events == [MarketChanged(0, OPEN, False)]
    assert not w.state.pricing.rows


def test_prices_that_go_stale_while_it_reopens_begin_the_stages_anew() -> None:
    w = world(1, STAGES, **AGED)
    w.all(1_000)
    w.all(1_000, 60_001)
    w.all(1_000, 1_000)
    assert w.market().mode == POST_ONLY_MODE
    w.block(3_001)
    assert w.events == [MarketChanged(0, CANCEL_ONLY, True)]
    w.all(1_000)
    w.all(1_000, 999)
    assert w.market().mode == CANCEL_ONLY
    w.all(1_000, 1)
    assert w.market().mode == POST_ONLY_MODE


def test_the_strictest_of_vote_and_stage_is_in_force() -> None:
    w = world(1, STAGES)
    w.all(1_000)
    for guardian in (0, 1):
        w.vote(guardian, 0, REDUCE_ONLY_MODE)
    w.block()
    assert w.market().mode == REDUCE_ONLY_MODE
    w.block(60_001)
    assert w.market().mode == CANCEL_ONLY
    w.block(1_000)
    assert w.market().mode == CANCEL_ONLY, "post-only and reduce-only: both allow cancels"
    w.block(2_000)
    assert w.market().mode == REDUCE_ONLY_MODE


def test_a_stage_that_equals_the_vote_ends_all_the_same() -> None:
    w = world(1, STAGES)
    w.all(1_000)
    for guardian in (0, 1):
        w.vote(guardian, 0, CANCEL_ONLY)
    w.block()
    w.block(60_001)
    assert w.row().reopened_ms
    w.block(1_000)
    w.block(2_000)
    assert not w.row().reopened_ms
    assert w.market().mode == CANCEL_ONLY


# -- marks from the book


def test_the_mark_follows_a_steady_book_slowly() -> None:
    w = world(**BOOKED)
    w.quote(1_009, 1_011)
    w.all(1_000)
    assert (w.mark(), w.row().ema) == (1_000, 0)
    w.all(1_000, 10_000)
    assert w.row().ema == 10 * EMA_UNIT * 10_000 // 160_000
    assert w.events == [MarkChanged(0, 1_001)]
    for _ in range(200):
        w.all(1_000, 10_000)
    assert w.mark() == 1_010


def test_after_a_gap_the_old_book_says_nothing_about_the_new_price() -> None:
    w = world(**BOOKED)
    w.quote(999, 1_001)
    w.all(1_000)
    w.all(900, 3_600_000)
    assert w.mark() == 900


@pytest.mark.parametrize("mode", [CANCEL_ONLY, POST_ONLY_MODE, HALTED])
def test_a_book_that_nobody_may_take_from_moves_no_mark(mode: int) -> None:
    w = world(1, {"guardians": KEYS}, **BOOKED)
    w.quote(1_009, 1_011)
    w.all(1_000)
    for guardian in range(3):
        w.vote(guardian, 0, mode)
    for _ in range(50):
        w.all(1_000, 10_000)
    assert w.mark() == 1_000


def test_a_book_that_moves_for_a_moment_moves_nothing() -> None:
    w = world(**BOOKED)
    w.all(1_000)
    w.quote(999, 1_001)
    w.all(1_000, 1_000)
    w.quote(1_180, 1_190)
    w.all(1_000, 20)
    assert w.mark() == 1_000
    w.all(1_000, 1_000)
    assert 1_000 < w.mark() <= 1_002
    w.quote(999, 1_001)
    w.all(1_000, 20)
    assert w.mark() == 1_000
    assert w.row().ema > 0, "the average has not forgotten, but the book is back"


def test_the_average_is_sampled_once_a_second() -> None:
    w = world(**BOOKED)
    w.quote(1_009, 1_011)
    w.all(1_000)
    first = w.row().sampled_ms
    for _ in range(50):
        w.block(20)
    assert w.row().sampled_ms == first + 1_000
    w.block(20)
    assert lv.pricing_key(0) not in w.changes


def test_a_one_sided_or_wide_book_says_nothing() -> None:
    for bid, ask in ((1_009, 0), (0, 991), (1_009, 1_060)):
        w = world(**BOOKED)
        w.quote(bid, ask)
        w.all(1_000)
        w.all(1_000, 150_000)
        assert (w.mark(), w.row().ema) == (1_000, 0)


def test_the_average_is_bounded_by_half_the_maintenance_rate() -> None:
    w = world(**BOOKED)
    w.quote(1_199, 1_201)
    w.all(1_000)
    for _ in range(20):
        w.all(1_000, 10_000)
    assert w.row().ema == 25 * EMA_UNIT
    assert w.mark() == 1_025
    w.quote(1_199, 1_201)
    w.all(800, 20)
    assert w.mark() == 820, "and by that of the present oracle price"


def test_while_a_market_is_stale_the_average_forgets() -> None:
    w = world(**BOOKED, **AGED)
    w.quote(1_009, 1_011)
    w.all(1_000)
    for _ in range(200):
        w.all(1_000, 3_000)
    before = w.row()
    assert before.ema > 9 * EMA_UNIT
    mark = w.mark()
    w.block(3_001)
    turned = w.row()
    w.block(150_000)
    assert w.row() == turned
    assert w.mark() == mark, "it stands while stale"
    w.all(1_000, 20)
    assert abs(w.row().ema - before.ema // 2) < EMA_UNIT // 3
    assert w.mark() < mark


# -- open interest


def test_open_interest_raises_the_initial_rate() -> None:
    w = world(scale_from_uusd=1_000_000_000, scale_to_uusd=2_000_000_000)
    w.block()
    assert w.market().scaled_ppm == 0
    w.trade(17, 18, 1_000, 1_500)
    version = w.state.risk.version
    w.block()
    assert w.market().scaled_ppm == 550_000
    assert w.state.risk.version == version + 1
    w.all(1_400)
    assert w.market().scaled_ppm == PPM, "at the new mark"
    restored = Machine(State.restore(w.chain, w.state.leaves().items()))
    assert restored.state.markets[0].scaled_ppm == PPM, "also for who asks before a block"
    w.trade(18, 17, 1_000, 1_000)
    w.block()
    assert w.market().scaled_ppm == 0


# -- accounts


def test_empty_exposures_are_forgotten_and_others_kept() -> None:
    w = world(4)
    w.block()
    account = w.account(17)
    for number in range(4):
        account.exposure(number)
    account.exposure(1).leverage = 3
    account.exposure(2).protected = True
    w.trade(17, 18, 1_000, 5, 3)
    w.pricing.settle(account)
    assert sorted(account.exposures) == [1, 2, 3]
    w.trade(18, 17, 1_000, 5, 3)
    w.pricing.settle(account)
    assert sorted(account.exposures) == [1, 2]


def test_an_exposure_whose_leaf_is_still_there_is_kept_until_the_block_ends() -> None:
    w = world()
    w.trade(17, 18, 1_000, 5)
    w.block()
    account = w.account(17)
    e = account.exposure(0)
    w.touch(account)
    w.state.risk.move(account, e, w.market(), -5, 5_000_000)
    w.pricing.settle(account)
    assert account.exposures == {0: e}


@pytest.mark.parametrize("gap_ms", [0, 5_000])
def test_the_first_block_after_genesis_may_be_a_reopening(gap_ms: int) -> None:
    w = world(1, {"reopening": Reopening(gap_ms, 1_000, 2_000)})
    w.all(1_000, 5_001)
    assert w.time_ms == START_MS + 5_001
    assert w.market().mode == (CANCEL_ONLY if gap_ms else OPEN)
