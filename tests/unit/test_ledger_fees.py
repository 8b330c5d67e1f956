"""Fees: who pays what for which transaction, who gets it, and what has no effect without it."""

from __future__ import annotations

import pytest
from ledger_world import LedgerWorld, key_of, make_chain
from staking_world import STAKE, StakingWorld

from node.app import LedgerApplication
from protocol.chain import Block, genesis_header, genesis_qc
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import CASH_MOVE_LIMIT, Fees
from protocol.keys import Key
from protocol.ledger_leaves import account_key
from protocol.settlement import (
    Deposit,
    OutboxEntry,
    ReportEvidence,
    decode_signed_transaction,
    decode_transaction,
)

FEES = Fees(base_uusd=100, per_kib_uusd=10)
FEE = 110
"""Least fee of a small transaction."""


class FeeWorld(LedgerWorld):
    """Alice has 1,000 uusd, bob 100, the prover 100,000, carol nothing."""

    def __init__(self) -> None:
        self.carol = key_of("carol")
        funded = [(key_of("alice"), 1_000, 500), (key_of("bob"), 100, 0)]
        super().__init__(make_chain([*funded, (key_of("prover"), 100_000, 0)], fees=FEES))
        self.app = LedgerApplication(self.ledger, 100_000)

    def state(self, key: Key) -> tuple[int, int]:
        account = self.ledger.account(key.address)
        return account.balance_uusd, account.nonce

    @property
    def pot(self) -> int:
        return self.ledger.system().fees_uusd

    def submit_code(self, raw: bytes) -> Code:
        try:
            self.app.submit(raw, 0)
        except Rejected as error:
            return error.code
        return Code.OK


def test_the_least_fee_grows_with_every_kib_begun() -> None:
    assert [FEES.least_uusd(size) for size in (1, 1024, 1025, 10_240)] == [110, 110, 120, 200]


def test_a_transaction_is_signed_with_the_least_fee_of_its_own_size() -> None:
    world = FeeWorld()
    for size in range(900, 1_000):
        raw = world.sign(world.alice, Deposit(bytes(size), 5))
        paid = decode_transaction(decode_signed_transaction(raw).payload).fee_uusd
        assert paid == FEES.least_uusd(len(raw))


def test_a_transaction_pays_into_the_pot() -> None:
    world = FeeWorld()
    assert world.code(world.deposit(world.alice, 200)) == Code.OK
    assert (world.state(world.alice), world.pot) == ((1_000 - 200 - FEE, 1), FEE)
    higher = world.sign(world.alice, Deposit(world.alice.address, 1), fee_uusd=300)
    assert world.code(higher) == Code.OK
    assert (world.state(world.alice), world.pot) == ((389, 2), FEE + 300)


def test_a_failed_transaction_has_paid() -> None:
    world = FeeWorld()
    assert world.code(world.deposit(world.alice, 891)) == Code.INSUFFICIENT_BALANCE
    assert (world.state(world.alice), world.pot) == ((890, 1), FEE)


def test_a_deposit_of_everything_leaves_room_for_the_fee() -> None:
    world = FeeWorld()
    assert world.code(world.deposit(world.alice, 890)) == Code.OK
    assert world.state(world.alice) == (0, 1)


def test_what_cannot_pay_has_no_effect_at_all_and_may_come_again() -> None:
    world = FeeWorld()
    raw = world.deposit(world.bob, 1)
    outcome = world.block(raw)
    assert outcome.results[0].code == Code.FEE_TOO_LOW
    assert account_key(world.bob.address) not in outcome.changes
    cheap = world.sign(world.alice, Deposit(world.alice.address, 1), fee_uusd=FEE - 1)
    outcome = world.block(cheap)
    assert outcome.results[0].code == Code.FEE_TOO_LOW
    assert (world.state(world.alice), world.pot) == ((1_000, 0), 0)
    world.settle([OutboxEntry(0, 16, world.bob.address, 300)])
    assert world.code(world.sign(world.alice, world.payout(1, 0))) == Code.OK
    assert world.code(raw) == Code.OK
    assert world.state(world.bob) == (400 - FEE - 1, 1)


@pytest.mark.parametrize("fee", [-1, CASH_MOVE_LIMIT])
def test_a_fee_out_of_range_is_refused(fee: int) -> None:
    world = FeeWorld()
    raw = world.sign(world.alice, Deposit(world.alice.address, 1), fee_uusd=fee)
    assert world.code(raw) == world.submit_code(raw) == Code.BAD_AMOUNT


def test_a_payout_to_its_sender_pays_out_of_what_it_brings() -> None:
    world = FeeWorld()
    world.settle(
        [OutboxEntry(n, 16, world.carol.address, amount) for n, amount in ((0, 200), (1, FEE - 1))]
    )
    pot = world.pot
    small = world.sign(world.carol, world.payout(1, 1))
    assert world.submit_code(small) == Code.INSUFFICIENT_BALANCE
    assert world.code(small) == Code.FEE_TOO_LOW
    assert world.state(world.carol) == (0, 0)
    raw = world.sign(world.carol, world.payout(1, 0))
    assert world.submit_code(raw) == Code.OK
    assert world.code(raw) == Code.OK
    assert (world.state(world.carol), world.pot) == ((200 - FEE, 1), pot + FEE)
    assert world.code(world.sign(world.carol, world.payout(1, 0))) == Code.FEE_TOO_LOW
    assert world.state(world.carol) == (200 - FEE, 1)


def test_a_payout_to_another_does_not_pay_for_its_sender() -> None:
    world = FeeWorld()
    world.settle([OutboxEntry(0, 16, world.bob.address, 400)])
    raw = world.sign(world.carol, world.payout(1, 0))
    assert world.submit_code(raw) == Code.INSUFFICIENT_BALANCE
    assert world.code(raw) == Code.FEE_TOO_LOW


def test_an_unfunded_payout_brings_nothing_to_pay_with() -> None:
    world = FeeWorld()
    world.settle([OutboxEntry(0, 16, world.carol.address, 501)])
    assert world.code(world.sign(world.carol, world.payout(1, 0))) == Code.FEE_TOO_LOW
    assert world.state(world.carol) == (0, 0)
    assert world.ledger.counters.underfunded_payouts == 1


def test_fees_that_are_too_low_or_not_covered_do_not_enter_the_pool() -> None:
    world = FeeWorld()
    to = world.alice.address
    assert world.submit_code(world.sign(world.alice, Deposit(to, 1), fee_uusd=FEE - 1)) == (
        Code.FEE_TOO_LOW
    )
    assert world.submit_code(world.deposit(world.bob, 1)) == Code.INSUFFICIENT_BALANCE
    assert world.submit_code(world.deposit(world.alice, 891)) == Code.INSUFFICIENT_BALANCE
    for nonce in range(9):
        raw = world.sign(world.alice, Deposit(to, 900 if nonce else 1), nonce)
        assert world.submit_code(raw) == Code.OK, "amounts of later ones may still come"
    tenth = world.sign(world.alice, Deposit(to, 1), 9)
    assert world.submit_code(tenth) == Code.INSUFFICIENT_BALANCE


def test_blocks_with_fees_that_are_too_low_get_no_vote() -> None:
    world = FeeWorld()
    raw = world.sign(world.alice, Deposit(world.alice.address, 1), fee_uusd=FEE - 1)
    justify = genesis_qc(genesis_header(world.chain.chain_id, 0, bytes(32)))
    with pytest.raises(Rejected) as refused:
        world.app.check(Block(world.next_header(), encode([raw]), justify, None), [])
    assert refused.value.code == Code.FEE_TOO_LOW


def test_the_pot_is_shared_by_stake_at_the_boundary_and_the_rest_stays() -> None:
    world = StakingWorld(fees=FEES)
    world.expect(Code.OK, world.bond("alice", 5_000))
    world.next_epoch()
    world.block(
        *(world.sign(world.bob, Deposit(world.bob.address, 1), nonce) for nonce in range(9))
    )
    pot = world.ledger.system().fees_uusd
    assert pot == 9 * FEE + FEE % 3
    before = [world.balance(key) for key in (*world.keys, world.alice)]
    world.reach_boundary()
    total = 3 * STAKE + 5_000
    shares = [pot * STAKE // total] * 3 + [pot * 5_000 // total]
    after = [world.balance(key) for key in (*world.keys, world.alice)]
    assert [new - old for new, old in zip(after, before, strict=True)] == shares
    assert world.ledger.system().fees_uusd == pot - sum(shares)


def test_evidence_is_free_where_it_holds_and_pays_where_it_does_not() -> None:
    world = StakingWorld(fees=FEES)
    poor = key_of("poor")
    report = ReportEvidence(world.double_vote(1))
    world.expect(Code.OK, world.sign(world.alice, report))
    assert world.balance(world.alice) == 10_000 and world.ledger.system().fees_uusd == 0
    world.expect(Code.EVIDENCE_KNOWN, world.sign(world.alice, report))
    assert world.balance(world.alice) == 10_000 - FEE
    outcome = world.block(world.sign(poor, report, fee_uusd=0))
    assert outcome.results[0].code == Code.EVIDENCE_KNOWN
    assert account_key(poor.address) not in outcome.changes
    world.expect(Code.OK, world.sign(poor, ReportEvidence(world.double_vote(2)), fee_uusd=0))
    assert world.ledger.account(poor.address).nonce == 1


def test_the_pool_keeps_one_free_report_of_an_offence() -> None:
    world = StakingWorld(fees=FEES)
    app = LedgerApplication(world.ledger, 100_000)
    report = ReportEvidence(world.double_vote(1))
    first = world.sign(key_of("poor"), report, fee_uusd=0)
    assert app.submit(first, 0)[1]
    with pytest.raises(Rejected) as refused:
        app.submit(world.sign(key_of("another"), report, fee_uusd=0), 0)
    assert refused.value.code == Code.BUSY
    other = world.sign(key_of("another"), ReportEvidence(world.double_vote(2)), fee_uusd=0)
    assert app.submit(other, 0)[1]
    forged = ReportEvidence(world.double_vote(0, view=0))
    with pytest.raises(Rejected) as refused:
        app.submit(world.sign(key_of("third"), forged, fee_uusd=0), 0)
    assert refused.value.code == Code.BAD_EVIDENCE
    app.mempool.expire(60_000)
    assert app.submit(world.sign(key_of("another"), report, fee_uusd=0), 60_000)[1]
