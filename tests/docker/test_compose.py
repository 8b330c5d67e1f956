"""The compose cluster: the client on this host trades on it, settles, audits, and breaks parts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from compose_cluster import PROJECT, ComposeCluster, eventually

from client.sdk import Exchange

pytestmark = pytest.mark.timeout(1800)

BUYER, SELLER = "trader-01", "trader-00"


def trade(cluster: ComposeCluster, size: str) -> dict[str, Any]:
    """The seller rests, the buyer takes it all; the taker's outcome, settled."""
    rest = cluster.trilemma("order", "BTC-PERP", "sell", size, "60000", "--as", SELLER)
    assert rest["status"] == "resting", rest
    take = ("order", "BTC-PERP", "buy", size, "60000", "--as", BUYER, "--wait", "settled")
    taken: dict[str, Any] = cluster.trilemma(*take, "--timeout", "90")
    assert taken["status"] == "filled" and taken["remaining_lots"] == 0, taken
    assert "settled" in taken["latency_ms"], taken
    return taken


def position(cluster: ComposeCluster, trader: str) -> int:
    """The trader's BTC-PERP position in lots, asked for with the SDK on this host."""

    async def ask() -> int:
        async with Exchange.connect(cluster.testnet, patience_ms=5_000) as exchange:
            view = await exchange.account_of(exchange.key(trader).address)
            return sum(held.size_lots for held in view.positions if held.market == 0)

    return asyncio.run(ask())


def audited_actions(cluster: ComposeCluster) -> int:
    report = cluster.trilemma("audit")
    assert report["roots_agree"] and report["money_conserved"], report
    return int(report["actions"])


def heights(cluster: ComposeCluster) -> dict[str, int | None]:
    return {row["name"]: row["height"] for row in cluster.trilemma("status")["processes"]}


def has_caught_up(cluster: ComposeCluster, name: str) -> bool:
    found = heights(cluster)
    others = [height for other, height in found.items() if other.startswith("validator")]
    mine = found[name]
    return mine is not None and mine >= max(height for height in others if height is not None) - 2


def test_orders_from_the_host_are_matched_settled_and_audited(cluster: ComposeCluster) -> None:
    before = position(cluster, BUYER), position(cluster, SELLER)
    trade(cluster, "0.5")
    assert position(cluster, BUYER) - before[0] == 500
    assert position(cluster, SELLER) - before[1] == -500
    assert audited_actions(cluster) >= 2


def test_every_container_runs_as_an_ordinary_user_and_gets_healthy(
    cluster: ComposeCluster,
) -> None:
    for name in heights(cluster):
        container = cluster.container(name)
        assert cluster.docker("exec", container, "id", "-u") not in ("", "0")
        state = ("inspect", "--format", "{{.State.Health.Status}}", container)
        eventually(f"{name} is healthy", lambda state=state: cluster.docker(*state) == "healthy")


def test_trading_goes_on_while_a_validator_is_dead_and_it_catches_up(
    cluster: ComposeCluster,
) -> None:
    cluster.docker("kill", cluster.container("validator-3"))
    assert heights(cluster)["validator-3"] is None
    trade(cluster, "0.1")
    cluster.docker("start", cluster.container("validator-3"))
    eventually("validator-3 catches up", lambda: has_caught_up(cluster, "validator-3"))


def test_trading_goes_on_while_a_validator_is_cut_off(cluster: ComposeCluster) -> None:
    container = cluster.container("validator-2")
    network = f"{PROJECT}_trilemma"
    cluster.docker("network", "disconnect", network, container)
    assert heights(cluster)["validator-2"] is None
    trade(cluster, "0.1")
    cluster.docker("network", "connect", "--alias", "validator-2", network, container)
    eventually("validator-2 catches up", lambda: has_caught_up(cluster, "validator-2"))


@pytest.mark.parametrize("name", ["execution-0", "prover-0", "sequencer-0"])
def test_a_killed_process_comes_back_with_what_it_knew(cluster: ComposeCluster, name: str) -> None:
    before = position(cluster, BUYER)
    cluster.docker("kill", cluster.container(name))
    cluster.docker("start", cluster.container(name))
    eventually(f"{name} serves again", lambda: heights(cluster)[name] is not None)
    eventually("positions are back", lambda: position(cluster, BUYER) == before)
    trade(cluster, "0.2")
    assert position(cluster, BUYER) == before + 200


def test_at_the_end_everything_still_agrees(cluster: ComposeCluster) -> None:
    assert audited_actions(cluster) >= 4
