"""What a run of an experiment leaves behind: report.json, timeline.jsonl, and its pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from client.load_report import LoadReport
from cluster.faults_expect import Band
from cluster.faults_verdict import Check, verdict
from cluster.faults_watch import Sample
from node.audit import AuditReport
from protocol.errors import ConfigError

REPORT, TIMELINE, PICTURE, PAGE = "report.json", "timeline.jsonl", "picture.png", "report.html"
FILES = (REPORT, TIMELINE, PAGE, PICTURE)
PREVIOUS = "previous"


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


def open_folder(folder: Path, names: Sequence[str] = FILES) -> None:
    """Make the folder of a report before the run that it is of: a run may take an hour. What an
    earlier run left there is set aside below `previous/`, so that nobody takes it for this one's.

    Raises `ConfigError` where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
        older = [folder / name for name in names if (folder / name).exists()]
        if older:
            (folder / PREVIOUS).mkdir(exist_ok=True)
            for name in names:  # of one run, too
                (folder / PREVIOUS / name).unlink(missing_ok=True)
        for path in older:
            os.replace(path, folder / PREVIOUS / path.name)
    except OSError as error:
        raise ConfigError(
            f"cannot write the report to {folder}: {error.strerror}; choose another folder with "
            "--out"
        ) from None


def write_report(report: Report, folder: Path, names: Sequence[str] = FILES) -> list[str]:
    """Write these files of a report; returns notes on what could not be made. Raises `OSError`."""
    from cluster.faults_pictures import html_page, png_picture

    folder.mkdir(parents=True, exist_ok=True)
    if REPORT in names:
        raw = msgspec.json.format(msgspec.json.encode(report), indent=1)
        (folder / REPORT).write_bytes(raw + b"\n")
    if TIMELINE in names:
        lines = [msgspec.json.encode({"sample": one}) for one in report.samples]
        lines += [msgspec.json.encode({"moment": one}) for one in report.moments]
        (folder / TIMELINE).write_bytes(b"\n".join(lines) + b"\n")
    if PAGE in names:
        (folder / PAGE).write_text(html_page(report), encoding="utf-8")
    note = png_picture(report, folder / PICTURE) if PICTURE in names else ""
    return [note] if note else []


def missing_files(folder: Path) -> list[str]:
    """Files of a report that are not in its folder."""
    return [name for name in FILES if not (folder / name).exists()]


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
