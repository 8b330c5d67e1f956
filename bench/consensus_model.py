"""The members, the load and the network of `bench.consensus_sim`, in virtual time.

A member is the unchanged `Replica` in the simulator's process (`sim.node`): one event at a time,
synced before anything is sent. Payloads are stand-ins of eight bytes: their size is charged to CPU
and network, and never made. Signatures are simulated and their time is charged. All times are
integers in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from consensus import (
    Broadcast,
    Committed,
    Effect,
    Event,
    MemberSet,
    PersistBlock,
    ReplicaConfig,
    Send,
)
from protocol.chain import Block, BlocksResponse, Member, Proposal, genesis_header
from sim.bank import OPERATION_BYTES, Bank, SimKey, encode_operation
from sim.checkers import Checkers
from sim.disk import Disk, DiskRule
from sim.environment import CpuCost, Environment
from sim.kernel import US_PER_S, Kernel
from sim.network import Delay, LinkRule, Network, Regions, Uniform
from sim.node import Node

CHAIN = sha256(b"simulated consensus bench").digest()
START_MS = 1_700_000_000_000
IN_REGION_US = 250
NS_PER_US = 1_000

CONTINENTAL_MS = (
    ("N. Virginia", "Ohio", "Montreal", "Oregon", "N. California"),
    {(0, 1): 15, (0, 2): 17, (0, 3): 64, (0, 4): 64, (1, 2): 27, (1, 3): 51, (1, 4): 53,
     (2, 3): 60, (2, 4): 80, (3, 4): 22},
)  # fmt: skip
WORLD_MS = (
    ("N. Virginia", "N. California", "Stockholm", "Tokyo", "Sydney"),
    {(0, 1): 64, (0, 2): 113, (0, 3): 150, (0, 4): 200, (1, 2): 173, (1, 3): 108, (1, 4): 139,
     (2, 3): 247, (2, 4): 272, (3, 4): 107},
)  # fmt: skip
"""Regions, and round trips between them in milliseconds, rounded (medians of cloudping.co)."""


@dataclass(frozen=True)
class Costs(CpuCost):
    """CPU time on one core, calibrated to `bench.consensus_net` (docs/benchmarks.md).

    `step_us` is for each event (decoding, TLS, event loop), `send_us` for each message and target,
    `write_us` for each step that writes. Times for bytes are in nanoseconds per 1,000 bytes: of a
    payload that is taken (TLS, decoding, hash, log), and of one that is sent to one target (TLS,
    copies).
    """

    step_us: int = 90
    sign_us: int = 25
    verify_us: int = 75
    send_us: int = 60
    write_us: int = 150
    take_ns_per_kb: int = 4_000
    send_ns_per_kb: int = 1_500


@dataclass(frozen=True)
class Setting:
    """What a run is made of. `rate`: bytes per second that a node can send."""

    size: int
    net: str
    payload_bytes: int
    seed: int = 1
    timeout_ms: int = 1_000
    rate: int = 1_250_000_000
    costs: Costs = Costs()


def delays(net: str, names: Sequence[str]) -> Delay:
    """Delays of a kind of network; members take the regions in turn."""
    if net == "lan":
        return Uniform(100, 500)
    regions, round_trips_ms = CONTINENTAL_MS if net == "continental" else WORLD_MS
    matrix_us = [
        [
            IN_REGION_US if a == b else round_trips_ms[min(a, b), max(a, b)] * 500
            for b in range(len(regions))
        ]
        for a in range(len(regions))
    ]
    places = {name: index % len(regions) for index, name in enumerate(names)}
    return Regions(places, matrix_us, jitter_ppm=50_000)


@dataclass
class Batch:
    """Life of a payload: when it entered its member's pool (None before the first proposal), when
    it was proposed, and when its commit was durable at each member."""

    pool_us: int | None
    proposed_us: int
    commits_us: dict[str, int]


class Meter:
    """Everything that a run measures."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.batches: list[Batch] = []
        self.failed_us: dict[int, int] = {}
        """When the first member gave up a view, by view."""
        self.cpu_us = 0

    def propose(self, pool_us: int | None) -> int:
        """Number of a new batch."""
        self.batches.append(Batch(pool_us, self.kernel.now_us, {}))
        return len(self.batches) - 1

    def finished(self, members: Sequence[str], from_us: int, until_us: int) -> list[Batch]:
        """Batches whose commit became durable at the last of `members` within a stretch."""
        wanted = frozenset(members)
        return [
            batch
            for batch in self.batches
            if batch.commits_us.keys() >= wanted
            and from_us < max(batch.commits_us[name] for name in members) <= until_us
        ]


class Load(Bank):
    """Always has a batch to propose: the next one enters the pool when the last is proposed."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        self._last_us: int | None = None

    def has_work(self) -> bool:
        return True

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        number = self._meter.propose(self._last_us)
        self._last_us = self._meter.kernel.now_us
        return encode_operation(number, 0, 0, 1)


class LoadNetwork(Network):
    """Charges payloads with the size that they stand for."""

    payload_bytes = 0

    def send(self, source: str, target: str, message: Any, size_bytes: int = 0) -> None:
        carried = payloads(message) * self.payload_bytes
        super().send(source, target, message, size_bytes + carried)


def payloads(message: Any) -> int:
    """How many payloads a message carries."""
    if isinstance(message, Proposal):
        return 1 if message.block.payload else 0
    if isinstance(message, BlocksResponse):
        return sum(1 for block in message.blocks if block.payload)
    return 0


class MeteredNode(Node):
    """A simulated process that reports to a meter and pays for what it sends.

    Messages leave as the wire lets them; the core that encrypts and copies them takes the next
    event when it is done with that.
    """

    def __init__(
        self, world: Cluster, name: str, key: SimKey, disk: Disk, meter: Meter, costs: Costs
    ) -> None:
        super().__init__(world, name, key, disk)
        self._meter = meter
        self._costs = costs
        self._payload_bytes = world.setting.payload_bytes
        self._sending_until_us = 0
        self._failed = 0

    def _cpu_us(self, event: Event, effects: Sequence[Effect], verified: int, signed: int) -> int:
        costs, now_us = self._costs, self.world.kernel.now_us
        took_us = costs.step_us + costs.verify_us * verified + costs.sign_us * signed
        if any(not isinstance(effect, Send | Broadcast) for effect in effects):
            took_us += costs.write_us
        taken = sum(1 for e in effects if isinstance(e, PersistBlock) and e.block.payload)
        took_us += taken * self._payload_bytes * costs.take_ns_per_kb // 1_000 // NS_PER_US
        failed = 0 if self.replica is None else self.replica.counters.get("views_failed", 0)
        if failed > self._failed and self.replica is not None:
            self._failed = failed
            self._meter.failed_us.setdefault(self.replica.view - 1, now_us)
        self._meter.cpu_us += took_us
        return took_us + max(0, self._sending_until_us - now_us)

    def _send(self, effects: Sequence[Effect]) -> None:
        super()._send(effects)
        costs, cost_ns = self._costs, 0
        for effect in effects:
            if isinstance(effect, Send | Broadcast):
                targets = 1 if isinstance(effect, Send) else len(self.members) - 1
                each_ns = costs.send_us * NS_PER_US
                carried = payloads(effect.message) * self._payload_bytes
                each_ns += carried * costs.send_ns_per_kb // 1_000
                cost_ns += targets * each_ns
        self._sending_until_us = self.world.kernel.now_us + cost_ns // NS_PER_US
        self._meter.cpu_us += cost_ns // NS_PER_US

    def _publish(self, effects: Sequence[Effect]) -> None:
        super()._publish(effects)
        now_us = self.world.kernel.now_us
        for effect in effects:
            if isinstance(effect, Committed) and effect.block.payload:
                number = int.from_bytes(effect.block.payload[: OPERATION_BYTES // 2], "big")
                self._meter.batches[number].commits_us[self.name] = now_us


class Cluster(Environment):
    """Members of one run, all honest, under a load that never ends."""

    def __init__(self, setting: Setting) -> None:
        kernel = Kernel(setting.seed)
        self.setting = setting
        self.meter = meter = Meter(kernel)
        names = [f"n{index}" for index in range(setting.size)]
        keys = [SimKey(name) for name in names]
        members = MemberSet(CHAIN, [Member(key.public, 1) for key in keys])
        genesis = genesis_header(CHAIN, START_MS, bytes(32))
        network = LoadNetwork(
            kernel, LinkRule(delay=delays(setting.net, names)), max_queue_us=10 * US_PER_S
        )
        network.payload_bytes = setting.payload_bytes
        config = ReplicaConfig(
            block_interval_ms=1, empty_interval_ms=1, timeout_ms=setting.timeout_ms,
            timeout_max_ms=10 * setting.timeout_ms,
        )  # fmt: skip
        super().__init__(
            kernel, network, config, genesis, members, lambda: Load(meter),
            Checkers(genesis, members), START_MS, setting.costs,
        )  # fmt: skip
        costs = setting.costs
        # What encrypts at this pace cannot send faster.
        rate = min(setting.rate, 1_000 * US_PER_S * NS_PER_US // max(1, costs.send_ns_per_kb))
        for name, key in zip(names, keys, strict=True):
            self.names.append(name)
            self.keys[name] = key.public
            self.processes[key.public] = [name]
            disk = Disk(kernel, name, DiskRule(sync_us=500, sync_jitter_us=300))
            self.nodes[name] = MeteredNode(self, name, key, disk, meter, costs)
            network.set_bandwidth(name, rate)

    @property
    def faulty_allowed(self) -> int:
        """The largest f with n > 3f."""
        return (len(self.names) - 1) // 3

    def choose_victims(self, count: int) -> list[str]:
        """Members that crash, at random."""
        return self.kernel.stream("victims").sample(self.names, count)

    def boot(self, absent: Sequence[str] = ()) -> None:
        """Start all members but the absent."""
        for name, node in self.nodes.items():
            if name not in absent:
                node.boot()

    def live(self) -> list[str]:
        """Names of the members that run."""
        return [name for name, node in self.nodes.items() if node.up]

    def height(self) -> int:
        """Height that every live member has committed."""
        return min(self.nodes[name].height for name in self.live())

    def view(self) -> int:
        """Highest view of a live member."""
        replicas = (self.nodes[name].replica for name in self.live())
        return max(replica.view for replica in replicas if replica is not None)

    def run_until(self, height: int, limit_us: int, step_us: int = 2_000) -> None:
        """Run until every live member committed `height`, or until a time."""
        kernel = self.kernel
        while self.height() < height and kernel.now_us < limit_us:
            kernel.run(min(kernel.now_us + step_us, limit_us))
