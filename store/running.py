"""Whether a supervisor runs a testnet here, told by the lock on its pid file, and what clients say
of a testnet that does not answer."""

from __future__ import annotations

import fcntl
import os
import shlex
from pathlib import Path

from store.testnet import Testnet

PID_FILE = "supervisor.pid"
RUN_FOLDER = "run"
"""Where a supervisor tells how its processes stand; ``NAME.hold`` keeps one down."""


def is_locked(descriptor: int) -> bool:
    """Whether a supervisor holds the lock on this open pid file."""
    try:
        # Shared, so that a file opened for reading will do.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def is_supervised(directory: Path) -> bool:
    """Whether a supervisor runs this directory's testnet now, as far as one can see."""
    try:
        descriptor = os.open(directory / PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_locked(descriptor)
    finally:
        os.close(descriptor)


def silence_hint(testnet: Testnet, role: str) -> str:
    """What to do where no process of a role answers: the rest of a sentence."""
    if not is_supervised(testnet.directory):
        return f"is the cluster up? {testnet.start_hint}"
    where = shlex.quote(str(testnet.directory))
    folder = testnet.directory / RUN_FOLDER
    names = [one.name for one in testnet.processes if one.role == role]
    held = [name for name in names if (folder / f"{name}.hold").exists()]
    if held:
        them = " and ".join(held)
        return (
            f"{them} {'is' if len(held) == 1 else 'are'} held down; start again with: "
            f"trilemma faults restart {' '.join(held)} --testnet {where}"
        )
    return f"the testnet runs; see: trilemma status {where}"
