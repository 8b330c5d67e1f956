"""The experiments of the project in their short form, on real processes; and `trilemma faults`.

By default one for each row of the failure model; TRILEMMA_EXPERIMENTS=all runs every one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import pytest
from cluster_world import ROOT, Cluster, call, data, eventually

from cluster.faults_report import PAGE, PICTURE, TIMELINE, read_report, write_report
from cluster.faults_run import RunOptions, run_experiment
from cluster.faults_schedule import load_experiment
from cluster.faults_soak import SOAK, SOAK_PAGE, SOAK_PICTURE, VITALS
from cluster.faults_verdict import SAFETY

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

USUAL = (
    "validator-killed", "validators-down", "execution-killed", "wrong-batch", "prover-dead",
    "power-loss", "censorship", "bad-input", "oracle-wild",
)  # fmt: skip
FILES = sorted(path for path in (ROOT / "faults").glob("*.toml") if path.stem != "soak")
EVERY = os.environ.get("TRILEMMA_EXPERIMENTS") == "all"
NAMES = [path.stem for path in FILES if EVERY or path.stem in USUAL]
SEED = int(os.environ.get("TRILEMMA_SEED", "0")) or SystemRandom().randrange(1, 1 << 31)


@pytest.mark.parametrize("name", NAMES)
async def test_experiment(name: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    experiment = load_experiment(ROOT / "faults" / f"{name}.toml").short()
    lines: list[str] = []
    report = await run_experiment(
        experiment,
        RunOptions(seed=SEED),
        lambda at_s, what, text: lines.append(f"{at_s:6.1f} s  {what}: {text}"),
    )
    print("\n".join([*lines, *report.lines()]))
    assert report.status == 0, [check for check in report.checks if not check.ok]
    assert sum(check.kind == SAFETY for check in report.checks) >= 5
    planned = [band for band in report.bands if not band.drawn]
    assert report.bands and all(band.evidence for band in planned), "a fault never bit"
    assert len(report.samples) >= 5
    write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    page = (tmp_path / PAGE).read_text()
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert all(band.text.replace("&", "&amp;")[:20] in page for band in report.bands)
    kinds = {next(iter(json.loads(line))) for line in (tmp_path / TIMELINE).open()}
    assert kinds == {"sample", "moment"}
    assert (tmp_path / PICTURE).exists()


async def test_every_row_of_the_failure_model_is_among_the_usual_ones() -> None:
    about = {path.stem: load_experiment(path).about for path in FILES}
    rows = {one.row for one in about.values()} - {"beside the table"}
    assert {about[name].row for name in USUAL} == rows and len(rows) == 9


@pytest.mark.skipif(not EVERY, reason="takes long; run it with TRILEMMA_EXPERIMENTS=all")
async def test_a_soak_looks_at_every_process(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "cluster.cli", "faults", "soak", "--minutes", "0.25"]
    done = await asyncio.to_thread(
        subprocess.run, [*line, "--out", str(tmp_path), "--json"], cwd=ROOT, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [one["name"] for one in found["processes"]]
    assert len(names) == 13 and names[0] == "validator-0" and names[-1] == "client"
    assert all(one["rss_bytes"] > 1 << 20 for one in found["processes"])
    assert found["latency"]["first_p50"] > 0 and found["latency"]["last_p50"] > 0
    for name in (SOAK, SOAK_PAGE, SOAK_PICTURE, VITALS, PAGE):
        assert (tmp_path / name).stat().st_size > 0


async def active(cluster: Cluster) -> dict[str, set[str]]:
    """Kinds of faults by process, as `faults list` tells."""
    told: dict[str, set[str]] = {}
    for one in (await data(cluster, "faults", "list"))["active"]:
        told.setdefault(one["process"], set()).add(one["kind"])
    return told


async def test_faults_by_hand(testnet_cluster: Cluster) -> None:
    cluster = testnet_cluster
    pids = cluster.pids()
    assert await active(cluster) == {}
    await data(cluster, "faults", "kill", "validator-3")
    await data(cluster, "faults", "pause", "validator-2")
    await data(cluster, "faults", "partition", "validator-0", "prover-0,validator-1")
    await data(cluster, "faults", "clock", "prover-0", "250")
    await data(cluster, "faults", "disk", "execution-0", "--slow-ms", "20")
    await data(cluster, "faults", "add", "delay", "sequencer-0", "--set", "latency_ms=30")
    assert cluster.supervisor.pid("validator-3") is None
    assert await active(cluster) == {
        "validator-0": {"timeout"}, "validator-1": {"timeout"}, "validator-2": {"process"},
        "validator-3": {"process"}, "prover-0": {"timeout", "clock"},
        "execution-0": {"slow-disk"}, "sequencer-0": {"latency"},
    }  # fmt: skip
    await data(cluster, "faults", "clear", "prover-0")
    await data(cluster, "faults", "resume", "validator-2")
    told = await active(cluster)
    assert "prover-0" not in told and "validator-2" not in told
    await data(cluster, "faults", "heal")
    assert await active(cluster) == {}
    after = cluster.pids()
    assert {name for name in pids if pids[name] != after[name]} == {"validator-3"}

    async def alike() -> bool:
        heights = {await cluster.number(f"validator-{n}", "height") for n in range(4)}
        return len(heights) == 1

    await eventually("the validators are alike again", alike)
    done = await data(cluster, "faults", "restart", "prover-0")
    assert done["evidence"]["prover-0"] and cluster.pids()["prover-0"] != pids["prover-0"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("kill", "validator-9"), "there is no process 'validator-9'"),
        (("add", "explode", "validator-0"), "there is no fault 'explode'"),
        (("add", "delay", "validator-0", "--set", "speed=1"), "no parameter 'speed'"),
        (("add", "delay", "validator-0", "--set", "latency_ms=x"), "whole number"),
        (("add", "oracle-silence"), "belongs to an experiment"),
        (("byzantine", "validator-0", "generous"), "generous"),
        (("partition", "validator-0"), "two groups"),
        (("disk", "validator-0"), "choose one"),
        (("run", "nowhere.toml"), "cannot read nowhere.toml"),
        (("report", "/nowhere"), "no report.json"),
        (("resume",), "Missing argument"),
    ],
)
async def test_faults_that_cannot_be_ordered(
    testnet_cluster: Cluster, arguments: tuple[str, ...], said: str
) -> None:
    status, _, err = await call(testnet_cluster, "faults", *arguments)
    assert status == 2 and said in err and "Traceback" not in err, err
