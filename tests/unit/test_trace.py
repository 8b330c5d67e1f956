"""Tracing an action: ids, what processes remember, and how it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from client.channel import Unreachable
from client.cli_trace import trace_text
from client.trace import Step, Trace, Tracer, parse_action_id
from cluster.testnet import TestnetOptions, create_testnet
from net.moments import Moments
from protocol.errors import ConfigError

ID = "ab" * 32
PLACES_WRONG = ("", "0", "x", "101", "00011")


def test_an_action_id_is_a_batch_id_with_an_optional_place() -> None:
    assert parse_action_id(ID) == (bytes.fromhex(ID), 0)
    assert parse_action_id(f" {ID}:3\n") == (bytes.fromhex(ID), 3)


@pytest.mark.parametrize("text", ["", "7", ID[:-2], *(f"{ID}:{end}" for end in PLACES_WRONG)])
def test_what_is_no_action_id_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(ConfigError, match="64 hex digits"):
        parse_action_id(text)


def test_the_first_time_stands_until_it_is_undone_and_the_oldest_go() -> None:
    moments: Moments[int] = Moments(kept=2)
    moments.note(1, 10)
    moments.note(1, 11)
    assert moments.at_ms(1) == 10
    moments.forget(1)
    moments.note(1, 12)
    assert moments.at_ms(1) == 12
    moments.note(2, 20)
    moments.note(3, 30)
    assert [moments.at_ms(key) for key in (1, 2, 3)] == [0, 20, 30]


def test_a_trace_tells_what_is_missing_and_who_is_silent() -> None:
    steps = [
        Step(state="accepted", process="sequencer-1", time_ms=1_000, height=0, number=0),
        Step(state="ordered", process="sequencer-0", time_ms=1_025, height=7, number=0),
        Step(state="ordered", process="sequencer-1", time_ms=0, height=7, number=0),
    ]
    trace = Trace(
        batch_id=ID, place=0, signer="", account=16, nonce_ms=1, actions=["Order", "Order"],
        height=7, leader="sequencer-0", code=None, number=0, prover="", steps=steps,
        silent=["execution-0"],
    )  # fmt: skip
    lines = trace_text(trace).splitlines()
    assert lines[0] == f"{ID[:16]} of account 16, 2 actions: Order"
    assert "00:00:01.025Z        +25 ms  sequencer-0   block 7, led by sequencer-0" in lines[2]
    assert "time not kept" in lines[3]
    assert lines[3].startswith(" ")
    assert lines[4:] == ["not yet executed", "no answer from execution-0"]


def test_a_testnet_that_does_not_run_is_no_unknown_action(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path, TestnetOptions(traders=0, free_ports=True))
    with pytest.raises(Unreachable, match="no sequencer answers"):
        asyncio.run(Tracer(testnet).trace(bytes.fromhex(ID)))
