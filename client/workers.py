"""Processes that work for this one and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

EXIT_ORPHANED = 1


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """A pool of so many processes; work and tasks must be picklable."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=begin_worker)


def stop_pool(pool: ProcessPoolExecutor) -> None:
    """Give up what runs: it is not waited for, as it can take a minute."""
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in multiprocessing.active_children():
        worker.kill()


def begin_worker() -> None:
    """Ctrl-C goes to the whole group; the parent ends the workers, and its death does too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process at once when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(EXIT_ORPHANED)
