"""Download the wheels that the image installs, for its Python, into ``deploy/wheels``.

They come through the host's own pip with all of its configuration, so that the image is built
without a network. A stamp with the lock's hash makes a second run do nothing.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

IMAGE_PYTHON = "3.11"
GLIBC_MINORS = (36, 34, 31, 28, 27, 26, 24, 17)
"""Versions 2.x of the C library that wheels are built against, none above the image's."""


def platforms() -> list[str]:
    """Platform tags that run in the image: this machine's architecture, Debian bookworm's libc."""
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS] + [
        f"manylinux2014_{machine}",
        f"linux_{machine}",
    ]


def main() -> int:
    """Download what is missing; 0 where all wheels are there."""
    root = Path(__file__).parents[1]
    wheels = root / "deploy" / "wheels"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    content = (root / "requirements.lock").read_text() + "\n".join((*wanted, *platforms()))
    stamp, digest = wheels / "stamp", hashlib.sha256(content.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return 0
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels)]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={IMAGE_PYTHON}"]
    command += [f"--platform={tag}" for tag in platforms()]
    command += ["--constraint", str(root / "requirements.lock"), *wanted]
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        stamp.write_text(digest)
    return status


if __name__ == "__main__":
    sys.exit(main())
