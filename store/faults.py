"""Faults of this process's disk on purpose: slow syncs, no room left, writing forbidden.

Off, they cost one look at `disk.active` for each sync and each write.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Event


class DiskFaults:
    """What is wrong with the disk, and how often it bit. May be asked from any thread."""

    __slots__ = (
        "_changed", "active", "delay_ms", "delayed_syncs", "full", "read_only", "refused_writes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.active = False
        self.delay_ms = 0
        self.full = self.read_only = False
        self.delayed_syncs = self.refused_writes = 0
        self._changed = Event()

    def order(self, delay_ms: int = 0, *, full: bool = False, read_only: bool = False) -> None:
        """Suffer this from here on; syncs that are being delayed end."""
        self.delay_ms, self.full, self.read_only = delay_ms, full, read_only
        self.active = delay_ms > 0 or full or read_only
        self._changed.set()
        self._changed = Event()

    def write(self, path: Path) -> None:
        """Something is to be written to the path; raises `OSError` where it may not."""
        if self.read_only or self.full:
            self.refused_writes += 1
            number = errno.EROFS if self.read_only else errno.ENOSPC
            raise OSError(number, os.strerror(number), str(path))

    def sync(self) -> None:
        """Something is to be made durable: take the time that it takes."""
        if self.delay_ms:
            self.delayed_syncs += 1
            self._changed.wait(self.delay_ms / 1000)


disk = DiskFaults()
"""The disk of this process."""
