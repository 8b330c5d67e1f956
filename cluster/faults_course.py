"""The course of one experiment: load, faults by the clock, recovery, verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from client.load import LoadGenerator, LoadOptions
from client.load_report import LoadReport
from client.status import sample
from cluster.faults_api import Nemesis
from cluster.faults_evidence import Fault
from cluster.faults_expect import Band, Seen, check_done, check_expectations, check_faults
from cluster.faults_flow import Around, WatchedExchange
from cluster.faults_kinds import Scene, apply
from cluster.faults_report import Moment, Report
from cluster.faults_schedule import Experiment, Step, expand
from cluster.faults_shapes import SHAPES
from cluster.faults_targets import RUNNING, FaultFailed, NotRunning
from cluster.faults_verdict import EXPECTATION, PROGRESS, SAFETY, Check, Judge, exit_status
from cluster.faults_watch import EVERY_S, Sample, Watch
from cluster.testnet import NAMES
from protocol.chain import Header
from protocol.errors import ConfigError, SafetyViolation, TrilemmaError
from protocol.messages import HeaderRequest, HeaderView
from store.testnet import Testnet

PATIENCE_MS = 600_000
"""A client of an experiment waits longer than any fault lasts."""

LOAD_MAX_S = 100_000.0
"""The load ends when the last fault has: on a busy machine that may be later than planned."""

JUDGE_S = 300.0
"""What one check may take at the end, and five times the load's length: it is executed again."""

CARRIED_OUT = "the schedule is carried out"
PARTITIONS = ("partition", *SHAPES)

LEADER_S = 20.0
"""How long it is asked who leads, before a fault at the leader is given up."""

LEADER_POLL_S = 0.2

Tell = Callable[[float, str, str], None]
"""Told (seconds of the run, what, text) of everything that happens."""

Show = Callable[[Sample], None]


class RunClock:
    """Seconds since the load of a run began; 0 before. `unhealed` while faults may be on: from
    then until all have been ended."""

    def __init__(self) -> None:
        self.unhealed = False
        self._began_s: float | None = None

    @property
    def now_s(self) -> float:
        """Seconds of the run."""
        return 0.0 if self._began_s is None else asyncio.get_running_loop().time() - self._began_s

    def begin(self) -> None:
        """The load begins now, and faults may."""
        self.unhealed = True
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
        self._skips = 0
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
                if trouble := await self._healed(nemesis):
                    self._happened(watch.now_s, "trouble", f"not healed: {trouble}")
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
        checks += check_faults(bands, self._skips)
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
        for task in acting:
            self._ended_well(CARRIED_OUT, task)
        await self._wait(about.duration_s)
        generator.stop()
        self._loaded_s = self._clock.now_s
        self._happened(watch.now_s, "heal", "every fault is over")
        if trouble := await self._healed(nemesis):
            self._failed("heals", trouble)
        if around.prices is not None:
            around.prices.mode = "walk"
        await asyncio.wait([running], timeout=3 * about.recover_s)
        self._ended_well("every process is looked at", looking)
        looking.cancel()
        self._ended_well("prices are reported", await around.stop_prices())
        return await self._loaded(running, exchange)

    async def _healed(self, nemesis: Nemesis) -> str:
        """End all faults; says what could not be healed."""
        try:
            await nemesis.heal()
        except (TrilemmaError, OSError) as error:
            return str(error) or type(error).__name__
        self._clock.unhealed = False
        return ""

    def _ended_well(self, name: str, task: asyncio.Task[Any] | None) -> None:
        """A task that goes on by itself has ended with no error of ours: nobody awaits it."""
        error = task.exception() if task and task.done() and not task.cancelled() else None
        if error is not None:
            self._failed(name, f"{type(error).__name__}: {error}")

    async def _loaded(
        self, running: asyncio.Task[LoadReport], exchange: WatchedExchange
    ) -> LoadReport | None:
        if not running.done():
            self._failed("the load ends", "it waits for results that do not come")
            return None
        error = running.exception()
        if error is not None:
            if not isinstance(error, TrilemmaError | OSError):
                raise error
            kind = SAFETY if isinstance(error, SafetyViolation) else PROGRESS
            self._failed("the load ends", str(error) or type(error).__name__, kind)
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
        try:
            wanted = [*step.targets, *await self._leaders(step.leaders, exchange)]
            names = await self._able(step.kind, wanted, scene.nemesis)
            if wanted and not names:
                self._skipped(step, f"none of {', '.join(wanted)} can suffer it now")
                return
            lying = set(names) - self._liars if step.kind == "byzantine" else set()
            self._liars.update(lying)
            try:
                fault = await apply(scene, step.kind, names, step.values)
            except NotRunning as gone:  # another fault came first, or it stopped by itself
                self._liars.difference_update(lying)
                self._skipped(step, str(gone))
                return
            self._liars.difference_update(lying - set(fault.wanted))  # another fault had those
            if step.drawn:
                self._drawn.append(fault)
            self._happened(self._clock.now_s, step.kind, fault.text)
            # However long the order took, it lasts as long as it was meant to.
            await asyncio.sleep(step.until_s - step.at_s)
            await scene.nemesis.end(fault)
            self._happened(self._clock.now_s, "end", fault.text)
        except (TrilemmaError, OSError) as error:
            text = f"{step.kind} at {step.at_s:g} s: {str(error) or type(error).__name__}"
            self._failed(CARRIED_OUT, text)

    def _skipped(self, step: Step, why: str) -> None:
        """A fault found nothing to hit. Where the file names it, its run proves nothing; of those
        at random some may."""
        self._happened(self._clock.now_s, "skipped", f"{step.kind}: {why}")
        if step.drawn:
            self._skips += 1
            return
        name = f"it bit: {step.kind} at {step.at_s:g} s"
        self._checks.append(Check(EXPECTATION, name, False, f"it was skipped: {why}"))

    async def _able(self, kind: str, names: list[str], nemesis: Nemesis) -> list[str]:
        """Those that a fault can be ordered of now. A partition is one of who is down, too, and a
        restart brings back what is down, unless another start would do harm."""
        if kind in PARTITIONS:
            return names
        if kind == "restart":
            stopped = await nemesis.stopped_for_safety(names)
            return [name for name in names if name not in stopped]
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
        names = [entry.name for entry in entries]
        while True:
            statuses = await sample(self._testnet)
            told = [(statuses[name] or {}).get("leader") for name in names]
            leader = max(names, key=told.count)
            if leader in told or len(names) == 1:
                return leader
            await asyncio.sleep(LEADER_POLL_S)

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

    def _failed(self, name: str, text: str, kind: str = PROGRESS) -> None:
        self._checks.append(Check(kind, name, False, text))
        self._happened(self._clock.now_s, "trouble", text)

    def _band(self, fault: Fault, now_s: float) -> Band:
        ended_s = now_s if fault.ended_s is None else self._clock.of(fault.ended_s)
        healing_s = ended_s if fault.healing_s is None else self._clock.of(fault.healing_s)
        return Band(
            fault.kind, fault.text, self._clock.of(fault.began_s), ended_s,
            dict(fault.evidence), fault.missed, any(fault is one for one in self._drawn), healing_s,
        )  # fmt: skip
