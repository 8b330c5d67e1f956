"""Processes of a testnet that are not there, for a nemesis: they fall when something is done to
them, and are told over dictionaries what they suffer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster import faults_orders, faults_plans
from cluster.faults_api import Nemesis
from cluster.faults_targets import (
    DOWN,
    PAUSED,
    RUNNING,
    AlreadyRuns,
    FaultFailed,
    NotRunning,
    Target,
)
from cluster.faults_wire import Told
from net.injection_plan import NOTHING, Plan
from protocol.errors import ConfigError
from store.testnet import ProcessEntry, Testnet

ANSWER_S = 0.005
"""An answer is under way for so long: what it says may be over when it arrives."""


class World:
    """Processes, of which `falls` go down in the instant in which something is done to them, and
    `rises` come up in the instant in which they are started. `broken` never serves, and ends with
    `status`; `mute` run and do not answer; `refuses` take no plan."""

    kind = "elsewhere"

    def __init__(self, broken: str = "", status: int | None = None) -> None:
        self.broken = broken
        self.status = status
        self.down: set[str] = set()
        self.paused: set[str] = set()
        self.falls: set[str] = set()
        self.rises: set[str] = set()
        self.mute: set[str] = set()
        self.refuses: set[str] = set()
        self.plans: dict[str, Plan] = {}
        self.bits: dict[str, dict[str, Any]] = {}
        self.statuses: dict[str, int] = {}
        self.started: list[str] = []
        self.done: list[tuple[str, str]] = []
        self.looks = 0
        self.pids: dict[str, int] = {}
        self.addresses: dict[str, str] = {}
        self.values: dict[str, dict[str, Any]] = {}

    # --- a target

    def state(self, name: str) -> str:
        if name in self.down:
            return DOWN
        return PAUSED if name in self.paused else RUNNING

    def identity(self, name: str) -> str:
        self.looks += 1
        return "" if name in self.down else str(self.pids.get(name, 7))

    def exit_status(self, name: str) -> int | None:
        if name in self.statuses:
            return self.statuses[name]
        return self.status if name in self.down & set(self.started) else None

    def kill(self, name: str) -> None:
        self._end("kill", name, -9)

    def stop(self, name: str) -> None:
        self._end("stop", name, 0)

    def crash(self, name: str) -> None:
        self._fall(name)
        self.done.append(("crash", name))
        self.paused.discard(name)
        self._renew(name)

    def start(self, name: str) -> None:
        if name in self.rises:
            self.down.discard(name)
        if name not in self.down:
            raise AlreadyRuns(name)
        self.started.append(name)
        if name == self.broken:
            raise FaultFailed(f"{name} ended at once")
        self.down.discard(name)
        self._renew(name)

    def keep_down(self, name: str) -> None:
        self.down.add(name)

    def pause(self, name: str) -> None:
        self._fall(name)
        self.done.append(("pause", name))
        self.paused.add(name)

    def resume(self, name: str) -> None:
        self.paused.discard(name)
        self._fall(name)
        self.done.append(("resume", name))

    def files(self, name: str) -> dict[str, int]:
        return {"history": 5}

    def read_file(self, name: str, path: str) -> bytes:
        return b"right"

    def write_file(self, name: str, path: str, raw: bytes) -> None:
        self.done.append(("write", name))

    def remove_file(self, name: str, path: str) -> None:
        self.done.append(("remove", name))

    def _end(self, how: str, name: str, status: int) -> None:
        self._fall(name)
        self.done.append((how, name))
        self.paused.discard(name)
        self.down.add(name)
        self.statuses[name] = status
        self.plans.pop(name, None)

    def _fall(self, name: str) -> None:
        if name in self.falls:
            self.down.add(name)
        if name in self.down:
            raise NotRunning(name)

    def _renew(self, name: str) -> None:
        """Another process by this name, which suffers nothing."""
        self.pids[name] = self.pids.get(name, 7) + 1
        self.plans.pop(name, None)
        self.bits.pop(name, None)

    # --- what processes are told

    def hears(self, entry: ProcessEntry) -> str:
        name = entry.name
        if name in self.falls:
            self.down.add(name)
        if name in self.down | self.mute | self.paused:
            raise FaultFailed(f"{name} does not answer")
        return name

    async def read(self, entry: ProcessEntry) -> Told:
        await asyncio.sleep(0)
        name = self.hears(entry)
        told = Told(plan=self.plans.get(name, NOTHING), bit=self.bits.get(name, {}))
        await asyncio.sleep(ANSWER_S)
        return told

    async def order(self, entry: ProcessEntry, plan: Plan) -> Told:
        await asyncio.sleep(0)
        name = self.hears(entry)
        if name in self.refuses:
            raise ConfigError(f"{name} refuses the faults")
        for faults in (plan.toxics, plan.clocks, plan.disks):
            if len({fault.name for fault in faults}) < len(faults):
                raise ConfigError("a name is used once")
        self.plans[name] = plan
        await asyncio.sleep(4 * ANSWER_S)
        return Told(plan=plan)

    async def clear(self, entry: ProcessEntry) -> Told:
        self.plans.pop(self.hears(entry), None)
        return Told()

    async def probe(self, address: str) -> SimpleNamespace:
        """Whoever runs serves, at its public address."""
        if self.state(self.addresses[address]) != RUNNING:
            raise ConnectionRefusedError
        return SimpleNamespace(values=self.values.get(self.addresses[address], {}))

    @property
    def suffering(self) -> dict[str, int]:
        """How many faults each process suffers."""
        counts = {
            name: len(plan.toxics) + len(plan.clocks) + len(plan.disks)
            for name, plan in self.plans.items()
        }
        return {name: count for name, count in counts.items() if count}


class Files(World):
    """With data files, the same for every process."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        super().__init__()
        self.kept = kept
        self.written: list[str] = []

    def files(self, name: str) -> dict[str, int]:
        return {path: len(raw) for path, raw in self.kept.items()}

    def read_file(self, name: str, path: str) -> bytes:
        return self.kept[path]

    def write_file(self, name: str, path: str, raw: bytes) -> None:
        self.kept[path] = raw
        self.written.append(path)

    def remove_file(self, name: str, path: str) -> None:
        del self.kept[path]


def nemesis_of(testnet: Testnet, world: World, monkeypatch: pytest.MonkeyPatch) -> Nemesis:
    """A nemesis on such processes."""
    world.addresses = {entry.public: entry.name for entry in testnet.processes}
    monkeypatch.setattr(faults_orders, "probe", world.probe)
    monkeypatch.setattr(faults_orders, "read_faults", world.read)
    monkeypatch.setattr(faults_plans, "read_faults", world.read)
    monkeypatch.setattr(faults_plans, "order_faults", world.order)
    monkeypatch.setattr(faults_plans, "clear_faults", world.clear)
    return Nemesis(testnet, cast(Target, world))
