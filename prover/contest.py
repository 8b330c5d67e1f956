"""The work of a challenger, and of a prover who defends its batches, beside their machines.

The same coroutines run in the processes and in the simulator; `ContestHost` is what differs between
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from execution.inbox import VerifiedInbox
from protocol.dispute import (
    DEFENDER,
    DisputeLeaf,
    Prove,
    decode_dispute,
    decode_parts,
    in_parts,
)
from protocol.errors import Code, Rejected, RemoteFault
from protocol.events import BlockDiff
from protocol.genesis import Chain
from protocol.ledger_leaves import (
    SettledBatch,
    batch_key,
    decode_batch,
    decode_placed,
    dispute_key,
    entry_key,
    parts_key,
)
from protocol.messages import Committed
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, InboxEntry, LedgerAction
from prover.challenger import Challenger
from prover.defence import Defence, Material

T = TypeVar("T")

POLL_MS = 250
"""Between two looks at the ledger."""

LOOKS = 4
"""Looks at the ledger through the same validator: one alone could show an old state for ever."""

RETRY_MS = 500
REFUSED_MS = 1_000
"""After a move that the ledger refused, which has cost its fee."""

ENTRIES_AT_ONCE = 100
"""Inbox entries that are proven together."""

BATCHES_KEPT = 2
"""Disputed batches whose blocks and diffs a prover keeps at hand."""


class Leaves(Protocol):
    """Proven leaves of the ledger at a height, as `consensus.light_proofs.ProvenLeaves`."""

    @property
    def height(self) -> int: ...
    def raw(self, key: bytes) -> bytes | None: ...


class CoveredInbox(Protocol):
    """A verified inbox that can be waited for."""

    async def wait_covered(self, height: int) -> None:
        """Wait until the base layer is covered up to a height."""


class ContestHost(Protocol):
    """The surroundings. Everything that asks raises what asking raises."""

    async def leaves(self, keys: Sequence[bytes]) -> Leaves:
        """Ledger leaves as somebody proves them."""

    async def batch_blocks(self, settled: SettledBatch) -> list[OrderedBlock]:
        """The ordered blocks in the data of a settled batch, as somebody tells them."""

    async def shown(self, game: DisputeLeaf) -> bytes:
        """The witness that a game's `shown` and `shown_parts` name, out of the ledger's blocks."""

    async def send(self, action: LedgerAction) -> Committed:
        """Send a ledger transaction of ours and wait until it is committed."""

    async def pause(self, pause_ms: int) -> None:
        """Wait."""

    async def apart(self, work: Callable[[], T]) -> T:
        """Do long work without keeping the process from its other tasks, where it has any."""

    async def drop(self) -> None:
        """Ask somebody else next time."""

    def tell(self, what: str, number: int, text: str = "") -> None:
        """Something happened to a batch, for counters, the status and logs."""


class DefenceHost(ContestHost, Protocol):
    """What a prover needs besides."""

    async def games(self) -> list[tuple[int, bytes]]:
        """Batch and challenger of games that wait for us, as somebody tells."""

    async def diffs(self, header: BatchHeader) -> list[BlockDiff]:
        """The state diffs of a batch's blocks, as execution gave them."""


FAULTS = (ConnectionError, TimeoutError, EOFError, RemoteFault, Rejected)
"""What goes wrong with others, and may go right next time."""


async def send_move(host: ContestHost, game_key: bytes, action: LedgerAction) -> Committed:
    """Send a move in the game with this ledger key, a large witness in parts: those that the ledger
    has not got yet. Returns the answer to the last thing sent, the first that is refused."""
    if not isinstance(action, Prove):
        return await host.send(action)
    parts, last = in_parts(action)
    begun = 0
    if parts:
        key = parts_key(game_key)
        raw = (await host.leaves([key])).raw(key)
        known = None if raw is None else decode_parts(raw)
        if known is not None and known.whole == last.whole:
            begun = len(known.places)
    for part in parts[begun:]:
        answer = await host.send(part)
        if answer.code != Code.OK:
            return answer
    return await host.send(last)


class Challenging:
    """Looks at every settled batch, for ever."""

    def __init__(
        self, host: ContestHost, machine: Challenger, inbox: VerifiedInbox, covered: CoveredInbox
    ) -> None:
        self._host = host
        self._machine = machine
        self._inbox = inbox
        self._covered = covered
        self._least_height = 0
        self._looks = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                again = await self._turn()
            except FAULTS as error:
                self._host.tell("interrupted", self._machine.next, str(error))
                await self._host.drop()
                await self._host.pause(RETRY_MS)
                continue
            self._looks += 1
            if self._looks % LOOKS == 0:
                await self._host.drop()
            if not again:
                await self._host.pause(POLL_MS)

    async def _turn(self) -> bool:
        """One look at the ledger; whether there may be more to do at once."""
        host, machine = self._host, self._machine
        leaves = await host.leaves(machine.keys())
        if leaves.height < self._least_height:
            await host.drop()
            return False
        self._least_height = leaves.height
        lost = machine.lost
        machine.look(leaves.raw)
        if machine.lost and not lost:
            host.tell("lost", machine.next, machine.lost)
        settled = machine.wants
        if settled is not None:
            await self._check(settled)
            return True
        asked = machine.answers
        before = b"" if asked is None else await host.shown(asked)
        action = await host.apart(lambda: machine.move(before))
        if action is None:
            return False
        answer = await send_move(host, machine.keys()[-1], action)
        # Headers name the state some blocks below: our own move must be seen before the next one.
        self._least_height = max(self._least_height, answer.height)
        name = type(action).__name__
        if answer.code == Code.OK:
            host.tell("moved", action.batch, name)
        else:
            host.tell("refused", action.batch, f"{name}: {answer.text}")
            await host.pause(REFUSED_MS)
        return False

    async def _check(self, settled: SettledBatch) -> None:
        host, machine = self._host, self._machine
        blocks = await host.batch_blocks(settled)
        height = machine.inbox_height(blocks)
        await self._covered.wait_covered(height)
        await host.apart(lambda: machine.check(blocks, self._inbox))
        number = settled.header.number
        if machine.wrong:
            host.tell("wrong", number, machine.wrong)
        else:
            host.tell("checked", number)


class Defending:
    """Answers in every game on the batches of one prover, for ever."""

    def __init__(self, host: DefenceHost, defence: Defence, chain: Chain) -> None:
        self._host = host
        self._defence = defence
        self._shard = chain.genesis.shard
        self._material: dict[bytes, Material] = {}
        self._answered: dict[tuple[int, bytes], int] = {}
        self._looks = 0
        self.moves = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                games = await self._host.games()
            except FAULTS as error:
                await self._interrupted(0, error)
                continue
            for number, challenger in games:
                try:
                    await self._answer(number, challenger)
                except FAULTS as error:
                    # What cannot be answered must not cost us the games behind it.
                    await self._interrupted(number, error)
            self._answered = {one: height for one, height in self._answered.items() if one in games}
            self._looks += 1
            if self._looks % LOOKS == 0:
                await self._host.drop()
            await self._host.pause(POLL_MS)

    async def _interrupted(self, number: int, error: Exception) -> None:
        self._host.tell("interrupted", number, str(error))
        await self._host.drop()
        await self._host.pause(RETRY_MS)

    async def _answer(self, number: int, challenger: bytes) -> None:
        host = self._host
        keys = [batch_key(self._shard, number), dispute_key(self._shard, number, challenger)]
        leaves = await host.leaves(keys)
        raw_batch, raw_game = (leaves.raw(key) for key in keys)
        if raw_batch is None or raw_game is None:
            return
        if leaves.height < self._answered.get((number, challenger), 0):
            return
        settled, game = decode_batch(raw_batch), decode_dispute(raw_game)
        header = settled.header
        if game.turn != DEFENDER or not self._defence.owns(header):
            return
        material = await self._fetch(settled)
        before = await host.shown(game) if game.shown else b""
        if not self._defence.owns(header):
            return
        try:
            move = self._defence.reply(header, material, challenger, game, before)
        except Rejected:
            self._material.pop(header.digest(), None)
            raise
        if move is None:
            return
        answer = await send_move(host, keys[-1], move)
        self._answered[number, challenger] = answer.height
        if answer.code == Code.OK:
            self.moves += 1
        what = "defended" if answer.code == Code.OK else "refused"
        host.tell(what, number, f"{type(move).__name__}: {answer.text}")

    async def _fetch(self, settled: SettledBatch) -> Material:
        digest = settled.header.digest()
        found = self._material.get(digest)
        if found is None:
            first = self._defence.cursor(settled.header)
            blocks = await self._host.batch_blocks(settled)
            diffs = await self._host.diffs(settled.header)
            inbox = await self._entries(first, settled.header.inbox_cursor)
            found = Material(blocks, diffs, inbox)
            while len(self._material) >= BATCHES_KEPT:
                del self._material[next(iter(self._material))]
            self._material[digest] = found
        return found

    async def _entries(self, first: int, end: int) -> list[InboxEntry]:
        """Inbox entries `first` to `end` - 1, which the ledger keeps while a batch that takes them
        in is open."""
        found: list[InboxEntry] = []
        for begin in range(first, end, ENTRIES_AT_ONCE):
            numbers = range(begin, min(begin + ENTRIES_AT_ONCE, end))
            keys = [entry_key(self._shard, number) for number in numbers]
            leaves = await self._host.leaves(keys)
            for number, key in zip(numbers, keys, strict=True):
                raw = leaves.raw(key)
                if raw is None:
                    raise Rejected(Code.NOT_FOUND, f"inbox entry {number} is not there")
                found.append(decode_placed(raw).entry)
        return found
