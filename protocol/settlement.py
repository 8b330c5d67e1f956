"""What the base layer and the shards say to each other: inbox, outbox, batches, transactions."""

from __future__ import annotations

import msgspec

from protocol.chain import CommitCertificate
from protocol.codec import Decoder, Wire, encode
from protocol.dispute import DisputeAction
from protocol.evidence import Evidence
from protocol.exits import ExitAction
from protocol.genesis import Chain
from protocol.keys import SCHEME_ED25519, Key, domain_hash
from protocol.prices import BlockPrices

MAX_BATCH_DATA_BYTES = 2 * 1024 * 1024
"""Most compressed bytes of one batch, so that its transaction fits a ledger block."""

MAX_EXPANSION = 64
EXPANSION_ALLOWANCE_BYTES = 1024 * 1024
"""Batch data may expand to at most so many times its compressed size, plus the allowance, so that
small batches of empty blocks pass."""

FEE_ACCOUNT = 0
POOL_ACCOUNT = 1
INSURANCE_ACCOUNT = 2
BACKSTOP_ACCOUNT = 3
FIRST_ACCOUNT = 16
"""Account numbers below belong to the system: collected fees; the funding pool, which also takes
the other side while a dated future settles; the insurance fund; the backstop."""

SUBACCOUNT_SHIFT = 40
ISOLATED_SHIFT = 48
"""An account number is master + (sub-account << 40) + ((market + 1) << 48): the ledger gives
masters (sub-account 0); the last part is 0 for cross margin, and makes an account of one market."""


def master_of(account: int) -> int:
    """The master account of an account number."""
    return account & ((1 << SUBACCOUNT_SHIFT) - 1)


def subaccount_of(account: int) -> int:
    """The sub-account index of an account number (0: the master itself)."""
    return account >> SUBACCOUNT_SHIFT & 0xFF


def isolated_market(account: int) -> int:
    """The one market of an isolated account; -1 for a cross-margin account."""
    return (account >> ISOLATED_SHIFT) - 1


def account_number(master: int, subaccount: int = 0, market: int = -1) -> int:
    """The number of a master's sub-account, isolated in `market` unless that is -1."""
    return master | subaccount << SUBACCOUNT_SHIFT | (market + 1) << ISOLATED_SHIFT


EMPTY_INBOX_HASH = domain_hash(b"trilemma/inbox-empty")


class InboxDeposit(Wire, frozen=True, tag=1):
    """A deposit on its way into a shard; `account` was given to `address` by the ledger."""

    index: int
    account: int
    address: bytes
    amount_uusd: int


class InboxForced(Wire, frozen=True, tag=2):
    """A forced action on its way into a shard: an encoded `SignedBatch`, executed with the block
    that takes it in, or consumed without effect where it is not valid any more."""

    index: int
    signed: bytes


InboxEntry = InboxDeposit | InboxForced
"""Entries of the inbox, first in, first out."""


def extend_inbox_hash(previous: bytes, ledger_height: int, entry: InboxEntry) -> bytes:
    """Running hash over the inbox: one value vouches for every entry and the height it came at."""
    return domain_hash(b"trilemma/inbox", previous, encode((ledger_height, entry)))


class OutboxEntry(Wire, frozen=True):
    """A withdrawal: debited from the account, payable once to `address` on the ledger."""

    number: int
    account: int
    address: bytes
    amount_uusd: int


EMPTY_OUTBOX_HASH = domain_hash(b"trilemma/outbox-empty")


def extend_outbox_hash(previous: bytes, entry: OutboxEntry) -> bytes:
    """Running hash over the outbox of a shard, kept in its state and by the ledger alike."""
    return domain_hash(b"trilemma/outbox", previous, encode(entry))


class BatchHeader(Wire, frozen=True):
    """A batch of ordered blocks and the state before and after it.

    `data_root`: Merkle root over the encoded `OrderedBlock` values. `inbox_cursor`: inbox entries
    consumed so far. `outbox_root`: Merkle root over the batch's encoded outbox entries, whose
    numbers are `outbox_first` .. `outbox_first + outbox_count - 1`.
    """

    chain_id: bytes
    shard: int
    number: int
    first_block: int
    last_block: int
    last_block_id: bytes
    pre_state_root: bytes
    post_state_root: bytes
    data_root: bytes
    inbox_cursor: int
    outbox_root: bytes
    outbox_first: int
    outbox_count: int
    prover: bytes
    bond_uusd: int

    def digest(self) -> bytes:
        """Hash of the header (32 bytes)."""
        return domain_hash(b"trilemma/batch-header", encode(self))


class Deposit(Wire, frozen=True, tag=1):
    """Move `amount_uusd` from the sender's ledger balance into the shard, for `address`."""

    address: bytes
    amount_uusd: int


class PostBatch(Wire, frozen=True, tag=2):
    """Settle a batch: header, compressed data, commit certificate of the last ordered block, and
    the outbox entries that `outbox_root` stands for. `prices`: what each block changed of marks and
    funding indices, where genesis asks for native checks."""

    header: BatchHeader
    data: bytes
    certificate: CommitCertificate
    outbox: list[OutboxEntry] = msgspec.field(default_factory=list)
    prices: list[BlockPrices] = msgspec.field(default_factory=list)


class Payout(Wire, frozen=True, tag=3):
    """Pay an outbox entry, proven against its settled batch. Anybody may send it."""

    batch: int
    entry: OutboxEntry
    path: list[bytes]


class Bond(Wire, frozen=True, tag=4):
    """Become a validator, or change one's own: the sender's key is the validator's signing key.

    Moves `amount_uusd` (0 or more) from the sender's balance to its stake, which must then reach
    `min_stake_uusd`. `certificate` is the node's TLS certificate (DER) over the same key, as
    `net.tls.make_certificate` makes them, `address` where other validators dial it (``host:port``).
    In force from the next epoch on.
    """

    amount_uusd: int
    certificate: bytes
    address: str


class Unbond(Wire, frozen=True, tag=5):
    """Take `amount_uusd` out of the sender's stake, all of it to leave: what stays is nothing, or
    `min_stake_uusd` at least. The money follows when the unbonding period has passed, and can be
    slashed until then. 0 fetches what is free already, which each epoch's end pays out anyway."""

    amount_uusd: int


class Unjail(Wire, frozen=True, tag=6):
    """Return to the validator set from the next epoch on, when the sender's jail time is over."""


class ReportEvidence(Wire, frozen=True, tag=7):
    """Have a member punished that signed against itself. Costs no fee where it holds."""

    evidence: Evidence


LedgerAction = (
    Deposit | PostBatch | Payout | Bond | Unbond | Unjail | ReportEvidence
    | DisputeAction | ExitAction
)  # fmt: skip


class Transaction(Wire, frozen=True):
    """A ledger transaction; `nonce` is the sender's count of transactions so far, `fee_uusd` what
    it pays for its place (`protocol.genesis.Fees` says what is asked at least).

    A transaction that fails has still paid. One that cannot pay has no effect, not on the nonce
    either."""

    nonce: int
    action: LedgerAction
    fee_uusd: int = 0


class SignedTransaction(Wire, frozen=True):
    """Envelope of an encoded `Transaction`."""

    scheme: int
    signer: bytes
    payload: bytes
    signature: bytes


decode_transaction: Decoder[Transaction] = Decoder(Transaction)
decode_signed_transaction: Decoder[SignedTransaction] = Decoder(SignedTransaction)
decode_inbox_entry: Decoder[InboxEntry] = Decoder(InboxEntry)
decode_outbox_entry: Decoder[OutboxEntry] = Decoder(OutboxEntry)
decode_batch_header: Decoder[BatchHeader] = Decoder(BatchHeader)


def transaction_digest(chain_id: bytes, payload: bytes) -> bytes:
    """What the sender of a ledger transaction signs."""
    return domain_hash(b"trilemma/transaction", chain_id, payload)


def transaction_id(signed: bytes) -> bytes:
    """Identity of an encoded `SignedTransaction` (32 bytes)."""
    return domain_hash(b"trilemma/transaction-id", signed)


def sign_transaction(key: Key, chain_id: bytes, transaction: Transaction) -> bytes:
    """Sign a ledger transaction; returns the encoded `SignedTransaction`."""
    payload = encode(transaction)
    signature = key.sign(transaction_digest(chain_id, payload))
    return encode(SignedTransaction(SCHEME_ED25519, key.public, payload, signature))


def sign_action(
    key: Key, chain: Chain, nonce: int, action: LedgerAction, fee_uusd: int = 0
) -> bytes:
    """Sign an action as a transaction that pays the least fee, or `fee_uusd` where that is more.

    Returns the encoded `SignedTransaction`.
    """
    fees = chain.genesis.fees
    while True:
        transaction = Transaction(nonce, action, fee_uusd)
        payload = encode(transaction)
        unsigned = SignedTransaction(SCHEME_ED25519, key.public, payload, bytes(64))
        # The fee is a part of what it is paid for: one more round where its own bytes cost more.
        least_uusd = fees.least_uusd(len(encode(unsigned)))
        if fee_uusd >= least_uusd:
            return sign_transaction(key, chain.chain_id, transaction)
        fee_uusd = least_uusd
