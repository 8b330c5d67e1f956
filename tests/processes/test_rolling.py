"""Upgrades under load: every process restarted in turn, and an event stream that changes nodes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from cluster_world import Cluster, SteadyTrader, audited, call, eventually, running_cluster

from client.channel import Channel
from client.stream import EventStream
from cluster.faults_wire import clear_faults, order_faults
from cluster.testnet import TestnetOptions
from net.injection_plan import Plan, Toxic
from protocol.events import BlockEvents

OPTIONS = TestnetOptions(free_ports=True, executions=2, challengers=1, traders=4)

pytestmark = pytest.mark.timeout(600)


class Recorder:
    """A client's event stream, kept: every block must follow on the one before."""

    def __init__(self, cluster: Cluster) -> None:
        addresses = cluster.testnet.addresses("execution")
        self.channel = Channel(cluster.chain, "execution", addresses, 60_000)
        self._others = Channel(cluster.chain, "execution", addresses, 500)
        self.stream = EventStream(self.channel, 1, others=self._others)
        self.next_seq = 1
        self.heights: list[int] = []
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async for block in self.stream.blocks():
            self.take(block)

    def take(self, block: BlockEvents) -> None:
        assert block.first_seq == self.next_seq, "a gap or a repeat"
        assert len(block.events) == block.next_seq - block.first_seq
        self.next_seq = block.next_seq
        self.heights.append(block.height)

    def check(self) -> None:
        if self._task.done():
            self._task.result()

    def node(self) -> tuple[str, int]:
        """Host and port of the node that serves the stream now."""
        endpoint = self.channel.endpoint
        return ("", 0) if endpoint is None else (endpoint.host, endpoint.port)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for channel in (self.channel, self._others):
            await channel.close()


async def caught_up(cluster: Cluster, recorder: Recorder, node: str) -> bool:
    recorder.check()
    return recorder.next_seq >= await cluster.number(node, "next_seq")


async def traded(trader: SteadyTrader, more: int) -> None:
    """Wait until that many more orders had exactly their result."""
    goal = trader.done + more

    async def holds() -> bool:
        trader.check()
        return trader.done >= goal

    await eventually(f"{more} more orders", holds)


async def test_every_process_is_restarted_under_load_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    async with running_cluster(tmp_path, OPTIONS) as cluster:
        async with cluster.exchange() as exchange:
            trader = SteadyTrader(exchange, "trader-00")
            recorder = Recorder(cluster)
            trader.start()
            await traded(trader, 10)
            before, done = cluster.pids(), trader.done
            status, _, err = await call(cluster, "restart", "--rolling")
            trader.check()
            assert status == 0, err
            lines = [line for line in err.splitlines() if "ready after" in line]
            assert [line.split()[0] for line in lines] == cluster.names
            after = cluster.pids()
            assert all(after[name] not in (None, before[name]) for name in cluster.names)
            assert trader.done > done, "nothing was traded meanwhile"
            await traded(trader, 10)
            await trader.stop()
            assert exchange.tracker.duplicated == 0 and exchange.tracker.open == 0
            # The stream was served by a node that went away, so it did change nodes.
            assert recorder.stream.reconnects > 0
            for node in ("execution-0", "execution-1"):
                await eventually(
                    f"the stream reaches {node}",
                    lambda node=node: caught_up(cluster, recorder, node),
                )
            await recorder.close()
        assert (await audited(cluster)).roots_agree


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_the_event_stream_goes_on_at_the_other_node(tmp_path: Path, fault: str) -> None:
    async with running_cluster(tmp_path, OPTIONS) as cluster:
        recorder = Recorder(cluster)
        async with cluster.exchange() as exchange:
            trader = SteadyTrader(exchange, "trader-00")
            trader.start()
            await traded(trader, 4)
            await eventually("the stream begins", lambda: begins(recorder))
            serving, other = served_by(cluster, recorder)
            if fault == "killed":
                await cluster.supervisor.kill(serving)
            else:
                cluster.supervisor.send_signal(serving, signal.SIGSTOP)
            # The client's own stream moves too: its orders get their results.
            await traded(trader, 10)
            await eventually("the stream goes on", lambda: caught_up(cluster, recorder, other))
            await eventually("it has moved", lambda: moved(cluster, recorder, other))
            await trader.stop()
            assert exchange.tracker.duplicated == 0
            if fault == "paused":
                cluster.supervisor.send_signal(serving, signal.SIGCONT)
            else:
                await cluster.supervisor.restart(serving)
            await cluster.supervisor.wait_ready(names=[serving])
        await recorder.close()


async def begins(recorder: Recorder) -> bool:
    recorder.check()
    return recorder.next_seq > 1


async def moved(cluster: Cluster, recorder: Recorder, other: str) -> bool:
    return recorder.node() == cluster.address(other)


async def test_a_node_that_falls_behind_is_left_and_one_that_lags_is_no_obstacle(
    tmp_path: Path,
) -> None:
    """The node that serves the stream gets nothing from the sequencer any more, and lives on."""
    async with running_cluster(tmp_path, OPTIONS) as cluster:
        recorder = Recorder(cluster)
        async with cluster.exchange() as exchange:
            trader = SteadyTrader(exchange, "trader-00")
            trader.start()
            await traded(trader, 4)
            await eventually("the stream begins", lambda: begins(recorder))
            serving, other = served_by(cluster, recorder)
            cut = Plan(toxics=[Toxic("cut", "timeout", [serving])])
            await order_faults(cluster.testnet.process("sequencer-0"), cut)
            await eventually("the stream leaves it", lambda: moved(cluster, recorder, other))
            await traded(trader, 10)
            await trader.stop()
            assert exchange.tracker.duplicated == 0
        reached = await cluster.number(other, "next_seq")
        assert await cluster.number(serving, "next_seq") < reached
        # A second client asks the node that lags for what it knows from the other one.
        addresses = [cluster.testnet.process(name).public for name in (serving, other)]
        channel = Channel(cluster.chain, "execution", addresses, 60_000)
        block = await anext(EventStream(channel, reached - 1).blocks())
        assert (block.first_seq, block.next_seq) == (reached - 1, reached)
        await channel.close()
        await eventually("all events arrive", lambda: caught_up(cluster, recorder, other))
        await clear_faults(cluster.testnet.process("sequencer-0"))
        await eventually("it catches up", lambda: agree(cluster, serving, other))
        await recorder.close()


def served_by(cluster: Cluster, recorder: Recorder) -> tuple[str, str]:
    """The node that serves the stream, and the other one."""
    names = ("execution-0", "execution-1")
    at = next(name for name in names if cluster.address(name) == recorder.node())
    return at, names[1 - names.index(at)]


async def agree(cluster: Cluster, one: str, other: str) -> bool:
    return await cluster.number(one, "next_seq") == await cluster.number(other, "next_seq")
