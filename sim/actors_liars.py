"""Provers who settle lies and defend them, and challengers who dispute what is right or lose on
purpose; most of them know everything that anybody can know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from protocol.batch_data import pack_blocks
from protocol.chain import CommitCertificate
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    Choose,
    Cut,
    DisputeAction,
    DisputeLeaf,
    OpenDispute,
    Prove,
    cuts,
    decode_dispute,
)
from protocol.errors import Code, SafetyViolation
from protocol.ledger_leaves import (
    batch_key,
    decode_batch,
    decode_final,
    decode_shard,
    dispute_key,
    final_key,
    shard_key,
)
from protocol.messages import Committed
from protocol.settlement import BatchHeader, PostBatch
from prover.contest import FAULTS
from sim.actors_challenger import committed
from sim.actors_contest import SimContest
from sim.actors_ledger_client import LedgerClient
from sim.actors_prover import SimProver
from sim.lying_play import GaveUp, Lie, NoLie, StepLiar, tell_block, tell_step
from sim.lying_truth import Truth
from sim.random import SplitMix64

LIAR_PAUSE_MS = 400
LATE_PPM = 600_000
"""Share of its clock after which somebody who is late makes its first move."""

SPARED_PPM = 700_000
"""Of looks at a wrong batch, those after which a lying challenger leaves it alone."""

MANNERS = ("plays", "plays", "plays", "stubborn", "elsewhere", "late", "silent", "shaped")
"""How a lie that can be defended is defended: by its own play, to the last witness that it can
show, by true witnesses of another step, or as one that cannot be."""

BARE = ("silent", "garbage", "garbage", "shaped")
"""How a lie is defended of which its author knows nothing but the root."""


def any_root(random: SplitMix64) -> bytes:
    """32 bytes that are the root of nothing."""
    return b"".join(random.next().to_bytes(8, "big") for _ in range(4))


def any_proof(random: SplitMix64, number: int, challenger: bytes) -> Prove:
    """A witness of nothing."""
    return Prove(number, challenger, any_root(random), [], [], any_root(random), (0, 0), [])


def tell(truth: Truth, header: BatchHeader, random: SplitMix64) -> Lie:
    """Some lie about a batch that is right; raises `NoLie`."""
    kinds: list[Callable[[], Lie]] = [
        lambda: tell_block(truth, header, random),
        lambda: tell_block(truth, header, random),
        lambda: tell_step(truth, header, True, random),
        lambda: tell_step(truth, header, False, random),
    ]
    for kind in random.shuffled(kinds):
        try:
            return kind()
        except NoLie:
            continue
    raise NoLie


class LyingProver(SimProver):
    """Settles now and then a lie before the right batch, and defends it."""

    wrong_ppm = 0
    bare_ppm = 250_000
    """Of its lies, those whose root nothing leads to."""
    twice_ppm = 300_000
    """Of its lies, those that it splits into two batches, one upon the other."""
    stop_us = 0
    truth: Truth

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._told: dict[bytes, tuple[Lie | None, str]] = {}

    def start(self) -> None:
        """Take up what is on disk, as an honest one does."""
        super().start()
        self._last_wrong = 0
        self._moved: dict[tuple[int, bytes], int] = {}
        self.spawn(self._defend_lies())

    async def submit(self, posting: PostBatch) -> Committed:
        """Send a lie first, once for each batch; it stays until somebody disputes it."""
        number = posting.header.number
        lies = self.kernel.now_us < self.stop_us and number != self._last_wrong
        if not lies or not self.random.chance(self.wrong_ppm):
            return await super().submit(posting)
        self._last_wrong = number
        wrong, *others = self._wrong(posting)
        answer = await super().submit(wrong)
        if answer.code != Code.OK:
            self.history.count("wrong_batches_refused")
            return answer
        self.history.count("wrong_batches_posted")
        for other in others:
            if (await super().submit(other)).code == Code.OK:
                self.history.count("lies_on_lies")
        return answer

    def _wrong(self, posting: PostBatch) -> list[PostBatch]:
        """A lie, at times with another one that stands on it."""
        halves = self._halves(posting) if self.random.chance(self.twice_ppm) else []
        if not halves:
            return [self._lie_about(posting)]
        first, second = halves
        wrong = self._lie_about(first)
        known = wrong.header
        header = replace(
            second.header,
            pre_state_root=known.post_state_root,
            outbox_first=known.outbox_first + known.outbox_count,
            post_state_root=any_root(self.random),
        )
        self._told[header.digest()] = None, self.random.pick(BARE)
        return [wrong, replace(second, header=header)]

    def _lie_about(self, posting: PostBatch) -> PostBatch:
        header = posting.header
        if not self.random.chance(self.bare_ppm):
            try:
                lie = tell(self.truth, header, self.random)
            except (NoLie, LookupError):
                self.history.count("no_lie_found")
            else:
                manner = self.random.pick(MANNERS)
                _behave(lie, manner == "stubborn", manner == "elsewhere")
                self._told[lie.header.digest()] = lie, manner
                self.history.count(f"told_{lie.name}")
                return replace(posting, header=lie.header, outbox=lie.outbox)
        header = replace(header, post_state_root=any_root(self.random))
        self._told[header.digest()] = None, self.random.pick(BARE)
        self.history.count("told_any_root")
        return replace(posting, header=header)

    def _halves(self, posting: PostBatch) -> list[PostBatch]:
        """Two batches in the place of one, where a block between is certified."""
        parts, header = self.batcher._last, posting.header
        inside = range(header.first_block, header.last_block)
        ends = [] if parts is None else [one for one in parts.certificates if one in inside]
        if parts is None or not ends:
            return []
        end = self.random.pick(sorted(ends))
        first = self.truth.part(header, header.first_block, end)
        second = replace(
            self.truth.part(header, end + 1, header.last_block), number=header.number + 1
        )
        return [
            self._posting(posting, first, parts.certificates[end]),
            self._posting(posting, second, posting.certificate),
        ]

    def _posting(
        self, whole: PostBatch, header: BatchHeader, certificate: CommitCertificate
    ) -> PostBatch:
        begin, end = header.first_block, header.last_block
        blocks, outbox = self.truth.told(begin, end)
        # Without them a chain with native checks would refuse the half, and see no lie.
        shift = whole.header.first_block
        prices = whole.prices[begin - shift : end + 1 - shift]
        return PostBatch(header, pack_blocks(blocks), certificate, outbox, prices)

    # --- its defence

    async def _defend_lies(self) -> None:
        contest = SimContest(self, self._validators, self.transact, (), self.key.public)
        while True:
            try:
                if self._told:
                    for number, challenger in await contest.games():
                        await self._defend_lie(contest, number, challenger)
            except FAULTS:
                await contest.drop()
            await self.sleep(LIAR_PAUSE_MS)

    async def _defend_lie(self, contest: SimContest, number: int, challenger: bytes) -> None:
        shard = self.chain.genesis.shard
        keys = [batch_key(shard, number), dispute_key(shard, number, challenger)]
        leaves = await contest.leaves(keys)
        raw_batch, raw_game = (leaves.raw(key) for key in keys)
        if raw_batch is None or raw_game is None:
            return
        game, header = decode_dispute(raw_game), decode_batch(raw_batch).header
        told = self._told.get(header.digest())
        place = number, challenger
        if game.turn != DEFENDER or told is None or leaves.height < self._moved.get(place, 0):
            return
        lie, manner = told
        if manner == "silent":
            return
        if manner == "late" and place not in self._moved:
            self._moved[place] = 0
            await self.sleep(self.chain.genesis.settlement.clock_ms * LATE_PPM // 1_000_000)
        if lie is None or manner == "shaped":
            action: Cut | Prove | None = self._shaped(number, challenger, game, manner)
        else:
            before = await contest.shown(game) if game.shown else b""
            action = _played(lambda: lie.player.defend(lie.steps, challenger, game, before))
        if action is None:
            self.history.count("lies_given_up")
            return
        answer = await self.transact(action)
        self._moved[place] = answer.height
        if answer.code == Code.OK:
            self.history.count("lies_defended")
            self.history.count(f"lies_{manner}")

    def _shaped(
        self, number: int, challenger: bytes, game: DisputeLeaf, manner: str
    ) -> Cut | Prove:
        sections = self.chain.genesis.settlement.sections
        count = len(cuts(game.low, game.high, sections))
        if manner == "garbage":
            count = self.random.below(4)
        if count:
            return Cut(number, challenger, [any_root(self.random) for _ in range(count)])
        return any_proof(self.random, number, challenger)


def _behave(lie: Lie, stubborn: bool, elsewhere: bool) -> None:
    if isinstance(lie.player, StepLiar):
        lie.player.stubborn, lie.player.elsewhere = stubborn, elsewhere


def _played(move: Callable[[], Any]) -> Any:
    """A liar's move; None where it has none left."""
    try:
        return move()
    except (GaveUp, SafetyViolation, LookupError):
        return None


class LyingChallenger(LedgerClient):
    """Disputes batches until a time: right ones with garbage or as a good liar does, wrong ones so
    that it loses."""

    role = "liar"
    truth: Truth

    def __init__(self, *args: Any, stop_us: int, **named: Any) -> None:
        super().__init__(*args, **named)
        self._stop_us = stop_us

    def start(self) -> None:
        """Begin to lie, about several batches at once."""
        self.open_transactions, self._turn = 0, None
        for _ in range(self.random.between(1, 2)):
            self.spawn(self._lie())

    async def _lie(self) -> None:
        contest = SimContest(
            self, self.validators, lambda action: committed(self.send_action(action))
        )
        while self.kernel.now_us < self._stop_us:
            try:
                await self._one_game(contest)
            except FAULTS:
                await contest.drop()
            await self.sleep(self.random.between(200, 1_200))

    async def _open_batch(self, contest: SimContest) -> BatchHeader | None:
        shard = self.chain.genesis.shard
        ends = (shard_key(shard), final_key(shard))
        leaves = await contest.leaves(ends)
        raw_shard, raw_final = (leaves.raw(key) for key in ends)
        if raw_shard is None or raw_final is None:
            return None
        first, last = decode_final(raw_final).batch + 1, decode_shard(raw_shard).batch
        if first > last:
            return None
        key = batch_key(shard, self.random.between(first, last))
        raw = (await contest.leaves([key])).raw(key)
        return None if raw is None else decode_batch(raw).header

    async def _one_game(self, contest: SimContest) -> None:
        """Dispute some open batch, and play the game to its end."""
        header = await self._open_batch(contest)
        if header is None:
            return
        right = self.truth.right(header)
        if not right and self.random.chance(SPARED_PPM):
            return
        style, lie = self.random.pick(("silent", "garbage", "plays", "plays", "elsewhere")), None
        if right and style in ("plays", "elsewhere"):
            try:
                lie = tell(self.truth, header, self.random)
            except (NoLie, LookupError):
                style = "garbage"
        if lie is not None:
            _behave(lie, True, style == "elsewhere")
        root = any_root(self.random) if lie is None else lie.header.post_state_root
        number = header.number
        answer = await committed(self.send_action(OpenDispute(number, root)))
        if answer.code != Code.OK:
            return
        self.history.count("lying_disputes")
        self.history.count(f"disputes_{style}" if right else "protecting_disputes")
        while style != "silent":
            move = await self._move(contest, number, answer.height, lie)
            if move is None:
                return
            answer = await committed(self.send_action(move))
            if answer.code != Code.OK:
                return

    async def _move(
        self, contest: SimContest, number: int, least_height: int, lie: Lie | None
    ) -> DisputeAction | None:
        """What to do once it is our turn; None where the game is over, or nothing comes to mind."""
        key = dispute_key(self.chain.genesis.shard, number, self.key.address)
        while True:
            leaves = await contest.leaves([key])
            raw = leaves.raw(key)
            if leaves.height >= least_height:
                if raw is None:
                    return None
                game = decode_dispute(raw)
                if game.turn == CHALLENGER:
                    return await self._turn_of(contest, number, game, lie)
            await self.sleep(LIAR_PAUSE_MS)

    async def _turn_of(
        self, contest: SimContest, number: int, game: DisputeLeaf, lie: Lie | None
    ) -> DisputeAction | None:
        if lie is not None:
            before = await contest.shown(game) if game.shown else b""
            move: DisputeAction | None = _played(
                lambda: lie.player.challenge(lie.steps, self.key.address, game, before)
            )
            if isinstance(move, Prove):
                self.history.count("larger_witnesses_of_liars")
            return move
        if game.shown:
            return any_proof(self.random, number, self.key.address)
        return Choose(number, self.random.below(len(game.roots) - 1))
