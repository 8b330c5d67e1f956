"""A whole pipeline whose ledger can freeze: forced actions, claims and limits on it."""

from __future__ import annotations

from typing import Any

import msgspec
from engine_world import market
from ledger_world import GENESIS_MS, PACE, key_of
from pipeline_world import DOLLAR, PipelineWorld, rewrite_header

from node.outcomes import BlockOutcome
from node.rebuild import BlockAt, RebuiltState
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    IOC,
    SELL,
    Action,
    ActionBatch,
    CancelAll,
    OraclePrice,
    Order,
    SetMode,
    Withdraw,
    sign_batch,
)
from protocol.chain import Block
from protocol.errors import Code
from protocol.exits import ForceAction
from protocol.genesis import (
    Chain,
    Fees,
    Genesis,
    GenesisAccount,
    Identity,
    Limits,
    SettlementRules,
    parse_genesis,
)
from protocol.keys import Key
from protocol.merkle import list_proof
from protocol.settlement import BatchHeader, LedgerAction, OutboxEntry, Payout, sign_action

NAMES = ("alice", "bob", "carol", "dave")
FORCED_MS = 10_000
CLAIM_MS = 5_000


def exit_chain(
    deposits: int = 1_000,
    balance: int = 1_000,
    limits: Limits | None = None,
    fees: Fees | None = None,
    idle_ms: int = 0,
    **rules: Any,
) -> Chain:
    """A chain of two markets, one with funding, and four traders with so many dollars in the shard
    and on the ledger. A ledger block moves the time by up to `idle_ms`, at least 1 s; `rules`
    change those of settlement."""
    settled: dict[str, Any] = {"forced_ms": FORCED_MS, "claim_ms": CLAIM_MS}
    genesis = Genesis(
        name="test",
        time_ms=GENESIS_MS,
        shard=0,
        validators=[Identity("validator-0", key_of("validator-0").public.hex(), 1, "00")],
        sequencers=[Identity("sequencer-0", key_of("sequencer-0").public.hex(), 1, "00")],
        provers=[key_of("prover").public.hex()],
        oracles=[key_of("oracle").public.hex()],
        markets=[market(0), market(1, funding_interval_ms=5_000, funding_interest_ppb=10**7)],
        accounts=[
            GenesisAccount(key_of(name).address.hex(), balance * DOLLAR, deposits * DOLLAR)
            for name in NAMES
        ]
        + [GenesisAccount(key_of("prover").address.hex(), balance * DOLLAR, 0)],
        ledger_pace=msgspec.structs.replace(PACE, idle_interval_ms=max(1_000, idle_ms)),
        sequencer_pace=PACE,
        limits=limits or Limits(),
        fees=fees or Fees(),
        guardians=[key_of("guardian").public.hex()],
        settlement=SettlementRules(**(settled | rules)),
    )
    return parse_genesis(msgspec.json.encode(genesis))


class ExitWorld(PipelineWorld):
    """Traders by name; every ledger block moves the ledger's time by `step_ms`, at most 1 s."""

    def __init__(self, **options: Any) -> None:
        super().__init__(chain=exit_chain(**options))
        self.outcomes: list[BlockOutcome] = []
        self.keys = {name: key_of(name) for name in NAMES}
        self.outboxes: dict[int, list[bytes]] = {}
        self.order(inbox_height=0)
        self.settle_all()

    # --- the shard

    def account(self, name: str) -> int:
        """Account number of a trader."""
        return self.ledger.account_number(self.keys[name].address)

    def signed(self, name: str, action: Action, account: int = 0, nonce_ms: int = 0) -> bytes:
        """A trader's signed batch of one action."""
        self._nonce_ms += 1
        number = account or self.account(name)
        batch = ActionBatch(number, nonce_ms or self._nonce_ms, 0, [action])
        return sign_batch(self.keys[name], self.chain.chain_id, 0, batch)

    def price(self, market_number: int, ticks: int) -> bytes:
        """The oracle's signed price."""
        return self._committee("oracle", OraclePrice(market_number, ticks))

    def vote(self, market_number: int, mode: int) -> bytes:
        """The guardian's signed vote."""
        return self._committee("guardian", SetMode(market_number, mode))

    def _committee(self, name: str, action: Action) -> bytes:
        self._nonce_ms += 1
        batch = ActionBatch(0, self._nonce_ms, 0, [action])
        return sign_batch(key_of(name), self.chain.chain_id, 0, batch)

    def take_in(self, *batches: bytes) -> None:
        """Order a block that takes the inbox in as far as the ledger has it."""
        self.order(*batches, inbox_height=self.ledger.height)

    def settle_all(self) -> BatchHeader:
        """Settle what was ordered."""
        bond_uusd = self.chain.genesis.settlement.prover_bond_uusd
        batch, outcome = self.settle(rewrite_header({"bond_uusd": bond_uusd}))
        assert outcome.results[-1].code == Code.OK, outcome.results[-1]
        self.outboxes[batch.header.number] = batch.outbox
        return batch.header

    # --- the ledger

    def ledger_block(self, *transactions: bytes) -> BlockOutcome:
        """Commit and execute a ledger block; what it did is kept."""
        outcome = super().ledger_block(*transactions)
        self.outcomes.append(outcome)
        return outcome

    def act(self, name: str, action: LedgerAction) -> Code:
        """Code of a trader's ledger transaction in a block of its own."""
        return self.ledger_block(self.transaction(key_of(name), action)).results[-1].code

    def sign_at(self, key: Key, action: LedgerAction, nonce: int) -> bytes:
        """A signed transaction under a nonce that the caller names."""
        return sign_action(key, self.chain, nonce, action)

    def balance(self, name: str) -> int:
        return self.ledger.account(key_of(name).address).balance_uusd

    def pass_ms(self, time_ms: int) -> None:
        """Empty ledger blocks until so much of the ledger's time has passed."""
        until_ms = self.ledger.system().window_ms + time_ms
        while self.ledger.system().window_ms < until_ms:
            self.ledger_block()

    def payout(self, number: int) -> Payout:
        """The right payout of a withdrawal that is settled."""
        for batch, raws in self.outboxes.items():
            for index, raw in enumerate(raws):
                entry = msgspec.msgpack.decode(raw, type=OutboxEntry)
                if entry.number == number:
                    return Payout(batch, entry, list_proof(raws, index))
        raise AssertionError(f"withdrawal {number} is not settled")

    def block_at(self, height: int) -> Block | None:
        """What a validator's disk holds."""
        return self.blocks[height - 1] if 0 < height <= len(self.blocks) else None

    def rebuilt(self, block_at: BlockAt | None = None) -> RebuiltState:
        """The final state out of ledger and blocks alone."""
        state = RebuiltState(self.ledger)
        state.advance(block_at or self.block_at)
        return state

    def freeze(self) -> None:
        """Freeze by a forced action that nobody takes in."""
        assert self.force("dave") == Code.OK
        self.step_ms = 1_000
        while not self.ledger.frozen:
            self.ledger_block()
        self.step_ms = 100

    def force(self, name: str, action: Action | None = None, by: str = "") -> Code:
        """Force a trader's action (a cancel-all), the transaction sent by another where told."""
        signed = self.signed(name, action or CancelAll(ALL_MARKETS))
        return self.act(by or name, ForceAction(signed))


def traded(world: ExitWorld, rounds: int = 3) -> None:
    """Trades, a deposit-like inbox height and a withdrawal, each round in a batch of its own."""
    for number in range(rounds):
        world.take_in(world.price(0, 1_000 + number))
        world.take_in(
            world.signed("alice", Order(0, BUY, 1_000, 50)),
            world.signed("bob", Order(0, SELL, 1_000, 50, IOC)),
            world.signed("carol", Withdraw(DOLLAR, b"\x01" * 20)),
        )
        world.force("dave")
        world.settle_all()
