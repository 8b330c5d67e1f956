"""Whatever is sent to the ledger, money is conserved and a naive model agrees."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import LedgerWorld, key_of, make_chain
from staking_world import EPOCH_MS, STAKING, VALIDATORS, StakingWorld, certificate_of

from node.ledger import Ledger
from node.outcomes import BlockOutcome
from protocol.errors import Code
from protocol.genesis import Fees, SettlementRules
from protocol.ledger_leaves import account_key
from protocol.settlement import (
    Bond,
    Deposit,
    LedgerAction,
    OutboxEntry,
    ReportEvidence,
    Unbond,
    Unjail,
)

NAMES = ("alice", "bob", "carol")
people = st.sampled_from(NAMES)
amounts = st.integers(-3, 120)


class LedgerMachine(RuleBasedStateMachine):
    """Random deposits, batches and payouts, right and wrong, against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = {name: key_of(name) for name in NAMES}
        funded = [(self.keys["alice"], 300, 50), (self.keys["bob"], 100, 0)]
        self.world = LedgerWorld(make_chain(funded, sequencers=1))
        self.balances = {"alice": 300, "bob": 100, "carol": 0}
        self.funds = 50
        self.unpaid: dict[int, tuple[int, int, str, int]] = {}
        self.next_number = 0

    @rule(sender=people, owner=people, amount=amounts, nonce=st.integers(-1, 1))
    def deposit(self, sender: str, owner: str, amount: int, nonce: int) -> None:
        key = self.keys[sender]
        expected = self.world.ledger.account(key.address).nonce
        raw = self.world.sign(key, Deposit(self.keys[owner].address, amount), expected + nonce)
        outcome = self.world.block(raw)
        right = nonce == 0 and 0 < amount <= self.balances[sender]
        assert (outcome.results[0].code == Code.OK) == right
        assert (account_key(key.address) in outcome.changes) == (nonce == 0)
        assert self.world.ledger.account(key.address).nonce == expected + (nonce == 0)
        if right:
            self.balances[sender] -= amount
            self.funds += amount

    @rule(owners=st.lists(people, max_size=3), amount=st.integers(1, 80), wrong=st.booleans())
    def settle(self, owners: list[str], amount: int, wrong: bool) -> None:
        entries = [
            OutboxEntry(self.next_number + place, 16, self.keys[owner].address, amount + place)
            for place, owner in enumerate(owners)
        ]
        self.world.log.append(self.world.ledger.height if amount % 2 else None)
        changes = {"inbox_cursor": 1 << 20} if wrong else {}
        post = self.world.batch(entries, **changes)
        code = self.world.code(self.world.sign(self.world.prover, post))
        assert code == (Code.BAD_INBOX_CURSOR if wrong else Code.OK)
        if wrong:
            return
        for place, entry in enumerate(entries):
            self.unpaid[entry.number] = (post.header.number, place, owners[place], amount + place)
        self.next_number += len(entries)

    @rule(sender=people, pick=st.integers(0, 50))
    def pay(self, sender: str, pick: int) -> None:
        if pick >= self.next_number:
            return
        first = min(self.unpaid, default=None)
        number = pick if pick in self.unpaid or first is None else first
        if number not in self.unpaid:
            return
        batch, place, owner, amount = self.unpaid[number]
        payout = self.world.payout(batch, place)
        code = self.world.code(self.world.sign(self.keys[sender], payout))
        if amount > self.funds:
            assert code == Code.INSUFFICIENT_BALANCE
            return
        assert code == Code.OK
        again = self.world.code(self.world.sign(self.keys[sender], payout))
        assert again == Code.ALREADY_PAID
        del self.unpaid[number]
        self.funds -= amount
        self.balances[owner] += amount

    @rule()
    def restart(self) -> None:
        old = self.world.ledger
        self.world.ledger = Ledger(self.world.chain, old.leaves(), old.height)
        assert self.world.ledger.root == old.root

    @invariant()
    def money_is_conserved(self) -> None:
        ledger = self.world.ledger
        ledger.require_conserved()
        for name, balance in self.balances.items():
            assert ledger.account(self.keys[name].address).balance_uusd == balance
        assert ledger.shard_leaf().funds_uusd == self.funds
        assert sum(self.balances.values()) + self.funds == 450


LedgerMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, print_blob=True
)
TestLedger = LedgerMachine.TestCase


WINDOW_MS = 2_500
LEAST_BOND = 15
PROVERS = ("prover", "second")
BALANCES = {"alice": 300, "bob": 100, "prover": 200, "second": 90}


class FinalityMachine(RuleBasedStateMachine):
    """Windows, bonds and removals against a list of batches: a removed one leaves no trace but its
    bond, a final one stays, and payouts are of final ones only."""

    def __init__(self) -> None:
        super().__init__()
        rules = SettlementRules(window_ms=WINDOW_MS, prover_bond_uusd=LEAST_BOND)
        funded = [(key_of(name), held, 50) for name, held in BALANCES.items()]
        self.world = LedgerWorld(
            make_chain(funded, sequencers=1, settlement=rules, provers=PROVERS)
        )
        self.balances = dict(BALANCES)
        self.funds, self.burnt, self.window_ms = 200, 0, 0
        self.final = 0
        # Of each settled batch: its prover, its bond, the window time it came at, its outbox.
        self.batches: list[tuple[str, int, int, list[OutboxEntry]]] = []
        self.leaves = [self.world.ledger.shard_leaf()]
        self.paid: set[int] = set()

    def pass_time(self, step_ms: int = 100) -> None:
        self.window_ms += min(step_ms, 1_000)
        while self.final < len(self.batches):
            name, bond, came_ms, _ = self.batches[self.final]
            if came_ms + WINDOW_MS > self.window_ms:
                break
            self.balances[name] += bond
            self.final += 1

    @rule(
        name=st.sampled_from(PROVERS),
        bond=st.integers(10, 60),
        amounts=st.lists(st.integers(1, 60), max_size=2),
    )
    def settle(self, name: str, bond: int, amounts: list[int]) -> None:
        self.pass_time()
        first = sum(len(outbox) for _, _, _, outbox in self.batches)
        outbox = [
            OutboxEntry(first + place, 16, key_of("bob").address, amount)
            for place, amount in enumerate(amounts)
        ]
        self.world.log.append(self.world.ledger.height)
        post = self.world.batch(outbox, prover=key_of(name).public, bond_uusd=bond)
        code = self.world.code(self.world.sign(key_of(name), post))
        if bond < LEAST_BOND:
            assert code == Code.BAD_BOND
        elif bond > self.balances[name]:
            assert code == Code.INSUFFICIENT_BALANCE
        else:
            assert code == Code.OK
            self.balances[name] -= bond
            self.batches.append((name, bond, self.window_ms, outbox))
            self.leaves.append(self.world.ledger.shard_leaf())

    @rule(step_ms=st.sampled_from((50, 400, 1_000, 90_000)))
    def wait(self, step_ms: int) -> None:
        self.pass_time(step_ms)
        self.world.block(step_ms=step_ms)

    @rule(pick=st.integers(0, 5), winner=people)
    def remove(self, pick: int, winner: str) -> None:
        number = self.final + 1 + pick
        if number > len(self.batches):
            return
        ledger = self.world.ledger
        outcome = BlockOutcome(ledger.height, ledger.system().time_ms)
        bond = ledger.settling.remove(number, outcome)
        ledger.credit(key_of(winner).address, bond // 2)
        burnt = bond - bond // 2
        ledger.change_system(supply_uusd=-burnt, burnt_uusd=burnt)
        ledger.seal(outcome)
        self.world.roots[-1] = ledger.root
        assert bond == self.batches[number - 1][1]
        assert [one.number for one in outcome.removed] == [*range(number, len(self.batches) + 1)]
        for name, other, _, _ in self.batches[number:]:
            self.balances[name] += other
        self.balances[winner] = self.balances.get(winner, 0) + bond // 2
        self.burnt += burnt
        del self.batches[number - 1 :], self.leaves[number:]
        expected = self.leaves[-1]
        assert ledger.shard_leaf() == replace(expected, funds_uusd=self.funds)

    @rule(pick=st.integers(0, 20))
    def pay(self, pick: int) -> None:
        entries = [
            (number, place, entry)
            for number, (_, _, _, outbox) in enumerate(self.batches, 1)
            for place, entry in enumerate(outbox)
        ]
        if not entries:
            return
        number, place, entry = entries[pick % len(entries)]
        self.pass_time()
        code = self.world.code(self.world.sign(key_of("alice"), self.world.payout(number, place)))
        if number > self.final:
            assert code == Code.NOT_FINAL
        elif entry.number in self.paid:
            assert code == Code.ALREADY_PAID
        elif entry.amount_uusd > self.funds:
            assert code == Code.INSUFFICIENT_BALANCE
        else:
            assert code == Code.OK
            self.paid.add(entry.number)
            self.funds -= entry.amount_uusd
            self.balances["bob"] += entry.amount_uusd

    @rule()
    def restart(self) -> None:
        old = self.world.ledger
        self.world.ledger = Ledger(self.world.chain, old.leaves(), old.height)
        assert self.world.ledger.root == old.root

    @invariant()
    def the_ledger_is_the_list(self) -> None:
        ledger = self.world.ledger
        ledger.require_conserved()
        assert (ledger.shard_leaf().batch, ledger.final().batch) == (len(self.batches), self.final)
        assert ledger.system().window_ms == self.window_ms
        for name, balance in self.balances.items():
            assert ledger.account(key_of(name).address).balance_uusd == balance
        assert ledger.shard_leaf().funds_uusd == self.funds
        assert ledger.system().burnt_uusd == self.burnt
        for number in range(1, len(self.batches) + 2):
            assert ledger.settling.is_open(number) == (self.final < number <= len(self.batches))


FinalityMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, print_blob=True
)
TestFinality = FinalityMachine.TestCase


STAKERS = (*VALIDATORS, "alice", "bob")
stakers = st.sampled_from(STAKERS)


class StakingMachine(RuleBasedStateMachine):
    """Random bonds, slashes and fees over epochs: no money appears, and none leaves unpunished."""

    def __init__(self) -> None:
        super().__init__()
        self.world = StakingWorld(fees=Fees(7, 3))
        self.genesis_uusd = self.world.ledger.system().supply_uusd
        self.views = 100

    def send(self, name: str, action: LedgerAction, fee_uusd: int | None = None) -> Code:
        if self.world.ledger.next_epoch() is not None:
            self.world.next_epoch()
        raw = self.world.sign(key_of(name), action, fee_uusd=fee_uusd)
        code = self.world.block(raw, step_ms=50).results[0].code
        if self.world.ledger.next_epoch() is not None:
            self.world.next_epoch()
        return code

    @rule(name=stakers, amount=st.integers(-1, 4_000))
    def bond(self, name: str, amount: int) -> None:
        before = self.world.balance(key_of(name))
        code = self.send(name, Bond(amount, certificate_of(name), "host:1"))
        assert code in (Code.OK, Code.BAD_AMOUNT, Code.BAD_STAKE, Code.INSUFFICIENT_BALANCE,
                        Code.FEE_TOO_LOW)  # fmt: skip
        if code == Code.OK:
            assert amount < before

    @rule(name=stakers, amount=st.integers(0, 1_500), everything=st.booleans())
    def unbond(self, name: str, amount: int, everything: bool) -> None:
        record = self.world.ledger.validator(key_of(name).address)
        held = 0 if record is None else record.stake_uusd
        self.send(name, Unbond(held if everything else amount))

    @rule(name=stakers)
    def unjail(self, name: str) -> None:
        self.send(name, Unjail())

    @rule(name=stakers, fee=st.integers(0, 3_000))
    def pay(self, name: str, fee: int) -> None:
        key = key_of(name)
        before, pot = self.world.balance(key), self.world.ledger.system().fees_uusd
        epoch = self.world.epoch
        code = self.send(name, Deposit(key.address, 10), fee)
        if self.world.epoch == epoch:
            paid = 0 if code == Code.FEE_TOO_LOW else fee
            assert self.world.ledger.system().fees_uusd == pot + paid
            assert self.world.balance(key) == before - paid - (10 if code == Code.OK else 0)

    @rule(reporter=stakers, member=st.integers(0, 3), back=st.integers(0, 6), old=st.booleans())
    def report(self, reporter: str, member: int, back: int, old: bool) -> None:
        number = max(0, self.world.epoch - back)
        leaf = self.world.ledger.epoch_leaf(number)
        assert leaf is not None
        member %= len(leaf.members)
        self.views += 0 if old else 1
        evidence = self.world.double_vote(member, view=self.views, epoch=number)
        burnt = self.world.ledger.system().burnt_uusd
        code = self.send(reporter, ReportEvidence(evidence))
        assert code in (Code.OK, Code.EVIDENCE_KNOWN, Code.EVIDENCE_EXPIRED)
        if code != Code.OK:
            assert self.world.ledger.system().burnt_uusd == burnt

    @rule(times=st.integers(1, 4))
    def epochs(self, times: int) -> None:
        for _ in range(times):
            self.world.next_epoch()

    @rule(step=st.integers(1, 3 * EPOCH_MS))
    def pause(self, step: int) -> None:
        self.world.block(step_ms=step)

    @rule()
    def restart(self) -> None:
        if self.world.ledger.next_epoch() is not None:
            self.world.next_epoch()
        old = self.world.ledger
        self.world.ledger = Ledger(self.world.chain, old.leaves(), old.height)
        assert self.world.ledger.root == old.root

    @invariant()
    def money_is_conserved(self) -> None:
        ledger = self.world.ledger
        ledger.require_conserved()
        system = ledger.system()
        assert system.supply_uusd + system.burnt_uusd == self.genesis_uusd
        held = sum(self.world.balance(key_of(name)) for name in STAKERS)
        for record in ledger.validators():
            waiting = [one.amount_uusd for one in record.unbonding]
            assert min([record.stake_uusd, *waiting]) >= 0
            held += record.stake_uusd + sum(waiting)
        held += ledger.shard_leaf().funds_uusd + system.fees_uusd
        assert held == system.supply_uusd

    @invariant()
    def the_members_are_sound(self) -> None:
        leaf = self.world.ledger.current_leaf()
        assert 1 <= len(leaf.members) <= STAKING.max_validators
        assert len({one.public_key for one in leaf.members}) == len(leaf.members)
        assert all(one.stake_uusd >= STAKING.min_stake_uusd for one in leaf.members)


StakingMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, print_blob=True
)
TestStaking = StakingMachine.TestCase
