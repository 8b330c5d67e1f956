"""Run an experiment: a cluster, load, faults by the clock, recovery, verdict, report."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from client.channel import Unreachable
from client.load import LoadGenerator, LoadOptions
from client.load_report import LoadReport
from client.status import sample
from cluster.defaults import markets_of, reopening_of, settlement_of
from cluster.faults_api import Nemesis
from cluster.faults_expect import Band, Seen, check_done, check_expectations, check_faults
from cluster.faults_flow import Around, WatchedExchange, capacity
from cluster.faults_kinds import Scene, apply
from cluster.faults_orders import Fault
from cluster.faults_report import Moment, Report
from cluster.faults_schedule import Experiment, Step, expand
from cluster.faults_shapes import SHAPES
from cluster.faults_targets import RUNNING, FaultFailed, NotRunning, find_target
from cluster.faults_verdict import PROGRESS, SAFETY, Check, Judge, exit_status
from cluster.faults_watch import EVERY_S, Sample, Watch
from cluster.launch import funded, require_host
from cluster.lock import supervisor_pid
from cluster.supervisor import Supervisor
from cluster.testnet import NAMES, TestnetOptions, create_testnet
from protocol.chain import Header
from protocol.errors import ConfigError, TrilemmaError
from protocol.messages import HeaderRequest, HeaderView
from store.testnet import Testnet

PATIENCE_MS = 600_000
"""A client of an experiment waits longer than any fault lasts."""

FUNDED_S = 60.0
LOAD_MAX_S = 100_000.0
"""The load ends when the last fault has: on a busy machine that may be later than planned."""

JUDGE_S = 300.0
"""What one check may take at the end, and five times the load's length: it is executed again."""

LEADER_S = 20.0
"""How long it is asked who leads, before a fault at the leader is given up."""

SPARE_ACCOUNTS = 24
"""Traders beside those of the load, for load spikes and by hand."""

Tell = Callable[[float, str, str], None]
"""Told (seconds of the run, what, text) of everything that happens."""

Show = Callable[[Sample], None]


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`testnet`: an existing one, running or not; None makes a fresh one that is removed again."""

    seed: int | None = None
    testnet: Path | None = None
    options: TestnetOptions = TestnetOptions()


async def run_experiment(
    experiment: Experiment,
    options: RunOptions,
    tell: Tell = lambda at_s, what, text: None,
    show: Show = lambda one: None,
) -> Report:
    """Run an experiment to its report; raises `ConfigError` for what cannot be run at all."""
    began = time.monotonic()
    clock = RunClock()
    seed = experiment.about.seed if options.seed is None else options.seed
    async with _cluster(experiment, options, lambda line: clock.tell(tell, line)) as testnet:
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
async def _cluster(
    experiment: Experiment, options: RunOptions, news: Callable[[str], None]
) -> AsyncIterator[Testnet]:
    """The running testnet; one that was not running is stopped again."""
    async with contextlib.AsyncExitStack() as stack:
        if options.testnet is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trilemma-faults-"))
            testnet = create_testnet(Path(folder) / "testnet", fresh_options(experiment))
        else:
            testnet = Testnet.load(options.testnet)
            _require_size(experiment, testnet)
        running = supervisor_pid(testnet.directory) is not None
        if not running and options.testnet is not None:
            with contextlib.suppress(ConfigError):
                running = find_target(testnet).kind == "containers"
        if not running:
            require_host(testnet)
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


class RunClock:
    """Seconds since the load of a run began; 0 before."""

    def __init__(self) -> None:
        self._began_s: float | None = None

    @property
    def now_s(self) -> float:
        """Seconds of the run."""
        return 0.0 if self._began_s is None else asyncio.get_running_loop().time() - self._began_s

    def begin(self) -> None:
        """The load begins now."""
        self._began_s = asyncio.get_running_loop().time()

    def of(self, loop_s: float) -> float:
        """Seconds of the run at a time of the event loop."""
        return round(loop_s - (self._began_s or loop_s), 3)

    def tell(self, tell: Tell, line: str) -> None:
        """Pass a supervisor's news on."""
        tell(self.now_s, "supervisor", line)


class Run:
    """One run on a running testnet."""

    def __init__(
        self, experiment: Experiment, testnet: Testnet, seed: int, clock: RunClock,
        listeners: tuple[Tell, Show],
    ) -> None:  # fmt: skip
        self._experiment = experiment
        self._testnet = testnet
        self._seed = seed
        self._clock = clock
        self._tell, self._show = listeners
        self._moments: list[Moment] = []
        self._checks: list[Check] = []
        self._liars: set[str] = set()
        self._drawn: list[Fault] = []
        self._loaded_s = experiment.about.duration_s

    async def go(self) -> Report:
        """Load, faults, recovery, verdict."""
        experiment, testnet = self._experiment, self._testnet
        about = experiment.about
        members = {
            NAMES[role]: [entry.name for entry in testnet.of_role(role)] for role in NAMES
        }  # fmt: skip
        steps = expand(experiment, members, self._seed)
        nemesis = Nemesis(testnet, seed=self._seed)
        exchange = WatchedExchange(testnet, PATIENCE_MS)
        watch = Watch(testnet, exchange, nemesis)
        around = Around(exchange, nemesis, self._seed)
        judge = Judge(testnet, exchange, self._liars, JUDGE_S + 5 * about.duration_s)
        async with exchange:
            try:
                load = await self._play(steps, nemesis, exchange, watch, around)
            finally:
                await around.close()
                with contextlib.suppress(TrilemmaError, OSError):
                    await nemesis.heal()
            await watch.look()
            self._checks.append(await self._stopped(nemesis))
            self._happened(watch.now_s, "checking", "what every process holds is compared")
            await judge.judge()
        bands = [self._band(fault, watch.now_s) for fault in nemesis.faults]
        seen = Seen(
            testnet, watch.began_ns, self._loaded_s, exchange.submissions, watch.samples, bands,
            watch.first, watch.last, load, around.codes, judge.history.counters,
        )  # fmt: skip
        checks = [*judge.checks, *self._checks]
        if all(one.what != "frozen" for one in experiment.expects):
            checks.append(check_done(seen))
        checks += check_expectations(experiment.expects, seen)
        checks += check_faults(bands)
        counts = {word: len(names) for word, names in members.items() if names}
        return Report(
            name=about.name, description=about.description, row=about.row,
            expected=about.expected, seed=self._seed, processes=counts,
            where=nemesis.target.kind, duration_s=about.duration_s, took_s=0.0,
            status=exit_status(checks), checks=checks, bands=bands, moments=self._moments,
            samples=watch.samples, load=load, audit=judge.audited,
        )  # fmt: skip

    async def _play(
        self, steps: list[Step], nemesis: Nemesis, exchange: WatchedExchange, watch: Watch,
        around: Around,
    ) -> LoadReport | None:  # fmt: skip
        experiment = self._experiment
        about, spec = experiment.about, experiment.load
        generator = LoadGenerator(exchange, LoadOptions(
            rate=spec.rate, batch=spec.batch, accounts=spec.accounts, seconds=LOAD_MAX_S,
            seed=self._seed, presign=0, clean_up=False, drain_s=about.recover_s,
            settle_s=about.recover_s,
        ))  # fmt: skip
        if experiment.oracle is not None:
            around.start_prices(experiment.oracle)
        await watch.begin()
        self._clock.begin()
        self._happened(0.0, "load", f"{spec.rate:,} actions a second")
        running = around.spawn(generator.run())
        looking = around.spawn(self._look(watch))
        scene = Scene(nemesis, around)
        acting = [around.spawn(self._act(step, scene, exchange)) for step in steps]
        if acting:
            await asyncio.wait(acting)
        await self._wait(about.duration_s)
        generator.stop()
        self._loaded_s = self._clock.now_s
        self._happened(watch.now_s, "heal", "every fault is over")
        try:
            await nemesis.heal()
        except (TrilemmaError, OSError) as error:
            self._failed("heals", str(error))
        if around.prices is not None:
            around.prices.mode = "walk"
        await asyncio.wait([running], timeout=3 * about.recover_s)
        looking.cancel()
        await around.stop_prices()
        return await self._loaded(running, exchange)

    async def _loaded(
        self, running: asyncio.Task[LoadReport], exchange: WatchedExchange
    ) -> LoadReport | None:
        if not running.done():
            self._failed("the load ends", "it waits for results that do not come")
            return None
        error = running.exception()
        if error is not None:
            if not isinstance(error, TrilemmaError | OSError | Unreachable):
                raise error
            self._failed("the load ends", str(error) or type(error).__name__)
            return None
        report = running.result()
        await self._quiet(exchange)
        self._happened(self._clock.now_s, "load", f"{report.actions:,} actions, all results are in")
        return report

    async def _stopped(self, nemesis: Nemesis) -> Check:
        """Nobody but a liar finds an invariant of its own broken."""
        stopped = set(await nemesis.stopped_for_safety()) - self._liars
        text = f"{', '.join(sorted(stopped))} stopped, see the logs" if stopped else "nobody did"
        return Check(SAFETY, "no honest process stops for safety's sake", not stopped, text)

    async def _quiet(self, exchange: WatchedExchange) -> None:
        """Wait, for as long as recovery may take, until all that was sent is final."""
        deadline = self._clock.now_s + self._experiment.about.recover_s
        while self._clock.now_s < deadline:
            sent = (one for one in exchange.submissions if one.submitted_ns and one.error is None)
            if all(one.final_ns for one in sent):
                return
            await asyncio.sleep(0.1)

    async def _act(self, step: Step, scene: Scene, exchange: WatchedExchange) -> None:
        """Order one fault at its time, and end it."""
        await self._wait(step.at_s)
        fault: Fault | None = None
        try:
            names = [*step.targets, *await self._leaders(step.leaders, exchange)]
            if names and not (names := await self._able(step.kind, names, scene.nemesis)):
                self._happened(self._clock.now_s, "skipped", f"{step.kind}: it is down already")
                return
            if step.kind == "byzantine":
                self._liars.update(names)
            try:
                fault = await apply(scene, step.kind, names, step.values)
            except NotRunning as gone:  # another fault took it meanwhile
                self._happened(self._clock.now_s, "skipped", f"{step.kind}: {gone}")
                return
            if step.drawn:
                self._drawn.append(fault)
            self._happened(self._clock.now_s, step.kind, fault.text)
            # However long the order took, it lasts as long as it was meant to.
            await asyncio.sleep(step.until_s - step.at_s)
            await scene.nemesis.end(fault)
            self._happened(self._clock.now_s, "end", fault.text)
        except (TrilemmaError, OSError) as error:
            text = f"{step.kind} at {step.at_s:g} s: {str(error) or type(error).__name__}"
            self._failed("the schedule is carried out", text)

    async def _able(self, kind: str, names: list[str], nemesis: Nemesis) -> list[str]:
        """Those that a fault of one process at a time can be ordered of now."""
        if kind == "restart" or kind in SHAPES:
            return names
        return [name for name in names if await nemesis.ask(nemesis.target.state, name) == RUNNING]

    async def _leaders(self, roles: list[str], exchange: WatchedExchange) -> list[str]:
        try:
            async with asyncio.timeout(LEADER_S):  # a client's patience is longer
                return [await self._leader(role, exchange) for role in roles]
        except TimeoutError:
            raise FaultFailed("nobody says in time who leads") from None

    async def _leader(self, role: str, exchange: WatchedExchange) -> str:
        """Who proposed the newest ledger block; of sequencers, who leads by most accounts."""
        if role == "validator":
            view = await exchange.channel("node").ask(HeaderView, HeaderRequest, 0)
            header: Header = view.header
            return self._testnet.of_role("node")[header.proposer].name
        entries = [one for one in self._testnet.processes if NAMES[one.role] == role]
        if not entries:
            raise ConfigError(f"the testnet has no {role}")
        statuses = await sample(self._testnet)
        told = [str((statuses[entry.name] or {}).get("leader", "")) for entry in entries]
        names = [entry.name for entry in entries]
        return max(names, key=told.count)

    async def _look(self, watch: Watch) -> None:
        while True:
            self._show(await watch.look())
            await asyncio.sleep(EVERY_S)

    # --- telling

    async def _wait(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._clock.now_s))

    def _happened(self, at_s: float, what: str, text: str) -> None:
        self._moments.append(Moment(round(at_s, 3), what, text))
        self._tell(at_s, what, text)

    def _failed(self, name: str, text: str) -> None:
        self._checks.append(Check(PROGRESS, name, False, text))
        self._happened(self._clock.now_s, "trouble", text)

    def _band(self, fault: Fault, now_s: float) -> Band:
        ended_s = now_s if fault.ended_s is None else self._clock.of(fault.ended_s)
        healing_s = ended_s if fault.healing_s is None else self._clock.of(fault.healing_s)
        return Band(
            fault.kind, fault.text, self._clock.of(fault.began_s), ended_s,
            dict(fault.evidence), fault.missed, any(fault is one for one in self._drawn), healing_s,
        )  # fmt: skip
