"""A cluster of consensus members in one run: its nodes, its clients, and its faults as verbs."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from consensus import MemberSet, ReplicaConfig
from protocol.chain import Member, decode_consensus, genesis_header
from sim.bank import ACCOUNTS, Bank, SimKey, encode_operation
from sim.checkers import Checkers, Stalled
from sim.disk import Disk, DiskRule
from sim.environment import CpuCost, Environment, Wrap
from sim.kernel import US_PER_MS, Kernel
from sim.network import LinkRule, Network
from sim.node import Node
from sim.node_store import LOG
from sim.random import SplitMix64

CHAIN = sha256(b"simulated chain").digest()
START_MS = 1_700_000_000_000

FAST = ReplicaConfig(
    block_interval_ms=40,
    empty_interval_ms=15,
    idle_interval_ms=1_500,
    timeout_ms=250,
    timeout_max_ms=1_500,
    fetch_timeout_ms=100,
    fetch_limit=16,
    committed_window=32,
)
"""Pace of the simulated clusters: quick time-outs, so that a minute holds many faults."""


class World(Environment):
    """`size` members and, with `spare`, keys that may join in later epochs.

    `byzantine` names members by index with the behaviour that replaces their machine, `twins`
    members whose key runs in a second process. Both count as faulty. Members in `late` boot only
    when told. `fidelity` encodes and decodes every message.
    """

    def __init__(
        self,
        seed: int,
        size: int = 4,
        *,
        config: ReplicaConfig = FAST,
        stakes: Sequence[int] = (),
        byzantine: dict[int, Wrap] | None = None,
        twins: Sequence[int] = (),
        late: Sequence[int] = (),
        spare: int = 0,
        epoch_ms: int = 0,
        retain: int = 0,
        link: LinkRule | None = None,
        disk: DiskRule | None = None,
        cost: CpuCost | None = None,
        fidelity: bool = False,
        keep_trace: int = 0,
    ) -> None:
        kernel = Kernel(seed, keep_trace=keep_trace)
        keys = [SimKey(f"n{index}") for index in range(size + spare)]
        weights = list(stakes) or [1] * (size + spare)
        self.candidates = [
            Member(key.public, weight) for key, weight in zip(keys, weights, strict=True)
        ]
        self.size = size
        ends_ms = START_MS + epoch_ms if epoch_ms else None
        members = MemberSet(CHAIN, self.candidates[:size], ends_ms=ends_ms)
        genesis = genesis_header(CHAIN, START_MS, bytes(32))
        decode = decode_consensus if fidelity else None
        super().__init__(
            kernel, Network(kernel, link, decode=decode), config, genesis, members,
            self._make_bank, Checkers(genesis, members), START_MS,
            CpuCost() if cost is None else cost, retain,
        )  # fmt: skip
        self.epoch_ms = epoch_ms
        self.random: SplitMix64 = kernel.stream("world")
        behaviours = byzantine or {}
        rule = DiskRule(sync_us=800, sync_jitter_us=800) if disk is None else disk
        for index, key in enumerate(keys):
            honest = index not in behaviours and index not in twins
            self._add(f"n{index}", key, rule, behaviours.get(index), honest)
        for index in twins:
            self._add(f"n{index}b", keys[index], rule, None, honest=False)
        self.late = frozenset(f"n{index}" for index in late)

    def _add(self, name: str, key: SimKey, rule: DiskRule, wrap: Wrap | None, honest: bool) -> None:
        self.names.append(name)
        self.keys[name] = key.public
        self.processes.setdefault(key.public, []).append(name)
        disk = Disk(self.kernel, name, rule)
        self.nodes[name] = Node(self, name, key, disk, wrap=wrap, honest=honest)

    def _make_bank(self) -> Bank:
        if not self.epoch_ms:
            return Bank()
        bank = Bank(self.roster, self.epoch_ms, START_MS)
        bank.begin(self.members)
        return bank

    def roster(self, epoch: int) -> Sequence[Member]:
        """Members of an epoch: the window over all candidates moves on by one each time."""
        total = len(self.candidates)
        return [self.candidates[(epoch + place) % total] for place in range(self.size)]

    def boot(self) -> None:
        """Start every member that does not join late."""
        for name, node in self.nodes.items():
            if name not in self.late:
                node.boot()

    # --- clients

    def submit(self) -> None:
        """One client operation, sent to every member."""
        draw = self.random.below
        number = len(self.operations)
        operation = encode_operation(number, draw(ACCOUNTS), draw(ACCOUNTS), 1 + draw(400))
        self.operations.append(operation)
        for node in self.nodes.values():
            if node.up:
                node.submit(operation)

    def order(self, from_us: int, until_us: int, mean_us: int) -> None:
        """Submit operations at random times of a stretch, `mean_us` apart on average."""
        at_us = from_us
        while at_us < until_us:
            self.kernel.at(at_us, self.submit)
            at_us += 1 + self.random.below(2 * mean_us)

    # --- what faults need

    @property
    def faulty_allowed(self) -> int:
        """How many members may be faulty: the largest f with n > 3f."""
        return (self.size - 1) // 3

    def honest(self) -> list[Node]:
        """Nodes that are held to liveness too: honest, and not excused."""
        return [node for node in self.nodes.values() if node.honest and not node.excused]

    def corrupt(self, node: Node) -> None:
        """Damage a sector under an older record of a node's log, which it meets when it starts."""
        length = len(node.disk.log(LOG))
        if length > 1:
            node.disk.corrupt(LOG, self.random.below(length - 1))

    def heal(self) -> None:
        """End every fault: links, partitions, clocks' jumps stay, processes run again."""
        network = self.network
        network.heal()
        network.clear_links()
        network.set_default(LinkRule())
        for name in self.names:
            network.set_bandwidth(name, None)
        for node in self.nodes.values():
            node.spare()
            node.resume()
            if not node.up and not node.excused:
                node.restart()

    # --- the end of a run

    def finish(self, patience_us: int) -> None:
        """Run on after healing until all honest nodes have executed everything; raises `Stalled`
        where they have not within the patience."""
        kernel = self.kernel
        before = max((node.height for node in self.honest()), default=0)
        until_us = kernel.now_us + patience_us
        self.submit()
        while not self._caught_up(before):
            if kernel.now_us >= until_us:
                raise Stalled(self._lag(before))
            kernel.run(kernel.now_us + 50 * US_PER_MS)
        self.check_end()

    def _caught_up(self, before: int) -> bool:
        total = len(self.operations)
        return all(
            len(node.bank.executed) == total and node.height > before and node.up
            for node in self.honest()
        )

    def _lag(self, before: int) -> str:
        states = [
            f"{node.name} {'up' if node.up else 'down'} at {node.height} with "
            f"{len(node.bank.executed)}"
            for node in self.honest()
        ]
        return (
            f"no progress within patience after healing at height {before}, "
            f"{len(self.operations)} operations: {', '.join(states)}"
        )

    def check_end(self) -> None:
        """What must hold for every honest node at the end of a run."""
        config = self.config
        most = 40 * self.size + 8 * config.committed_window + 4 * config.max_uncommitted + 3_000
        most += self._remembered()
        for node in self.nodes.values():
            if not node.honest or not node.up:
                continue
            if not node.excused:
                self.checkers.durable_everywhere(node.name, node.bank)
            self.checkers.weighed(node.name, node.replica, most)

    def _remembered(self) -> int:
        """Application roots that a replica may keep, one for each height."""
        return max(len(node.chain) for node in self.nodes.values())

    def totals(self) -> dict[str, int]:
        """Everything that bit, from network, disks, nodes and the replicas' own counters."""
        result = dict(self.bit)
        for part in [self.network.bit, *(node.disk.bit for node in self.nodes.values())]:
            for kind, count in part.items():
                result[kind] = result.get(kind, 0) + count
        for node in self.nodes.values():
            live = {} if node.replica is None else node.replica.counters
            for counters in (node.counters, live):
                for kind, count in counters.items():
                    result[f"replica_{kind}"] = result.get(f"replica_{kind}", 0) + count
        return dict(sorted(result.items()))
