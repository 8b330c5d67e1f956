"""Rows of the status table: rates between two looks, lag, and processes that are down."""

from __future__ import annotations

from pathlib import Path

from client.status import Values, make_rows, make_table
from store.testnet import Description, ProcessEntry, Testnet

TESTNET = Testnet(
    Path("/nowhere"),
    Description(
        "t",
        [
            ProcessEntry("validator-0", "node", 0, "127.0.0.1:1"),
            ProcessEntry("sequencer-0", "sequencer", 0, "127.0.0.1:2"),
            ProcessEntry("execution-0", "execution", 0, "127.0.0.1:3"),
        ],
        [],
    ),
)


def test_rates_are_growth_per_second_and_lag_is_measured_against_the_log() -> None:
    before: dict[str, Values | None] = {
        "validator-0": None,
        "sequencer-0": {"height": 90, "ordered_batches": 100, "accepted_batches": 100},
        "execution-0": {"height": 80, "executed_actions": 1_000},
    }
    after: dict[str, Values | None] = {
        "validator-0": None,
        "sequencer-0": {"height": 100, "ordered_batches": 150, "accepted_batches": 160, "view": 7},
        "execution-0": {"height": 97, "executed_actions": 3_000, "store_bytes": 5_000},
    }
    down, sequencer, execution = make_rows(TESTNET, before, after, 2.0)
    assert (down.state, down.height, down.rates) == ("down", None, {})
    assert sequencer.rates == {"accepted": 30.0, "ordered": 25.0}
    assert (sequencer.height, sequencer.view) == (100, 7)
    assert execution.rates == {"executed": 1_000.0}
    assert (execution.lag, execution.store_bytes) == (3, 5_000)
    assert make_table([down, sequencer, execution]).row_count == 3


def test_a_process_that_just_came_up_has_no_rates_and_a_restart_none_below_zero() -> None:
    fresh: dict[str, Values | None] = {
        "validator-0": {"height": 3},
        "sequencer-0": {"height": 1, "ordered_batches": 5},
        "execution-0": None,
    }
    before: dict[str, Values | None] = {
        "validator-0": None,
        "sequencer-0": {"height": 9, "ordered_batches": 500},
        "execution-0": None,
    }
    validator, sequencer, _ = make_rows(TESTNET, before, fresh, 1.0)
    assert validator.state == "up" and validator.rates == {}
    assert sequencer.rates == {"ordered": 0.0}
