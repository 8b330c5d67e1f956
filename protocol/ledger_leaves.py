"""Leaves of the ledger tree: everything that the base layer remembers, as keys and values.

Keys begin with their kind and have one length per kind, so none is a prefix of another. Integers in
keys are big-endian: shards 2 bytes, numbers and indices 8. Values are canonical MessagePack.

| kind | rest of the key        | value          | meaning |
| ---- | ---------------------- | -------------- | --------------------------------------------- |
| 0x01 | address (20 bytes)     | `Account`      | ledger balance and nonce |
| 0x02 | address (20 bytes)     | integer        | account number in the shards |
| 0x03 | shard                  | `InboxLeaf`    | entries so far and their running hash |
| 0x04 | shard, index           | `PlacedEntry`  | inbox entry and the ledger height it came at |
| 0x05 | shard                  | `ShardLeaf`    | last batch, state root, cursors, money held |
| 0x06 | shard, batch number    | `SettledBatch` | batch header, and the ledger block it came in |
| 0x07 | shard, outbox number   | integer        | ledger height at which the entry was paid |
| 0x08 | -                      | `SystemLeaf`   | account numbers given, supply, fees, the clock |
| 0x09 | epoch number           | `EpochLeaf`    | members of the epoch, decided by its boundary |
| 0x0a | -                      | `CurrentEpoch` | epoch of the blocks above this one |
| 0x0b | address (20 bytes)     | `ValidatorLeaf`| stake, unbonding and jail of a validator |
| 0x0c | offence (32 bytes)     | integer        | ledger height at which it was punished |
"""

from __future__ import annotations

from protocol.codec import Decoder, Wire
from protocol.inbox import INBOX_KIND, InboxLeaf, decode_inbox_leaf, inbox_key
from protocol.settlement import BatchHeader, InboxEntry

ACCOUNT_KIND = b"\x01"
NUMBER_KIND = b"\x02"
ENTRY_KIND = b"\x04"
SHARD_KIND = b"\x05"
BATCH_KIND = b"\x06"
PAID_KIND = b"\x07"
SYSTEM_KEY = b"\x08"
EPOCH_KIND = b"\x09"
CURRENT_EPOCH_KEY = b"\x0a"
VALIDATOR_KIND = b"\x0b"
OFFENCE_KIND = b"\x0c"

__all__ = ["INBOX_KIND", "InboxLeaf", "decode_inbox_leaf", "inbox_key"]


class Account(Wire, frozen=True):
    """An address on the ledger: free balance, and how many transactions it has sent."""

    balance_uusd: int
    nonce: int


class PlacedEntry(Wire, frozen=True):
    """An inbox entry and the ledger height it came at."""

    ledger_height: int
    entry: InboxEntry


class ShardLeaf(Wire, frozen=True):
    """A shard as the ledger knows it after its newest batch.

    `inbox_height`: base-layer height that its newest ordered block named; `inbox_cursor`: inbox
    entries taken in; `outbox_next`: number of the next outbox entry; `funds_uusd`: money that the
    bridge holds for it.
    """

    batch: int
    last_block: int
    last_block_id: bytes
    state_root: bytes
    inbox_height: int
    inbox_cursor: int
    outbox_next: int
    funds_uusd: int


class SettledBatch(Wire, frozen=True):
    """A settled batch's header, and the ledger block that settled it."""

    header: BatchHeader
    ledger_height: int
    ledger_time_ms: int


class SystemLeaf(Wire, frozen=True):
    """What the ledger counts: account numbers given, all money, and time.

    `supply_uusd` is what balances, bridges, stakes, unbonding stakes and the pot of fees hold
    together; `burnt_uusd` was part of it once. `fees_uusd` is the pot, shared at the end of each
    epoch. `time_ms` is the newest block's time; `window_ms` counts the ledger's own time for
    unbonding, evidence and jail, in which a standstill of the chain is but one step.
    """

    accounts_given: int
    supply_uusd: int
    burnt_uusd: int = 0
    fees_uusd: int = 0
    window_ms: int = 0
    time_ms: int = 0


class EpochMember(Wire, frozen=True):
    """A validator as the epoch's set holds it: signing key, stake, TLS certificate, where to dial
    it (empty: known from configuration)."""

    public_key: bytes
    stake_uusd: int
    certificate: bytes
    address: str


class EpochLeaf(Wire, frozen=True):
    """The members of an epoch, decided by the block at `boundary_height` of the epoch before.

    `ends_ms`: the first block with this time or a later one is the epoch's boundary; 0 is never.
    `decided_ms`: the ledger's window time at the boundary, from which the age of evidence of the
    epoch before counts.
    """

    number: int
    boundary_height: int
    members: list[EpochMember]
    ends_ms: int
    decided_ms: int = 0


class CurrentEpoch(Wire, frozen=True):
    """The epoch of the next block, and the block that it starts from: the last one of the epoch
    before (genesis for epoch 0, whose id is left empty as its header names this state)."""

    number: int
    origin_height: int
    origin_view: int
    origin_id: bytes


class Unbonding(Wire, frozen=True):
    """Stake on its way out, free when the ledger's window time reaches `free_ms`; that is 0 while
    the epoch in which the stake is still in force has not ended."""

    amount_uusd: int
    free_ms: int


class ValidatorLeaf(Wire, frozen=True):
    """A validator: `stake_uusd` counts in the next epoch unless it is jailed (`jailed_until_ms`
    above 0 until an `Unjail`)."""

    public_key: bytes
    stake_uusd: int
    certificate: bytes
    address: str
    jailed_until_ms: int
    unbonding: list[Unbonding]


decode_account: Decoder[Account] = Decoder(Account)
decode_number: Decoder[int] = Decoder(int)
decode_placed: Decoder[PlacedEntry] = Decoder(PlacedEntry)
decode_shard: Decoder[ShardLeaf] = Decoder(ShardLeaf)
decode_batch: Decoder[SettledBatch] = Decoder(SettledBatch)
decode_system: Decoder[SystemLeaf] = Decoder(SystemLeaf)
decode_epoch: Decoder[EpochLeaf] = Decoder(EpochLeaf)
decode_current_epoch: Decoder[CurrentEpoch] = Decoder(CurrentEpoch)
decode_validator: Decoder[ValidatorLeaf] = Decoder(ValidatorLeaf)


def account_key(address: bytes) -> bytes:
    """Key of an address's balance and nonce (21 bytes)."""
    return ACCOUNT_KIND + address


def number_key(address: bytes) -> bytes:
    """Key of an address's account number (21 bytes)."""
    return NUMBER_KIND + address


def entry_key(shard: int, index: int) -> bytes:
    """Key of an inbox entry (11 bytes)."""
    return ENTRY_KIND + shard.to_bytes(2, "big") + index.to_bytes(8, "big")


def shard_key(shard: int) -> bytes:
    """Key of a shard (3 bytes)."""
    return SHARD_KIND + shard.to_bytes(2, "big")


def batch_key(shard: int, number: int) -> bytes:
    """Key of a settled batch (11 bytes)."""
    return BATCH_KIND + shard.to_bytes(2, "big") + number.to_bytes(8, "big")


def paid_key(shard: int, number: int) -> bytes:
    """Key of a paid outbox entry (11 bytes)."""
    return PAID_KIND + shard.to_bytes(2, "big") + number.to_bytes(8, "big")


def epoch_key(number: int) -> bytes:
    """Key of an epoch's members (9 bytes)."""
    return EPOCH_KIND + number.to_bytes(8, "big")


def validator_key(address: bytes) -> bytes:
    """Key of a validator (21 bytes)."""
    return VALIDATOR_KIND + address


def offence_key(identity: bytes) -> bytes:
    """Key of a punished offence, by `protocol.evidence.evidence_id` (33 bytes)."""
    return OFFENCE_KIND + identity
