"""Run an experiment: a testnet, its own or one that is there, and one run on it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from client.status import sample
from cluster.defaults import markets_of, reopening_of, settlement_of
from cluster.faults_course import Run, RunClock, Show, Tell
from cluster.faults_flow import SPIKE_ACCOUNTS, capacity
from cluster.faults_report import Report
from cluster.faults_schedule import Experiment
from cluster.faults_targets import FaultFailed, find_target
from cluster.launch import funded, require_host
from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.running import is_supervised
from store.testnet import Testnet

FUNDED_S = 60.0

SPARE_ACCOUNTS = 24
"""Traders beside those of the load, for load spikes and by hand."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`testnet`: an existing one, running or not; None makes a fresh one that is removed again."""

    seed: int | None = None
    testnet: Path | None = None


async def run_experiment(
    experiment: Experiment,
    options: RunOptions,
    tell: Tell = lambda at_s, what, text: None,
    show: Show = lambda one: None,
    clock: RunClock | None = None,
) -> Report:
    """Run an experiment to its report; raises `ConfigError` for what cannot be run at all. The
    `clock` says where the run is."""
    began = time.monotonic()
    clock = clock or RunClock()
    seed = experiment.about.seed if options.seed is None else options.seed
    news = partial(clock.tell, tell)
    async with running_testnet(experiment, options.testnet, news) as testnet:
        most = 0
        if experiment.load.share:
            tell(0.0, "load", "what the cluster takes is measured")
            most = await capacity(testnet, experiment.load, seed)
            if not most:
                raise FaultFailed("nothing is executed of which the load could be a share")
            experiment = _sharing(experiment, most)
        run = Run(experiment, testnet, seed, clock, (tell, show))
        report = await run.go()
    took_s, rate = round(time.monotonic() - began, 1), experiment.load.rate
    return msgspec.structs.replace(report, took_s=took_s, rate=rate, capacity=most)


def _sharing(experiment: Experiment, most: int) -> Experiment:
    """With the load that is its share of the most."""
    rate = max(1, round(most * experiment.load.share))
    load = msgspec.structs.replace(experiment.load, rate=rate, share=0.0)
    return msgspec.structs.replace(experiment, load=load)


@asynccontextmanager
async def running_testnet(
    experiment: Experiment, directory: Path | None, news: Callable[[str], None]
) -> AsyncIterator[Testnet]:
    """The running testnet of an experiment, in None one of its own that is removed afterwards; one
    that was not running is stopped again. `news` takes lines of the supervisor.

    Raises `ConfigError` where it is too small, `FaultFailed` where it does not get ready."""
    async with contextlib.AsyncExitStack() as stack:
        if directory is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trilemma-faults-"))
            testnet = create_testnet(Path(folder) / "testnet", fresh_options(experiment))
        else:
            testnet = Testnet.load(directory)
            _require_size(experiment, testnet)
        running = is_supervised(testnet.directory)
        if not running and directory is not None:
            with contextlib.suppress(ConfigError):
                running = find_target(testnet).kind == "containers"
        if not running:
            require_host(testnet)
        _require_traders(experiment, testnet)
        if not running:
            supervisor = await stack.enter_async_context(Supervisor(testnet, report=news))
            await supervisor.wait_ready()
        await _wait_funded(testnet)
        yield testnet


def fresh_options(experiment: Experiment) -> TestnetOptions:
    """What a fresh run of an experiment makes."""
    sizes = experiment.testnet
    return TestnetOptions(
        name=experiment.about.name,
        validators=sizes.validators,
        sequencers=sizes.sequencers,
        executions=sizes.executions,
        provers=sizes.provers,
        challengers=sizes.challengers,
        traders=experiment.load.accounts + SPARE_ACCOUNTS,
        free_ports=True,
        markets=markets_of(sizes.oracle_age_s),
        reopening=reopening_of(sizes.oracle_age_s),
        settlement=msgspec.structs.replace(
            settlement_of(sizes.window_s, forced_s=sizes.forced_s),
            clock_ms=round(sizes.clock_s * 1000),
        ),
    )


def _require_size(experiment: Experiment, testnet: Testnet) -> None:
    sizes = experiment.testnet
    for role, wanted in (
        ("node", sizes.validators), ("sequencer", sizes.sequencers),
        ("execution", sizes.executions), ("prover", sizes.provers),
        ("challenger", sizes.challengers),
    ):  # fmt: skip
        present = len([one for one in testnet.processes if one.role == role])
        if present < wanted:
            raise ConfigError(
                f"{experiment.about.name} needs {wanted} processes of the role {role}, and the "
                f"testnet has {present}; run it with --fresh, or make a larger testnet"
            )


def _require_traders(experiment: Experiment, testnet: Testnet) -> None:
    """Those of the load, and of its spikes: else the faults would begin before that shows."""
    spikes = any(one.kind == "load-spike" for one in experiment.faults) or any(
        "load-spike" in one.kinds for one in experiment.random
    )
    traders = max(experiment.load.accounts, SPIKE_ACCOUNTS if spikes else 0)
    if len(testnet.traders) < traders:
        raise ConfigError(
            f"{experiment.about.name} needs {traders} traders, and the testnet has "
            f"{len(testnet.traders)}; run it with --fresh, or make a testnet with more of them "
            "(trilemma init --traders)"
        )


async def _wait_funded(testnet: Testnet) -> None:
    deadline = time.monotonic() + FUNDED_S
    while True:
        statuses = await sample(testnet)
        if all(values is not None for values in statuses.values()) and funded(testnet, statuses):
            return
        if time.monotonic() > deadline:
            missing = [name for name, values in statuses.items() if values is None]
            raise FaultFailed(
                f"the testnet is not ready to trade after {FUNDED_S:g} s"
                + (f"; {', '.join(missing)} do not answer" if missing else "")
            )
        await asyncio.sleep(0.2)
