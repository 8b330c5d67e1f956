"""The prover's work: build batches, have them settled, follow those of others, and go back where
the ledger removed one.

The same coroutines run in the prover's process and in the simulator; `PostingHost` is what differs
between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from protocol.errors import Code, ConfigError, Rejected, RemoteFault, SafetyViolation
from protocol.ledger_leaves import FinalLeaf
from protocol.messages import Committed
from protocol.settlement import BatchHeader, PostBatch
from prover.batcher import Batch, Batcher, Position
from prover.settlement import Settlement, same_batch

T = TypeVar("T")

WATCH_MS = 1_000
"""So often the ledger is looked at while something there can still change without us."""

SIGHTINGS = 100
"""Looks at the ledger before a batch that was taken counts as lost: headers name older roots."""

LOOK_MS = 50
RETRY_MS = 250
"""Between two such looks, and between two attempts to post."""


class Standing(msgspec.Struct, frozen=True):
    """The ledger as it was proven at a height: what is final, and batches by number (None: not
    settled)."""

    height: int
    final: FinalLeaf
    batches: Mapping[int, BatchHeader | None]


class PostingStore(Protocol):
    """What is kept of batches; `prover.store.ProverStore` says more."""

    def write(self, batch: Batch, position: Position, posting: PostBatch | None) -> None: ...
    def settled(self) -> None: ...
    def header(self, number: int) -> BatchHeader | None: ...
    def rewind(self, number: int) -> tuple[Position, dict[bytes, bytes | None]]: ...
    def keep_final(self, number: int, ledger_height: int) -> None: ...


class PostingHost(Protocol):
    """The surroundings of a `Poster`."""

    def now_ms(self) -> int:
        """A clock that only goes forward."""

    async def standing(self, numbers: Sequence[int]) -> Standing:
        """The ledger as somebody proves it; asks until it is answered."""

    async def submit(self, posting: PostBatch) -> Committed:
        """Send a batch to the ledger; raises what asking raises."""

    async def news(self, timeout_ms: int | None) -> None:
        """Return when blocks or diffs came, or after a while (None: never)."""

    async def pause(self, pause_ms: int) -> None:
        """Wait."""

    async def synced(self) -> None:
        """Return when what the store was told is durable."""

    def timed(self, build: Callable[[], T]) -> T:
        """Run what builds a batch, and count the time where there is a clock for that."""

    def moved(self) -> None:
        """The position went back: blocks and diffs must come again from there on."""

    def tell(self, what: str, number: int, code: int = 0, text: str = "") -> None:
        """Something happened to a batch, for counters, the status and logs."""

    def count(self, batch: Batch | None, posting: PostBatch | None) -> None:
        """A batch of these is settled."""


class Poster:
    """Settles batch after batch, for ever.

    `final_batch`: newest batch that is final; `wrong_batch`: settled batch of somebody else that
    our execution contradicts, for whose removal we wait (0: none); `taken_back`: batches that were
    built or followed here and undone again.
    """

    def __init__(
        self, host: PostingHost, store: PostingStore, batcher: Batcher, settlement: Settlement
    ) -> None:
        self._host = host
        self._store = store
        self._batcher = batcher
        self._settlement = settlement
        self._wrong: BatchHeader | None = None
        self._kept = 0
        self.final_batch = 0
        self.taken_back = 0

    @property
    def wrong_batch(self) -> int:
        """Number of the settled batch that is wrong, 0 for none."""
        return 0 if self._wrong is None else self._wrong.number

    async def run(self, posting: PostBatch | None) -> None:
        """Begin with what was built before a restart and may not be settled, if anything."""
        if posting is not None:
            await self._post(posting, None)
        while True:
            await self._turn()

    async def _turn(self) -> None:
        number = self._batcher.position.number
        standing = await self._look([number, number + 1])
        if not self._stands(number, standing):
            await self._go_back(number, standing)
            return
        settled = standing.batches[number + 1]
        if settled is not None:
            await self._follow(settled, standing.final)
            return
        self._wrong = None
        if not await self._until_due(number):
            return
        if self._settlement.shared:
            # Somebody else may have been faster.
            standing = await self._look([number, number + 1])
            if standing.batches[number + 1] is not None or not self._stands(number, standing):
                return
        now_ms = self._host.now_ms()
        batch, posting = self._host.timed(lambda: self._settlement.build(now_ms))
        self._store.write(batch, self._batcher.position, posting)
        await self._host.synced()
        await self._post(posting, batch)

    async def _until_due(self, number: int) -> bool:
        """Wait until a batch is worth posting; False where it is time to look at the ledger."""
        host = self._host
        began_ms = host.now_ms()
        watched = self._settlement.shared or number > self.final_batch
        while True:
            now_ms = host.now_ms()
            due_ms = self._settlement.due_ms(now_ms)
            if due_ms is not None and due_ms <= now_ms:
                return True
            if watched and now_ms - began_ms >= WATCH_MS:
                return False
            waits = [] if due_ms is None else [due_ms - now_ms]
            if watched:
                waits.append(began_ms + WATCH_MS - now_ms)
            await host.news(min(waits, default=None))

    # --- the ledger

    async def _look(self, numbers: list[int]) -> Standing:
        standing = await self._host.standing([one for one in numbers if one > 0])
        final = standing.final
        self.final_batch = max(self.final_batch, final.batch)
        if self._kept < final.batch <= self._batcher.position.number:
            ours = self._store.header(final.batch)
            place = (final.last_block, final.state_root)
            if ours is not None and (ours.last_block, ours.post_state_root) == place:
                self._store.keep_final(final.batch, standing.height)
                self._kept = final.batch
        self._require_remembered(standing)
        return standing

    def _require_remembered(self, standing: Standing) -> None:
        """Raise `ConfigError` where the ledger has forgotten (`keep_batches`) a batch that tells
        whether ours stand, or that comes next: it is not missing because it was removed."""
        for number, settled in standing.batches.items():
            if settled is not None or number > standing.final.batch:
                continue
            ahead = number > self._batcher.position.number
            told = standing.batches.get(number + 1) is not None
            if ahead or (not told and self._store.header(number) is not None):
                raise ConfigError(
                    f"the ledger has forgotten batch {number}, which is final and is needed here; "
                    "restore a newer backup of this prover, or begin with the prover.sqlite of "
                    "another one that has kept up and is stopped"
                )

    def _stands(self, number: int, standing: Standing) -> bool:
        """Whether the ledger has the batch of this number as we have it."""
        ours = self._store.header(number)
        if ours is None:
            return True  # genesis, or final
        settled = standing.batches[number]
        if settled is not None:
            return same_batch(ours, settled)
        if number > standing.final.batch:
            return False
        # It is forgotten; the one that follows on it names the same state.
        after = standing.batches.get(number + 1)
        place = (ours.last_block + 1, ours.post_state_root)
        return after is not None and (after.first_block, after.pre_state_root) == place

    # --- batches that the ledger has already

    async def _follow(self, settled: BatchHeader, final: FinalLeaf) -> None:
        """Follow a settled batch: somebody else's, or ours from before a loss of data."""
        host, number = self._host, settled.number
        if settled == self._wrong:
            if final.batch >= number:
                raise SafetyViolation(f"batch {number} is final, and contradicts our execution")
            await host.pause(WATCH_MS)
            return
        if not self._settlement.reaches(settled):
            await host.news(WATCH_MS)
            return
        batch = host.timed(lambda: self._settlement.follow(settled))
        if batch is None:
            self._wrong = settled
            host.tell("wrong", number)
            return
        self._wrong = None
        # What is final needs no way back: many batches, where a prover without memory catches up.
        kept = msgspec.structs.replace(batch, undo=None) if number <= final.batch else batch
        self._store.write(kept, self._batcher.position, None)
        await host.synced()
        host.tell("followed", number)
        host.count(batch, None)

    async def _go_back(self, number: int, standing: Standing) -> None:
        """Batches of ours were removed, or replaced: back to the newest that stands."""
        while not self._stands(number, standing):
            number -= 1
            standing = await self._look([number])
        await self._undo_to(number)

    async def _undo_to(self, number: int) -> None:
        batcher = self._batcher
        count = batcher.position.number - number
        position, undo = self._store.rewind(number)
        if count == 1 and batcher.can_take_back:
            batcher.take_back()
        else:
            batcher.rewind(position, undo)
            self._host.moved()
        self.taken_back += count
        await self._host.synced()
        self._host.tell("taken_back", number + 1)

    # --- batches of our own

    async def _post(self, posting: PostBatch, batch: Batch | None) -> None:
        """Post a batch until it is settled, or cannot be any more and is taken back."""
        host, header = self._host, posting.header
        if batch is None:
            settled = (await self._look([header.number])).batches[header.number]
            if settled is None:
                host.tell("posted_again", header.number)
            elif await self._decided(header, batch, posting, 1):
                return
        while True:
            taken = False
            try:
                answer = await host.submit(posting)
                taken = answer.code == Code.OK
                if not taken:
                    host.tell("refused", header.number, answer.code, answer.text)
            except RemoteFault as fault:
                # Such as no money for the fee: nothing settles until somebody does something.
                host.tell("refused", header.number, fault.code, str(fault))
            except (ConnectionError, TimeoutError, Rejected) as error:
                host.tell("interrupted", header.number, text=str(error))
            if await self._decided(header, batch, posting, SIGHTINGS if taken else 1):
                return
            await host.pause(RETRY_MS)

    async def _decided(
        self, header: BatchHeader, batch: Batch | None, posting: PostBatch, looks: int
    ) -> bool:
        """Whether the ledger says what became of a batch of ours."""
        number = header.number
        for look in range(looks):
            if look:
                await self._host.pause(LOOK_MS)
            standing = await self._look([number - 1, number])
            settled = standing.batches[number]
            if settled is not None and same_batch(header, settled):
                self._store.settled()
                await self._host.synced()
                self._host.tell("settled" if settled == header else "followed", number)
                self._host.count(batch, posting)
                return True
            if settled is not None or not self._stands(number - 1, standing):
                await self._undo_to(number - 1)
                return True
        if looks > 1:
            self._host.tell("unproven", number)
        return False
