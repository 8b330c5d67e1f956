"""An execution node that breaks a rule of the engine is found out by re-execution.

The ledger settles what its prover posts: headers, data and certificates are all in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from compiled_modules import interpreted
from pipeline_world import DOLLAR, PipelineWorld

from execution.custody import Custody
from margin.linear import LinearPerpetual
from margin.risk import Risk
from matching.book import Book, Level, Resting
from node.audit import AuditDifference, Auditor
from protocol.actions import BUY, IOC, SELL, Cancel, Order, Reduce, Withdraw


def traded() -> PipelineWorld:
    """Orders of one price and of several, fills of parts, a reduction, and a withdrawal."""
    world = PipelineWorld()
    world.order(inbox_height=0)
    alice, bob = world.alice, world.bob
    world.order(
        world.sign(alice, Order(0, BUY, 600_000, 5), Order(0, BUY, 600_000, 7)),
        world.sign(alice, Order(0, BUY, 590_000, 9), Reduce(0, 2, 1)),
        world.sign(bob, Order(0, SELL, 600_000, 8), Order(0, SELL, 590_000, 1, IOC)),
    )
    world.order(
        world.sign(bob, Withdraw(3 * DOLLAR, b"w" * 20)),
        world.sign(alice, Cancel(0, 3)),
    )
    world.settle()
    world.ledger_block()
    return world


def audit(world: PipelineWorld) -> str:
    """What the audit says: the verdict, or the first difference."""
    auditor = Auditor(world.chain)
    try:
        auditor.add(world.blocks, world.certificate())
    except AuditDifference as error:
        return str(error)
    return auditor.report().line()


def _newest_first(book: Any, side: int, limit: int, lots: int, gate: Any, steps: int) -> int:
    half = book.asks if side == BUY else book.bids
    for level in half.levels.values():
        level.queue.reverse()
        level.pack()
    left: int = RIGHT_TAKE(book, side, limit, lots, gate, steps)
    for level in half.levels.values():
        level.queue.reverse()
        level.pack()
    return left


def _one_fill_only(book: Any, side: int, limit: int, lots: int, gate: Any, steps: int) -> int:
    left: int = RIGHT_TAKE(book, side, limit, lots, gate, 1)
    return left


def _to_the_front(book: Book, order: Resting, by_lots: int) -> None:
    RIGHT_REDUCE(book, order, by_lots)
    level: Level = book.sides[order.side].levels[-order.price_ticks]
    level.queue.insert(0, level.queue.pop(order.place))
    level.pack()


def _mint(custody: Any, entry: Any) -> None:
    RIGHT_DEPOSIT(custody, entry)
    state = custody._state
    state.accounts[entry.account].cash_uusd += 1
    state.deposits_uusd += 1
    state.moved_uusd += 1


def _free_of_charge(product: Any, price_ticks: int, lots: int, rate_ppm: int) -> int:
    return 0


def _kept(custody: Any, account: Any, action: Any) -> Any:
    result = RIGHT_WITHDRAW(custody, account, action)
    custody._state.outbox.clear()
    return result


def _no_margin(*_: Any) -> bool:
    return False


RIGHT_TAKE, RIGHT_REDUCE = Book.take, Book.reduce
RIGHT_DEPOSIT, RIGHT_WITHDRAW = Custody.deposit, Custody.withdraw


@pytest.fixture
def lying() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_the_right_execution_passes() -> None:
    assert audit(traded()).startswith("audit ok")


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (Book, "take", _newest_first),
        (Book, "take", _one_fill_only),
        (Book, "reduce", _to_the_front),
        (Custody, "deposit", _mint),
        (LinearPerpetual, "fee_uusd", _free_of_charge),
        (Risk, "legal", _no_margin),
        (Custody, "withdraw", _kept),
    ],
)
@interpreted
def test_an_execution_that_breaks_a_rule_is_found_out(
    lying: pytest.MonkeyPatch, owner: type, name: str, wrong: Any
) -> None:
    lying.setattr(owner, name, wrong)
    world = traded()
    lying.undo()
    text = audit(world)
    assert text.startswith("batch 1: the posted"), text
