"""Work on several cores: tasks go to processes of their own, which end with this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from client.workers import stop_pool, worker_pool

Task = TypeVar("Task")
Result = TypeVar("Result")


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
    with worker_pool(min(jobs, len(tasks))) as pool:
        pending: set[Future[Result]] = {pool.submit(work, task) for task in tasks}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    take(future.result())
        except BaseException:
            stop_pool(pool)
            raise
