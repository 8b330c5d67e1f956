"""Pictures of an experiment over time, its faults as bands: a PNG, and a page that needs nothing
else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.svg import Curve, Drawing, Panel, chart

if TYPE_CHECKING:
    from cluster.faults_report import Report
    from cluster.faults_watch import Sample

WIDTH, PANEL_HEIGHT, GAP, LEFT, TOP = 900, 120, 46, 84, 40
BAND_COLOURS = ("#fde3cf", "#dbe9f6", "#e5f3df", "#efe2f3", "#fbf3c7")
BLUE, RED, GREEN, GREY, PURPLE = "#3a6ea5", "#c84a3e", "#2f8f6b", "#777777", "#7a5195"


class Plot(NamedTuple):
    """One panel: a title with its unit, and curves (name, colour, values)."""

    title: str
    curves: list[tuple[str, str, list[float]]]


def plots(samples: Sequence[Sample]) -> list[Plot]:
    """Throughput, latency, finality, settlement lag and bad debt over time."""

    def rate(state: str) -> list[float]:
        return [one.per_s.get(state, 0.0) for one in samples]

    def delay(state: str, place: int) -> list[float]:
        return [one.latency_ms.get(state, (0.0, 0.0))[place] / 1000 for one in samples]

    return [
        Plot("actions per second", [
            ("accepted", GREY, rate("accepted")), ("executed", BLUE, rate("executed")),
            ("settled", GREEN, rate("settled")),
        ]),
        Plot("latency to executed, seconds", [
            ("median", BLUE, delay("executed", 0)), ("99th", RED, delay("executed", 1)),
        ]),
        Plot("finality, seconds", [
            ("median", BLUE, delay("final", 0)), ("99th", RED, delay("final", 1)),
        ]),
        Plot("settlement lag, ordered blocks", [
            ("", PURPLE, [float(one.lag or 0) for one in samples]),
        ]),
        Plot("bad debt, dollars", [
            ("", RED, [one.bad_debt_uusd / 1_000_000 for one in samples]),
        ]),
    ]  # fmt: skip


def colour_of(report: Report, kind: str) -> str:
    """The colour of a kind of fault in this report."""
    kinds = list(dict.fromkeys(band.kind for band in report.bands))
    return BAND_COLOURS[kinds.index(kind) % len(BAND_COLOURS)]


def svg_picture(report: Report) -> str:
    """All panels, one below the other."""
    samples = report.samples
    shown = plots(samples)
    drawing = Drawing(WIDTH, TOP + len(shown) * (PANEL_HEIGHT + GAP) + 20)
    if len(samples) < 2:
        drawing.text(LEFT, TOP, "the run was too short for a picture")
        return drawing.svg().decode()
    times = [one.at_s for one in samples]
    begin, end = times[0], max(times[-1], times[0] + 1)
    width = WIDTH - LEFT - 20
    for place, plot in enumerate(shown):
        panel = Panel(LEFT, TOP + place * (PANEL_HEIGHT + GAP), width, PANEL_HEIGHT)
        for band in report.bands:
            left = panel.x + max(0.0, (band.began_s - begin) / (end - begin)) * width
            right = panel.x + min(1.0, max(0.0, (band.ended_s - begin) / (end - begin))) * width
            drawing.box(
                left, panel.y, max(1.5, right - left), panel.height, colour_of(report, band.kind)
            )
        curves = [Curve(*curve) for curve in plot.curves]
        chart(drawing, panel, plot.title, times, curves, _label)
    foot = TOP + len(shown) * (PANEL_HEIGHT + GAP) - GAP + 18
    drawing.text(LEFT, foot, f"{begin:.0f} s", size=11)
    drawing.text(WIDTH - 20, foot, f"{end:.0f} s after the load began", size=11, anchor="end")
    return drawing.svg().decode()


def _label(value: float) -> str:
    return f"{value:,.6g}"


def png_picture(report: Report, path: Path) -> str:
    """Write the panels as a PNG; returns a note where the extra that draws it is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return (
            "no PNG: matplotlib is not installed; install the extra with: pip install "
            "'trilemma[pictures]' (the page has the same picture)"
        )
    shown = plots(report.samples)
    times = [one.at_s for one in report.samples]
    figure: Any
    figure, panels = pyplot.subplots(
        len(shown), 1, sharex=True, figsize=(11, 12), layout="constrained"
    )
    for panel, plot in zip(panels, shown, strict=True):
        for band in report.bands:
            colour = colour_of(report, band.kind)
            panel.axvspan(band.began_s, max(band.ended_s, band.began_s + 0.1), color=colour)
        for name, colour, values in plot.curves:
            panel.plot(times, values, color=colour, label=name, linewidth=1.4)
        panel.set_title(plot.title, loc="left", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.grid(color="#dddddd", linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        if len(plot.curves) > 1:
            panel.legend(loc="upper right", fontsize=8, frameon=False)
    panels[-1].set_xlabel("seconds after the load began")
    figure.suptitle(f"{report.name}, seed {report.seed}: {report.verdict}", fontsize=13)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return ""


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 940px; color: #222; }
table { border-collapse: collapse; width: 100%; margin: .6em 0 1.4em; }
td, th { text-align: left; padding: .25em .7em .25em 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }
.ok { color: #2f8f6b; } .bad { color: #c84a3e; font-weight: 600; }
.mark { display: inline-block; width: 1em; height: 1em; vertical-align: -2px; }
svg { max-width: 100%; height: auto; }
"""


def html_page(report: Report) -> str:
    """A page with the verdict, the picture, the faults and the timeline; it loads nothing."""
    good = report.status == 0
    verdict = f"<b class='{'ok' if good else 'bad'}'>{escape(report.verdict)}</b>"
    counts = ", ".join(f"{count} {role}" for role, count in report.processes.items())
    checks = _table(
        ("", "what", "found"),
        [
            (_mark(check.ok), escape(check.name), escape(check.text))
            for check in report.checks
        ],
    )  # fmt: skip
    faults = _table(
        ("", "fault", "from", "to", "what proves it"),
        [
            (
                f"<span class='mark' style='background:{colour_of(report, band.kind)}'></span>",
                escape(band.text), f"{band.began_s:.1f} s", f"{band.ended_s:.1f} s",
                "<br>".join(f"{escape(n)}: {escape(t)}" for n, t in sorted(band.evidence.items())),
            )
            for band in report.bands
        ],
    )  # fmt: skip
    moments = _table(
        ("at", "what", ""),
        [(f"{one.at_s:.1f} s", escape(one.what), escape(one.text)) for one in report.moments],
    )
    title = escape(report.name)
    return page_of(
        title,
        f"<h1>{title}</h1>\n<p>{escape(report.description)}</p>\n"
        f"<p><b>Expected:</b> {escape(report.expected)}</p>\n"
        f"<p>{verdict}; seed {report.seed}; {escape(counts)} ({escape(report.where)}); load for "
        f"{report.duration_s:g} s, {report.took_s:.1f} s in all.</p>\n"
        f"{svg_picture(report)}\n<h2>Verdict</h2>\n{checks}\n<h2>Faults</h2>\n{faults}\n"
        f"<h2>Timeline</h2>\n{moments}\n",
    )


def page_of(title: str, body: str) -> str:
    """A whole page around a body, both escaped already."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        f"{body}</body></html>\n"
    )


def _mark(ok: bool) -> str:
    return "<span class='ok'>ok</span>" if ok else "<span class='bad'>FAIL</span>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>{line([escape(head) for head in heads], 'th')}\n{body}</table>"
