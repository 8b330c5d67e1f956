"""The way out on the ledger: forced actions, deadlines, freeze, claims, refunds, exit limits."""

from __future__ import annotations

import msgspec
import pytest
from exit_world import CLAIM_MS, DOLLAR, FORCED_MS, NAMES, ExitWorld
from ledger_world import key_of

from node.exits import HOUR_MS, MAX_FORCED_BYTES
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    HALTED,
    IOC,
    REDUCE_ONLY,
    SELL,
    Action,
    CancelAll,
    MarketOrder,
    Order,
    Transfer,
    Withdraw,
    decode_signed,
)
from protocol.codec import encode
from protocol.errors import Code
from protocol.exits import Claim, Collect, ForceAction, Freeze, Refund
from protocol.genesis import Fees, Limits
from protocol.markets import DAY_MS
from protocol.settlement import FIRST_ACCOUNT, Deposit, InboxForced, account_number

BOND = 7 * DOLLAR


def positions(world: ExitWorld) -> None:
    """Trades, marks that moved, and funding that is unsettled, all settled on the ledger."""
    world.log.step_ms = 6_000
    world.take_in(world.price(0, 1_000), world.price(1, 1_000))
    world.take_in(
        world.signed("alice", Order(0, BUY, 1_000, 900)),
        world.signed("bob", Order(0, SELL, 1_000, 900, IOC)),
        world.signed("bob", Order(1, SELL, 1_000, 500)),
        world.signed("carol", Order(1, BUY, 1_000, 300, IOC)),
    )
    world.take_in(world.price(0, 1_100), world.price(1, 900))
    world.take_in()
    world.settle_all()


def pass_long(world: ExitWorld, time_ms: int) -> None:
    """Hours in as many blocks."""
    world.step_ms = HOUR_MS
    world.pass_ms(time_ms)
    world.step_ms = 100


def claim_all(world: ExitWorld) -> None:
    state = world.rebuilt()
    for name in NAMES:
        assert world.act(name, state.claim(world.account(name))) == Code.OK


# -- forced actions


def test_a_forced_action_enters_the_inbox_and_its_fee_the_pot() -> None:
    world = ExitWorld(forced_fee_uusd=3 * DOLLAR, fees=Fees(0, 5))
    signed = world.signed("alice", Withdraw(DOLLAR, b"\x01" * 20))
    raw = world.transaction(world.keys["bob"], ForceAction(signed))
    pot, before = world.ledger.system().fees_uusd, world.balance("bob")
    outcome = world.ledger_block(raw)
    assert outcome.results[0].code == Code.OK
    assert outcome.entries == [InboxForced(4, signed)]
    assert world.ledger.inbox().count == 5
    paid = world.ledger.system().fees_uusd - pot
    assert before - world.balance("bob") == paid > 3 * DOLLAR
    assert [entry for _, entry in world.ledger.entries(4, 9, 99)] == outcome.entries


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (CancelAll(ALL_MARKETS), Code.OK),
        (MarketOrder(0, SELL, 5, 10_000, 0, REDUCE_ONLY), Code.OK),
        (MarketOrder(0, SELL, 5, 10_000), Code.NOT_FORCEABLE),
        (Order(0, BUY, 1_000, 5, IOC, 0, REDUCE_ONLY), Code.NOT_FORCEABLE),
        (Transfer(account_number(16, 1), DOLLAR), Code.NOT_FORCEABLE),
        (Withdraw(0, b"\x01" * 20), Code.BAD_AMOUNT),
        (Withdraw(1 << 42, b"\x01" * 20), Code.BAD_AMOUNT),
        (Withdraw(1, b"\x01" * 19), Code.BAD_AMOUNT),
    ],
)
def test_only_what_leaves_or_shrinks_can_be_forced(action: Action, code: Code) -> None:
    assert ExitWorld().force("alice", action) == code


def test_a_forced_batch_is_small_alone_signed_and_of_its_owner() -> None:
    world = ExitWorld()
    good = world.signed("alice", CancelAll(0))
    torn = encode(msgspec.structs.replace(decode_signed(good), signature=b"\x01" * 64))
    foreign = world.signed("alice", CancelAll(0), account=world.account("bob"))
    system = world.signed("alice", CancelAll(0), account=2)
    long = good + bytes(MAX_FORCED_BYTES)
    stranger = world.keys.setdefault("eve", key_of("eve"))
    assert world.ledger.account_number(stranger.address) == 0
    unknown = world.signed("eve", CancelAll(0), account=FIRST_ACCOUNT)
    expected = [
        (torn, Code.BAD_SIGNATURE), (foreign, Code.NOT_AUTHORISED), (system, Code.NOT_AUTHORISED),
        (long, Code.NOT_FORCEABLE), (unknown, Code.NOT_AUTHORISED), (b"", Code.MALFORMED),
    ]  # fmt: skip
    for signed, code in expected:
        assert world.act("bob", ForceAction(signed)) == code
    assert world.ledger.inbox().count == 4
    sub = world.signed("alice", CancelAll(0), account=account_number(world.account("alice"), 3))
    assert world.act("bob", ForceAction(sub)) == Code.OK


def test_who_cannot_pay_the_fee_of_a_forced_action_does_not_force_it() -> None:
    world = ExitWorld(forced_fee_uusd=2_000 * DOLLAR)
    assert world.force("alice") == Code.INSUFFICIENT_BALANCE
    assert world.ledger.inbox().count == 4


def test_a_censored_withdrawal_is_forced_settled_and_paid() -> None:
    world = ExitWorld()
    assert world.force("alice", Withdraw(30 * DOLLAR, b"\x09" * 20)) == Code.OK
    world.take_in()
    world.settle_all()
    assert world.act("bob", world.payout(0)) == Code.OK
    assert world.ledger.account(b"\x09" * 20).balance_uusd == 30 * DOLLAR
    world.pass_ms(3 * FORCED_MS)
    assert not world.ledger.frozen


# -- deadlines


def test_an_entry_that_waits_for_too_long_freezes_the_shard_by_itself() -> None:
    world = ExitWorld()
    world.force("alice")
    assert world.act("bob", Freeze()) == Code.NOT_OVERDUE
    world.pass_ms(FORCED_MS - 300)
    assert not world.ledger.frozen and world.ledger.exits.next_due_ms()
    world.pass_ms(300)
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None and frozen.batch == 1
    assert FORCED_MS <= frozen.since_ms <= world.ledger.system().window_ms
    assert world.act("bob", Freeze()) == Code.SHARD_FROZEN


def test_nothing_waits_in_an_empty_inbox() -> None:
    world = ExitWorld(outage_ms=1_000)
    world.pass_ms(3 * FORCED_MS)
    assert not world.ledger.frozen and world.ledger.exits.next_due_ms() is None
    assert world.act("bob", Freeze()) == Code.NOT_OVERDUE


def test_a_deposit_that_nobody_takes_in_freezes_too() -> None:
    world = ExitWorld()
    world.act("alice", Deposit(world.keys["alice"].address, DOLLAR))
    world.pass_ms(FORCED_MS)
    assert world.ledger.frozen


def test_a_flooder_cannot_freeze_the_shard() -> None:
    world = ExitWorld(limits=Limits(inbox_per_block=2))
    pace_ms = world.chain.genesis.sequencer_pace.idle_interval_ms
    flood = 60
    for _ in range(flood):
        world.act("bob", Deposit(world.keys["bob"].address, 1))
    world.force("alice")
    ahead_ms = flood // 2 * pace_ms
    while world.engine.inbox_cursor < 4 + flood:
        # Honest blocks at their slowest pace, and as many seconds until they settle.
        world.take_in()
        world.settle_all()
        world.pass_ms(pace_ms - world.step_ms)
    assert not world.ledger.frozen
    world.pass_ms(FORCED_MS - 300)
    assert not world.ledger.frozen
    world.pass_ms(ahead_ms + 600)
    assert world.ledger.frozen


def test_an_outage_of_batches_freezes_while_something_waits() -> None:
    world = ExitWorld(forced_ms=0, outage_ms=4_000)
    world.pass_ms(20_000)
    world.force("alice")
    world.pass_ms(3_500)
    assert not world.ledger.frozen
    world.order()
    world.settle_all()
    world.pass_ms(3_500)
    assert not world.ledger.frozen
    world.pass_ms(500)
    assert world.ledger.frozen


def test_without_deadlines_nothing_ever_freezes() -> None:
    world = ExitWorld(forced_ms=0)
    world.force("alice")
    world.pass_ms(50_000)
    assert not world.ledger.frozen and world.ledger.exits.next_due_ms() is None


# -- the freeze


def test_a_freeze_removes_what_is_not_final_and_returns_bonds() -> None:
    world = ExitWorld(window_ms=4_000, clock_ms=100, prover_bond_uusd=BOND)
    world.pass_ms(4_000)
    final = world.ledger.final()
    assert final.batch == 1
    bonded = world.ledger.account(world.prover.address).balance_uusd
    world.force("alice", Withdraw(DOLLAR, b"\x01" * 20))
    world.pass_ms(FORCED_MS - 2_000)
    world.order()
    world.settle_all()
    world.order()
    world.settle_all()
    world.pass_ms(2_000)
    assert world.ledger.frozen and world.ledger.shard_leaf().batch == 1
    assert world.ledger.batch(2) is None and world.ledger.final() == final
    assert world.ledger.account(world.prover.address).balance_uusd == bonded
    world.ledger.require_conserved()


def test_a_frozen_shard_takes_nothing_in() -> None:
    world = ExitWorld()
    world.freeze()
    assert world.act("alice", Deposit(world.keys["alice"].address, 1)) == Code.SHARD_FROZEN
    assert world.force("alice") == Code.SHARD_FROZEN
    world.order()
    _, outcome = world.settle()
    assert outcome.results[-1].code == Code.SHARD_FROZEN


def test_withdrawals_of_final_batches_are_paid_in_full_from_a_frozen_shard() -> None:
    world = ExitWorld(exit_hour_ppm=1, exit_day_ppm=1)
    world.take_in(world.signed("alice", Withdraw(900 * DOLLAR, b"\x01" * 20)))
    world.settle_all()
    assert world.act("alice", world.payout(0)) == Code.EXIT_LIMIT
    world.freeze()
    claim_all(world)
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None and frozen.funds_uusd == frozen.claims_uusd == 3_100 * DOLLAR
    world.pass_ms(CLAIM_MS)
    for name in NAMES:
        assert world.act(name, Collect(world.account(name))) == Code.OK
    assert world.act("alice", world.payout(0)) == Code.OK
    assert world.ledger.shard_leaf().funds_uusd == 0


def test_deposits_that_the_state_never_took_in_are_refunded_once() -> None:
    world = ExitWorld()
    world.act("alice", Deposit(world.keys["carol"].address, 40 * DOLLAR))
    world.act("bob", Deposit(world.keys["bob"].address, 5 * DOLLAR))
    assert world.act("bob", Refund(4)) == Code.NOT_FROZEN
    world.freeze()
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None and frozen.refunds_uusd == 45 * DOLLAR
    carol = world.balance("carol")
    assert world.act("bob", Refund(4)) == Code.OK
    assert world.balance("carol") == carol + 40 * DOLLAR
    assert world.act("bob", Refund(4)) == Code.ALREADY_PAID
    for index in (0, 3, 6, 7, -1, (1 << 64) - 1):  # taken in, a forced action, none
        assert world.act("bob", Refund(index)) == Code.NOT_REFUNDABLE
    claim_all(world)
    assert world.act("bob", Refund(5)) == Code.OK
    assert world.ledger.shard_leaf().funds_uusd == 4_000 * DOLLAR


# -- claims


def test_claims_are_what_the_engine_says_accounts_are_worth() -> None:
    world = ExitWorld()
    positions(world)
    worth = {name: world.engine.account_view(0, world.account(name)).equity_uusd for name in NAMES}
    assert len(set(worth.values())) == 4
    world.freeze()
    before = {name: world.balance(name) for name in NAMES}
    claim_all(world)
    world.pass_ms(CLAIM_MS)
    for name in NAMES:
        assert world.act("dave", Collect(world.account(name))) == Code.OK
        assert world.balance(name) - before[name] == worth[name]


def test_a_claim_is_registered_once_in_time_and_collected_once() -> None:
    world = ExitWorld()
    world.force("alice")
    state = world.rebuilt()
    claim = state.claim(world.account("alice"))
    assert world.act("alice", claim) == Code.NOT_FROZEN
    assert world.act("alice", Collect(16)) == Code.NOT_FROZEN
    world.freeze()
    assert world.act("bob", claim) == Code.OK
    assert world.act("alice", claim) == Code.ALREADY_CLAIMED
    assert world.act("alice", Collect(16)) == Code.CLAIMS_OPEN
    world.pass_ms(CLAIM_MS)
    assert world.act("bob", state.claim(world.account("bob"))) == Code.CLAIMS_CLOSED
    assert world.act("bob", Collect(world.account("bob"))) == Code.NO_CLAIM
    assert world.act("bob", Collect((1 << 64) - 1)) == Code.NO_CLAIM
    assert world.act("bob", Collect(16)) == Code.OK
    assert world.act("bob", Collect(16)) == Code.ALREADY_PAID


def test_accounts_of_the_system_and_accounts_without_worth_claim_nothing() -> None:
    world = ExitWorld()
    world.take_in(world.signed("alice", Withdraw(1_000 * DOLLAR, b"\x01" * 20)))
    world.settle_all()
    world.freeze()
    state = world.rebuilt()
    assert world.act("alice", state.claim(16)) == Code.NO_CLAIM
    for account in (0, 2, -1, (1 << 64) - 1):
        claim = msgspec.structs.replace(state.claim(16), account=account)
        assert world.act("alice", claim) == Code.UNKNOWN_ACCOUNT
    assert world.act("alice", Claim(16, b"\xc0", b"")) == Code.WRONG_TYPE


def test_a_sub_account_claims_for_itself_to_its_masters_address() -> None:
    world = ExitWorld()
    sub = account_number(world.account("alice"), 1, 0)
    world.take_in(world.signed("alice", Transfer(sub, 300 * DOLLAR)))
    world.settle_all()
    world.freeze()
    state, before = world.rebuilt(), world.balance("alice")
    assert world.act("bob", state.claim(sub)) == Code.OK
    assert world.act("bob", state.claim(16)) == Code.OK
    world.pass_ms(CLAIM_MS)
    for account, amount in ((sub, 300), (16, 700)):
        had = world.balance("alice")
        assert world.act("bob", Collect(account)) == Code.OK
        assert world.balance("alice") - had == amount * DOLLAR
    assert world.balance("alice") - before == 1_000 * DOLLAR


def test_where_losses_exceed_margin_all_claims_get_the_same_share() -> None:
    world = ExitWorld()
    world.take_in(world.price(0, 1_000))
    world.take_in(
        world.signed("alice", Order(0, BUY, 1_000, 5_000)),
        world.signed("bob", Order(0, SELL, 1_000, 5_000, IOC)),
    )
    # While it is halted nobody is liquidated there.
    world.take_in(world.vote(0, HALTED))
    world.take_in(world.price(0, 1_500))
    world.settle_all()
    worth = {name: world.engine.account_view(0, world.account(name)).equity_uusd for name in NAMES}
    assert worth["bob"] < 0 < worth["alice"]
    world.freeze()
    state = world.rebuilt()
    for name in ("alice", "carol", "dave"):
        assert world.act(name, state.claim(world.account(name))) == Code.OK
    assert world.act("bob", state.claim(world.account("bob"))) == Code.NO_CLAIM
    owed = sum(value for value in worth.values() if value > 0)
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None and frozen.claims_uusd == owed > frozen.funds_uusd == 4_000 * DOLLAR
    world.pass_ms(CLAIM_MS)
    for name in ("alice", "carol", "dave"):
        had = world.balance(name)
        assert world.act(name, Collect(world.account(name))) == Code.OK
        assert world.balance(name) - had == worth[name] * 4_000 * DOLLAR // owed
    assert 0 <= world.ledger.shard_leaf().funds_uusd < 4


# -- limits on exits


def test_exits_are_limited_within_the_hour_and_the_day() -> None:
    world = ExitWorld(forced_ms=0, exit_hour_ppm=100_000, exit_day_ppm=150_000, idle_ms=HOUR_MS)
    world.take_in(
        *[world.signed("alice", Withdraw(200 * DOLLAR, world.prover.address)) for _ in range(4)]
    )
    world.settle_all()
    # $4000 on the bridge: 400 in the first hour, 600 in the day.
    assert world.act("bob", world.payout(0)) == Code.OK
    assert world.act("bob", world.payout(1)) == Code.OK
    outcome = world.ledger_block(world.transaction(world.bob, world.payout(2)))
    assert outcome.results[0].code == Code.EXIT_LIMIT
    assert "in this hour" in outcome.results[0].text
    pass_long(world, HOUR_MS)
    assert world.act("bob", world.payout(2)) == Code.OK
    outcome = world.ledger_block(world.transaction(world.bob, world.payout(3)))
    assert outcome.results[0].code == Code.EXIT_LIMIT and "in this hour" in outcome.results[0].text
    pass_long(world, HOUR_MS)
    outcome = world.ledger_block(world.transaction(world.bob, world.payout(3)))
    assert outcome.results[0].code == Code.EXIT_LIMIT and "in this day" in outcome.results[0].text
    pass_long(world, DAY_MS)
    assert world.act("bob", world.payout(3)) == Code.OK


def test_the_fee_of_a_payout_does_not_come_out_of_one_beyond_the_limit() -> None:
    world = ExitWorld(fees=Fees(0, 1), exit_hour_ppm=1, forced_ms=0)
    stranger = key_of("stranger")
    world.take_in(world.signed("alice", Withdraw(200 * DOLLAR, stranger.address)))
    world.settle_all()
    outcome = world.ledger_block(world.transaction(stranger, world.payout(0)))
    assert outcome.results[0].code == Code.FEE_TOO_LOW
    assert "may leave the bridge" in outcome.results[0].text
