"""Proof files and archives of a running exchange, checked when all its processes have stopped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cluster_world import Cluster, call, data, eventually, running_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIQUIDATED = ("--as", "trader-05", "--sub", "2")


class Left:
    """What a testnet left behind."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.printed: dict[str, dict[str, Any]] = {}

    async def prove(self, *arguments: str, name: str = "") -> None:
        """Fetch a proof into a file, and keep what is in it."""
        kind = name or arguments[0]
        path = self.folder / f"{kind}.json"
        status, out, err = await call(self.cluster, "proof", *arguments, "--out", str(path))
        assert status == 0 and "settled in ledger block" in out, (arguments, err)
        self.files[kind] = path
        self.printed[kind] = json.loads(path.read_text())


async def _act(left: Left) -> None:
    """Trades, a resting order, a withdrawal, a liquidation."""
    cluster = left.cluster
    await data(cluster, "order", "BTC-PERP", "buy", "0.5", "59900")
    await data(cluster, "order", "BTC-PERP", "sell", "0.2", "59900", "--as", "trader-01")
    await data(cluster, "withdraw", "25", "--as", "trader-02")
    await data(cluster, "transfer", "1100", "2", "--as", "trader-05")
    await data(cluster, "order", "GOOG-PERP", "sell", "15", "578", "--as", "trader-06")
    await data(cluster, "order", "GOOG-PERP", "buy", "15", "578", "--tif", "ioc", *LIQUIDATED)
    await data(cluster, "order", "GOOG-PERP", "buy", "100", "530", "--as", "trader-07")
    await call(cluster, "oracle", "--price", "GOOG-PERP=530", "--every", "0.2", "--seconds", "2")

    async def told() -> bool:
        return (await data(cluster, "liquidations"))["receipts"] > 0

    await eventually("a liquidation", told)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def left(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Left]:
    """A testnet that has run and stopped, its proofs, and an archive from the public ports."""
    folder = tmp_path_factory.mktemp("left")
    async with running_cluster(folder) as cluster:
        left = Left(cluster, folder)
        await _act(left)
        orders = (await data(cluster, "account"))["orders"]
        await left.prove("account", "--as", "trader-02", "--final")
        await left.prove("account", "123456789", name="no account")
        await left.prove("position", "BTC-PERP", "--as", "trader-01")
        await left.prove("order", str(orders[0]["order_id"]))
        await left.prove("market", "BTC-PERP")
        await left.prove("withdrawal", "0", "--final")
        await left.prove("liquidation", "0")
        status, out, err = await call(cluster, "proof", "market", "ETH-PERP")
        assert status == 0, err
        left.printed["printed"] = json.loads(out)
        left.files["printed"] = folder / "printed.json"
        left.files["printed"].write_text(out)
        await data(cluster, "export", str(folder / "live.archive"))
    yield left


async def test_every_proof_holds_offline(left: Left) -> None:
    told = {}
    for kind, path in left.files.items():
        told[kind] = await data(left.cluster, "verify", str(path))
        status, text, err = await call(left.cluster, "verify", str(path))
        assert status == 0 and "holds under members of epoch 0" in text, err
        assert "settled in ledger block" in text and " the batch is " in text
        shown = left.printed[kind]
        assert told[kind]["proven"] == shown["proven"]
        assert told[kind]["ledger_time_ms"] == shown["ledger_time_ms"]
    assert told["account"]["final"] and told["account"]["proven"]["exists"]
    assert not told["no account"]["proven"]["exists"]
    assert told["position"]["proven"]["size"] == "-0.2"
    assert told["order"]["proven"]["remaining"] == "0.3"
    assert told["market"]["proven"]["mark"]
    assert told["withdrawal"]["proven"]["amount_uusd"] == 25_000_000 and told["withdrawal"]["final"]
    assert told["liquidation"]["proven"]["market"] == "GOOG-PERP"
    file = str(left.files["liquidation"])
    assert (await data(left.cluster, "verify-receipt", file))["proven"]["number"] == 0
    genesis = left.cluster.testnet.genesis_path
    arguments = ("verify", file, "--genesis", str(genesis), "--testnet", "/nowhere")
    assert (await call(left.cluster, *arguments[:4]))[0] == 0


async def test_forged_cut_and_unknown_files_are_refused(left: Left) -> None:
    forged = left.folder / "forged.json"
    for number, (kind, path) in enumerate(left.files.items()):
        text = json.loads(path.read_text())
        proof = text["proof"]
        middle = len(proof) // 2
        flipped = proof[:middle] + format(int(proof[middle], 16) ^ 1, "x") + proof[middle + 1 :]
        changes: list[dict[str, Any]] = [
            {"batch": text["batch"] + 1}, {"final": not text["final"]}, {"proven": {}},
            {"ledger_time_ms": 0}, {"proof": flipped}, {"proof": proof[:-2]},
        ]  # fmt: skip
        # Every change of the first file, and one of each other.
        for change in changes if not number else [{"proof": flipped}]:
            forged.write_text(json.dumps(text | change))
            status, _, err = await call(left.cluster, "verify", str(forged))
            assert status == 6 and "invalid proof" in err, (kind, change.keys(), err)
    forged.write_text(path.read_text()[:-40])
    status, _, err = await call(left.cluster, "verify", str(forged))
    assert status == 6 and "cut or damaged" in err
    forged.write_text(json.dumps(text | {"kind": "elephant"}))
    status, _, err = await call(left.cluster, "verify", str(forged))
    assert status == 2 and "known kind" in err
    assert (await call(left.cluster, "verify", str(left.folder / "none")))[0] == 2


async def test_audits_offline(left: Left) -> None:
    cluster, testnet = left.cluster, left.cluster.testnet
    node = str(testnet.data_path(testnet.of_role("node")[0].name))
    execution = str(testnet.data_path(testnet.of_role("execution")[0].name))
    live = await data(cluster, "audit", "--archive", str(left.folder / "live.archive"))
    archive = left.folder / "archive"
    wrote = await data(cluster, "export", str(archive), "--data", node, "--states", "2")
    assert wrote["ledger_blocks"] >= live["ledger_blocks"] and wrote["states"]
    whole = await data(cluster, "audit", "--archive", str(archive))
    assert whole["batches"] >= live["batches"] and whole["actions"] > 0
    stored = await data(cluster, "audit", "--data", node, "--against", execution)
    # How many certificates there are depends on how the blocks come.
    assert stored | {"certificates": whole["certificates"]} == whole
    assert await data(cluster, "audit", "--archive", str(archive), "--jobs", "2") == whole
    begin = wrote["states"][0]
    part = await data(cluster, "audit", "--archive", str(archive), "--from", str(begin))
    assert (part["from_batch"], part["state_root"]) == (begin, whole["state_root"])
    status, out, err = await call(cluster, "audit", "--data", node, "--state", execution)
    assert (status == 0 and "from the end of batch" in out) or "no usable snapshot" in err
    raw = archive.read_bytes()
    archive.write_bytes(raw[:-100])
    status, _, err = await call(cluster, "audit", "--archive", str(archive))
    assert status == 6 and "cut" in err
    middle = len(raw) // 2
    archive.write_bytes(raw[:middle] + bytes([raw[middle] ^ 4]) + raw[middle + 1 :])
    status, _, err = await call(cluster, "audit", "--archive", str(archive))
    assert status == 6 and "damaged" in err
