"""The work of challengers and defenders with its surroundings: old answers, refusals, and others'
games."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from defence_world import LedgerInbox, material, prover
from dispute_world import RULES, DisputeWorld, mint
from hiding_world import lied
from ledger_world import key_of

from protocol.codec import encode
from protocol.dispute import (
    DEFENDER,
    PART_BYTES,
    OpenDispute,
    PartsLeaf,
    Prove,
    ShowPart,
    in_parts,
    part_hash,
    whole_hash,
)
from protocol.errors import Code, Rejected, RemoteFault
from protocol.ledger_leaves import dispute_key, parts_key
from protocol.messages import Committed
from prover import contest
from prover.challenger import Challenger
from prover.contest import Challenging, Defending, send_move

CAROL = key_of("carol")


class Done(Exception):
    """The script of a test is over."""


class Snapshot:
    """The ledger as a validator shows it."""

    def __init__(self, world: DisputeWorld, keys: Any) -> None:
        self.height = world.ledger.height
        self._values = {key: world.ledger.read(key) for key in keys}

    def raw(self, key: bytes) -> bytes | None:
        return self._values[key]


class Host:
    """Answers from a world; `old` shows what was seen before once more, `on_pause` is a script."""

    def __init__(self, world: DisputeWorld, sender: Any) -> None:
        self.world = world
        self.sender = sender
        self.codes: list[Code] = []
        self.told: list[str] = []
        self.pauses: list[int] = []
        self.drops = 0
        self.old = 0
        self.on_pause: Callable[[int], None] = lambda _: None
        self._before: Snapshot | None = None

    async def leaves(self, keys: Any) -> Any:
        if self.old and self._before is not None:
            self.old -= 1
            return self._before
        self._before = Snapshot(self.world, keys)
        return self._before

    async def batch_blocks(self, settled: Any) -> Any:
        return self.world.posted[settled.header.number][0].blocks

    async def send(self, action: Any) -> Committed:
        if isinstance(action, OpenDispute) and self.world.ledger.batch(action.batch) is None:
            raise RemoteFault(Code.BUSY, "not now")
        code = self.world.send(self.sender, action)
        self.codes.append(code)
        return Committed(1, b"", self.world.ledger.height, int(code), "")

    async def pause(self, pause_ms: int) -> None:
        self.pauses.append(pause_ms)
        self.on_pause(len(self.pauses))

    async def apart(self, work: Any) -> Any:
        return work()

    async def drop(self) -> None:
        self.drops += 1

    def tell(self, what: str, number: int, text: str = "") -> None:
        self.told.append(what)

    async def games(self) -> list[tuple[int, bytes]]:
        return self.world.ledger.disputes.waiting(self.world.prover.public, 9)

    async def diffs(self, header: Any) -> Any:
        return material(self.world, header.number).diffs

    async def shown(self, game: Any) -> bytes:
        return self.world.shown[game.shown]

    async def wait_covered(self, height: int) -> None:
        assert height <= self.world.ledger.height


def challenging(world: DisputeWorld) -> tuple[Host, Challenging, Challenger]:
    machine, host = Challenger(world.chain, CAROL.address), Host(world, CAROL)
    inbox: Any = LedgerInbox(world)
    return host, Challenging(host, machine, inbox, host), machine


def run(work: Any, host: Host, script: Callable[[int], None]) -> None:
    host.on_pause = script
    with pytest.raises(Done):
        asyncio.run(work.run())


def test_no_move_is_made_twice_on_an_old_answer() -> None:
    world = DisputeWorld()
    world.fill(5)
    world.post(mint(2))
    host, work, machine = challenging(world)

    def script(count: int) -> None:
        if count == 1:
            assert host.codes == [Code.OK]
            host.old = 3  # the validator still shows the ledger without the game
        if count == 6:
            raise Done

    run(work, host, script)
    assert host.codes == [Code.OK] and machine.game is not None
    assert host.told == ["wrong", "moved"] and host.drops >= 3


def test_a_refused_move_waits_before_it_costs_another_fee() -> None:
    world = DisputeWorld()
    world.fill(2)
    world.post(mint(1))
    poor, host = key_of("nobody"), Host(world, key_of("nobody"))
    machine = Challenger(world.chain, poor.address)
    inbox: Any = LedgerInbox(world)

    def script(count: int) -> None:
        if count == 2:
            raise Done

    run(Challenging(host, machine, inbox, host), host, script)
    assert host.codes == [Code.INSUFFICIENT_BALANCE] and host.pauses[0] == contest.REFUSED_MS


def test_whoever_is_asked_changes_with_time_and_with_faults() -> None:
    world = DisputeWorld()
    host, work, _ = challenging(world)

    def script(count: int) -> None:
        if count == 9:
            raise Done

    run(work, host, script)
    assert host.drops == 2 and set(host.pauses) == {contest.POLL_MS}


def test_a_challenger_answers_a_witness_with_a_larger_one() -> None:
    world = lied()
    host, work, _ = challenging(world)

    def script(count: int) -> None:
        assert count < 200
        game = world.game(2, CAROL)
        if game is not None and game.rounds == 2:
            raise Done
        if game is not None and game.turn == DEFENDER:
            assert world.defend(2, CAROL) == Code.OK

    run(work, host, script)
    assert set(host.codes) == {Code.OK} and world.ledger.batch(2) is not None
    world.wait(RULES.clock_ms)  # the prover has nothing to add
    assert world.ledger.batch(2) is None


def test_a_prover_answers_every_game_on_its_own_batches() -> None:
    world, tree, _, defence = prover()
    before = tree.root
    host = Host(world, world.prover)
    assert world.open(2, CAROL, bytes(32)) == Code.OK
    assert world.open(3, key_of("alice"), bytes(32)) == Code.OK

    def script(count: int) -> None:
        if count == 3:
            raise Done

    work = Defending(host, defence, world.chain)
    run(work, host, script)
    assert work.moves == 2 and host.codes == [Code.OK, Code.OK]
    assert tree.root == before


def test_a_game_that_cannot_be_answered_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, _, _, defence = prover()
    host = Host(world, world.prover)
    assert world.open(3, key_of("alice"), bytes(32)) == Code.OK
    assert world.open(2, CAROL, bytes(32)) == Code.OK
    [first, *_] = world.ledger.disputes.waiting(world.prover.public, 9)

    async def batch_blocks(settled: Any) -> Any:
        if settled.header.number == first[0]:
            raise Rejected(Code.NOT_FOUND, "no validator shows this block")
        return world.posted[settled.header.number][0].blocks

    monkeypatch.setattr(host, "batch_blocks", batch_blocks)

    def script(count: int) -> None:
        if count == 2:
            raise Done

    run(Defending(host, defence, world.chain), host, script)
    assert host.codes == [Code.OK] and world.ledger.disputes.count == 2
    assert host.told == ["interrupted", "defended"] and host.drops == 1


def test_a_batch_that_is_not_ours_is_not_defended() -> None:
    world, _, store, defence = prover()
    host = Host(world, world.prover)
    assert world.open(2, CAROL, bytes(32)) == Code.OK
    del store.headers[2]

    def script(count: int) -> None:
        if count == 2:
            raise Done

    run(Defending(host, defence, world.chain), host, script)
    assert host.codes == []


def test_a_defender_makes_no_move_twice_on_an_old_answer() -> None:
    world, _, _, defence = prover()
    host = Host(world, world.prover)
    assert world.open(2, CAROL, bytes(32)) == Code.OK
    stale = world.ledger.disputes.waiting(world.prover.public, 9)

    async def games() -> list[tuple[int, bytes]]:
        return stale  # a validator that lags, in what it tells and in what it proves

    host.games = games  # type: ignore[method-assign]

    def script(count: int) -> None:
        host.old = 1
        if count == 4:
            raise Done

    run(Defending(host, defence, world.chain), host, script)
    assert host.codes == [Code.OK]


class Ledger:
    """Knows some parts of a witness, and refuses what is sent in a certain place."""

    def __init__(self, known: PartsLeaf | None, refuses: int = 99) -> None:
        self._known, self._refuses = known, refuses
        self.sent: list[Any] = []

    async def leaves(self, keys: Any) -> Any:
        assert keys == [parts_key(KEY)]
        raw = None if self._known is None else encode(self._known)
        return SimpleNamespace(height=1, raw=lambda key: raw)

    async def send(self, action: Any) -> Committed:
        self.sent.append(action)
        code = Code.BAD_PART if len(self.sent) > self._refuses else Code.OK
        return Committed(1, b"", len(self.sent), int(code), "")


KEY = dispute_key(0, 1, CAROL.address)


def test_a_large_witness_is_sent_in_parts_from_where_the_ledger_is() -> None:
    witness = bytes(range(256)) * (PART_BYTES // 256 * 2) + b"end"
    move = Prove(1, CAROL.address, witness, [], [], b"", (0, 0), [])
    parts, end = in_parts(move)
    assert [type(one) for one in parts] == [ShowPart, ShowPart] and end.witness == b"end"
    assert b"".join(one.data for one in parts) + end.witness == witness
    assert {one.whole for one in [*parts, end]} == {whole_hash(witness)}
    places = [(7, part_hash(parts[0].data))]
    for known, sent in (
        (None, [*parts, end]), (PartsLeaf(end.whole, places, 1), [parts[1], end]),
        (PartsLeaf(end.whole, places * 2, 2), [end]),
        (PartsLeaf(bytes(32), places, 1), [*parts, end]),
    ):  # fmt: skip
        host: Any = Ledger(known)
        assert asyncio.run(send_move(host, KEY, move)).code == Code.OK
        assert host.sent == sent
    host = Ledger(None, refuses=1)
    answer = asyncio.run(send_move(host, KEY, move))
    assert answer.code == Code.BAD_PART and host.sent == parts  # and nothing behind it
    small = Prove(1, CAROL.address, bytes(PART_BYTES), [], [], b"", (0, 0), [])
    host = Ledger(None)
    asyncio.run(send_move(host, KEY, small))
    assert host.sent == [small]
