"""Makes a virtual environment beside the project's, for one tool that is no part of the project.

    python deploy/beside.py DIRECTORY PACKAGE==VERSION [--with-lock]

With --with-lock the project's own pinned packages are installed there too. Does nothing where all
of that is there already; says in one sentence what is wrong where it cannot be had.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def main(arguments: list[str]) -> int:
    """Make the environment; returns the exit status."""
    with_lock = "--with-lock" in arguments
    directory, package = (one for one in arguments if one != "--with-lock")
    target = ROOT / directory
    wanted = package + (sha256(LOCK.read_bytes()).hexdigest() if with_lock else "")
    stamp = target / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    print(f"making {directory} with {package}", flush=True)
    venv.create(target, clear=True, with_pip=True)
    needed = ["-r", str(LOCK), package] if with_lock else [package]
    done = subprocess.run(
        [target / "bin" / "python", "-m", "pip", "install", "-qq", *needed],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        print(
            f"cannot install {package}: {reason}\nIt comes from the package index: is there a "
            "network, and a build of it for this Python?",
            file=sys.stderr,
        )
        return 1
    stamp.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
