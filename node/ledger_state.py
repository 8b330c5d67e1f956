"""The ledger's leaves: reading, writing, proofs under recent roots, and the count of all money.

A block's writes wait beside the tree until the block is sealed, so that the leaves before it are
known for undoing, and the money that its changes move can be counted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from execution.admission import VerifySignature
from node.outcomes import BlockOutcome
from protocol.codec import encode
from protocol.dispute import decode_dispute
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.keys import address_of, verify
from protocol.ledger_leaves import (
    ACCOUNT_KIND,
    BATCH_KIND,
    CURRENT_EPOCH_KEY,
    DISPUTE_KIND,
    SYSTEM_KEY,
    VALIDATOR_KIND,
    Account,
    CurrentEpoch,
    EpochLeaf,
    EpochMember,
    FinalLeaf,
    InboxLeaf,
    PlacedEntry,
    SettledBatch,
    ShardLeaf,
    SweptLeaf,
    SystemLeaf,
    ValidatorLeaf,
    account_key,
    batch_key,
    decode_account,
    decode_batch,
    decode_current_epoch,
    decode_epoch,
    decode_final,
    decode_inbox_leaf,
    decode_number,
    decode_placed,
    decode_shard,
    decode_swept,
    decode_system,
    decode_validator,
    entry_key,
    epoch_key,
    final_key,
    freeze_key,
    inbox_key,
    number_key,
    shard_key,
    swept_key,
    validator_key,
)
from protocol.settlement import InboxDeposit, InboxEntry, extend_inbox_hash
from prover.tree import StateTree, TreeProof

EPOCHS_KEPT = 4
"""Decoded epoch leaves that are kept."""


class LedgerState:
    """The leaves after some block, and the writes of the block that is being executed.

    Undo information of recent blocks is kept until `forget_undo`, so that proofs can be given under
    the root that a certified header names.
    """

    def __init__(
        self,
        chain: Chain,
        leaves: Iterable[tuple[bytes, bytes]],
        height: int,
        undo: Iterable[tuple[int, dict[bytes, bytes | None]]] = (),
    ) -> None:
        self.chain = chain
        self.verify_signature: VerifySignature = verify
        self.shard = chain.genesis.shard
        self.height = height
        self._tree = StateTree(leaves)
        self._changes: dict[bytes, bytes | None] = {}
        self._undo = deque(undo)
        self._epochs: dict[int, EpochLeaf] = {}
        self._validator_keys = {key for key, _ in self._tree.iterate(VALIDATOR_KIND)}
        # Of inbox entries from this one on, those before are forgotten.
        self._entries_from = self.swept().entries
        self._entry_heights = [
            self._placed(index).ledger_height
            for index in range(self._entries_from, self.inbox().count)
        ]
        self._held_uusd = self._count_money()
        self.require_conserved()

    # --- reading

    @property
    def root(self) -> bytes:
        """Root of the ledger tree after the newest block (32 bytes)."""
        return self._tree.root

    def leaves(self) -> list[tuple[bytes, bytes]]:
        """All leaves in key order."""
        return list(self._tree.iterate())

    def keys_of(self, kind: bytes) -> list[bytes]:
        """Keys of the leaves whose key begins with `kind`, in their order, after the newest
        block."""
        return [key for key, _ in self._tree.iterate(kind)]

    def account(self, address: bytes) -> Account:
        """Balance and nonce of an address; zeros where it is unknown."""
        raw = self.read(account_key(address))
        return Account(0, 0) if raw is None else decode_account(raw)

    def account_number(self, address: bytes) -> int:
        """The address's account number in the shards, 0 if it never got a deposit."""
        raw = self.read(number_key(address))
        return 0 if raw is None else decode_number(raw)

    def inbox(self) -> InboxLeaf:
        """Entries of the inbox and their running hash."""
        return decode_inbox_leaf(self._require(inbox_key(self.shard)))

    def entries(self, first: int, limit: int, up_to_height: int) -> list[tuple[int, InboxEntry]]:
        """Inbox entries from index `first` on with their heights, none above `up_to_height`.

        Raises `Rejected(not_retained)` where the first of them is forgotten.
        """
        if max(first, 0) < self._entries_from:
            text = f"the ledger remembers inbox entries from {self._entries_from} on, not {first}"
            raise Rejected(Code.NOT_RETAINED, text)
        end = min(self.entries_at(up_to_height), first + limit)
        placed = [self._placed(index) for index in range(max(first, 0), end)]
        return [(entry.ledger_height, entry.entry) for entry in placed]

    def entries_after(self, height: int, first: int, limit: int) -> list[tuple[int, InboxEntry]]:
        """Inbox entries from index `first` on with their heights, as they were after the block at
        `height`, for which `prove_at` gives proofs: newer blocks may have forgotten them.

        Raises `Rejected(not_retained)` where the first of them was forgotten by then.
        """
        raw = self._read_after(height, swept_key(self.shard))
        swept = SweptLeaf() if raw is None else decode_swept(raw)
        if first < swept.entries:
            text = f"the ledger remembers inbox entries from {swept.entries} on, not {first}"
            raise Rejected(Code.NOT_RETAINED, text)
        found: list[tuple[int, InboxEntry]] = []
        while len(found) < limit:
            raw = self._read_after(height, entry_key(self.shard, first + len(found)))
            if raw is None:
                break
            placed = decode_placed(raw)
            found.append((placed.ledger_height, placed.entry))
        return found

    def _read_after(self, height: int, key: bytes) -> bytes | None:
        """A leaf as it was after the block at `height`, which newer blocks can be undone to."""
        for block_height, undo in self._undo:
            if block_height > height and key in undo:
                return undo[key]
        return self._tree.get(key)

    def placed_entry(self, index: int) -> PlacedEntry | None:
        """An inbox entry and when it came, None if there is none of this index (any more)."""
        return self._placed(index) if self._entries_from <= index < self.inbox().count else None

    def deposited_uusd(self, count: int) -> int:
        """Sum of the deposits among the first `count` entries of the inbox. It stands in the last
        of them, so that entry has to be there."""
        return self._placed(count - 1).deposited_uusd if count else 0

    def entries_at(self, height: int) -> int:
        """Number of inbox entries that came up to a ledger height."""
        return self._entries_from + bisect_right(self._entry_heights, height)

    def shard_leaf(self) -> ShardLeaf:
        """The shard after its newest batch."""
        return decode_shard(self._require(shard_key(self.shard)))

    def final(self) -> FinalLeaf:
        """The newest batch that nothing can remove any more, and the state after it."""
        return decode_final(self._require(final_key(self.shard)))

    def swept(self) -> SweptLeaf:
        """What of the shard's past is forgotten."""
        raw = self.read(swept_key(self.shard))
        return SweptLeaf() if raw is None else decode_swept(raw)

    @property
    def frozen(self) -> bool:
        """Whether the shard is frozen."""
        return self.read(freeze_key(self.shard)) is not None

    def system(self) -> SystemLeaf:
        """Account numbers given, supply, fees, the ledger's clock."""
        return decode_system(self._require(SYSTEM_KEY))

    def batch(self, number: int) -> SettledBatch | None:
        """A settled batch, None if there is none of this number."""
        if number < 1:
            return None
        raw = self.read(batch_key(self.shard, number))
        return None if raw is None else decode_batch(raw)

    def validator(self, address: bytes) -> ValidatorLeaf | None:
        """The validator whose key has this address, None where there is none."""
        raw = self.read(validator_key(address))
        return None if raw is None else decode_validator(raw)

    def validators(self) -> list[ValidatorLeaf]:
        """Everybody with stake, or with stake on its way out, by address."""
        return [decode_validator(self._require(key)) for key in sorted(self._validator_keys)]

    @property
    def validator_count(self) -> int:
        """Number of `validators`."""
        return len(self._validator_keys)

    def current_epoch(self) -> CurrentEpoch:
        """The epoch of the next block, and the block that it starts from."""
        return decode_current_epoch(self._require(CURRENT_EPOCH_KEY))

    def epoch_leaf(self, number: int) -> EpochLeaf | None:
        """The members of an epoch, None where it is not decided yet."""
        leaf = self._epochs.get(number)
        if leaf is None:
            raw = self.read(epoch_key(number))
            if raw is None:
                return None
            # An epoch's leaf is written once.
            leaf = self._epochs[number] = decode_epoch(raw)
            if len(self._epochs) > EPOCHS_KEPT:
                del self._epochs[next(iter(self._epochs))]
        return leaf

    def current_leaf(self) -> EpochLeaf:
        """The leaf of the epoch of the next block."""
        leaf = self.epoch_leaf(self.current_epoch().number)
        if leaf is None:
            raise SafetyViolation("the current epoch has no members in the ledger")
        return leaf

    def current_members(self) -> list[EpochMember]:
        """The members who order the next block, in the order of their numbers."""
        return list(self.current_leaf().members)

    def next_epoch(self) -> EpochLeaf | None:
        """The epoch that the current one's boundary has decided; None before the boundary."""
        return self.epoch_leaf(self.current_epoch().number + 1)

    # --- money

    @property
    def conserved(self) -> bool:
        """Whether balances, bridge, stakes, bonds and fees are together the supply."""
        return self._held_uusd == self.system().supply_uusd

    def require_conserved(self) -> None:
        """Count all money anew; raises `SafetyViolation` where it is not the supply."""
        if self._count_money() != self._held_uusd or not self.conserved:
            raise SafetyViolation("the ledger's balances and funds do not add up to its supply")

    def credit(self, address: bytes, amount_uusd: int) -> None:
        """Add to an address's balance, or with a negative amount take from it."""
        account = self.account(address)
        balance_uusd = account.balance_uusd + amount_uusd
        self.write(account_key(address), Account(balance_uusd, account.nonce))

    def change_system(self, **changes: int) -> None:
        """Add to fields of the system leaf."""
        system = self.system()
        added = {name: getattr(system, name) + amount for name, amount in changes.items()}
        self.write(SYSTEM_KEY, msgspec.structs.replace(system, **added))

    def add_funds(self, amount_uusd: int) -> None:
        """Add to what the bridge holds, or with a negative amount take from it."""
        shard = self.shard_leaf()
        funds_uusd = shard.funds_uusd + amount_uusd
        self.write(shard_key(self.shard), msgspec.structs.replace(shard, funds_uusd=funds_uusd))

    def _count_money(self) -> int:
        kinds = (ACCOUNT_KIND, VALIDATOR_KIND, DISPUTE_KIND, SYSTEM_KEY, shard_key(self.shard))
        leaves = [pair for kind in kinds for pair in self._tree.iterate(kind)]
        # Final batches, of which there may be very many, hold no bond.
        for number in range(self.final().batch + 1, self.shard_leaf().batch + 1):
            key = batch_key(self.shard, number)
            leaves.append((key, self._require(key)))
        return sum(sum(self._money(key, value)) for key, value in leaves)

    def _money(self, key: bytes, value: bytes) -> tuple[int, ...]:
        """Every sum of micro-dollars that a leaf holds; none may be negative."""
        if key[:1] == ACCOUNT_KIND:
            return (decode_account(value).balance_uusd,)
        if key == shard_key(self.shard):
            return (decode_shard(value).funds_uusd,)
        if key[:1] == BATCH_KIND:
            return (decode_batch(value).bond_uusd,)
        if key[:1] == DISPUTE_KIND:
            return (decode_dispute(value).bond_uusd,)
        if key == SYSTEM_KEY:
            return (decode_system(value).fees_uusd,)
        if key[:1] == VALIDATOR_KIND:
            validator = decode_validator(value)
            return (validator.stake_uusd, *(one.amount_uusd for one in validator.unbonding))
        return ()

    def _recount(self, outcome: BlockOutcome) -> None:
        """Count the money that a block moved; raises `SafetyViolation` for a negative sum."""
        for key, value in outcome.changes.items():
            before = outcome.undo[key]
            if before is not None:
                self._held_uusd -= sum(self._money(key, before))
            if value is None:
                continue
            held = self._money(key, value)
            self._held_uusd += sum(held)
            if min(held, default=0) < 0:
                raise SafetyViolation(f"ledger block {outcome.height} made a balance negative")

    # --- proofs

    def prove_at(self, height: int, root: bytes, keys: Sequence[bytes]) -> TreeProof:
        """Proof of leaves under `root`, the ledger root after the block at `height`.

        Raises `Rejected(not_retained)` for a height before what can be undone, `SafetyViolation`
        when our own ledger had another root there.
        """
        back: dict[bytes, bytes | None] = {}
        oldest = self.height
        for block_height, undo in reversed(self._undo):
            if block_height <= height:
                break
            back.update(undo)
            oldest = block_height - 1
        if not height <= self.height or oldest > height:
            raise Rejected(Code.NOT_RETAINED, f"no proofs are kept for ledger height {height}")
        forward = {key: self._tree.get(key) for key in back}
        try:
            if self._tree.update(back) != root:
                raise SafetyViolation(f"a certified header names another root for {height}")
            return self._tree.prove(keys)
        finally:
            self._tree.update(forward)

    def forget_undo(self, height: int) -> None:
        """Drop undo information that only proofs below `height` need."""
        while self._undo and self._undo[0][0] <= height:
            self._undo.popleft()

    # --- writing

    def read(self, key: bytes) -> bytes | None:
        """A leaf's value with the writes of the block being executed; None where it is absent."""
        if key in self._changes:
            return self._changes[key]
        return self._tree.get(key)

    def write(self, key: bytes, value: object) -> None:
        """Set a leaf."""
        self._changes[key] = encode(value)
        if key[:1] == VALIDATOR_KIND:
            self._validator_keys.add(key)

    def write_raw(self, key: bytes, value: bytes) -> None:
        """Set a leaf whose value is encoded already."""
        self._changes[key] = value

    def erase(self, key: bytes) -> None:
        """Delete a leaf that is no validator's."""
        self._changes[key] = None

    def forget_validator(self, key_address: bytes) -> None:
        """Delete a validator's leaf."""
        key = validator_key(key_address)
        self._changes[key] = None
        self._validator_keys.discard(key)

    def write_validator(self, validator: ValidatorLeaf) -> None:
        """Set a validator's leaf."""
        self.write(validator_key(address_of(validator.public_key)), validator)

    def append_entry(self, height: int, entry: InboxEntry) -> None:
        """Append the next entry to the inbox, at this ledger height."""
        inbox = self.inbox()
        if entry.index != inbox.count:
            raise SafetyViolation(f"inbox entry {entry.index} came where {inbox.count} is next")
        running = extend_inbox_hash(inbox.running_hash, height, entry)
        self.write(inbox_key(self.shard), InboxLeaf(inbox.count + 1, running))
        ahead = inbox.count - self.shard_leaf().inbox_cursor
        deposited_uusd = self.deposited_uusd(inbox.count)
        if isinstance(entry, InboxDeposit):
            deposited_uusd += entry.amount_uusd
        placed = PlacedEntry(height, entry, self.system().window_ms, ahead, deposited_uusd)
        self.write(entry_key(self.shard, entry.index), placed)
        self._entry_heights.append(height)

    def forget_entries(self, end: int, running_hash: bytes) -> bytes:
        """Delete the inbox entries before index `end`; `running_hash` of the inbox up to those that
        are forgotten already gives that up to `end`."""
        for index in range(self._entries_from, end):
            placed = self._placed(index)
            running_hash = extend_inbox_hash(running_hash, placed.ledger_height, placed.entry)
            self.erase(entry_key(self.shard, index))
        del self._entry_heights[: end - self._entries_from]
        self._entries_from = end
        return running_hash

    def seal(self, outcome: BlockOutcome) -> None:
        """End a block: its writes go into the tree, and what they did into the outcome.

        Raises `SafetyViolation` where they made or lost money.
        """
        outcome.changes, self._changes = self._changes, {}
        outcome.undo = {key: self._tree.get(key) for key in outcome.changes}
        self._recount(outcome)
        outcome.root = self._tree.update(outcome.changes)
        if not self.conserved:
            raise SafetyViolation(f"ledger block {outcome.height} changed the supply of money")
        self._undo.append((outcome.height, outcome.undo))
        self.height = outcome.height

    def _require(self, key: bytes) -> bytes:
        value = self.read(key)
        if value is None:
            raise SafetyViolation(f"ledger leaf {key.hex()} is missing")
        return value

    def _placed(self, index: int) -> PlacedEntry:
        return decode_placed(self._require(entry_key(self.shard, index)))
