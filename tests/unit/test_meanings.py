from __future__ import annotations

from pathlib import Path

from protocol.errors import Code
from protocol.meanings import MEANINGS, errors_page

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_has_a_sentence() -> None:
    assert list(MEANINGS) == list(Code)
    assert all(text.endswith(".") for text in MEANINGS.values())


def test_the_page_of_codes_is_the_present_one() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == errors_page()
