"""Runs of scenarios by seed, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.errors import Rejected, SafetyViolation
from sim.checkers import Stalled, Violation
from sim.kernel import US_PER_S, SimulationLimit

EXIT_OK, EXIT_FAILED, EXIT_NO_PROGRESS, EXIT_VIOLATION = 0, 1, 4, 5
LEAST_SEEDS_FOR_BITES = 20
LEAST_SEEDS_FOR_RARE = 500
US_PER_HOUR = 3_600 * US_PER_S


@dataclass
class Outcome:
    """What one run came to.

    `violation` names what broke, `stalled` what did not move; both empty when all is well. `bit`
    counts, by kind, the faults that really happened. `lines` is the end of the trace where it was
    asked for.
    """

    scenario: str
    seed: int
    size: int
    trace_hash: str = ""
    virtual_us: int = 0
    events: int = 0
    blocks: int = 0
    bit: dict[str, int] = field(default_factory=dict)
    violation: str = ""
    stalled: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def replay(self) -> str:
        """The command that runs this seed again."""
        return (
            f"trilemma sim --scenario {self.scenario} --validators {self.size} --replay {self.seed}"
        )


Run = Callable[[int, int, int], Outcome]
"""(seed, validators, lines of trace to keep) -> what came of it; raises nothing but its own."""


@dataclass(frozen=True)
class Scenario:
    """A named family of runs. `bites`: kinds of faults of which each must really happen in some of
    a number of seeds, or the scenario did not show what it is named for; `rare` ones in a larger
    number."""

    name: str
    title: str
    run: Run
    bites: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()


def guarded(outcome: Outcome, body: Callable[[], None]) -> None:
    """Run `body` and put what it raises where it belongs in the outcome."""
    try:
        body()
    except Violation as error:
        outcome.violation = str(error)
    except SafetyViolation as error:
        outcome.violation = f"stopped: {error}"
    except (Stalled, SimulationLimit) as error:
        outcome.stalled = str(error)
    except (
        Rejected, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
        RecursionError,
    ) as error:  # fmt: skip
        # A machine that fails in its own code is a violation like any other, with a seed.
        outcome.violation = f"failed: {type(error).__name__}: {error}"


@dataclass
class Report:
    """What many runs of one scenario came to."""

    scenario: str
    title: str
    bites: tuple[str, ...]
    seeds: int = 0
    virtual_us: int = 0
    events: int = 0
    blocks: int = 0
    bit: dict[str, int] = field(default_factory=dict)
    violations: list[Outcome] = field(default_factory=list)
    stalled: list[Outcome] = field(default_factory=list)
    rare: tuple[str, ...] = ()

    def add(self, outcome: Outcome) -> None:
        """Take one run in."""
        self.seeds += 1
        self.virtual_us += outcome.virtual_us
        self.events += outcome.events
        self.blocks += outcome.blocks
        for kind, count in outcome.bit.items():
            self.bit[kind] = self.bit.get(kind, 0) + count
        if outcome.violation:
            self.violations.append(outcome)
        elif outcome.stalled:
            self.stalled.append(outcome)

    def merge(self, other: Report) -> None:
        """Take another report of the same scenario in."""
        self.seeds += other.seeds
        self.virtual_us += other.virtual_us
        self.events += other.events
        self.blocks += other.blocks
        for kind, count in other.bit.items():
            self.bit[kind] = self.bit.get(kind, 0) + count
        self.violations += other.violations
        self.stalled += other.stalled

    @property
    def missing(self) -> list[str]:
        """Faults that never happened though the scenario is about them; judged on enough seeds."""
        kinds = self.bites if self.seeds >= LEAST_SEEDS_FOR_BITES else ()
        kinds += self.rare if self.seeds >= LEAST_SEEDS_FOR_RARE else ()
        return [kind for kind in kinds if not self.bit.get(kind)]

    @property
    def faults(self) -> dict[str, int]:
        """Faults that bit, without the replicas' own counters."""
        return {k: n for k, n in sorted(self.bit.items()) if not k.startswith("replica_")}

    @property
    def virtual_hours(self) -> float:
        return self.virtual_us / US_PER_HOUR


def exit_status(reports: list[Report]) -> int:
    """5 for a violation, 4 for a lack of progress, 1 for faults that never bit, otherwise 0."""
    if any(report.violations for report in reports):
        return EXIT_VIOLATION
    if any(report.stalled for report in reports):
        return EXIT_NO_PROGRESS
    return EXIT_FAILED if any(report.missing for report in reports) else EXIT_OK


def run_seeds(
    scenario: Scenario,
    seeds: range,
    size: int,
    done: Callable[[Outcome], None] | None = None,
) -> Report:
    """Run a scenario on each seed in turn."""
    report = Report(scenario.name, scenario.title, scenario.bites, rare=scenario.rare)
    for seed in seeds:
        outcome = scenario.run(seed, size, 0)
        report.add(outcome)
        if done is not None:
            done(outcome)
    return report
