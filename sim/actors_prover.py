"""The prover of the simulator: what `prover.process` does, on virtual disk and network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault, SafetyViolation
from protocol.events import decode_block_diff
from protocol.messages import (
    BalanceRequest,
    BalanceView,
    Committed,
    SubmitTransaction,
    WithdrawalRequest,
)
from protocol.messages_trading import DiffPush, SubscribeDiffs
from protocol.settlement import (
    BatchHeader,
    PostBatch,
    decode_outbox_entry,
    sign_action,
)
from prover.batcher import Batch, Batcher, Position
from prover.process_settled import SettledBatches
from prover.settlement import Settlement, genesis, require_same_root, withdrawal_view
from prover.tree import StateTree
from sim.actors_followers import LogFollower, Upstream
from sim.actors_keys import SimKey
from sim.actors_process import Process, Setting, StreamReader
from sim.actors_tasks import Pulse
from sim.checkers import Violation
from sim.disk import DAMAGED, Disk

BATCH_INTERVAL_MS = 500
IDLE_INTERVAL_MS = 3_000
RETRY_MS = 100
POST_TIMEOUT_MS = 2_000
PROOF_ATTEMPTS = 30
WAITING_MAX = 20_000
BATCHES = "batches"

Lie = Callable[[PostBatch], PostBatch]


class Written(msgspec.Struct, frozen=True):
    """One transaction of the prover's database: a batch built, or (None) the last one settled."""

    batch: Batch | None
    position: Position
    posting: PostBatch | None


class ProverRecords:
    """What `prover.store.ProverStore` keeps: one record for each of its transactions."""

    def __init__(self, disk: Disk, genesis: Position, leaves: dict[bytes, bytes]) -> None:
        self._disk = disk
        self.position = genesis
        self.posting: PostBatch | None = None
        self.leaves = leaves
        self.outbox: dict[int, list[bytes]] = {}
        self._batch_of: dict[int, int] = {}
        records = disk.log(BATCHES)
        if records and records[-1] is DAMAGED:
            records.pop()
            disk.truncate(BATCHES, len(records))
        for record in records:
            if record is DAMAGED:
                raise SafetyViolation("the prover's database is damaged")
            self._take(record)

    def write(self, batch: Batch, position: Position, posting: PostBatch | None) -> None:
        """A built batch, and what is to be posted of it."""
        self._add(Written(batch, position, posting))

    def settled(self) -> None:
        """The last batch built is settled."""
        self._add(Written(None, self.position, None))

    def _add(self, record: Written) -> None:
        self._disk.append(BATCHES, record)
        self._take(record)

    def _take(self, record: Written) -> None:
        self.position, self.posting = record.position, record.posting
        batch = record.batch
        if batch is None:
            return
        for key, value in batch.changes.items():
            if value is None:
                self.leaves.pop(key, None)
            else:
                self.leaves[key] = value
        if batch.outbox:
            number = record.position.number
            self.outbox[number] = batch.outbox
            for raw in batch.outbox:
                self._batch_of[decode_outbox_entry(raw).number] = number

    def withdrawal(self, number: int) -> tuple[int, list[bytes]] | None:
        """Batch of an outbox entry, and all encoded entries of that batch."""
        batch = self._batch_of.get(number)
        return None if batch is None else (batch, self.outbox[batch])


class SimProver(Process):
    """One prover. `lies` are tried before the truth, with `lie_ppm` each: all must be refused."""

    role = "prover"

    def __init__(
        self,
        setting: Setting,
        name: str,
        key: SimKey,
        validators: list[str],
        sequencers: list[str],
        executions: list[str],
        skew_us: int = 0,
    ) -> None:
        super().__init__(setting, name, ("batches",), skew_us)
        self.key = key
        self.lies: list[tuple[str, Lie]] = []
        self.lie_ppm = 0
        self._validators = validators
        self._sequencers = sequencers
        self._executions = executions
        self.batcher: Batcher
        self.store: ProverRecords

    def start(self) -> None:
        """Take up what is on disk."""
        chain = self.chain
        origin, tree = genesis(chain)
        self.store = ProverRecords(self.disks["batches"], origin, dict(tree.iterate()))
        position = self.store.position
        tree = StateTree(sorted(self.store.leaves.items()))
        shard = chain.genesis.shard
        self.batcher = Batcher(chain.chain_id, shard, self.key.public, tree, position)
        self._ledger = Upstream(self, self._validators)
        self._proven = SettledBatches(chain, self._ledger, None, self.now_ms)
        self._news = Pulse()
        self._settlement = Settlement(self.batcher, BATCH_INTERVAL_MS, IDLE_INTERVAL_MS)
        self._log = LogFollower(self, self._sequencers, position.block, position.block_id)
        self._log.start()
        self._diffs = StreamReader(self, self._executions, self._request_diffs, self._take_diff)
        self._diffs.start()
        self.on(WithdrawalRequest, self._withdrawal)
        self.spawn(self._follow_log())
        self.spawn(self._settle())

    # --- inputs

    async def _follow_log(self) -> None:
        while True:
            while not self._log.chunks:
                await self._log.grown.wait()
            self.batcher.add_chunk(self._log.chunks.popleft())
            self._news.set()
            while self.batcher.waiting_blocks > WAITING_MAX:
                await self._news.wait()

    def _request_diffs(self, request_id: int) -> SubscribeDiffs:
        return SubscribeDiffs(request_id, self.batcher.next_diff)

    def _take_diff(self, message: Any) -> bool:
        if not isinstance(message, DiffPush):
            raise Rejected(Code.UNKNOWN_MESSAGE, "expected state diffs")
        diff = decode_block_diff(message.diff)
        if diff.height != self.batcher.next_diff or self.batcher.waiting_diffs > WAITING_MAX:
            return False
        self.batcher.add_diff(diff)
        self._news.set()
        return True

    # --- settlement

    async def _settle(self) -> None:
        await self._recover_posting()
        while True:
            known = await self._settled_batch(self.batcher.position.number + 1)
            if known is not None:
                await self._adopt(known)
                continue
            await self._until_due()
            batch, posting = self._settlement.build(self.now_ms())
            self.store.write(batch, self.batcher.position, posting)
            await self.synced()
            await self._post(posting)

    async def _until_due(self) -> None:
        while True:
            now_ms = self.now_ms()
            due_ms = self._settlement.due_ms(now_ms)
            if due_ms is None:
                await self._news.wait()
            elif due_ms > now_ms:
                await self.first_of(self._news, due_ms - now_ms)
            else:
                return

    async def _adopt(self, header: BatchHeader) -> None:
        while not self._settlement.reaches(header):
            await self._news.wait()
        batch = self._settlement.adopt(header)
        self.history.count("batches_adopted")
        self.store.write(batch, self.batcher.position, None)
        await self.synced()

    async def _recover_posting(self) -> None:
        posting = self.store.posting
        if posting is None:
            return
        settled = await self._settled_batch(posting.header.number)
        if settled is None:
            self.history.count("batches_posted_again")
            await self._post(posting)
        else:
            require_same_root(posting.header, settled)
            self.store.settled()
            await self.synced()

    async def _settled_batch(self, number: int) -> BatchHeader | None:
        """Header of a batch that is proven settled, None where it is proven not to be."""
        while True:
            try:
                return await self._proven.header(number)
            except (TimeoutError, RemoteFault):
                self.history.count("proofs_asked_again")
            except Rejected:
                self.history.count("proofs_rejected")
            await self._ledger.drop()
            await self.sleep(RETRY_MS)

    async def _is_settled(self, posted: BatchHeader) -> bool:
        """Wait for the proof that a batch of ours is settled: headers name older roots."""
        for _ in range(PROOF_ATTEMPTS):
            found = await self._settled_batch(posted.number)
            if found is not None:
                if found != posted:
                    raise SafetyViolation(f"another batch {posted.number} is settled than ours")
                return True
            await self.sleep(RETRY_MS)
        self.history.count("settlements_unproven")
        return False

    async def _post(self, posting: PostBatch) -> None:
        number = posting.header.number
        if self.random.chance(self.lie_ppm):
            await self._try_lie(posting)
        while True:
            try:
                answer = await self._submit(posting)
                if answer.code == Code.OK and await self._is_settled(posting.header):
                    break
                if await self._settled_batch(number) is not None:
                    break
                self.history.count(f"batches_refused_{Code(answer.code).label}")
                self.kernel.trace("refused", number, answer.code, answer.text)
            except (TimeoutError, RemoteFault):
                self.history.count("posting_interrupted")
                await self._ledger.drop()
                if await self._settled_batch(number) is not None:
                    break
            await self.sleep(RETRY_MS)
        self.store.settled()
        await self.synced()
        self.kernel.trace("settled", self.name, number)
        self.history.count("batches_settled")

    async def _try_lie(self, posting: PostBatch) -> None:
        """Post what is not what was ordered; the ledger must refuse it."""
        name, lie = self.random.pick(self.lies)
        lied = lie(posting)
        try:
            answer = await self._submit(lied)
        except (TimeoutError, RemoteFault):
            await self._ledger.drop()
            return
        settled = await self._settled_batch(lied.header.number)
        # Where only the data is a lie the header tells nothing; the audit executes what settled.
        if settled == lied.header and lied.header != posting.header:
            raise Violation("settlement", f"the ledger settled a lying batch: {name}")
        if answer.code != Code.OK:
            self.history.count("lies_refused")
            self.history.count(f"lie_{name}_refused")

    async def _submit(self, posting: PostBatch) -> Committed:
        address = self.key.address
        balance = await self._ledger.ask(
            BalanceView, lambda request_id: BalanceRequest(request_id, address)
        )
        signed = sign_action(self.key, self.chain, balance.nonce, posting)
        return await self._ledger.ask(
            Committed,
            lambda request_id: SubmitTransaction(request_id, signed),
            POST_TIMEOUT_MS,
        )

    # --- queries

    def _withdrawal(self, client: str, request: WithdrawalRequest) -> Wire:
        del client
        found = self.store.withdrawal(request.number)
        posted = self.store.posting is not None
        return withdrawal_view(request, found, self.batcher.position.number if posted else None)
