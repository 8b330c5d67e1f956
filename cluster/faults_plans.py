"""What one nemesis tells processes to suffer by themselves (links, clocks, disks), and its hits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from cluster.faults_evidence import DISK_KINDS, Fault, Watched, counters
from cluster.faults_targets import RUNNING, FaultFailed, Target
from cluster.faults_wire import Told, clear_faults, order_faults, read_faults
from net.injection_plan import NOTHING, Clock, Disk, Plan, Toxic
from protocol.errors import TrilemmaError
from store.testnet import ProcessEntry, Testnet

PlanChange = Callable[[Plan], Plan]


def adding(fault: Toxic | Clock | Disk) -> PlanChange:
    """The plan with a fault more, in the place of any of its name."""
    place = {Toxic: "toxics", Clock: "clocks", Disk: "disks"}[type(fault)]

    def change(plan: Plan) -> Plan:
        without = removing(fault.name)(plan)
        return msgspec.structs.replace(without, **{place: [*getattr(without, place), fault]})

    return change


def removing(label: str) -> PlanChange:
    """The plan without what has this name."""
    return lambda plan: msgspec.structs.replace(
        plan,
        toxics=[one for one in plan.toxics if one.name != label],
        clocks=[one for one in plan.clocks if one.name != label],
        disks=[one for one in plan.disks if one.name != label],
    )


class Plans:
    """The plans of the processes of one testnet, as far as one nemesis changes them.

    A process that cannot be told now, as it is down, paused or only starts, is owed the change: it
    is told with the next `note` or `tell` that it answers. So is all of it to one that started
    again, and therefore knows nothing.
    """

    def __init__(self, testnet: Testnet, target: Target) -> None:
        self._testnet = testnet
        self._target = target
        self._told: dict[str, Plan] = {}
        self._owed: dict[str, list[PlanChange]] = {}
        self._watched: list[Watched] = []
        self._locks: dict[str, asyncio.Lock] = {}
        """A change is to what was read: two at a time would lose one."""

    @property
    def owed(self) -> list[str]:
        """Processes that have not been told everything yet."""
        return list(self._owed)

    async def order(self, fault: Fault, name: str, change: PlanChange) -> None:
        """Change what a process suffers, and watch for what this fault hits there."""
        told = await self._change(name, change)
        identity = await asyncio.to_thread(self._target.identity, name)
        # One that is down counts from 0 when it starts; one that stands may have counted before.
        base = counters(told) if told is not None else None if identity else {}
        self._watched.append(Watched(fault, name, base, identity))

    async def undo(self, fault: Fault, changes: dict[str, PlanChange]) -> None:
        """Take a fault back everywhere; raises the first error when all were tried."""
        self._watched = [one for one in self._watched if one.fault is not fault]
        errors = []
        for name, change in changes.items():
            try:
                await self._change(name, change)
            except TrilemmaError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    async def tell(self, name: str) -> Told | None:
        """Tell a process what it has not heard; returns what it said before, None where it does not
        run. Raises `FaultFailed` where it does not answer."""
        entry = self._testnet.process(name)
        async with self._lock(name):
            if not await self._runs(name):
                return None
            told = await read_faults(entry)
            wanted = self._wanted(name, told.plan)
            if wanted != told.plan:
                await order_faults(entry, wanted)
                self._told[name] = wanted
            self._owed.pop(name, None)
            return told

    async def tell_again(self, name: str) -> None:
        """Tell a process that goes on or serves again, where there is anything to tell."""
        if name in self._told or name in self._owed:
            with contextlib.suppress(FaultFailed):
                await self.tell(name)

    async def clear(self, entry: ProcessEntry) -> None:
        """Have a process suffer nothing; raises `ConfigError` where it takes no faults."""
        async with self._lock(entry.name):
            self._told.pop(entry.name, None)
            self._owed.pop(entry.name, None)
            await clear_faults(entry)

    def forget(self) -> None:
        """Nothing is ordered any more."""
        self._told.clear()
        self._owed.clear()
        self._watched.clear()

    async def note(self) -> None:
        """Look at every process with a plan whether its faults hit; one that does not answer is
        passed over."""
        watched = list(self._watched)  # more may begin meanwhile, and were not asked for
        suffering = [name for name, plan in self._told.items() if plan != NOTHING]
        for name in dict.fromkeys([*suffering, *self._owed, *(one.name for one in watched)]):
            told = None
            with contextlib.suppress(TrilemmaError, OSError):
                told = await self.tell(name)
            of_it = [one for one in watched if one.name == name]
            if of_it:
                await self._compare(name, of_it, told)

    async def _compare(self, name: str, watched: list[Watched], told: Told | None) -> None:
        identity = await asyncio.to_thread(self._target.identity, name)
        for one in watched:
            if told is not None:
                one.compare(told, identity)
            if one.fault.kind in DISK_KINDS and one.identity not in ("", identity):
                status = await asyncio.to_thread(self._target.exit_status, name)
                one.stopped(status, came_back=bool(identity))

    async def _change(self, name: str, change: PlanChange) -> Told | None:
        """Change a process's plan; what it said before, None where it is told later."""
        entry = self._testnet.process(name)
        async with self._lock(name):
            # It may go down in any instant, or only start.
            with contextlib.suppress(FaultFailed):
                if await self._runs(name):
                    told = await read_faults(entry)
                    plan = change(self._wanted(name, told.plan))
                    if plan != told.plan:
                        await order_faults(entry, plan)
                    self._told[name] = plan
                    self._owed.pop(name, None)
                    return told
            self._owed.setdefault(name, []).append(change)
            return None

    def _wanted(self, name: str, plan: Plan) -> Plan:
        """What a process should suffer that says that it suffers `plan`."""
        if plan == NOTHING:
            plan = self._told.get(name, NOTHING)
        for change in self._owed.get(name, ()):
            plan = change(plan)
        return plan

    async def _runs(self, name: str) -> bool:
        return await asyncio.to_thread(self._target.state, name) == RUNNING

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())
