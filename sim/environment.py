"""What the simulated processes of one run share: time, network, genesis, each other's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consensus import MemberSet, Replica, ReplicaConfig
from protocol.chain import Header
from sim.bank import Bank
from sim.checkers import Checkers
from sim.kernel import Kernel
from sim.network import Network

if TYPE_CHECKING:
    from sim.node import Node


@dataclass(frozen=True)
class CpuCost:
    """Microseconds of CPU: for taking an event, and for each signature made and checked."""

    step_us: int = 30
    sign_us: int = 30
    verify_us: int = 90


@dataclass
class Environment:
    """What the processes of one run share. `names` lists all processes in order, `processes` those
    of each key; two processes of one key are twins. `retain`: newest blocks that a node serves to
    others, 0 for all."""

    persist_first = True
    """The rule that nothing is sent before what it rests on is durable; a test turns it off."""

    kernel: Kernel
    network: Network
    config: ReplicaConfig
    genesis: Header
    members: MemberSet
    make_bank: Callable[[], Bank]
    checkers: Checkers
    start_ms: int
    cost: CpuCost = field(default_factory=CpuCost)
    retain: int = 0
    names: list[str] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)
    processes: dict[bytes, list[str]] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    operations: list[bytes] = field(default_factory=list)
    bit: dict[str, int] = field(default_factory=dict)

    def bite(self, kind: str, count: int = 1) -> None:
        """Count a fault that really happened."""
        self.bit[kind] = self.bit.get(kind, 0) + count


Wrap = Callable[["Node", Replica], Any]
"""Makes a Byzantine machine around a replica; it has `step` and `next_deadline_ms` too."""
