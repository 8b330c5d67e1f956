"""What a nemesis has ordered: which faults there are, how each ends, and what all of it leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TypeVar

import msgspec

from client.faults import EXIT_SAFETY, EXIT_USAGE
from cluster.faults_damage import byzantine_mode, set_byzantine
from cluster.faults_evidence import Fault
from cluster.faults_plans import Plans
from cluster.faults_ready import stopped_for_good
from cluster.faults_stopped import unhealed
from cluster.faults_targets import (
    DOWN,
    PAUSED,
    RUNNING,
    TAKEN,
    AlreadyRuns,
    FaultFailed,
    NotRunning,
    Target,
    find_target,
)
from cluster.faults_wire import read_faults
from cluster.health import probe
from net.injection_plan import Plan
from protocol.errors import ConfigError, TrilemmaError
from store.testnet import ProcessEntry, Testnet

SERVE_S = 60.0
"""How long a process may take to serve after its start."""

_POLL_S = 0.05

T = TypeVar("T")
Undo = Callable[[], Awaitable[None]]
Act = Callable[[str], Awaitable[None]]


class ActiveFault(msgspec.Struct, frozen=True):
    """What a process suffers now, whoever ordered it: `what` in words."""

    process: str
    kind: str
    what: str


class Orders:
    """The faults of one nemesis on one testnet; see `cluster.faults_api.Nemesis`.

    One rule holds for all faults of processes: a process that is not running when a fault comes to
    it, or that another fault of this nemesis has, is passed over; where that leaves none, the fault
    raises `NotRunning` and never was. What a fault did not do, its end does not undo.
    """

    def __init__(self, testnet: Testnet, target: Target | None = None, *, seed: int = 1) -> None:
        self.testnet = testnet
        self.target = target or find_target(testnet)
        self.plans = Plans(testnet, self.target)
        self.faults: list[Fault] = []
        self.rng = Random(seed)
        self._undo: list[tuple[Fault, Undo]] = []
        self._claims: dict[str, Fault] = {}
        """Which fault has a process: keeps it down or paused, or is about to start it."""
        self._lies: list[Fault] = []

    @property
    def names(self) -> list[str]:
        """Every process."""
        return [entry.name for entry in self.testnet.processes]

    def known(self, names: Iterable[str]) -> None:
        """Raise `ConfigError` unless there is a name, and all are processes."""
        names = list(names)
        if not names:
            raise ConfigError(f"name a process; there are {', '.join(self.names)}")
        for name in names:
            self.testnet.process(name)

    async def ask(self, question: Callable[[str], T], name: str) -> T:
        """Ask the target in a thread, and see that through: what a thread does to a process goes on
        after a cancellation, and nobody would undo it."""
        work = asyncio.ensure_future(asyncio.to_thread(question, name))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    # --- a fault's life

    def begin(self, kind: str, names: Iterable[str], text: str) -> Fault:
        """Note a fault that begins now."""
        now_s = asyncio.get_running_loop().time()
        wanted = list(dict.fromkeys(names))
        fault = Fault(kind=kind, text=text, wanted=wanted, began_s=now_s, evidence={})
        self.faults.append(fault)
        return fault

    @asynccontextmanager
    async def ordering(self, fault: Fault, undo: Undo | None = None) -> AsyncIterator[None]:
        """While a fault is ordered: where that fails, it never was, and what it did already is
        undone. The error goes on to the caller."""
        try:
            yield
        except (TrilemmaError, OSError):
            self.faults = [one for one in self.faults if one is not fault]
            self._undo = [one for one in self._undo if one[0] is not fault]
            with contextlib.suppress(TrilemmaError, OSError):
                if undo is not None:
                    await undo()
            self.release(fault)
            raise

    def claim(self, fault: Fault, names: Iterable[str]) -> list[str]:
        """Those of the processes that no other fault has; this one has them until it ends, or
        `release`. Raises `NotRunning` where there are none."""
        names = list(dict.fromkeys(names))
        free = [name for name in names if self._claims.get(name, fault) is fault]
        if not free:
            raise NotRunning(names[0], TAKEN)
        self._claims.update(dict.fromkeys(free, fault))
        return free

    def claimed(self, fault: Fault) -> list[str]:
        """The processes that a fault has."""
        return [name for name, one in self._claims.items() if one is fault]

    def release(self, fault: Fault) -> None:
        """A fault has no process any more."""
        self._claims = {name: one for name, one in self._claims.items() if one is not fault}

    async def hit(
        self, fault: Fault, act: Callable[[str], None], names: Sequence[str]
    ) -> list[str]:
        """Do something to those of the processes that run and that no other fault has, which this
        one has from then on; what became of the others is its evidence. Raises `NotRunning` where
        it was done to none."""
        free = self.claim(fault, names)

        async def acting(name: str) -> None:
            try:
                await self.ask(act, name)
            except NotRunning:
                self._claims.pop(name, None)  # all may have been healed meanwhile
                fault.evidence[name] = "it was down already"
                raise

        done = await self.each(acting, free, NotRunning)
        if not done:
            raise NotRunning(free[0], await self.ask(self.target.state, free[0]))
        for name in fault.wanted:
            if name not in free:
                fault.evidence[name] = "another fault had it already"
        return done

    async def each(self, act: Act, names: Sequence[str], *passed: type[Exception]) -> list[str]:
        """Do something to processes side by side, so that none goes on while another is stopped;
        returns those that it was done to. For errors in `passed` there was nothing to do; any other
        is raised when all are through."""
        found = await asyncio.gather(*(act(name) for name in names), return_exceptions=True)
        done = []
        for name, outcome in zip(names, found, strict=True):
            if not isinstance(outcome, BaseException):
                done.append(name)
            elif not isinstance(outcome, passed):
                raise outcome
        return done

    def lying(self, fault: Fault) -> None:
        """Ask the processes of a fault how often they lie, until it ends."""
        self._lies.append(fault)

    def until_end(self, fault: Fault, undo: Undo) -> Fault:
        """Note how a fault ends."""
        self._undo.append((fault, undo))
        return fault

    def ended(self, fault: Fault) -> Fault:
        """A fault is over by itself."""
        fault.ended_s = asyncio.get_running_loop().time()
        self.release(fault)
        return fault

    async def end(self, fault: Fault) -> None:
        """Undo a fault of this nemesis; nothing where it has ended."""
        with contextlib.suppress(TrilemmaError, OSError):
            await self.note()
        # Others may have ended meanwhile: nothing may come between the look and the removal.
        undo = next((undo for known, undo in self._undo if known is fault), None)
        if undo is None:
            return
        self._undo = [one for one in self._undo if one[0] is not fault]
        fault.healing_s = asyncio.get_running_loop().time()
        try:
            await undo()
        finally:
            self.release(fault)
        self.ended(fault)

    async def heal(self) -> list[str]:
        """End every fault, those of other nemeses too: processes go on, start and are told to
        suffer nothing; returns once all serve, but those that stopped for safety's sake: their
        names. A liar's key may have signed what its state does not know, and may never sign again.

        Raises `FaultFailed` for who does not serve or cannot be looked at, all others healed."""
        with contextlib.suppress(TrilemmaError, OSError):
            await self.note()
        for name in self.names:
            with contextlib.suppress(TrilemmaError, OSError):  # `_heal` names it
                await self.let_go_on([name])
        while self._undo:
            fault, undo = self._undo.pop()
            fault.healing_s = asyncio.get_running_loop().time()
            # What is left of it, `_heal` ends or names; no trouble of one keeps another one on.
            with contextlib.suppress(TrilemmaError, OSError):
                await undo()
            self.ended(fault)
        for fault in self.faults:
            if fault.ended_s is None:  # its end failed
                self.ended(fault)
        self.plans.forget()
        found = await asyncio.gather(*(self._heal(entry) for entry in self.testnet.processes))
        stopped: list[str] = []
        troubled: dict[str, list[str]] = {}
        for name, trouble in zip(self.names, found, strict=True):
            try:
                on_purpose = await self.stopped_for_safety([name])
            except (TrilemmaError, OSError) as error:
                on_purpose, trouble = [], trouble or str(error)
            stopped += on_purpose
            if trouble and not on_purpose:
                troubled.setdefault(trouble, []).append(name)
        if troubled:
            raise FaultFailed(unhealed(troubled, stopped))
        return stopped

    async def _heal(self, entry: ProcessEntry) -> str:
        """Bring a process back, honest and with nothing to suffer; says why where that fails. One
        of which nobody knows how it ended is left as it is."""
        try:
            stays_down = await self.stopped_for_safety([entry.name])
            if byzantine_mode(self.testnet, entry.name):
                if not stays_down:
                    with contextlib.suppress(NotRunning):
                        await self.ask(self.target.stop, entry.name)
                # Not before: one that could not be stopped lies on, and has to be known for it.
                set_byzantine(self.testnet, entry, "")
            if not stays_down:
                await self.bring_up([entry.name])
                with contextlib.suppress(ConfigError):  # it takes none, so that it has none
                    await self.plans.clear(entry)
        except (TrilemmaError, OSError) as trouble:
            with contextlib.suppress(TrilemmaError, OSError):  # it may run all the same
                await self.plans.clear(entry)
            return str(trouble)
        return ""

    async def let_go_on(self, names: Iterable[str]) -> None:
        """End pauses; processes that are not paused are left alone."""
        for name in names:
            if await self.ask(self.target.state, name) == PAUSED:
                with contextlib.suppress(NotRunning):  # somebody killed it in this instant
                    await self.ask(self.target.resume, name)
                    await self.plans.tell_again(name)

    async def bring_up(self, names: Sequence[str]) -> None:
        """Start those that are down; returns once all serve."""
        down = [name for name in names if await self.ask(self.target.state, name) == DOWN]
        await self.each(partial(self.ask, self.target.start), down, AlreadyRuns)
        await self.each(self.wait_ready, names)

    async def bring_back(self, names: Sequence[str]) -> None:
        """Start those that a fault took down; not what stopped for safety's sake since. Raises the
        first error when all were tried."""

        async def back(name: str) -> None:
            if not await self.stopped_for_safety([name]):
                await self.bring_up([name])

        await self.each(back, names)

    async def stopped_for_safety(self, names: Iterable[str] | None = None) -> list[str]:
        """Processes (of `names`, or all) that broke an invariant; another start would do harm."""
        return [
            name
            for name in (self.names if names is None else names)
            if await self.ask(self.target.exit_status, name) == EXIT_SAFETY
            and await self.ask(self.target.state, name) == DOWN
        ]

    async def serves(self, name: str) -> bool:
        """Whether a process answers in time: one that has just started may find yet that it cannot
        run, and is not started for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SERVE_S):
                while await self.ask(self.target.state, name) != DOWN:
                    with contextlib.suppress(OSError, TrilemmaError):
                        await probe(self.testnet.process(name).public)
                        return True
                    await asyncio.sleep(_POLL_S)
        return False

    async def wait_ready(self, name: str, fault: Fault | None = None) -> None:
        """Wait until a process serves, then give it again the faults that it was ordered. A `fault`
        that does not have it leaves it to the one that has."""
        entry = self.testnet.process(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SERVE_S
        while True:
            if fault is not None and self._claims.get(name, fault) is not fault:
                return
            try:
                await probe(entry.public)
                break
            except (OSError, TrilemmaError) as error:
                status = await self.ask(self.target.exit_status, name)
                gone = await self.ask(self.target.state, name) == DOWN
                if gone and status in (EXIT_USAGE, EXIT_SAFETY):
                    raise stopped_for_good(self.target, name, status) from None
                if loop.time() > deadline:
                    raise FaultFailed(
                        f"{name} does not serve: {str(error) or 'no answer'}"
                    ) from None
                await asyncio.sleep(_POLL_S)
        await self.plans.tell_again(name)

    # --- what is seen of them

    async def note(self) -> None:
        """Look at every process that suffers something whether it is hit; one that does not answer
        is passed over."""
        await self.plans.note()
        for fault in self._lies:
            for name in fault.wanted if fault.ended_s is None else []:
                await self._count_lies(fault, name)

    async def _count_lies(self, fault: Fault, name: str) -> None:
        """A liar says itself, in its status, how often it lied."""
        try:
            values = (await probe(self.testnet.process(name).public)).values
        except (TrilemmaError, OSError):
            return
        told = values.get("lies_told")
        if isinstance(told, int) and told > 0:
            fault.evidence[name] = f"{told:,} lies told"

    async def bit(self) -> dict[str, dict[str, str]]:
        """Proof that faults hit: by fault, what each process showed; empty where nothing did."""
        await self.note()
        return {fault.text: dict(fault.evidence) for fault in self.faults}

    async def active(self) -> list[ActiveFault]:
        """What every process suffers now, whoever ordered it."""
        found = []
        for entry in self.testnet.processes:
            state = await self.ask(self.target.state, entry.name)
            mode = byzantine_mode(self.testnet, entry.name)
            found += [ActiveFault(entry.name, "byzantine", mode)] if mode else []
            if state != RUNNING:
                safety = await self.stopped_for_safety([entry.name])
                what = f"{state}, stopped for safety's sake" if safety else state
                found.append(ActiveFault(entry.name, "process", what))
                continue
            try:
                plan = (await read_faults(entry)).plan
            except TrilemmaError:
                continue
            found += [ActiveFault(entry.name, *shown) for shown in describe(plan)]
        return found


def describe(plan: Plan) -> list[tuple[str, str]]:
    """Kind and words of each fault in a plan."""
    found = []
    for toxic in plan.toxics:
        numbers = ", ".join(f"{key} {value}" for key, value in toxic.attributes.items())
        share = "" if toxic.toxicity_ppm == 1_000_000 else f", {toxic.toxicity_ppm} ppm of links"
        found.append((toxic.type, f"to {', '.join(toxic.peers)} {numbers}{share}".strip()))
    found += [("clock", f"{clock.skew_ms:+} ms") for clock in plan.clocks]
    for disk in plan.disks:
        found += [("slow-disk", f"{disk.delay_ms} ms a sync")] if disk.delay_ms else []
        found += [("full-disk", "full")] if disk.full else []
        found += [("read-only-disk", "read-only")] if disk.read_only else []
    return found
