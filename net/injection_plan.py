"""The plan of a process's faults: what its links, its clock and its disk are told to suffer.

The toxics are named after Toxiproxy's, with the numbers' units in their names. A plan is read from
one JSON document, strictly: whatever it does not know is refused with what is allowed instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from protocol.errors import ConfigError

EVERY_PROCESS = "*"
CLIENTS = "clients"
"""Names that stand for many peers; clients are meant by theirs alone."""

PLAN_BYTES_MAX = 64 * 1024
FAULTS_MAX = 64
"""Toxics, clocks and disks are as many at most, each."""
PEERS_MAX = 256
NAME_LENGTH_MAX = 64
PPM = 1_000_000
DURATION_MAX_MS = 3_600_000
SKEW_MAX_MS = 366 * 24 * 3_600_000
SYNC_DELAY_MAX_MS = 10_000
"""A sync is slow, not stuck: the process must still be able to stop."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values that an attribute may have; an optional one is 0 where it is missing."""

    least: int
    most: int
    optional: bool = False

    def nearest(self, value: int) -> int:
        """The value of this range that is nearest."""
        return max(self.least, min(self.most, value))


SKEWS = Range(-SKEW_MAX_MS, SKEW_MAX_MS)
SYNC_DELAYS = Range(0, SYNC_DELAY_MAX_MS)

ATTRIBUTES: dict[str, dict[str, Range]] = {
    "latency": {
        "latency_ms": Range(0, DURATION_MAX_MS),
        "jitter_ms": Range(0, DURATION_MAX_MS, optional=True),
    },
    "bandwidth": {"rate_kib_s": Range(1, 100_000_000)},
    "loss": {"loss_ppm": Range(1, PPM)},
    "timeout": {},
    "reset_peer": {"timeout_ms": Range(0, DURATION_MAX_MS, optional=True)},
    "slicer": {"bytes": Range(1, 1 << 20)},
    "limit_data": {"bytes": Range(1, 1 << 40)},
}
"""Types of toxics, and the attributes of each."""


class Toxic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault of the links to `peers`; it takes `toxicity_ppm` connections of a million."""

    name: str
    type: str
    peers: list[str]
    toxicity_ppm: int = PPM
    attributes: dict[str, int] = {}


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault of the process's clock: by how much it is ahead, in milliseconds."""

    name: str
    skew_ms: int


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault of the disk: each sync takes `delay_ms` longer; it is full, or takes no writes."""

    name: str
    delay_ms: int = 0
    full: bool = False
    read_only: bool = False


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All faults of a process at once; the draws of its toxics come from `seed`.

    Faults of one kind are told apart by their names. What they do together: skews and delays add
    up, to the most that one may have, and one full or read-only disk is enough.
    """

    toxics: list[Toxic] = []
    clocks: list[Clock] = []
    disks: list[Disk] = []
    seed: int = 0

    @property
    def skew_ms(self) -> int:
        """How far the clock is ahead of the system's, in milliseconds."""
        return SKEWS.nearest(sum(clock.skew_ms for clock in self.clocks))

    @property
    def sync_delay_ms(self) -> int:
        """By how much each sync is slower, in milliseconds."""
        return SYNC_DELAYS.nearest(sum(disk.delay_ms for disk in self.disks))

    @property
    def disk_full(self) -> bool:
        """Whether no write finds room."""
        return any(disk.full for disk in self.disks)

    @property
    def disk_read_only(self) -> bool:
        """Whether no write is allowed."""
        return any(disk.read_only for disk in self.disks)


NOTHING = Plan()
"""The plan without faults."""

_FIELDS = "toxics, clocks (name, skew_ms), disks (name, delay_ms, full, read_only) and seed"
_TOXIC_FIELDS = "name, type, peers, toxicity_ppm and attributes"


def parse_plan(document: bytes) -> Plan:
    """Read and check a plan; raises `ConfigError` with one sentence on what is wrong."""
    if len(document) > PLAN_BYTES_MAX:
        raise ConfigError(f"a plan of faults has at most {PLAN_BYTES_MAX} bytes")
    try:
        plan = msgspec.json.decode(document, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"the plan of faults is malformed: {error}; a plan has {_FIELDS}, "
            f"a toxic {_TOXIC_FIELDS}"
        ) from None
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    _check_names("toxic", [toxic.name for toxic in plan.toxics])
    _check_names("clock", [clock.name for clock in plan.clocks])
    _check_names("disk", [disk.name for disk in plan.disks])
    for toxic in plan.toxics:
        _check_toxic(toxic)
    for clock in plan.clocks:
        _require(f"the clock {clock.name!r}: skew_ms", clock.skew_ms, SKEWS)
    for disk in plan.disks:
        _require(f"the disk {disk.name!r}: delay_ms", disk.delay_ms, SYNC_DELAYS)
    _require("the seed", plan.seed, Range(0, (1 << 63) - 1))


def _check_names(what: str, names: list[str]) -> None:
    if len(names) > FAULTS_MAX:
        raise ConfigError(f"a plan of faults has at most {FAULTS_MAX} {what}s")
    for name in names:
        if not 0 < len(name) <= NAME_LENGTH_MAX:
            raise ConfigError(f"a {what} has a name of 1 to {NAME_LENGTH_MAX} characters")
        if names.count(name) > 1:
            raise ConfigError(f"two {what}s are named {name!r}; a name is used once")


def _check_toxic(toxic: Toxic) -> None:
    where = f"the toxic {toxic.name!r}"
    ranges = ATTRIBUTES.get(toxic.type)
    if ranges is None:
        raise ConfigError(
            f"{where} has the unknown type {toxic.type!r}; types are {', '.join(ATTRIBUTES)}"
        )
    if not 0 < len(toxic.peers) <= PEERS_MAX:
        raise ConfigError(f"{where} names 1 to {PEERS_MAX} peers; '*' means every process")
    _require(f"{where}: toxicity_ppm", toxic.toxicity_ppm, Range(0, PPM))
    for name, value in toxic.attributes.items():
        if name not in ranges:
            allowed = ", ".join(ranges) or "none"
            raise ConfigError(
                f"{where} has the unknown attribute {name!r}; {toxic.type} has {allowed}"
            )
        _require(f"{where}: {name}", value, ranges[name])
    for name, allowed_range in ranges.items():
        if not allowed_range.optional and name not in toxic.attributes:
            raise ConfigError(f"{where} lacks the attribute {name!r} of {toxic.type}")


def _require(what: str, value: int, allowed: Range) -> None:
    if not allowed.least <= value <= allowed.most:
        raise ConfigError(f"{what} is {value}; it goes from {allowed.least} to {allowed.most}")
