"""Fee tiers: volumes in UTC-day buckets, over the fourteen days before the present one."""

from __future__ import annotations

import random
from itertools import product

import msgspec
import pytest
from engine_world import START_MS, make_chain, market
from pricing_world import PricingWorld

from execution import leaves as lv
from execution.fees import VOLUME_DAYS, VOLUME_LIMIT_UUSD, Fees
from execution.state import State
from margin.market import Market
from protocol.errors import ConfigError
from protocol.genesis import DAY_MS, FeeTier, parse_genesis
from protocol.markets import MarketConfig
from protocol.settlement import account_number

TODAY = START_MS // DAY_MS
TIERS = [FeeTier(1_000, 400, 50), FeeTier(5_000, 300, -100)]


def world(*tiers: list[FeeTier]) -> PricingWorld:
    markets = [market(n, fee_tiers=t) for n, t in enumerate(tiers or (TIERS,))]
    return PricingWorld(markets)


def traded(w: PricingWorld, volumes: dict[int, int], dt_ms: int = 20) -> None:
    """A block in which masters traded this much."""
    w.twins = False
    fees = w.machine.fees
    w.height += 1
    w.time_ms += dt_ms
    w.state.begin(w.height, w.time_ms)
    w.pricing.begin_block()
    w.state.volume_uusd.update(volumes)
    fees.fold()
    w.changes = w.state.commit()


def days(w: PricingWorld, master: int) -> list[tuple[int, int]]:
    row = w.state.volumes.get(lv.volume_key(master))
    return [] if row is None else row.days


def tier(w: PricingWorld, number: int) -> int:
    return w.machine.fees.tier(w.account(number))


def test_volume_is_added_up_by_day() -> None:
    w = world()
    traded(w, {20: 300, 17: 5})
    traded(w, {20: 400})
    assert days(w, 20) == [(TODAY, 700)]
    traded(w, {20: 1, 17: 2}, DAY_MS)
    assert days(w, 20) == [(TODAY, 700), (TODAY + 1, 1)]
    assert days(w, 17) == [(TODAY, 5), (TODAY + 1, 2)]
    assert list(w.changes)[:2] == [lv.volume_key(17), lv.volume_key(20)]


def test_the_present_day_counts_from_the_next_one_on() -> None:
    w = world()
    traded(w, {17: 1_000})
    assert tier(w, 17) == 0
    traded(w, {}, DAY_MS - w.time_ms % DAY_MS - 1)
    assert tier(w, 17) == 0
    traded(w, {}, 1)
    assert tier(w, 17) == 1


@pytest.mark.parametrize(("volume", "expected"), [(999, 0), (1_000, 1), (4_999, 1), (5_000, 2)])
def test_a_tier_begins_at_its_volume(volume: int, expected: int) -> None:
    w = world()
    traded(w, {17: volume})
    traded(w, {}, DAY_MS)
    assert tier(w, 17) == expected


def test_volume_counts_for_fourteen_full_days() -> None:
    w = world()
    traded(w, {17: 1_000})
    traded(w, {}, VOLUME_DAYS * DAY_MS)
    assert tier(w, 17) == 1
    traded(w, {}, DAY_MS)
    assert tier(w, 17) == 0


def test_days_that_no_longer_count_are_forgotten() -> None:
    w = world()
    for _ in range(30):
        traded(w, {17: 1}, DAY_MS)
    kept = days(w, 17)
    assert len(kept) == VOLUME_DAYS + 1
    assert [day for day, _ in kept] == list(range(TODAY + 16, TODAY + 31))


def test_the_tier_stays_all_day_whatever_is_traded() -> None:
    w = world()
    traded(w, {17: 1_000})
    traded(w, {}, DAY_MS)
    account = w.account(17)
    assert tier(w, 17) == 1
    assert (account.tier, account.tier_day) == (1, w.time_ms // DAY_MS)
    traded(w, {17: 50_000})
    assert tier(w, 17) == 1
    account.tier_day = -1
    assert tier(w, 17) == 1, "also when it is worked out anew"
    traded(w, {}, DAY_MS)
    assert tier(w, 17) == 2


def test_sub_accounts_trade_at_their_masters_tier() -> None:
    w = world()
    traded(w, {17: 5_000})
    traded(w, {}, DAY_MS)
    assert tier(w, account_number(17, 3)) == 2
    assert tier(w, account_number(17, 0, 0)) == 2
    assert tier(w, account_number(18, 3)) == 0


def test_a_days_volume_stays_in_its_range() -> None:
    w = world()
    for _ in range(3):
        traded(w, {17: VOLUME_LIMIT_UUSD - 1})
    assert days(w, 17) == [(TODAY, VOLUME_LIMIT_UUSD)]
    traded(w, {}, DAY_MS)
    assert tier(w, 17) == 2


def test_without_tiers_no_volumes_are_kept() -> None:
    w = world([])
    traded(w, {17: 5_000})
    assert not w.state.volumes.rows
    assert w.market().fees_ppm == [(500, 100)]


def test_markets_may_have_tiers_at_different_volumes() -> None:
    w = world(TIERS, [], [FeeTier(2_000, 250, 0)])
    assert w.market(0).fees_ppm == [(500, 100), (400, 50), (400, 50), (300, -100)]
    assert w.market(1).fees_ppm == [(500, 100)] * 4
    assert w.market(2).fees_ppm == [(500, 100), (500, 100), (250, 0), (250, 0)]
    for volume, expected in ((0, 0), (1_000, 1), (2_000, 2), (4_999, 2), (5_000, 3)):
        traded(w, {30 + expected: volume})
        account = w.account(30 + expected)
        account.tier_day = -1
        row = w.state.volumes.get(lv.volume_key(account.number))
        assert row is not None
        w.state.volumes.put(
            lv.volume_key(account.number), lv.VolumeLeaf([(w.time_ms // DAY_MS - 1, volume)])
        )
        assert w.machine.fees.tier(account) == expected


def test_tiers_are_the_same_after_a_restore() -> None:
    w = world()
    for master, volume in ((17, 999), (18, 1_000), (19, 8_000)):
        traded(w, {master: volume})
    traded(w, {}, DAY_MS)
    state = State.restore(w.chain, w.state.leaves().items())
    fees = Fees(state)
    w.account(17)
    for number, expected in ((17, 0), (18, 1), (19, 2)):
        row = state.volumes.get(lv.volume_key(number))
        assert row == w.state.volumes.get(lv.volume_key(number))
        assert tier(w, number) == expected
        account = w.account(number)
        account.tier_day = -1
        assert fees.tier(account) == expected


# -- rebates


def pair_sums(config: MarketConfig, ticks: int, lots: int) -> list[int]:
    """What the exchange keeps of a fill, for every pair of tiers."""
    made = Market(config)
    return [
        made.product.fee_uusd(ticks, lots, taker) + made.product.fee_uusd(ticks, lots, maker)
        for (taker, _), (_, maker) in product(made.fees_ppm, repeat=2)
    ]


def test_no_pair_of_tiers_costs_the_exchange_anything() -> None:
    rng = random.Random(11)
    generous = market(
        0, lot_micro=1, taker_fee_ppm=500, maker_fee_ppm=-50,
        fee_tiers=[FeeTier(1, 300, -150), FeeTier(2, 200, -200)],
    )  # fmt: skip
    parse_genesis(msgspec.json.encode(make_chain([generous]).genesis))
    for _ in range(300):
        ticks, lots = rng.randint(1, 10**6), rng.randint(1, 10**6)
        sums = pair_sums(generous, ticks, lots)
        assert len(sums) == 9
        assert min(sums) >= 0


def test_genesis_refuses_rebates_above_the_lowest_taker_fee() -> None:
    for tiers in (
        [FeeTier(1, 300, -201), FeeTier(2, 200, 0)],
        [FeeTier(1, 200, 0), FeeTier(2, 300, -201)],
    ):
        with pytest.raises(ConfigError, match="lowest taker and maker"):
            make_chain([market(0, fee_tiers=tiers)])
