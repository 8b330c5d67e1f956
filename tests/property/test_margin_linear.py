"""Tiers, rounding and the last safe mark of a linear contract, over random rules and positions."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from margin.linear import LinearPerpetual, MarginRates, Tiers
from protocol.markets import PPM, MarginTier

LIMIT_TICKS = 1 << 31


@st.composite
def tier_rules(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """(first rate, [(notional, rate)]) as genesis allows them."""
    rates = sorted(draw(st.lists(st.integers(1, PPM), min_size=1, max_size=5)))
    highest = draw(st.sampled_from([12, 1_000, 1 << 50]))
    steps = sorted(
        draw(
            st.lists(
                st.integers(1, highest), min_size=len(rates) - 1, max_size=len(rates) - 1,
                unique=True,
            )
        )
    )  # fmt: skip
    return rates[0], list(zip(steps, rates[1:], strict=True))


@st.composite
def contracts(draw: st.DrawFn) -> LinearPerpetual:
    """A contract with 0 to 4 tiers."""
    first, above = draw(tier_rules())
    rules = [(first, 0)] + [(rate, notional) for notional, rate in above]
    tiers, least = [], 1
    for initial, notional in rules:
        # Maintenance stays below initial and never falls.
        least = draw(st.integers(least, max(least, initial - 1)))
        tiers.append(MarginTier(notional, initial, least))
    rates = MarginRates(tiers[0].initial_ppm, tiers[0].maintenance_ppm)
    return LinearPerpetual(draw(st.integers(1, (1 << 15) - 1)), rates, tiers[1:])


def marginal_sum(notional: int, first_ppm: int, above: list[tuple[int, int]]) -> Fraction:
    """Every part of the notional at the rate of the tier it lies in."""
    total = Fraction(0)
    bounds = [0] + [start for start, _ in above]
    rates = [first_ppm] + [rate for _, rate in above]
    for index, rate in enumerate(rates):
        end = bounds[index + 1] if index + 1 < len(bounds) else notional
        total += Fraction(rate, PPM) * max(0, min(end, notional) - bounds[index])
    return total


@given(tier_rules(), st.integers(0, 1 << 52))
def test_margin_is_the_marginal_sum_rounded_up_once(
    rules: tuple[int, list[tuple[int, int]]], notional: int
) -> None:
    tiers = Tiers(*rules)
    near = [n + d for n, _ in rules[1] for d in (-1, 0, 1, 2)]
    for amount in (notional, notional % 1_000, *near):
        assert tiers.margin_uusd(amount) == ceil(marginal_sum(amount, *rules))


@given(tier_rules())
def test_micro_dollar_by_micro_dollar(rules: tuple[int, list[tuple[int, int]]]) -> None:
    first, above = rules
    tiers = Tiers(first, above)
    needed_ppm = 0
    for notional in range(1, 40):
        rate = first
        for start, higher in above:
            if notional > start:
                rate = higher
        needed_ppm += rate
        assert tiers.margin_uusd(notional) == -(-needed_ppm // PPM)


@given(tier_rules(), st.integers(0, 1 << 52), st.integers(1, 1 << 40))
def test_more_notional_needs_more_margin_but_no_more_than_all_of_it(
    rules: tuple[int, list[tuple[int, int]]], notional: int, more: int
) -> None:
    tiers = Tiers(*rules)
    for start in (notional, *(n for n, _ in rules[1]), *(n - 1 for n, _ in rules[1])):
        least = tiers.margin_uusd(start)
        # Continuous: one more micro-dollar of notional never needs more than one of margin.
        assert 0 <= tiers.margin_uusd(start + 1) - least <= 1
        assert 0 <= tiers.margin_uusd(start + more) - least <= more


@given(
    contracts(),
    st.integers(-(1 << 31), 1 << 31),
    st.integers(0, 1 << 31),
    st.integers(0, 1 << 31),
    st.integers(0, 1 << 31),
    st.integers(0, 1 << 31),
    st.integers(1, LIMIT_TICKS - 1),
    st.sampled_from([0, 1, 54_321, PPM]),
    st.sampled_from([0, 1, 3, 50]),
)
def test_initial_margin_is_that_of_any_position_orders_may_lead_to(
    product: LinearPerpetual,
    size: int,
    bids: int,
    asks: int,
    reduce_bids: int,
    reduce_asks: int,
    mark: int,
    scaled_ppm: int,
    leverage: int,
) -> None:
    def margin(lots: int) -> int:
        """Of a position alone."""
        return product.initial_uusd(lots, 0, 0, 0, 0, mark, scaled_ppm, leverage)

    whole = product.initial_uusd(
        size, bids, asks, reduce_bids, reduce_asks, mark, scaled_ppm, leverage
    )
    longest = size + bids + (min(reduce_bids, -size) if size < 0 else 0)
    shortest = size - asks - (min(reduce_asks, size) if size > 0 else 0)
    assert whole == max(margin(longest), margin(shortest))
    assert whole >= margin(size) >= product.maintenance_uusd(size, mark)
    # No order of fills, with reduce-only orders shrinking to the position, needs more.
    closed = size - min(reduce_asks, size) if size > 0 else size + min(reduce_bids, -size)
    for left in (size, closed):
        for end in (left, left + bids, left - asks, left + bids - asks):
            assert whole >= margin(end)
    notional = product.notional_uusd(max(abs(longest), abs(shortest)), mark)
    assert whole * PPM >= notional * scaled_ppm
    assert whole * leverage >= notional or not leverage


@given(
    contracts(),
    st.integers(1, 1 << 31).flatmap(lambda lots: st.sampled_from([lots, -lots])),
    st.one_of(st.integers(-(1 << 60), 1 << 60), st.integers(-(1 << 77), 1 << 77)),
    st.sampled_from([0, 50_000, 999_999]),
    st.integers(2, LIMIT_TICKS),
)
@settings(max_examples=300)
def test_one_tick_beyond_the_last_safe_mark_is_below_maintenance(
    product: LinearPerpetual, size: int, other: int, band: int, limit: int
) -> None:
    def covered(mark: int) -> bool:
        most = product.stale_uusd(size, mark, band)[1]
        return most + other >= product.maintenance_uusd(size, mark)

    found = product.last_safe_ticks(size, other, band, limit)
    against = -1 if size > 0 else 1
    if found is None:
        assert covered(1) == covered(limit - 1)
        return
    assert 1 <= found < limit
    assert covered(found)
    assert not covered(found + against)
    # Nor anywhere further against it, nor is it unsafe anywhere on the other side.
    for distance in (2, 3, 10, 1_000, 1 << 20):
        if 1 <= found + against * distance < limit:
            assert not covered(found + against * distance)
        if 1 <= found - against * distance < limit:
            assert covered(found - against * distance)


@given(
    contracts(),
    st.integers(-(1 << 31), 1 << 31),
    st.integers(1, LIMIT_TICKS - 1),
    st.integers(-PPM, PPM),
    st.integers(-(1 << 62), 1 << 62),
)
def test_every_rounding_is_against_the_account(
    product: LinearPerpetual, size: int, price: int, rate: int, index_change: int
) -> None:
    lots = abs(size)
    exact_fee = Fraction(lots * price * product.value * rate, PPM)
    assert 0 <= product.fee_uusd(price, lots, rate) - exact_fee < 1
    exact_funding = Fraction(-size * index_change, 1_000)
    assert 0 <= exact_funding - product.funding_uusd(size, index_change) < 1
    # Both sides together never receive more than they pay.
    assert -2 < (
        product.funding_uusd(size, index_change) + product.funding_uusd(-size, index_change)
    ) <= 0  # fmt: skip
    band = abs(rate)
    value = product.value_uusd(size, price)
    least, most = product.stale_uusd(size, price, band)
    width = Fraction(abs(value) * band, PPM)
    assert 0 <= value - width - least < 1
    assert 0 <= value + width - most < 1
