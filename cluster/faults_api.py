"""The nemesis: breaks a running testnet on purpose, and proves that it did.

Usage::

    nemesis = Nemesis(Testnet.load(".trilemma/testnet"))
    cut = await nemesis.partition([["validator-0"], ["validator-1", "validator-2"]])
    ...
    print(await nemesis.bit())
    await nemesis.heal()

Every method returns a `Fault`, which `end` undoes. The names follow Jepsen's nemeses and
Toxiproxy's toxics where these have the thing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from cluster.faults_damage import flip_bits, set_byzantine
from cluster.faults_orders import Fault, Orders, PlanChange, Undo, adding, removing, setting
from cluster.faults_shapes import Blocked, between, shape
from cluster.faults_targets import DOWN, PAUSED, FaultFailed, NotRunning
from net.injection_plan import EVERY_PROCESS, Clock, Disk, Toxic


class Nemesis(Orders):
    """Faults of one running testnet. Raises `ConfigError` for what cannot be ordered, `FaultFailed`
    where a process does not do as it is told."""

    # --- processes

    async def kill(self, *names: str) -> Fault:
        """SIGKILL, and down until the fault ends."""
        return await self._down("kill", names, self.target.kill)

    async def stop(self, *names: str) -> Fault:
        """SIGTERM, and down until the fault ends."""
        return await self._down("stop", names, self.target.stop)

    async def _down(self, kind: str, names: Sequence[str], act: Callable[[str], None]) -> Fault:
        self.known(names)
        fault = self.begin(kind, names, f"{kind} {', '.join(names)}")
        before = {name: await self.ask(self.target.identity, name) for name in names}
        await self._at_once(act, names)
        for name in names:
            pid = before[name]
            fault.evidence[name] = f"process {pid} is gone" if pid else "it was down already"
        return self.until_end(fault, lambda: self._start(fault, names))

    async def _at_once(self, act: Callable[[str], None], names: Sequence[str]) -> list[NotRunning]:
        """Do something to processes side by side, so that none goes on while another is stopped;
        tells of those that were down already."""
        acts = (asyncio.to_thread(act, name) for name in names)
        errors = [one for one in await asyncio.gather(*acts, return_exceptions=True) if one]
        for error in errors:
            if not isinstance(error, NotRunning):
                raise error
        return [error for error in errors if isinstance(error, NotRunning)]

    async def crash(self, *names: str) -> Fault:
        """SIGKILL, of several at those that run; whoever supervises a process starts it again."""
        self.known(names)
        fault = self.begin("crash", names, f"crash {', '.join(names)}")
        before = {name: await self.ask(self.target.identity, name) for name in names}
        async with self._forestalled(fault):
            down = await self._at_once(self.target.crash, names)
            if len(down) == len(names):
                raise down[0]
        fault.evidence = {name: f"process {before[name]} was killed" for name in names}
        fault.evidence |= {one.name: "it was down already" for one in down}

        async def back() -> None:
            await asyncio.gather(*(self.wait_ready(name) for name in names))

        return self.until_end(fault, back)

    async def restart(self, *names: str, graceful: bool = True) -> Fault:
        """Stop (or kill) and start; returns once the processes serve."""
        self.known(names)
        fault = self.begin("restart", names, f"restart {', '.join(names)}")
        fault.evidence.update(await self._restart(names, graceful=graceful))
        return self.ended(fault)

    async def _restart(self, names: Sequence[str], *, graceful: bool = True) -> dict[str, str]:
        """The restart, and what proves it of each."""
        before = {name: await self.ask(self.target.identity, name) for name in names}
        act = self.target.stop if graceful else self.target.kill
        await self._at_once(act, [name for name in names if before[name]])
        await self._start(None, names)
        after = {name: await self.ask(self.target.identity, name) for name in names}
        return {
            name: f"process {before[name] or 'none'} became {after[name]}"
            for name in names
            if after[name] != before[name]
        }

    async def start(self, *names: str) -> None:
        """Start processes that are down; returns once they serve."""
        self.known(names)
        await self._start(None, names)

    async def pause(self, *names: str) -> Fault:
        """SIGSTOP until the fault ends: connections stand, and nothing answers."""
        self.known(names)
        fault = self.begin("pause", names, f"pause {', '.join(names)}")
        async with self._forestalled(fault, lambda: self._resume(fault.evidence)):
            for name in names:
                await asyncio.to_thread(self.target.pause, name)
                if await self.ask(self.target.state, name) == PAUSED:
                    fault.evidence[name] = "the system has the process stopped"
        return self.until_end(fault, lambda: self.resume(*names))

    @asynccontextmanager
    async def _forestalled(self, fault: Fault, undo: Undo | None = None) -> AsyncIterator[None]:
        """While a fault is ordered: where a process turns out to be down, it never was, and what it
        did to others is undone. `NotRunning` goes on to the caller."""
        try:
            yield
        except NotRunning:
            self.faults = [one for one in self.faults if one is not fault]
            if undo is not None:
                await undo()
            raise

    async def resume(self, *names: str) -> None:
        """End pauses; processes that are not paused are left alone."""
        self.known(names)
        await self._resume(names)

    async def _resume(self, names: Iterable[str]) -> None:
        for name in names:
            if await self.ask(self.target.state, name) == PAUSED:
                await asyncio.to_thread(self.target.resume, name)

    async def _start(self, fault: Fault | None, names: Sequence[str]) -> None:
        down = [name for name in names if await self.ask(self.target.state, name) == DOWN]
        await self._at_once(self.target.start, down)
        await asyncio.gather(*(self.wait_ready(name) for name in names))
        if fault is not None:
            for name in names:
                after = await self.ask(self.target.identity, name)
                before = fault.evidence.get(name, "")
                fault.evidence[name] = f"{before}, {after} serves".lstrip(", ")

    # --- links

    async def partition(
        self, groups: Sequence[Sequence[str]] = (), *, one_way: bool = False, isolate: str = ""
    ) -> Fault:
        """Nothing passes between the groups (`one_way`: nothing from the first to the others), or
        between `isolate` and every other process."""
        if isolate:
            self.known([isolate])
            groups = [[isolate], [name for name in self.names if name != isolate]]
        sides = " | ".join(", ".join(group) for group in groups)
        arrow = "one-way " if one_way else ""
        return await self.block(between(groups, one_way=one_way), f"{arrow}partition {sides}")

    async def partition_shape(self, name: str, members: Sequence[str]) -> Fault:
        """A partition of Jepsen's (`cluster.faults_shapes.shape`) among members, at random."""
        blocked = shape(name, members, self.rng)
        cut = "; ".join(f"{one} from {', '.join(peers)}" for one, peers in blocked.items())
        return await self.block(blocked, f"{name}: {cut}", name)

    async def block(self, blocked: Blocked, text: str, kind: str = "partition") -> Fault:
        """Nothing that a process sends reaches its blocked peers any more."""
        self.known([*blocked, *(peer for peers in blocked.values() for peer in peers)])
        return await self._toxics(kind, text, {
            name: ("timeout", peers, {}) for name, peers in blocked.items()
        })  # fmt: skip

    async def delay(
        self, *names: str, latency_ms: int, jitter_ms: int = 0, peers: Iterable[str] = ()
    ) -> Fault:
        """What these processes send to `peers` (every process where empty) comes later."""
        attributes = {"latency_ms": latency_ms, "jitter_ms": jitter_ms}
        return await self._toxic("delay", "latency", names, peers, attributes)

    async def loss(self, *names: str, loss_ppm: int, peers: Iterable[str] = ()) -> Fault:
        """A share of what these processes send is lost."""
        return await self._toxic("loss", "loss", names, peers, {"loss_ppm": loss_ppm})

    async def bandwidth(self, *names: str, rate_kib_s: int, peers: Iterable[str] = ()) -> Fault:
        """These processes send at most so much to each peer."""
        return await self._toxic("bandwidth", "bandwidth", names, peers, {"rate_kib_s": rate_kib_s})

    async def reset(self, *names: str, timeout_ms: int = 0, peers: Iterable[str] = ()) -> Fault:
        """Connections to the peers are reset after a time, and new ones too."""
        return await self._toxic("reset", "reset_peer", names, peers, {"timeout_ms": timeout_ms})

    async def slicer(self, *names: str, size: int, peers: Iterable[str] = ()) -> Fault:
        """What these processes send goes out in pieces of `size` bytes."""
        return await self._toxic("slicer", "slicer", names, peers, {"bytes": size})

    async def limit_data(self, *names: str, size: int, peers: Iterable[str] = ()) -> Fault:
        """Connections are closed after `size` bytes."""
        return await self._toxic("limit_data", "limit_data", names, peers, {"bytes": size})

    async def _toxic(
        self, kind: str, toxic: str, names: Sequence[str], peers: Iterable[str],
        attributes: dict[str, int],
    ) -> Fault:  # fmt: skip
        self.known(names)
        reached = list(peers) or [EVERY_PROCESS]
        numbers = ", ".join(f"{name} {value}" for name, value in attributes.items() if value)
        text = f"{kind} at {', '.join(names)}" + (f" ({numbers})" if numbers else "")
        orders = dict.fromkeys(names, (toxic, reached, attributes))
        return await self._toxics(kind, text, orders)

    async def _toxics(
        self, kind: str, text: str, orders: dict[str, tuple[str, list[str], dict[str, int]]]
    ) -> Fault:
        fault = self.begin(kind, list(orders), text)
        # Not drawn from the seed: another nemesis with the same one may have ordered its own here.
        label = f"{kind}-{secrets.token_hex(4)}"

        changes: dict[str, PlanChange] = {}
        for name, (toxic, peers, attributes) in orders.items():
            added = Toxic(name=label, type=toxic, peers=peers, attributes=attributes)
            changes[name] = adding(added)
        await self.order(fault, changes)
        return self.until_end(
            fault, lambda: self.order(fault, dict.fromkeys(orders, removing(label)))
        )

    # --- clocks and disks

    async def clock_skew(self, *names: str, skew_ms: int) -> Fault:
        """The clocks of these processes are ahead (below 0: behind)."""
        return await self._set("clock", names, f"clock {skew_ms:+} ms", clock=Clock(skew_ms))

    async def clock_scrambler(self, *names: str, most_ms: int) -> Fault:
        """Every clock is off by something else, up to `most_ms` either way."""
        self.known(names)
        skews = {name: self.rng.randint(-most_ms, most_ms) or 1 for name in names}
        text = ", ".join(f"{name} {skew:+} ms" for name, skew in skews.items())
        fault = self.begin("clock-scrambler", names, f"clocks: {text}")
        await self.order(fault, {
            name: setting(clock=Clock(skew)) for name, skew in skews.items()
        })  # fmt: skip
        right = setting(clock=Clock())
        return self.until_end(fault, lambda: self.order(fault, dict.fromkeys(names, right)))

    async def slow_disk(self, *names: str, delay_ms: int) -> Fault:
        """Every sync takes longer."""
        disk = Disk(delay_ms=delay_ms)
        return await self._set("slow-disk", names, f"disk {delay_ms} ms slower", disk=disk)

    async def full_disk(self, *names: str) -> Fault:
        """No write finds room."""
        return await self._set("full-disk", names, "disk full", disk=Disk(full=True))

    async def read_only_disk(self, *names: str) -> Fault:
        """No write is allowed."""
        return await self._set("read-only-disk", names, "disk read-only", disk=Disk(read_only=True))

    async def _set(
        self, kind: str, names: Sequence[str], text: str, *, clock: Clock | None = None,
        disk: Disk | None = None,
    ) -> Fault:  # fmt: skip
        self.known(names)
        fault = self.begin(kind, names, f"{text} at {', '.join(names)}")
        await self.order(fault, dict.fromkeys(names, setting(clock, disk)))
        undone = setting(Clock() if clock else None, Disk() if disk else None)
        return self.until_end(fault, lambda: self.order(fault, dict.fromkeys(names, undone)))

    # --- damage and lies

    async def corrupt_file(
        self, name: str, *, path: str | None = None, bits: int = 8, start: bool = True
    ) -> Fault:
        """Kill a process, flip bits anywhere in one of its files, and start it; it may refuse to
        run. The end of the fault puts its files back where it is down, and starts it."""
        self.known([name])
        fault = self.begin("corrupt-file", [name], f"corrupt a file of {name}")
        if await self.ask(self.target.state, name) != DOWN:
            await asyncio.to_thread(self.target.kill, name)
        kept = await asyncio.to_thread(self._copy, name)
        damage = await asyncio.to_thread(
            lambda: flip_bits(self.target, name, self.rng, path=path, bits=bits)
        )
        fault.text = f"{name}: {damage.text()}"
        fault.evidence[name] = damage.text()
        if start:
            try:
                await asyncio.to_thread(self.target.start, name)
            except FaultFailed as refused:
                fault.evidence[name] += f"; {refused}"

        async def repair() -> None:
            if not await self.serves(name):
                status = await self.ask(self.target.exit_status, name)
                fault.evidence[name] += f"; it would not run with that (status {status})"
                await asyncio.to_thread(self._put_back, name, kept)
                await self._start(None, [name])

        return self.until_end(fault, repair)

    def _copy(self, name: str) -> dict[str, bytes]:
        """All files of a process that is down: one alone would not fit the others later."""
        return {path: self.target.read_file(name, path) for path in self.target.files(name)}

    def _put_back(self, name: str, kept: dict[str, bytes]) -> None:
        self.target.keep_down(name)
        for path, raw in kept.items():
            self.target.write_file(name, path, raw)

    async def byzantine(self, mode: str, *names: str) -> Fault:
        """Restart processes so that they lie in this way, until the fault ends."""
        self.known(names)
        fault = self.begin("byzantine", names, f"{', '.join(names)} lies: {mode}")
        for name in names:
            set_byzantine(self.testnet, self.testnet.process(name), mode)
        await self._restart(names)
        self.lying(fault)

        async def honest() -> None:
            for name in names:
                set_byzantine(self.testnet, self.testnet.process(name), "")
            try:
                await self._restart(names)
            except FaultFailed:
                # A key that signed what its state does not know may never sign again.
                if not set(names) & set(await self.stopped_for_safety()):
                    raise

        return self.until_end(fault, honest)
