"""Genesis rules of the way out: deadlines leave room for a dispute."""

from __future__ import annotations

import pytest

from cluster.defaults import SETTLEMENT, settlement_of
from protocol.errors import ConfigError
from protocol.windows import SettlementRules, check_settlement


@pytest.mark.parametrize("name", ["forced_ms", "outage_ms"])
def test_deadlines_are_longer_than_window_and_dispute(name: str) -> None:
    def rules(deadline_ms: int, window_ms: int = 3_000) -> SettlementRules:
        return SettlementRules(window_ms=window_ms, clock_ms=500, **{name: deadline_ms})

    check_settlement(rules(4_001))
    check_settlement(rules(0))
    check_settlement(rules(1, window_ms=0))
    for deadline_ms in (1, 4_000):
        with pytest.raises(ConfigError, match=f"settlement.{name} must be above"):
            check_settlement(rules(deadline_ms))


def test_a_testnets_deadlines_follow_its_window() -> None:
    assert settlement_of() == SETTLEMENT
    for window_s in (0, 3, 600, 86_400):
        check_settlement(settlement_of(window_s))
    chosen = settlement_of(3, forced_s=120, claim_s=30)
    assert (chosen.forced_ms, chosen.outage_ms, chosen.claim_ms) == (120_000, 120_000, 30_000)
    for forced_s, claim_s in ((-1, 5), (1, 0), (1e10, 5)):
        with pytest.raises(ConfigError):
            settlement_of(3, forced_s=forced_s, claim_s=claim_s)
