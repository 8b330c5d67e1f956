"""The ledger of genesis: money, account numbers, the first inbox entries and epoch."""

from __future__ import annotations

from execution.native import NativeState
from node.envelopes import Envelopes
from node.ledger import Ledger
from protocol.chain import EMPTY_HASH, GENESIS_VIEW, genesis_header
from protocol.codec import encode
from protocol.errors import ConfigError
from protocol.genesis import CASH_LIMIT, CASH_MOVE_LIMIT, Chain
from protocol.keys import ADDRESS_BYTES, address_of
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    SYSTEM_KEY,
    Account,
    CurrentEpoch,
    EpochLeaf,
    EpochMember,
    FinalLeaf,
    InboxLeaf,
    PlacedEntry,
    ShardLeaf,
    SystemLeaf,
    ValidatorLeaf,
    account_key,
    entry_key,
    epoch_key,
    final_key,
    inbox_key,
    native_key,
    number_key,
    shard_key,
    validator_key,
)
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    EMPTY_INBOX_HASH,
    FIRST_ACCOUNT,
    INSURANCE_ACCOUNT,
    InboxDeposit,
    extend_inbox_hash,
)


def genesis_leaves(chain: Chain, genesis_state_root: bytes) -> dict[bytes, bytes]:
    """Leaves of the ledger before its first block.

    `genesis_state_root`: root of the shard's state at genesis. Genesis deposits become inbox
    entries of height 0 in their order; one above the limit of a single movement is split.
    Raises `ConfigError` when genesis has more money than the ledger counts.
    """
    genesis = chain.genesis
    leaves: dict[bytes, object] = {}
    balances: dict[bytes, int] = {}
    numbers: dict[bytes, int] = {}
    entries = _funds(chain)
    for account in genesis.accounts:
        address = bytes.fromhex(account.address)
        balances[address] = balances.get(address, 0) + account.balance_uusd
        left_uusd = account.deposit_uusd
        while left_uusd > 0:
            number = numbers.setdefault(address, FIRST_ACCOUNT + len(numbers))
            amount_uusd = min(left_uusd, CASH_MOVE_LIMIT - 1)
            entries.append(InboxDeposit(len(entries), number, address, amount_uusd))
            left_uusd -= amount_uusd
    running, funds_uusd = EMPTY_INBOX_HASH, 0
    for entry in entries:
        running = extend_inbox_hash(running, 0, entry)
        funds_uusd += entry.amount_uusd
        placed = PlacedEntry(0, entry, 0, entry.index, funds_uusd)
        leaves[entry_key(genesis.shard, entry.index)] = placed
    stakes_uusd = sum(one.stake for one in genesis.validators)
    supply_uusd = funds_uusd + sum(balances.values()) + stakes_uusd
    if supply_uusd >= CASH_LIMIT:
        raise ConfigError(f"genesis: all money together must be below {CASH_LIMIT} uusd")
    leaves.update({account_key(a): Account(held, 0) for a, held in balances.items()})
    leaves.update({number_key(a): number for a, number in numbers.items()})
    leaves[inbox_key(genesis.shard)] = InboxLeaf(len(entries), running)
    leaves[SYSTEM_KEY] = SystemLeaf(len(numbers), supply_uusd, time_ms=genesis.time_ms)
    leaves.update(_first_epoch(chain))
    log_id = genesis_header(chain.log_id, genesis.time_ms, EMPTY_HASH).block_id()
    leaves[shard_key(genesis.shard)] = ShardLeaf(
        batch=0,
        last_block=0,
        last_block_id=log_id,
        state_root=genesis_state_root,
        inbox_height=0,
        inbox_cursor=0,
        outbox_next=0,
        funds_uusd=funds_uusd,
    )
    leaves[final_key(genesis.shard)] = FinalLeaf(0, 0, log_id, genesis_state_root, 0, 0, 0)
    encoded = {key: encode(value) for key, value in leaves.items()}
    if genesis.settlement.native_checks:
        native = NativeState(chain).leaves()
        encoded.update((native_key(genesis.shard, key), leaf) for key, leaf in native.items())
    return encoded


def _funds(chain: Chain) -> list[InboxDeposit]:
    """What the insurance fund and the backstop start with; nobody has the key of their address."""
    entries: list[InboxDeposit] = []
    for number, left_uusd in (
        (INSURANCE_ACCOUNT, chain.genesis.insurance_uusd),
        (BACKSTOP_ACCOUNT, chain.genesis.backstop_uusd),
    ):
        while left_uusd > 0:
            amount_uusd = min(left_uusd, CASH_MOVE_LIMIT - 1)
            entries.append(InboxDeposit(len(entries), number, bytes(ADDRESS_BYTES), amount_uusd))
            left_uusd -= amount_uusd
    return entries


def _first_epoch(chain: Chain) -> dict[bytes, object]:
    """The validators of genesis, who reach each other by their configuration."""
    genesis = chain.genesis
    members = [
        EpochMember(bytes.fromhex(one.public_key), one.stake, bytes.fromhex(one.certificate), "")
        for one in genesis.validators
    ]
    epoch_ms = genesis.staking.epoch_ms
    leaves: dict[bytes, object] = {
        validator_key(address_of(one.public_key)): ValidatorLeaf(
            one.public_key, one.stake_uusd, one.certificate, one.address, 0, []
        )
        for one in members
    }
    leaves[epoch_key(0)] = EpochLeaf(0, 0, members, genesis.time_ms + epoch_ms if epoch_ms else 0)
    leaves[CURRENT_EPOCH_KEY] = CurrentEpoch(0, 0, GENESIS_VIEW, b"")
    return leaves


def genesis_ledger(
    chain: Chain, genesis_state_root: bytes, envelopes: Envelopes | None = None
) -> Ledger:
    """The ledger before its first block."""
    leaves = genesis_leaves(chain, genesis_state_root)
    return Ledger(chain, leaves.items(), 0, envelopes=envelopes)
