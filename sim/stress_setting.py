"""What a stress run is about: a crash, a population in front of it, and a cell of the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

from margin.linear import LinearPerpetual
from protocol.errors import ConfigError
from protocol.genesis import PPM
from sim.random import SplitMix64, derive_seed
from sim.stress_exchange import TICK_UUSD, Funds, first_leaves, make_chain, product
from sim.stress_makers import Maker, Taker, make_participants
from sim.stress_population import Population, populate
from sim.stress_prices import (
    Candle,
    Path,
    check_candles,
    refine,
    synthetic_candles,
    usual_range_ppm,
)
from sim.stress_queue import Costs, Policy

WEEK_MS = 7 * 24 * 3600 * 1000
INSURANCE_PPM = 1_000
BACKSTOP_PPM = 10_000
BACKSTOP_HOLDS_PPM = 50_000
"""Insurance fund, backstop's money and what the backstop may hold, of the open interest."""
SYNTHETIC = "synthetic"


class Shape(NamedTuple):
    """Size and pace of a run: accounts, the time around the low, and the length of a step."""

    accounts: int = 10_000
    before_ms: int = 20 * 60_000
    after_ms: int = 10 * 60_000
    step_ms: int = 200
    load_actions: int = 3_000
    """Actions per second of load 1 in usual volatility; it rises with volatility."""
    costs: Costs = Costs()


QUICK = Shape(200, 2 * 60_000, 60_000)


class Cell(NamedTuple):
    """Load (parts per million of load 1), oracle delay, staleness bound (0: none), how blocks are
    filled, and whether liquidations move the true price. `ideal`: no delay, infinite capacity."""

    load_ppm: int
    delay_ms: int
    staleness_ms: int
    policy: Policy
    impact: bool
    ideal: bool = False

    def tenth(self) -> Cell:
        """The same at a tenth of the load."""
        return self._replace(load_ppm=PPM // 10)

    def ideal_one(self) -> Cell:
        """The ideal exchange under the same prices."""
        return Cell(0, 0, 0, Policy.FIFO, self.impact, ideal=True)

    @property
    def name(self) -> str:
        """For files: unique among cells."""
        impact = "-impact" if self.impact else ""
        if self.ideal:
            return f"ideal{impact}"
        policy, load = self.policy.name.lower(), load_text(self.load_ppm)
        return f"{policy}-load{load}-delay{self.delay_ms}-stale{self.staleness_ms}{impact}"


def load_text(load_ppm: int) -> str:
    """A load as a multiple: 1x, 0.1x."""
    whole, part = divmod(load_ppm, PPM)
    return f"{whole}x" if not part else f"{whole}.{part:06}".rstrip("0") + "x"


class Window(NamedTuple):
    """A crash: candles of the week before, and those of the run without gaps, `length_ms` each;
    `usual_ppm` is the range that they would have in a usual time."""

    name: str
    title: str
    week: list[Candle]
    candles: list[Candle]
    length_ms: int
    usual_ppm: int


def cut(
    name: str, title: str, candles: Sequence[Candle], from_ms: int, to_ms: int, shape: Shape
) -> Window:
    """The window around the lowest price between two times.

    Raises `ConfigError` where the candles do not reach, or have a gap.
    """
    length_ms = check_candles(candles)
    inside = [candle for candle in candles if from_ms <= candle.time_ms < to_ms]
    if not inside:
        raise ConfigError(f"the prices hold nothing of {title}")
    lowest = min(inside, key=lambda candle: candle.low_uusd).time_ms
    begin_ms = lowest - -(-shape.before_ms // length_ms) * length_ms
    end_ms = lowest + length_ms + shape.after_ms
    week = [c for c in candles if begin_ms - WEEK_MS <= c.time_ms < begin_ms]
    run = [c for c in candles if begin_ms <= c.time_ms < end_ms]
    if not week or len(run) * length_ms < shape.before_ms + length_ms + shape.after_ms:
        raise ConfigError(f"the prices do not reach around the low of {title}")
    if run[-1].time_ms - run[0].time_ms != (len(run) - 1) * length_ms:
        raise ConfigError(f"the prices have a gap near the low of {title}")
    return Window(name, title, week, run, length_ms, usual_range_ppm(week))


def synthetic(shape: Shape, seed: int = 0) -> Window:
    """A made-up crash of about a fifth, on candles of a minute after a calm week of hours."""
    length_ms, start_ms = 60_000, 1_700_000_000_000
    hours = synthetic_candles(seed, 168, 3_600_000, start_ms, 50_000_000_000, 6_000)[:168]
    minutes = shape.before_ms // length_ms
    candles = synthetic_candles(seed, minutes, length_ms, start_ms + WEEK_MS, hours[-1].close_uusd)
    lowest = min(candles, key=lambda candle: candle.low_uusd).time_ms
    end_ms = lowest + length_ms + shape.after_ms
    run = [c for c in candles if lowest - shape.before_ms <= c.time_ms < end_ms]
    week = hours + [c for c in candles if c.time_ms < run[0].time_ms]
    # A range grows with the square root of time.
    usual_ppm = max(usual_range_ppm(hours) // isqrt(3_600_000 // length_ms), 1)
    return Window(SYNTHETIC, "a synthetic fall of a fifth", week, run, length_ms, usual_ppm)


class Start(NamedTuple):
    """Everything that all cells of one crash and seed share."""

    window: Window
    shape: Shape
    seed: int
    path: Path
    low_ms: int
    usual_ppb: int
    product: LinearPerpetual
    population: Population
    funds: Funds
    leaves: dict[bytes, bytes]

    def participants(self) -> tuple[list[Maker], list[Taker], dict[int, int]]:
        """Fresh makers and takers, and the cash that they begin with."""
        open_lots = self.population.open_interest_lots
        rng = SplitMix64(derive_seed(self.seed, "participants"))
        notional = self.product.notional_uusd(open_lots, self.path.ticks[0])
        return make_participants(self.population.next_account, open_lots, notional, rng)


def prepare(window: Window, shape: Shape, seed: int) -> Start:
    """Draw path and population, and build the first state."""
    path = refine(
        window.candles, window.length_ms, shape.step_ms, TICK_UUSD, window.usual_ppm, seed
    )
    rules = product()
    population = populate(seed, shape.accounts, window.week, TICK_UUSD, rules)
    first = path.ticks[0]
    open_lots = population.open_interest_lots
    notional = rules.notional_uusd(open_lots, first)
    funds = Funds(
        notional * INSURANCE_PPM // PPM,
        notional * BACKSTOP_PPM // PPM,
        open_lots * BACKSTOP_HOLDS_PPM // PPM,
    )
    low_ms = path.start_ms + path.ticks.index(min(path.ticks)) * path.step_ms
    # Of a random walk of n steps the mean change of one is half the mean range over sqrt(n).
    usual_ppb = max(window.usual_ppm * 500 // isqrt(window.length_ms // shape.step_ms), 1)
    start = Start(window, shape, seed, path, low_ms, usual_ppb, rules, population, funds, {})
    time_ms = path.start_ms
    chain = make_chain(time_ms - 1, first, 0, funds, 1, endless=False)
    _, _, cash = start.participants()
    return start._replace(leaves=first_leaves(chain, time_ms, first, population, cash, funds))
