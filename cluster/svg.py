"""A little SVG: text, boxes, lines and axes, the same bytes for the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

INK, FAINT = "#222222", "#d9d9d9"
FONT = "font-family='Helvetica,Arial,sans-serif'"


class Drawing:
    """Collects shapes; `svg` is the file."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._shapes: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A filled rectangle."""
        self._shapes.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' "
            f"fill='{fill}'/>"
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 12,
        anchor: str = "start",
        colour: str = INK,
        bold: bool = False,
    ) -> None:
        """A line of text; `y` is its base line."""
        weight = " font-weight='bold'" if bold else ""
        self._shapes.append(
            f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' fill='{colour}' "
            f"text-anchor='{anchor}'{weight}>{escape(text)}</text>"
        )

    def line(
        self, points: Sequence[tuple[float, float]], colour: str = INK, width: float = 1.5
    ) -> None:
        """A line through points."""
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            self._shapes.append(
                f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='{width}' "
                "stroke-linejoin='round'/>"
            )

    def svg(self) -> bytes:
        """The file."""
        width, height = self._size
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
            f"viewBox='0 0 {width} {height}'>"
        )
        background = f"<rect width='{width}' height='{height}' fill='white'/>"
        return "\n".join([head, background, *self._shapes, "</svg>\n"]).encode()


class Curve(NamedTuple):
    """A line of a chart."""

    name: str
    colour: str
    values: Sequence[float]


class Panel(NamedTuple):
    """Where a chart stands in the drawing."""

    x: float
    y: float
    width: float
    height: float


def steps(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two, about so many."""
    span = high - low
    if span <= 0:
        return [low]
    power = 1.0
    while power * 10 <= span / count:
        power *= 10
    while power > span / count:
        power /= 10
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= span / count)
    first = int(low / step) - 1
    ticks = [step * number for number in range(first, first + 3 * count + 4)]
    return [tick for tick in ticks if low <= tick <= high]


def chart(
    drawing: Drawing,
    panel: Panel,
    title: str,
    times: Sequence[float],
    curves: Sequence[Curve],
    label: Callable[[float], str],
    *,
    from_zero: bool = True,
    marks: Sequence[float] = (),
) -> None:
    """Curves over time in one panel, with a scale at the left and their names on top.

    `marks`: times with a vertical line.
    """
    values = [value for curve in curves for value in curve.values]
    low = min(0.0, *values) if from_zero else min(values)
    high = max(values)
    if high <= low:
        high = low + 1
    begin, end = times[0], max(times[-1], times[0] + 1)

    def across(time: float) -> float:
        return panel.x + (time - begin) / (end - begin) * panel.width

    def up(value: float) -> float:
        return panel.y + panel.height - (value - low) / (high - low) * panel.height

    for tick in steps(low, high):
        drawing.line([(panel.x, up(tick)), (panel.x + panel.width, up(tick))], FAINT, 0.8)
        drawing.text(panel.x - 6, up(tick) + 4, label(tick), size=11, anchor="end")
    for time in marks:
        foot = panel.y + panel.height
        drawing.line([(across(time), panel.y), (across(time), foot)], "#888888", 0.8)
    for curve in curves:
        points = [(across(t), up(v)) for t, v in zip(times, curve.values, strict=True)]
        drawing.line(points, curve.colour)
    drawing.text(panel.x, panel.y - 8, title, size=13, bold=True)
    place = panel.x + panel.width
    for curve in reversed(curves):
        drawing.text(place, panel.y - 8, curve.name, size=12, anchor="end", colour=curve.colour)
        place -= 7 * len(curve.name) + 18
