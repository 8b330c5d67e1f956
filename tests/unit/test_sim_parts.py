"""Disputes in the simulator whose witnesses come in parts."""

from __future__ import annotations

import pytest

import protocol.dispute
from node import dispute_parts, disputes
from protocol.dispute import ShowPart
from protocol.genesis import SettlementRules
from sim.kernel import US_PER_S
from sim.pipeline import Exchange, Options
from sim.pipeline_scenarios import play
from sim.random import SplitMix64

RULES = SettlementRules(
    window_ms=4_000, clock_ms=8_000, sections=64, prover_bond_uusd=7, challenger_bond_uusd=5
)
PART = 256


def test_witnesses_in_parts_defend_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (protocol.dispute, dispute_parts, disputes):
        monkeypatch.setattr(module, "PART_BYTES", PART)
    monkeypatch.setattr(dispute_parts, "MAX_VALUE_BYTES", PART)
    monkeypatch.setattr(dispute_parts, "_CHUNKS", 1)
    taken: list[ShowPart] = []
    add = dispute_parts.Parts.add

    def noted(self: dispute_parts.Parts, *args: object) -> bool:
        paid = add(self, *args)  # type: ignore[arg-type]
        taken.extend(one for one in args if isinstance(one, ShowPart))
        return paid

    monkeypatch.setattr(dispute_parts.Parts, "add", noted)

    def chosen(random: SplitMix64, size: int) -> Options:
        del random
        return Options(
            validators=size, traders=3, load_us=4 * US_PER_S, settlement=RULES,
            challengers=0, liars=1,
        )  # fmt: skip

    def plan(world: Exchange) -> None:
        del world

    outcome = play("disputes in parts", chosen, plan, 3, 4, 0)
    assert not outcome.violation, outcome.violation
    assert len(taken) > 3
    assert outcome.bit["disputes_defended"] >= 1 and "batches_taken_back" not in outcome.bit
