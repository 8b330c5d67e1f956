"""docs/security.md names tests that exist, and limits that are the defaults."""

from __future__ import annotations

import re
from pathlib import Path

from store.client_limits import ClientLimits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(test_[a-z0-9_]+))?`", PAGE)
    assert len(named) > 50
    for path, function in named:
        text = (ROOT / path).read_text()
        assert not function or f"def {function}(" in text, f"{path} has no {function}"


def test_the_limits_are_those_of_the_code() -> None:
    limits = ClientLimits()
    for name, value in re.findall(r"`([a-z_]+)` = ([0-9,]+(?: MiB\b| s\b)?)", PAGE):
        number = int(re.sub("[^0-9]", "", value))
        number *= 1024 * 1024 if value.endswith("MiB") else 1000 if value.endswith(" s") else 1
        assert getattr(limits, name) == number, name
