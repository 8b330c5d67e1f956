"""A chain with made keys, a ledger on it, and an ordered log whose certificates really verify."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from node.genesis import genesis_ledger
from node.ledger import BlockOutcome, Ledger
from protocol.batch_data import pack_blocks
from protocol.chain import (
    EMPTY_HASH,
    QC,
    CommitCertificate,
    Header,
    Signature,
    genesis_header,
    payload_hash,
    vote_digest,
)
from protocol.codec import encode
from protocol.errors import Code
from protocol.genesis import (
    Chain,
    Fees,
    Genesis,
    GenesisAccount,
    Identity,
    Limits,
    MarketConfig,
    Pace,
    SettlementRules,
    Staking,
    parse_genesis,
)
from protocol.inbox import next_cursor
from protocol.keys import Key
from protocol.merkle import list_proof, list_root
from protocol.ordering import OrderedBlock, OrderedPayload
from protocol.settlement import (
    BatchHeader,
    Deposit,
    LedgerAction,
    OutboxEntry,
    Payout,
    PostBatch,
    Transaction,
    sign_action,
    sign_transaction,
)

GENESIS_MS = 1_700_000_000_000
STATE_ROOT = sha256(b"state at genesis").digest()
PACE = Pace(20, 5, 200, 600, 3_000, 1 << 20)
MARKET = MarketConfig(
    0, "BTC-PERP", 100_000, 1_000, 50_000, 30_000, 450, 150, 1_000_000, 1_000_000, 100_000_000,
    600_000,
)  # fmt: skip


def key_of(name: str) -> Key:
    """A key that a name determines."""
    return Key(sha256(name.encode()).digest())


def make_chain(
    accounts: Sequence[tuple[Key, int, int]],
    *,
    sequencers: int = 4,
    limits: Limits | None = None,
    pace: Pace = PACE,
    validators: Sequence[Identity] | None = None,
    staking: Staking | None = None,
    fees: Fees | None = None,
    settlement: SettlementRules | None = None,
    provers: Sequence[str] = ("prover",),
) -> Chain:
    """A chain with these (key, balance_uusd, deposit_uusd); `provers` are names of keys."""
    if validators is None:
        validators = [Identity("validator-0", key_of("validator-0").public.hex(), 1, "00")]
    genesis = Genesis(
        name="test",
        time_ms=GENESIS_MS,
        shard=0,
        validators=list(validators),
        sequencers=[
            Identity(f"sequencer-{n}", key_of(f"sequencer-{n}").public.hex(), 1, "00")
            for n in range(sequencers)
        ],
        provers=[key_of(name).public.hex() for name in provers],
        oracles=[key_of("oracle").public.hex()],
        markets=[MARKET],
        accounts=[
            GenesisAccount(key.address.hex(), balance, deposit)
            for key, balance, deposit in accounts
        ],
        ledger_pace=pace,
        sequencer_pace=PACE,
        limits=limits or Limits(),
        staking=staking or Staking(),
        fees=fees or Fees(),
        settlement=settlement or SettlementRules(),
    )
    return parse_genesis(msgspec.json.encode(genesis))


class OrderedLog:
    """The sequencers' log, one view per block."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.keys = [key_of(identity.name) for identity in chain.genesis.sequencers]
        self.blocks: list[OrderedBlock] = []
        self.step_ms = 10
        """Time between ordered blocks."""
        self._genesis = genesis_header(chain.log_id, chain.genesis.time_ms, EMPTY_HASH)

    def append(self, inbox_height: int | None = None, batches: Sequence[bytes] = ()) -> None:
        """One more block; without `inbox_height` its payload is empty."""
        payload = b""
        if inbox_height is not None:
            payload = encode(OrderedPayload(inbox_height, list(batches)))
        parent = self.blocks[-1].header if self.blocks else self._genesis
        self.blocks.append(OrderedBlock(self._child(parent, payload), payload))

    def _child(self, parent: Header, payload: bytes) -> Header:
        return Header(
            self.chain.log_id, 0, parent.view + 1, parent.height + 1, parent.block_id(),
            parent.view, parent.time_ms + self.step_ms, 0, payload_hash(payload), EMPTY_HASH, 0,
            EMPTY_HASH,
        )  # fmt: skip

    def qc(self, header: Header, signers: int) -> QC:
        """A QC for a header by the first `signers` sequencers."""
        block_id = header.block_id()
        digest = vote_digest(self.chain.log_id, 0, header.view, header.height, block_id)
        signatures = [Signature(n, self.keys[n].sign(digest)) for n in range(signers)]
        return QC(self.chain.log_id, 0, header.view, header.height, block_id, signatures)

    def certificate(self, header: Header, signers: int | None = None) -> CommitCertificate:
        """The commit certificate of a block."""
        count = len(self.keys) if signers is None else signers
        qc = self.qc(header, count)
        child = msgspec.structs.replace(self._child(header, b""), justify_hash=qc.digest())
        return CommitCertificate(qc, child, self.qc(child, count))


class LedgerWorld:
    """A ledger and everything that talks to it."""

    def __init__(self, chain: Chain | None = None) -> None:
        self.alice, self.bob, self.prover = key_of("alice"), key_of("bob"), key_of("prover")
        self.chain = chain or make_chain([(self.alice, 1_000, 500), (self.bob, 50, 0)])
        self.ledger: Ledger = genesis_ledger(self.chain, STATE_ROOT)
        self.log = OrderedLog(self.chain)
        self.outboxes: dict[int, list[OutboxEntry]] = {}
        self.roots = [self.ledger.root]
        self.headers: list[Header] = []

    def sign(
        self, key: Key, action: LedgerAction, nonce: int | None = None, fee_uusd: int | None = None
    ) -> bytes:
        """A signed transaction, with the sender's next nonce and the least fee unless told."""
        if nonce is None:
            nonce = self.ledger.account(key.address).nonce
        if fee_uusd is None:
            return sign_action(key, self.chain, nonce, action)
        return sign_transaction(key, self.chain.chain_id, Transaction(nonce, action, fee_uusd))

    @property
    def time_ms(self) -> int:
        """Time of the newest block."""
        return self.ledger.system().time_ms

    def block(self, *transactions: bytes, step_ms: int = 100) -> BlockOutcome:
        """Apply the next ledger block; it names the root of the block two below, as in consensus
        without failing views."""
        header = self.next_header(step_ms)
        outcome = self.ledger.apply_block(header, transactions)
        self.headers.append(header)
        self.roots.append(outcome.root)
        return outcome

    def next_header(self, step_ms: int = 100) -> Header:
        """Header of the next block; of its parents, it names nothing but their heights."""
        height = self.ledger.height + 1
        app_height = max(0, height - 2)
        return Header(
            self.chain.chain_id, self.ledger.current_epoch().number, height, height, EMPTY_HASH,
            height - 1, self.time_ms + step_ms, 0, payload_hash(b""), EMPTY_HASH, app_height,
            self.roots[app_height],
        )  # fmt: skip

    def code(self, *transactions: bytes) -> Code:
        """Apply a block and give the code of its last transaction."""
        return self.block(*transactions).results[-1].code

    def deposit(self, key: Key, amount_uusd: int, address: bytes | None = None) -> bytes:
        """A signed deposit."""
        return self.sign(key, Deposit(address or key.address, amount_uusd))

    def batch(self, outbox: Sequence[OutboxEntry] = (), **changes: Any) -> PostBatch:
        """A right batch of everything in the log after the last settled block.

        `changes` replace header fields, or `data`, `blocks`, `signers` (of the certificate),
        `posted_outbox`. The bond is what genesis asks for.
        """
        shard = self.ledger.shard_leaf()
        blocks = changes.pop("blocks", self.log.blocks[shard.last_block :])
        height, cursor = shard.inbox_height, shard.inbox_cursor
        for block in blocks:
            if block.payload:
                height = msgspec.msgpack.decode(block.payload)[0]
            limit = self.chain.genesis.limits.inbox_per_block
            cursor = next_cursor(cursor, self.ledger.entries_at(height), limit)
        last = blocks[-1].header
        encoded = [encode(entry) for entry in outbox]
        header = BatchHeader(
            self.chain.chain_id, 0, shard.batch + 1, shard.last_block + 1, last.height,
            last.block_id(), shard.state_root, sha256(b"post" + last.block_id()).digest(),
            list_root([encode(block) for block in blocks]), cursor, list_root(encoded),
            shard.outbox_next, len(outbox), self.prover.public,
            self.chain.genesis.settlement.prover_bond_uusd,
        )  # fmt: skip
        data = changes.pop("data", pack_blocks(blocks))
        certificate = self.log.certificate(last, changes.pop("signers", None))
        self.outboxes[header.number] = list(outbox)
        posted = list(changes.pop("posted_outbox", outbox))
        return PostBatch(msgspec.structs.replace(header, **changes), data, certificate, posted)

    def settle(self, outbox: Sequence[OutboxEntry] = ()) -> BatchHeader:
        """Order an empty block and settle it with this outbox."""
        self.log.append()
        post = self.batch(outbox)
        if self.code(self.sign(self.prover, post)) != Code.OK:
            raise AssertionError("a right batch was refused")
        return post.header

    def payout(self, batch: int, index: int) -> Payout:
        """The right payout of an entry of a settled batch."""
        outbox = self.outboxes[batch]
        return Payout(batch, outbox[index], list_proof([encode(one) for one in outbox], index))
