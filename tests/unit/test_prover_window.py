"""What a challenger remembers of open batches stands in files, and is still what it was."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from challenger_world import CAROL, Watch
from dispute_world import DOLLAR, RULES, DisputeWorld, mint
from ledger_world import key_of

import prover.challenger
from protocol.actions import Withdraw
from protocol.dispute import STEPS_PER_BLOCK
from protocol.errors import Code
from prover.contest import FAULTS
from prover.game import Trace
from prover.process_challenger import empty_log
from prover.tree import StateTree
from store.faults import disk
from store.files import DiskRefuses
from store.segments import SegmentLog

ALICE = key_of("alice")
Changes = dict[bytes, bytes | None]


@pytest.fixture(autouse=True)
def sound_disk() -> Iterator[None]:
    """No fault before and after."""
    disk.order()
    yield
    disk.order()


class CountedLog(SegmentLog):
    """A log that counts what is read from it."""

    reads = 0

    def read(self, index: int) -> bytes:
        self.reads += 1
        return super().read(index)


def changes_of(rng: random.Random) -> Changes:
    """What a block may change: 50 of 500 leaves."""
    return {b"%04d" % rng.randrange(500): rng.randbytes(60) for _ in range(50)}


# --- games


def test_moves_out_of_files_are_those_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = reads = dropped = final = 0
    for seed in range(16):
        print("seed", seed)
        rng = random.Random(seed)
        monkeypatch.setattr(prover.challenger, "SEGMENT_BYTES", (1, 3_000)[seed % 2])
        world, log = DisputeWorld(), CountedLog(tmp_path / str(seed), 2_000)
        watches = [Watch(world), Watch(world, records=log, held_bytes=(0, 3_000)[seed // 2 % 2])]
        for _ in range(40):
            happen(rng, world)
            moves += play(world, *watches)
        log.close()
        reads, dropped = reads + log.reads, dropped + log.first_index
        final += watches[0].machine.final.batch
    print(moves, "moves", reads, "reads", dropped, "records dropped", final, "batches final")
    assert min(moves, reads, dropped, final) > 20


def play(world: DisputeWorld, one: Watch, other: Watch) -> int:
    """Both challengers say the same, and win with it; how many moves that took."""
    moves = 0
    while True:
        move = one.next_move()
        assert move == other.next_move()
        agree(one, other)
        if move is None:
            return moves
        moves += 1
        assert world.send(CAROL, move) == Code.OK
        if world.game(one.machine.next, CAROL) is not None:
            world.defend(one.machine.next, CAROL)


def test_a_move_reads_what_is_newer_once_and_not_for_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every record is read on the way back and again on the way forth, however many blocks a move
    shows; a tree led to each of them alone reads all that is newer each time."""
    monkeypatch.setattr(prover.challenger, "SEGMENT_BYTES", 1)
    world, log = DisputeWorld(), CountedLog(tmp_path, 2_000)
    watch = Watch(world, records=log, held_bytes=0)
    world.fill(1)
    world.post()
    world.fill(40)
    world.post(mint(20))
    opened = watch.next_move()
    assert opened is not None and world.send(CAROL, opened) == Code.OK
    world.defend(2, CAROL)
    log.reads = 0
    watch.look()
    steps, trace = watch.machine._steps, watch.machine._trace
    assert steps is not None
    at = [index * STEPS_PER_BLOCK for index in range(len(steps.blocks) + 1)]
    roots = watch.machine._player.roots(steps, at)
    print(log.reads, "reads")
    assert log.reads <= 3 * len(at)
    assert roots == [trace.roots([block])[0] for block in range(1, 42)]


def happen(rng: random.Random, world: DisputeWorld) -> None:
    """Blocks are ordered, batches settled, false ones too, right ones lost, or windows end."""
    shard, final = world.ledger.shard_leaf(), world.ledger.final()
    waiting = len(world.log.blocks) - shard.last_block
    act = rng.random()
    if act < 0.4 or not waiting:
        for _ in range(rng.randint(1, 4)):
            amount_uusd = rng.randint(1, 9) * DOLLAR
            paid = world.act(ALICE, Withdraw(amount_uusd, ALICE.address))
            world.order(*[paid] * rng.randint(0, 1), inbox_height=0)
    elif act < 0.75:
        upto = shard.last_block + rng.randint(1, waiting)
        world.post(mint() if rng.random() < 0.2 else None, upto)
    elif act < 0.9 and shard.batch > final.batch:
        number = rng.randint(final.batch + 1, shard.batch)
        if world.open(number, ALICE, bytes(32)) == Code.OK:
            world.wait(RULES.clock_ms + 1_000)
    else:
        world.wait(rng.randint(1, RULES.window_ms // 1_000) * 1_000)


def agree(one: Watch, other: Watch) -> None:
    """Both challengers know the same."""
    mine, theirs = one.machine, other.machine
    for name in ("next", "settled", "wrong", "lost", "final", "game", "block", "checked_blocks"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert mine.final_state() == theirs.final_state()


def test_a_challenger_remembers_batches_and_not_their_blocks(tmp_path: Path) -> None:
    world = DisputeWorld()
    watch = Watch(world, records=SegmentLog(tmp_path), held_bytes=0)
    for _ in range(5):
        world.fill(40)
        world.post()
    watch.catch_up()
    machine = watch.machine
    remembered = [value for value in vars(machine).values() if isinstance(value, dict | list)]
    assert machine.block == 200 and machine.next == 6
    assert max(map(len, remembered)) <= 6


# --- memory and disk


def test_what_is_old_takes_no_memory(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, 100_000)
    kept_bytes = grown(Trace(StateTree(), 0))
    away_bytes = grown(Trace(StateTree(), 0, log, 50_000))
    print(kept_bytes, away_bytes, log.stored_bytes)
    assert kept_bytes > 2_000_000 > log.stored_bytes > 600_000 > 300_000 > away_bytes


def grown(trace: Trace) -> int:
    """Bytes of memory that 200 blocks of ten thousand changes take, beside the tree's."""
    rng = random.Random(1)
    for _ in range(100):
        trace.extend([changes_of(rng)])
    tracemalloc.start()
    for _ in range(200):
        trace.extend([changes_of(rng)])
    size_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size_bytes


def test_files_go_with_the_blocks_that_become_final(tmp_path: Path) -> None:
    rng = random.Random(2)
    trace = Trace(StateTree(), 0, SegmentLog(tmp_path, 20_000), 50_000)
    for _ in range(100):
        trace.extend([changes_of(rng)])
    many = len(list(tmp_path.iterdir()))
    trace.forget(90)
    few = len(list(tmp_path.iterdir()))
    assert many > 20 and few <= 4 and (trace.first, trace.last) == (90, 100)


@pytest.mark.parametrize("held_bytes", [0, 1 << 20])
def test_a_full_disk_stops_it_with_a_word(tmp_path: Path, held_bytes: int) -> None:
    """At once where the disk is needed, and not at all where it is not."""
    world = DisputeWorld()
    watch = Watch(world, records=SegmentLog(tmp_path, 2_000), held_bytes=held_bytes)
    disk.order(full=True)
    for _ in range(10):
        world.fill(10)
        world.post()
    if held_bytes:
        watch.catch_up()
        assert watch.machine.block == 100
        return
    with pytest.raises(DiskRefuses, match="make room on its disk") as caught:
        watch.catch_up()
    assert not isinstance(caught.value, FAULTS)


def test_what_an_earlier_run_left_is_removed_even_where_it_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "window"
    log = empty_log(folder)
    log.append(b"old")
    log.close()
    (folder / "00000000000000000007.seg").write_bytes(b"garbage")
    log = empty_log(folder)
    assert (log.first_index, log.next_index) == (0, 0)
    trace = Trace(StateTree(), 0, log, 0)
    rng = random.Random(4)
    states = []
    for _ in range(5):
        trace.extend([changes_of(rng)])
        states.append(trace.leaves(trace.last))
    assert [trace.leaves(block) for block in range(1, 6)] == states
    log.close()


def test_records_of_somebody_else_in_the_log_do_not_disturb(tmp_path: Path) -> None:
    """Where a file of an earlier run could not be removed."""
    log = SegmentLog(tmp_path)
    log.append(b"old")
    trace, rng = Trace(StateTree(), 0, log, 0), random.Random(5)
    roots = []
    for _ in range(5):
        trace.extend([changes_of(rng)])
        roots += trace.roots([trace.last])
    assert trace.roots(range(1, 6)) == roots
