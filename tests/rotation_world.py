"""A command that exchanges a validator's key, and is killed in the middle of what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


class Killed(Exception):
    """The command ends here."""


class Life:
    """How many changes the command makes before it is killed."""

    def __init__(self, changes: int) -> None:
        self.left = changes

    def change(self) -> None:
        """One change less; raises `Killed` instead of the one too many."""
        self.left -= 1
        if self.left < 0:
            raise Killed

    def bounds(self, monkeypatch: pytest.MonkeyPatch, functions: Iterable[tuple[Any, str]]) -> None:
        """Count the calls of these functions, each given by module and name, as changes."""

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                self.change()
                return change(*arguments)

            return call

        for module, name in functions:
            monkeypatch.setattr(module, name, counted(getattr(module, name)))
