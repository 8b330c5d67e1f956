"""A ledger whose validator set changes: real certificates, epochs, evidence that verifies."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

import msgspec
from ledger_world import GENESIS_MS, PACE, LedgerWorld, key_of, make_chain

from consensus.evidence import double_proposal, double_vote
from net.tls import make_certificate
from protocol.chain import EMPTY_HASH, Header, Vote, proposal_digest, vote_digest
from protocol.errors import Code
from protocol.evidence import DoubleProposal, DoubleVote
from protocol.genesis import Chain, Fees, Identity, Staking
from protocol.keys import Key
from protocol.ledger_leaves import EpochLeaf, ValidatorLeaf
from protocol.settlement import Bond

EPOCH_MS = 10_000
STAKING = Staking(
    epoch_ms=EPOCH_MS,
    min_stake_uusd=100,
    max_validators=4,
    unbonding_ms=55_000,
    evidence_ms=33_000,
    trusting_ms=30_000,
    slash_ppm=50_000,
    jail_ms=15_000,
)
VALIDATORS = ("validator-0", "validator-1", "validator-2")
STAKE = 1_000


@cache
def certificate_of(name: str) -> bytes:
    """The TLS certificate of a named key."""
    return make_certificate(key_of(name), name)


def staking_chain(staking: Staking = STAKING, fees: Fees | None = None) -> Chain:
    """Three validators of `STAKE`; they, alice and bob have 10,000 uusd each."""
    names = (*VALIDATORS, "alice", "bob")
    return make_chain(
        [(key_of(name), 10_000, 0) for name in names],
        validators=[
            Identity(name, key_of(name).public.hex(), STAKE, certificate_of(name).hex())
            for name in VALIDATORS
        ],
        staking=staking,
        fees=fees,
        # Blocks of the test are seconds apart, and all of that is the ledger's own time.
        pace=msgspec.structs.replace(PACE, idle_interval_ms=5_000),
    )


class StakingWorld(LedgerWorld):
    """A ledger with epochs."""

    def __init__(self, staking: Staking = STAKING, fees: Fees | None = None) -> None:
        super().__init__(staking_chain(staking, fees))
        self.keys = [key_of(name) for name in VALIDATORS]

    @property
    def epoch(self) -> int:
        return self.ledger.current_epoch().number

    @property
    def window_ms(self) -> int:
        return self.ledger.system().window_ms

    def balance(self, key: Key) -> int:
        return self.ledger.account(key.address).balance_uusd

    def record(self, key: Key) -> ValidatorLeaf:
        found = self.ledger.validator(key.address)
        assert found is not None
        return found

    def bond(self, name: str, amount_uusd: int, address: str = "host:26600") -> bytes:
        """A right bond of a named key."""
        return self.sign(key_of(name), Bond(amount_uusd, certificate_of(name), address))

    def reach_boundary(self) -> EpochLeaf:
        """Empty blocks up to the epoch's boundary; the epoch that it decides."""
        assert self.ledger.next_epoch() is None
        while self.ledger.next_epoch() is None:
            left_ms = self.ledger.current_leaf().ends_ms - self.time_ms
            self.block(step_ms=min(2_000, max(1, left_ms)))
        decided = self.ledger.next_epoch()
        assert decided is not None
        return decided

    def next_epoch(self) -> EpochLeaf:
        """Empty blocks until the next epoch has begun."""
        if self.ledger.next_epoch() is None:
            self.reach_boundary()
        number = self.epoch
        while self.epoch == number:
            self.block()
        return self.ledger.current_leaf()

    def wait(self, window_ms: int) -> None:
        """Let so much of the ledger's own time pass, in blocks that cross boundaries."""
        target = self.window_ms + window_ms
        while self.window_ms < target:
            self.block(step_ms=min(2_000, target - self.window_ms))

    # --- offences

    def vote(self, member: int, block: bytes, *, view: int = 5, epoch: int | None = None) -> Vote:
        """A member's vote in its epoch, for a block that a name determines."""
        number = self.epoch if epoch is None else epoch
        leaf = self.ledger.epoch_leaf(number)
        assert leaf is not None
        block_id = sha256(block).digest()
        digest = vote_digest(self.chain.chain_id, number, view, 3, block_id)
        key = self.key_of_member(leaf, member)
        return Vote(self.chain.chain_id, number, view, 3, block_id, member, key.sign(digest))

    def key_of_member(self, leaf: EpochLeaf, member: int) -> Key:
        names = (*VALIDATORS, "alice", "bob")
        return next(
            key_of(name) for name in names
            if key_of(name).public == leaf.members[member].public_key
        )  # fmt: skip

    def double_vote(self, member: int, *, view: int = 5, epoch: int | None = None) -> DoubleVote:
        """Evidence that holds."""
        return double_vote(
            self.vote(member, b"one", view=view, epoch=epoch),
            self.vote(member, b"other", view=view, epoch=epoch),
        )

    def double_proposal(self, member: int, *, view: int = 5) -> DoubleProposal:
        """Evidence that holds, in the current epoch."""
        key = self.key_of_member(self.ledger.current_leaf(), member)
        headers = [
            Header(
                self.chain.chain_id, self.epoch, view, 3, EMPTY_HASH, view - 1, GENESIS_MS + n,
                member, EMPTY_HASH, EMPTY_HASH, 0, EMPTY_HASH,
            )
            for n in range(2)
        ]  # fmt: skip
        signed = [(one, key.sign(proposal_digest(one.block_id()))) for one in headers]
        return double_proposal(*signed[0], *signed[1])

    def expect(self, code: Code, *transactions: bytes) -> None:
        """Apply a block whose last transaction has this code."""
        result = self.block(*transactions).results[-1]
        assert result.code == code, result
