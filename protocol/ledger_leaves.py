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
| 0x0d | shard                  | `FinalLeaf`    | newest batch that nothing can remove |
| 0x0e | shard, batch, address  | `DisputeLeaf`  | a challenger's game against a batch |
| 0x0f | shard                  | `FreezeLeaf`   | a frozen shard |
| 0x10 | shard, account         | `ClaimLeaf`    | a claim on a frozen shard |
| 0x11 | shard                  | `ExitsLeaf`    | payouts of the running hour and day |
| 0x12 | shard                  | `SweptLeaf`    | what of the past the ledger has forgotten |
| 0x13 | shard, native key      | native leaf    | signers and prices, see `execution.native` |
| 0x14 | shard, batch, part (2) | list of leaves | what leads native leaves back before it |
| 0x15 | shard, batch, address, place (2) | `PartsLeaf` at 0, then bytes | parts of a witness |
"""

from __future__ import annotations

import msgspec

from protocol.codec import Decoder, Wire
from protocol.inbox import INBOX_KIND, InboxLeaf, decode_inbox_leaf, inbox_key
from protocol.settlement import EMPTY_INBOX_HASH, EMPTY_OUTBOX_HASH, BatchHeader, InboxEntry

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
FINAL_KIND = b"\x0d"
DISPUTE_KIND = b"\x0e"
FREEZE_KIND = b"\x0f"
CLAIM_KIND = b"\x10"
EXITS_KIND = b"\x11"
SWEPT_KIND = b"\x12"
NATIVE_KIND = b"\x13"
NATIVE_UNDO_KIND = b"\x14"
PARTS_KIND = b"\x15"

__all__ = ["INBOX_KIND", "InboxLeaf", "decode_inbox_leaf", "inbox_key"]


class Account(Wire, frozen=True):
    """An address on the ledger: free balance, and how many transactions it has sent."""

    balance_uusd: int
    nonce: int


class PlacedEntry(Wire, frozen=True):
    """An inbox entry and the ledger height it came at.

    `window_ms`: the same in window time; `ahead`: entries that waited before it then;
    `deposited_uusd`: all deposits up to it, its own included; `refunded`: whether a frozen shard
    gave it back.
    """

    ledger_height: int
    entry: InboxEntry
    window_ms: int = 0
    ahead: int = 0
    deposited_uusd: int = 0
    refunded: bool = False


class ShardLeaf(Wire, frozen=True):
    """A shard as the ledger knows it after its newest batch.

    `inbox_height`: base-layer height that its newest ordered block named; `inbox_cursor`: inbox
    entries taken in; `outbox_next`: number of the next outbox entry; `funds_uusd`: money that the
    bridge holds for it; `outbox_hash`: running hash of its outbox.
    """

    batch: int
    last_block: int
    last_block_id: bytes
    state_root: bytes
    inbox_height: int
    inbox_cursor: int
    outbox_next: int
    funds_uusd: int
    outbox_hash: bytes = EMPTY_OUTBOX_HASH


class FinalLeaf(Wire, frozen=True):
    """The newest batch that is final (0: genesis), and the state and cursors after it."""

    batch: int
    last_block: int
    last_block_id: bytes
    state_root: bytes
    inbox_height: int
    inbox_cursor: int
    outbox_next: int
    outbox_hash: bytes = EMPTY_OUTBOX_HASH


class SettledBatch(Wire, frozen=True):
    """A settled batch's header, and the ledger block that settled it, also in window time.

    `inbox_height` and `outbox_hash` are those after it; `bond_uusd` is what is still locked of its
    prover's bond. `steps_root`: Merkle root over `protocol.dispute.step_leaf` of its blocks.
    `native_root`: of the native leaves after it, `prices` what was posted of each market: mark and
    funding index; both empty without native checks.
    `paid`: how many of its outbox entries are paid, where the ledger forgets old batches.
    """

    header: BatchHeader
    ledger_height: int
    ledger_time_ms: int
    window_ms: int = 0
    inbox_height: int = 0
    outbox_hash: bytes = EMPTY_OUTBOX_HASH
    bond_uusd: int = 0
    steps_root: bytes = b""
    native_root: bytes = b""
    prices: list[tuple[int, int]] = msgspec.field(default_factory=list)
    paid: int = 0


class SweptLeaf(Wire, frozen=True):
    """What of a shard's past the ledger has forgotten: final batches up to `batch`, but for those
    with withdrawals that are not paid, and the first `entries` entries of the inbox, which may
    become `cursor`.

    `running_hash`: that of the inbox up to the forgotten entries, so that whoever follows it can
    begin behind them.
    """

    batch: int = 0
    entries: int = 0
    cursor: int = 0
    running_hash: bytes = EMPTY_INBOX_HASH


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
decode_final: Decoder[FinalLeaf] = Decoder(FinalLeaf)
decode_swept: Decoder[SweptLeaf] = Decoder(SweptLeaf)
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


def final_key(shard: int) -> bytes:
    """Key of a shard's newest final batch (3 bytes)."""
    return FINAL_KIND + shard.to_bytes(2, "big")


def dispute_key(shard: int, batch: int, challenger: bytes) -> bytes:
    """Key of a challenger's (its address) game against a batch (31 bytes)."""
    return DISPUTE_KIND + shard.to_bytes(2, "big") + batch.to_bytes(8, "big") + challenger


def parts_key(game: bytes, place: int = 0) -> bytes:
    """Key of what the game with this key has of a witness in parts (33 bytes)."""
    return PARTS_KIND + game[1:] + place.to_bytes(2, "big")


def freeze_key(shard: int) -> bytes:
    """Key of a frozen shard (3 bytes)."""
    return FREEZE_KIND + shard.to_bytes(2, "big")


def claim_key(shard: int, account: int) -> bytes:
    """Key of an account's claim on a frozen shard (11 bytes)."""
    return CLAIM_KIND + shard.to_bytes(2, "big") + account.to_bytes(8, "big")


def exits_key(shard: int) -> bytes:
    """Key of the payouts of the running hour and day (3 bytes)."""
    return EXITS_KIND + shard.to_bytes(2, "big")


def swept_key(shard: int) -> bytes:
    """Key of what a shard's ledger has forgotten (3 bytes)."""
    return SWEPT_KIND + shard.to_bytes(2, "big")


def native_key(shard: int, key: bytes) -> bytes:
    """Key of a native leaf of a shard (3 bytes more than its own)."""
    return NATIVE_KIND + shard.to_bytes(2, "big") + key


def native_undo_key(shard: int, batch: int, part: int) -> bytes:
    """Key of a part of what a batch changed of the native leaves (13 bytes)."""
    place = shard.to_bytes(2, "big") + batch.to_bytes(8, "big") + part.to_bytes(2, "big")
    return NATIVE_UNDO_KIND + place
