"""A fault that was ordered, and what proves that it bit: counters of the processes that it hit."""

from __future__ import annotations

import msgspec

from client.faults import EXIT_FAILED
from cluster.faults_wire import Told

DISK_KINDS = ("full-disk", "read-only-disk")
"""Kinds that end a process, with exit status 1; whether its counters are ever read is chance."""

_COUNTERS = {
    "delay": {"delayed_frames"}, "loss": {"lost_frames"}, "bandwidth": {"throttled_bytes"},
    "slicer": {"sliced_frames"}, "limit_data": {"cut_connections"}, "clock": {"clock_off_ms"},
    "clock-scrambler": {"clock_off_ms"}, "slow-disk": {"delayed_syncs"},
    "full-disk": {"refused_writes"}, "read-only-disk": {"refused_writes"},
    "reset": {"reset_connections", "refused_connections"},
}  # fmt: skip
_OF_PARTITIONS = {"blocked_frames"}
"""Which counters of a process tell that a fault of this kind hit; partitions have many names."""


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


class Watched(msgspec.Struct):
    """A process that a fault of its plan was ordered for. `base` are its counters when it was told,
    None before that; one of another start than `identity` counts from 0."""

    fault: Fault
    name: str
    base: dict[str, int] | None
    identity: str

    def compare(self, told: Told, identity: str) -> None:
        """Note what has changed since: counters grow, and a clock is off the other way too."""
        now, base = counters(told), self.base
        self.identity = self.identity or identity  # the start of one that was down
        if identity != self.identity:
            base = {}
        elif base is None:
            self.base = now
            return
        looked_for = _COUNTERS.get(self.fault.kind, _OF_PARTITIONS)
        changed = {
            what: count - base.get(what, 0)
            for what, count in now.items()
            if count != base.get(what, 0) and what in looked_for
        }
        if changed and self.fault.ended_s is None:
            shown = ", ".join(f"{count} {what}" for what, count in sorted(changed.items()))
            self.fault.evidence[self.name] = shown.replace("_", " ")

    def stopped(self, status: int | None, *, came_back: bool) -> None:
        """Note that it ended, where it ended as without room; `status` None: nobody knows how."""
        if status in (EXIT_FAILED, None) and self.fault.ended_s is None:
            text = "the process stopped" + (" and came back" if came_back else "")
            self.fault.evidence.setdefault(self.name, text)


def counters(told: Told) -> dict[str, int]:
    """Everything that a process counted of its faults: of links over all peers, of the disk, and
    how far the clock is ahead, in milliseconds."""
    total: dict[str, int] = {}
    for peer in dict(told.bit.get("peers", {})).values():
        for what, count in dict(peer).items():
            total[what] = total.get(what, 0) + int(count)
    for what, count in dict(told.bit.get("disk", {})).items():
        total[what] = total.get(what, 0) + int(count)
    total["clock_off_ms"] = int(told.bit.get("clock_off_ms", 0))
    return total
