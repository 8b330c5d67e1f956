"""Processes told over HTTP to suffer: cut and one-way links, resets, wrong clocks, slow disks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster_world import Cluster, audited, eventually
from injection_world import bit, order, traded, trading

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

VICTIM = "validator-3"
OTHERS = ["validator-0", "validator-1", "validator-2"]
BLOCKS = 8
"""So many blocks more are progress."""


def cut(*peers: str) -> dict[str, Any]:
    """Nothing that is sent to these peers arrives."""
    return {"toxics": [{"name": "cut", "type": "timeout", "peers": list(peers)}]}


async def grown(cluster: Cluster, name: str, above: int) -> int:
    """Wait until a validator's height is above `above`; its height."""

    async def reached() -> bool:
        return await cluster.number(name, "height") > above

    await eventually(f"{name} is above block {above}", reached)
    return await cluster.number(name, "height")


async def test_a_validator_cut_off_stops_and_catches_up_when_the_network_heals(
    testnet_cluster: Cluster,
) -> None:
    cluster = testnet_cluster
    async with trading(cluster) as trader:
        await order(cluster, VICTIM, cut(*OTHERS))
        for name in OTHERS:
            await order(cluster, name, cut(VICTIM))
        stopped = await cluster.number(VICTIM, "height")
        head = await grown(cluster, OTHERS[0], stopped + 2 * BLOCKS)
        behind = await cluster.number(VICTIM, "height")
        assert behind < head - BLOCKS, "the validator that nobody reaches goes on"
        assert (await bit(cluster, OTHERS[1]))["peers"][VICTIM]["blocked_frames"] > 0
        await traded(trader)
        for name in [VICTIM, *OTHERS]:
            await order(cluster, name, {})
        await grown(cluster, VICTIM, head)
    assert cluster.supervisor.restarts(VICTIM) == 0


async def test_a_validator_that_is_not_heard_still_follows(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    async with trading(cluster):
        await order(cluster, VICTIM, cut("*"))
        head = await grown(cluster, OTHERS[0], await cluster.number(OTHERS[0], "height") + BLOCKS)
        await grown(cluster, VICTIM, head)
        found = (await bit(cluster, VICTIM))["peers"]
        assert all(found[name]["blocked_frames"] > 0 for name in OTHERS), found
        await order(cluster, VICTIM, {})
        await grown(cluster, VICTIM, head + BLOCKS)


@pytest.mark.parametrize("name", ["sequencer-0", "execution-0", "validator-1"])
async def test_resets_under_load_lose_nothing(testnet_cluster: Cluster, name: str) -> None:
    cluster = testnet_cluster
    toxic = {"name": "reset", "type": "reset_peer", "peers": ["*", "clients"]}
    before = resets(await bit(cluster, name))
    async with trading(cluster) as trader:
        for _ in range(4):
            await traded(trader)
            await order(cluster, name, {"toxics": [toxic]})
            await asyncio.sleep(0.2)
            await order(cluster, name, {})
        await traded(trader)
    assert resets(await bit(cluster, name)) >= before + 4
    assert trader.reconnects > 0 or name == "validator-1", "the trader asks no validator"


def resets(found: dict[str, Any]) -> int:
    """How many connections a process has reset."""
    return sum(peer.get("reset_connections", 0) for peer in found["peers"].values())


async def test_lost_frames_between_processes_stop_nobody(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    toxic = {
        "name": "lossy", "type": "loss", "peers": ["*"], "attributes": {"loss_ppm": 20_000},
    }  # fmt: skip
    async with trading(cluster) as trader:
        for name in cluster.names:
            await order(cluster, name, {"toxics": [toxic], "seed": 5})
        await traded(trader)

        async def lossy() -> bool:
            counts = {name: (await bit(cluster, name))["peers"] for name in OTHERS[1:]}
            return all(
                sum(peer.get("lost_frames", 0) for peer in counts[name].values()) > 5
                for name in counts
            )

        await eventually("frames of every validator are lost", lossy)
        await traded(trader)
        for name in cluster.names:
            await order(cluster, name, {})
    assert all(cluster.supervisor.restarts(name) == 0 for name in cluster.names)


@pytest.mark.parametrize("skew_ms", [-3_600_000, -10_000, 10_000, 3_600_000])
@pytest.mark.parametrize("name", [VICTIM, "sequencer-0", "execution-0", "prover-0"])
async def test_a_wrong_clock_stops_neither_the_chain_nor_its_process(
    testnet_cluster: Cluster, name: str, skew_ms: int
) -> None:
    cluster = testnet_cluster
    async with trading(cluster) as trader:
        await order(cluster, name, {"clocks": [{"name": "off", "skew_ms": skew_ms}]})
        await grown(cluster, OTHERS[0], await cluster.number(OTHERS[0], "height") + BLOCKS)
        await traded(trader)
        off_ms = (await bit(cluster, name))["clock_off_ms"]
        assert off_ms > 5_000 if skew_ms > 0 else off_ms < 0
        await order(cluster, name, {})
        await grown(cluster, VICTIM, await cluster.number(OTHERS[0], "height") + BLOCKS)
    assert cluster.supervisor.restarts(name) == 0


@pytest.mark.parametrize("name", [VICTIM, "sequencer-0", "prover-0"])
async def test_a_slow_disk_slows_and_stops_nobody(testnet_cluster: Cluster, name: str) -> None:
    cluster = testnet_cluster
    before = (await bit(cluster, name))["disk"]["delayed_syncs"]
    async with trading(cluster):
        await order(cluster, name, {"disks": [{"name": "slow", "delay_ms": 50}]})

        async def delayed() -> bool:
            return int((await bit(cluster, name))["disk"]["delayed_syncs"]) > int(before) + 5

        await eventually("syncs are slow", delayed)
        await order(cluster, name, {})
    assert cluster.supervisor.restarts(name) == 0


async def test_everything_is_settled_as_the_data_says(testnet_cluster: Cluster) -> None:
    report = await audited(testnet_cluster)
    assert report.batches > 0
