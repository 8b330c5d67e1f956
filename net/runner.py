"""Runs one process: configuration, logging, signals, and exit statuses that say what happened."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import uvloop

from net.injection import injection
from net.logs import configure_logging
from protocol.errors import ConfigError, SafetyViolation, TrilemmaError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import ProcessConfig, Role, load_chain, load_config, load_process_key
from store.files import ensure_directory, lock_directory, open_standard_files
from store.migrations import ensure_format
from store.ownership import claim_directory

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SAFETY = 5

DESCRIPTORS = 65_536

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Names of glibc's malloc parameters (malloc.h)."""

LARGE_BLOCK = 256 * 1024
"""Blocks of memory from this size on go back to the system when they are freed."""

ARENAS = 2

Serve = Callable[[ProcessConfig, Chain, Key, asyncio.Event], Coroutine[Any, Any, None]]


def run_process(config_path: Path, role: Role, serve: Serve) -> int:
    """Run `serve(config, chain, key, stop)` until it ends or a signal sets `stop`.

    Returns the exit status: 0 stopped, 1 failed, 2 configuration, 5 safety violation. The data
    directory is locked meanwhile, so that no two processes share it, and belongs to one chain and
    one member of it for ever.
    """
    open_standard_files()
    try:
        config = load_config(config_path)
        if config.role != role:
            raise ConfigError(f"{config_path} is for the role {config.role}, not {role}")
        chain = load_chain(config)
        key = load_process_key(config, chain)
        configure_logging(config)
        injection.enable(config, chain)
        _raise_descriptor_limit()
        _keep_to_ourselves()
        _give_memory_back()
        ensure_directory(config.data)
        _require_private(config.data)
        with lock_directory(config.data):
            new = claim_directory(config, chain, key)
            ensure_format(config.data, _report, new=new)
            uvloop.run(_supervised(config, chain, key, serve))
    except ConfigError as error:
        with suppress(OSError):
            print(f"trilemma {config_path.stem}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except SafetyViolation as error:
        structlog.get_logger().critical("safety violation, stopping", error=str(error))
        return EXIT_SAFETY
    except TrilemmaError as error:
        structlog.get_logger().critical("stopping", error=str(error))
        return EXIT_FAILED
    except OSError as error:
        structlog.get_logger().critical("the operating system refuses", error=str(error))
        return EXIT_FAILED
    return EXIT_OK


def _keep_to_ourselves() -> None:
    """New files are for this user alone, and a crash leaves no image of the memory with the key."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _give_memory_back() -> None:
    """Have malloc return what a burst took; only glibc knows how.

    By itself it raises the size from which blocks are mapped with every large one freed, up to
    32 MiB, and gives each thread a heap: a process that was late once would stay large.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_ARENA_MAX, ARENAS)


def _require_private(directory: Path) -> None:
    """Raise `ConfigError` where anybody on this machine may exchange what the process has stored,
    its voting state among it."""
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"anybody may write in the data directory {directory}; run: chmod o-w {directory}"
        )


def _raise_descriptor_limit() -> None:
    """Use as many descriptors as the system allows: every session and segment needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _report(line: str) -> None:
    structlog.get_logger().warning("the data directory changes", what=line)


async def _supervised(config: ProcessConfig, chain: Chain, key: Key, serve: Serve) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broken: list[BaseException] = []

    def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours raised: the process must stop, not go on half-broken."""
        error = context.get("exception")
        structlog.get_logger().error(context.get("message", "callback failed"), exc_info=error)
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            broken.append(error)
            stop.set()

    loop.set_exception_handler(fail)
    # Everything imported lives on: collecting it again and again only costs time.
    gc.collect()
    gc.freeze()
    await serve(config, chain, key, stop)
    if broken:
        raise broken[0]


async def until_stopped(stop: asyncio.Event, *fatal: asyncio.Future[Any]) -> None:
    """Wait for `stop`, or raise what any of the futures or tasks ended with."""
    waiting = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([waiting, *fatal], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    for ended in done:
        if ended is waiting:
            continue
        result = ended.result()
        if isinstance(result, BaseException):
            raise result
