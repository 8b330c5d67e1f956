"""What a run of an experiment leaves behind: report.json, timeline.jsonl, and its pictures."""

from __future__ import annotations

from pathlib import Path

import msgspec

from client.load_report import LoadReport
from cluster.faults_expect import Band
from cluster.faults_verdict import Check, verdict
from cluster.faults_watch import Sample
from node.audit import AuditReport
from protocol.errors import ConfigError

REPORT, TIMELINE, PICTURE, PAGE = "report.json", "timeline.jsonl", "picture.png", "report.html"


class Moment(msgspec.Struct, frozen=True):
    """Something that happened `at_s` seconds after the load began."""

    at_s: float
    what: str
    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run; `status` is the exit status (0 passed, 1 failed, 4 no progress, 5 unsafe). `rate` is
    the load in actions a second, `capacity` what a closed loop reached before (0: not tried)."""

    name: str
    description: str
    row: str
    expected: str
    seed: int
    processes: dict[str, int]
    where: str
    duration_s: float
    took_s: float
    status: int
    checks: list[Check]
    bands: list[Band]
    moments: list[Moment]
    samples: list[Sample]
    load: LoadReport | None
    audit: AuditReport | None
    rate: int = 0
    capacity: int = 0

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return verdict(self.status)

    def lines(self) -> list[str]:
        """For people."""
        shown = [f"{self.name}, seed {self.seed}: {self.description}"]
        shown += [f"expected: {self.expected}"]
        for check in self.checks:
            shown.append(f"  {'ok  ' if check.ok else 'FAIL'} {check.name}: {check.text}")
        return [*shown, f"{self.verdict} in {self.took_s:.1f} s"]


def write_report(report: Report, folder: Path) -> list[str]:
    """Write everything; returns notes on what could not be made. Raises `OSError`."""
    from cluster.faults_pictures import html_page, png_picture

    folder.mkdir(parents=True, exist_ok=True)
    raw = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (folder / REPORT).write_bytes(raw + b"\n")
    lines = [msgspec.json.encode({"sample": one}) for one in report.samples]
    lines += [msgspec.json.encode({"moment": one}) for one in report.moments]
    (folder / TIMELINE).write_bytes(b"\n".join(lines) + b"\n")
    (folder / PAGE).write_text(html_page(report), encoding="utf-8")
    note = png_picture(report, folder / PICTURE)
    return [note] if note else []


def read_report(folder: Path) -> Report:
    """A report that was written; raises `ConfigError` where there is none."""
    path = folder / REPORT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {REPORT} in {folder}; an experiment writes one: trilemma faults run FILE"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no report of an experiment: {error}") from None
