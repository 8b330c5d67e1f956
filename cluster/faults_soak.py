"""`trilemma faults soak`: a long run with faults at random; does anything grow that should not?"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from client.console import emit, note
from client.faults import EXIT_FAILED
from cluster.faults_course import RunClock, Show
from cluster.faults_hold import RunFolder
from cluster.faults_pictures import page_of
from cluster.faults_play import found_experiment, run_until_asked, timeline, told_when_stopped
from cluster.faults_report import FILES, Report, open_folder, write_report
from cluster.faults_run import RunOptions, fresh_options, run_experiment
from cluster.faults_schedule import Experiment, load_experiment
from cluster.faults_trends import GROWS, UNDECIDED, Slope, Trend
from cluster.faults_vitals import Drift, Growth, Vitals, drift, growth, read_vitals, warm_s
from cluster.faults_watch import Sample
from cluster.svg import Curve, Drawing, Panel, chart
from cluster.testnet import NAMES, create_testnet
from store.testnet import Testnet

OUT = Path(".trilemma/faults/soak")
SOAK, SOAK_PAGE, SOAK_PICTURE, VITALS = "soak.json", "soak.html", "soak.png", "vitals.jsonl"
LOOK_S = 5.0
DRIFT_RATIO = 1.5
"""So many times its first quarter's median may latency reach in the last one."""

CLIENT = "client"
MIB = 1 << 20
COLOURS = (
    "#3a6ea5", "#c84a3e", "#2f8f6b", "#7a5195", "#b8860b", "#777777", "#1f9e9e", "#d0669a",
    "#5b8c2a", "#8a5a2b", "#000000", "#4b4be0", "#e08a00", "#9c9c00",
)  # fmt: skip


class SoakReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak found; `status` as an experiment's, 1 also where something grows or drifts."""

    minutes: float
    seed: int
    rate: int
    capacity: int
    actions: int
    faults: int
    run_verdict: str
    status: int
    processes: list[Growth]
    latency: Drift
    trouble: list[str]

    def lines(self) -> list[str]:
        """For people."""
        most = f" of {self.capacity:,} that it takes" if self.capacity else ""
        head = (
            f"{self.minutes:g} minutes at {self.rate:,} actions a second{most}, seed {self.seed}: "
            f"{self.actions:,} actions, {self.faults:,} faults; the run: {self.run_verdict}"
        )
        rows = [
            f"{'process':<14} {'starts':>6} {'MiB':>7} {'MiB an hour':>16} {'by halves':>15} "
            f"{'jumps':>7} {'fds':>5} {'fds an hour':>13} {'by halves':>13} {'threads':>7}"
        ]
        for one in self.processes:
            rss, halves, leaps = _shown(one.rss, MIB)
            if one.rss.whole.bound < 0 <= one.starts_rss.bound:
                rss, halves = _bounded(one.starts_rss, MIB), "starts alone"
            fds, fds_halves, _ = _shown(one.descriptor, 1)
            rows.append(
                f"{one.name:<14} {one.starts:>6} {one.rss_bytes / MIB:>7.1f} {rss:>16} "
                f"{halves:>15} {leaps:>7} {one.descriptors:>5} {fds:>13} {fds_halves:>13} "
                f"{one.threads_most:>7}  {one.verdict}"
            )
        late = self.latency
        drifted = (
            f"latency to executed, median (99th): first quarter {late.first_p50:.0f} "
            f"({late.first_p99:.0f}) ms, last {late.last_p50:.0f} ({late.last_p99:.0f}) ms"
        )
        end = (
            "; ".join(self.trouble)
            or "nothing is lost, latency does not drift, nothing is shown to grow"
        )
        undecided = sum(1 for one in self.processes if one.verdict == UNDECIDED)
        if undecided:
            end += f"; {undecided} of {len(self.processes)} processes are undecided"
        return [head, *rows, drifted, end]


def _shown(trend: Trend, unit: int) -> tuple[str, str, str]:
    """In units an hour: the slope of all, those of the halves, and what jumps added. Descriptors
    may tell where memory's lives were too short."""
    if trend.whole.bound < 0:
        return "?", "?", "?"
    halves = f"{_told(trend.earlier, unit)} {_told(trend.later, unit)}"
    return _bounded(trend.whole, unit), halves, f"{trend.whole.jumps / unit:+.1f}"


def _bounded(found: Slope, unit: int) -> str:
    return f"{_told(found, unit)} ± {found.bound / unit:.1f}"


def _told(found: Slope, unit: int) -> str:
    return "?" if found.bound < 0 else f"{found.per_hour / unit:+.1f}"


class Vigil:
    """Looks at every process of a testnet on this machine each few seconds."""

    def __init__(self, testnet: Testnet) -> None:
        self.seen: list[Vitals] = []
        self._roles = {entry.name: NAMES[entry.role] for entry in testnet.processes}
        self._roles[CLIENT] = CLIENT
        self._folder = RunFolder(testnet.directory)
        self._next_s = 0.0

    def look(self, at_s: float) -> None:
        """Take the vitals where it is time."""
        if at_s < self._next_s:
            return
        self._next_s = at_s + LOOK_S
        gc.freeze()  # the client keeps what it sent: to look through it for garbage takes seconds
        for name in self._roles:
            pid = os.getpid() if name == CLIENT else self._folder.pid(name)
            one = None if pid is None else read_vitals(name, pid, at_s)
            if one is not None:
                self.seen.append(one)

    def growths(self, warmth_s: float) -> list[Growth]:
        """What became of each process, in the testnet's order, the client last."""
        found = []
        for name, role in self._roles.items():
            seen = [one for one in self.seen if one.name == name]
            if seen:
                found.append(growth(name, role, seen, warmth_s))
        return found

    def unseen(self) -> list[str]:
        """Those that could never be looked at."""
        known = {one.name for one in self.seen}
        return [name for name in self._roles if name not in known]


def soak(
    file: Path, *, minutes: float, seed: int | None, rate: int | None, out: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Run an experiment for so long on a testnet of its own; returns the exit status."""
    experiment = lasting(load_experiment(found_experiment(file)), minutes, rate)
    folder = out or OUT
    used = experiment.about.seed if seed is None else seed
    load = experiment.load
    told = f"{load.share:.0%} of what it takes" if load.share else f"{load.rate:,} actions a second"
    open_folder(folder, (*FILES, SOAK, SOAK_PAGE, SOAK_PICTURE, VITALS))
    note(f"{minutes:g} minutes at {told}, seed {used}")
    clock = RunClock()
    with (
        told_when_stopped(clock, removed=True),
        tempfile.TemporaryDirectory(prefix="trilemma-soak-") as place,
    ):
        testnet = create_testnet(Path(place) / "testnet", fresh_options(experiment))
        vigil = Vigil(testnet)
        with timeline(experiment) as (tell, show):
            watched = _also(show, vigil)
            options = RunOptions(seed=used, testnet=testnet.directory)
            report = run_until_asked(run_experiment(experiment, options, tell, watched, clock))
    for line in write_report(report, folder):
        note(line)
    grown = vigil.growths(warm_s(experiment.about.duration_s))
    result = judged(experiment, report, grown, vigil.unseen())
    write_soak(result, report, vigil.seen, folder)
    emit(result, "\n".join([*report.lines(), "", *result.lines()]), as_json=as_json)
    note(f"the reports with their pictures: {folder / SOAK_PAGE}, {folder / 'report.html'}")
    return result.status


def lasting(experiment: Experiment, minutes: float, rate: int | None) -> Experiment:
    """The experiment for so many minutes; what it does in a minute stays as it is."""
    ratio = 60 * minutes / experiment.about.duration_s
    about = msgspec.structs.replace(experiment.about, duration_s=60 * minutes, short_s=0.0)
    load = experiment.load
    if rate is not None:
        load = msgspec.structs.replace(load, rate=rate, share=0.0)
    scattered = [
        msgspec.structs.replace(one, from_s=one.from_s * ratio, until_s=one.until_s * ratio)
        for one in experiment.random
    ]
    planned = [one for one in experiment.faults if one.at_s < about.duration_s]
    return msgspec.structs.replace(
        experiment, about=about, load=load, random=scattered, faults=planned
    )


def _also(show: Show, vigil: Vigil) -> Show:
    def both(one: Sample) -> None:
        vigil.look(one.at_s)
        show(one)

    return both


def judged(
    experiment: Experiment, report: Report, processes: list[Growth], unseen: Sequence[str] = ()
) -> SoakReport:
    """The verdict on growth and drift, beside the run's own; of `unseen` processes nobody knows."""
    looks = [
        (one.at_s, *one.latency_ms["executed"])
        for one in report.samples
        if "executed" in one.latency_ms
    ]
    latency = drift(looks, experiment.about.duration_s)
    # The client keeps what it sent, to compare it at the end: it grows by design.
    trouble = [
        f"{one.name} grows" for one in processes if one.verdict == GROWS and one.role != CLIENT
    ]
    trouble += [f"{name} could never be looked at" for name in unseen]
    if latency.ratio > DRIFT_RATIO:
        trouble.append(f"latency in the last quarter is {latency.ratio:.2f} times the first's")
    if report.status:
        trouble.append(f"the run: {report.verdict}")
    return SoakReport(
        minutes=round(experiment.about.duration_s / 60, 2), seed=report.seed,
        rate=report.rate, capacity=report.capacity,
        actions=0 if report.load is None else report.load.actions,
        faults=len(report.bands), run_verdict=report.verdict,
        status=report.status or (EXIT_FAILED if trouble else 0),
        processes=processes, latency=latency, trouble=trouble,
    )  # fmt: skip


# --- pictures


Panels = list[tuple[str, list[Curve]]]


def panels(seen: list[Vitals]) -> tuple[list[float], Panels]:
    """Memory, descriptors and threads by process over time; 0 while one is down. The client's
    memory has a panel of its own: it keeps all that it sends."""
    times = sorted({one.at_s for one in seen})
    every = list(dict.fromkeys(one.name for one in seen))
    known = {(one.name, one.at_s): one for one in seen}

    def curves(field: str, unit: float, names: Sequence[str] = every) -> list[Curve]:
        found = []
        for place, name in enumerate(every):
            if name not in names:
                continue
            values = [
                getattr(known[name, at_s], field) / unit if (name, at_s) in known else 0.0
                for at_s in times
            ]
            found.append(Curve(name, COLOURS[place % len(COLOURS)], values))
        return found

    shown = [
        ("open descriptors", curves("descriptors", 1)),
        ("threads", curves("threads", 1)),
        ("memory, MiB", curves("rss_bytes", MIB, [name for name in every if name != CLIENT])),
        ("memory of the client, MiB", curves("rss_bytes", MIB, [CLIENT])),
    ]
    return times, [one for one in shown if one[1]]


def soak_picture(seen: list[Vitals]) -> str:
    """The panels as SVG, the names of processes at the foot."""
    width, height, left, top, gap = 900, 190, 70, 40, 46
    times, shown = panels(seen)
    drawing = Drawing(width, top + len(shown) * (height + gap) + 20)
    if len(times) < 2:
        drawing.text(left, top, "the run was too short for a picture")
        return drawing.svg().decode()
    for place, (title, curves) in enumerate(shown):
        panel = Panel(left, top + place * (height + gap), width - left - 20, height)
        bare = [curve._replace(name="") for curve in curves]
        chart(drawing, panel, title, times, bare, lambda value: f"{value:,.6g}")
    across = float(left)
    for curve in shown[0][1]:
        foot = top + len(shown) * (height + gap) - gap + 24
        drawing.text(across, foot, curve.name, size=9, colour=curve.colour)
        across += 6 * len(curve.name) + 4
    return drawing.svg().decode()


def soak_png(seen: list[Vitals], title: str, path: Path) -> str:
    """The panels as a PNG; a note where the extra that draws it is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return "no PNG: install the extra with: pip install 'trilemma[pictures]'"
    times, shown = panels(seen)
    figure: Any
    figure, drawn = pyplot.subplots(
        len(shown), 1, sharex=True, figsize=(11, 14), layout="constrained"
    )
    for panel, (name, curves) in zip(drawn, shown, strict=True):
        for curve in curves:
            panel.plot(times, curve.values, color=curve.colour, label=curve.name, linewidth=1.2)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.grid(color="#dddddd", linewidth=0.5)
    drawn[0].legend(fontsize=7, ncols=5, frameon=False)
    drawn[-1].set_xlabel("seconds after the load began")
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return ""


def write_soak(result: SoakReport, report: Report, seen: list[Vitals], folder: Path) -> None:
    """soak.json, vitals.jsonl, and the pictures; raises `OSError`."""
    raw = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (folder / SOAK).write_bytes(raw + b"\n")
    (folder / VITALS).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in seen))
    text = "\n".join(escape(line) for line in result.lines())
    body = (
        f"<h1>soak</h1>\n<pre>{text}</pre>\n{soak_picture(seen)}\n"
        f"<p>The same run's faults, throughput and verdict: <a href='report.html'>"
        f"{escape(report.name)}</a></p>\n"
    )
    (folder / SOAK_PAGE).write_text(page_of("soak", body), encoding="utf-8")
    verdict = "failed" if result.status else "passed"
    title = f"{result.minutes:g} minutes, seed {result.seed}: {verdict}"
    trouble = soak_png(seen, title, folder / SOAK_PICTURE)
    if trouble:
        note(trouble)
