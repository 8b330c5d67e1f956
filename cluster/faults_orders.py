"""What a nemesis has ordered: how each fault ends, and what proves that it bit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import TypeVar

import msgspec

from client.faults import EXIT_SAFETY, EXIT_USAGE
from cluster.faults_damage import byzantine_mode, set_byzantine
from cluster.faults_shapes import SHAPES
from cluster.faults_targets import DOWN, PAUSED, RUNNING, FaultFailed, Target, find_target
from cluster.faults_wire import Told, clear_faults, order_faults, read_faults
from cluster.health import probe
from net.injection_plan import NOTHING, Clock, Disk, Plan, Toxic
from protocol.errors import ConfigError, TrilemmaError
from store.testnet import ProcessEntry, Testnet

SERVE_S = 60.0
"""How long a process may take to serve after its start."""

COUNTERS = {
    "latency": "delayed_frames", "loss": "lost_frames", "timeout": "blocked_frames",
    "bandwidth": "throttled_bytes", "slicer": "sliced_frames", "limit_data": "cut_connections",
}  # fmt: skip
"""Which counter of a process tells that a toxic of this type hit."""

_POLL_S = 0.05

T = TypeVar("T")
Undo = Callable[[], Awaitable[None]]
PlanChange = Callable[[Plan], Plan]


def adding(toxic: Toxic) -> PlanChange:
    """The plan with a toxic more."""
    return lambda plan: msgspec.structs.replace(plan, toxics=[*plan.toxics, toxic])


def removing(label: str) -> PlanChange:
    """The plan without the toxic of this name."""
    return lambda plan: msgspec.structs.replace(
        plan, toxics=[toxic for toxic in plan.toxics if toxic.name != label]
    )


def setting(clock: Clock | None = None, disk: Disk | None = None) -> PlanChange:
    """The plan with another clock or disk."""
    return lambda plan: msgspec.structs.replace(
        plan, clock=clock or plan.clock, disk=disk or plan.disk
    )


class Fault(msgspec.Struct, kw_only=True):
    """A fault that was ordered: `wanted` are the processes that it was ordered for, `evidence`
    holds, by process, what proves that it bit there. `healing_s` is when its undoing began,
    `ended_s` when that was done. Times are the event loop's."""

    kind: str
    text: str
    wanted: list[str]
    began_s: float
    ended_s: float | None = None
    healing_s: float | None = None
    evidence: dict[str, str] = {}

    @property
    def bit(self) -> bool:
        """Whether it hit anywhere; `missed` names where it did not."""
        return bool(self.evidence)

    @property
    def missed(self) -> list[str]:
        """Processes that it was ordered for, and which never noticed."""
        return [name for name in self.wanted if name not in self.evidence]


class ActiveFault(msgspec.Struct, frozen=True):
    """What a process suffers now, whoever ordered it: `what` in words."""

    process: str
    kind: str
    what: str


class Watched(msgspec.Struct):
    """Counters of a process when a fault of its plan began, to see them grow."""

    fault: Fault
    name: str
    base: dict[str, int]
    identity: str


class Orders:
    """The faults of one nemesis on one testnet; see `cluster.faults_api.Nemesis`."""

    def __init__(self, testnet: Testnet, target: Target | None = None, *, seed: int = 1) -> None:
        self.testnet = testnet
        self.target = target or find_target(testnet)
        self.faults: list[Fault] = []
        self.rng = Random(seed)
        self._undo: list[tuple[Fault, Undo]] = []
        self._ordered: dict[str, Plan] = {}
        self._watched: list[Watched] = []
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
        """Ask the target in a thread."""
        return await asyncio.to_thread(question, name)

    # --- a fault's life

    def begin(self, kind: str, names: Iterable[str], text: str) -> Fault:
        """Note a fault that begins now."""
        now_s = asyncio.get_running_loop().time()
        fault = Fault(kind=kind, text=text, wanted=list(names), began_s=now_s, evidence={})
        self.faults.append(fault)
        return fault

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
        return fault

    async def end(self, fault: Fault) -> None:
        """Undo a fault of this nemesis; nothing where it has ended."""
        for place, (known, undo) in enumerate(self._undo):
            if known is fault:
                await self.note()
                del self._undo[place]
                fault.healing_s = asyncio.get_running_loop().time()
                await undo()
                self._watched = [one for one in self._watched if one.fault is not fault]
                self.ended(fault)
                return

    async def heal(self) -> list[str]:
        """End every fault, those of other nemeses too: processes go on, start and are told to
        suffer nothing; returns once all serve, but those that stopped for safety's sake: their
        names. A liar's key may have signed what its state does not know, and may never sign again.

        Raises `FaultFailed` for those that do not serve, when all others are healed."""
        await self.note()
        for name in self.names:
            if await self.ask(self.target.state, name) == PAUSED:
                await asyncio.to_thread(self.target.resume, name)
        while self._undo:
            fault, undo = self._undo.pop()
            fault.healing_s = asyncio.get_running_loop().time()
            with contextlib.suppress(FaultFailed):  # what is left of it, `_heal` ends or names
                await undo()
            self.ended(fault)
        self._ordered.clear()
        self._watched.clear()
        for entry in self.testnet.processes:
            if byzantine_mode(self.testnet, entry.name):
                set_byzantine(self.testnet, entry, "")
                await self.ask(self.target.stop, entry.name)
        stopped = await self.stopped_for_safety()
        left = [entry for entry in self.testnet.processes if entry.name not in stopped]
        found = await asyncio.gather(*(self._heal(entry) for entry in left))
        stopped = await self.stopped_for_safety()
        failed = zip(left, found, strict=True)
        if troubles := [text for entry, text in failed if text and entry.name not in stopped]:
            raise FaultFailed(f"{'; '.join(troubles)}; its log says why. All others are healed")
        return stopped

    async def _heal(self, entry: ProcessEntry) -> str:
        """Bring a process back and have it suffer nothing; says why where it does not serve."""
        try:
            if await self.ask(self.target.state, entry.name) == DOWN:
                await asyncio.to_thread(self.target.start, entry.name)
            await self.wait_ready(entry.name)
            with contextlib.suppress(ConfigError):  # it takes none, so that it has none
                await clear_faults(entry)
        except FaultFailed as trouble:
            return str(trouble)
        return ""

    async def stopped_for_safety(self) -> list[str]:
        """Processes that stopped because an invariant was broken; another start would do harm."""
        return [
            name
            for name in self.names
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

    async def wait_ready(self, name: str, timeout_s: float = SERVE_S) -> None:
        """Wait until a process serves, then give it again the faults that it was ordered."""
        entry = self.testnet.process(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                await probe(entry.public)
                break
            except (OSError, TrilemmaError) as error:
                status = await self.ask(self.target.exit_status, name)
                gone = await self.ask(self.target.state, name) == DOWN
                if gone and status in (EXIT_USAGE, EXIT_SAFETY):
                    raise FaultFailed(f"{name} stopped for good with status {status}") from None
                if loop.time() > deadline:
                    raise FaultFailed(
                        f"{name} does not serve: {str(error) or 'no answer'}"
                    ) from None
                await asyncio.sleep(_POLL_S)
        plan = self._ordered.get(name)
        if plan is not None and plan != NOTHING:
            await order_faults(entry, plan)

    # --- plans

    async def order(self, fault: Fault, changes: dict[str, PlanChange]) -> None:
        """Change what processes are told to suffer, and watch for its hits."""
        for name, change in changes.items():
            entry = self.testnet.process(name)
            state = await self.ask(self.target.state, name)
            if state != RUNNING:
                if fault.kind not in SHAPES and name not in self._ordered:
                    raise ConfigError(f"{name} is {state} and cannot be told; bring it back first")
                # It is told when it serves again.
                self._ordered[name] = change(self._ordered.get(name, NOTHING))
                continue
            try:
                told = await read_faults(entry)
                plan = change(told.plan)
                await order_faults(entry, plan)
            except FaultFailed:
                if name not in self._ordered:
                    raise
                # It is starting, perhaps stopped by this very fault.
                self._ordered[name] = change(self._ordered[name])
                continue
            self._ordered[name] = plan
            identity = await self.ask(self.target.identity, name)
            self._watched.append(Watched(fault, name, counters(told), identity))

    async def note(self) -> None:
        """Look at every process with a plan whether its faults hit; a process that does not answer
        is passed over."""
        answers: dict[str, Told] = {}
        ordered = {name for name, plan in self._ordered.items() if plan != NOTHING}
        for name in ordered | {watched.name for watched in self._watched}:
            try:
                if await self.ask(self.target.state, name) == RUNNING:
                    answers[name] = await self._told_again(name)
            except (TrilemmaError, OSError):
                continue
        for fault in self._lies:
            for name in fault.wanted if fault.ended_s is None else []:
                await self._count_lies(fault, name)
        for watched in self._watched:
            name = watched.name
            if name in answers:
                await self._compare(watched, answers[name])
            elif watched.fault.kind in ("full-disk", "read-only-disk"):
                watched.fault.evidence.setdefault(name, "the process stopped")

    async def _count_lies(self, fault: Fault, name: str) -> None:
        """A liar says itself, in its status, how often it lied."""
        try:
            values = (await probe(self.testnet.process(name).public)).values
        except (TrilemmaError, OSError):
            return
        told = values.get("lies_told")
        if isinstance(told, int) and told > 0:
            fault.evidence[name] = f"{told:,} lies told"

    async def _told_again(self, name: str) -> Told:
        """What a process says of its faults; one that started again is told them once more."""
        entry = self.testnet.process(name)
        told = await read_faults(entry)
        wanted = self._ordered.get(name)
        if wanted is not None and told.plan == NOTHING != wanted:
            await order_faults(entry, wanted)
        return told

    async def _compare(self, watched: Watched, told: Told) -> None:
        now = counters(told)
        identity = await self.ask(self.target.identity, watched.name)
        base = watched.base if identity == watched.identity else {}
        disk = watched.fault.kind in ("full-disk", "read-only-disk")
        if disk and identity != watched.identity:
            watched.fault.evidence.setdefault(watched.name, "the process stopped and came back")
        grown = {
            what: count - base.get(what, 0)
            for what, count in now.items()
            if count > base.get(what, 0) and what in _looked_for(watched.fault.kind)
        }
        if grown and watched.fault.ended_s is None:
            shown = ", ".join(f"{count} {what}" for what, count in sorted(grown.items()))
            watched.fault.evidence[watched.name] = shown.replace("_", " ")

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
                found.append(ActiveFault(entry.name, "process", state))
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
    if plan.clock.skew_ms:
        found.append(("clock", f"{plan.clock.skew_ms:+} ms"))
    disk = plan.disk
    if disk.delay_ms:
        found.append(("slow-disk", f"{disk.delay_ms} ms a sync"))
    found += [("full-disk", "full")] if disk.full else []
    found += [("read-only-disk", "read-only")] if disk.read_only else []
    return found


def counters(told: Told) -> dict[str, int]:
    """Everything that a process counted of its faults: of links over all peers, of the disk, and
    how far the clock is off."""
    total: dict[str, int] = {}
    for peer in dict(told.bit.get("peers", {})).values():
        for what, count in dict(peer).items():
            total[what] = total.get(what, 0) + int(count)
    for what, count in dict(told.bit.get("disk", {})).items():
        total[what] = total.get(what, 0) + int(count)
    total["clock_off_ms"] = abs(int(told.bit.get("clock_off_ms", 0)))
    return total


def _looked_for(kind: str) -> set[str]:
    links = {
        "delay": {COUNTERS["latency"]}, "loss": {COUNTERS["loss"]},
        "bandwidth": {COUNTERS["bandwidth"]}, "slicer": {COUNTERS["slicer"]},
        "limit_data": {COUNTERS["limit_data"]}, "clock": {"clock_off_ms"},
        "clock-scrambler": {"clock_off_ms"}, "slow-disk": {"delayed_syncs"},
        "full-disk": {"refused_writes"}, "read-only-disk": {"refused_writes"},
        "reset": {"reset_connections", "refused_connections", "resets", "cut_connections"},
    }  # fmt: skip
    return links.get(kind, {COUNTERS["timeout"], "refused_connections"})
