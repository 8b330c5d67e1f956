"""Rows of the status table: rates between two looks, lag, and processes that are down."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import pytest
from rich.console import Console

from client.status import ProcessRow, Values, base_layer, make_rows, make_table, make_view, sample
from store.testnet import Description, ProcessEntry, Testnet
from tests.bad_input_world import chain_of

TESTNET = Testnet(
    Path("/nowhere"),
    Description(
        "t",
        [
            ProcessEntry("validator-0", "node", 0, "127.0.0.1:1"),
            ProcessEntry("sequencer-0", "sequencer", 0, "127.0.0.1:2"),
            ProcessEntry("execution-0", "execution", 0, "127.0.0.1:3"),
            ProcessEntry("prover-0", "prover", 0, "127.0.0.1:4"),
        ],
        [],
    ),
)


def test_rates_are_growth_per_second_and_lag_is_measured_against_the_log() -> None:
    before: dict[str, Values | None] = {
        "validator-0": None,
        "sequencer-0": {"height": 90, "ordered_actions": 100, "accepted_actions": 100},
        "execution-0": {"height": 80, "executed_actions": 1_000},
        "prover-0": None,
    }
    after: dict[str, Values | None] = {
        "validator-0": None,
        "sequencer-0": {"height": 100, "ordered_actions": 150, "accepted_actions": 160, "view": 7},
        "execution-0": {"height": 97, "executed_actions": 3_000, "store_bytes": 5_000},
        "prover-0": {"height": 95},
    }
    down, sequencer, execution, prover = make_rows(TESTNET, before, after, 2.0)
    assert (down.state, down.height, down.rates) == ("down", None, {})
    assert sequencer.rates == {"accepted": 30.0, "ordered": 25.0}
    assert (sequencer.height, sequencer.view) == (100, 7)
    assert execution.rates == {"executed": 1_000.0}
    assert (execution.lag, execution.store_bytes) == (3, 5_000)
    # Without a validator nobody knows what is settled.
    assert (prover.lag, sequencer.lag) == (None, 0)


def test_a_process_that_just_came_up_has_no_rates_and_a_restart_none_below_zero() -> None:
    fresh: dict[str, Values | None] = {
        "validator-0": {"height": 3},
        "sequencer-0": {"height": 1, "ordered_actions": 5},
        "execution-0": None,
        "prover-0": None,
    }
    before: dict[str, Values | None] = {
        "validator-0": None,
        "sequencer-0": {"height": 9, "ordered_actions": 500},
        "execution-0": None,
        "prover-0": None,
    }
    validator, sequencer, *_ = make_rows(TESTNET, before, fresh, 1.0)
    assert validator.state == "up" and validator.rates == {}
    assert sequencer.rates == {"ordered": 0.0}


def test_a_provers_lag_is_what_is_ordered_and_not_settled() -> None:
    found: dict[str, Values | None] = {
        "validator-0": {"height": 7, "last_ordered_block": 60},
        "sequencer-0": {"height": 100},
        "execution-0": {"height": 100},
        "prover-0": {"height": 100, "settled_actions": 5},
    }
    assert [row.lag for row in make_rows(TESTNET, found, found, 1.0)] == [0, 0, 0, 40]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_with_nothing_cut_off(width: int) -> None:
    values: Values = {
        "height": 99_999, "view": 100_001, "peers": 3, "store_bytes": 999_900_000,
        "accepted_actions": 0, "ordered_actions": 0, "last_ordered_block": 99_900,
        "executed_actions": 0, "settled_actions": 0,
    }  # fmt: skip
    grown: Values = {
        name: value + 30_000 if name.endswith("_actions") else value
        for name, value in values.items()
        if isinstance(value, int)
    }
    names = [entry.name for entry in TESTNET.processes]
    rows = make_rows(TESTNET, dict.fromkeys(names, values), dict.fromkeys(names, grown), 1.0)
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(make_table(rows, width))
    shown = capture.get()
    assert "…" not in shown
    for text in ("validator-0", "99,999", "30,000", "999.9 MB", "accepted", "settled"):
        assert text in shown
    assert ("100,001" in shown) is (width >= 110)


def test_what_a_process_cannot_mend_stands_below_the_table() -> None:
    found: dict[str, Values | None] = {
        "validator-0": {"height": 3, "snapshot_failure": ""},
        "sequencer-0": None,
        "execution-0": None,
        "prover-0": {"height": 1, "refusal": "insufficient_balance: the fee is not covered"},
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(make_view(make_rows(TESTNET, found, found, 1.0)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "prover-0: insufficient_balance" in text and "validator-0:" not in text
    apart = "execution nodes 10.0.0.1:1 and 10.0.0.2:1 disagree on block 7"
    found["prover-0"] = {"height": 1, "refusal": "", "disagreement": apart}
    row = next(row for row in make_rows(TESTNET, found, found, 1.0) if row.name == "prover-0")
    assert row.trouble == apart


def looked_at(**validators: Values | None) -> list[ProcessRow]:
    entries = [
        ProcessEntry(name, "node", number, f"127.0.0.1:{number + 1}")
        for number, name in enumerate(validators)
    ]
    return make_rows(Testnet(Path("/nowhere"), Description("t", entries, [])), {
        **dict.fromkeys(validators)
    }, dict(validators), 1.0)  # fmt: skip


def member(time_ms: int, epoch: int = 12_345, validating: str = "yes") -> Values:
    return {"epoch": epoch, "members": 4, "validating": validating, "time_ms": time_ms, "height": 1}


def shown_below(rows: list[ProcessRow], now_ms: int, idle_ms: int = 0) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(make_view(rows, 80, base_layer(rows, now_ms, idle_ms)))
    lines: list[str] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.rstrip() for line in lines[2 + len(rows) :]]


def test_the_base_layers_line_counts_the_members_that_answer_in_the_newest_epoch() -> None:
    rows = looked_at(
        a=member(90_000), b=member(99_000), c=member(100_000, validating="no"),
        d=member(50_000, epoch=12_344), e=None,
    )  # fmt: skip
    assert shown_below(rows, 102_500) == [
        "base layer: epoch 12,345, 2 of 4 members answer, newest block 2 s ago"
    ]
    assert base_layer(looked_at(a=None, b=None), 1) is None
    # What a validator tells before the first block is the time of genesis.
    fresh: Values = {**member(900_000), "height": 0}
    assert shown_below(looked_at(a=fresh), 1_000_000) == [
        "base layer: epoch 12,345, 1 of 4 members answer, no block yet"
    ]
    late = member(999_000)
    assert shown_below(looked_at(a=fresh, b=late), 1_000_000)[0].endswith("newest block 1 s ago")


def settled_values(height: int, batch: int, final: int, **more: int | str) -> Values:
    return {
        **member(100_000), "height": height, "last_batch": batch, "final_batch": final,
        "last_ordered_block": 10 * batch, **more,
    }  # fmt: skip


def test_settlement_has_a_line_of_the_validator_that_is_furthest() -> None:
    rows = looked_at(a=settled_values(7, 1_205, 1_200), b=settled_values(3, 1_100, 1_090))
    shown = shown_below(rows, 100_000)
    assert shown[1:] == ["settlement: batch 1,205, final 1,200"]
    rows = looked_at(a=settled_values(7, 5, 2, open_disputes=3, frozen="yes"))
    assert shown_below(rows, 100_000)[1:] == [
        "settlement: batch 5, final 2, 3 disputes open",
        "the shard is frozen: claims and refunds are the way out",
    ]
    found: dict[str, Values | None] = {
        "validator-0": settled_values(7, 5, 5), "sequencer-0": {"height": 62},
        "execution-0": None, "prover-0": {"height": 1, "wrong_batch": 6},
    }  # fmt: skip
    rows = make_rows(TESTNET, found, found, 1.0)
    shown = shown_below(rows, 100_000)
    assert shown[1] == "settlement: batch 5, final 5, 12 ordered blocks wait"
    assert shown[2].startswith("prover-0: settled batch 6 is wrong")


def test_a_base_layer_without_blocks_for_long_is_told_in_one_line() -> None:
    rows = looked_at(a=member(100_000), b=member(100_000), c=None, d=None)
    assert len(shown_below(rows, 115_000)) == 1
    assert shown_below(rows, 116_000) == [
        "base layer: epoch 12,345, 2 of 4 members answer, newest block 16 s ago",
        "no ledger block for 16 s: no more than two thirds of the stake answer?",
    ]
    # A chain that idles for longer is not said to stand still while it does.
    assert len(shown_below(rows, 116_000, idle_ms=10_000)) == 1


async def test_a_process_that_accepts_and_says_nothing_is_down_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    monkeypatch.setattr("client.status.PROBE_TIMEOUT_MS", 20)
    monkeypatch.setattr(Testnet, "chain", lambda self: chain_of())
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        entries = [ProcessEntry("validator-0", "node", 0, f"127.0.0.1:{port}")]
        # A request waits ten seconds, and so would everybody's status.
        async with asyncio.timeout(5):
            assert await sample(Testnet(Path("/"), Description("t", entries, []))) == {
                "validator-0": None
            }
