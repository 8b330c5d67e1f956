"""Experiments of the project against the containers, in their short form.

By default one for each row of the failure model and each kind of fault; TRILEMMA_EXPERIMENTS=all
runs every one that the cluster's genesis allows.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import SystemRandom

import pytest
from compose_cluster import ROOT, ComposeCluster

from cluster.faults_report import PAGE, PICTURE, read_report, write_report
from cluster.faults_run import RunOptions, run_experiment
from cluster.faults_schedule import load_experiment
from cluster.faults_verdict import SAFETY

pytestmark = pytest.mark.timeout(420)

USUAL = (
    "validator-killed", "sequencer-stalls", "validators-down", "execution-killed", "wrong-batch",
    "prover-dead", "power-loss", "censorship", "bad-input", "oracle-wild", "cut-links", "full-disk",
)  # fmt: skip
OTHER_GENESIS = ("oracle-silent", "deadline-missed")
"""Prices that grow old in seconds, and deadlines as short: another genesis than this cluster's."""

NOT_HERE = ("soak", *OTHER_GENESIS)
COSTLY = ("corrupt-file", "validator-equivocates", "validator-sends-garbage")
"""A validator's key may have signed what its state does not know, and then signs no more."""

EVERY = os.environ.get("TRILEMMA_EXPERIMENTS") == "all"
NAMES = [
    path.stem
    for path in sorted((ROOT / "faults").glob("*.toml"))
    if path.stem not in NOT_HERE and (EVERY or path.stem in USUAL)
]
SEED = int(os.environ.get("TRILEMMA_SEED", "0")) or SystemRandom().randrange(1, 1 << 31)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_in_containers(
    request: pytest.FixtureRequest, name: str, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    fixture = "own_cluster" if name in COSTLY else "cluster"
    cluster: ComposeCluster = request.getfixturevalue(fixture)
    experiment = load_experiment(ROOT / "faults" / f"{name}.toml").short()
    lines: list[str] = []
    report = asyncio.run(
        run_experiment(
            experiment,
            RunOptions(seed=SEED, testnet=cluster.testnet),
            lambda at_s, what, text: lines.append(f"{at_s:6.1f} s  {what}: {text}"),
        )
    )
    print("\n".join([*lines, *report.lines()]))
    assert report.where == "containers"
    assert report.status == 0, [check for check in report.checks if not check.ok]
    assert sum(check.kind == SAFETY for check in report.checks) >= 5
    planned = [band for band in report.bands if not band.drawn]
    assert report.bands and all(band.evidence for band in planned), "a fault never bit"
    write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    assert (tmp_path / PICTURE).exists() and (tmp_path / PAGE).exists()
