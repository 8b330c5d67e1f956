"""The picture of `bench.state_growth`: bytes on disk over orders, with and without pruning."""

from __future__ import annotations

from typing import Any

from cluster.svg import Curve, Drawing, Panel, chart

WIDTH, HEIGHT = 720, 330


def plot(figures: dict[str, Any]) -> bytes:
    """An SVG file."""
    samples = figures["samples"]
    orders = [one["orders"] / 1e6 for one in samples]
    drawing = Drawing(WIDTH, HEIGHT)
    panel = Panel(70, 50, WIDTH - 100, HEIGHT - 110)
    curves = [
        Curve("all blocks kept", "#b5403a", [one["all_bytes"] / 1e6 for one in samples]),
        Curve("pruned", "#2a6f97", [one["pruned_bytes"] / 1e6 for one in samples]),
    ]
    chart(drawing, panel, "Disk of a validator, MB", orders, curves, "{:.0f}".format)
    foot = panel.y + panel.height
    last = max(1, round(orders[-1]))
    for number in range(0, last + 1, max(1, last // 10)):
        x = panel.x + panel.width * min(1.0, number / orders[-1])
        drawing.text(x, foot + 18, f"{number}", size=11, anchor="middle")
    drawing.text(panel.x + panel.width, foot + 40, "million orders", anchor="end")
    text = f"retain_blocks = {figures['retain_blocks']}, {figures['accounts']} accounts"
    drawing.text(panel.x, foot + 40, text)
    return drawing.svg()
