"""A consensus member as a simulated process: the unchanged replica on a virtual disk and network.

This is the shell's part: one event at a time, what must be durable is synced before anything is
sent, everything that is not on the disk is gone after a crash. CPU time is charged for each step
and signature, and the process takes no other event meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from consensus import (
    Broadcast,
    Committed,
    Effect,
    EpochBegan,
    Event,
    FellBehind,
    MemberSet,
    Misbehaviour,
    Received,
    Replica,
    Send,
    Start,
    Tick,
    Work,
)
from protocol.chain import QC, TC, Block, CommitCertificate, ConsensusMessage, Timeout, Vote
from protocol.codec import encode
from protocol.errors import SafetyViolation
from sim.bank import SimKey, sim_verify
from sim.disk import Disk
from sim.environment import Environment, Wrap
from sim.kernel import US_PER_MS, Timer
from sim.node_store import NodeStore, Stored

OBSERVER_BASE = 10_000
"""Peers that are no members have this and their place among all processes as number."""

MAX_INBOX = 10_000
SNAPSHOT_BLOCKS = 32


class Reckless(Replica):
    """What Byzantine members run inside: it goes on when it meets a signature of its own key that
    it does not remember, where an honest member stops."""

    def _require_own(self, statement: QC | TC | Vote | Timeout) -> None:
        """Nothing is required."""


class Node:
    """One process. `honest` nodes are held to every property, also after they stopped.

    `machine` is None while the process is down. `excused`: why a stop or a lag is right.
    """

    def __init__(
        self,
        world: Environment,
        name: str,
        key: SimKey,
        disk: Disk,
        *,
        member: bool = True,
        wrap: Wrap | None = None,
        honest: bool = True,
    ) -> None:
        self.world = world
        self.name = name
        self.key = key
        self.store = NodeStore(disk)
        self.member = member
        self.wrap = wrap
        self.honest = honest
        self.excused = ""
        self.replica: Replica | None = None
        self.machine: Any = None
        self.bank = world.make_bank()
        self.members = world.members
        self.paused = False
        self.doomed = False
        self._doom_timer: Timer | None = None
        self.skew_us = 0
        self.restarts = 0
        self.counters: dict[str, int] = {}
        self._inbox: deque[Event] = deque()
        self._busy: Timer | None = None
        self._tick: Timer | None = None
        self._tick_due_ms: int | None = None
        self._verified = 0
        self._last_ms = 0
        self._targets: dict[int, list[str]] = {}
        self._everyone: list[str] = []
        self._peers: dict[str, int] = {}

    # --- life

    @property
    def disk(self) -> Disk:
        return self.store.disk

    @property
    def chain(self) -> Stored:
        """Blocks whose commit is durable here, by height."""
        return self.store.chain

    @property
    def up(self) -> bool:
        return self.machine is not None

    @property
    def height(self) -> int:
        """Height of the newest block whose commit is durable here."""
        return max(self.chain, default=0)

    def boot(self) -> None:
        """Start from the disk alone; a damaged disk keeps the process down."""
        world = self.world
        recovered = self.store.recover()
        if recovered is None:
            world.bite("damage_found")
            self.excused = "its disk is damaged"
            return
        snapshot = self.store.snapshot()
        self.bank = world.make_bank() if snapshot is None else snapshot
        for operation in world.operations:
            self.bank.submit(operation)
        empty = recovered.voting_state is None and recovered.tip is None and not recovered.blocks
        if self.honest:
            world.checkers.recovered(self.name, self.chain)
        members = self._members_at_start()
        self._adopt(members)
        kind = Replica if self.honest else Reckless
        self.replica = kind(
            world.config,
            members,
            self.key if self.member else None,
            self.bank,
            world.genesis,
            None if empty else recovered,
            stored=self._stored,
            retained_from=self._retained_from,
            verifier=self._verify,
        )
        self.machine = self.replica if self.wrap is None else self.wrap(self, self.replica)
        world.network.attach(self.name, self.receive)
        world.kernel.trace("boot", self.name, self.height)
        self.take(Start())

    def _members_at_start(self) -> MemberSet:
        """Who orders the blocks above the stored chain; where members change, only the executed
        chain tells, and what is served to nobody is executed here and not by the replica."""
        if self.bank.epoch() is None and not self.world.retain:
            return self.world.members
        for height in range(self.bank.height + 1, self.height + 1):
            block, certificate = self.chain[height]
            ends = height
            while certificate is None:
                ends += 1
                certificate = self.chain[ends][1]
            self.bank.commit(block, certificate)
        return self.bank.epoch() or self.world.members

    def crash(self) -> None:
        """Kill the process: memory and unsynced writes are gone."""
        if self.machine is None:
            return
        self.world.kernel.trace("crash", self.name)
        self.world.bite("crashed")
        if self._busy is not None:
            self.world.bite("crashed_in_step")
        self.disk.crash()
        self._halt()

    def restart(self) -> None:
        """Start the process again if it is down."""
        if self.machine is None:
            self.restarts += 1
            self.world.bite("restarted")
            self.boot()

    def spare(self) -> None:
        """Take back the crash that was to come within a step."""
        self.doomed = False
        self.world.kernel.cancel(self._doom_timer)

    def pause(self) -> None:
        """Stop taking events; what arrives waits."""
        self.paused = True

    def resume(self) -> None:
        """Go on after a pause."""
        if self.paused:
            self.paused = False
            if self._inbox:
                self.world.bite("paused")
            self._turn()

    def jump(self, by_us: int) -> None:
        """Move this process's clock; a process never sees it run backwards."""
        self.skew_us += by_us
        self.world.bite("clock_moved")
        self._arm(again=True)

    def clock_ms(self) -> int:
        """What this process takes for the time (Unix milliseconds)."""
        raw_us = self.world.kernel.now_us + self.skew_us
        self._last_ms = max(self._last_ms, self.world.start_ms + raw_us // US_PER_MS)
        return self._last_ms

    def wipe(self) -> None:
        """A new disk: the process comes back as an observer, for its voting state is gone."""
        self._halt()
        for kind, count in self.disk.bit.items():
            self.world.bite(kind, count)
        self.store = NodeStore(Disk(self.world.kernel, self.name, self.disk.rule))
        self.world.checkers.forget(self.name)
        self.member = False

    def _halt(self) -> None:
        kernel = self.world.kernel
        if self.replica is not None:
            for name, value in self.replica.counters.items():
                self.counters[name] = self.counters.get(name, 0) + value
        self.machine = self.replica = None
        kernel.cancel(self._busy)
        kernel.cancel(self._tick)
        self._busy = self._tick = None
        self._tick_due_ms = None
        self._inbox.clear()
        self.spare()
        self.world.network.detach(self.name)

    # --- events

    def receive(self, source: str, message: ConsensusMessage) -> None:
        """A message arrived."""
        if len(self._inbox) >= MAX_INBOX:
            self.world.bite("inbox_full")
            return
        self._inbox.append(Received(self._peers[source], message))
        if self._busy is None and not self.paused:
            self._turn()

    def submit(self, operation: bytes) -> None:
        """A client's operation reached this process."""
        self.bank.submit(operation)
        self.take(Work())

    def take(self, event: Event) -> None:
        """Handle an event, at once or when what is before it is done."""
        if self.machine is None:
            return
        self._inbox.append(event)
        self._turn()

    def _turn(self) -> None:
        while self._inbox and self._busy is None and not self.paused and self.machine is not None:
            self._step(self._inbox.popleft())

    def _step(self, event: Event) -> None:
        world = self.world
        verified, signed = self._verified, self.key.signed
        try:
            effects: Sequence[Effect] = self.machine.step(event, self.clock_ms())
        except SafetyViolation as error:
            self._stopped(error)
            return
        took_us = self._cpu_us(event, effects, self._verified - verified, self.key.signed - signed)
        wrote = self.store.write(effects)
        if wrote:
            sync_us = self.disk.sync_time_us()
            if self.doomed:
                self._doom(took_us + sync_us)
            took_us += sync_us
            if not world.persist_first:
                self._send(effects)
        if took_us:
            self._busy = world.kernel.after(took_us, self._finish, effects, wrote)
        else:
            self._finish(effects, wrote)

    def _cpu_us(self, event: Event, effects: Sequence[Effect], verified: int, signed: int) -> int:
        """CPU time of a step that made and checked so many signatures."""
        cost = self.world.cost
        return cost.step_us + cost.verify_us * verified + cost.sign_us * signed

    def _doom(self, within_us: int) -> None:
        self.doomed = False
        kernel = self.world.kernel
        delay_us = kernel.stream("doom").below(within_us + 1)
        self._doom_timer = kernel.after(delay_us, self.crash)

    def _finish(self, effects: Sequence[Effect], wrote: bool) -> None:
        """The step's time is over and its writes are durable."""
        if self.paused:
            self._busy = self.world.kernel.after(US_PER_MS, self._finish, effects, wrote)
            return
        self._busy = None
        if wrote:
            self.disk.sync_now()
        self._publish(effects)
        if self.world.persist_first or not wrote:
            self._send(effects)
        if self.machine is not None:
            self._arm()
            self._turn()

    def _stopped(self, error: SafetyViolation) -> None:
        self.world.kernel.trace("stopped", self.name, str(error))
        self._halt()
        self.world.bite("stopped_itself")
        if self.honest and not self.excused:
            self.world.checkers.stopped(self.name, error)

    def _arm(self, *, again: bool = False) -> None:
        if self.machine is None:
            return
        due_ms = self.machine.next_deadline_ms()
        if due_ms == self._tick_due_ms and not again:
            return
        kernel = self.world.kernel
        kernel.cancel(self._tick)
        self._tick_due_ms = due_ms
        self._tick = None
        if due_ms is not None:
            at_us = (due_ms - self.world.start_ms) * US_PER_MS - self.skew_us
            self._tick = kernel.at(max(at_us, kernel.now_us + 100), self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        self._tick_due_ms = None
        self.take(Tick())

    # --- effects

    def _publish(self, effects: Sequence[Effect]) -> None:
        world = self.world
        executed = False
        for effect in effects:
            if isinstance(effect, Committed):
                executed = True
                header = effect.block.header
                self.store.committed(effect)
                if self.honest:
                    world.checkers.committed(self.name, effect)
                world.kernel.trace("commit", self.name, header.height, header.block_id())
            elif isinstance(effect, EpochBegan):
                world.kernel.trace("epoch", self.name, effect.members.epoch)
                self._adopt(effect.members)
                if self.honest:
                    world.checkers.began(effect.members)
                world.bite("epoch_began")
            elif isinstance(effect, Misbehaviour):
                world.bite("misbehaviour_seen")
                if self.honest:
                    accused = self.members.keys[effect.evidence.member]
                    names = world.processes.get(accused, [])
                    world.checkers.accused(names, any(world.nodes[n].honest for n in names))
            elif isinstance(effect, FellBehind):
                world.kernel.after(20 * US_PER_MS, self._fetch_snapshot, self.replica)
        if executed and self.honest:
            world.checkers.executed(self.name, self.bank)

    def _send(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                targets = self._targets_of(effect.member)
            elif isinstance(effect, Broadcast):
                targets = self._everyone
            else:
                continue
            message = effect.message
            world = self.world
            if self.honest:
                world.checkers.signed(self.name, message)
            view = getattr(message, "view", None)
            world.kernel.trace("send", self.name, type(message).__name__, view)
            network = world.network
            size_bytes = len(encode(message)) if network.sized else 0
            for target in targets:
                network.send(self.name, target, message, size_bytes)

    def _targets_of(self, member: int) -> list[str]:
        if member >= OBSERVER_BASE:
            place = member - OBSERVER_BASE
            return self.world.names[place : place + 1]
        if not 0 <= member < len(self.members):
            return []
        found = self._targets.get(member)
        if found is None:
            processes = self.world.processes.get(self.members.keys[member], [])
            found = self._targets[member] = [n for n in processes if n != self.name]
        return found

    def _adopt(self, members: MemberSet) -> None:
        """Number peers as in a member set."""
        world = self.world
        self.members = members
        self._targets = {}
        self._peers = {}
        for place, name in enumerate(world.names):
            index = members.index_of(world.keys[name])
            # A node whose disk was lost speaks for no member any more.
            if index is None or not world.nodes[name].member:
                index = OBSERVER_BASE + place
            self._peers[name] = index
        self._everyone = [
            name
            for key in members.keys
            if key != self.key.public
            for name in world.processes.get(key, ())
        ]

    def _verify(self, public_key: bytes, signature: bytes, digest: bytes) -> bool:
        self._verified += 1
        return sim_verify(public_key, signature, digest)

    # --- disk

    def _retained_from(self) -> int:
        """Lowest height whose block this node serves."""
        kept = self.world.retain
        return max(self.store.first, self.height - kept + 1 if kept else 1)

    def _stored(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        return self.chain.get(height) if height >= self._retained_from() else None

    def _fetch_snapshot(self, replica: Replica | None) -> None:
        """Take the state of the furthest peer over, and start a new replica from it."""
        world = self.world
        if replica is None or replica is not self.replica:
            return
        peers = [n for n in world.nodes.values() if n.honest and n.up and n is not self]
        best = max(peers, key=lambda node: node.height, default=None)
        if best is None or best.height <= self.height or best.bank.height != best.height:
            return
        if best.chain[best.height][1] is None:
            return
        world.bite("snapshot_taken")
        newest = range(max(1, best.height - SNAPSHOT_BLOCKS), best.height + 1)
        base = {height: best.chain[height] for height in newest if height in best.chain}
        self.store.take_snapshot(base, best.bank)
        world.checkers.skipped(self.name, best.height)
        self._halt()
        self.boot()
