"""The last moves of a dispute on the ledger: the larger witness wins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispute_world import RULES, DisputeWorld
from hiding_world import lied, traded
from ledger_world import key_of

from node import dispute_judging
from node.app import LedgerApplication
from node.fees import is_urgent
from node.process_clients import LedgerClients
from protocol.chain import Block as LedgerBlock
from protocol.chain import genesis_qc
from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    WITNESS_BYTES,
    WITNESS_ROUNDS,
    Choose,
    DisputeLeaf,
    Prove,
    witness_limit,
)
from protocol.errors import Code, Rejected
from protocol.keys import Key
from protocol.messages import BlocksView
from prover.game import Player
from prover.process_contest import shown_witness
from prover.tree import StateTree
from prover.witness import added, leaf_count
from prover.witness_maker import Gathered

CAROL, DAVE = key_of("carol"), key_of("dave")


def test_a_hidden_order_is_shown_and_the_batch_goes() -> None:
    world = lied()
    alice = world.balance(CAROL)
    assert world.open(2, CAROL) == Code.OK
    down(world, 2, CAROL)
    assert world.defend(2, CAROL) == Code.OK  # what it shows is true, and not all
    game = last(world, 2, CAROL)
    assert (game.turn, game.rounds, game.shown_height) == (CHALLENGER, 1, world.ledger.height)
    assert world.ledger.batch(2) is not None
    assert world.challenge(2, CAROL) == Code.OK
    game = last(world, 2, CAROL)
    assert (game.turn, game.rounds) == (DEFENDER, 2)
    world.wait(RULES.clock_ms)  # nothing makes the lie true beside that
    assert world.ledger.batch(2) is None and world.ledger.shard_leaf().batch == 1
    assert world.balance(CAROL) == alice + RULES.prover_bond_uusd // 2
    world.burnt()


def test_a_challenger_who_hides_an_order_loses() -> None:
    for shows in ("nothing more", "less", "garbage"):
        world, liar = traded()
        world.post(upto=3)
        world.post()
        assert world.open(2, CAROL, liar.root) == Code.OK
        down(world, 2, CAROL, liar)
        assert world.defend(2, CAROL) == Code.OK
        game = last(world, 2, CAROL)
        steps = world.posted[2][0]
        move: Any = Player(world.chain, world.truth).challenge(
            steps, CAROL.address, game, world.shown[game.shown]
        )
        assert isinstance(move, Prove)  # larger, but the step gives the same root on it
        if shows == "less":
            move = msgspec.structs.replace(move, witness=liar.first, added_accounts=[])
        elif shows == "garbage":
            move = msgspec.structs.replace(move, witness=move.witness[1:])
        assert world.send(CAROL, move) == Code.OK
        assert world.game(2, CAROL) is None and world.ledger.batch(2) is not None
        assert world.burnt() == RULES.challenger_bond_uusd - RULES.challenger_bond_uusd // 2


def test_the_witness_of_a_move_is_found_in_the_block_of_its_height() -> None:
    world = lied()
    assert world.open(2, CAROL) == Code.OK
    down(world, 2, CAROL)
    move = world.defence(2, CAROL, last(world, 2, CAROL))
    assert isinstance(move, Prove)
    raw = world.sign(world.prover, move)
    assert world.code(raw) == Code.OK
    game = last(world, 2, CAROL)
    header = world.headers[game.shown_height - 1]
    certificate = world.log.certificate(world.log.blocks[0].header)

    def view(*raws: bytes) -> BlocksView:
        block = LedgerBlock(header, encode([*raws]), genesis_qc(header), None)
        return BlocksView(1, [block], certificate)

    other = msgspec.structs.replace(move, witness=b"\xc0")
    raws = [b"no transaction", world.sign(CAROL, Choose(2, 0)), world.sign(CAROL, other)]
    assert shown_witness([view(*raws, raw)], game) == move.witness
    with pytest.raises(Rejected, match="without the witness"):
        shown_witness([view(*raws)], game)
    with pytest.raises(Rejected, match="without the witness"):
        shown_witness([view(raw)], msgspec.structs.replace(game, shown_height=1))


def test_the_last_witness_of_all_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every one turns the result, as no true leaf does for ever."""
    world, _ = traded()
    world.post()
    assert world.open(1, CAROL, bytes(32)) == Code.OK
    down(world, 1, CAROL, Choice(0))
    steps, witness = world.posted[1][0], b""
    for place in range(WITNESS_ROUNDS):
        game = last(world, 1, CAROL)
        assert game.rounds == place and witness_limit(game) == WITNESS_BYTES * (place + 1)
        side, key = (CHALLENGER, CAROL) if place % 2 else (DEFENDER, world.prover)
        assert game.turn == side
        claimed = game.roots[-1] if side == DEFENDER else b"another"
        monkeypatch.setattr(dispute_judging, "execute", lambda *_, root=claimed: root)
        larger = _with(world, steps.step(0, game.low), range(4 + place))
        beyond = added(larger, witness) if witness else ([], [])
        move = Prove(
            1, CAROL.address, larger, *beyond, encode(steps.blocks[0]), steps.cursors_of(0),
            steps.proof(0),
        )  # fmt: skip
        assert world.send(key, move) == Code.OK
        assert not witness or leaf_count(larger) >= leaf_count(witness)
        witness = larger
    assert world.ledger.batch(1) is None
    assert WITNESS_ROUNDS % 2 == 0  # the last one is the challenger's


def _with(world: DisputeWorld, step: Any, accounts: Any) -> bytes:
    """A witness of these accounts, and of who comes behind them."""
    found = Gathered(StateTree(world.truth.leaves(0)), step.scope(world.chain))
    found.note(14 + one for one in accounts)
    return encode(found.witness(0))


def test_whose_witness_a_validator_takes_and_how_fast() -> None:
    world = lied()
    assert world.open(2, CAROL) == Code.OK
    down(world, 2, CAROL)
    app = LedgerApplication(world.ledger, 3 << 20)
    right = world.defence(2, CAROL, last(world, 2, CAROL))
    assert isinstance(right, Prove)
    for key, code, urgent in (
        (world.prover, Code.OK, True), (CAROL, Code.OK, False), (DAVE, Code.NOT_A_PROVER, True),
    ):  # fmt: skip
        raw = world.sign(key, right)
        assert is_urgent(world.ledger.envelopes.open(raw)) == urgent
        assert _submitted(app, raw) == code
    machines: Any = SimpleNamespace(ledger=world.ledger)
    clients = LedgerClients(machines, lambda _: None, lambda: None, lambda: 0)
    large = [clients.takes_large(key.public) for key in (world.prover, CAROL, DAVE)]
    assert large == [True, True, False]


def _submitted(app: LedgerApplication, raw: bytes) -> Code:
    try:
        app.submit(raw, 0)
    except Rejected as error:
        return error.code
    return Code.OK


# --- games


class Choice:
    """A challenger who always takes the same part."""

    def __init__(self, part: int) -> None:
        self._part = part

    def challenge(self, steps: Any, address: bytes, game: DisputeLeaf, before: bytes) -> Choose:
        del address, game, before
        return Choose(steps.header.number, self._part)


def last(world: DisputeWorld, number: int, key: Key) -> DisputeLeaf:
    game = world.game(number, key)
    assert game is not None
    return game


def down(world: DisputeWorld, number: int, key: Key, player: Any = None) -> None:
    """Play down to one step; the challenger is honest unless there is another player."""
    player = player or Player(world.chain, world.truth)
    while (game := last(world, number, key)).high - game.low > 1:
        if game.turn == DEFENDER:
            assert world.defend(number, key) == Code.OK
        else:
            steps = world.posted[number][0]
            move = player.challenge(steps, key.address, game, b"")
            assert move is not None and world.send(key, move) == Code.OK
