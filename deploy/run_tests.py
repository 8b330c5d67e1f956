"""Runs the tests: those of real processes beside all the others, since they mostly wait.

    python deploy/run_tests.py            all but those that need docker, in two runs at once
    python deploy/run_tests.py PATH ...   these, in one

TRILEMMA_TEST_RUNS=1 runs everything in one. Exits with 0 where all pass.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

PYTEST = [sys.executable, "-m", "pytest"]
PROCESSES = "tests/processes"
WITHOUT_DOCKER = "--ignore=tests/docker"


def main(paths: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    alone = paths not in ([], ["tests"]) or (os.cpu_count() or 1) < 2
    if alone or os.environ.get("TRILEMMA_TEST_RUNS") == "1":
        return subprocess.call([*PYTEST, *(paths or ["tests"]), WITHOUT_DOCKER])
    with tempfile.TemporaryFile() as output:
        beside = subprocess.Popen(
            [*PYTEST, PROCESSES, "-p", "no:cacheprovider"],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            status = subprocess.call([*PYTEST, "tests", f"--ignore={PROCESSES}", WITHOUT_DOCKER])
            print(f"{PROCESSES}:", flush=True)
            status = beside.wait() or status
        finally:
            if beside.poll() is None:  # we were interrupted; so it stops its clusters
                beside.send_signal(signal.SIGINT)
                beside.wait()
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
