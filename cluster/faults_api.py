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
import contextlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from cluster.faults_damage import flip_bits, set_byzantine
from cluster.faults_evidence import Fault
from cluster.faults_orders import Orders
from cluster.faults_plans import PlanChange, adding, removing
from cluster.faults_shapes import Blocked, between, shape
from cluster.faults_targets import DOWN, PAUSED, AlreadyRuns, FaultFailed, NotRunning
from net.injection_plan import EVERY_PROCESS, Clock, Disk, Toxic
from store.config import PEER_ROLES
from store.ownership import RESTORED_NAME, UNSIGNING

STARTS_S = 10.0
"""A damaged process that is not down after so long has taken part."""


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
        async with self.ordering(fault, lambda: self.bring_back(self.claimed(fault))):
            before = await self._identities(fault)
            down = await self.hit(fault, act, names)
        for name in down:
            pid = before[name]
            fault.evidence[name] = f"process {pid} is gone" if pid else "it was down already"

        async def up() -> None:
            await self.bring_back(down)
            for name in down:
                if after := await self.ask(self.target.identity, name):
                    fault.evidence[name] += f", {after} serves"

        return self.until_end(fault, up)

    async def _identities(self, fault: Fault) -> dict[str, str]:
        return {name: await self.ask(self.target.identity, name) for name in fault.wanted}

    async def crash(self, *names: str) -> Fault:
        """SIGKILL; whoever supervises a process starts it again."""
        self.known(names)
        fault = self.begin("crash", names, f"crash {', '.join(names)}")
        async with self.ordering(fault):  # whom it hit comes back by itself
            before = await self._identities(fault)
            crashed = await self.hit(fault, self.target.crash, names)
        self.release(fault)
        fault.evidence |= {name: f"process {before[name]} was killed" for name in crashed}

        async def back() -> None:
            await self.each(lambda name: self.wait_ready(name, fault), crashed)

        return self.until_end(fault, back)

    async def restart(self, *names: str, graceful: bool = True) -> Fault:
        """Stop (or kill) those that run, and start all; returns once the processes serve."""
        self.known(names)
        fault = self.begin("restart", names, f"restart {', '.join(names)}")
        async with self.ordering(fault):
            fault.wanted = self.claim(fault, names)
            fault.evidence.update(await self._restart(fault.wanted, graceful=graceful))
        return self.ended(fault)

    async def _restart(self, names: Sequence[str], *, graceful: bool = True) -> dict[str, str]:
        """The restart, and what proves it of each."""
        before = {name: await self.ask(self.target.identity, name) for name in names}
        act = self.target.stop if graceful else self.target.kill
        try:
            running = [name for name in names if before[name]]
            await self.each(partial(self.ask, act), running, NotRunning)
        finally:
            await self.bring_up(names)
        after = {name: await self.ask(self.target.identity, name) for name in names}
        return {
            name: _renewed(before[name], after[name])
            for name in names
            if after[name] != before[name]
        }

    async def start(self, *names: str) -> None:
        """Start processes that are down; returns once they serve."""
        self.known(names)
        await self.bring_up(names)

    async def pause(self, *names: str) -> Fault:
        """SIGSTOP until the fault ends: connections stand, and nothing answers."""
        self.known(names)
        fault = self.begin("pause", names, f"pause {', '.join(names)}")
        async with self.ordering(fault, lambda: self.let_go_on(self.claimed(fault))):
            paused = await self.hit(fault, self.target.pause, names)
            for name in paused:
                if await self.ask(self.target.state, name) == PAUSED:
                    fault.evidence[name] = "the system has the process stopped"
        return self.until_end(fault, lambda: self.let_go_on(paused))

    async def resume(self, *names: str) -> None:
        """End pauses; processes that are not paused are left alone."""
        self.known(names)
        await self.let_go_on(names)

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
        label = _label(kind)
        changes: dict[str, PlanChange] = {}
        for name, (toxic, peers, attributes) in orders.items():
            added = Toxic(name=label, type=toxic, peers=peers, attributes=attributes)
            changes[name] = adding(added)
        return await self._tell(fault, changes, removing(label))

    async def _tell(self, fault: Fault, changes: dict[str, PlanChange], back: PlanChange) -> Fault:
        """Order a fault that processes bring on themselves; `back` is the change that ends it."""
        told: dict[str, PlanChange] = {}
        async with self.ordering(fault, lambda: self.plans.undo(fault, told)):
            for name, change in changes.items():
                await self.plans.order(fault, name, change)
                told[name] = back
        return self.until_end(fault, lambda: self.plans.undo(fault, told))

    # --- clocks and disks

    async def clock_skew(self, *names: str, skew_ms: int, label: str = "") -> Fault:
        """The clocks of these processes are ahead (below 0: behind), beside what other faults do to
        them. One of the same `label` is replaced, and 0 has none of it."""
        label = label or _label("clock")
        change = adding(Clock(label, skew_ms)) if skew_ms else removing(label)
        return await self._suffer("clock", names, f"clock {skew_ms:+} ms", change, label)

    async def clock_scrambler(self, *names: str, most_ms: int) -> Fault:
        """Every clock is off by something else, up to `most_ms` either way."""
        self.known(names)
        skews = {name: self.rng.randint(-most_ms, most_ms) or 1 for name in names}
        text = ", ".join(f"{name} {skew:+} ms" for name, skew in skews.items())
        fault = self.begin("clock-scrambler", names, f"clocks: {text}")
        label = _label("clock")
        changes = {name: adding(Clock(label, skew)) for name, skew in skews.items()}
        return await self._tell(fault, changes, removing(label))

    async def slow_disk(self, *names: str, delay_ms: int, label: str = "") -> Fault:
        """Every sync takes longer; `label` as in `clock_skew`."""
        disk = Disk(label or _label("slow-disk"), delay_ms=delay_ms)
        return await self._disk("slow-disk", names, f"disk {delay_ms} ms slower", disk)

    async def full_disk(self, *names: str, label: str = "") -> Fault:
        """No write finds room; `label` as in `clock_skew`."""
        disk = Disk(label or _label("full-disk"), full=True)
        return await self._disk("full-disk", names, "disk full", disk)

    async def read_only_disk(self, *names: str, label: str = "") -> Fault:
        """No write is allowed; `label` as in `clock_skew`."""
        disk = Disk(label or _label("read-only-disk"), read_only=True)
        return await self._disk("read-only-disk", names, "disk read-only", disk)

    async def _disk(self, kind: str, names: Sequence[str], text: str, disk: Disk) -> Fault:
        return await self._suffer(kind, names, text, adding(disk), disk.name)

    async def _suffer(
        self, kind: str, names: Sequence[str], text: str, change: PlanChange, label: str
    ) -> Fault:
        self.known(names)
        fault = self.begin(kind, names, f"{text} at {', '.join(names)}")
        return await self._tell(fault, dict.fromkeys(names, change), removing(label))

    # --- damage and lies

    async def corrupt_file(
        self, name: str, *, path: str | None = None, bits: int = 8, start: bool = True
    ) -> Fault:
        """Kill a process, flip bits anywhere in one of its files, and start it; it may refuse to
        run. The end of the fault puts its files back where it is down, and starts it. A member that
        ran with the damage signs nothing by them, as from a backup: it needs a new key."""
        self.known([name])
        fault = self.begin("corrupt-file", [name], f"corrupt a file of {name}")
        down: list[str] = []
        kept: dict[str, bytes] = {}
        ran = False

        async def undo() -> None:
            if kept:  # what failed may have been the write
                await self.ask(lambda name: self._put_back(name, kept), name)
            await self.bring_back(down)

        async with self.ordering(fault, undo):
            self.claim(fault, [name])
            if await self.ask(self.target.state, name) == DOWN:
                await self.ask(self.target.keep_down, name)
            else:
                await self.ask(self.target.kill, name)
            down.append(name)
            kept = await self.ask(self._copy, name)
            # From now on: whoever is cancelled in the damage heals, and has the only copy.
            self.until_end(fault, lambda: self._repair(fault, name, kept, ran=ran))
            damage = await self.ask(
                lambda name: flip_bits(self.target, name, self.rng, path=path, bits=bits), name
            )
        fault.text = f"{name}: {damage.text()}"
        fault.evidence[name] = damage.text()
        if start:
            ran = True  # as long as nobody knows better
            try:
                await self.ask(self.target.start, name)
                ran = await self._ran(name)
            except FaultFailed as refused:
                ran = False
                fault.evidence[name] += f"; {refused}"
        return fault

    async def _repair(self, fault: Fault, name: str, kept: dict[str, bytes], *, ran: bool) -> None:
        """Put the files of a process back that will not run with the damage. `ran`: it did."""
        if ran and not await self.stopped_for_safety([name]):
            with contextlib.suppress(AlreadyRuns, FaultFailed):  # it may wait for its back-off
                await self.ask(self.target.start, name)
        if await self.serves(name):
            return
        status = await self.ask(self.target.exit_status, name)
        told = [fault.evidence.get(name, ""), f"it would not run with that (status {status})"]
        if ran and self.testnet.process(name).role in PEER_ROLES:
            # It has signed since: by files of before that it might sign against itself. The mark is
            # the first file: whoever is stopped in between has it.
            before = {path: raw for path, raw in kept.items() if path != RESTORED_NAME}
            kept = {RESTORED_NAME: UNSIGNING.encode("ascii"), **before}
            told.append("with its files of before it signs nothing")
        fault.evidence[name] = "; ".join(filter(None, told))
        await self.ask(self.target.keep_down, name)
        await self.ask(lambda name: self._put_back(name, kept), name)
        await self.bring_up([name])

    async def _ran(self, name: str) -> bool:
        """Whether a damaged process starts all the same: True as long as it is not down."""
        try:
            async with asyncio.timeout(STARTS_S):
                return await self.serves(name)
        except TimeoutError:
            return True

    def _copy(self, name: str) -> dict[str, bytes]:
        """All files of a process that is down: one alone would not fit the others later."""
        return {path: self.target.read_file(name, path) for path in self.target.files(name)}

    def _put_back(self, name: str, kept: dict[str, bytes]) -> None:
        """Write files back, and remove those that were made since: they do not fit these."""
        for path, raw in kept.items():
            self.target.write_file(name, path, raw)
        for path in sorted(self.target.files(name).keys() - kept):
            self.target.remove_file(name, path)

    async def byzantine(self, mode: str, *names: str) -> Fault:
        """Restart processes so that they lie in this way, until the fault ends."""
        self.known(names)
        fault = self.begin("byzantine", names, f"{', '.join(names)} lies: {mode}")
        liars: list[str] = []

        async def honest() -> None:
            for name in liars:
                set_byzantine(self.testnet, self.testnet.process(name), "")
            free: list[str] = []
            with contextlib.suppress(NotRunning):  # another fault has them: they will start honest
                free = self.claim(fault, liars) if liars else []
            for name in liars:
                # But one that is only paused would go on as it is.
                if name not in free and await self.ask(self.target.state, name) == PAUSED:
                    with contextlib.suppress(NotRunning):
                        await self.ask(self.target.crash, name)
            try:
                if free:
                    await self._restart(free)
            except FaultFailed:
                # A key that signed what its state does not know may never sign again.
                if not await self.stopped_for_safety(liars):
                    raise

        async with self.ordering(fault, honest):
            fault.wanted = self.claim(fault, names)
            for name in fault.wanted:
                set_byzantine(self.testnet, self.testnet.process(name), mode)
                liars.append(name)
            await self._restart(liars)
        self.release(fault)
        self.lying(fault)
        return self.until_end(fault, honest)


def _renewed(before: str, after: str) -> str:
    """What a start made of a process; empty where it was down."""
    return f"process {before} became {after}" if before else f"started as process {after}"


def _label(kind: str) -> str:
    """A name for one fault in the plans of processes."""
    # Not drawn from the seed: another nemesis with the same one may have ordered its own there.
    return f"{kind}-{secrets.token_hex(4)}"
