"""The lock of a testnet's directory: one supervisor at a time, found by its pid.

``supervisor.pid`` holds the pid and is locked while the supervisor lives, so that a pid left by a
crash, perhaps another program's by now, is never taken for a supervisor.
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

PID_FILE = "supervisor.pid"
_POLL_S = 0.05


def stop_command(directory: Path) -> str:
    """What stops the testnet of a directory."""
    return f"trilemma down {shlex.quote(str(directory))}"


class AlreadyRunning(ConfigError):
    """A testnet has a supervisor, by its pid where that is known."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        super().__init__(
            f"the testnet in {directory} is running already (pid {pid}); "
            f"stop it with: {stop_command(directory)}"
        )


class SupervisorLock:
    """Held by the supervisor of a directory until `release`, or until its process ends."""

    def __init__(self, directory: Path) -> None:
        path = directory / PID_FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot lock {directory}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = _read_pid(self._descriptor)
            os.close(self._descriptor)
            raise AlreadyRunning(directory, pid) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next supervisor in."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def supervisor_pid(directory: Path) -> int | None:
    """Pid of the supervisor that runs this directory's testnet now, or None."""
    try:
        descriptor = os.open(directory / PID_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot look at {directory / PID_FILE}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(descriptor)
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


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
