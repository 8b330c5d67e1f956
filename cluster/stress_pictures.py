"""Pictures of `trilemma stress`: the frontier of each crash, and one run over time."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.svg import INK, Curve, Drawing, Panel, chart
from sim.stress_exchange import TICK_UUSD
from sim.stress_report import NEVER, Point, Run
from sim.stress_setting import load_text

MILLION_UUSD = 1_000_000_000_000
KEPT, NOT_KEPT = (58, 150, 110), (200, 74, 62)
BETWEEN = (240, 196, 90)
CELL_WIDTH, CELL_HEIGHT, LEFT, TOP, GAP = 152, 74, 90, 96, 46
LEAST_WIDTH = 620
RUN_WIDTH, PANEL_HEIGHT = 900, 130


def frontier_svg(points: Sequence[Point], titles: dict[str, str]) -> bytes:
    """A map for each crash, policy, staleness bound and kind of prices: load down, delay across.

    Green: all seeds kept up; red: none. In a cell: how many did, and the worst p99.9 queue delay,
    backlog and excess loss.
    """
    maps: dict[tuple[str, str, int, bool], list[Point]] = {}
    for point in points:
        key = (point.crash, point.policy, point.staleness_ms, point.impact)
        maps.setdefault(key, []).append(point)
    loads = sorted({point.load_ppm for point in points})
    delays = sorted({point.delay_ms for point in points})
    height = CELL_HEIGHT * len(loads) + TOP + GAP
    width = max(LEFT + CELL_WIDTH * len(delays) + 20, LEAST_WIDTH)
    drawing = Drawing(width, 40 + height * len(maps))
    drawing.text(20, 28, "Can the liquidation engine keep up?", size=17, bold=True)
    for number, (key, cells) in enumerate(maps.items()):
        _map(drawing, 40 + number * height, _title(key, titles), cells, loads, delays)
    return drawing.svg()


def _title(key: tuple[str, str, int, bool], titles: dict[str, str]) -> str:
    crash, policy, staleness_ms, impact = key
    bound = f"prices stale after {staleness_ms / 1_000:g} s" if staleness_ms else "no bound on age"
    moved = ", liquidations move the price" if impact else ""
    return f"{titles.get(crash, crash)}: {policy} blocks, {bound}{moved}"


def _map(
    drawing: Drawing,
    y: int,
    title: str,
    cells: Sequence[Point],
    loads: Sequence[int],
    delays: Sequence[int],
) -> None:
    drawing.text(20, y + 30, title, size=14, bold=True)
    drawing.text(LEFT, y + 54, "oracle delay", size=12)
    for column, delay_ms in enumerate(delays):
        x = LEFT + column * CELL_WIDTH + CELL_WIDTH / 2
        drawing.text(x, y + TOP - 22, f"{delay_ms / 1_000:g} s", size=13, anchor="middle")
    for row, load_ppm in enumerate(loads):
        middle = y + TOP - 14 + row * CELL_HEIGHT + CELL_HEIGHT / 2
        drawing.text(LEFT - 12, middle, f"load {load_text(load_ppm)}", size=13, anchor="end")
    for point in cells:
        x = LEFT + delays.index(point.delay_ms) * CELL_WIDTH
        top = y + TOP - 14 + loads.index(point.load_ppm) * CELL_HEIGHT
        drawing.box(x, top, CELL_WIDTH - 4, CELL_HEIGHT - 4, _colour(point.kept_up, point.seeds))
        lines = (
            f"{point.kept_up} of {point.seeds} kept up",
            f"queue {seconds(point.queue_ms[1])}",
            f"backlog {backlog_text(point.backlog_ms[1])}",
            f"excess {point.excess_ppm[1] / 100:+.2f} bp",
        )
        for line, text in enumerate(lines):
            colour = "white" if _dark(point) else INK
            drawing.text(x + 8, top + 17 + 16 * line, text, colour=colour, bold=line == 0)


def _dark(point: Point) -> bool:
    return point.kept_up in (0, point.seeds)


def _colour(kept: int, seeds: int) -> str:
    """Red over yellow to green."""
    share = kept / seeds
    ends = (NOT_KEPT, BETWEEN) if share < 0.5 else (BETWEEN, KEPT)
    part = share * 2 if share < 0.5 else share * 2 - 1
    mixed = (round(a + (b - a) * part) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def seconds(time_ms: int) -> str:
    """A delay as text."""
    if time_ms < 1_000:
        return f"{time_ms} ms"
    return f"{time_ms / 1_000:.1f} s" if time_ms < 100_000 else f"{time_ms / 60_000:.1f} min"


def backlog_text(time_ms: int) -> str:
    """How long after the low a backlog was gone."""
    return "stays" if time_ms == NEVER else seconds(time_ms)


def run_svg(run: Run, title: str) -> bytes:
    """Prices, backlog, losses, lag of execution and makers withdrawn, in minutes around the low."""
    series = run.series
    times = [(time_ms - run.low_ms) / 60_000 for time_ms in series.time_ms]
    panels = 5
    drawing = Drawing(RUN_WIDTH, 60 + panels * (PANEL_HEIGHT + GAP) + 30)
    drawing.text(20, 28, f"{title}, {run.cell}, seed {run.seed}", size=16, bold=True)

    def place(number: int) -> Panel:
        return Panel(90, 72 + number * (PANEL_HEIGHT + GAP), RUN_WIDTH - 120, PANEL_HEIGHT)

    def millions(values: Sequence[int]) -> list[float]:
        return [value / MILLION_UUSD for value in values]

    def dollars(value: float) -> str:
        return f"{'-' if value < 0 else ''}${abs(value):,.6g}M"

    ticks = TICK_UUSD / 1_000_000
    low = [0.0]
    chart(
        drawing, place(0), "price", times,
        [
            Curve("true", "#333333", [value * ticks for value in series.true_ticks]),
            Curve("mark", "#c84a3e", [value * ticks for value in series.mark_ticks]),
        ],
        lambda value: f"${value:,.0f}", from_zero=False, marks=low,
    )  # fmt: skip
    chart(
        drawing, place(1), "notional below maintenance", times,
        [Curve("backlog", "#3a6ea5", millions(series.backlog_uusd))], dollars, marks=low,
    )  # fmt: skip
    chart(
        drawing, place(2), "losses so far", times,
        [
            Curve("traders", "#333333", millions(series.trader_uusd)),
            Curve("backstop", "#7a5195", millions(series.backstop_uusd)),
            Curve("fund", "#e69f00", millions(series.fund_uusd)),
            Curve("deleveraging", "#c84a3e", millions(series.deleveraging_uusd)),
            Curve("haircut", "#009e73", millions(series.haircut_uusd)),
        ],
        dollars, marks=low,
    )  # fmt: skip
    chart(
        drawing, place(3), "execution behind the log, seconds", times,
        [Curve("", "#3a6ea5", [value / 1_000 for value in series.behind_ms])],
        lambda value: f"{value:,.6g}", marks=low,
    )  # fmt: skip
    chart(
        drawing, place(4), "makers that have withdrawn", times,
        [Curve("", "#3a6ea5", [float(value) for value in series.withdrawn])],
        lambda value: f"{value:,.6g}", marks=low,
    )  # fmt: skip
    foot = 60 + panels * (PANEL_HEIGHT + GAP) + 6
    drawing.text(90, foot, f"{times[0]:.0f} min", size=11)
    drawing.text(RUN_WIDTH - 30, foot, f"{times[-1]:+.0f} min after the low", anchor="end", size=11)
    return drawing.svg()
