"""The base layer as a client sees it that believes no validator: headers, balances, batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from client.faults import InvalidProof
from client.units import utc, uusd_to_usd
from consensus.light_proofs import ProvenLeaves, require_outbox_entry
from execution.process_light import LightFollower, wall_clock_ms
from protocol.codec import Wire
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    SettledBatch,
    account_key,
    batch_key,
    decode_final,
    final_key,
    number_key,
)
from protocol.messages import HeaderRequest, HeaderView, WithdrawalRequest, WithdrawalView

if TYPE_CHECKING:
    from client.channel import Channel
    from client.sdk import Exchange


class VerifiedBalance(msgspec.Struct, frozen=True):
    """A proven balance; `account` 0 is no account in the shard."""

    address: str
    balance_uusd: int
    nonce: int
    account: int


class VerifiedBatch(msgspec.Struct, frozen=True):
    """A proven settled batch; `final`: nothing can remove it any more."""

    number: int
    first_block: int
    last_block: int
    state_root: str
    data_root: str
    outbox_root: str
    ledger_height: int
    ledger_time_ms: int
    final: bool


class VerifiedWithdrawal(msgspec.Struct, frozen=True):
    """A withdrawal that stands in a proven settled batch; it is paid once that is `final`."""

    number: int
    batch: int
    account: int
    address: str
    amount_uusd: int
    final: bool


class LightReport(msgspec.Struct, frozen=True):
    """What was verified: the newest header, who certified it, and what was asked for below it.

    `state_height` is the ledger height that proofs show. `stake_uusd` weighs the members' votes.
    """

    height: int
    time_ms: int
    block_id: str
    epoch: int
    members: list[str]
    stake_uusd: int
    checkpoint: str
    state_height: int
    epochs_followed: int
    balance: VerifiedBalance | None = None
    batch: VerifiedBatch | None = None
    withdrawal: VerifiedWithdrawal | None = None

    def lines(self) -> str:
        """For people."""
        lines = [
            f"verified ledger block {self.height} ({self.block_id[:16]}) of epoch {self.epoch}: "
            f"{len(self.members)} members, epochs followed: {self.epochs_followed}",
            f"its time is {utc(self.time_ms)}",
            f"checkpoint {self.checkpoint}",
        ]
        if self.balance is not None:
            shown = uusd_to_usd(self.balance.balance_uusd)
            where = f"account {self.balance.account}" if self.balance.account else "no account"
            lines.append(
                f"{self.balance.address} holds {shown} dollars at height {self.state_height} "
                f"(nonce {self.balance.nonce}, {where})"
            )
        if self.batch is not None:
            batch = self.batch
            lines.append(
                f"batch {batch.number} (ordered blocks {batch.first_block} to {batch.last_block}) "
                f"is settled in ledger block {batch.ledger_height}{_finality(batch.final)}, "
                f"state root {batch.state_root}"
            )
        if self.withdrawal is not None:
            paid = self.withdrawal
            lines.append(
                f"withdrawal {paid.number} of {uusd_to_usd(paid.amount_uusd)} dollars to "
                f"{paid.address} is in batch {paid.batch}{_finality(paid.final)}"
            )
        return "\n".join(lines)


def _finality(final: bool) -> str:
    return " and final" if final else ", not final yet"


class _ChannelAsks:
    """A client's channel as `LightFollower` asks it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def ask(
        self, kind: type[Any], make: Callable[[int], Wire], timeout_ms: int = 10_000, /
    ) -> Any:
        return await self._channel.ask(kind, make, timeout_ms=timeout_ms)

    async def drop(self) -> None:
        """Ask the next validator from now on."""
        await self._channel.move_on()


class VerifiedLedger:
    """Reads of the base layer in which every answer is verified from a checkpoint on.

    `checkpoint`: file to begin from, and with `keep` to keep up to date; None: the validators of
    genesis. Methods raise `InvalidProof` where an answer does not verify (and ask the next
    validator the next time), `ConfigError` where the checkpoint is too old, and what asking raises.
    """

    def __init__(
        self,
        exchange: Exchange,
        checkpoint: Path | None = None,
        *,
        keep: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._exchange = exchange
        self._shard = exchange.chain.genesis.shard
        self._node = exchange.channel("node")
        asks = _ChannelAsks(self._node)
        self.light = LightFollower(
            exchange.chain, asks, checkpoint, clock or wall_clock_ms, keep=keep
        )
        self._first_epoch = self.light.client.epoch

    async def newest(self) -> HeaderView:
        """The newest header of the validator that we talk to, verified over all epochs."""
        view = await self._node.ask(HeaderView, HeaderRequest, 0)
        try:
            await self.light.verify(view.header, view.certificate)
        except Rejected as error:
            await self._node.move_on()
            raise InvalidProof(f"header {view.header.height}: {error}") from None
        return view

    async def report(
        self,
        address: bytes | None = None,
        batch: int | None = None,
        withdrawal: int | None = None,
    ) -> LightReport:
        """Verify the newest header, and below it an address's balance, a batch, a withdrawal.

        A withdrawal is looked for in the batch that holds it. Raises `Rejected(unknown_batch)`
        where a batch is proven not to be settled yet.
        """
        await self.newest()
        shown = None if withdrawal is None else await self._withdrawal(withdrawal)
        wanted = [] if batch is None else [batch]
        wanted += [] if shown is None else [shown.batch]
        try:
            leaves = await self._leaves(address, wanted)
            return self._describe(leaves, address, batch, shown)
        except Rejected as error:
            if error.code == Code.UNKNOWN_BATCH:
                raise
            await self._node.move_on()
            raise InvalidProof(str(error)) from None

    async def _withdrawal(self, number: int) -> WithdrawalView:
        view = await self._exchange.channel("prover").ask(WithdrawalView, WithdrawalRequest, number)
        if view.entry.number != number:
            raise InvalidProof(f"withdrawal {view.entry.number} was shown for {number}")
        return view

    async def _leaves(self, address: bytes | None, batches: list[int]) -> ProvenLeaves | None:
        client = self.light.client
        keys = [] if address is None else [account_key(address), number_key(address)]
        keys += [batch_key(self._shard, number) for number in dict.fromkeys(batches)]
        if batches:
            keys.append(final_key(self._shard))
        if client.epoch:
            keys.append(CURRENT_EPOCH_KEY)
        if not keys:
            return None
        leaves = await self.light.leaves(keys)
        if CURRENT_EPOCH_KEY in keys and leaves.header.epoch == client.epoch:
            client.confirm_origin(leaves)
        return leaves

    def _describe(
        self,
        leaves: ProvenLeaves | None,
        address: bytes | None,
        batch: int | None,
        shown: WithdrawalView | None,
    ) -> LightReport:
        client = self.light.client
        newest = client.newest
        if newest is None:
            raise SafetyViolation("a report was asked for before any header was verified")
        balance = settled = paid = None
        if leaves is not None and address is not None:
            held, number = leaves.account(address), leaves.account_number(address)
            balance = VerifiedBalance(address.hex(), held.balance_uusd, held.nonce, number)
        if leaves is not None and batch is not None:
            settled = _batch_of(self._settled(leaves, batch), self._is_final(leaves, batch))
        if leaves is not None and shown is not None:
            entry = shown.entry
            require_outbox_entry(self._settled(leaves, shown.batch).header, entry, shown.path)
            paid = VerifiedWithdrawal(
                entry.number, shown.batch, entry.account, entry.address.hex(), entry.amount_uusd,
                self._is_final(leaves, shown.batch),
            )  # fmt: skip
        return LightReport(
            height=newest.height,
            time_ms=newest.time_ms,
            block_id=newest.block_id().hex(),
            epoch=client.epoch,
            members=[key.hex() for key in client.members.keys],
            stake_uusd=client.members.total_stake,
            checkpoint=client.checkpoint().fingerprint().hex(),
            state_height=newest.app_height if leaves is None else leaves.height,
            epochs_followed=client.epoch - self._first_epoch,
            balance=balance,
            batch=settled,
            withdrawal=paid,
        )

    def _is_final(self, leaves: ProvenLeaves, number: int) -> bool:
        raw = leaves.raw(final_key(self._shard))
        return raw is not None and number <= decode_final(raw).batch

    def _settled(self, leaves: ProvenLeaves, number: int) -> SettledBatch:
        settled = leaves.batch(self._shard, number)
        if settled is None:
            raise Rejected(
                Code.UNKNOWN_BATCH,
                f"batch {number} is proven not to be settled at ledger height {leaves.height}",
            )
        return settled


def _batch_of(settled: SettledBatch, final: bool) -> VerifiedBatch:
    header = settled.header
    return VerifiedBatch(
        header.number, header.first_block, header.last_block, header.post_state_root.hex(),
        header.data_root.hex(), header.outbox_root.hex(), settled.ledger_height,
        settled.ledger_time_ms, final,
    )  # fmt: skip
