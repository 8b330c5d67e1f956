"""Forced actions, the freeze and payouts as a client sees them, with validators alone.

Forced actions are followed by what settles, and withdrawals are paid out of what batches posted. No
sequencer, execution node or prover is asked for anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from client.export_source import blocks_from
from client.ledger import TransactionRejected
from node.rebuild import posted_outbox
from protocol.actions import Action
from protocol.codec import encode
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.exits import ForceAction, FreezeLeaf, decode_freeze
from protocol.inbox import decode_inbox_leaf, inbox_key
from protocol.keys import Key
from protocol.ledger_leaves import FinalLeaf, decode_final, final_key, freeze_key
from protocol.merkle import list_proof
from protocol.messages import (
    BatchRequest,
    BatchView,
    Committed,
    InboxRequest,
    InboxView,
    ProofRequest,
    ProofView,
)
from protocol.settlement import InboxForced, OutboxEntry, Payout
from protocol.tree_proof import decode_tree_proof, verify_proof

if TYPE_CHECKING:
    from client.sdk import Exchange

POLL_S = 0.2


class ShardFrozen(RemoteFault):
    """The shard is frozen: nothing is executed any more, claims are what is left (exit 3)."""

    def __init__(self) -> None:
        super().__init__(
            Code.SHARD_FROZEN,
            "the shard is frozen and executes nothing any more; make an exit proof and register "
            "a claim: trilemma exit-proof, trilemma claim",
        )


class Forced(msgspec.Struct, frozen=True):
    """A forced action on the ledger: the block that holds it, and its place in the inbox."""

    ledger_height: int
    index: int
    batch: int
    """Newest settled batch when it was sent."""


# --- what the ledger says


async def ledger_leaf(exchange: Exchange, key: bytes) -> bytes | None:
    """A leaf of the ledger as one validator proves it under its newest header; None: absent."""
    view = await exchange.channel("node").ask(ProofView, ProofRequest, [key])
    proof = decode_tree_proof(view.proof)
    return verify_proof(view.header.app_root, proof, [key])[key]


async def freeze_of(exchange: Exchange) -> FreezeLeaf | None:
    """The freeze of the shard, if it is frozen."""
    raw = await ledger_leaf(exchange, freeze_key(exchange.chain.genesis.shard))
    return None if raw is None else decode_freeze(raw)


async def final_of(exchange: Exchange) -> FinalLeaf:
    """The newest final batch, and the state after it."""
    raw = await ledger_leaf(exchange, final_key(exchange.chain.genesis.shard))
    if raw is None:
        raise RemoteFault(Code.NOT_READY, "the validator has no final state")
    return decode_final(raw)


async def _inbox_count(exchange: Exchange) -> int:
    raw = await ledger_leaf(exchange, inbox_key(exchange.chain.genesis.shard))
    return 0 if raw is None else decode_inbox_leaf(raw).count


async def _batch(exchange: Exchange, number: int) -> BatchView:
    shard = exchange.chain.genesis.shard
    return await exchange.channel("node").ask(BatchView, BatchRequest, shard, number)


async def _outbox(exchange: Exchange, view: BatchView) -> list[OutboxEntry]:
    """The outbox of a settled batch, out of the ledger block that settled it."""
    if not view.header.outbox_count:
        return []
    found = await blocks_from(exchange.channel("node"), view.ledger_height, 1)
    return posted_outbox(found.blocks[0], view.header)


# --- forced actions


async def force(
    exchange: Exchange,
    key: Key,
    action: Action,
    account: int = 0,
    payer: Key | None = None,
    timeout_ms: int = 30_000,
) -> Forced:
    """Put an owner's action into the inbox; `account` 0 is its master account, `payer` pays fees.

    Raises `TransactionRejected`, `ConfigError` where the key never got a deposit, `TimeoutError`.
    """
    number = account or (await exchange.ledger.balance(key.address)).account
    if not number:
        raise ConfigError("nothing was ever deposited for this key, so that it has no account")
    newest = await exchange.ledger.newest_batch()
    count = await _inbox_count(exchange)
    signed = exchange.sign(key, number, [action]).raw
    committed = await exchange.ledger.send(payer or key, ForceAction(signed))
    async with asyncio.timeout(timeout_ms / 1000):
        while True:
            view = await exchange.channel("node").ask(InboxView, InboxRequest, count, 4096)
            for _, entry in view.entries:
                if isinstance(entry, InboxForced) and entry.signed == signed:
                    batch = 0 if newest is None else newest.header.number
                    return Forced(committed.height, entry.index, batch)
            count += len(view.entries)
            await asyncio.sleep(POLL_S)


async def taken_in(exchange: Exchange, forced: Forced, timeout_ms: int) -> BatchView:
    """The settled batch that took a forced action in.

    Raises `ShardFrozen`, or `TimeoutError` where neither happens in time.
    """
    async with asyncio.timeout(timeout_ms / 1000):
        while True:
            newest = await exchange.ledger.newest_batch()
            if newest is not None and newest.header.inbox_cursor > forced.index:
                break
            if await freeze_of(exchange) is not None:
                raise ShardFrozen
            await asyncio.sleep(POLL_S)
        low, high = forced.batch, newest.header.number
        while high - low > 1:
            middle = (low + high) // 2
            found = await _batch(exchange, middle)
            if found.header.inbox_cursor > forced.index:
                high = middle
            else:
                low = middle
        return await _batch(exchange, high)


async def forced_withdrawal(
    exchange: Exchange, forced: Forced, account: int, address: bytes, timeout_ms: int
) -> OutboxEntry:
    """The outbox entry of a forced withdrawal, whichever way it was executed.

    Raises `TransactionRejected` where it was taken in and paid nothing, as an action that the
    account cannot afford does, `ShardFrozen`, `TimeoutError`.
    """
    last = (await taken_in(exchange, forced, timeout_ms)).header.number
    for number in range(forced.batch + 1, last + 1):
        for entry in await _outbox(exchange, await _batch(exchange, number)):
            if (entry.account, entry.address) == (account, address):
                return entry
    raise TransactionRejected(
        Code.INSUFFICIENT_MARGIN,
        f"batch {last} took the forced withdrawal in, and it paid nothing: the account may not "
        "give so much away",
    )


# --- payouts without a prover


async def find_payout(exchange: Exchange, number: int) -> Payout:
    """The payout of a withdrawal, proven out of the batch that posted it.

    Raises `RemoteFault(not_found)` where no settled batch has it.
    """
    newest = await exchange.ledger.newest_batch()
    if newest is None or number >= newest.header.outbox_first + newest.header.outbox_count:
        raise RemoteFault(Code.NOT_FOUND, f"withdrawal {number} is in no settled batch yet")
    low, high = 0, newest.header.number
    while high - low > 1:
        middle = (low + high) // 2
        header = (await _batch(exchange, middle)).header
        if header.outbox_first + header.outbox_count > number:
            high = middle
        else:
            low = middle
    view = await _batch(exchange, high)
    entries = await _outbox(exchange, view)
    index = number - view.header.outbox_first
    path = list_proof([encode(entry) for entry in entries], index)
    return Payout(high, entries[index], path)


async def pay_when_final(
    exchange: Exchange,
    key: Key,
    number: int,
    timeout_ms: int = 120_000,
    waiting: Callable[[int], None] | None = None,
) -> Committed:
    """Pay a withdrawal as soon as its batch is final; anybody's key may send this.

    `waiting` is told the batch where it is not final yet. Raises `TransactionRejected` or
    `RemoteFault` with the ledger's reason, `TimeoutError`.
    """
    told = False
    async with asyncio.timeout(timeout_ms / 1000):
        while True:
            payout = await find_payout(exchange, number)
            if (await final_of(exchange)).batch >= payout.batch:
                return await exchange.ledger.send(key, payout)
            if waiting is not None and not told:
                waiting(payout.batch)
                told = True
            await asyncio.sleep(POLL_S)
