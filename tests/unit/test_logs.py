"""Lines of the log: who wrote them and where it stood, as JSON or for people, never a flood."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import structlog

from net.logs import REPEATS, REPEATS_S, LogPlace, LogStream, Repeats

ROOT = Path(__file__).resolve().parents[2]


def test_repeats_are_counted_instead_of_written() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    line = {"event": "upstream unreachable"}
    written = 0
    for _ in range(REPEATS + 5):
        try:
            repeats(None, "warning", dict(line))
            written += 1
        except structlog.DropEvent:
            continue
    assert written == REPEATS
    assert repeats(None, "warning", {"event": "another"}) == {"event": "another"}
    assert repeats(None, "critical", dict(line)) == line
    now[0] = REPEATS_S
    assert repeats(None, "warning", dict(line)) == {**line, "suppressed": 5}
    assert repeats(None, "warning", dict(line)) == line


def test_a_line_says_where_the_process_stands() -> None:
    place = LogPlace({"node": "validator-0", "role": "node"})
    place.place = lambda: {"height": 7, "batch": 2}
    line = place(None, "info", {"event": "epoch began", "batch": 1})
    assert line == {
        "event": "epoch began", "batch": 1, "node": "validator-0", "role": "node", "height": 7,
    }  # fmt: skip


_SCRIPT = """
import logging
from pathlib import Path
import structlog
from net.logs import configure_logging, set_log_place
from store.config import ProcessConfig

configure_logging(ProcessConfig("prover", "prover-0", 0, Path("g"), Path("k"), Path("d"),
                                "127.0.0.1:1", log_json={json}, log_level="warning"))
set_log_place(lambda: {{"height": 5, "view": 2, "batch": 1}})
log = structlog.get_logger()
log.info("not this")
log.warning("this", number=3)
logging.getLogger("asyncio").warning("and %s", "that")
"""


def _logged(*, as_json: bool) -> list[str]:
    script = _SCRIPT.format(json=as_json)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not done.stdout
    return done.stderr.splitlines()


def test_json_lines_of_ours_and_of_libraries_are_alike() -> None:
    ours, theirs = map(json.loads, _logged(as_json=True))
    for line, event in ((ours, "this"), (theirs, "and that")):
        assert line["event"] == event and line["level"] == "warning"
        assert (line["node"], line["role"]) == ("prover-0", "prover")
        assert (line["height"], line["view"], line["batch"]) == (5, 2, 1)
        assert line["timestamp"].endswith("Z")
    assert ours["number"] == 3


def test_lines_for_people_fit_one_line_each() -> None:
    ours, theirs = _logged(as_json=False)
    assert "this" in ours and "number=3" in ours and "height=5" in ours
    assert "and that" in theirs and "prover-0" in theirs


def test_a_full_disk_of_logs_ends_no_process(tmp_path: Path) -> None:
    script = _SCRIPT.format(json=True) + "\nprint('lives')\n"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"lives\n")


def test_lines_that_were_lost_are_counted_in_the_next_one(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        stream = LogStream(full)
        stream.write("one\n")
        stream.write("two\n")
        assert stream.tell_lost(None, "info", {"event": "e"}) == {"event": "e", "lost_lines": 2}
    with (tmp_path / "log").open("w") as file:
        stream = LogStream(file)
        stream.lost = 2
        stream.write("three\n")
        assert stream.tell_lost(None, "info", {"event": "e"}) == {"event": "e"}
        assert (tmp_path / "log").read_text() == "three\n"
