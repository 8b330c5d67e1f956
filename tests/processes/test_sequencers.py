"""Four sequencers as processes: kills under load, of the leader too, and no quorum for a while."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, Cluster, audited, data, eventually, running_cluster

from client.load import LoadGenerator, LoadOptions
from client.load_report import LoadReport
from client.sdk import SUBMIT
from cluster.testnet import TestnetOptions

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

COUNT = 4
NAMES = [f"sequencer-{n}" for n in range(COUNT)]
RATE, BATCH, SECONDS = 400, 5, 300.0
SEED = int(os.environ.get("TRILEMMA_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
"""Seed of the load; set TRILEMMA_SEED to have a run's flow again."""

Fault = Callable[[LoadGenerator], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    directory: Path = tmp_path_factory.mktemp("sequencers")
    options = TestnetOptions(validators=1, sequencers=COUNT, traders=16, free_ports=True)
    async with running_cluster(directory, options) as running:
        yield running


async def heights(cluster: Cluster, names: list[str]) -> list[int]:
    return [await cluster.number(name, "height") for name in names]


async def agreed(cluster: Cluster) -> None:
    """Wait until all sequencers have the same log and nothing waits anywhere."""

    async def same() -> bool:
        found = [await cluster.status(name) for name in NAMES]
        return len({one["height"] for one in found}) == 1 and not any(one["pool"] for one in found)

    await eventually("the sequencers agree", same)


async def kill(cluster: Cluster, name: str) -> None:
    await cluster.supervisor.kill(name)
    assert cluster.supervisor.pid(name) is None


async def bring_back(cluster: Cluster, *names: str) -> None:
    for name in names:
        await cluster.supervisor.restart(name)
    await cluster.supervisor.wait_ready(DEADLINE_S, list(names))


async def executed_more(generator: LoadGenerator, actions: int) -> None:
    target = generator.counts()["executed"] + actions

    async def reached() -> bool:
        return generator.counts()["executed"] >= target

    await eventually("load flows", reached)


def serving(cluster: Cluster, generator: LoadGenerator) -> str:
    """The sequencer to which the load is submitted now."""
    endpoint = generator._exchange._channel(SUBMIT, "sequencer").endpoint
    assert endpoint is not None
    address = f"{endpoint.host}:{endpoint.port}"
    return next(one for one in NAMES if cluster.testnet.process(one).public == address)


async def under_load(cluster: Cluster, fault: Fault) -> LoadReport:
    """Run load until the fault is over; everything sent must be executed once and settled."""
    print(f"seed {SEED}")
    async with cluster.exchange() as exchange:
        options = LoadOptions(
            rate=RATE, batch=BATCH, seconds=SECONDS, accounts=8, seed=SEED, clean_up=False,
            drain_s=120.0, settle_s=120.0,
        )  # fmt: skip
        generator = LoadGenerator(exchange, options)
        running = asyncio.ensure_future(generator.run())
        try:
            await executed_more(generator, RATE // 4)
            await fault(generator)
            generator.stop()
            report = await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    print(report)
    assert (report.lost, report.duplicated, report.refused) == (0, 0, 0), report
    assert report.accepted == report.executed == report.settled == report.actions, report
    return report


async def test_one_sequencer_then_the_leader_then_the_one_of_the_clients_die_under_load(
    cluster: Cluster,
) -> None:
    async def fault(generator: LoadGenerator) -> None:
        await kill(cluster, NAMES[3])
        await executed_more(generator, RATE // 2)
        await bring_back(cluster, NAMES[3])
        leader = str((await cluster.status(NAMES[3]))["leader"]) or NAMES[2]
        await kill(cluster, leader)
        await executed_more(generator, RATE // 2)
        await bring_back(cluster, leader)
        theirs = serving(cluster, generator)
        await kill(cluster, theirs)
        await executed_more(generator, RATE // 2)
        await bring_back(cluster, theirs)
        assert serving(cluster, generator) != theirs

    await under_load(cluster, fault)
    await agreed(cluster)
    report = await audited(cluster)
    assert report.roots_agree and report.money_conserved
    status = await cluster.status(NAMES[0])
    assert (status["members"], status["peers"]) == (COUNT, COUNT - 1)


async def lie(cluster: Cluster, name: str, how: str) -> None:
    """Start a sequencer again that lies from now on; empty: an honest one."""
    path = cluster.testnet.config_path(name)
    kept = [one for one in path.read_text().splitlines() if not one.startswith("byzantine =")]
    await cluster.supervisor.stop(name)
    path.write_text("\n".join([f'byzantine = "{how}"'] * bool(how) + kept) + "\n")
    await bring_back(cluster, name)


async def test_false_prices_of_a_sequencer_take_nobodys_room(cluster: Cluster) -> None:
    await lie(cluster, NAMES[3], "false-prices")

    async def fault(generator: LoadGenerator) -> None:
        await executed_more(generator, 4 * RATE)

    await under_load(cluster, fault)
    await agreed(cluster)
    assert await cluster.number(NAMES[3], "lies_told") > 0
    for name in NAMES[:3]:
        assert await cluster.number(name, "passed_refused_bad_signature") > 0
    await lie(cluster, NAMES[3], "")
    assert (await audited(cluster)).roots_agree


async def test_a_sequencer_that_signs_against_itself_leaves_evidence(cluster: Cluster) -> None:
    await lie(cluster, NAMES[2], "equivocates")

    async def fault(generator: LoadGenerator) -> None:
        async def caught() -> bool:
            found = [await cluster.number(NAMES[n], "evidence") for n in (0, 1, 3)]
            return found.count(1) > 1  # each met two blocks or votes, or at least the most of them

        await eventually("others keep evidence", caught)

    await under_load(cluster, fault)
    await lie(cluster, NAMES[2], "")
    await agreed(cluster)
    assert (await audited(cluster)).roots_agree
    shown = await data(cluster, "evidence")
    assert {row["sequencer"] for row in shown["evidence"]} == {NAMES[2]}


async def test_without_a_quorum_nothing_is_ordered_and_all_of_it_is_when_it_is_back(
    cluster: Cluster,
) -> None:
    down = NAMES[2:]

    async def fault(generator: LoadGenerator) -> None:
        for name in down:
            await kill(cluster, name)
        await asyncio.sleep(1.0)  # what had been voted for may still commit
        before = await heights(cluster, NAMES[:2])
        accepted = generator.counts()["accepted"]
        await asyncio.sleep(3.0)
        assert await heights(cluster, NAMES[:2]) == before
        assert generator.counts()["accepted"] > accepted, "batches are still accepted"
        async with cluster.exchange() as exchange:  # and reads are served
            assert (await exchange.book(0, 1)).mark_ticks > 0
        await bring_back(cluster, *down)
        await executed_more(generator, RATE // 2)

    await under_load(cluster, fault)
    await agreed(cluster)
    assert (await audited(cluster)).roots_agree


async def test_a_frozen_sequencer_holds_up_neither_clients_nor_followers(cluster: Cluster) -> None:
    """It keeps its connections and says nothing: whoever talks to it must go elsewhere."""

    async def fault(generator: LoadGenerator) -> None:
        frozen = serving(cluster, generator)
        cluster.supervisor.send_signal(frozen, signal.SIGSTOP)
        try:
            await executed_more(generator, RATE)
            assert serving(cluster, generator) != frozen
        finally:
            cluster.supervisor.send_signal(frozen, signal.SIGCONT)

    await under_load(cluster, fault)
    await agreed(cluster)
    assert (await audited(cluster)).roots_agree
