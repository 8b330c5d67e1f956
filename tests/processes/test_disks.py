"""Full and read-only disks: the process ends with status 1 and says what to do, loses nothing that
it acknowledged, and goes on by itself once it can write; on orders, and on real small disks."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_world import Cluster, audited, eventually
from injection_world import order, traded, trading

from store.config import load_config

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

NAMES = ["validator-3", "sequencer-0", "execution-0", "prover-0"]
FULL, READ_ONLY = "make room on its disk", "mount its file system for writing"
SMALL_BYTES = 64 * 1024 * 1024


async def ended(cluster: Cluster, name: str, restarts: int) -> None:
    """Wait until a process has ended once more than so often, by itself and in good order."""

    async def gone() -> bool:
        return cluster.supervisor.restarts(name) > restarts

    await eventually(f"{name} has ended", gone)
    assert cluster.supervisor.exit_status(name) == 1, cluster.log(name)[-2000:]


async def serves(cluster: Cluster, name: str) -> None:
    """Wait until a process goes on with its work."""
    field = {"execution": "height", "prover": "settled"}.get(name.split("-")[0], "height")

    async def at_work() -> bool:
        values = await cluster.status(name)
        return field not in values or int(values[field]) > 0

    await eventually(f"{name} is back", at_work)


def require_told(cluster: Cluster, name: str, printed: int, remedy: str) -> None:
    """After its first `printed` characters it has told what path it cannot write, and a way out."""
    told = cluster.log(name)[printed:]
    assert "cannot write " in told and f"/data/{name}" in told and remedy in told, told[-2000:]
    assert "Traceback" not in told, told[-4000:]


@pytest.mark.parametrize(
    ("fault", "remedy"), [("full", FULL), ("read_only", READ_ONLY)], ids=["full", "read-only"]
)
@pytest.mark.parametrize("name", NAMES)
async def test_a_process_whose_disk_refuses_ends_and_goes_on_later(
    testnet_cluster: Cluster, name: str, fault: str, remedy: str
) -> None:
    cluster = testnet_cluster
    restarts, printed = cluster.supervisor.restarts(name), len(cluster.log(name))
    async with trading(cluster):
        await order(cluster, name, {"disks": [{"name": fault, fault: True}]})
        await ended(cluster, name, restarts)
        require_told(cluster, name, printed, remedy)
        await serves(cluster, name)


# --- for real


@contextmanager
def small_disk(data: Path) -> Iterator[None]:
    """Put a small file system in the place of a directory, with what was in it."""
    aside = data.with_name(f"{data.name}.aside")
    data.rename(aside)
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "trilemma-test", str(data)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        mounted = None
    if mounted is None or mounted.returncode:
        data.rmdir()
        aside.rename(data)
        pytest.skip(f"no file system may be mounted here: {mounted.stderr if mounted else ''}")
    try:
        shutil.copytree(aside, data, dirs_exist_ok=True)
        yield
        shutil.rmtree(aside)
        shutil.copytree(data, aside)
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)
        data.rmdir()
        aside.rename(data)


def remount(data: Path, how: str) -> None:
    """Let nothing be written to a small disk (`ro`), or again (`rw`)."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(data)], check=True)


def fill(data: Path) -> Path:
    """Take all the room there is; the file that does."""
    filler = data / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
    except OSError:
        pass
    return filler


@pytest.mark.parametrize("name", NAMES)
async def test_a_real_disk_without_room_is_survived(testnet_cluster: Cluster, name: str) -> None:
    cluster = testnet_cluster
    data = load_config(cluster.testnet.config_path(name)).data
    supervisor = cluster.supervisor
    await supervisor.stop(name)
    with small_disk(data):
        await supervisor.restart(name)
        async with trading(cluster) as trader:
            restarts, printed = supervisor.restarts(name), len(cluster.log(name))
            filler = fill(data)
            await ended(cluster, name, restarts + 1)  # it stays full for a start that fails
            require_told(cluster, name, printed, FULL)
            filler.unlink()
            await serves(cluster, name)
            await traded(trader)
        await supervisor.stop(name)
    await supervisor.restart(name)
    await serves(cluster, name)


@pytest.mark.parametrize("name", NAMES)
async def test_a_real_disk_that_is_read_only_is_survived(
    testnet_cluster: Cluster, name: str
) -> None:
    cluster = testnet_cluster
    data = load_config(cluster.testnet.config_path(name)).data
    supervisor = cluster.supervisor
    await supervisor.stop(name)
    with small_disk(data):
        restarts, printed = supervisor.restarts(name), len(cluster.log(name))
        remount(data, "ro")
        await supervisor.restart(name)
        await ended(cluster, name, restarts)
        require_told(cluster, name, printed, READ_ONLY)
        remount(data, "rw")
        await serves(cluster, name)
        await supervisor.stop(name)
    await supervisor.restart(name)
    async with trading(cluster):
        await serves(cluster, name)


async def test_everything_acknowledged_is_settled(testnet_cluster: Cluster) -> None:
    await asyncio.sleep(0)
    assert (await audited(testnet_cluster)).batches > 0
