"""A disk of one node: appended logs and a key-value store, with writes that wait for a sync.

A write is visible at once and durable when a sync that was asked for after it has completed. A
crash keeps a prefix of what was not durable, in the order of writing, and may leave the log record
on which it stopped torn: there, but not whole. A bad sector damages a record that was durable.
Records and values are any objects; one that was damaged reads as `DAMAGED`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sim.kernel import Kernel, Timer


class _Damaged:
    """What a record reads as whose checksum does not hold."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "DAMAGED"


DAMAGED: Final = _Damaged()
_ABSENT: Final = _Damaged()


@dataclass(frozen=True)
class DiskRule:
    """Times in microseconds; shares in parts per million.

    `sync_us` to `sync_us + sync_jitter_us` is what one sync takes. At a crash each unsynced write
    survives, in order, until the first that does not: with `keep_ppm` each. `tear_ppm`: how often
    the first log record that is lost leaves a torn one behind.
    """

    write_us: int = 0
    sync_us: int = 0
    sync_jitter_us: int = 0
    keep_ppm: int = 500_000
    tear_ppm: int = 0


class Disk:
    """What survives of one node. `bit` counts the writes that a crash or a bad sector touched."""

    def __init__(self, kernel: Kernel, name: str, rule: DiskRule | None = None) -> None:
        self.name = name
        self.rule = rule if rule is not None else DiskRule()
        self.bit: dict[str, int] = {}
        self.syncs = 0
        self._kernel = kernel
        self._random = kernel.stream(f"disk {name}")
        self._logs: dict[str, list[Any]] = {}
        self._values: dict[Any, Any] = {}
        # What undoes each unsynced write: (log or None, key, value before).
        self._unsynced: list[tuple[str | None, Any, Any]] = []
        self._written = 0
        self._durable = 0
        self._syncing: list[Timer] = []

    def append(self, log: str, record: Any) -> None:
        """Add a record to the end of a log."""
        self._logs.setdefault(log, []).append(record)
        self._unsynced.append((log, None, None))
        self._written += 1

    def put(self, key: Any, value: Any) -> None:
        """Set the value of a key."""
        self._unsynced.append((None, key, self._values.get(key, _ABSENT)))
        self._values[key] = value
        self._written += 1

    def delete(self, key: Any) -> None:
        """Drop a key; harmless where it is absent."""
        self._unsynced.append((None, key, self._values.pop(key, _ABSENT)))
        self._written += 1

    def get(self, key: Any) -> Any:
        """The newest value of a key, None where there is none, `DAMAGED` where it is broken."""
        return self._values.get(key)

    def keys(self) -> list[Any]:
        """All keys, in the order in which they were first written."""
        return list(self._values)

    def log(self, log: str) -> list[Any]:
        """The records of a log; a broken one is `DAMAGED`."""
        return list(self._logs.get(log, ()))

    def truncate(self, log: str, length: int) -> None:
        """Cut a log behind its first `length` records, durably: a start-up drops a torn tail."""
        self._durable = self._written
        self._unsynced.clear()
        del self._logs.get(log, [])[length:]

    @property
    def dirty(self) -> bool:
        """Whether a write waits for a sync."""
        return self._durable < self._written

    def sync_time_us(self) -> int:
        """Draw how long writing and syncing what is unsynced takes."""
        rule = self.rule
        jitter = self._random.below(rule.sync_jitter_us + 1) if rule.sync_jitter_us else 0
        return rule.write_us * (self._written - self._durable) + rule.sync_us + jitter

    def sync(self, callback: Callable[..., None], *args: Any) -> None:
        """Make what was written so far durable, then call `callback(*args)`.

        After a crash the callback is never called.
        """
        self._syncing = [timer for timer in self._syncing if timer.callback is not None]
        timer = self._kernel.after(self.sync_time_us(), self._synced, self._written, callback, args)
        self._syncing.append(timer)

    def sync_now(self) -> None:
        """Make what was written so far durable at once, for whoever counts the time itself."""
        self.syncs += 1
        self._durable = self._written
        self._unsynced.clear()

    def crash(self) -> None:
        """Lose what is not durable, but for a random prefix; tear the record behind it."""
        for timer in self._syncing:
            self._kernel.cancel(timer)
        self._syncing.clear()
        rule, random = self.rule, self._random
        kept = 0
        while kept < len(self._unsynced) and random.chance(rule.keep_ppm):
            kept += 1
        lost = self._unsynced[kept:]
        if lost:
            self._bite("unsynced_lost")
        for log, key, before in reversed(lost):
            if log is not None:
                self._logs[log].pop()
            elif before is _ABSENT:
                self._values.pop(key, None)
            else:
                self._values[key] = before
        if lost and lost[0][0] is not None and random.chance(rule.tear_ppm):
            self._logs[lost[0][0]].append(DAMAGED)
            self._bite("torn")
        self._unsynced.clear()
        self._durable = self._written

    def corrupt(self, log: str, index: int | None = None) -> bool:
        """Damage one record of a log (a random one where `index` is None); False if empty."""
        records = self._logs.get(log)
        if not records:
            return False
        records[self._random.below(len(records)) if index is None else index] = DAMAGED
        self._bite("corrupted")
        return True

    def corrupt_value(self, key: Any) -> bool:
        """Damage the value of a key; False where it is absent."""
        if key not in self._values:
            return False
        self._values[key] = DAMAGED
        self._bite("corrupted")
        return True

    def copy(self) -> Disk:
        """What is on the disk now, as a backup taken from a running process holds it."""
        other = Disk(self._kernel, self.name, self.rule)
        other._logs = {name: list(records) for name, records in self._logs.items()}
        other._values = dict(self._values)
        return other

    def restore(self, backup: Disk) -> None:
        """Replace everything by what a backup holds."""
        self.crash()
        self._logs = {name: list(records) for name, records in backup._logs.items()}
        self._values = dict(backup._values)

    def _synced(self, written: int, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.syncs += 1
        if written > self._durable:
            del self._unsynced[: written - self._durable]
            self._durable = written
        callback(*args)

    def _bite(self, kind: str) -> None:
        self.bit[kind] = self.bit.get(kind, 0) + 1
