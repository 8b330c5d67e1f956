"""A small deterministic world for consensus replicas: virtual clock, lossy network, seeded.

Signatures are simulated (a hash under the signer's name), so that a thousand seeds cost seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from hashlib import sha256

from consensus_log import Disk, LogApp

from consensus import (
    Broadcast,
    Committed,
    Effect,
    Event,
    MemberSet,
    Persist,
    PersistBlock,
    Received,
    Replica,
    ReplicaConfig,
    Send,
    Start,
    Tick,
    Work,
)
from protocol.chain import (
    ConsensusMessage,
    Member,
    Timeout,
    Vote,
    genesis_header,
)
from sim.bank import SimKey, sim_verify
from sim.random import SplitMix64

CHAIN = sha256(b"simulated chain").digest()
START_MS = 1_000_000


class World:
    """`size` members in one process, and twins: second processes that run a member's key.

    A member with a twin is Byzantine: the two sign against each other without knowing (Bano et
    al., "Twins: BFT Systems Made Robust", 2021). Process `size + i` is the twin of `twins[i]`.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        config: ReplicaConfig,
        stakes: Sequence[int] = (),
        twins: Sequence[int] = (),
    ) -> None:
        self.random = SplitMix64(seed)
        self.config = config
        self.now_ms = START_MS
        self.identity = [*range(size), *twins]
        self.honest = [i for i in range(size) if i not in twins]
        keys = [SimKey(str(i)) for i in range(size)]
        self.keys = [keys[i] for i in self.identity]
        weights = stakes or [1] * size
        self.members = MemberSet(
            CHAIN, [Member(key.public, weights[i]) for i, key in enumerate(keys)]
        )
        self.processes = {
            i: [p for p, member in enumerate(self.identity) if member == i] for i in range(size)
        }
        size = len(self.identity)
        self.genesis = genesis_header(CHAIN, START_MS, bytes(32))
        self.apps = [LogApp() for _ in range(size)]
        self.disks = [Disk() for _ in range(size)]
        self.replicas: list[Replica | None] = [None] * size
        self.queue: list[tuple[int, int, int, Event]] = []
        self.sequence = 0
        self.loss_percent = 0
        self.duplicate_percent = 0
        self.delay_ms = (1, 5)
        self.island: set[int] = set()
        self.skew_ms = [0] * size
        """How far each process's clock is ahead."""
        self.armed: list[int | None] = [None] * size
        self.totals: dict[str, int] = {}
        self.votes: dict[tuple[int, int], bytes] = {}
        self.history: dict[int, bytes] = {}
        self.restarts = 0
        self.submitted = 0
        self.doomed: set[int] = set()
        """Members whose next effects are cut short by a crash."""
        self.torn = 0
        for index in range(size):
            self.boot(index)

    def boot(self, index: int) -> None:
        disk = self.disks[index]
        self.apps[index].pending = list(self.apps[index].pending)
        replica = Replica(
            self.config,
            self.members,
            self.keys[index],
            self.apps[index],
            self.genesis,
            disk.recover(),
            stored=disk.chain.get,
            verifier=sim_verify,
        )
        if len(self.processes[self.identity[index]]) > 1:
            # A twin's other half signs what it knows nothing of; an honest member would stop.
            vars(replica)["_require_own"] = lambda statement: None
        self.replicas[index] = replica
        self.armed[index] = None
        self.deliver(index, Start())

    def crash(self, index: int) -> None:
        replica = self.replicas[index]
        if replica is None:
            return
        self.absorb(replica)
        self.replicas[index] = None

    def restart(self, index: int) -> None:
        """Start again from the disk alone, executing the chain anew."""
        pending = self.apps[index].pending
        self.apps[index] = LogApp()
        self.apps[index].pending = pending
        self.restarts += 1
        self.boot(index)

    def absorb(self, replica: Replica) -> None:
        for name, value in replica.counters.items():
            self.totals[name] = self.totals.get(name, 0) + value

    def submit(self, op: bytes) -> None:
        """Give an operation to every member, also to those that are down."""
        self.submitted += 1
        for index, app in enumerate(self.apps):
            if op not in app.log and op not in app.pending:
                app.pending.append(op)
            if self.replicas[index] is not None:
                self.deliver(index, Work())

    def push(self, at_ms: int, member: int, event: Event) -> None:
        self.sequence += 1
        heapq.heappush(self.queue, (at_ms, self.sequence, member, event))

    def transmit(self, source: int, member: int, message: ConsensusMessage) -> None:
        for target in self.processes[member]:
            self.carry(source, target, message)

    def carry(self, source: int, target: int, message: ConsensusMessage) -> None:
        if (source in self.island) != (target in self.island):
            return
        copies = 1
        if self.loss_percent and self.random.below(100) < self.loss_percent:
            return
        if self.duplicate_percent and self.random.below(100) < self.duplicate_percent:
            copies = 2
        low, high = self.delay_ms
        for _ in range(copies):
            delay = low + self.random.below(high - low + 1)
            event = Received(self.identity[source], message)
            self.push(self.now_ms + delay, target, event)

    def deliver(self, index: int, event: Event) -> None:
        replica = self.replicas[index]
        if replica is None:
            return
        skew_ms = self.skew_ms[index]
        effects = replica.step(event, self.now_ms + skew_ms)
        if index in self.doomed and effects:
            self.doomed.discard(index)
            self.torn += 1
            self.apply(index, effects[: self.random.below(len(effects))])
            self.crash(index)
            return
        self.apply(index, effects)
        due = replica.next_deadline_ms()
        due = None if due is None else due - skew_ms
        armed = self.armed[index]
        if due is not None and (armed is None or due < armed or armed <= self.now_ms):
            self.armed[index] = max(due, self.now_ms + 1)
            self.push(self.armed[index] or 0, index, Tick())

    def apply(self, index: int, effects: Sequence[Effect]) -> None:
        disk = self.disks[index]
        sent = False
        for effect in effects:
            if isinstance(effect, Send):
                sent = True
                self.watch(index, effect.message)
                self.transmit(index, effect.member, effect.message)
                continue
            if isinstance(effect, Broadcast):
                sent = True
                self.watch(index, effect.message)
                for other in self.processes:
                    if other != self.identity[index]:
                        self.transmit(index, other, effect.message)
                continue
            assert not sent, "something is persisted after a message was sent"
            if isinstance(effect, PersistBlock):
                disk.blocks[effect.block.header.block_id()] = effect.block
            elif isinstance(effect, Persist):
                disk.state = effect.state
            elif isinstance(effect, Committed):
                self.record(index, effect)

    def record(self, index: int, effect: Committed) -> None:
        """Agreement: one block per height, over all members and all times."""
        header = effect.block.header
        block_id = header.block_id()
        disk = self.disks[index]
        assert header.height == max(disk.chain, default=0) + 1, "commits skip or repeat a height"
        if index in self.honest:
            known = self.history.setdefault(header.height, block_id)
            assert known == block_id, f"two blocks committed at height {header.height}"
        ends = effect.certificate.height == header.height
        disk.chain[header.height] = (effect.block, effect.certificate if ends else None)
        disk.blocks.pop(block_id, None)
        if header.height % 8 == 0:
            disk.blocks = {i: b for i, b in disk.blocks.items() if b.header.height > header.height}

    def watch(self, index: int, message: ConsensusMessage) -> None:
        """No honest member votes for two blocks in one view, or after giving the view up."""
        if index not in self.honest:
            return
        if isinstance(message, Vote):
            known = self.votes.setdefault((index, message.view), message.block_id)
            assert known == message.block_id, f"member {index} voted twice in {message.view}"
        elif isinstance(message, Timeout):
            self.votes.setdefault((index, message.view), b"timeout")

    def run(self, until_ms: int) -> None:
        queue = self.queue
        while queue and queue[0][0] <= until_ms:
            at_ms, _, member, event = heapq.heappop(queue)
            self.now_ms = max(self.now_ms, at_ms)
            self.deliver(member, event)
        self.now_ms = max(self.now_ms, until_ms)

    def heights(self) -> list[int]:
        """Committed height of each honest member."""
        return [max(self.disks[index].chain, default=0) for index in self.honest]
