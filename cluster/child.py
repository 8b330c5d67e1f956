"""Start one process as a child that never outlives its supervisor, its output in a log file."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

LOG_LIMIT_BYTES = 64 << 20
"""A log above this is moved aside; one older piece is kept."""

_PR_SET_PDEATHSIG = 1
_EXIT_ORPHANED = 1


def death_signal() -> Callable[[], None] | None:
    """What a child runs before its program, so that the kernel kills it with its parent.

    Linux only; elsewhere None, and children of a supervisor that was killed are left behind.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arm() -> None:
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(_EXIT_ORPHANED)

    return arm


async def spawn(command: list[str], log: Path, directory: Path) -> asyncio.subprocess.Process:
    """Start `command` in `directory`, appending what it prints to `log`; raises `OSError`.

    It gets a session of its own, so that Ctrl-C reaches the supervisor alone.
    """
    log.parent.mkdir(exist_ok=True)
    trim_log(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory,
            start_new_session=True,
            preexec_fn=death_signal(),
        )
    finally:
        os.close(descriptor)


def signal_child(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a child that has not been waited for; nothing if it has.

    Not by `process.send_signal`: that polls the child first, and a poll that reaps it takes the
    exit status from whoever waits for it.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def trim_log(log: Path) -> None:
    """Move a log that grew too large aside; a process that appends to it goes on undisturbed.

    Where there is no room for a piece aside, the log is cut all the same.
    """
    if not log.exists() or log.stat().st_size <= LOG_LIMIT_BYTES:
        return
    aside = log.with_suffix(".log.1")
    try:
        shutil.copyfile(log, aside)
    except OSError:
        aside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.truncate(log, 0)


def log_tail(log: Path, lines: int = 12, limit_bytes: int = 8192) -> str:
    """The last lines of a log, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - limit_bytes))
            text = file.read(limit_bytes).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def last_words(log: Path, name: str) -> str:
    """Why a process ended: the closing sentence that it left, else its log's last lines."""
    tail = log_tail(log)
    lines = tail.splitlines()
    own = f"trilemma {name}: "
    if lines and lines[-1].startswith(own):
        return lines[-1].removeprefix(own)
    return f"\n{tail}" if tail else f"it left no word in {log}"
