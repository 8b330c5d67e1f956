"""Formats of data directories: numbered, led forward step by step, refused where they are newer."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cluster.testnet import TestnetOptions, create_testnet
from net.runner import run_process
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import ProcessConfig
from store.migrations import FORMAT, MIGRATIONS, Migration, ensure_format, format_of
from store.segments import SegmentLog, StoreDamaged
from store.sqlite import open_database


def older(tmp_path: Path, schema: int = 2) -> Path:
    """A directory as it was before formats had numbers."""
    (tmp_path / "OWNER").write_text("prover 00 00\n")
    with closing(open_database(tmp_path / "prover.sqlite", "CREATE TABLE a (b)", schema)) as made:
        made.execute("INSERT INTO a VALUES (7)")
    log = SegmentLog(tmp_path / "log")
    log.append(b"record")
    log.close()
    return tmp_path


def test_a_new_directory_gets_the_newest_number(tmp_path: Path) -> None:
    news: list[str] = []
    ensure_format(tmp_path, news.append, new=True)
    assert (tmp_path / "FORMAT").read_text() == f"store format {FORMAT}\n"
    assert format_of(tmp_path) == FORMAT and news == []
    ensure_format(tmp_path, news.append)
    assert news == []


def test_an_older_directory_is_led_forward_with_its_content_and_a_hint(tmp_path: Path) -> None:
    directory = older(tmp_path)
    assert format_of(directory) is None
    news: list[str] = []
    ensure_format(directory, news.append)
    assert format_of(directory) == FORMAT
    assert "store format 0 and becomes 1" in news[0] and "trilemma backup" in news[0]
    assert news[1].startswith("format 1 of 1: ")
    with closing(sqlite3.connect(directory / "prover.sqlite")) as database:
        assert database.execute("SELECT b FROM a").fetchall() == [(7,)]
    log = SegmentLog(directory / "log")
    assert log.read(0) == b"record"
    log.close()


def test_a_directory_from_which_no_way_leads_is_left_as_it_is(tmp_path: Path) -> None:
    directory = older(tmp_path, schema=1)
    with pytest.raises(ConfigError, match=r"prover\.sqlite has schema 1.*release that wrote it"):
        ensure_format(directory, lambda _: None)
    assert format_of(directory) is None


def test_a_log_of_another_format_is_not_taken_for_ours(tmp_path: Path) -> None:
    directory = older(tmp_path)
    (path,) = (directory / "log").glob("*.seg")
    path.write_bytes(b"OTHERLOG" + path.read_bytes()[8:])
    with pytest.raises(StoreDamaged):
        ensure_format(directory, lambda _: None)
    assert format_of(directory) is None


@pytest.mark.parametrize("number", [FORMAT + 1, 77])
def test_a_directory_of_a_newer_version_is_refused(tmp_path: Path, number: int) -> None:
    (tmp_path / "FORMAT").write_text(f"store format {number}\n")
    with pytest.raises(ConfigError, match="made by a newer version, use that one"):
        ensure_format(tmp_path, lambda _: None)
    assert format_of(tmp_path) == number


@pytest.mark.parametrize("text", ["", "store format\n", "store format 1", "store format -1\n", "x"])
def test_a_damaged_number_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "FORMAT").write_text(text)
    with pytest.raises(ConfigError, match="FORMAT is damaged"):
        ensure_format(tmp_path, lambda _: None)


def test_steps_follow_one_another_and_a_crash_repeats_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("store format 1\n")
    done: list[int] = []
    fails = [True]

    def third(_: Path) -> None:
        if fails.pop():
            raise OSError("power lost")
        done.append(3)

    steps = (
        *MIGRATIONS,
        Migration(2, "second", lambda _: done.append(2)),
        Migration(3, "third", third),
    )
    with pytest.raises(OSError, match="power lost"):
        ensure_format(tmp_path, lambda _: None, steps)
    assert done == [2] and format_of(tmp_path) == 2
    fails.append(False)
    ensure_format(tmp_path, lambda _: None, steps)
    assert done == [2, 3] and format_of(tmp_path) == 3


def test_formats_count_up_without_a_gap() -> None:
    assert [step.to for step in MIGRATIONS] == list(range(1, FORMAT + 1))


@pytest.mark.parametrize(
    ("found", "words"),
    [(3, "made by a newer version, use that one"), (1, "use the release that wrote it")],
)
def test_a_database_of_another_schema_is_refused(tmp_path: Path, found: int, words: str) -> None:
    path = tmp_path / "a.sqlite"
    open_database(path, "CREATE TABLE a (b)", found).close()
    with pytest.raises(ConfigError, match=words):
        open_database(path, "CREATE TABLE a (b)", 2)


def test_a_process_refuses_a_newer_directory_and_leads_an_older_one_forward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    testnet = create_testnet(tmp_path / "net", TestnetOptions(free_ports=True, traders=0))
    path = testnet.config_path("prover-0")
    directory = testnet.data_path("prover-0")
    served: list[str] = []

    async def serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
        served.append((config.data / "FORMAT").read_text())

    assert run_process(path, "prover", serve) == 0
    (directory / "FORMAT").write_text("store format 77\n")
    assert run_process(path, "prover", serve) == 2
    assert "has store format 77" in (told := capsys.readouterr().err) and "newer version" in told
    (directory / "FORMAT").unlink()
    assert run_process(path, "prover", serve) == 0
    assert "becomes 1" in capsys.readouterr().err
    assert served == [f"store format {FORMAT}\n"] * 2
