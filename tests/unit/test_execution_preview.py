"""How far a preview of a fill-or-kill order looks: no further than the engine would."""

from __future__ import annotations

import pytest
from engine_world import World, market

import execution.preview as module
from execution.fees import Fees
from execution.preview import preview
from matching.book import Resting
from protocol.actions import BUY, FOK, IOC, REDUCE_ONLY, SELL, Order
from protocol.events import Result
from protocol.genesis import Limits

TAKER, SELLER, FIRST = 16, 17, 18
FREE = {"taker_fee_ppm": 0, "maker_fee_ppm": 0}


def crowd(makers: int, limits: Limits) -> World:
    """Asks that only reduce, two of each maker's single lot: they use up none of the fills that an
    action may have before they are met."""
    world = World([market(0, **FREE)], limits, accounts=2 + makers, checked=False)
    for number in range(FIRST, FIRST + makers):
        world.one(SELLER, Order(0, SELL, 1_000, 1))
        world.one(number, Order(0, BUY, 1_000, 1, IOC))
        for _ in range(2):
            world.one(number, Order(0, SELL, 1_001, 1, flags=REDUCE_ONLY))
    return world


def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the orders that previews copy from now on."""
    found: list[int] = []

    def counted(*fields: int) -> Resting:
        found.append(fields[1])
        return Resting(*fields)

    monkeypatch.setattr(module, "Resting", counted)
    return found


@pytest.mark.parametrize("lots", range(1, 9))
def test_it_copies_no_more_orders_than_a_block_may_look_at(
    lots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = crowd(30, Limits(fills_per_action=5, fills_per_block=5))
    state = world.engine.state
    order = Order(0, BUY, 1_001, lots, FOK)
    found = copied(monkeypatch)
    answer = preview(state, TAKER, order, Fees(state).tier)
    # Of each order's owner both come along.
    assert len(found) <= 2 * 5
    assert world.one(TAKER, order) == answer.result


def test_what_the_first_orders_fill_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = crowd(40, Limits())
    state = world.engine.state
    found = copied(monkeypatch)
    answer = preview(state, TAKER, Order(0, BUY, 1_001, 4, FOK), Fees(state).tier)
    assert answer.result.filled_lots == 4
    assert len(found) == module.FIRST_ORDERS
    found.clear()
    answer = preview(state, TAKER, Order(0, BUY, 1_001, 40, FOK), Fees(state).tier)
    assert answer.result.filled_lots == 40
    answer = preview(state, TAKER, Order(0, BUY, 1_001, 41, FOK), Fees(state).tier)
    assert isinstance(answer.result, Result) and not answer.result.filled_lots
