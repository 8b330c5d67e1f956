"""The heartbeat that an application can ask for: empty blocks at its pace, while it wants them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import CONFIG, GENESIS_MS, Forge, RootApp

from consensus import Tick

SILENT = replace(CONFIG, idle_interval_ms=None)


def steps_to_height(idle_ms: int | None, beat_ms: int | None, height: int) -> int | None:
    """Milliseconds until a chain of one member has committed so high; None where it stands."""
    forge = Forge([1])
    app = RootApp()
    replica = forge.replica(0, app, config=replace(CONFIG, idle_interval_ms=idle_ms))
    replica.beat_ms = beat_ms
    now_ms = GENESIS_MS
    while app.root()[0] < height:
        due_ms = replica.next_deadline_ms()
        if due_ms is None:
            return None
        now_ms = max(now_ms, due_ms)
        replica.step(Tick(), now_ms)
    return now_ms - GENESIS_MS


def test_blocks_come_at_the_faster_of_both_paces() -> None:
    assert steps_to_height(500, None, 4) == 5 * 500
    assert steps_to_height(500, 70, 4) == 5 * 70
    assert steps_to_height(500, 900, 4) == 5 * 500


def test_a_silent_chain_beats_while_it_is_asked_to() -> None:
    assert steps_to_height(None, None, 1) is None
    assert steps_to_height(None, 70, 3) == 4 * 70


@pytest.mark.parametrize("beat_ms", [None, 100])
def test_a_leader_that_misses_the_beat_is_given_up(beat_ms: int | None) -> None:
    forge = Forge()
    follower = forge.replica(2, config=SILENT)
    follower.beat_ms = beat_ms
    due_ms = follower.next_deadline_ms()
    if beat_ms is None:
        assert due_ms is None
    else:
        assert due_ms == GENESIS_MS + beat_ms + SILENT.timeout_ms
