"""Disputes in the simulator: with a challenger lies go, and without one the checks see them."""

from __future__ import annotations

from protocol.genesis import SettlementRules
from sim.kernel import US_PER_S
from sim.pipeline import Exchange, Options
from sim.pipeline_scenarios import play
from sim.random import SplitMix64
from sim.runner import Outcome

RULES = SettlementRules(
    window_ms=4_000, clock_ms=8_000, sections=64, prover_bond_uusd=7, challenger_bond_uusd=5
)


def run(challengers: int, liars: int, wrong_ppm: int) -> Outcome:
    """A quiet run in which nothing but the prover and those who dispute do harm."""

    def chosen(random: SplitMix64, size: int) -> Options:
        del random
        return Options(
            validators=size, traders=3, load_us=4 * US_PER_S, settlement=RULES,
            challengers=challengers, liars=liars, wrong_ppm=wrong_ppm,
        )  # fmt: skip

    def plan(world: Exchange) -> None:
        del world

    return play("disputes", chosen, plan, 3, 4, 0)


def test_one_challenger_is_enough() -> None:
    outcome = run(challengers=1, liars=1, wrong_ppm=1_000_000)
    assert not outcome.violation, outcome.violation
    assert outcome.bit["wrong_batches_posted"] >= 1
    assert outcome.bit["disputes_wrong"] == outcome.bit["wrong_batches_posted"]


def test_honest_provers_need_no_challenger_against_false_disputes() -> None:
    outcome = run(challengers=0, liars=1, wrong_ppm=0)
    assert not outcome.violation, outcome.violation
    assert outcome.bit["lying_disputes"] >= 1 and outcome.bit["disputes_defended"] >= 1
    assert "batches_taken_back" not in outcome.bit


def test_without_a_challenger_the_checks_see_the_lie() -> None:
    outcome = run(challengers=0, liars=0, wrong_ppm=1_000_000)
    assert outcome.bit["wrong_batches_posted"] >= 1
    assert outcome.violation
