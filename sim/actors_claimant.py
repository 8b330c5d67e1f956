"""Who gets everybody's money out of a frozen shard, with what the disks of validators hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from execution import leaves as lv
from node.ledger import Ledger
from node.rebuild import RebuiltState, posted_outbox
from protocol.chain import Block
from protocol.codec import encode
from protocol.errors import Code
from protocol.exits import Collect, Refund
from protocol.ledger_leaves import paid_key
from protocol.merkle import list_proof
from protocol.settlement import FIRST_ACCOUNT, Deposit, LedgerAction, Payout
from sim.actors_ledger_client import LedgerClient

WAIT_MS = 300
FORGED_PPM = 150_000
DEPOSIT_UUSD = 1_000_001

Disk = tuple[Ledger, Callable[[int], Block | None]]
"""A validator's ledger and its blocks."""


class Claimant(LedgerClient):
    """Waits for the freeze. `disk`: of some honest validator that is up; `done`: whether everything
    has been asked for."""

    role = "claimant"
    disk: Callable[[], Disk | None]
    done = False

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.claimed: list[int] = []
        self._last_id = b""

    def start(self) -> None:
        """Begin to wait."""
        self.open_transactions, self._turn = 0, None
        self.spawn(self._run())

    async def _run(self) -> None:
        ledger, block_at = await self._frozen()
        rebuilt = RebuiltState(ledger)
        rebuilt.advance(block_at)
        self.history.count("states_rebuilt")
        for key, _ in list(rebuilt.tree.iterate(lv.ACCOUNT)):
            account = lv.parse_account_key(key)
            if account >= FIRST_ACCOUNT:
                await self._claim(rebuilt, account)
        await self._refund(ledger)
        await self._pay_out(ledger, block_at)
        for account in self.random.shuffled(self.claimed):
            await self._collect(account)
        self.done = True

    async def _frozen(self) -> Disk:
        """Wait for the freeze; meanwhile something has to wait in the inbox."""
        while True:
            found = self.disk()
            if found is not None and found[0].frozen:
                return found
            if self.random.chance(FORGED_PPM):
                await self.send_action(Deposit(self.key.address, DEPOSIT_UUSD))
            await self.sleep(WAIT_MS)

    async def _ask(self, action: LedgerAction, what: str) -> int:
        """The code that an action ends with, in a transaction of its own."""
        answer = await self.send_action(action)
        while answer is not None and answer.transaction_id == self._last_id:
            # A validator that is behind named an old nonce, and gave the last answer again.
            answer = await self.send_action(action)
        self._last_id = b"" if answer is None else answer.transaction_id
        code = int(Code.BUSY) if answer is None else answer.code
        self.history.count(f"{what}_{Code(code).label}")
        return code

    async def _claim(self, rebuilt: RebuiltState, account: int) -> None:
        claim = rebuilt.claim(account)
        if self.random.chance(FORGED_PPM):
            other = replace(claim, account=account + 1)
            if await self._ask(other, "forged_claims") == Code.OK:
                self.history.count("forgeries_taken")
        code = await self._ask(claim, "claims")
        if code in (Code.OK, Code.ALREADY_CLAIMED):
            self.claimed.append(account)

    async def _refund(self, ledger: Ledger) -> None:
        final, count = ledger.final(), ledger.inbox().count
        for index in range(max(0, final.inbox_cursor - 1), count):
            code = await self._ask(Refund(index), "refunds")
            if index < final.inbox_cursor and code == Code.OK:
                self.history.count("forgeries_taken")

    async def _pay_out(self, ledger: Ledger, block_at: Callable[[int], Block | None]) -> None:
        """All withdrawals of final batches that nobody has had paid."""
        for number in range(1, ledger.final().batch + 1):
            settled = ledger.batch(number)
            block = None if settled is None else block_at(settled.ledger_height)
            if settled is None or block is None or not settled.header.outbox_count:
                continue
            outbox = posted_outbox(block, settled.header)
            encoded = [encode(entry) for entry in outbox]
            for place, entry in enumerate(outbox):
                if ledger.read(paid_key(ledger.shard, entry.number)) is None:
                    payout = Payout(number, entry, list_proof(encoded, place))
                    await self._ask(payout, "frozen_payouts")

    async def _collect(self, account: int) -> None:
        while True:
            code = await self._ask(Collect(account), "collects")
            if code != Code.CLAIMS_OPEN:
                break
            await self.sleep(4 * WAIT_MS)
        if code != Code.OK or not self.random.chance(FORGED_PPM):
            return
        if await self._ask(Collect(account), "second_collects") == Code.OK:
            self.history.count("forgeries_taken")
