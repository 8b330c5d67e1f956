"""What tests do about modules that run compiled where a compiler is there."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matching import COMPILED

ROOT = Path(__file__).resolve().parents[1]


def interpreted(test: Callable[..., None]) -> Callable[..., None]:
    """A test that puts objects or methods of its own in place of those of the engine.

    Compiled code never looks them up: there, the test runs in an interpreted process of its own.
    """

    @functools.wraps(test)
    def alone(*args: Any, **kwargs: Any) -> None:
        if not COMPILED:
            test(*args, **kwargs)
            return
        node, _, _ = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", node],
            cwd=ROOT,
            env=os.environ | {"TRILEMMA_COMPILE": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return alone


def fields(kind: type) -> list[str]:
    """Names of the attributes of a class with slots; compiled classes keep no list of them."""
    found = [
        name
        for name, value in vars(kind).items()
        if inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value)
    ]
    return sorted(name for name in found if not name.startswith("__"))
