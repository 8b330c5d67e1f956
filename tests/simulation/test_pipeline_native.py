"""The whole exchange with native checks: every honest batch passes them, through crashes, removed
batches and changes of the validator set."""

from __future__ import annotations

from functools import partial

import pytest

from protocol.windows import SettlementRules
from sim.pipeline_scenarios import PIPELINE_SCENARIOS

NAMES = ("exchange-crashes", "exchange-disputes", "exchange-byzantine")


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_settled_with_native_checks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = partial(SettlementRules, native_checks=True)
    monkeypatch.setattr("sim.pipeline_scenarios.SettlementRules", rules)
    settled = 0
    for seed in (11, 12):
        outcome = PIPELINE_SCENARIOS[name].run(seed, 4, 0)
        assert not outcome.violation, f"{outcome.replay}: {outcome.violation}"
        assert not outcome.stalled, f"{outcome.replay}: {outcome.stalled}"
        refused = [kind for kind in outcome.bit if kind.startswith("batches_refused")]
        # Others may have settled the same number first; no batch is refused for what it says.
        assert set(refused) <= {"batches_refused_wrong_batch_number"}
        settled += outcome.bit.get("batches_settled", 0)
    assert settled
