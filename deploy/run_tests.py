"""Runs the tests in several runs at once, since those of real processes mostly wait.

    python deploy/run_tests.py            all but those that need docker
    python deploy/run_tests.py PATH ...   these, in one run

TRILEMMA_TEST_RUNS=1 runs everything in one. Exits with 0 where all pass.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PYTEST = [sys.executable, "-m", "pytest"]
WITHOUT_DOCKER = "--ignore=tests/docker"
PROCESSES = "processes"
PARTS = {"simulation": 1, "property": 2, "unit": 3, PROCESSES: 8}
"""Folders of tests with the number of parts they are run in; all others are one part together."""

AT_ONCE = 3
BESIDE = 2
"""Runs of real processes among them, as long as there are others."""

POLL_S = 0.2


@dataclass
class Part:
    """Files that one run tests, and how that goes."""

    name: str
    files: list[str]
    processes: bool
    began_s: float = 0.0
    output: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    run: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Test the files in a process beside us, whose output waits in a file."""
        print(f"tests: {self.name} begins", flush=True)
        self.began_s = time.monotonic()
        # Caches of several runs would overwrite each other.
        command = [*PYTEST, *self.files, "-p", "no:cacheprovider"]
        self.run = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT)

    def ended(self) -> int | None:
        """The exit status, once the run has ended; prints its output then."""
        status = None if self.run is None else self.run.poll()
        if status is None:
            return None
        self.output.seek(0)
        sys.stdout.buffer.write(self.output.read())
        self.output.close()
        how = f"{'FAILED' if status else 'passed'} in {time.monotonic() - self.began_s:.0f} s"
        print(f"tests: {self.name} {how}", flush=True)
        return status

    def interrupt(self) -> None:
        """Have the run stop its clusters and end."""
        if self.run is not None and self.run.poll() is None:
            self.run.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait for the run's end."""
        if self.run is not None:
            self.run.wait()


def main(paths: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    alone = paths not in ([], ["tests"]) or (os.cpu_count() or 1) < 2
    if alone or os.environ.get("TRILEMMA_TEST_RUNS") == "1":
        return subprocess.call([*PYTEST, *(paths or ["tests"]), WITHOUT_DOCKER])
    return run_all(all_parts())


def all_parts() -> list[Part]:
    """Everything to test, in parts."""
    folders: dict[str, list[str]] = {name: [] for name in (*PARTS, "others")}
    for path in sorted(Path("tests").glob("*/test_*.py")):
        folder = path.parent.name
        if folder != "docker":
            folders[folder if folder in PARTS else "others"].append(str(path))
    return [
        Part(f"{name} {place + 1} of {count}", files[place::count], name == PROCESSES)
        for name, files in folders.items()
        for count in [PARTS.get(name, 1)]
        for place in range(count)
    ]


def run_all(parts: list[Part]) -> int:
    """Run all parts, `AT_ONCE` of them at a time; returns the exit status."""
    processes = deque(part for part in parts if part.processes)
    others = deque(part for part in parts if not part.processes)
    running: list[Part] = []
    failed: list[str] = []
    try:
        while processes or others or running:
            while (processes or others) and len(running) < AT_ONCE:
                beside = sum(part.processes for part in running) < BESIDE
                queue = processes if processes and (beside or not others) else others
                running.append(queue.popleft())
                running[-1].start()
            time.sleep(POLL_S)
            for part in running.copy():
                status = part.ended()
                if status is not None:
                    running.remove(part)
                    failed += [part.name] if status else []
    finally:
        for part in running:  # we were interrupted
            part.interrupt()
        for part in running:
            part.wait()
    print(f"tests: failed in {', '.join(failed)}" if failed else "tests: all passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
