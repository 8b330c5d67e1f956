"""The compose cluster: the client on this host trades on it, settles, audits, and breaks parts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from compose_cluster import PROJECT, ComposeCluster, eventually

from client.sdk import Exchange
from store.testnet import Testnet

pytestmark = pytest.mark.timeout(1800)

IMAGE = "trilemma:latest"
IMAGE_BYTES = 450_000_000
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


def is_healthy(cluster: ComposeCluster, name: str) -> bool:
    return bool(cluster.inspected(name)["State"]["Health"]["Status"] == "healthy")


def test_every_container_gets_healthy(cluster: ComposeCluster) -> None:
    for name in cluster.names:
        eventually(f"{name} is healthy", lambda name=name: is_healthy(cluster, name))


def test_containers_run_as_an_ordinary_user_on_a_file_system_they_cannot_write(
    cluster: ComposeCluster,
) -> None:
    for name in cluster.names:
        found = cluster.inspected(name)
        host = found["HostConfig"]
        assert found["Config"]["User"].partition(":")[0] not in ("", "0", "root")
        assert cluster.docker("exec", found["Id"], "id", "-u") not in ("", "0")
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0 and host["PidsLimit"] > 0
        writable = [mount["Destination"] for mount in found["Mounts"] if mount["RW"]]
        assert writable == ["/data"]
        for folder in ("/", "/opt/trilemma", "/testnet", "/etc"):
            with pytest.raises(RuntimeError, match="Read-only file system"):
                cluster.docker("exec", found["Id"], "touch", f"{folder}/x")
        for published in host["PortBindings"].values():
            assert [each["HostIp"] for each in published] == ["127.0.0.1"]


def test_a_container_sees_its_own_key_alone_and_no_secret_is_elsewhere(
    cluster: ComposeCluster,
) -> None:
    testnet = Testnet.load(cluster.testnet)
    image = cluster.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    for name in cluster.names:
        found = cluster.inspected(name)
        inside = cluster.docker("exec", found["Id"], "find", "/testnet", "-type", "f")
        assert sorted(inside.split()) == [
            f"/testnet/config/{name}.toml", "/testnet/genesis.json", f"/testnet/keys/{name}.key"
        ]  # fmt: skip
        key = testnet.key_path(name).read_text().strip()
        assert key not in str(found) and key not in image
        assert not [each for each in found["Config"]["Env"] if "KEY" in each or "SECRET" in each]


def test_the_image_holds_what_runs_and_nothing_that_installs(cluster: ComposeCluster) -> None:
    found = json.loads(cluster.docker("image", "inspect", IMAGE))[0]
    assert found["Size"] < IMAGE_BYTES
    for absent in ("pip", "apt-get", "perl", "gcc"):
        with pytest.raises(RuntimeError):
            cluster.docker("run", "--rm", "--network", "none", "--entrypoint", absent, IMAGE)
    keys = ("--entrypoint", "find", IMAGE, "/", "-xdev", "-name", "*.key")
    assert not cluster.docker("run", "--rm", "--network", "none", "--user", "0", *keys)


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


@pytest.mark.parametrize(
    "name", ["validator-0", "sequencer-0", "execution-0", "prover-0", "challenger-0"]
)
def test_a_killed_process_comes_back_with_what_it_knew(cluster: ComposeCluster, name: str) -> None:
    before = position(cluster, BUYER)
    cluster.docker("kill", cluster.container(name))
    cluster.docker("start", cluster.container(name))
    eventually(f"{name} serves again", lambda: heights(cluster)[name] is not None)
    eventually("positions are back", lambda: position(cluster, BUYER) == before)
    trade(cluster, "0.2")
    assert position(cluster, BUYER) == before + 200


def test_every_container_is_replaced_in_turn_while_orders_go_on(cluster: ComposeCluster) -> None:
    """A rolling upgrade: compose makes each container anew from the image of that moment."""
    before = {name: cluster.inspected(name)["Id"] for name in cluster.names}
    held, traded = position(cluster, BUYER), 0
    restarting = cluster.start("restart", "--rolling")
    while restarting.poll() is None:
        trade(cluster, "0.1")
        traded += 1
    output = restarting.communicate()[0]
    assert restarting.returncode == 0, output
    assert traded > 0
    for name in cluster.names:
        assert cluster.inspected(name)["Id"] != before[name]
        eventually(f"{name} is healthy", lambda name=name: is_healthy(cluster, name))
    trade(cluster, "0.1")
    assert position(cluster, BUYER) == held + 100 * (traded + 1)


def test_at_the_end_everything_still_agrees(cluster: ComposeCluster) -> None:
    assert audited_actions(cluster) >= 4
