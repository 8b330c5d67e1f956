"""Work on several cores: tasks go to processes of their own, which end with this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

EXIT_ORPHANED = 1


def run_tasks(
    tasks: Sequence[Task],
    work: Callable[[Task], Result],
    jobs: int,
    take: Callable[[Result], None],
) -> None:
    """Work off the tasks with so many processes; `take` gets results as they come.

    One job is done in this process. Work and tasks must be picklable otherwise.
    """
    if jobs <= 1 or len(tasks) <= 1:
        for task in tasks:
            take(work(task))
        return
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(tasks))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker) as pool:
        pending: set[Future[Result]] = {pool.submit(work, task) for task in tasks}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    take(future.result())
        except BaseException:
            # What is running is not waited for: it can take a minute.
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.kill()
            raise


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
