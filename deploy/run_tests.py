"""Runs the tests: those of real processes beside all the others, since they mostly wait.

    python deploy/run_tests.py            all but those that need docker, in three runs at once
    python deploy/run_tests.py PATH ...   these, in one

TRILEMMA_TEST_RUNS=1 runs everything in one. Exits with 0 where all pass.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

PYTEST = [sys.executable, "-m", "pytest"]
PROCESSES = "tests/processes"
WITHOUT_DOCKER = "--ignore=tests/docker"
BESIDE = 2
"""Runs of real processes beside the others."""

Run = tuple[subprocess.Popen[bytes], IO[bytes]]


def main(paths: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    alone = paths not in ([], ["tests"]) or (os.cpu_count() or 1) < 2
    if alone or os.environ.get("TRILEMMA_TEST_RUNS") == "1":
        return subprocess.call([*PYTEST, *(paths or ["tests"]), WITHOUT_DOCKER])
    files = sorted(str(path) for path in Path(PROCESSES).glob("test_*.py"))
    runs = [start(files[place::BESIDE]) for place in range(BESIDE)]
    try:
        status = subprocess.call([*PYTEST, "tests", f"--ignore={PROCESSES}", WITHOUT_DOCKER])
        for number, (run, output) in enumerate(runs, 1):
            print(f"{PROCESSES}, part {number}:", flush=True)
            status = run.wait() or status
            show(output)
    finally:
        for run, _ in runs:
            if run.poll() is None:  # we were interrupted; so it stops its clusters
                run.send_signal(signal.SIGINT)
        for run, output in runs:
            run.wait()
            output.close()
    return status


def start(files: list[str]) -> Run:
    """Test these files in a process beside us, whose output waits in a file."""
    output = tempfile.TemporaryFile()  # noqa: SIM115
    command = [*PYTEST, *files, "-p", "no:cacheprovider"]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT), output


def show(output: IO[bytes]) -> None:
    """Print what a run has printed."""
    output.seek(0)
    sys.stdout.flush()
    sys.stdout.buffer.write(output.read())
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
