"""Recordings are read line by line from plain and compressed files; damage is said, not raised."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from client.recordings import open_lines
from protocol.errors import ConfigError

TEXT = "".join(f"{number},1\n" for number in range(1_000))


def write(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"flow.csv{kind}"
    if kind == ".gz":
        content = gzip.compress(content)
    elif kind == ".xz":
        content = lzma.compress(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["", ".gz", ".xz"])
def test_every_kind_of_file_gives_the_same_lines(kind: str, tmp_path: Path) -> None:
    with open_lines(write(tmp_path, kind, TEXT.encode())) as lines:
        assert "".join(lines) == TEXT


def test_a_limit_stops_early(tmp_path: Path) -> None:
    with open_lines(write(tmp_path, ".xz", TEXT.encode()), limit=3) as lines:
        assert list(lines) == ["0,1\n", "1,1\n", "2,1\n"]


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"), open_lines(tmp_path / "no.csv"):
        pass


@pytest.mark.parametrize("kind", [".gz", ".xz"])
def test_a_cut_file_is_a_usage_error(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, TEXT.encode())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"damaged|cannot read"), open_lines(path) as lines:
        list(lines)


def test_a_file_that_is_no_text_is_a_usage_error(tmp_path: Path) -> None:
    path = write(tmp_path, "", b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="damaged"), open_lines(path) as lines:
        list(lines)
