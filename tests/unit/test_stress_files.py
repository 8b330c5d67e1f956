"""Recorded candles, stored results and pictures of `trilemma stress`."""

from __future__ import annotations

import lzma
from pathlib import Path
from xml.etree import ElementTree

import pytest
from stress_runs import plan, run

from cluster.stress_files import CRASHES, Results, read_candles, windows
from cluster.stress_pictures import frontier_svg, run_svg
from cluster.svg import steps
from protocol.errors import ConfigError
from sim.stress_frontier import frontier
from sim.stress_prices import Candle
from sim.stress_report import Series
from sim.stress_setting import QUICK, Shape, cut, synthetic

HEADER = "ts_ms,open,high,low,close,volume\n"
GOOD = HEADER + "1000,1.5,2,1.25,1.75,9\n2000,1.75,1.75,1.5,1.5,0\n"
CANDLES = [
    Candle(1_000, 1_500_000, 2_000_000, 1_250_000, 1_750_000),
    Candle(2_000, 1_750_000, 1_750_000, 1_500_000, 1_500_000),
]


def test_candles_are_read_plain_and_compressed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.xz"
    plain.write_text(GOOD)
    packed.write_bytes(lzma.compress(GOOD.encode()))
    assert read_candles(plain) == read_candles(packed) == CANDLES


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "columns"),
        ("time,open\n1,2\n", "columns"),
        (HEADER + "1000,x,2,1,1,9\n", "line 2"),
        (HEADER + "1000,1,2,1,1,9\nnoon,1,2,1,1,9\n", "line 3"),
        (HEADER + "1000,1\n", "line 2"),
    ],
)
def test_a_file_that_holds_no_candles_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_candles(path)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.xz"
    path.write_bytes(lzma.compress(GOOD.encode())[:-10])
    with pytest.raises(ConfigError, match=r"a\.csv\.xz"):
        read_candles(path)


def test_crashes_need_a_name_and_their_prices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no crash 'friday'"):
        windows(["friday"], tmp_path, QUICK)
    with pytest.raises(ConfigError, match="--data DIRECTORY"):
        windows(["may-2021"], None, QUICK)
    with pytest.raises(ConfigError, match=CRASHES[0].file):
        windows(["all"], tmp_path, QUICK)
    assert [window.name for window in windows(["synthetic", "synthetic"], None, QUICK)] == [
        "synthetic"
    ]


def minutes(count: int, low_at: int) -> list[Candle]:
    return [Candle(n * 60_000, 100, 100, 50 if n == low_at else 90, 100) for n in range(count)]


def test_a_window_lies_around_the_low_and_has_no_gap() -> None:
    shape = Shape(before_ms=300_000, after_ms=120_000)
    window = cut("x", "X", minutes(100, 60), 0, 10**9, shape)
    assert window.candles[0].time_ms == 55 * 60_000 and window.candles[-1].time_ms == 62 * 60_000
    assert window.week[-1].time_ms == 54 * 60_000 and len(window.week) == 55
    for candles, says in (
        (minutes(100, 60)[:62], "do not reach"),
        (minutes(100, 3), "do not reach"),
        (minutes(100, 60)[:58] + minutes(100, 60)[59:], "do not reach|gap"),
    ):
        with pytest.raises(ConfigError, match=says):
            cut("x", "X", candles, 0, 10**9, shape)
    with pytest.raises(ConfigError, match="nothing of X"):
        cut("x", "X", minutes(100, 60), 10**9, 2 * 10**9, shape)


def test_a_run_is_found_again_under_the_same_setting_alone(tmp_path: Path) -> None:
    window, key = synthetic(QUICK), ("synthetic", 1, "ideal")
    results = Results(tmp_path, QUICK)
    mark = results.fingerprint(window)
    assert results.load(key, mark) is None
    results.save(key, mark, run())
    assert results.load(key, mark) == run()
    assert results.load(key, Results(tmp_path, Shape()).fingerprint(window)) is None
    assert results.load(key, results.fingerprint(synthetic(QUICK, 9))) is None
    results.path(key).write_bytes(b"{")
    assert results.load(key, mark) is None
    assert [path.name for path in results.path(key).parent.iterdir()] == ["ideal.json"]


def test_the_frontier_is_drawn_as_a_map() -> None:
    runs = {(crash, seed, cell.name): run(cell.name, seed, queue=0 if cell.load_ppm < 10**7 else
            5_000) for crash, seed, cell in plan().runs()}  # fmt: skip
    points = frontier(plan(), runs)
    drawn = frontier_svg(points, {"synthetic": "a fall & rise"})
    assert drawn == frontier_svg(points, {"synthetic": "a fall & rise"})
    texts = [node.text or "" for node in ElementTree.fromstring(drawn).iter() if node.text]
    assert sum("2 of 2 kept up" in text for text in texts) == 2
    assert sum("0 of 2 kept up" in text for text in texts) == 2
    assert any("a fall & rise: fifo blocks" in text for text in texts)


def test_a_run_is_drawn_over_time() -> None:
    series = Series()
    for step in range(50):
        series.add(step * 1_000, 500_000 + step, 500_000, step, 0, 3, 0, step, -step, 5, 0, 0)
    one = run()
    root = ElementTree.fromstring(run_svg(type(one)(**{
        name: getattr(one, name) for name in one.__struct_fields__ if name != "series"
    }, series=series), "A crash"))  # fmt: skip
    assert len([node for node in root.iter() if node.tag.endswith("polyline")]) > 15


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 5, 10]),
        (0, 0, [0]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_scales_have_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert steps(low, high) == pytest.approx(expected)
