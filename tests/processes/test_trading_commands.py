"""The command line against a running exchange: every kind of order, what became of it, market data,
and a liquidation whose receipt is proven offline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from cluster_world import ROOT, Cluster, call, data, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_orders_of_every_kind_and_what_became_of_them(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    placed = await data(
        cluster, "order", "BTC-PERP", "buy", "0.5", "59900", "--client-id", "7", "--expires", "10m"
    )
    assert (placed["status"], placed["remaining_lots"]) == ("resting", 500)
    await data(
        cluster, "order", "BTC-PERP", "sell", "0.2", "59900", "--tif", "ioc", "--client-id", "3",
        "--as", "trader-01",
    )  # fmt: skip
    kept, taken = await asyncio.gather(
        data(cluster, "order-status", "7", "--client-id"),
        data(cluster, "order-status", "3", "--client-id", "--as", "trader-01"),
    )
    assert (kept["status"], kept["filled"], kept["remaining"]) == ("resting", "0.2", "0.3")
    assert (taken["status"], taken["average"]) == ("filled", "59900")
    changed = await data(cluster, "modify", "BTC-PERP", str(placed["order_id"]), "0.4", "59950")
    old = await data(cluster, "order-status", str(placed["order_id"]))
    assert old["replaced_by"] == changed["order_id"]
    scaled = await data(
        cluster, "scale", "BTC-PERP", "sell", "0.6", "60100", "60500", "--orders", "3",
        "--weights", "rising", "--as", "trader-02",
    )  # fmt: skip
    assert [row["remaining_lots"] for row in scaled["results"]] == [100, 200, 300]
    quote = await data(
        cluster, "quote", "ETH-PERP", "--bid", "2999:1", "--ask", "3001:1", "--as", "trader-02"
    )
    assert quote["status"] == "resting"
    status, _, err = await call(cluster, "order", "BTC-PERP", "buy", "9", "60100", "--tif", "fok")
    assert status == 3 and "not_fillable" in err
    status, _, err = await call(cluster, "cancel", "BTC-PERP")
    assert status == 0, err
    assert (await data(cluster, "account"))["orders"] == []


async def test_an_action_is_traced_through_the_five_states(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    placed = await data(cluster, "order", "BTC-PERP", "buy", "0.1", "59000")
    traced = await data(cluster, "trace", f"{placed['action_id']}:1", "--wait", "final")
    states = [step["state"] for step in traced["steps"]]
    assert sorted(set(states), key=states.index) == [
        "accepted", "ordered", "executed", "settled", "final",
    ]  # fmt: skip
    assert (traced["code"], traced["actions"]) == (0, ["Order"])
    assert traced["height"] == placed["height"] and traced["prover"] == "prover-0"
    assert all(step["time_ms"] > 0 for step in traced["steps"])
    status, _, err = await call(cluster, "trace", "ab" * 32)
    assert status == 3 and "not_found" in err
    status, out, _ = await call(cluster, "cancel", "BTC-PERP")
    shown = out.split("action ")[-1].strip()
    assert status == 0 and (await data(cluster, "trace", shown))["actions"] == ["CancelAll"]


async def test_what_waits_and_what_the_account_is(testnet_cluster: Cluster) -> None:
    cluster, who = testnet_cluster, ("--as", "trader-03")
    await data(cluster, "bracket", "ETH-PERP", "buy", "1", "3001", "--take-profit", "3100",
               "--stop", "2900", *who)  # fmt: skip
    await data(cluster, "trigger", "BTC-PERP", "sell", "0.1", "trailing", "500", "--client-id", "4",
               *who)  # fmt: skip
    linked = await data(cluster, "oco", "BTC-PERP", "sell", "0.1", "--price", "61000",
                        "--stop", "58000", "--wait", "settled", *who)  # fmt: skip
    assert linked["latency_ms"]["settled"] >= linked["latency_ms"]["executed"]
    await data(cluster, "twap", "BTC-PERP", "sell", "0.2", "1m", "--client-id", "5", *who)
    await data(cluster, "dead-man", "1h", *who)
    capped = await data(cluster, "leverage", "BTC-PERP", "10", "--wait", "settled", *who)
    await data(cluster, "protection", "ETH-PERP", "5", "1s", "--wait", "ordered", *who)
    moved = await data(cluster, "transfer", "1000", "2:ETH-PERP", "--wait", "final", *who)
    assert "settled" in capped["latency_ms"] and "final" in moved["latency_ms"]
    for action in (("leverage", "BTC-PERP", "1000"), ("transfer", "1", "0")):
        status, _, err = await call(cluster, *action, "--wait", "final", *who)
        assert status == 3 and "rejected: " in err, err
    late = ("leverage", "BTC-PERP", "10", "--wait", "final", "--timeout", "0.001")
    status, _, err = await call(cluster, *late, *who)
    assert status == 4 and "see: trilemma trace " in err, err
    held = await data(cluster, "account", *who)
    assert {one["kind"] for one in held["triggers"]} == {"take-profit", "stop", "trailing"}
    assert len(held["twaps"]) == 1 and held["dead_man_ms"] > 0
    assert [one["leverage"] for one in held["settings"]] == [10, 0]
    assert moved["to_account"] in held["accounts"]
    sub = await data(cluster, "account", "--sub", "2:ETH-PERP", *who)
    assert (sub["account"], sub["cash_uusd"]) == (moved["to_account"], 1_000_000_000)
    report = await data(cluster, "margin", *who)
    assert report["positions"][-1]["market"] == "ETH-PERP"
    assert report["free_uusd"] <= report["equity_uusd"]
    seen = await data(cluster, "preview", "ETH-PERP", "sell", "1", "2999", *who)
    assert seen["filled"] == "1" and seen["after"]["positions"][0]["market"] == "BTC-PERP"
    assert (await call(cluster, "cancel", "--all", *who))[0] == 0
    held = await data(cluster, "account", *who)
    assert held["orders"] == held["triggers"] == held["twaps"] == []


async def test_a_withdrawal_says_how_it_is_paid_should_the_command_end(
    testnet_cluster: Cluster,
) -> None:
    who = ("--as", "trader-04")
    status, out, err = await call(testnet_cluster, "withdraw", "5", "--json", *who)
    assert status == 0, err
    assert f"trilemma payout {json.loads(out)['withdrawal']}\n" in err


async def test_market_data_and_modes(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    stats, trades, candles, book = await asyncio.gather(
        data(cluster, "stats", "BTC-PERP"),
        data(cluster, "trades", "BTC-PERP"),
        data(cluster, "candles", "BTC-PERP", "--interval", "1h"),
        data(cluster, "book", "ETH-PERP"),
    )
    (one,) = stats["markets"]
    assert one["last"] == trades["trades"][0]["price"] and one["mode"] == "open"
    assert sum(candle["trades"] for candle in candles["candles"]) >= len(trades["trades"]) > 0
    assert book["bids"] and book["checksum"]
    voted = await data(cluster, "vote", "AAPL-PERP", "halted", "--wait", "settled")
    assert (voted["market"], voted["mode"], voted["status"]) == ("AAPL-PERP", "halted", "done")
    assert "settled" in voted["latency_ms"]
    status, _, err = await call(cluster, "order", "AAPL-PERP", "buy", "1", "500")
    assert status == 3 and "market_halted" in err
    await data(cluster, "vote", "AAPL-PERP", "open")


async def test_a_liquidation_and_its_receipt(testnet_cluster: Cluster, tmp_path: Path) -> None:
    cluster, who = testnet_cluster, ("--as", "trader-05", "--sub", "2")
    await data(cluster, "transfer", "1100", "2", "--as", "trader-05")
    await data(cluster, "order", "GOOG-PERP", "sell", "15", "578", "--as", "trader-06")
    await data(cluster, "order", "GOOG-PERP", "buy", "15", "578", "--tif", "ioc", *who)
    await data(cluster, "order", "GOOG-PERP", "buy", "100", "530", "--as", "trader-07")
    before = await data(cluster, "margin", *who)
    assert 500 < float(before["positions"][0]["liquidation"]) < 570
    following = asyncio.ensure_future(first_line(cluster))
    await call(cluster, "oracle", "--price", "GOOG-PERP=530", "--every", "0.2", "--seconds", "2")

    async def told() -> bool:
        return (await data(cluster, "liquidations"))["receipts"] > 0

    await eventually("a liquidation", told)
    found = await data(cluster, "liquidations")
    events = [entry["event"] for entry in found["entries"]]
    assert events[0] == "begun" and "receipt" in events
    assert json.loads(await asyncio.wait_for(following, 30))["event"] == "begun"
    file = tmp_path / "receipt.json"
    fetched = await data(cluster, "receipt", "0", "--out", str(file))
    assert fetched["proven"]["market"] == "GOOG-PERP" and fetched["batch"] > 0
    assert (await call(cluster, "verify-receipt", str(file)))[0] == 0
    root = fetched["state_root"]
    assert (await call(cluster, "verify-receipt", str(file), "--state-root", root))[0] == 0
    wrong = "00" + root[2:] if root[:2] != "00" else "11" + root[2:]
    status, _, err = await call(cluster, "verify-receipt", str(file), "--state-root", wrong)
    assert status == 6 and "invalid proof" in err
    file.write_text(file.read_text().replace('"number": 0', '"number": 1'))
    assert (await call(cluster, "verify-receipt", str(file)))[0] == 6
    assert (await call(cluster, "receipt", "99"))[0] == 3


async def first_line(cluster: Cluster) -> str:
    """The first line of `trilemma liquidations --follow`."""
    environment = {**os.environ, "TRILEMMA_TESTNET": str(cluster.testnet.directory)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", "liquidations", "--follow", "--json", cwd=ROOT,
        env=environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        return (await process.stdout.readline()).decode()
    finally:
        process.terminate()
        await process.wait()


async def test_what_is_known_survives_a_kill(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    before = await asyncio.gather(
        data(cluster, "order-status", "1"),
        data(cluster, "trades", "BTC-PERP"),
        data(cluster, "liquidations"),
    )
    pid = cluster.supervisor.pid("execution-0")
    assert pid is not None
    os.kill(pid, 9)

    async def same() -> bool:
        after = await asyncio.gather(
            call(cluster, "order-status", "1", "--json"),
            call(cluster, "trades", "BTC-PERP", "--json"),
            call(cluster, "liquidations", "--json"),
        )
        if any(status for status, _, _ in after):
            return False
        status, trades, liquidations = (json.loads(out) for _, out, _ in after)
        return (
            status == before[0]
            and trades["trades"] == before[1]["trades"]
            and liquidations["entries"] == before[2]["entries"]
        )

    await eventually("the same answers after a restart", same)


async def test_load_that_is_interrupted_reports_what_it_did(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    begun = await cluster.number("sequencer-0", "ordered_actions")
    load = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", "--testnet", str(cluster.testnet.directory), "load",
        "--rate", "200", "--batch", "5", "--accounts", "4", "--seconds", "600", "--json", cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def flows() -> bool:
        return await cluster.number("sequencer-0", "ordered_actions") - begun > 100

    await eventually("the load flows", flows)
    load.send_signal(signal.SIGINT)
    out, err = await load.communicate()
    assert load.returncode == 0 and b"sending ends" in err, err
    report = json.loads(out)
    assert report["lost"] == 0 and report["actions"] == report["executed"] > 100
    assert (await data(cluster, "account", "--as", "trader-01"))["orders"] == [], "it cleans up"
