"""Witnesses in parts on the ledger: a step that no single transaction shows is judged as well."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispute_world import NAMES, RULES, DisputeWorld
from hiding_world import lied, trading
from ledger_world import key_of, make_chain

import protocol.dispute
from node import dispute_parts, disputes
from node.app import LedgerApplication
from node.ledger import Ledger
from protocol.chain import Block as LedgerBlock
from protocol.chain import genesis_qc
from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    HASH_BYTES,
    PART_MS,
    STEPS_PER_BLOCK,
    Choose,
    DisputeLeaf,
    Prove,
    ShowPart,
    decode_parts,
    in_parts,
    positions,
    whole_hash,
)
from protocol.errors import Code, Rejected
from protocol.genesis import Chain, Limits
from protocol.keys import Key
from protocol.ledger_leaves import PARTS_KIND, dispute_key, parts_key
from protocol.messages import BlocksView
from prover.game import Player
from prover.process_contest import shown_heights, shown_witness

CAROL, DAVE = key_of("carol"), key_of("dave")
SMALL = 8 * 1024
RESTS = 1_900


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 8 KiB, in four leaves each."""
    for module in (protocol.dispute, dispute_parts, disputes):
        monkeypatch.setattr(module, "PART_BYTES", SMALL)
    monkeypatch.setattr(dispute_parts, "MAX_VALUE_BYTES", SMALL // 4)
    monkeypatch.setattr(dispute_parts, "_CHUNKS", 4)


def rich(orders: int = 2_000) -> Chain:
    """A chain whose traders have money for so many orders."""
    accounts = [(key_of(name), 50_000, 10**12) for name in NAMES]
    limits = Limits(orders_per_account=orders, refusals_per_action=1)
    return make_chain([*accounts, (key_of("prover"), 100_000, 0)], settlement=RULES, limits=limits)


def last(world: DisputeWorld, number: int, key: Key = CAROL) -> DisputeLeaf:
    game = world.game(number, key)
    assert game is not None
    return game


def down(world: DisputeWorld, number: int, key: Key = CAROL, player: Any = None) -> None:
    """Play down to one step."""
    player = player or Player(world.chain, world.truth)
    while (game := last(world, number, key)).high - game.low > 1:
        if game.turn == DEFENDER:
            assert world.defend(number, key) == Code.OK
        else:
            move = player.challenge(world.posted[number][0], key.address, game, b"")
            assert move is not None and world.send(key, move) == Code.OK


class Towards:
    """A challenger of nothing, who wants one position of a block shown."""

    def __init__(self, position: int, sections: int) -> None:
        self._position, self._sections = position, sections

    def challenge(self, steps: Any, address: bytes, game: DisputeLeaf, before: bytes) -> Choose:
        ends = positions(game, self._sections)[1:]
        part = next(n for n, end in enumerate(ends) if end > self._position)
        return Choose(steps.header.number, part)


def defended(key: Key = CAROL) -> tuple[DisputeWorld, list[ShowPart], Prove]:
    """A game about a right batch, down to a step that is shown in parts: these, and what ends
    them."""
    world = trading(RESTS, rich())
    world.post(upto=3)
    world.post()
    assert world.open(2, key, bytes(32)) == Code.OK
    down(world, 2, key, Towards(7, RULES.sections))
    move = world.defence(2, key, last(world, 2, key))
    assert isinstance(move, Prove)
    parts, end = in_parts(move)
    assert len(parts) > 3
    return world, parts, end


def kept(world: DisputeWorld) -> int:
    """Leaves that the ledger has of parts."""
    return len(world.ledger.keys_of(PARTS_KIND))


@pytest.mark.usefixtures("small")
def test_a_defender_shows_a_step_in_parts_and_it_stands() -> None:
    world, parts, end = defended()
    before = last(world, 2)
    for number, part in enumerate(parts):
        assert world.send(world.prover, part) == Code.OK
        assert kept(world) == 1 + 4 * (number + 1)
    assert world.send(world.prover, end) == Code.OK
    game = last(world, 2)
    assert (game.turn, game.rounds) == (CHALLENGER, 1) and not before.shown_parts
    heights = [height for height, _ in game.shown_parts]
    assert heights == list(range(game.shown_height - len(parts), game.shown_height))
    assert kept(world) == 0
    world.wait(RULES.clock_ms)  # nothing makes it wrong
    assert world.game(2, CAROL) is None and world.ledger.batch(2) is not None
    world.burnt()


@pytest.mark.usefixtures("small")
def test_a_witness_in_parts_is_found_in_the_blocks_that_it_came_in() -> None:
    world, parts, end = defended()
    raws = [world.sign(world.prover, Choose(2, 0))]
    for one in (*parts, end):
        raws.append(world.sign(world.prover, one))
        assert world.code(raws[-1]) == Code.OK
    game = last(world, 2)
    whole = b"".join([*(one.data for one in parts), end.witness])
    certificate = world.log.certificate(world.log.blocks[0].header)

    def view(height: int, *inside: bytes) -> BlocksView:
        header = world.headers[height - 1]
        block = LedgerBlock(header, encode([b"garbage", *inside]), genesis_qc(header), None)
        return BlocksView(1, [block], certificate)

    heights = shown_heights(game)
    assert len(heights) == len(raws) - 1 and heights[-1] == game.shown_height
    # A part that was refused stands in a block as well.
    junk = world.sign(world.prover, msgspec.structs.replace(parts[0], data=bytes(SMALL)))
    views = [view(height, junk, raw) for height, raw in zip(heights, raws[1:], strict=True)]
    assert shown_witness(views, game) == whole
    for some in (views[1:], views[:-1], [view(one, raws[0]) for one in heights]):
        with pytest.raises(Rejected, match="without the witness"):
            shown_witness(some, game)


@pytest.mark.usefixtures("small")
def test_a_challenger_shows_in_parts_what_was_hidden() -> None:
    world = lied(RESTS, rich())
    assert world.open(2, CAROL) == Code.OK
    down(world, 2)
    assert world.defend(2, CAROL) == Code.OK
    game = last(world, 2)
    assert world.challenge(2, CAROL) == Code.OK
    after = last(world, 2)
    assert after.turn == DEFENDER and len(after.shown_parts) > 3 > len(game.shown_parts)
    assert kept(world) == 0
    world.wait(after.clocks_ms[DEFENDER] + 1_000)
    assert world.ledger.batch(2) is None
    world.burnt()


@pytest.mark.usefixtures("small")
def test_parts_are_taken_in_order_and_in_full_from_whose_turn_it_is() -> None:
    world, parts, end = defended()
    prover, replace = world.prover, msgspec.structs.replace
    assert world.send(prover, end) == Code.BAD_PART  # before any part
    for bad, code in (
        (parts[1], Code.BAD_PART), (replace(parts[0], part=-1), Code.BAD_PART),
        (replace(parts[0], data=parts[0].data[1:]), Code.BAD_PART),
        (replace(parts[0], data=parts[0].data + b"x"), Code.BAD_PART),
        (replace(parts[0], whole=b""), Code.WRONG_TYPE),
        (replace(parts[0], challenger=b""), Code.WRONG_TYPE),
        (replace(parts[0], challenger=DAVE.address), Code.UNKNOWN_DISPUTE),
        (replace(parts[0], batch=1), Code.UNKNOWN_DISPUTE),
        (replace(parts[0], batch=9), Code.UNKNOWN_BATCH),
    ):  # fmt: skip
        assert world.send(prover, bad) == code, bad.part
    assert world.send(CAROL, parts[0]) == Code.NOT_YOUR_TURN
    assert world.send(DAVE, parts[0]) == Code.NOT_A_PROVER
    assert kept(world) == 0
    assert world.send(prover, parts[0]) == Code.OK
    assert world.send(prover, parts[0]) == Code.BAD_PART  # twice
    assert world.send(prover, parts[2]) == Code.BAD_PART  # one is missing
    other = replace(end, whole=whole_hash(b"something else"))
    assert world.send(prover, other) == Code.BAD_PART
    for one in (*parts[1:], end):
        assert world.send(prover, one) == Code.OK
    assert last(world, 2).turn == CHALLENGER


@pytest.mark.usefixtures("small")
def test_parts_before_one_step_is_left_are_refused() -> None:
    world = trading()
    world.post()
    assert world.open(1, CAROL, bytes(32)) == Code.OK
    part = ShowPart(1, CAROL.address, bytes(HASH_BYTES), 0, bytes(SMALL))
    assert world.send(world.prover, part) == Code.NOT_YOUR_TURN


@pytest.mark.usefixtures("small")
def test_too_many_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world, parts, _ = defended()
    monkeypatch.setattr(protocol.dispute, "WITNESS_BYTES", 3 * SMALL)
    assert world.send(world.prover, *parts[:2]) == Code.OK
    assert world.send(world.prover, parts[2]) == Code.BAD_PART
    assert kept(world) == 1 + 2 * 4


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("lie", ["garbage", "missing", "another end"])
def test_a_whole_that_is_not_the_one_named_loses(lie: str) -> None:
    world, parts, end = defended()
    if lie == "garbage":
        parts[1] = msgspec.structs.replace(parts[1], data=bytes(SMALL))
    elif lie == "missing":
        parts.pop()
    else:
        end = msgspec.structs.replace(end, witness=end.witness + b"x")
    assert world.send(world.prover, *parts) == Code.OK
    assert world.send(world.prover, end) == Code.OK
    assert world.ledger.batch(2) is None and kept(world) == 0
    world.burnt()


@pytest.mark.usefixtures("small")
def test_garbage_in_parts_loses_for_a_challenger() -> None:
    world, parts, end = defended()
    assert world.send(world.prover, *parts, end) == Code.OK
    junk = msgspec.structs.replace(end, witness=bytes(len(parts) * SMALL + 7), whole=b"")
    assert world.send(CAROL, junk) == Code.OK
    assert world.game(2, CAROL) is None and world.ledger.batch(2) is not None
    assert kept(world) == 0 and world.burnt() > 0


@pytest.mark.usefixtures("small")
def test_each_part_buys_time_once_and_missing_ones_lose() -> None:
    world, parts, _ = defended()
    left = _left_ms(world)
    now_ms = world.ledger.system().window_ms
    assert world.send(world.prover, parts[0], parts[1]) == Code.OK
    passed = world.ledger.system().window_ms - now_ms
    assert _left_ms(world) == left - passed + 2 * PART_MS
    # another witness begins anew, and buys nothing for parts that were paid for
    again = [msgspec.structs.replace(one, whole=whole_hash(b"another")) for one in parts]
    for place, part in enumerate(again[:3]):
        before, now_ms = _left_ms(world), world.ledger.system().window_ms
        assert world.send(world.prover, part) == Code.OK
        passed = world.ledger.system().window_ms - now_ms
        assert _left_ms(world) == before - passed + (PART_MS if place == 2 else 0)
    assert kept(world) == 1 + 3 * 4
    assert world.send(world.prover, parts[2]) == Code.BAD_PART
    world.wait(_left_ms(world) - 100)
    assert world.game(2, CAROL) is not None
    world.wait(1_000)
    assert world.ledger.batch(2) is None and kept(world) == 0


def _left_ms(world: DisputeWorld) -> int:
    game = last(world, 2)
    return game.since_ms + game.clocks_ms[game.turn] - world.ledger.system().window_ms


@pytest.mark.usefixtures("small")
def test_a_ledger_from_its_leaves_knows_the_parts() -> None:
    world, parts, end = defended()
    assert world.send(world.prover, *parts[:2]) == Code.OK
    raw = world.ledger.read(parts_key(dispute_key(0, 2, CAROL.address)))
    assert raw is not None and len(decode_parts(raw).places) == 2
    world.ledger = Ledger(world.chain, world.ledger.leaves(), world.ledger.height)
    assert world.send(world.prover, *parts[2:], end) == Code.OK
    assert last(world, 2).turn == CHALLENGER


@pytest.mark.usefixtures("small")
def test_one_witness_in_parts_counts_in_every_game_and_drops_their_parts() -> None:
    world, parts, end = defended()
    assert world.open(2, DAVE, bytes(32)) == Code.OK
    down(world, 2, DAVE, Towards(7, RULES.sections))
    theirs = [msgspec.structs.replace(one, challenger=DAVE.address) for one in parts]
    assert world.send(world.prover, *theirs[:2], *parts, end) == Code.OK
    assert kept(world) == 0
    mine, other = last(world, 2), last(world, 2, DAVE)
    assert mine.shown_parts == other.shown_parts != [] and other.turn == CHALLENGER


@pytest.mark.usefixtures("small")
def test_a_large_witness_has_a_block_to_itself() -> None:
    world, parts, end = defended()
    assert world.open(1, DAVE, bytes(32)) == Code.OK
    down(world, 1, DAVE, Towards(0, RULES.sections))
    assert world.send(world.prover, *parts) == Code.OK
    little = world.defence(1, DAVE, last(world, 1, DAVE))
    assert isinstance(little, Prove) and len(little.witness) < SMALL
    nonce = world.ledger.account(world.prover.address).nonce
    moves = (little, end, little)
    outcome = world.block(
        *(world.sign(world.prover, one, nonce + place) for place, one in enumerate(moves))
    )
    codes = [one.code for one in outcome.results]
    assert codes == [Code.OK, Code.BUSY, Code.NOT_YOUR_TURN]
    assert world.send(world.prover, end) == Code.OK


@pytest.mark.usefixtures("small")
def test_whose_parts_a_validator_takes() -> None:
    world, parts, _ = defended()
    app = LedgerApplication(world.ledger, 3 << 20)
    for key, code in (
        (world.prover, Code.OK), (CAROL, Code.OK), (DAVE, Code.NOT_A_PROVER),
    ):  # fmt: skip
        try:
            app.submit(world.sign(key, parts[0]), 0)
        except Rejected as error:
            assert error.code == code
        else:
            assert code == Code.OK


def test_a_step_beyond_one_transaction_is_shown_and_judged_as_it_is() -> None:
    """Nothing is made smaller here: 25,000 orders of one account."""
    world = trading(25_000, rich(30_000))
    world.post(upto=3)
    world.post()
    assert world.open(2, CAROL, bytes(32)) == Code.OK
    down(world, 2, CAROL, Towards(7, RULES.sections))
    game = last(world, 2)
    assert game.low % STEPS_PER_BLOCK == 7
    move = world.defence(2, CAROL, game)
    assert isinstance(move, Prove) and len(in_parts(move)[0]) >= 1
    assert world.send(world.prover, move) == Code.OK
    assert last(world, 2).turn == CHALLENGER and last(world, 2).shown_parts
