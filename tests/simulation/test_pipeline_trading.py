"""Trading in the simulated exchange: prices that crash, and checks of it that really check."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from execution import leaves as lv
from execution.liquidation import Liquidations
from protocol.codec import encode
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT
from sim.actors_keys import simulated_signatures
from sim.checkers import Stalled, Violation
from sim.kernel import US_PER_S
from sim.pipeline import Exchange, Options
from sim.pipeline_checks import check_end
from sim.pipeline_trading import below_maintenance, check_books, check_liquidations, check_sums
from sim.pipeline_venue import (
    DOLLAR,
    MARKETS,
    STEP_MS,
    USUAL,
    PricePath,
    Venue,
    Weather,
    crashing,
)
from sim.random import SplitMix64

SEED = 5
CRASH = Venue(
    MARKETS, Weather(crash_step=35, crash_ppm=350_000, recovers=False), deposit_uusd=3_000 * DOLLAR,
    insurance_uusd=500 * DOLLAR, backstop_uusd=4_000 * DOLLAR, large_lots=600, large_ppm=1_000_000,
)  # fmt: skip
OPTIONS = Options(
    load_us=5 * US_PER_S + US_PER_S // 2, traders=6, pause_ms=40, executions=2, venue=CRASH,
    patience_us=15 * US_PER_S,
)  # fmt: skip


def settled_world() -> Exchange:
    """A run with a crash, to its end."""
    world = Exchange(SEED, OPTIONS)
    world.boot()
    world.kernel.run(OPTIONS.load_us)
    world.finish()
    return world


@pytest.fixture(scope="module")
def world() -> Iterator[Exchange]:
    with simulated_signatures():
        world = settled_world()
        yield world
        world.close()


def test_accounts_fail_in_a_crash_and_everything_holds(world: Exchange) -> None:
    check_end(world)
    told = world.history.counters
    assert told["liquidated"] == told["LiquidationEnded"] > 0
    assert told["triggered"] > 0 and told["Expired"] == 1
    assert len(world.history.liquidations) > 1


def test_where_nobody_is_liquidated_the_exchange_never_becomes_calm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Liquidations, "run", lambda self: self._state.touched.clear())
    with simulated_signatures():
        world = Exchange(SEED, OPTIONS)
        world.boot()
        world.kernel.run(OPTIONS.load_us)
        with pytest.raises(Stalled, match="calm False"):
            world.finish()
        assert below_maintenance(world.execution.engine)
        with pytest.raises(Violation, match="below maintenance, and nobody acts"):
            check_books(world.chain, world.executions[:1])
        world.close()


def test_a_node_with_another_state_is_found(world: Exchange) -> None:
    fees = world.executions[1].engine.state.fees
    fees.cash_uusd += 1
    try:
        with pytest.raises(Violation, match="another state"):
            check_books(world.chain, world.executions)
    finally:
        fees.cash_uusd -= 1
    check_books(world.chain, world.executions)


@pytest.mark.parametrize("account", [INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT])
def test_money_from_nowhere_and_forgotten_funds_are_found(world: Exchange, account: int) -> None:
    leaves = world.execution.engine.leaves()
    check_sums(leaves)
    key = lv.account_key(account)
    held = lv.decode_account(leaves[key])
    more = encode(msgspec.structs.replace(held, cash_uusd=held.cash_uusd + 1))
    with pytest.raises(Violation, match="not deposits less withdrawals"):
        check_sums({**leaves, key: more})
    with pytest.raises(Violation, match="the accounts of the system"):
        check_sums({other: leaf for other, leaf in leaves.items() if other != key})


def test_positions_without_another_side_are_found(world: Exchange) -> None:
    leaves = world.execution.engine.leaves()
    key = next(key for key in sorted(leaves) if key[:1] == lv.POSITION)
    held = lv.decode_position(leaves[key])
    other = encode(msgspec.structs.replace(held, size_lots=held.size_lots + 1))
    with pytest.raises(Violation, match="positions"):
        check_sums({**leaves, key: other})


def test_receipts_that_are_lost_or_changed_are_found(world: Exchange) -> None:
    receipts = world.history.liquidations
    nodes, prover = world.executions, world.prover
    check_liquidations(receipts, nodes, prover)
    with pytest.raises(Violation, match="receipts are settled"):
        check_liquidations(receipts[:-1], nodes, prover)
    with pytest.raises(Violation, match="where 0 is next"):
        check_liquidations(receipts[1:], nodes, prover)
    lie = msgspec.structs.replace(receipts[0], amount_uusd=receipts[0].amount_uusd + 1)
    with pytest.raises(Violation, match="not proven"):
        check_liquidations([lie, *receipts[1:]], nodes, prover)


# --- prices


def test_a_price_path_is_a_function_of_its_seed() -> None:
    paths = [PricePath(SplitMix64(seed), USUAL, 50) for seed in (1, 1, 2)]
    first, again, other = [
        [path.ticks(market, step * STEP_MS) for market in range(3) for step in range(60)]
        for path in paths
    ]
    assert first == again != other


@pytest.mark.parametrize("seed", range(5))
def test_prices_crash_as_far_as_they_should(seed: int) -> None:
    venue = crashing(SplitMix64(seed), 70)
    weather = venue.weather
    path = PricePath(SplitMix64(seed), venue, 70)
    before = path.ticks(0, (weather.crash_step - 1) * STEP_MS)
    after = path.ticks(0, (weather.crash_step + weather.crash_steps - 1) * STEP_MS)
    assert after < before * (1 - weather.crash_ppm / 2e6)
