"""What a stress run found, and whether the exchange kept up.

Keeping up means three things at once: 99.9 % of first liquidation orders come within a second of
the price that asks for them; within a minute of the low the exchange has worked off its price and
nobody is below maintenance any more; and the venue loses at most a basis point of open interest
more than an ideal exchange does under the same prices, with the same population.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from protocol.genesis import PPM
from sim.stress_ladder import Claims, Closed, Ladder
from sim.stress_watch import Episode

QUEUE_LIMIT_MS = 1_000
BACKLOG_LIMIT_MS = 60_000
LOSS_LIMIT_PPM = 100
NEVER = -1


class Percentiles(msgspec.Struct, frozen=True):
    """Of delays, in milliseconds, by nearest rank; all 0 where there are none."""

    count: int
    p50: int
    p99: int
    p999: int
    most: int


def percentiles(values: Iterable[int]) -> Percentiles:
    """The percentiles of these values."""
    ranked = sorted(values)
    if not ranked:
        return Percentiles(0, 0, 0, 0, 0)

    def rank(per_mille: int) -> int:
        return ranked[max(-(-len(ranked) * per_mille // 1_000), 1) - 1]

    return Percentiles(len(ranked), rank(500), rank(990), rank(999), ranked[-1])


class Delays(msgspec.Struct, frozen=True):
    """True price below maintenance -> price sent that moves the mark below (`oracle`) -> first
    liquidation order (`queue`; `budget` is its part after the mark was known) -> safe
    (`liquidity`)."""

    oracle: Percentiles
    queue: Percentiles
    budget: Percentiles
    liquidity: Percentiles


def delays(episodes: Sequence[Episode]) -> Delays:
    """Of episodes that are over: each delay where its begin and end have both happened. A mark that
    was below before the true price counts as an oracle delay of 0."""
    seen = [one for one in episodes if one.sent_ms]
    sold = [one for one in seen if one.first_ms]
    return Delays(
        percentiles(max(one.sent_ms - one.true_ms, 0) for one in seen if one.true_ms),
        percentiles(one.first_ms - one.sent_ms for one in sold),
        percentiles(one.first_ms - one.mark_ms for one in sold),
        percentiles(one.safe_ms - one.first_ms for one in sold),
    )


class Backlog(msgspec.Struct):
    """Notional of accounts below maintenance, at the true price or at the mark.

    `zero_ms`: how long after the low it was first zero while the exchange knew the price of the low
    or a later one (`NEVER`: not within the run)."""

    most_uusd: int = 0
    most_true_uusd: int = 0
    most_mark_uusd: int = 0
    zero_ms: int = NEVER


class Wrongful(msgspec.Struct):
    """Accounts liquidated while the true price did not ask for it; of these, those below
    maintenance at no true price before (`never`)."""

    accounts: int = 0
    notional_uusd: int = 0
    never: int = 0
    never_uusd: int = 0


class Flow(msgspec.Struct):
    """Load and how it was carried. Rates are actions per second, `filler` is in batches.

    `behind_ms`: the longest time from a block's time to its result. `liquidated`: accounts with a
    liquidation order; `missed`: those below at the true price that the mark never saw;
    `withdrawals`: how often makers withdrew, `withdrawn_ms` for how long together; `top_ups`: those
    that were credited.
    """

    peak_load: int = 0
    offered_filler: int = 0
    refused_filler: int = 0
    refused: int = 0
    behind_ms: int = 0
    blocks: int = 0
    stale_blocks: int = 0
    liquidated: int = 0
    missed: int = 0
    withdrawals: int = 0
    withdrawn_ms: int = 0
    top_ups: int = 0
    acknowledgements: Percentiles = percentiles([])


class Series(msgspec.Struct):
    """Columns of samples over time; the last five are the loss ladder so far."""

    time_ms: list[int] = []
    true_ticks: list[int] = []
    mark_ticks: list[int] = []
    backlog_uusd: list[int] = []
    behind_ms: list[int] = []
    withdrawn: list[int] = []
    closed_uusd: list[int] = []
    trader_uusd: list[int] = []
    backstop_uusd: list[int] = []
    fund_uusd: list[int] = []
    deleveraging_uusd: list[int] = []
    haircut_uusd: list[int] = []

    def add(self, *values: int) -> None:
        """Append one value to each column."""
        for name, value in zip(self.__struct_fields__, values, strict=True):
            getattr(self, name).append(value)


class Run(msgspec.Struct, frozen=True):
    """Everything that one run found; the same for the same seed and cell."""

    crash: str
    seed: int
    cell: str
    accounts: int
    open_interest_uusd: int
    first_ticks: int
    low_ticks: int
    low_ms: int
    begin_ms: int
    end_ms: int
    delays: Delays
    backlog: Backlog
    wrongful: Wrongful
    flow: Flow
    ladder: Ladder
    closed: Closed
    claims: Claims
    series: Series


class Verdict(msgspec.Struct, frozen=True):
    """A run beside its controls in the same seed. Excess is this run's loss less the control's:
    the venue's, and the liquidated traders'."""

    seed: int
    queue_ms: int
    backlog_ms: int
    excess_uusd: int
    excess_ppm: int
    trader_excess_uusd: int
    excess_over_tenth_uusd: int
    trader_excess_over_tenth_uusd: int
    queue_kept: bool
    backlog_kept: bool
    loss_kept: bool

    @property
    def kept_up(self) -> bool:
        """Whether the exchange kept up."""
        return self.queue_kept and self.backlog_kept and self.loss_kept


def judge(run: Run, ideal: Run, tenth: Run) -> Verdict:
    """Hold a run against the ideal exchange and a tenth of the load."""
    excess = run.ladder.venue_uusd - ideal.ladder.venue_uusd
    excess_ppm = -(-excess * PPM // run.open_interest_uusd)
    zero_ms = run.backlog.zero_ms
    return Verdict(
        seed=run.seed,
        queue_ms=run.delays.queue.p999,
        backlog_ms=zero_ms,
        excess_uusd=excess,
        excess_ppm=excess_ppm,
        trader_excess_uusd=run.ladder.trader_uusd - ideal.ladder.trader_uusd,
        excess_over_tenth_uusd=run.ladder.venue_uusd - tenth.ladder.venue_uusd,
        trader_excess_over_tenth_uusd=run.ladder.trader_uusd - tenth.ladder.trader_uusd,
        queue_kept=run.delays.queue.p999 <= QUEUE_LIMIT_MS,
        backlog_kept=zero_ms != NEVER and zero_ms <= BACKLOG_LIMIT_MS,
        loss_kept=excess_ppm <= LOSS_LIMIT_PPM,
    )


class Point(msgspec.Struct, frozen=True):
    """A cell of the frontier over all its seeds: how many kept up, the worst and the median."""

    crash: str
    cell: str
    load_ppm: int
    delay_ms: int
    staleness_ms: int
    policy: str
    impact: bool
    seeds: int
    kept_up: int
    queue_ms: tuple[int, int]
    backlog_ms: tuple[int, int]
    excess_ppm: tuple[int, int]
    excess_over_tenth_ppm: tuple[int, int]
    trader_excess_ppm: tuple[int, int]
    wrongful: tuple[int, int]
    losses_uusd: dict[str, int]
    """Median of each rung of the ladder."""
    verdicts: list[Verdict]


def median(values: Sequence[int]) -> int:
    """The lower median."""
    return sorted(values)[(len(values) - 1) // 2]


def point(
    runs: Sequence[Run],
    verdicts: list[Verdict],
    *,
    load_ppm: int,
    delay_ms: int,
    staleness_ms: int,
    policy: str,
    impact: bool,
) -> Point:
    """A cell from its runs, each with its verdict."""

    def spread(values: list[int]) -> tuple[int, int]:
        return median(values), max(values)

    def ppm(amounts: Iterable[int]) -> tuple[int, int]:
        return spread([a * PPM // r.open_interest_uusd for a, r in zip(amounts, runs, strict=True)])

    unending = 1 << 40
    backlog = [v.backlog_ms if v.backlog_ms != NEVER else unending for v in verdicts]
    middle, worst = spread(backlog)
    return Point(
        crash=runs[0].crash,
        cell=runs[0].cell,
        load_ppm=load_ppm,
        delay_ms=delay_ms,
        staleness_ms=staleness_ms,
        policy=policy,
        impact=impact,
        seeds=len(runs),
        kept_up=sum(verdict.kept_up for verdict in verdicts),
        queue_ms=spread([v.queue_ms for v in verdicts]),
        backlog_ms=(NEVER if middle == unending else middle, NEVER if worst == unending else worst),
        excess_ppm=spread([v.excess_ppm for v in verdicts]),
        excess_over_tenth_ppm=ppm(v.excess_over_tenth_uusd for v in verdicts),
        trader_excess_ppm=ppm(v.trader_excess_uusd for v in verdicts),
        wrongful=spread([run.wrongful.accounts for run in runs]),
        losses_uusd={
            name: median([getattr(run.ladder, name) for run in runs])
            for name in Ladder.__struct_fields__
        },
        verdicts=verdicts,
    )
