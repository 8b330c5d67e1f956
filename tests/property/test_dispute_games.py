"""Random games over random batches, with liars on either side: the honest side wins each of them,
and no money is made or lost."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispute_world import DisputeWorld, mint
from ledger_world import key_of

from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    STEPS_PER_BLOCK,
    Choose,
    Cut,
    DisputeLeaf,
    OpenDispute,
    Prove,
    cuts,
)
from protocol.errors import Code
from protocol.genesis import SettlementRules
from protocol.keys import Key
from prover.game import Player

HONEST, LIARS = key_of("alice"), [key_of("bob"), key_of("carol"), key_of("dave")]
STYLES = ("true to the lie", "garbage", "silent", "shaped")


def rules_of(rng: random.Random) -> SettlementRules:
    """Windows long enough for a whole game, as one honest challenger needs them."""
    return SettlementRules(
        window_ms=rng.randint(60_000, 90_000), clock_ms=rng.randint(25_000, 40_000),
        sections=rng.randint(2, 6), prover_bond_uusd=rng.randint(1, 3_000),
        challenger_bond_uusd=rng.randint(0, 3_000),
    )  # fmt: skip


class Games:
    """A world in which the prover lies in some batches, and challengers about others."""

    def __init__(self, seed: int) -> None:
        print("seed", seed)
        self.rng = rng = random.Random(seed)
        self.world = DisputeWorld(rules_of(rng))
        self.style: dict[int, str] = {}
        self.begun = {key: self.world.balance(key) for key in (HONEST, *LIARS)}
        self.prover_uusd = self.world.balance(self.world.prover)
        self.honest_lost = 0
        self.proven_wrong = 0

    def post(self) -> None:
        """One more batch; lies stand on lies, as a liar's own states do."""
        rng, world = self.rng, self.world
        blocks = rng.randint(1, 9)
        world.fill(blocks)
        wrong = rng.random() < 0.4
        number = world.post(mint(rng.randrange(blocks), rng.randint(1, 10**9)) if wrong else None)
        self.style[number] = rng.choice(STYLES) if self.is_wrong(number) else "honest"

    def is_wrong(self, number: int) -> bool:
        """Whether a settled batch's root is not what its blocks lead to."""
        header = self.world.posted[number][0].header
        return header.post_state_root != self.world.truth.roots([header.last_block])[0]

    def step(self, lies: bool = True) -> None:
        """Everybody may do something; without `lies` no new game is opened for nothing."""
        world, rng = self.world, self.rng
        world.block(step_ms=rng.choice((50, 400)) if lies else 900)
        self.world.burnt()
        first, last = world.ledger.final().batch + 1, world.ledger.shard_leaf().batch
        wrong = [n for n in range(first, last + 1) if self.is_wrong(n)]
        if wrong:
            self.challenge(wrong[0])
        if lies and first <= last and rng.random() < 0.3:
            self.lie(rng.randint(first, last), rng.choice(LIARS))
        for number in range(first, last + 1):
            for key in (HONEST, *LIARS):
                game = world.game(number, key)
                if game is not None and game.turn != CHALLENGER:
                    self.defend(number, key, game)

    def challenge(self, number: int) -> None:
        """The honest challenger's move against the first wrong batch."""
        world = self.world
        header, game = world.posted[number][0].header, world.game(number, HONEST)
        if game is None:
            move: Any = OpenDispute(number, world.truth.roots([header.last_block])[0])
        else:
            player = Player(world.chain, world.truth)
            before = world.shown.get(game.shown, b"")
            move = player.challenge(world.posted[number][0], HONEST.address, game, before)
        if move is not None:
            code = world.send(HONEST, move)
            assert code == Code.OK, code

    def lie(self, number: int, key: Key) -> None:
        """A liar opens a game on anything, or plays on with whatever comes to mind."""
        world, rng = self.world, self.rng
        game = world.game(number, key)
        if game is None:
            world.send(key, OpenDispute(number, rng.randbytes(32)))
        elif game.turn == CHALLENGER and rng.random() < 0.8:
            move: Any = Choose(number, rng.randrange(len(game.roots) - 1))
            if game.shown:
                steps, index = world.posted[number][0], game.low // STEPS_PER_BLOCK
                move = Prove(
                    number, key.address, rng.choice((rng.randbytes(9), world.shown[game.shown])),
                    [], [], encode(steps.blocks[index]), steps.cursors_of(index),
                    steps.proof(index),
                )  # fmt: skip
            code = world.send(key, move)
            # Unknown where its clock ran out in the block before it.
            assert code in (Code.OK, Code.UNKNOWN_DISPUTE), code

    def defend(self, number: int, key: Key, game: DisputeLeaf) -> None:
        world, rng, style = self.world, self.rng, self.style[number]
        sections = world.rules.sections
        if style == "silent":
            return
        count = len(cuts(game.low, game.high, sections))
        move: Any = world.defence(number, key, game)
        if style in ("garbage", "shaped"):
            count = count if style == "shaped" else rng.randrange(4)
            roots = [rng.randbytes(32) for _ in range(count)]
            move = Cut(number, key.address, roots)
            if not count:
                move = Prove(
                    number, key.address, rng.randbytes(80), [], [], rng.randbytes(80), (0, 0), []
                )
        code = world.send(world.prover, move)
        assert code == Code.OK or style in ("garbage", "shaped"), code

    def check(self) -> None:
        """What has become final is right; the honest have lost nothing."""
        world = self.world
        for number in range(1, world.ledger.final().batch + 1):
            assert not self.is_wrong(number), f"batch {number} is final and wrong"
        assert world.balance(HONEST) + self.locked(HONEST) >= self.begun[HONEST]
        burnt = world.burnt()
        assert burnt >= 0

    def locked(self, key: Key) -> int:
        ledger = self.world.ledger
        first, last = ledger.final().batch + 1, ledger.shard_leaf().batch
        games = [self.world.game(number, key) for number in range(first, last + 1)]
        return sum(game.bond_uusd for game in games if game is not None)


@pytest.mark.parametrize("seed", range(24))
def test_the_honest_side_wins_every_game(seed: int) -> None:
    games = Games(seed)
    world = games.world
    removed: set[bytes] = set()
    for _ in range(5):
        games.post()
        for _ in range(games.rng.randint(1, 12)):
            right = _right_ones(games)
            games.step()
            gone = right - _right_ones(games)
            removed |= gone
        games.check()
    for _ in range(400):
        games.step(lies=False)
        shard = world.ledger.shard_leaf()
        if world.ledger.final().batch == shard.batch and not world.ledger.disputes.count:
            break
    games.check()
    assert world.ledger.final().batch == world.ledger.shard_leaf().batch
    assert not world.ledger.disputes.count
    assert not removed, "a right batch on right ones was removed"


def _right_ones(games: Games) -> set[bytes]:
    """Right batches that stand on right ones only, by their headers' digests."""
    found: set[bytes] = set()
    for number in range(1, games.world.ledger.shard_leaf().batch + 1):
        if games.is_wrong(number):
            return found
        found.add(games.world.posted[number][0].header.digest())
    return found
