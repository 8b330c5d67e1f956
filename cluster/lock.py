"""The lock of a testnet's directory: one supervisor at a time, found by its pid.

``supervisor.pid`` holds the pid and is locked while the supervisor lives, so that a pid left by a
crash, perhaps another program's by now, is never taken for a supervisor. A pid that is gone from a
locked file says nothing: its supervisor runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import time
from pathlib import Path

from protocol.errors import ConfigError
from store.running import PID_FILE, RUN_FOLDER, is_locked

RENEW_S = 30.0
"""How often a supervisor writes its pid again, where somebody damaged it."""

_POLL_S = 0.05
_SETTLE_S = 0.5
"""How long a lock may be held without a pid: a supervisor is writing it, or somebody looks."""


def stop_command(directory: Path) -> str:
    """What stops the testnet of a directory."""
    return f"trilemma down {shlex.quote(str(directory))}"


class AlreadyRunning(ConfigError):
    """A testnet has a supervisor, by its pid where that is known."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        known = "" if pid is None else f" (pid {pid})"
        super().__init__(
            f"the testnet in {directory} is running already{known}; "
            f"stop it with: {stop_command(directory)}"
        )


class PidDamaged(ConfigError):
    """A testnet has a supervisor, and nobody can tell its pid."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"the testnet in {directory} runs, but its {PID_FILE} is damaged; the supervisor "
            f"writes it again within {RENEW_S:g} s: try again then, or end the supervisor itself, "
            f"which is the parent of the processes in {directory / RUN_FOLDER}"
        )


class SupervisorLock:
    """Held by the supervisor of a directory until `release`, or until its process ends."""

    def __init__(self, directory: Path) -> None:
        path = directory / PID_FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot lock {directory}: {error.strerror}") from None
        if not _lock(self._descriptor):
            pid = _read_pid(self._descriptor)
            os.close(self._descriptor)
            raise AlreadyRunning(directory, pid)
        try:
            self._write()
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    def renew(self) -> None:
        """Write the pid again where it is not in the file any more."""
        if self._descriptor >= 0 and _read_pid(self._descriptor) != os.getpid():
            self._write()

    def release(self) -> None:
        """Let the next supervisor in."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        # A reader takes the first line alone: at no instant is there none.
        raw = f"{os.getpid()}\n".encode()
        os.pwrite(self._descriptor, raw, 0)
        os.ftruncate(self._descriptor, len(raw))


def supervisor_pid(directory: Path) -> int | None:
    """Pid of the supervisor that runs this directory's testnet now, or None; raises `PidDamaged`
    where one runs and its pid cannot be read."""
    try:
        descriptor = os.open(directory / PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot look at {directory / PID_FILE}: {error.strerror}") from None
    try:
        deadline = time.monotonic() + _SETTLE_S
        while is_locked(descriptor):
            pid = _read_pid(descriptor)
            if pid is not None:
                return pid
            if time.monotonic() > deadline:
                raise PidDamaged(directory)
            time.sleep(_POLL_S)
    finally:
        os.close(descriptor)
    return None


def stop_supervisor(directory: Path, timeout_s: float = 30.0) -> bool:
    """Ask the directory's supervisor to stop, and wait for it; False where none runs.

    Raises `ConfigError` where it still runs after `timeout_s` seconds.
    """
    pid = supervisor_pid(directory)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while supervisor_pid(directory) is not None:
        if time.monotonic() > deadline:
            raise ConfigError(f"the supervisor (pid {pid}) still runs after {timeout_s:g} s")
        time.sleep(_POLL_S)
    return True


def _lock(descriptor: int) -> bool:
    """Lock the file; False where somebody else keeps it locked for longer than a look takes."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(_POLL_S)


def _read_pid(descriptor: int) -> int | None:
    line = os.pread(descriptor, 32, 0).partition(b"\n")[0].strip()
    return int(line) if line.isdigit() else None
