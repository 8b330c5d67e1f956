"""Whatever is sent to the ledger, money is conserved and a naive model agrees."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import LedgerWorld, key_of, make_chain

from node.ledger import Ledger
from protocol.errors import Code
from protocol.settlement import Deposit, OutboxEntry

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
        assert bool(outcome.changes) == (nonce == 0)
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
