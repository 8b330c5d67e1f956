"""The measurement of state growth: both disks take the same blocks, and the pruned one proves."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import state_growth
from bench.state_growth_plot import plot
from node import snapshots, store_history
from node.store_reading import StoreReading


def test_both_disks_follow_and_the_smaller_one_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_growth, "BATCHES_PER_BLOCK", 1)
    monkeypatch.setattr(state_growth, "SAMPLE_ORDERS", 500)
    monkeypatch.setattr(store_history, "KEPT_BELOW_TIP", 4)
    monkeypatch.setattr(snapshots, "REPUTATION_WINDOW", 2)
    figures = state_growth.measure(1_800, retain=5, every=6, seed=1, folder=tmp_path)
    samples = figures["samples"]
    assert [one["orders"] for one in samples] == sorted({one["orders"] for one in samples})
    assert samples[-1]["orders"] >= 1_800 and figures["state_bytes"] > 0
    assert all(one["actions"] >= one["orders"] for one in samples)
    lowest = {}
    for name in ("all", "pruned"):
        reading = StoreReading(tmp_path / name, state_growth.make_chain())
        assert reading.ledger.height == samples[-1]["ledger_height"]
        lowest[name] = reading.retained_from()
        reading.close()
    assert lowest["all"] == 1 < lowest["pruned"]
    assert plot(figures).startswith(b"<svg")
