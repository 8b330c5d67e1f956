"""A prover that lies: about what blocks did, about what was ordered, and in how it plays.

It tells a lie wherever there is occasion, never two at a time, and leaves the place of one that was
caught to other provers. What it said it remembers until it ends: started again it cannot defend it.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from itertools import islice
from typing import Any

import structlog
from msgspec.structs import replace

import prover.defence as honest_defence
import prover.process as honest
from cluster.byzantine import GARBAGE, HIDES_ORDER, LATE, NOTHING, OTHER_DATA, replaced
from cluster.byzantine_hiding import Hidden, HidingPlayer, effective, hide
from execution.process_inbox import InboxFollower
from net.service import StatusValues
from protocol.codec import encode
from protocol.dispute import STEPS_PER_BLOCK, Cut, DisputeLeaf, Prove
from protocol.errors import TrilemmaError
from protocol.events import BlockDiff
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import Committed
from protocol.settlement import BatchHeader, LedgerAction, PostBatch
from prover.batcher import Batch, Batcher
from prover.defence import Defence
from prover.game import Player, Trace
from prover.process import ProverProcess
from prover.process_contest import ProcessContest
from prover.settlement import Settlement
from prover.step_input import StepInput
from prover.tree import StateTree
from prover.window import coalesced
from sim.lying_engines import LIES, Changes, Given, Lie, LyingExecution, Told
from sim.lying_players import LyingPlayer
from sim.pipeline_lies import LIES as OTHER_POSTINGS
from store.config import ProcessConfig, parse_address

INBOX_CHECKPOINT_NAME = "checkpoint-byzantine.json"
LOOK_MS = 50
LATE_PARTS = 3
"""Answers that take as much as the clock has, together."""

_log = structlog.get_logger()


class Teller:
    """What the parts of a liar know of its lies."""

    def __init__(self, chain: Chain, lie: Lie, hides: bool, inbox: InboxFollower) -> None:
        self.chain = chain
        self.lie = lie
        self.hides = hides
        self.hidden: Hidden | None = None
        self.lies = hides or type(lie) is not Lie
        self.inbox = inbox
        self.told: dict[bytes, list[BlockDiff]] = {}
        """What was said of the blocks of a batch, by the digest of its header."""
        self.count = self.settled = 0
        """Lies that were made, and those that the ledger took."""
        self.most: int | None = None
        """So often it lies, None: whenever there is occasion."""
        self.open = 0
        """Batch of the lie that is neither removed nor final."""
        self.step = (0, 0)
        """Block and step at which the segment begins that is disputed."""
        self.proved_at = STEPS_PER_BLOCK
        """First step of a block that was left in a game on the newest lie."""
        self.largest_bytes = 0
        """Largest `Prove` so far."""
        self.caught: set[int] = set()
        """Batches that were lies, and were removed: others post them next."""

    def tell(self, batcher: Batcher, end: int) -> list[BlockDiff] | None:
        """The diffs of the next batch as the lie has them; None where it changes nothing."""
        if not self.lies or self.count == self.most:
            return None
        true = list(islice(batcher._diffs, end - batcher.position.block))
        try:
            false = self._executed(batcher, true)
        except TrilemmaError as error:
            _log.warning("the lie leads nowhere", error=str(error))
            return None
        return None if _net(false, batcher.tree) == _net(true, batcher.tree) else false

    def _executed(self, batcher: Batcher, true: list[BlockDiff]) -> list[BlockDiff]:
        leaves = dict(batcher.tree.iterate())
        engine = LyingExecution(self.lie, self.chain, leaves.items())
        cursor, false = batcher.position.inbox_cursor, list[BlockDiff]()
        hidden: Hidden | None = None
        for (block, _), diff in zip(batcher._blocks, true, strict=False):
            inbox = self.inbox.entries(cursor, diff.inbox_cursor)
            step, cursor = StepInput(block, inbox, diff.inbox_cursor, 0), diff.inbox_cursor
            if self.hides and hidden is None:
                hidden = hide(self.chain, leaves, step)
            if hidden is not None and hidden.height == diff.height:
                told = Told(hidden.net, diff.outbox, diff.actions)
            else:
                told = engine.apply(given_of(step))
            leaves = _after(leaves, told.changes)
            if hidden is not None and hidden.height == diff.height:
                engine = LyingExecution(self.lie, self.chain, leaves.items())
            changes = list(told.changes.items())
            false.append(replace(diff, changes=changes, outbox=told.outbox))
        self.hidden = hidden or self.hidden
        return false


def given_of(step: StepInput) -> Given:
    """An ordered block as engines that lie take it."""
    header = step.block.header
    batches = step.payload().batches
    return Given(header.height, header.time_ms, step.inbox, step.inbox_cursor, batches)


def _after(leaves: dict[bytes, bytes], changes: Changes) -> dict[bytes, bytes]:
    found = {**leaves, **changes}
    return {key: value for key, value in found.items() if value is not None}


def _net(diffs: list[BlockDiff], tree: StateTree) -> tuple[Changes, list[bytes]]:
    """What blocks change together of the state in the tree, and what they queue."""
    changes = coalesced(diff.changes for diff in diffs)
    return effective(changes, tree), [one for diff in diffs for one in diff.outbox]


class LyingSettlement(Settlement):
    """Builds what the teller tells; batches of others are judged by the truth."""

    teller: Teller

    def due_ms(self, now_ms: int) -> int | None:
        """As an honest one; never on top of an open lie, nor in the place of one just caught."""
        due_ms, teller, batcher = super().due_ms(now_ms), self.teller, self._batcher
        if due_ms is None or teller.open or batcher.position.number + 1 in teller.caught:
            return None
        if teller.lies and teller.inbox.count < batcher._diffs[-1].inbox_cursor:
            return now_ms + LOOK_MS
        return due_ms

    def build(self, now_ms: int) -> tuple[Batch, PostBatch]:
        """The next batch, with a lie in it where there is occasion."""
        batcher, teller = self._batcher, self.teller
        false = teller.tell(batcher, batcher.end_of_next())
        if false is None:
            return super().build(now_ms)
        true = list(islice(batcher._diffs, len(false)))
        for place, diff in enumerate(false):
            batcher._diffs[place] = diff
        built = super().build(now_ms)
        if batcher._last is not None:  # taken back, its blocks wait with what they really did
            batcher._last = replace(batcher._last, diffs=true)
        header = built[0].header
        teller.told[header.digest()] = false
        teller.count, teller.open = teller.count + 1, header.number
        teller.proved_at = STEPS_PER_BLOCK
        _log.critical("LYING in a batch", number=header.number)
        return built


class LyingContest(ProcessContest):
    """Has the diffs of its lies at hand."""

    teller: Teller

    async def diffs(self, header: BatchHeader) -> list[BlockDiff]:
        """What was said of a batch's blocks."""
        told = self.teller.told.get(header.digest())
        return await super().diffs(header) if told is None else told


class LyingDefence(Defence):
    """Plays by its lie."""

    teller: Teller

    def reply(self, *arguments: Any, **named: Any) -> Any:
        """The next move, as an honest one's; the states inside of blocks are those of the lie."""
        teller, header = self.teller, arguments[0]
        for game in (one for one in arguments if isinstance(one, DisputeLeaf)):
            teller.step = divmod(game.low, STEPS_PER_BLOCK)

        def player(chain: Chain, trace: Trace, *more: Any) -> Player:
            hidden = teller.hidden
            if hidden and header.first_block <= hidden.height <= header.last_block:
                return HidingPlayer(chain, trace, header, hidden)
            return LyingPlayer(chain, trace, teller.lie, *more)

        with replaced(honest_defence, Player=player):
            return super().reply(*arguments, **named)


class LyingProver(ProverProcess):
    """A prover with a lie, a manner to play, or both."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> None:
        parts = {
            "Settlement": LyingSettlement,
            "ProcessContest": LyingContest,
            "Defence": LyingDefence,
        }
        with replaced(honest, **parts):
            super().__init__(config, chain, key)
        told = {name.partition(":")[0]: name.partition(":")[2] for name in names}
        lies = [LIES[name](key.address) for name in told if name in LIES]
        self._names = told
        self._inbox = InboxFollower(
            chain, [parse_address(one) for one in config.validators], config.name,
            lambda *_: self._news.set(), config.data / INBOX_CHECKPOINT_NAME, needed=None,
        )  # fmt: skip
        lie = lies[0] if lies else Lie()
        self._teller = Teller(chain, lie, HIDES_ORDER in told, self._inbox)
        lying: list[Any] = [self._settlement, self._contest, self._defending._defence]
        for part in lying:
            part.teller = self._teller
        times = [int(count) for count in told.values() if count]
        self._teller.most = times[0] if times else None
        self._refused: dict[str, int] = {}
        self._answers = 0
        self._tries = 0

    def _defend(self) -> list[asyncio.Future[None]]:
        tasks = [] if NOTHING in self._names else super()._defend()
        if self._teller.lies:
            tasks.append(asyncio.ensure_future(self._inbox.run()))
        return tasks

    # --- what leaves it

    async def submit(self, posting: PostBatch) -> Committed:
        """Post a batch, or in its place one of other data, one kind after the other."""
        if OTHER_DATA not in self._names:
            return await super().submit(posting)
        name, lie = OTHER_POSTINGS[self._tries % len(OTHER_POSTINGS)]
        self._tries += 1
        self._teller.count += 1
        answer = await super().submit(lie(posting))
        self._refused[name] = answer.code
        return answer

    async def send(self, action: LedgerAction) -> Committed:
        """Send what the manner makes of a move."""
        if not isinstance(action, PostBatch):
            self._answers += 1
            if LATE in self._names:
                clock_ms = self._chain.genesis.settlement.clock_ms
                await asyncio.sleep(clock_ms / LATE_PARTS / 1_000)
            if GARBAGE in self._names:
                action = garbage(action, self._answers)
            teller, size = self._teller, len(encode(action))
            kind, (block, step) = type(action).__name__, teller.step
            if isinstance(action, Prove):
                teller.largest_bytes = max(teller.largest_bytes, size)
                teller.proved_at = min(teller.proved_at, step)
            _log.info("a liar moves", move=kind, bytes=size, block=block, step=step)
        return await super().send(action)

    # --- what becomes of it

    def tell(self, what: str, number: int, code: int = 0, text: str = "") -> None:
        """Keep in mind which lies were caught."""
        super().tell(what, number, code, text)
        teller = self._teller
        if what == "settled" and number == teller.open:
            _log.critical("the lie is SETTLED", number=number)
            teller.settled += 1
        if what == "taken_back" and teller.open and number <= teller.open:
            if teller.settled < teller.count:  # somebody else was faster
                teller.count -= 1
            else:
                _log.critical("the lie was CAUGHT", number=teller.open)
                teller.caught.add(teller.open)
            teller.open = 0

    def _status(self) -> StatusValues:
        teller = self._teller
        if teller.open and teller.open <= self._poster.final_batch:
            teller.open = 0
        return {
            **super()._status(),
            "byzantine": self._config.byzantine,
            "lies_told": teller.settled,
            "lies_caught": len(teller.caught),
            "lie_open": teller.open,
            "lie_at_step": teller.proved_at,
            "largest_proof_bytes": teller.largest_bytes,
            "lies_refused": " ".join(f"{name}={code}" for name, code in self._refused.items()),
        }


def garbage(action: LedgerAction, salt: int) -> LedgerAction:
    """A move of the same form that means nothing."""
    if isinstance(action, Cut):
        roots = [sha256(b"%d %d" % (salt, place)).digest() for place in range(len(action.roots))]
        return replace(action, roots=roots)
    if isinstance(action, Prove):
        return replace(action, witness=sha256(b"%d" % salt).digest())
    return action


def make(config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> LyingProver:
    """A prover that lies."""
    return LyingProver(config, chain, key, names)
