"""What simulated exchanges trade: markets, funds, and the way that prices go."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.genesis import Liquidation, MarginTier, MarketConfig, Reopening
from protocol.markets import FeeTier
from sim.random import PPM, SplitMix64

GENESIS_MS = 1_700_000_000_000
DOLLAR = 1_000_000
STEP_MS = 100
"""A price path has a price for each step."""


LIQUIDATION = Liquidation(
    partial_notional_uusd=20_000 * DOLLAR,
    partial_wait_ms=600,
    unwind_ms=1_000,
    unwind_ppm=300_000,
    unwind_slippage_ppm=20_000,
)
REOPENING = Reopening(gap_ms=1_200, cancel_only_ms=150, post_only_ms=150)


@dataclass(frozen=True)
class Weather:
    """How prices move: `wander_ppm` at most in a step, and now and then (`jump_chance_ppm` of
    steps) by up to `jump_ppm`. From `crash_step` on they fall by `crash_ppm` within `crash_steps`
    steps; where it `recovers`, half of that returns later."""

    wander_ppm: int = 400
    jump_chance_ppm: int = 0
    jump_ppm: int = 0
    crash_step: int = 0
    crash_steps: int = 1
    crash_ppm: int = 0
    recovers: bool = True


@dataclass(frozen=True)
class Venue:
    """Money of a trader (`deposit_uusd`), of the market maker and of the funds; `large_lots`: most
    of an order; `large_ppm`: share of orders that are large; `weather`: how prices move."""

    markets: tuple[MarketConfig, ...]
    weather: Weather = Weather()
    deposit_uusd: int = 20_000 * DOLLAR
    maker_uusd: int = 5_000_000 * DOLLAR
    insurance_uusd: int = 20_000 * DOLLAR
    backstop_uusd: int = 50_000 * DOLLAR
    large_lots: int = 300
    large_ppm: int = 150_000
    liquidation: Liquidation = LIQUIDATION
    reopening: Reopening = REOPENING
    cancels_first: bool = False


def _market(number: int, symbol: str, tick_uusd: int, lot_micro: int, ticks: int) -> MarketConfig:
    return MarketConfig(
        market=number,
        symbol=symbol,
        tick_uusd=tick_uusd,
        lot_micro=lot_micro,
        initial_ppm=50_000,
        maintenance_ppm=30_000,
        taker_fee_ppm=450,
        maker_fee_ppm=150,
        min_notional_uusd=DOLLAR,
        max_order_lots=1_000_000,
        max_position_lots=100_000_000,
        initial_price_ticks=ticks,
        margin_tiers=[MarginTier(150_000 * DOLLAR, 80_000, 50_000)],
        fee_tiers=[FeeTier(50_000 * DOLLAR, 400, 100)],
        scale_from_uusd=2_000_000 * DOLLAR,
        scale_to_uusd=20_000_000 * DOLLAR,
        price_band_ppm=300_000,
        impact_notional_uusd=300 * DOLLAR,
        oracle_age_ms=2_500,
        oracle_confidence_ppm=20_000,
        funding_interval_ms=5_000,
        backstop_max_lots=400,
    )


def _with(market: MarketConfig, **changes: object) -> MarketConfig:
    fields = {name: getattr(market, name) for name in market.__struct_fields__}
    return MarketConfig(**{**fields, **changes})


MARKETS = (
    _market(0, "BTC-PERP", 100_000, 1_000, 600_000),
    _with(
        _market(1, "ETH-PERP", 10_000, 10_000, 300_000), maker_fee_ppm=-150, fee_tiers=[],
        oracle_deviation_ppm=100_000, oracle_hold_ms=500,
    ),
    _with(
        _market(2, "BTC-SOON", 100_000, 1_000, 600_000), funding_interval_ms=0,
        expires_ms=GENESIS_MS + 5_000, settle_window_ms=1_000,
    ),
)  # fmt: skip
"""A perpetual with everything, one whose makers are paid and whose prices can be wild, and a future
that expires within the run."""

USUAL = Venue(MARKETS, Weather(jump_chance_ppm=20_000, jump_ppm=15_000))


def crashing(random: SplitMix64, steps: int) -> Venue:
    """Highly leveraged traders, small funds, and a crash somewhere within a run of so many
    steps."""
    weather = Weather(
        jump_chance_ppm=20_000, jump_ppm=10_000,
        crash_step=random.between(steps * 3 // 10, steps * 6 // 10),
        crash_steps=random.pick((1, 2, 4, 10)), crash_ppm=random.between(60_000, 300_000),
    )  # fmt: skip
    return Venue(
        MARKETS, weather, deposit_uusd=3_000 * DOLLAR,
        insurance_uusd=random.pick((0, 500, 20_000)) * DOLLAR,
        backstop_uusd=random.pick((0, 4_000, 50_000)) * DOLLAR,
        large_lots=600, large_ppm=600_000, cancels_first=random.chance(500_000),
    )  # fmt: skip


class PricePath:
    """What the assets are worth in the world outside, step by step; all oracles see the same."""

    def __init__(self, random: SplitMix64, venue: Venue, steps: int) -> None:
        first = [market.initial_price_ticks for market in venue.markets]
        self._prices = [first]
        weather = venue.weather
        for step in range(1, steps):
            ppm = random.between(-weather.wander_ppm, weather.wander_ppm)
            if random.chance(weather.jump_chance_ppm):
                ppm += random.between(-weather.jump_ppm, weather.jump_ppm)
            passed = step - weather.crash_step
            if weather.crash_ppm and 0 <= passed < weather.crash_steps:
                ppm -= weather.crash_ppm // weather.crash_steps
            elif weather.recovers and weather.crash_ppm and 10 <= passed - weather.crash_steps < 20:
                ppm += weather.crash_ppm // 20
            own = [ppm + random.between(-100, 100) for _ in first]
            moves = zip(self._prices[-1], own, strict=True)
            self._prices.append([max(1, ticks + ticks * move // PPM) for ticks, move in moves])

    def ticks(self, market: int, passed_ms: int) -> int:
        """The price of a market so long after genesis; at the end it stays."""
        step = min(max(passed_ms, 0) // STEP_MS, len(self._prices) - 1)
        return self._prices[step][market]
