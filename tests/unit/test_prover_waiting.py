"""What waits for settlement is bounded in bytes; nothing is lost by it, and nothing gets stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from ledger_world import OrderedLog, key_of, make_chain
from object_sizes import memory_of
from pipeline_world import DOLLAR, PipelineWorld
from service_world import serving_ports, until

from net.service import ClientSession
from protocol.actions import Order, Withdraw
from protocol.codec import encode
from protocol.events import BlockDiff, decode_block_diff
from protocol.messages import LogChunk, SubscribeLog
from protocol.messages_trading import DiffPush, SubscribeDiffs
from protocol.ordering import OrderedChunk, decode_ordered_block
from protocol.settlement import BatchHeader
from prover.batcher import Batcher, Position
from prover.process import ProverProcess
from prover.settlement import Settlement, genesis
from prover.tree import StateTree
from prover.waiting import chunk_bytes, diff_bytes
from store.config import ProcessConfig

MOST_BYTES = 20_000


class Streams:
    """A log and its diffs, given to a batcher only where it has room."""

    def __init__(self, most_bytes: int, *, removable: bool = False) -> None:
        self.chain = make_chain([], sequencers=1)
        self.log = OrderedLog(self.chain)
        self.chunks: list[OrderedChunk] = []
        self.diffs: list[BlockDiff] = []
        tree = StateTree()
        self.batcher = Batcher(
            self.chain.chain_id, 0, key_of("prover").public, tree,
            Position(0, 0, b"", tree.root, 0, 0), removable=removable, waiting_bytes=most_bytes,
        )  # fmt: skip
        self.most_seen = 0

    def order(self, sizes: list[tuple[int, int]]) -> None:
        """Blocks of one commit step, by the bytes of payload and changes."""
        first = len(self.log.blocks)
        for payload, changed in sizes:
            self.log.append(0, [bytes(payload)])
            header = self.log.blocks[-1].header
            key = header.height.to_bytes(8, "big")
            changes: list[tuple[bytes, bytes | None]] = [(key, key + bytes(changed))]
            self.diffs.append(BlockDiff(header.height, header.block_id(), 0, changes, [], 1))
        blocks = self.log.blocks[first:]
        self.chunks.append(OrderedChunk(blocks, self.log.certificate(blocks[-1].header)))

    def give_blocks(self) -> bool:
        """The next chunk, where there is one and room for it."""
        for chunk in self.chunks:
            if chunk.blocks[0].header.height == self.batcher.next_block:
                if self.batcher.takes_blocks():
                    self.batcher.add_chunk(chunk)
                    self._look()
                    return True
                return False
        return False

    def give_diff(self) -> bool:
        """The next diff, where there is one and room for it."""
        height = self.batcher.next_diff
        if height > len(self.diffs) or not self.batcher.takes_diffs():
            return False
        self.batcher.add_diff(self.diffs[height - 1])
        self._look()
        return True

    def fill(self) -> None:
        """Both, until neither goes on."""
        while self.give_blocks() or self.give_diff():
            pass

    def _look(self) -> None:
        self.most_seen = max(self.most_seen, self.batcher.waiting_bytes)


def test_a_stream_waits_where_its_bytes_are_used_up() -> None:
    streams = Streams(MOST_BYTES)
    for _ in range(100):
        streams.order([(500, 500)])
    streams.fill()
    batcher = streams.batcher
    assert 5 <= batcher.waiting_blocks <= 10 and 10 <= batcher.waiting_diffs <= 20
    assert streams.most_seen <= 2 * (MOST_BYTES + 5_000), "one more of each than there is room for"
    batcher.build(batcher.end_of_next())
    assert batcher.takes_blocks() and batcher.takes_diffs()


def test_everything_is_settled_whatever_the_bound_and_the_sizes() -> None:
    seed = Random().randrange(1 << 32)
    print("seed", seed)
    random = Random(seed)
    most_bytes = random.choice((1, 3_000, MOST_BYTES))
    streams, roomy = Streams(most_bytes, removable=True), Streams(1 << 30)
    for _ in range(60):
        step = [
            (random.choice((0, 50, 6_000)), random.choice((0, 40, 9_000)))
            for _ in range(random.randint(1, 4))
        ]
        streams.order(step)
        roomy.order(step)
    batcher = streams.batcher
    while batcher.position.block < len(streams.diffs):
        if random.random() < 0.3:
            streams.fill()
        while random.random() < 0.8:
            (streams.give_blocks if random.random() < 0.5 else streams.give_diff)()
        if batcher.end_of_next() == batcher.position.block:
            streams.fill()
        end = batcher.end_of_next()
        assert end > batcher.position.block, "nothing can be built, and nothing comes any more"
        before = batcher.waiting_bytes
        batcher.build(end)
        if random.random() < 0.2:
            batcher.take_back()
            assert batcher.waiting_bytes == before
    assert batcher.waiting_bytes == 0
    roomy.fill()
    roomy.batcher.build(roomy.batcher.end_of_next())
    assert batcher.position.state_root == roomy.batcher.position.state_root
    step_bytes = 4 * (2 * 6_000 + 9_000 + 4_000)
    assert streams.most_seen <= 2 * most_bytes + 3 * step_bytes


def test_diffs_without_blocks_are_bounded_and_go_on_when_blocks_come() -> None:
    streams = Streams(MOST_BYTES)
    streams.order([(100, 9_000)] * 6)
    for _ in range(20):
        streams.order([(100, 9_000)])
    while streams.give_diff():
        pass
    assert streams.batcher.waiting_diffs == 3, "there is room for two and a bit"
    assert streams.batcher.end_of_next() == 0
    assert streams.give_blocks()
    while streams.give_diff():
        pass
    assert streams.batcher.waiting_diffs == 6, "a commit step cannot be divided"
    assert streams.batcher.end_of_next() == 6


def test_a_batch_that_others_settled_has_room_however_large_it_is() -> None:
    world = PipelineWorld()
    diffs = [world.order(inbox_height=0)]
    diffs += [world.order(world.sign(world.bob, Withdraw(DOLLAR + n, world.bob.address)))
              for n in range(8)]  # fmt: skip
    settled: BatchHeader = world.settle()[0].header
    position, tree = genesis(world.chain)
    small = Batcher(
        world.chain.chain_id, 0, world.prover.public, tree, position,
        removable=True, waiting_bytes=1,
    )  # fmt: skip
    one = Settlement(small, 500, 30_000)

    def fill() -> None:
        while small.takes_blocks() and small.next_block <= 9:
            block = world.log.blocks[small.next_block - 1]
            small.add_chunk(OrderedChunk([block], world.log.certificate(block.header)))
        while small.takes_diffs() and small.next_diff <= 9:
            small.add_diff(diffs[small.next_diff - 1])

    fill()
    assert (small.waiting_blocks, small.waiting_diffs) == (1, 1)
    assert not one.reaches(settled)
    fill()
    assert one.reaches(settled)
    followed = one.follow(settled)
    assert followed is not None and followed.header == settled
    small.take_back()
    assert small.waiting_bytes > 0 and not small.takes_blocks()
    small.rewind(position, {})
    assert small.waiting_bytes == 0 and small.takes_blocks() and small.takes_diffs()


def test_bytes_are_about_what_the_objects_take() -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    orders = [world.sign(world.alice, Order(0, 0, 600_000 + n, 1)) for n in range(40)]
    for batches in ([], orders[:1], orders[1:]):
        diff = decode_block_diff(encode(world.order(*batches)))
        encoded = encode(world.log.blocks[-1])
        block = decode_ordered_block(encoded)
        certificate = world.log.certificate(block.header)
        real = memory_of([(block, encoded)]) + memory_of(certificate)
        counted = chunk_bytes([(block, encoded)], certificate)[0]
        assert real <= counted <= 2 * real, (real, counted)
        assert memory_of(diff) <= diff_bytes(diff) <= 2 * memory_of(diff)


# --- the process


class Sources:
    """A sequencer and an execution node of a world; a stream has at most so many blocks."""

    def __init__(self, world: PipelineWorld, diffs: list[BlockDiff], most: int) -> None:
        self.world = world
        self.diffs = diffs
        self.most = most
        self.asked: list[tuple[str, int]] = []
        self.sessions: list[ClientSession] = []

    def log(self, session: ClientSession, request: SubscribeLog) -> None:
        self.asked.append(("log", request.from_height))
        self.sessions.append(session)
        for block in self.world.log.blocks[request.from_height - 1 :][: self.most]:
            chunk = OrderedChunk([block], self.world.log.certificate(block.header))
            session.send(LogChunk(request.request_id, chunk))

    def execution(self, session: ClientSession, request: SubscribeDiffs) -> None:
        self.asked.append(("diffs", request.from_height))
        self.sessions.append(session)
        for diff in self.diffs[request.from_height - 1 :][: self.most]:
            session.send(DiffPush(request.request_id, encode(diff)))

    def hang_up(self) -> None:
        """End every stream."""
        sessions, self.sessions = self.sessions, []
        for session in sessions:
            session.link.abort("test")


@asynccontextmanager
async def following(sources: Sources, data: Path) -> AsyncIterator[ProverProcess]:
    """A prover that follows the sources, with little room, and settles nothing by itself."""
    world = sources.world
    async with (
        serving_ports(world.chain, "sequencer", SubscribeLog, (sources.log,)) as sequencers,
        serving_ports(world.chain, "execution", SubscribeDiffs, (sources.execution,)) as executions,
    ):
        config = ProcessConfig(
            "prover", "prover-0", 0, Path("g"), Path("k"), data, "127.0.0.1:1",
            validators=["127.0.0.1:1"], sequencers=[f"127.0.0.1:{port}" for _, port in sequencers],
            execution=[f"127.0.0.1:{port}" for _, port in executions],
        )  # fmt: skip
        process = ProverProcess(config, world.chain, world.prover)
        process._batcher._most_bytes = MOST_BYTES
        task = asyncio.ensure_future(process._follow())
        try:
            yield process
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            process._store.close()


@pytest.mark.parametrize("streams_end", [False, True])
async def test_a_prover_reads_later_what_it_had_no_room_for(
    tmp_path: Path, streams_end: bool
) -> None:
    world = PipelineWorld()
    diffs = [world.order(inbox_height=0)]
    for n in range(60):
        batch = world.sign(world.bob, *[Withdraw(DOLLAR + n, world.bob.address)] * 5)
        diffs.append(world.order(batch))
    sources = Sources(world, diffs, 15 if streams_end else len(diffs))
    async with following(sources, tmp_path) as process:
        batcher = process._batcher
        while batcher.position.block < len(diffs):
            await until(lambda: not batcher.takes_blocks() or batcher.next_block > len(diffs))
            await until(lambda: not batcher.takes_diffs() or batcher.next_diff > len(diffs))
            assert batcher.waiting_bytes <= 2 * (MOST_BYTES + 8_000)
            if streams_end:
                sources.hang_up()
            process.timed(lambda: batcher.build(batcher.end_of_next()))
        assert batcher.position.state_root == world.settle()[0].header.post_state_root
    assert len(sources.asked) >= 8 if streams_end else len(sources.asked) == 2
