"""Disputes in the simulator: with a challenger lies go, and without one the checks see them."""

from __future__ import annotations

from typing import Any

import pytest

from node import exits
from protocol.dispute import Choose, Prove
from protocol.genesis import SettlementRules
from protocol.settlement import BatchHeader
from prover.defence import Defence
from prover.game import BatchSteps, Player
from sim.actors_liars import LyingProver
from sim.kernel import US_PER_S
from sim.lying_play import Lie, tell_step
from sim.lying_truth import Truth
from sim.pipeline import Exchange, Options
from sim.pipeline_scenarios import PIPELINE_SCENARIOS, play
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


def with_lies_about_steps(monkeypatch: pytest.MonkeyPatch, hides: bool) -> None:
    """All lies are about one step, and played as well as they can be."""

    def about(truth: Truth, header: BatchHeader, random: SplitMix64) -> Lie:
        return tell_step(truth, header, hides, random)

    monkeypatch.setattr("sim.actors_liars.tell", about)
    monkeypatch.setattr("sim.actors_liars.MANNERS", ("plays",))
    monkeypatch.setattr(LyingProver, "bare_ppm", 0)
    monkeypatch.setattr(LyingProver, "twice_ppm", 0)


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
    assert "became final" in outcome.violation


# --- what is planted is seen


def test_a_challenger_that_chooses_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Player, steps: BatchSteps, *args: Any) -> Choose | Prove:
        return Choose(steps.header.number, 0)

    monkeypatch.setattr(Player, "challenge", lost)
    with_lies_about_steps(monkeypatch, hides=False)
    outcome = run(challengers=1, liars=0, wrong_ppm=1_000_000)
    assert "an honest challenger lost its bond" in outcome.violation, outcome.violation


def test_a_prover_that_defends_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Defence, "reply", lambda *_: None)
    outcome = run(challengers=0, liars=1, wrong_ppm=0)
    assert "was right, and its prover lost its bond" in outcome.violation, outcome.violation


def test_who_hides_an_account_wins_where_nobody_may_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ledger that takes the first witness for the whole truth lets a lie become final."""
    with_lies_about_steps(monkeypatch, hides=True)
    honest = run(challengers=1, liars=0, wrong_ppm=1_000_000)
    assert not honest.violation, honest.violation
    assert honest.bit["told_hides_an_account"] and honest.bit["witness_1_held"]
    monkeypatch.setattr("node.disputes.WITNESS_ROUNDS", 1)
    outcome = run(challengers=1, liars=0, wrong_ppm=1_000_000)
    assert "an honest challenger lost" in outcome.violation, outcome.violation


def test_money_that_a_frozen_shard_pays_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = PIPELINE_SCENARIOS["exchange-freeze"]
    outcome = scenario.run(1, 4, 0)
    assert not outcome.violation + outcome.stalled, outcome.violation + outcome.stalled
    assert outcome.bit["collects_ok"] and outcome.bit["refunds_ok"]
    monkeypatch.setattr(exits, "share_uusd", lambda claim_uusd, freeze: claim_uusd - 1)
    assert "freeze" in scenario.run(1, 4, 0).violation


def test_a_seed_of_liars_gives_the_same_trace_again() -> None:
    scenario = PIPELINE_SCENARIOS["exchange-disputes"]
    first, again = (scenario.run(5, 4, 0) for _ in range(2))
    assert (first.trace_hash, first.bit) == (again.trace_hash, again.bit)
