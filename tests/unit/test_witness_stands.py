"""What a first witness shows of a step that chooses among accounts: whatever true leaves the other
side adds, and whatever it leaves out of them, the step ends the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from engine_world import World, accept, market
from liquidation_world import FREE, Crash, usd
from msgspec.structs import replace
from waiting_world import A, B, C, D, WaitingWorld, ask, bid, trigger
from witness_world import ordered

from execution import leaves as lv
from execution.engine import Engine
from execution.steps import Stage
from protocol.actions import (
    BUY,
    DEAD_MAN_LEAST_MS,
    FOK,
    IOC,
    REDUCE_ONLY,
    SELL,
    STOP,
    Order,
    ScheduleCancel,
)
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.events import (
    REASON_UNBACKED,
    DeadManSet,
    LiquidationBegun,
    LiquidationEnded,
    TriggerChanged,
)
from protocol.genesis import Limits
from prover.step_input import StepInput
from prover.steps import walk
from prover.tree import StateTree
from prover.witness import decode_witness, execute, leaf_count
from prover.witness_maker import FIRST_ROOM, Gathered, Room

STOP_LOSS = replace(trigger(SELL, 10, STOP, 900), flags=REDUCE_ONLY)
RICH = usd(1_000_000)
SHORT, FIRST = 17, 100


def stands(
    world: World, tree: StateTree, batches: list[bytes], stage: Stage, more: Iterable[bytes] = ()
) -> int:
    """Show the first step of a stage of the world's last block, on the state before it: with all
    orders, and with few. What is added to these are all accounts without their orders, and `more`
    keys, one after the other. Returns the leaves of the smaller witness."""
    step, number = _step(world, tree, batches, stage)
    with walk(world.chain, tree, step, accept) as walked:
        root, full = walked.to(number), walked.witness(number)
        few = full
        with suppress(Rejected):  # all is needed
            few = walked.witness(number, b"", Room(FIRST_ROOM.size_bytes, leaf_count(full) - 1))
        results = set()
        for witness in (full, few):
            results.add(execute(world.chain, root, witness, step, accept))
            for keys in ([], *([key] for key in more)):
                found = Gathered(tree, step.scope(world.chain)._replace(stage=Stage.INBOX))
                found.add(decode_witness(witness))
                found.lean = True
                found.note(lv.parse_account_key(key) for key, _ in tree.iterate(lv.ACCOUNT))
                found.keys.update(keys)
                larger = encode(found.witness(0))
                results.add(execute(world.chain, root, larger, step, accept))
        assert results == {walked.to(number + 1)}
    return leaf_count(few)


def _step(
    world: World, tree: StateTree, batches: list[bytes], stage: Stage
) -> tuple[StepInput, int]:
    step = StepInput(ordered(world.height, world.time_ms, batches), [], world.cursor, 0)
    plan = step.steps(Engine.restore(world.chain, tree.iterate(), accept)).plan
    number = next(n for n, one in enumerate(plan) if one.stage == stage)
    return step._replace(number=number), number


def test_nobody_can_hide_what_a_switch_would_cancel() -> None:
    world = WaitingWorld(limits=Limits(expiries_per_block=4), accounts=7)
    for place, account in enumerate(world.accounts):
        world.act(account, *(bid(900 - n, 1) for n in range(2 + place)))
    for account in reversed(world.accounts):
        world.one(account, ScheduleCancel(world.time_ms + 10 + DEAD_MAN_LEAST_MS))
    tree = StateTree(world.mirror.items())
    world.until(world.time_ms + 2 * DEAD_MAN_LEAST_MS)
    went = [event.account for event in world.of(DeadManSet)]
    assert went == [world.accounts[-1], world.accounts[0]]
    orders = [key for key, _ in tree.iterate(lv.ORDER)]
    stands(world, tree, [], Stage.SWITCHES, orders[::5])


def test_nobody_can_hide_what_leaves_a_maker_no_margin_for_a_fill_or_kill_order() -> None:
    world = World([market(0, **FREE)], accounts=6, dollars=100)
    for owner in world.accounts[:2]:
        world.act(owner, Order(0, BUY, 990, 895), Order(0, BUY, 998, 5))
    for price in range(1_000, 1_005):
        world.one(world.accounts[2], Order(0, BUY, price, 1))
    world.mark(1_200)
    tree = StateTree(world.mirror.items())
    batches = [world.batch(world.accounts[3], Order(0, SELL, 998, 10, FOK))]
    world.block(batches)
    assert world.last.executed[0][1].results[0].code == Code.NOT_FILLABLE
    bids = [key for key, _ in tree.iterate(lv.ORDER) if lv.parse_order_key(key)[2] == 998]
    stands(world, tree, batches, Stage.TAKING, bids)


def test_nobody_can_hide_what_stands_behind_a_trigger() -> None:
    world = WaitingWorld()
    world.act(A, bid(950, 10), STOP_LOSS)
    world.one(D, ask(1_000, 10))
    world.act(B, Order(0, BUY, 1_000, 10, IOC), STOP_LOSS)
    tree = StateTree(world.mirror.items())
    keys = [key for key, _ in tree.iterate(lv.TRIGGER)]
    assert len(keys) == 2
    batches = [world.batch(C, bid(900, 1))]
    world.block(batches)
    assert not world.of(TriggerChanged)
    stands(world, tree, batches, Stage.UNBACKED, keys)


def test_what_is_shown_in_case_is_left_out_where_there_is_no_room() -> None:
    world = WaitingWorld(accounts=12)
    for account in world.accounts:
        world.act(account, bid(950, 10), STOP_LOSS)
    tree = StateTree(world.mirror.items())
    world.block([])
    step, number = _step(world, tree, [], Stage.UNBACKED)
    with walk(world.chain, tree, step, accept) as walked:
        walked.to(number)
        most = leaf_count(walked.witness(number))
        least = leaf_count(walked.witness(number, b"", Room(FIRST_ROOM.size_bytes, 30)))
    assert most > 3 * 12 > 30 >= least


def test_a_block_drops_the_triggers_of_a_bounded_number_of_accounts() -> None:
    # The world's twin, restored before each block, does the same.
    world = WaitingWorld(limits=Limits(triggers_per_block=1))
    for account in (A, B, C):
        world.one(D, ask(1_000, 10))
        world.act(account, Order(0, BUY, 1_000, 10, IOC), STOP_LOSS)
    world.one(D, bid(1_000, 30))
    tree = StateTree(world.mirror.items())
    batches = [world.batch(owner, Order(0, SELL, 1_000, 10, IOC)) for owner in (A, B, C)]
    world.block(batches)
    assert _unbacked(world) == [A]
    stands(world, tree, batches, Stage.UNBACKED)
    world.block([])
    assert _unbacked(world) == [B]
    # Who has something to reduce again by then keeps it.
    world.one(D, ask(1_000, 10))
    assert _unbacked(world) == [C]


def test_a_trigger_that_has_something_to_reduce_again_stays() -> None:
    world = WaitingWorld(limits=Limits(triggers_per_block=1))
    for account in (A, B):
        world.one(D, ask(1_000, 10))
        world.act(account, Order(0, BUY, 1_000, 10, IOC), STOP_LOSS)
    world.one(D, bid(1_000, 20))
    world.block([world.batch(owner, Order(0, SELL, 1_000, 10, IOC)) for owner in (A, B)])
    assert _unbacked(world) == [A]
    world.one(B, bid(900, 1))
    world.block([])
    assert _unbacked(world) == [] and len(world.engine.state.triggers.rows) == 1


def _unbacked(world: WaitingWorld) -> list[int]:
    return [e.account for e in world.of(TriggerChanged) if e.reason == REASON_UNBACKED]


def crowd(count: int, **options: Any) -> Crash:
    """Many alike longs, and one short who does not bid."""
    holders: dict[int, Any] = {FIRST + n: (usd(6), {0: 100}) for n in range(count)}
    return Crash({**holders, SHORT: (RICH, {0: -100 * count})}, **options)


def test_a_fall_of_many_concerns_a_bounded_number_of_accounts_in_a_block() -> None:
    w = crowd(60, limits=Limits(liquidation_items_per_block=4))
    tree = StateTree(w.mirror.items())
    w.mark(985)
    assert [e.account for e in w.of(LiquidationBegun)] == [FIRST + n for n in range(16)]
    shown = stands(w, tree, w.last_batches, Stage.LIQUIDATIONS)
    assert shown < len(tree) // 2
    begun = 16
    while begun < 60:
        tree = StateTree(w.mirror.items())
        w.block([])
        begun += len(w.of(LiquidationBegun))
        stands(w, tree, [], Stage.LIQUIDATIONS)
    assert len(w.distressed()) == 60


def test_a_rise_of_many_concerns_a_bounded_number_of_accounts_in_a_block() -> None:
    w = crowd(40, limits=Limits(liquidation_items_per_block=4))
    w.mark(985)
    while len(w.distressed()) < 40:
        w.block([])
    tree = StateTree(w.mirror.items())
    w.mark(1_000)
    ended = [e.account for e in w.of(LiquidationEnded)]
    assert ended == [FIRST + n for n in range(16)]
    assert stands(w, tree, w.last_batches, Stage.LIQUIDATIONS) < len(tree)
    w.block([])
    # Whoever falls again before has waited all the time.
    w.mark(985)
    assert len(w.of(LiquidationBegun)) == 16 and len(w.distressed()) == 24
    for _ in range(3):
        w.mark(1_000)
    assert w.distressed() == {}


def test_the_least_urgent_have_their_turn_behind_many_who_cannot_be_sold() -> None:
    w = Crash(
        {
            **{FIRST + n: (usd(60), {0: 1_000}) for n in range(40)},
            500: (usd(0.6), {1: 10}),
            SHORT: (RICH, {0: -40_000, 1: -10}),
            18: (RICH, {}),
        },
        limits=Limits(liquidation_items_per_block=4),
    )
    w.bid(18, 940, 100, 1)
    w.mark(985)
    w.mark(985, 1)
    for _ in range(60):
        w.block([])
        if w.size(500, 1) == 0:
            break
    assert w.size(500, 1) == 0
