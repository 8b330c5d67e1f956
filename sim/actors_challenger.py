"""Disputes in the simulator: challengers, provers who defend their batches, and those who lie."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from msgspec.structs import replace

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
from protocol.errors import Code, Rejected, RemoteFault
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
from protocol.settlement import LedgerAction, PostBatch
from prover.challenger import Challenger
from prover.contest import FAULTS, Challenging
from sim.actors_contest import SimContest
from sim.actors_followers import InboxFollower
from sim.actors_ledger_client import LedgerClient
from sim.actors_prover import SimProver
from sim.random import SplitMix64

LIAR_PAUSE_MS = 400


def any_root(random: SplitMix64) -> bytes:
    """32 bytes that are the root of nothing."""
    return b"".join(random.next().to_bytes(8, "big") for _ in range(4))


def any_proof(random: SplitMix64, number: int, challenger: bytes) -> Prove:
    """A witness of nothing."""
    return Prove(number, challenger, any_root(random), [], [], any_root(random), (0, 0), [])


async def committed(sent: Awaitable[Committed | None]) -> Committed:
    """The answer of a ledger client that gives up at times."""
    answer = await sent
    if answer is None:
        raise TimeoutError("the ledger did not take it")
    return answer


class SimChallenger(LedgerClient):
    """Checks every batch from genesis on; it keeps nothing on disk."""

    role = "challenger"
    machine: Challenger

    def start(self) -> None:
        """Begin to follow."""
        self.open_transactions, self._turn = 0, None
        self.machine = Challenger(self.chain, self.key.address)
        inbox = InboxFollower(self, self.validators)
        inbox.start()
        contest = SimContest(self, self.validators, self._commit)
        self.spawn(Challenging(contest, self.machine, inbox, inbox).run())

    async def _commit(self, action: LedgerAction) -> Committed:
        return await committed(self.send_action(action))


class LyingChallenger(LedgerClient):
    """Disputes batches that are right until a time, and plays on with whatever comes to mind."""

    role = "liar"

    def __init__(self, *args: Any, stop_us: int, **named: Any) -> None:
        super().__init__(*args, **named)
        self._stop_us = stop_us

    def start(self) -> None:
        """Begin to lie."""
        self.open_transactions, self._turn = 0, None
        self._contest = SimContest(
            self, self.validators, lambda action: committed(self.send_action(action))
        )
        self.spawn(self._lie())

    async def _lie(self) -> None:
        while self.kernel.now_us < self._stop_us:
            try:
                await self._one_game()
            except FAULTS:
                await self._contest.drop()
            await self.sleep(self.random.between(200, 1_200))

    async def _one_game(self) -> None:
        """Dispute some open batch, and play the game to its end."""
        shard = self.chain.genesis.shard
        ends = (shard_key(shard), final_key(shard))
        leaves = await self._contest.leaves(ends)
        raw_shard, raw_final = (leaves.raw(key) for key in ends)
        if raw_shard is None or raw_final is None:
            return
        first, last = decode_final(raw_final).batch + 1, decode_shard(raw_shard).batch
        if first > last:
            return
        number = self.random.between(first, last)
        action: DisputeAction = OpenDispute(number, any_root(self.random))
        silent = self.random.chance(200_000)
        least = 0
        while True:
            answer = await committed(self.send_action(action))
            if answer.code != Code.OK:
                return
            if isinstance(action, OpenDispute):
                self.history.count("lying_disputes")
            least = max(least, answer.height)
            move = await self._move(number, least)
            if move is None or silent:
                return
            action = move

    async def _move(self, number: int, least_height: int) -> Choose | Prove | None:
        """Any choice once it is our turn; None where the game is over."""
        key = dispute_key(self.chain.genesis.shard, number, self.key.address)
        while True:
            leaves = await self._contest.leaves([key])
            raw = leaves.raw(key)
            if leaves.height >= least_height:
                if raw is None:
                    return None
                game = decode_dispute(raw)
                if game.turn == CHALLENGER and game.shown:
                    return any_proof(self.random, number, self.key.address)
                if game.turn == CHALLENGER:
                    return Choose(number, self.random.below(len(game.roots) - 1))
            await self.sleep(LIAR_PAUSE_MS)


class LyingProver(SimProver):
    """Posts now and then a batch whose root nothing leads to, before the right one, and defends it
    with silence, garbage, or moves in the right form."""

    wrong_ppm = 0
    stop_us = 0

    def start(self) -> None:
        """Take up what is on disk, as an honest one does."""
        super().start()
        self._last_wrong = 0
        self.spawn(self._defend_lies())

    async def submit(self, posting: PostBatch) -> Committed:
        """Send a lie first, once for each batch; it stays until somebody disputes it."""
        header = posting.header
        lies = self.kernel.now_us < self.stop_us and header.number != self._last_wrong
        if lies and self.random.chance(self.wrong_ppm):
            self._last_wrong = header.number
            root = any_root(self.random)
            answer = await super().submit(
                replace(posting, header=replace(header, post_state_root=root))
            )
            if answer.code == Code.OK:
                self.history.count("wrong_batches_posted")
            return answer
        return await super().submit(posting)

    async def _defend_lies(self) -> None:
        contest = SimContest(self, self._validators, self.transact, (), self.key.public)
        style = self.random.pick(("silent", "garbage", "shaped"))
        while style != "silent":
            try:
                for number, challenger in await contest.games():
                    await self._defend_lie(contest, number, challenger, style)
            except (TimeoutError, RemoteFault, Rejected):
                await contest.drop()
            await self.sleep(LIAR_PAUSE_MS)

    async def _defend_lie(
        self, contest: SimContest, number: int, challenger: bytes, style: str
    ) -> None:
        shard = self.chain.genesis.shard
        keys = [batch_key(shard, number), dispute_key(shard, number, challenger)]
        leaves = await contest.leaves(keys)
        raw_batch, raw_game = (leaves.raw(key) for key in keys)
        if raw_batch is None or raw_game is None:
            return
        game, header = decode_dispute(raw_game), decode_batch(raw_batch).header
        if game.turn != DEFENDER or self.store.header(number) == header:
            return
        action = self._false_move(number, challenger, game, style)
        if (await self.transact(action)).code == Code.OK:
            self.history.count("lies_defended")

    def _false_move(
        self, number: int, challenger: bytes, game: DisputeLeaf, style: str
    ) -> Cut | Prove:
        sections = self.chain.genesis.settlement.sections
        count = len(cuts(game.low, game.high, sections))
        if style == "garbage":
            count = self.random.below(4)
        if count:
            return Cut(number, challenger, [any_root(self.random) for _ in range(count)])
        return any_proof(self.random, number, challenger)
