"""A simulator that finds nothing may be blind: one rule at a time is taken out, and it must see.

Each bug is found within the stated number of seeds, from seed 1 on; the same seed without the bug
is sound, so it is the bug that was found and not the simulator's own mistake.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from planted_bugs import BUGS, planted

from sim.scenarios import SCENARIOS


class Hunt(NamedTuple):
    """Where a bug is looked for, and in how many seeds at most it is found."""

    bug: str
    scenario: str
    size: int
    seeds: int


HUNTS = [
    Hunt("no_lock", "stale-leaders", 7, 40),
    Hunt("any_child_commits", "hidden-certificates", 4, 5),
    Hunt("send_before_sync", "torn-disk", 4, 5),
    Hunt("unchecked_certificates", "forged-certificates", 4, 5),
    Hunt("half_is_a_quorum", "twins", 4, 10),
]


@pytest.mark.parametrize("hunt", HUNTS, ids=lambda hunt: hunt.bug)
def test_a_planted_bug_is_found(hunt: Hunt) -> None:
    scenario = SCENARIOS[hunt.scenario]
    with planted(hunt.bug):
        outcomes = (scenario.run(seed, hunt.size, 0) for seed in range(1, hunt.seeds + 1))
        found = next((outcome for outcome in outcomes if outcome.violation), None)
    assert found is not None, f"{hunt.bug} was not found in {hunt.seeds} seeds of {hunt.scenario}"
    sound = scenario.run(found.seed, hunt.size, 0)
    assert not sound.violation, "the seed breaks without the bug too"


def test_every_bug_is_hunted() -> None:
    assert {hunt.bug for hunt in HUNTS} == set(BUGS)
