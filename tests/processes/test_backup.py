"""Every role is backed up while it works, restored into an empty directory, and runs on; what was
restored without its voting state never signs with the old key."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from cluster_world import (
    DEADLINE_S,
    Cluster,
    audited,
    call,
    data,
    eventually,
    running_cluster,
)
from injection_world import traded, trading

from client.validators import bond, read_certificate_beside, validator_set
from cluster.join import prepare_validator
from cluster.testnet import TestnetOptions
from protocol.genesis import Staking
from protocol.messages import Status, StatusRequest
from store.config import load_config
from store.keyfiles import load_key
from store.ownership import OWNER_NAME, UNSIGNING, restored_as

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

USD = 1_000_000
STAKING = Staking(epoch_ms=4_000, min_stake_uusd=100 * USD)
PROGRESS = {
    "node": "height", "execution": "height", "prover": "batch", "challenger": "batch",
    "sequencer": "height",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    options = TestnetOptions(free_ports=True, traders=8, challengers=1, staking=STAKING)
    async with running_cluster(tmp_path_factory.mktemp("cluster"), options) as running:
        yield running


def data_of(cluster: Cluster, name: str) -> Path:
    return load_config(cluster.testnet.config_path(name)).data


async def backed_up(cluster: Cluster, name: str, folder: Path) -> Path:
    """A backup of a process that runs."""
    path = folder / f"{name}.backup"
    found = await data(cluster, "backup", name, "--out", str(path))
    (made,) = found["backups"]
    assert made["name"] == name and path.stat().st_mode & 0o777 == 0o600, made
    assert made["heights"] and (
        made["role"] == "challenger" or all(height > 0 for height in made["heights"].values())
    ), made
    return path


async def lost_and_restored(cluster: Cluster, name: str, backup: Path) -> Path:
    """The process loses its directory and starts from a backup; the directory."""
    directory = data_of(cluster, name)
    await cluster.supervisor.stop(name)
    shutil.rmtree(directory)
    status, out, err = await call(cluster, "restore", str(backup), "--data", str(directory))
    assert status == 0 and name in out, err
    await cluster.supervisor.restart(name)
    await cluster.supervisor.wait_ready(DEADLINE_S, [name])
    return directory


async def goes_on(cluster: Cluster, name: str) -> None:
    """It works on what came after the backup."""
    field = PROGRESS[cluster.testnet.process(name).role]
    begun = await cluster.number(name, field)

    async def moves() -> bool:
        return await cluster.number(name, field) > begun + 2

    await eventually(f"{name} goes on from {begun}", moves)


@pytest.mark.parametrize("name", ["execution-0", "prover-0", "challenger-0"])
async def test_a_follower_is_restored_and_goes_on(
    cluster: Cluster, name: str, tmp_path: Path
) -> None:
    async with trading(cluster) as trader:
        backup = await backed_up(cluster, name, tmp_path)
        await traded(trader)
        directory = await lost_and_restored(cluster, name, backup)
        assert restored_as(directory) == ""
        await goes_on(cluster, name)


async def test_a_validator_is_restored_and_validates_with_a_new_key(
    cluster: Cluster, tmp_path: Path
) -> None:
    name = "validator-3"
    async with trading(cluster):
        backup = await backed_up(cluster, name, tmp_path)
        directory = await lost_and_restored(cluster, name, backup)
        with closing(sqlite3.connect(directory / "validator.sqlite")) as database:
            for table in ("voting", "proposed"):
                assert database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0, table

        # With the old key it follows, and no more.
        await goes_on(cluster, name)
        assert restored_as(directory) == UNSIGNING
        status = await cluster.status(name)
        assert status["validating"] == "no" and not status.get("consensus_votes_sent"), status
        await restarts_unsigning(cluster, name)

        # With a new one, and stake, it takes part.
        await joins_from(cluster, backup, tmp_path / "fifth")


async def restarts_unsigning(cluster: Cluster, name: str) -> None:
    """A later start does not make it sign either."""
    await cluster.supervisor.restart(name)
    await cluster.supervisor.wait_ready(DEADLINE_S, [name])
    assert (await cluster.status(name))["validating"] == "no"
    assert restored_as(data_of(cluster, name)) == UNSIGNING


async def joins_from(cluster: Cluster, backup: Path, place: Path) -> None:
    """A validator with a new key begins with the stores of a backup, and votes."""
    made = prepare_validator(
        place, cluster.testnet, key_file=cluster.testnet.key_path("trader-05"), name="fifth"
    )
    store = load_config(made.config_path).data
    status, _, err = await call(cluster, "restore", str(backup), "--data", str(store))
    assert status == 0, err
    key = load_key(made.key_path)
    async with cluster.exchange() as exchange:
        await bond(exchange, key, 500 * USD, made.peer, read_certificate_beside(made.key_path))
        command = [sys.executable, "-m", "cluster.cli", "node", "--config", str(made.config_path)]
        process = spawned(command, place / "log")
        try:

            async def votes() -> bool:
                assert process.poll() is None, (place / "log").read_text()
                found = await validator_set(exchange)
                mine = [one for one in found.validators if one.public_key == key.public.hex()]
                return bool(mine and mine[0].voting_uusd)

            await eventually("the new key is of the epoch", votes)
            assert restored_as(store) == ""
            assert key.public.hex() in (store / OWNER_NAME).read_text()
            config = load_config(made.config_path)
            client = type(exchange)(cluster.chain, {"node": [config.public]})
            async with client:

                async def signs() -> bool:
                    values = (await client.channel("node").ask(Status, StatusRequest)).values
                    return values["validating"] == "yes"

                await eventually("it validates", signs)
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0, (place / "log").read_text()


def spawned(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


async def test_all_are_backed_up_at_once_and_nothing_secret_is_in_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    found = await data(cluster, "backup", "all", "--out", str(tmp_path / "all"))
    assert [one["name"] for one in found["backups"]] == cluster.names
    seeds = [path.read_text().strip() for path in (cluster.testnet.directory / "keys").iterdir()]
    for path in (tmp_path / "all").iterdir():
        raw = path.read_bytes()
        assert all(seed.encode() not in raw and bytes.fromhex(seed) not in raw for seed in seeds)
    for directory in (data_of(cluster, name) for name in cluster.names):
        assert not list(directory.glob(".backup*"))


async def test_a_backup_is_refused_with_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    backup = await backed_up(cluster, "validator-1", tmp_path)
    used = data_of(cluster, "validator-1")
    for arguments, words in (
        (["backup", "validator-1", "--out", str(backup)], "never overwritten"),
        (["backup", "nobody", "--out", str(tmp_path / "x")], "there is no process 'nobody'"),
        (["restore", str(backup), "--data", str(used)], "is not empty"),
    ):
        status, _, err = await call(cluster, *arguments)
        assert status == 2 and words in err, err
    raw = bytearray(backup.read_bytes())
    raw[len(raw) // 2] ^= 1
    backup.write_bytes(raw)
    status, _, err = await call(cluster, "restore", str(backup), "--data", str(tmp_path / "new"))
    assert status == 1 and f"the backup {backup} is damaged" in err, err
    assert not (tmp_path / "new").exists()


async def test_the_only_sequencer_is_restored_to_serve_its_log_and_no_more(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The last test: the exchange stands still afterwards, and everything ordered is served."""
    name = "sequencer-0"
    await audited(cluster)
    backup = await backed_up(cluster, name, tmp_path)
    directory = await lost_and_restored(cluster, name, backup)
    assert restored_as(directory) == UNSIGNING and not (directory / "consensus/0").exists()
    height = await cluster.number(name, "height")
    assert height > 0

    # An execution node that has nothing gets everything.
    await cluster.supervisor.stop("execution-0")
    shutil.rmtree(data_of(cluster, "execution-0"))
    await cluster.supervisor.restart("execution-0")

    async def executed() -> bool:
        return await cluster.number("execution-0", "height") >= height

    await eventually("the whole log is executed anew", executed)
    async with cluster.exchange(2_000) as exchange:
        trader = await exchange.trader("trader-03")
        submission = await trader.place(0, "buy", size="0.01", price="10000")
        with pytest.raises(TimeoutError, match="not accepted"):
            await submission.accepted(3_000)
    status = await cluster.status(name)
    assert status["height"] == height and status["accepted_batches"] == 0, status
