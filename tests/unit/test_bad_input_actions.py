"""Bad input to every action: a stable code comes back, nothing changes, and nothing is raised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from bad_input_world import AGENT, ALICE, BOB, GUARDIAN, SUB, TO, Corner
from engine_world import DOLLAR, GOOD, ORACLES, START_MS, accept, signer

from execution import Engine
from protocol import actions as act
from protocol.codec import encode
from protocol.errors import Code
from protocol.events import BatchExecuted

LIMITS = (
    -(1 << 63), -(1 << 31), -1, 0, 1, (1 << 31) - 1, 1 << 31, 1 << 42, (1 << 47) - 1, 1 << 47,
    1 << 61, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip


# -- every field of every action at its limits


def busy_corner() -> Corner:
    """Alice is long 10 and has an order, a trigger, a TWAP, settings, an agent, a sub-account."""
    corner = Corner()
    corner.trade()
    corner.fine(BOB, act.Order(0, act.BUY, 995, 50), act.Order(0, act.SELL, 1_020, 50))
    corner.fine(ALICE, act.Order(0, act.BUY, 900, 10, client_id=7))
    corner.fine(ALICE, act.TriggerOrder(0, act.SELL, 5, act.STOP, 800, 0, 10_000, 8))
    corner.fine(ALICE, act.Twap(1, act.BUY, 60, 60_000, 0, 9))
    corner.fine(ALICE, act.SetProtection(0, 2, 1_000), act.ApproveAgent(AGENT, START_MS + 10**6))
    corner.fine(ALICE, act.Transfer(SUB, 100 * DOLLAR))
    return corner


def order_id(corner: Corner) -> int:
    return corner.engine.orders_of(ALICE)[0][1]


def samples(corner: Corner) -> list[Any]:
    """One good action of every kind for Alice in a busy corner."""
    resting = order_id(corner)
    exits = (
        act.TriggerOrder(0, act.SELL, 0, act.TAKE_PROFIT, 1_200, 0, 10_000),
        act.TriggerOrder(0, act.SELL, 0, act.STOP, 800, 0, 10_000),
    )
    return [
        act.Order(0, act.BUY, 950, 5, act.GTC, 21, act.STP_MASTER, START_MS + 10**6),
        act.Order(0, act.SELL, 1_050, 5, act.POST_ONLY, 22, act.REDUCE_ONLY),
        act.MarketOrder(0, act.SELL, 2, 10_000, 23),
        act.Cancel(0, resting),
        act.CancelClient(0, 7),
        act.Reduce(0, resting, 1),
        act.Withdraw(DOLLAR, TO),
        act.ApproveAgent(b"\x56" * 32, START_MS + 10**6),
        act.RevokeAgent(AGENT),
        act.Modify(0, resting, 910, 4),
        act.CancelAll(0),
        act.MassQuote(0, [(990, 1)], [(1_010, 1)]),
        act.TriggerOrder(0, act.SELL, 5, act.TAKE_PROFIT, 1_100, 1_090, 0, 24),
        act.TriggerOrder(0, act.SELL, 5, act.TRAILING, 50, 0, 10_000, 24, 0, START_MS + 10**6),
        act.Oco(act.Order(0, act.SELL, 1_100, 5), act.TriggerOrder(0, 1, 5, 0, 900, 0, 10_000)),
        act.Bracket(act.Order(0, act.BUY, 940, 5), *exits),
        act.Twap(0, act.SELL, 100, 60_000, 0, 25),
        act.ScheduleCancel(START_MS + 10**5),
        act.SetLeverage(0, 3),
        act.SetProtection(0, 3, 1_000),
        act.Transfer(SUB, DOLLAR),
        act.TransferPosition(SUB, 0, 3),
    ]


def variants(action: Any) -> Iterator[Any]:
    """The action with each number, also inside nested actions and quotes, at each limit."""
    for name in action.__struct_fields__:
        value = getattr(action, name)
        if isinstance(value, int):
            for limit in LIMITS:
                yield msgspec.structs.replace(action, **{name: limit})
        elif isinstance(value, msgspec.Struct):
            for inner in variants(value):
                yield msgspec.structs.replace(action, **{name: inner})
        elif isinstance(value, bytes):
            for length in (0, 1, 19, 20, 21, 31, 32, 33):
                yield msgspec.structs.replace(action, **{name: b"x" * length})
        elif isinstance(value, list):
            price, lots = value[0]
            for limit in LIMITS:
                yield msgspec.structs.replace(action, **{name: [(limit, lots)]})
                yield msgspec.structs.replace(action, **{name: [(price, limit)]})


def test_samples_cover_every_action_that_an_account_may_send() -> None:
    corner = busy_corner()
    kinds = {type(sample) for sample in samples(corner)}
    assert kinds == set(act.Action.__args__) - {act.OraclePrice, act.SetMode}
    for sample in samples(corner):
        assert busy_corner().one(ALICE, sample).code == 0, sample


@pytest.mark.parametrize("number", range(22))
def test_any_number_in_any_field_gets_a_code_and_a_refusal_changes_nothing(number: int) -> None:
    start = busy_corner()
    leaves = start.engine.leaves()
    refused = 0
    for action in variants(samples(start)[number]):
        start.engine = Engine.restore(start.chain, leaves.items(), accept)
        start.height, start.time_ms = start.engine.height, start.engine.time_ms
        answer = start.tried(ALICE, action)
        assert answer.code in set(Code), action
        assert all(result.code in set(Code) for result in answer.results), action
        refused += answer.results[0].code != 0
        start.block([])
    assert refused or number in UNREFUSED, "no limit was ever refused"


UNREFUSED: frozenset[int] = frozenset()


@pytest.mark.parametrize("value", LIMITS)
def test_any_number_in_a_batch_and_in_a_price_gets_a_code(value: int) -> None:
    corner = Corner()
    for batch in (
        act.ActionBatch(value, corner.time_ms, 0, [act.CancelAll(0)]),
        act.ActionBatch(ALICE, value, 0, [act.CancelAll(0)]),
        act.ActionBatch(ALICE, corner.time_ms, value, [act.CancelAll(0)]),
    ):
        raw = encode(act.SignedBatch(1, signer(ALICE), encode(batch), GOOD))
        answer = next(e for e in corner.block([raw]) if isinstance(e, BatchExecuted))
        assert answer.code in set(Code)
    for price in variants(act.OraclePrice(0, 1_000, 10)):
        answer = corner.send(0, price, by=ORACLES[0])
        assert all(result.code in set(Code) for result in answer.results)
    for mode in variants(act.SetMode(0, 2)):
        answer = corner.send(0, mode, by=GUARDIAN)
        assert all(result.code in set(Code) for result in answer.results)
    for number in {max(value, 0), SUB, BOB}:
        assert corner.send(number, act.CancelAll(0), by=signer(ALICE)).code in set(Code)
