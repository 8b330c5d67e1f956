"""Provers at work on a ledger with windows: rivals, wrong batches, removals, restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from ledger_world import key_of, make_chain
from msgspec.structs import replace
from pipeline_world import DOLLAR, PipelineWorld

from node.outcomes import BlockOutcome
from protocol.actions import BUY, Order, Withdraw
from protocol.errors import Code, SafetyViolation
from protocol.events import BlockDiff
from protocol.genesis import SettlementRules
from protocol.keys import Key
from protocol.messages import Committed
from protocol.ordering import OrderedChunk
from protocol.settlement import BatchHeader, PostBatch
from prover.batcher import Batch, Batcher
from prover.posting import Poster, Standing
from prover.settlement import TURN_MS, Settlement, genesis, make_batcher, place_of
from prover.store import ProverStore
from prover.tree import StateTree

T = TypeVar("T")

WINDOW_MS = 5_000
BOND_UUSD = 10 * DOLLAR
STEP_MS = 100


class Done(Exception):
    """The script of a test is over."""


class World(PipelineWorld):
    """A ledger with windows and two provers; its time goes on whenever a prover waits."""

    def __init__(self, rules: SettlementRules | None = None) -> None:
        rules = rules or SettlementRules(window_ms=WINDOW_MS, prover_bond_uusd=BOND_UUSD)
        money = [
            (key_of("alice"), 1_000 * DOLLAR, 5_000 * DOLLAR),
            (key_of("bob"), 0, 5_000 * DOLLAR),
            (key_of("prover"), 500 * DOLLAR, 0),
            (key_of("rival"), 500 * DOLLAR, 0),
        ]
        super().__init__(
            chain=make_chain(
                money, sequencers=1, settlement=rules, provers=("prover", "rival"),
            )
        )  # fmt: skip
        self.now_ms = 0
        self.diffs: list[BlockDiff] = []

    def work(self, amount: int = 1) -> None:
        """One more ordered and executed block with a withdrawal in it."""
        raw = self.sign(self.bob, Withdraw(amount, self.bob.address))
        self.diffs.append(self.execute(raw, inbox_height=0))

    def trade(self) -> None:
        """One more block with an order in it, and nothing that anybody has to have paid."""
        raw = self.sign(self.alice, Order(0, BUY, 600_000, 1))
        self.diffs.append(self.execute(raw, inbox_height=0))

    def remove(self, number: int) -> None:
        """Remove a batch as a lost dispute does; its bond is burnt."""
        ledger = self.ledger
        outcome = BlockOutcome(ledger.height, ledger.system().time_ms)
        bond_uusd = ledger.settling.remove(number, outcome)
        ledger.change_system(supply_uusd=-bond_uusd, burnt_uusd=bond_uusd)
        ledger.seal(outcome)
        self.named_root = ledger.root

    def headers(self, first: int = 1) -> list[BatchHeader]:
        """Settled batches in order, from one on."""
        found: list[BatchHeader] = []
        while (settled := self.ledger.batch(first + len(found))) is not None:
            found.append(settled.header)
        return found


class Host:
    """A prover of the world; `script` is called at every wait with the number of it."""

    def __init__(self, world: World, key: Key, path: Path) -> None:
        self.world = world
        self.key = key
        self.store = ProverStore(path)
        self.script: Callable[[int], None] = lambda turn: None
        self.change: Callable[[PostBatch], PostBatch] = lambda posting: posting
        self.told: list[tuple[str, int]] = []
        self.turns = 0
        self.restarts = 0
        position = self.store.position()
        if position is None:
            position, tree = genesis(world.chain)
            self.store.begin(position, list(tree.iterate()))
        else:
            tree = StateTree(self.store.leaves())
        self.batcher: Batcher = make_batcher(world.chain, key.public, tree, position)
        self.settlement = Settlement(self.batcher, 500, 3_000, *place_of(world.chain, key.public))
        self.poster = Poster(self, self.store, self.batcher, self.settlement)

    def run(self, script: Callable[[int], None]) -> None:
        """Work until the script raises `Done`."""
        self.script = script
        self.turns = 0
        # Nothing here waits for anything but the script, so no event loop is needed.
        with pytest.raises(Done):
            self.poster.run(self.store.posting()).send(None)

    def restart(self) -> Host:
        """The same prover out of its database."""
        path = self.store._path.parent
        self.store.close()
        return Host(self.world, self.key, path)

    def now_ms(self) -> int:
        return self.world.now_ms

    async def standing(self, numbers: Sequence[int]) -> Standing:
        ledger = self.world.ledger
        found = {number: ledger.batch(number) for number in numbers}
        headers = {n: None if one is None else one.header for n, one in found.items()}
        return Standing(ledger.height, ledger.final(), headers)

    async def submit(self, posting: PostBatch) -> Committed:
        raw = self.world.transaction(self.key, self.change(posting))
        result = self.world.ledger_block(raw).results[0]
        return Committed(0, result.id, self.world.ledger.height, int(result.code), result.text)

    async def news(self, timeout_ms: int | None) -> None:
        self._wait()

    async def pause(self, pause_ms: int) -> None:
        self._wait()

    def _wait(self) -> None:
        self.turns += 1
        self.world.now_ms += STEP_MS
        self.world.ledger_block()
        self.script(self.turns)
        blocks = self.world.log.blocks
        while self.batcher.next_diff <= len(self.world.diffs):
            self.batcher.add_diff(self.world.diffs[self.batcher.next_diff - 1])
        while self.batcher.next_block <= len(blocks):
            block = blocks[self.batcher.next_block - 1]
            certificate = self.world.log.certificate(block.header)
            self.batcher.add_chunk(OrderedChunk([block], certificate))
        if self.turns > 2_000:
            raise AssertionError(f"the prover gets nowhere: {self.told[-10:]}")

    async def synced(self) -> None:
        return

    def timed(self, build: Callable[[], T]) -> T:
        return build()

    def moved(self) -> None:
        self.restarts += 1

    def tell(self, what: str, number: int, code: int = 0, text: str = "") -> None:
        del code, text
        self.told.append((what, number))

    def count(self, batch: Batch | None, posting: PostBatch | None) -> None:
        assert batch is not None or posting is not None


def until(
    done: Callable[[], bool], act: Callable[[int], object] = lambda turn: None
) -> Callable[[int], None]:
    """A script that acts, and ends once something is the case."""

    def script(turn: int) -> None:
        act(turn)
        if done():
            raise Done

    return script


def make_hosts(tmp_path: Path, world: World) -> tuple[Host, Host]:
    for name in ("prover", "rival"):
        (tmp_path / name).mkdir()
    return (
        Host(world, key_of("prover"), tmp_path / "prover"),
        Host(world, key_of("rival"), tmp_path / "rival"),
    )


def wrong(posting: PostBatch) -> PostBatch:
    """A batch that claims another state."""
    return replace(posting, header=replace(posting.header, post_state_root=b"\x66" * 32))


def settle_wrong(world: World, host: Host) -> None:
    """Have the host's next batch settled with a state root that is wrong."""
    while host.batcher.next_block <= len(world.log.blocks):
        block = world.log.blocks[host.batcher.next_block - 1]
        host.batcher.add_chunk(OrderedChunk([block], world.log.certificate(block.header)))
        host.batcher.add_diff(world.diffs[host.batcher.next_diff - 1])
    _, posting = host.settlement.build(world.now_ms)
    outcome = world.ledger_block(world.transaction(host.key, wrong(posting)))
    assert outcome.results[0].code == Code.OK, outcome.results[0].text


def test_provers_take_turns(tmp_path: Path) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    world.work()
    one.run(until(lambda: ("settled", 1) in one.told))
    world.work()
    began_ms = world.now_ms
    one.run(until(lambda: ("settled", 2) in one.told))
    assert world.now_ms - began_ms >= TURN_MS, "the second batch was the other's to post"
    two.run(until(lambda: ("followed", 2) in two.told))
    assert two.batcher.tree.root == one.batcher.tree.root
    world.work()
    world.work()
    two.run(until(lambda: ("settled", 3) in two.told))
    assert [one.prover for one in world.headers()] == [
        key_of("prover").public, key_of("prover").public, key_of("rival").public,
    ]  # fmt: skip


def test_a_bond_is_offered_and_forgotten_with_the_way_back(tmp_path: Path) -> None:
    world = World()
    one, _ = make_hosts(tmp_path, world)
    world.work()
    one.run(until(lambda: ("settled", 1) in one.told))
    assert world.headers()[0].bond_uusd == BOND_UUSD and one.store.header(1) is not None
    one.run(until(lambda: one.poster.final_batch == 1))
    assert one.store.header(1) is None and one.store.ledger_height() > 0


def test_a_prover_without_memory_follows_final_batches_and_keeps_no_way_back(
    tmp_path: Path,
) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    for number in (1, 2, 3):
        world.work(number)
        one.run(until(lambda number=number: ("settled", number) in one.told))  # type: ignore[misc]
    one.run(until(lambda: one.poster.final_batch == 1))
    two.run(until(lambda: ("followed", 3) in two.told))
    assert [two.store.header(number) is None for number in (1, 2, 3)] == [True, False, False]
    assert two.batcher.tree.root == one.batcher.tree.root


def test_a_wrong_batch_is_waited_for_and_replaced(tmp_path: Path) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    world.work()
    settle_wrong(world, two)
    root = one.batcher.tree.root
    one.run(until(lambda: one.poster.wrong_batch == 1))
    assert one.batcher.position.number == 0 and one.batcher.tree.root == root
    one = one.restart()
    one.run(until(lambda: one.poster.wrong_batch == 1, lambda turn: world.work()))
    world.remove(1)
    one.run(until(lambda: ("settled", 1) in one.told))
    assert one.poster.wrong_batch == 0
    header = world.headers()[0]
    assert header.prover == one.key.public and header.last_block == len(world.log.blocks)
    assert header.post_state_root == StateTree(sorted(world.engine.leaves().items())).root


def test_a_wrong_batch_that_becomes_final_stops_the_prover(tmp_path: Path) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    world.work()
    settle_wrong(world, two)
    with pytest.raises(SafetyViolation, match="contradicts our execution"):
        one.poster.run(None).send(None)


@pytest.mark.parametrize("restart", [False, True])
def test_removed_batches_of_ours_are_posted_again(tmp_path: Path, restart: bool) -> None:
    world = World()
    one, _ = make_hosts(tmp_path, world)
    for number in (1, 2, 3):
        world.work(number)
        one.run(until(lambda number=number: ("settled", number) in one.told))  # type: ignore[misc]
    roots = [header.post_state_root for header in world.headers()]
    assert world.ledger.final().batch < 2
    world.remove(2)
    if restart:
        one = one.restart()
    one.told.clear()
    one.run(until(lambda: ("settled", 2) in one.told))
    assert one.restarts == 1 and one.poster.taken_back == 2
    headers = world.headers()
    assert len(headers) == 2 and headers[1].last_block == 3
    assert headers[1].post_state_root == roots[2]
    entries = one.store.withdrawal(2)
    assert entries is not None and entries[0] == 2 and len(entries[1]) == 2
    assert dict(one.store.leaves()) == dict(one.batcher.tree.iterate()) == world.engine.leaves()


def test_a_batch_that_another_prover_posted_first_is_followed(tmp_path: Path) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    world.work()

    def rival(posting: PostBatch) -> PostBatch:
        # Just before ours arrives, the rival's longer batch does.
        if not world.headers():
            world.work()
            two.run(until(lambda: ("settled", 1) in two.told))
            world.work()
        return posting

    one.change = rival
    one.run(until(lambda: ("followed", 1) in one.told and ("settled", 2) in one.told))
    assert ("taken_back", 1) in one.told and one.restarts == 0
    assert [header.last_block for header in world.headers()] == [2, 3]
    assert one.batcher.tree.root == StateTree(sorted(world.engine.leaves().items())).root


def test_the_same_batch_of_another_prover_is_as_good(tmp_path: Path) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    world.work()

    def rival(posting: PostBatch) -> PostBatch:
        if not world.headers():
            two.run(until(lambda: ("settled", 1) in two.told))
        return posting

    one.change = rival
    one.run(until(lambda: ("followed", 1) in one.told))
    assert one.poster.taken_back == 0 and one.store.unsettled() is None
    assert world.headers()[0].prover == two.key.public


def test_a_posting_from_before_a_restart_that_lost_is_taken_back(tmp_path: Path) -> None:
    world = World()
    one, two = make_hosts(tmp_path, world)
    world.work()

    def crash(posting: PostBatch) -> PostBatch:
        raise Done

    one.change = crash
    one.run(lambda turn: None)
    assert one.store.unsettled() == 1
    two.run(until(lambda: ("settled", 1) in two.told, lambda turn: turn < 3 and world.work()))
    one = one.restart()
    one.run(until(lambda: ("followed", 1) in one.told))
    assert one.restarts == 1 and one.store.unsettled() is None
    assert one.batcher.tree.root == two.batcher.tree.root


def test_a_removed_batch_is_noticed_while_nothing_else_happens(tmp_path: Path) -> None:
    world = World()
    one, _ = make_hosts(tmp_path, world)
    world.work()
    one.run(until(lambda: ("settled", 1) in one.told))
    one.told.clear()
    one.run(until(lambda: ("settled", 1) in one.told, lambda turn: turn == 7 and world.remove(1)))
    assert one.poster.taken_back == 1 and len(world.headers()) == 1


def test_without_windows_and_rivals_no_way_back_is_kept(tmp_path: Path) -> None:
    world = PipelineWorld()
    position, tree = genesis(world.chain)
    batcher = make_batcher(world.chain, world.prover.public, tree, position)
    store = ProverStore(tmp_path)
    store.begin(position, list(tree.iterate()))
    diff = world.execute(inbox_height=0)
    block = world.log.blocks[0]
    batcher.add_chunk(OrderedChunk([block], world.log.certificate(block.header)))
    batcher.add_diff(diff)
    batch = batcher.build(1)
    store.write(batch, batcher.position, None)
    assert batch.undo is None and not batcher.can_take_back and store.header(1) is None
    with pytest.raises(SafetyViolation, match="taken back"):
        store.rewind(0)
    with pytest.raises(SafetyViolation, match="taken back"):
        batcher.take_back()
