"""The mirrored book follows events, and refuses what cannot follow."""

from __future__ import annotations

import random

import pytest

from client.book import BookMirror
from protocol.actions import BUY, SELL
from protocol.errors import SafetyViolation
from protocol.events import (
    REASON_CANCELLED,
    REASON_REDUCED,
    Fill,
    MarkChanged,
    OrderChanged,
    OrderOpened,
)


def opened(order_id: int, side: int, price: int, lots: int, market: int = 0) -> OrderOpened:
    return OrderOpened(market, order_id, 16, 0, side, price, lots)


def filled(order_id: int, price: int, lots: int, taker_side: int) -> Fill:
    return Fill(0, price, lots, 16, order_id, 17, 99, taker_side, 0, 0)


def changed(order_id: int, side: int, price: int, remaining: int, reason: int) -> OrderChanged:
    return OrderChanged(0, order_id, 16, side, price, remaining, reason)


def test_levels_are_best_first_on_both_sides() -> None:
    book = BookMirror(0)
    for event in (
        opened(1, BUY, 100, 5), opened(2, BUY, 101, 7), opened(3, BUY, 101, 1),
        opened(4, SELL, 105, 2), opened(5, SELL, 103, 4),
    ):  # fmt: skip
        book.apply(event)
    assert book.best(BUY) == (101, 8)
    assert book.best(SELL) == (103, 4)
    assert book.levels(BUY, 10) == [(101, 8, 2), (100, 5, 1)]
    assert book.levels(SELL, 1) == [(103, 4, 1)]


def test_fills_cancels_and_reductions_shrink_levels_until_they_are_gone() -> None:
    book = BookMirror(0)
    for event in (
        opened(1, SELL, 103, 4), opened(2, SELL, 103, 6),
        filled(1, 103, 4, BUY), filled(2, 103, 1, BUY),
        changed(2, SELL, 103, 3, REASON_REDUCED),
    ):  # fmt: skip
        book.apply(event)
    assert book.best(SELL) == (103, 3)
    book.apply(changed(2, SELL, 103, 0, REASON_CANCELLED))
    assert book.best(SELL) == (0, 0)
    assert not book.orders


def test_other_markets_and_other_events_change_nothing() -> None:
    book = BookMirror(0)
    book.apply(opened(1, BUY, 100, 5, market=1))
    book.apply(MarkChanged(0, 100))
    assert book.best(BUY) == (0, 0)


@pytest.mark.parametrize(
    "event",
    [
        opened(1, BUY, 90, 1),  # opened twice
        opened(9, SELL, 100, 1),  # rests across the bid
        opened(9, BUY, 90, 0),
        filled(2, 100, 1, SELL),  # not first in its level
        filled(1, 99, 1, SELL),  # not at its price
        filled(1, 100, 6, SELL),  # more than it has
        filled(7, 100, 1, SELL),  # unknown
        changed(7, BUY, 100, 0, REASON_CANCELLED),
        changed(1, BUY, 100, 5, REASON_REDUCED),  # shrinks by nothing
    ],
)
def test_events_that_cannot_follow_are_a_safety_violation(event: object) -> None:
    book = BookMirror(0)
    book.apply(opened(1, BUY, 100, 5))
    book.apply(opened(2, BUY, 100, 5))
    with pytest.raises(SafetyViolation):
        book.apply(event)  # type: ignore[arg-type]


def test_random_events_agree_with_a_plain_dictionary_of_orders() -> None:
    seed = 20
    rng = random.Random(seed)
    book = BookMirror(0)
    plain: dict[int, list[int]] = {}
    for order_id in range(1, 3_000):
        if plain and rng.random() < 0.45:
            victim = rng.choice(sorted(plain))
            side, price, lots = plain[victim]
            left = 0 if rng.random() < 0.6 else lots - rng.randint(1, lots)
            book.apply(changed(victim, side, price, left, REASON_REDUCED))
            plain[victim][2] = left
            if not left:
                del plain[victim]
        else:
            side = rng.choice((BUY, SELL))
            price = rng.randint(80, 99) if side == BUY else rng.randint(101, 120)
            lots = rng.randint(1, 9)
            book.apply(opened(order_id, side, price, lots))
            plain[order_id] = [side, price, lots]
        for side in (BUY, SELL):
            sizes: dict[int, int] = {}
            for other, price, lots in plain.values():
                if other == side:
                    sizes[price] = sizes.get(price, 0) + lots
            best = (max if side == BUY else min)(sizes, default=0)
            assert book.best(side) == (best, sizes.get(best, 0)), f"seed {seed}"
