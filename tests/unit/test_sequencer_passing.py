"""What sequencers pass on to each other: in order, and no more than there is room for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shared_world import ALICE, COUNT, SharedWorld

import sequencer.pool as pool_module
from protocol.actions import REDUCE_ONLY, ActionBatch, Cancel, Order, batch_id, sign_batch
from protocol.chain import Proposal
from protocol.codec import encode
from protocol.errors import Rejected
from sequencer import taking
from sequencer.inbox_height import COUNTS_KEPT, InboxCounts
from sequencer.lanes import Lane
from sequencer.passing import OwnBatches, messages
from sequencer.peer import (
    MAX_PASSED_BATCHES,
    PASSED_BYTES,
    PassedBatches,
    PeerMessage,
    decode_peer_message,
)

ROOM_FOR = 48
"""Batches in a pool of which each other sequencer has room for 8: 4 orders, of which 3 are used."""

Lost = Callable[[int, int, PeerMessage], bool]


class World(SharedWorld):
    """Four sequencers; each account is a hand of its own."""

    def batch_of(self, account: int, action: Order | Cancel) -> bytes:
        self.nonce_ms += 1
        batch = ActionBatch(account, self.nonce_ms, 0, [action])
        return sign_batch(ALICE, self.chain.chain_id, 0, batch)

    def order(self, account: int = 16) -> bytes:
        return self.batch_of(account, Order(0, 0, 600_000, 1))

    def cancel(self, account: int = 16) -> bytes:
        return self.batch_of(account, Cancel(0, 1))

    def only_pass(self, lost: Lost = lambda *_: False) -> None:
        """From now on sequencers pass batches on, but for what is lost, and order nothing."""
        self.drop = lambda *one: not isinstance(one[2], PassedBatches) or lost(*one)

    def waits(self, index: int, raw: bytes) -> bool:
        return batch_id(raw) in self.members[index].machine.pool

    def refused(self) -> set[str]:
        names = {name for one in self.members for name in one.machine.counters}
        return {name for name in names if name.startswith("passed_refused")}


# --- an order that has not come, and the cancel behind it


def test_a_cancel_does_not_go_first_where_a_full_queue_had_no_room_for_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", ROOM_FOR)
    world = World()
    world.drop = lambda *one: one[0] == 1 and isinstance(one[2], Proposal)  # the others order
    order, cancel = world.order(), world.cancel()
    sent = [*(world.order(17 + number) for number in range(6)), order, cancel]
    for raw in sent:
        world.members[1].submit(raw)
    world.run(60_000)
    log = world.members[0].ordered()
    assert world.logs() == {tuple(log)} and sorted(log) == sorted(sent)
    assert log.index(order) < log.index(cancel)


def test_a_cancel_does_not_go_first_where_a_link_lost_its_order() -> None:
    world = World()
    order, cancel = world.order(), world.cancel()
    world.only_pass(lambda sender, *_: sender == 2)
    world.members[2].submit(order)
    world.only_pass()
    world.members[2].submit(cancel)
    world.run(0)
    assert not world.waits(0, cancel)
    assert world.refused() == {"passed_refused_not_ready"}
    world.run(3_000)  # both are passed on again, in their order
    assert all(world.waits(index, raw) for index in range(COUNT) for raw in (order, cancel))
    world.drop = lambda *_: False
    world.run(10_000)
    assert world.logs() == {(order, cancel)}


@pytest.mark.parametrize("kept", [1, 2, 100])
def test_what_came_early_waits_in_its_order_and_the_oldest_go(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(taking, "EARLY_BATCHES", kept)
    world = World()
    world.drop = lambda *one: isinstance(one[2], PassedBatches)
    orders = [world.order() for _ in range(4)]
    ids = [batch_id(raw) for raw in orders]
    receiver = world.members[0]
    early = PassedBatches(orders[1:], ids[:-1])
    receiver.take(receiver.machine.receive([(2, early)], world.now_ms))
    assert not any(world.waits(0, raw) for raw in orders)
    for member in world.members:  # each has work, so that each has its turn
        member.submit(orders[0] if member.index == 2 else world.order(20 + member.index))
    world.run(10_000)
    came = [raw for raw in orders[1:] if receiver.machine.pool.knows(batch_id(raw))]
    assert came == (orders[1:] if kept > 2 else [])


def test_a_batch_that_no_block_can_take_any_more_holds_nothing_back() -> None:
    world = World()
    expired = ActionBatch(16, world.nonce_ms, 1, [Order(0, 0, 600_000, 1)])
    dead, order = sign_batch(ALICE, world.chain.chain_id, 0, expired), world.order()
    world.drop = lambda *_: True
    message = PassedBatches([dead, order], [b"", batch_id(dead)])
    world.members[0].machine.receive([(2, message)], world.now_ms)
    assert world.waits(0, order) and not world.waits(0, dead)
    assert world.refused() == {"passed_refused_action_expired"}


def test_a_cancel_does_not_go_before_the_order_to_reduce_that_it_is_for() -> None:
    """Both reduce risk, so that neither waits with the others."""
    world = World()
    order = world.batch_of(16, Order(0, 1, 600_000, 1, flags=REDUCE_ONLY))
    cancel = world.cancel()
    world.only_pass(lambda sender, *_: sender == 2)
    world.members[2].submit(order)
    world.only_pass()
    world.members[2].submit(cancel)
    world.run(0)
    assert world.members[2].machine.pool.lane(batch_id(order)) == Lane.REDUCING
    assert not world.waits(0, cancel)
    world.drop = lambda *_: False
    world.run(10_000)
    assert world.logs() == {(order, cancel)}


def test_a_cancel_over_another_sequencer_does_not_go_first_either() -> None:
    world = World()
    first, second, cancel = world.order(), world.order(), world.cancel()
    world.only_pass()
    world.members[1].submit(first)
    world.only_pass(lambda _, receiver, __: receiver in (0, 2))
    world.members[1].submit(second)
    world.run(0)
    assert world.waits(0, first) and world.waits(3, second) and not world.waits(0, second)
    world.only_pass()
    world.members[3].submit(cancel)
    world.run(0)
    assert world.waits(1, cancel) and not world.waits(0, cancel)
    world.drop = lambda *_: False
    world.run(20_000)
    assert world.logs() == {(first, second, cancel)}


def test_orders_of_one_hand_stay_in_their_order_after_a_restart() -> None:
    world = World()
    orders = [world.order() for _ in range(5)]
    world.drop = lambda *_: True
    for raw in orders:
        world.members[2].submit(raw)
    world.members[2].restart()
    world.only_pass()
    last = world.order()
    world.members[2].submit(last)
    world.run(0)
    assert not world.waits(0, last) or world.waits(0, orders[0])
    world.drop = lambda *_: False
    world.run(10_000)
    assert world.logs() == {(*orders, last)}


def test_what_is_ordered_holds_nothing_back_though_it_never_came_as_passed_on() -> None:
    world = World()
    order, cancel = world.order(), world.cancel()
    world.drop = lambda *one: isinstance(one[2], PassedBatches)
    for member in world.members:  # each has work, so that each has its turn
        member.submit(order if member.index == 2 else world.order(20 + member.index))
    world.run(30_000)
    assert order in world.members[0].ordered()
    world.only_pass()
    message = PassedBatches([cancel], [batch_id(order)])
    world.members[0].machine.receive([(2, message)], world.now_ms)
    assert world.waits(0, cancel)


def test_a_batch_stands_behind_nothing_that_its_hand_never_signed() -> None:
    world = World()
    false = world.order()
    false = false[:-1] + bytes([false[-1] ^ 1])
    member = world.members[3]
    world.drop = lambda *_: True
    member.take(member.machine.receive([(1, PassedBatches([false]))], world.now_ms))
    mine, behind = world.order(), world.cancel()
    member.submit(mine)
    member.submit(behind)
    pool = member.machine.pool
    assert pool.to_pass(batch_id(mine)) == (mine, b"")
    assert pool.to_pass(batch_id(behind)) == (behind, batch_id(mine))
    first, then = world.cancel(30), world.order(30)
    member.submit(first)
    member.submit(then)
    assert pool.to_pass(batch_id(first)) == (first, b"")
    assert pool.to_pass(batch_id(then)) == (then, batch_id(first))
    pool.remember(batch_id(mine), 1)
    assert pool.to_pass(batch_id(behind)) == (behind, b""), "what is ordered is not waited for"
    assert pool.to_pass(batch_id(mine)) is None


def test_what_was_forgotten_and_comes_again_ties_no_knot() -> None:
    world = World()
    world.drop = lambda *_: True
    machine, raws = world.members[3].machine, [world.order(), world.order()]
    first = batch_id(raws[0])
    machine.receive([(1, PassedBatches(raws))], world.now_ms)
    machine.pool.remember(first, 1)
    del machine.pool._recent[first]
    machine.receive([(1, PassedBatches(raws))], world.now_ms)
    for raw in raws:
        assert machine.pool.to_pass(batch_id(raw)) == (raw, b"")


def test_what_is_said_of_too_few_batches_is_not_looked_at() -> None:
    world = World()
    world.drop = lambda *_: True
    member, raws = world.members[0], [world.order(), world.order()]
    message = PassedBatches(raws, [b""])
    member.take(member.machine.receive([(1, message)], world.now_ms))
    assert member.machine.counters == {"passed_refused_malformed": 1}
    assert not len(member.machine.pool)
    for behind in ([bytes(33)], [b""] * (MAX_PASSED_BATCHES + 1)):
        with pytest.raises(Rejected):
            decode_peer_message(encode(PassedBatches(raws[:1], behind)))
    whole = PassedBatches(raws, [b"", batch_id(raws[0])])
    assert decode_peer_message(encode(whole)) == whole


# --- room at the others


def test_no_more_is_under_way_than_others_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", ROOM_FOR)
    world = World()
    world.only_pass()
    orders = [world.order(20 + number) for number in range(10)]
    cancels = [world.cancel(40 + number) for number in range(5)]
    for raw in (*orders, *cancels):
        world.members[1].submit(raw)
    world.run(4_000)

    def there() -> list[bytes]:
        return [raw for raw in (*orders, *cancels) if world.waits(0, raw)]

    assert there() == [*orders[:3], *cancels[:3]] and not world.refused()
    world.members[1].restart()
    world.run(4_000)
    assert there() == [*orders[:3], *cancels[:3]] and not world.refused()
    world.drop = lambda *_: False
    world.run(60_000)
    assert world.logs() == {tuple(world.members[0].ordered())}
    assert sorted(world.members[0].ordered()) == sorted((*orders, *cancels))
    assert not world.refused()
    assert not len(world.members[1].machine._own)


def test_all_is_passed_on_in_a_log_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others have of it may have expired on its way; something must have the log go on."""
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", ROOM_FOR)
    world = World()
    world.only_pass()
    orders = [world.order(20 + number) for number in range(10)]
    for raw in orders:
        world.members[1].submit(raw)
    world.run(9_000)
    assert sum(world.waits(0, raw) for raw in orders) == 3
    for raw in orders[:3]:
        world.members[0].machine.pool._waiting.pop(batch_id(raw))
    world.run(4_000)
    assert all(world.waits(0, raw) for raw in orders[3:7]) and not world.waits(0, orders[7])
    world.drop = lambda *_: False
    world.run(60_000)
    assert not len(world.members[1].machine._own)


def names(*numbers: int) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in numbers]


def test_the_oldest_of_each_lane_are_under_way() -> None:
    own = OwnBatches(lambda lane: (4, 400) if lane == Lane.OTHER else (1, 1_000))
    for number, name in enumerate(names(*range(8))):
        own.add(name, Lane.REDUCING if number >= 6 else Lane.OTHER, 90)
    own.add(names(0)[0], Lane.OTHER, 90)
    assert own.start(0) == names(6, 0, 1, 2) and len(own) == 8
    assert own.start(0) == []
    own.forget(names(4)[0])  # ordered by this sequencer itself
    assert own.start(0) == []
    own.forget(names(1)[0])
    own.forget(names(6)[0])
    assert own.start(0) == names(7, 3)
    assert names(5)[0] in own and names(1)[0] not in own
    for name in names(0, 2, 3):
        own.forget(name)
        own.forget(name)
    assert own.start(0) == names(5) and len(own) == 2
    for number, name in enumerate(names(10, 11, 12)):
        own.add(name, Lane.REDUCING, 90 + number)
    again = own.due(lambda name: (name, b""), 1_000)
    assert again is not None and again.batches == names(7, 5) and not again.behind
    own.wait_until(2_500)
    assert own.due(lambda name: (name, b""), 2_000) is None
    again = own.due(lambda name: (name, b""), 3_000)
    assert again is not None and again.batches == names(7, 5, 10, 11, 12)
    for name in names(7, 10, 11):
        own.forget(name)
    own.add(names(13)[0], Lane.REDUCING, 90)
    assert own.start(3_000) == [], "what went beyond the room has to be ordered first"
    own.forget(names(12)[0])
    assert own.start(3_000) == names(13)


def test_messages_are_bounded_and_name_what_stands_before() -> None:
    large = bytes(PASSED_BYTES // 2)
    passed = {
        name: (large, before) for name, before in zip(names(1, 2, 3), names(7, 8, 9), strict=True)
    }
    found = list(messages(names(1, 5, 2, 3), passed.get))
    assert [one.behind for one in found] == [names(7, 8), names(9)]
    many = list(messages(names(*range(MAX_PASSED_BATCHES + 1)), lambda _: (b"x", b"")))
    assert [len(one.batches) for one in many] == [MAX_PASSED_BATCHES, 1]


# --- the inbox meanwhile


def test_counts_of_the_inbox_are_bounded_while_no_block_names_them() -> None:
    counts = InboxCounts(256)
    for height in range(1, 3 * COUNTS_KEPT):
        counts.note(height, height)
    assert len(counts) == COUNTS_KEPT
    newest = 3 * COUNTS_KEPT - 1
    assert counts.at(newest) == newest and counts.at(1) == 1
    assert counts.advance(0, newest) == 256
    assert counts.advance(0, COUNTS_KEPT) == 1, "a lower count is certain"
    counts.forget_below(newest)
    assert len(counts) == 1
