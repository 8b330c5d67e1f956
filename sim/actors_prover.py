"""The prover of the simulator: what `prover.process` does, on virtual disk and network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
    LedgerAction,
    PostBatch,
    decode_outbox_entry,
    sign_action,
)
from prover.batcher import Batch, Batcher, Position
from prover.contest import Defending
from prover.defence import Defence
from prover.posting import Poster, Standing
from prover.process_settled import SettledBatches
from prover.settlement import Settlement, genesis, make_batcher, place_of, withdrawal_view
from prover.tree import StateTree
from sim.actors_contest import SimContest
from sim.actors_followers import LogFollower, Upstream
from sim.actors_keys import SimKey
from sim.actors_process import Process, Setting, StreamReader
from sim.actors_tasks import Promise, Pulse
from sim.checkers import Violation
from sim.disk import DAMAGED, Disk

BATCH_INTERVAL_MS = 500
IDLE_INTERVAL_MS = 3_000
RETRY_MS = 100
POST_TIMEOUT_MS = 2_000
WAITING_BYTES = 128 << 10
"""Far less than real provers have, so that blocks and diffs often have to wait elsewhere."""

BATCHES = "batches"

Lie = Callable[[PostBatch], PostBatch]
T = TypeVar("T")


class Written(msgspec.Struct, frozen=True):
    """A transaction of the prover's database: a batch built, or (None) the last one settled."""

    batch: Batch | None
    position: Position
    posting: PostBatch | None


class Rewound(msgspec.Struct, frozen=True):
    """Another one: all batches above `number` taken back."""

    number: int


class KeptFinal(msgspec.Struct, frozen=True):
    """And another: batches up to `number` are final, as of a ledger height."""

    number: int
    ledger_height: int


class ProverRecords:
    """What `prover.store.ProverStore` keeps: one record for each of its transactions."""

    def __init__(self, disk: Disk, genesis: Position, leaves: dict[bytes, bytes]) -> None:
        self._disk = disk
        self.position = genesis
        self.posting: PostBatch | None = None
        self.leaves = leaves
        self.outbox: dict[int, list[bytes]] = {}
        self.ledger_height = 0
        self._batch_of: dict[int, int] = {}
        self._removable: dict[int, Batch] = {}
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

    def header(self, number: int) -> BatchHeader | None:
        """Header of a batch that can be taken back."""
        batch = self._removable.get(number)
        return None if batch is None else batch.header

    def rewind(self, number: int) -> tuple[Position, dict[bytes, bytes | None]]:
        """Take back all batches above `number`."""
        position, undo = self._way_back(number)
        self._add(Rewound(number))
        return position, undo

    def undo_to(self, number: int) -> dict[bytes, bytes | None]:
        """What leads the leaves back to the state after batch `number`."""
        return self._way_back(number)[1]

    def _way_back(self, number: int) -> tuple[Position, dict[bytes, bytes | None]]:
        undo: dict[bytes, bytes | None] = {}
        position = self.position
        while position.number > number:
            batch = self._removable.get(position.number)
            if batch is None or batch.undo is None:
                raise SafetyViolation(f"batch {position.number} cannot be taken back any more")
            undo.update(batch.undo)
            position = batch.before
        return position, undo

    def keep_final(self, number: int, ledger_height: int) -> None:
        """Batches up to `number` need no way back."""
        self._add(KeptFinal(number, ledger_height))

    def _add(self, record: Written | Rewound | KeptFinal) -> None:
        self._disk.append(BATCHES, record)
        self._take(record)

    def _take(self, record: Written | Rewound | KeptFinal) -> None:
        if isinstance(record, KeptFinal):
            self.ledger_height = record.ledger_height
            kept = {n: one for n, one in self._removable.items() if n > record.number}
            self._removable = kept
        elif isinstance(record, Rewound):
            self._take_back(record.number)
        else:
            self._take_written(record)

    def _take_written(self, record: Written) -> None:
        self.position, self.posting = record.position, record.posting
        batch = record.batch
        if batch is None:
            return
        self._change(batch.changes)
        number = record.position.number
        if batch.undo is not None:
            self._removable[number] = batch
        if batch.outbox:
            self.outbox[number] = batch.outbox
            for raw in batch.outbox:
                self._batch_of[decode_outbox_entry(raw).number] = number

    def _take_back(self, number: int) -> None:
        while self.position.number > number:
            batch = self._removable.pop(self.position.number)
            self._change(batch.undo or {})
            for raw in self.outbox.pop(self.position.number, ()):
                del self._batch_of[decode_outbox_entry(raw).number]
            self.position = batch.before
        self.posting = None

    def _change(self, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.leaves.pop(key, None)
            else:
                self.leaves[key] = value

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
        self.poster: Poster
        self.store: ProverRecords

    def start(self) -> None:
        """Take up what is on disk."""
        chain = self.chain
        origin, tree = genesis(chain)
        self.store = ProverRecords(self.disks["batches"], origin, dict(tree.iterate()))
        position = self.store.position
        tree = StateTree(sorted(self.store.leaves.items()))
        self.batcher = make_batcher(chain, self.key.public, tree, position, WAITING_BYTES)
        self._ledger = Upstream(self, self._validators)
        self._proven = SettledBatches(
            chain, self._ledger, None, self.now_ms, self.store.ledger_height
        )
        self._news = Pulse()
        self._room = Pulse()
        self._lied_about = 0
        self._sending: Promise[None] | None = None
        settlement = Settlement(
            self.batcher, BATCH_INTERVAL_MS, IDLE_INTERVAL_MS, *place_of(chain, self.key.public)
        )
        self.poster = Poster(_Host(self), self.store, self.batcher, settlement)
        self._log = LogFollower(self, self._sequencers, position.block, position.block_id)
        self._log.start()
        self._diffs = StreamReader(self, self._executions, self._request_diffs, self._take_diff)
        self._diffs.start()
        self.on(WithdrawalRequest, self._withdrawal)
        self.spawn(self._follow_log())
        self.spawn(self.poster.run(self.store.posting))
        self._defend()

    # --- inputs

    async def _follow_log(self) -> None:
        while True:
            while not self._log.chunks:
                await self._log.grown.wait()
            self.batcher.add_chunk(self._log.chunks.popleft())
            self._news.set()
            while not self.batcher.takes_blocks():
                self.history.count("blocks_held_back")
                await self._room.wait()

    def _request_diffs(self, request_id: int) -> SubscribeDiffs:
        return SubscribeDiffs(request_id, self.batcher.next_diff)

    def _take_diff(self, message: Any) -> bool:
        if not isinstance(message, DiffPush):
            raise Rejected(Code.UNKNOWN_MESSAGE, "expected state diffs")
        diff = decode_block_diff(message.diff)
        if diff.height != self.batcher.next_diff:
            return False
        if not self.batcher.takes_diffs():
            self.history.count("diffs_held_back")
            return False
        self.batcher.add_diff(diff)
        self._news.set()
        return True

    # --- settlement

    async def standing(self, numbers: Sequence[int]) -> Standing:
        """The ledger as a validator proves it."""
        while True:
            try:
                return await self._proven.standing(numbers)
            except (TimeoutError, RemoteFault):
                self.history.count("proofs_asked_again")
            except Rejected:
                self.history.count("proofs_rejected")
            await self._ledger.drop()
            await self.sleep(RETRY_MS)

    async def submit(self, posting: PostBatch) -> Committed:
        """Send a batch to the ledger, at times behind one that is a lie."""
        number = posting.header.number
        if number != self._lied_about:
            self._lied_about = number
            if self.random.chance(self.lie_ppm):
                await self._try_lie(posting)
        try:
            return await self.transact(posting)
        except (TimeoutError, RemoteFault):
            await self._ledger.drop()
            raise

    async def _try_lie(self, posting: PostBatch) -> None:
        """Post what is not what was ordered; the ledger must refuse it."""
        name, lie = self.random.pick(self.lies)
        lied = lie(posting)
        try:
            answer = await self.transact(lied)
        except (TimeoutError, RemoteFault):
            await self._ledger.drop()
            return
        number = lied.header.number
        settled = (await self.standing([number])).batches[number]
        # Where only the data is a lie the header tells nothing; the audit executes what settled.
        if settled == lied.header and lied.header != posting.header:
            raise Violation("settlement", f"the ledger settled a lying batch: {name}")
        if answer.code != Code.OK:
            self.history.count("lies_refused")
            self.history.count(f"lie_{name}_refused")

    async def transact(self, action: LedgerAction) -> Committed:
        """Send a ledger transaction; one after the other, as each takes the next nonce."""
        while self._sending is not None:
            await self._sending
        self._sending = Promise()
        try:
            return await self._send(action)
        finally:
            done, self._sending = self._sending, None
            done.resolve(None)

    async def _send(self, action: LedgerAction) -> Committed:
        address = self.key.address
        balance = await self._ledger.ask(
            BalanceView, lambda request_id: BalanceRequest(request_id, address)
        )
        signed = sign_action(self.key, self.chain, balance.nonce, action)
        return await self._ledger.ask(
            Committed,
            lambda request_id: SubmitTransaction(request_id, signed),
            POST_TIMEOUT_MS,
        )

    def _defend(self) -> None:
        """Answer disputes, where the chain leaves time for any."""
        rules = self.chain.genesis.settlement
        if rules.window_ms:
            contest = SimContest(
                self, self._validators, self.transact, self._executions, self.key.public
            )
            defence = Defence(self.chain, self.batcher.tree, self.store)
            self.spawn(Defending(contest, defence, self.chain).run())

    async def news(self, timeout_ms: int | None) -> None:
        """Return when blocks or diffs came, or after a while."""
        self._room.set()
        if timeout_ms is None:
            await self._news.wait()
        else:
            await self.first_of(self._news, timeout_ms)

    def timed(self, build: Callable[[], T]) -> T:
        """Run what builds a batch."""
        built = build()
        self._room.set()
        return built

    def moved(self) -> None:
        """Blocks and diffs must come again from an earlier position on."""
        self._room.set()
        position = self.batcher.position
        self._log.go_back(position.block, position.block_id)

    def tell(self, what: str, number: int, code: int, text: str) -> None:
        """Count what happened to a batch."""
        if what == "refused":
            what = f"refused_{Code(code).label}"
            self.kernel.trace("refused", number, code, text)
        elif what == "settled":
            self.kernel.trace("settled", self.name, number)
        self.history.count(f"batches_{what}")

    # --- queries

    def _withdrawal(self, client: str, request: WithdrawalRequest) -> Wire:
        del client
        found = self.store.withdrawal(request.number)
        posting = self.store.posting
        return withdrawal_view(request, found, None if posting is None else posting.header.number)


class _Host:
    """What the prover's work needs of its process."""

    def __init__(self, process: SimProver) -> None:
        self._process = process
        self.now_ms = process.now_ms
        self.standing = process.standing
        self.submit = process.submit
        self.news = process.news
        self.moved = process.moved
        self.timed = process.timed

    async def pause(self, pause_ms: int) -> None:
        await self._process.sleep(max(pause_ms, RETRY_MS))

    async def synced(self) -> None:
        await self._process.synced()

    def tell(self, what: str, number: int, code: int = 0, text: str = "") -> None:
        self._process.tell(what, number, code, text)

    def count(self, batch: Batch | None, posting: PostBatch | None) -> None:
        del batch, posting
