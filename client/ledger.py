"""The base layer as a client sees it: balances, deposits, payouts of withdrawals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from protocol.errors import Code, RemoteFault
from protocol.events import BlockEvents, Deposited
from protocol.keys import Key
from protocol.messages import (
    BalanceRequest,
    BalanceView,
    BatchRequest,
    BatchView,
    Committed,
    SubmitTransaction,
    WithdrawalRequest,
    WithdrawalView,
)
from protocol.settlement import Deposit, LedgerAction, Payout, sign_action

if TYPE_CHECKING:
    from client.sdk import Exchange

COMMIT_TIMEOUT_MS = 15_000
POLL_S = 0.1
FINAL_POLL_S = 2.0
NOT_YET = frozenset((Code.NOT_FOUND, Code.UNKNOWN_BATCH, Code.NOT_READY))
"""What a prover answers while a withdrawal's batch is not settled."""
PASSING = frozenset((Code.NOT_FINAL, Code.UNKNOWN_BATCH, Code.BAD_PROOF))
"""What a validator says that has not seen that the batch is final, or has it no more: another batch
will hold the withdrawal."""


class TransactionRejected(RemoteFault):
    """The ledger committed a transaction without effect (exit 3)."""


class NotFinalYet(TimeoutError):
    """A withdrawal is settled, and not final in time (exit 4); `why` says so without what to do."""

    def __init__(self, why: str, number: int) -> None:
        super().__init__(f"{why}; have it paid then with: trilemma payout {number}")
        self.why = why


class Ledger:
    """Ledger of an exchange. Transactions of one key are sent one after the other."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def balance(self, address: bytes) -> BalanceView:
        """An address's balance, nonce and account number (0: none)."""
        return await self._exchange.channel("node").ask(BalanceView, BalanceRequest, address)

    async def deposit(self, key: Key, amount_uusd: int, address: bytes | None = None) -> Committed:
        """Move money from the key's ledger balance into the shard, for `address` (its own)."""
        return await self.send(key, Deposit(address or key.address, amount_uusd))

    async def deposit_and_wait(
        self, key: Key, amount_uusd: int, address: bytes | None = None, timeout_ms: int = 30_000
    ) -> int:
        """Deposit and wait until the account has the money; returns the ledger height.

        Raises `TransactionRejected`, or `TimeoutError` where it is committed but not taken in.
        """
        exchange = self._exchange
        owner = address or key.address
        arrived = asyncio.Event()

        def watch(block: BlockEvents) -> None:
            for event in block.events:
                if isinstance(event, Deposited) and event.address == owner:
                    arrived.set()

        await exchange.follow()
        exchange.watchers.append(watch)
        try:
            committed = await self.deposit(key, amount_uusd, owner)
            async with asyncio.timeout(timeout_ms / 1000):
                await arrived.wait()
        except TimeoutError:
            raise TimeoutError(
                f"the deposit is on the ledger but not in the shard after {timeout_ms / 1000:g} s"
            ) from None
        finally:
            exchange.watchers.remove(watch)
        return committed.height

    async def send(self, key: Key, action: LedgerAction, fee_uusd: int = 0) -> Committed:
        """Send a transaction and wait until it is committed.

        It pays the least fee, or `fee_uusd` where that is more: a full pool serves higher ones.
        Raises `TransactionRejected` where it took no effect, `RemoteFault` where it was refused.
        """
        async with self._locks.setdefault(key.public, asyncio.Lock()):
            nonce = (await self.balance(key.address)).nonce
            raw = sign_action(key, self._exchange.chain, nonce, action, fee_uusd)
            # The same bytes may be sent again: at their nonce they take effect once.
            committed = await self._exchange.channel("node").ask(
                Committed, SubmitTransaction, raw, timeout_ms=COMMIT_TIMEOUT_MS
            )
        if committed.code:
            raise TransactionRejected(committed.code, committed.text)
        return committed

    async def newest_batch(self) -> BatchView | None:
        """The newest settled batch, None before the first."""
        try:
            return await self._exchange.channel("node").ask(
                BatchView, BatchRequest, self._exchange.chain.genesis.shard, 0
            )
        except RemoteFault as fault:
            if fault.code in NOT_YET:
                return None
            raise

    async def withdrawal(self, number: int, timeout_ms: int = 120_000) -> WithdrawalView:
        """The proof of a withdrawal; waits until its batch is settled.

        Raises `TimeoutError` when it is not in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        while True:
            try:
                return await self._exchange.channel("prover").ask(
                    WithdrawalView, WithdrawalRequest, number
                )
            except RemoteFault as fault:
                if fault.code not in NOT_YET:
                    raise
                if asyncio.get_running_loop().time() >= deadline:
                    raise TimeoutError(
                        f"withdrawal {number} is not settled after {timeout_ms / 1000:g} s: "
                        f"{fault.text}"
                    ) from None
            await asyncio.sleep(POLL_S)

    async def batch(self, number: int) -> BatchView:
        """A settled batch, and what is final; raises `RemoteFault` (unknown_batch)."""
        return await self._exchange.channel("node").ask(
            BatchView, BatchRequest, self._exchange.chain.genesis.shard, number
        )

    async def final_withdrawal(self, number: int, timeout_ms: int = 120_000) -> WithdrawalView:
        """The proof of a withdrawal whose batch is final, so that it can be paid.

        Raises `NotFinalYet` when it is not in time, with how long the window still lasts, and
        `TimeoutError` when it is not even settled.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            # A batch that is removed is replaced by another one: the proof is asked for each time.
            view = await self.withdrawal(number, max(0, int((deadline - loop.time()) * 1000)))
            left_ms = 0
            try:
                found = await self.batch(view.batch)
                if found.is_final:
                    return view
                left_ms = found.left_ms
            except RemoteFault as fault:
                if fault.code not in NOT_YET:
                    raise
            if loop.time() >= deadline:
                raise NotFinalYet(
                    f"withdrawal {number} is settled in batch {view.batch}, which is final in "
                    f"about {left_ms / 1000:g} s at the earliest",
                    number,
                )
            wait_s = min(left_ms / 1000, FINAL_POLL_S, deadline - loop.time())
            await asyncio.sleep(max(POLL_S, wait_s))

    async def pay_out(self, key: Key, number: int, timeout_ms: int = 120_000) -> Committed:
        """Have the ledger pay a withdrawal once its batch is final; anybody's key may send this."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            left_ms = max(0, int((deadline - loop.time()) * 1000))
            view = await self.final_withdrawal(number, left_ms)
            try:
                return await self.send(key, Payout(view.batch, view.entry, view.path))
            except RemoteFault as fault:
                if fault.code not in PASSING or loop.time() >= deadline:
                    raise
            await asyncio.sleep(POLL_S)
