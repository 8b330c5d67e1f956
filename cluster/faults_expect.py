"""What an experiment expects, held against what was seen; and whether its faults bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from client.load_report import LoadReport
from client.status import Values
from client.submission import State, Submission
from cluster.faults_schedule import Expect
from cluster.faults_verdict import EXPECTATION, PROGRESS, Check
from cluster.faults_watch import Sample, number, percentiles
from store.testnet import Testnet


@dataclass(frozen=True, slots=True)
class Band:
    """A fault over time, in seconds of the run: whole up to `healing_s`, over at `ended_s`.
    `missed` are processes that never noticed it; `drawn`: it came from a table [[random]]."""

    kind: str
    text: str
    began_s: float
    ended_s: float
    evidence: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    drawn: bool = False
    healing_s: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a run. `began_ns` is when the load began, `duration_s` how long it lasted;
    `codes` are refusals by label, `counted` events by name."""

    testnet: Testnet
    began_ns: int
    duration_s: float
    submissions: Sequence[Submission]
    samples: list[Sample]
    bands: list[Band]
    first: dict[str, Values | None]
    last: dict[str, Values]
    load: LoadReport | None
    codes: dict[str, int]
    counted: dict[str, int]

    def times_s(self, state: State) -> list[float]:
        """When batches reached a state, in seconds of the run, in order."""
        reached = (one.reached_ns(state) for one in self.submissions)
        return sorted((at_ns - self.began_ns) / 1e9 for at_ns in reached if at_ns)


def check_expectations(expects: list[Expect], seen: Seen) -> list[Check]:
    """A check for each expectation."""
    looks = {
        "progress": _progress, "standstill": _standstill, "recovers": _recovers,
        "latency": _latency, "lag": _lag, "code": _code, "status": _status, "counted": _counted,
        "solvent": _solvent, "frozen": _frozen,
    }  # fmt: skip
    return [looks[one.what](one, seen) for one in expects]


def check_faults(bands: list[Band], skipped: int = 0) -> list[Check]:
    """A check for each fault: an experiment whose fault never hit proves nothing. Of those drawn at
    random, some may have found nothing to hit, yet not most; `skipped` ones found nobody, and were
    not ordered."""
    checks = []
    drawn = [band for band in bands if band.drawn]
    if drawn or skipped:
        hit = sum(1 for band in drawn if band.evidence)
        text = f"{hit} of {len(drawn)} did" + (f", {skipped} found nobody" if skipped else "")
        checks.append(Check(EXPECTATION, "faults at random bit", 2 * hit > len(drawn), text))
    for band in bands:
        if band.drawn and not band.evidence:
            continue
        if band.evidence:
            told = "; ".join(f"{name}: {text}" for name, text in sorted(band.evidence.items()))
            partly = f"; not noticed by {', '.join(band.missed)}" if band.missed else ""
            checks.append(Check(EXPECTATION, f"it bit: {band.text}", True, told + partly))
        else:
            checks.append(Check(EXPECTATION, f"it bit: {band.text}", False, "nothing shows it"))
    return checks


def check_done(seen: Seen) -> Check:
    """Everything that was accepted is executed and settled in the end."""
    sent = [one for one in seen.submissions if one.submitted_ns]
    accepted = [one for one in sent if one.accepted_ns]
    executed = [one for one in accepted if one.executed_ns]
    settled = [one for one in executed if one.settled_ns]
    text = (
        f"of {len(sent):,} batches {len(accepted):,} were accepted, {len(executed):,} executed, "
        f"{len(settled):,} settled"
    )
    return Check(PROGRESS, "all is settled in the end", 0 < len(accepted) == len(settled), text)


def _progress(expect: Expect, seen: Seen) -> Check:
    times = [0.0, *seen.times_s(expect.state)]
    if len(seen.times_s(expect.state)) == 0 or times[-1] < seen.duration_s:
        times.append(seen.duration_s)
    gaps = [
        (after - before, before) for before, after in pairwise(times) if before < seen.duration_s
    ]
    longest, at_s = max(gaps)
    text = f"{expect.state} stood still for {longest:.1f} s at most (at {at_s:.1f} s)"
    ok = longest <= expect.within_s
    return Check(PROGRESS, f"{expect.state} at least every {expect.within_s:g} s", ok, text)


def _standstill(expect: Expect, seen: Seen) -> Check:
    times = seen.times_s(expect.state)
    name = f"nothing is {expect.state} while it lasts"
    windows = [
        (band.began_s + expect.within_s, band.ended_s if band.healing_s is None else band.healing_s)
        for band in seen.bands
    ]
    windows = [(begin, end) for begin, end in windows if end > begin]
    if not windows:
        return Check(EXPECTATION, name, False, "no fault lasted long enough to tell")
    inside = sum(1 for at_s in times for begin, end in windows if begin <= at_s <= end)
    lasted = sum(end - begin for begin, end in windows)
    text = f"{inside} batches became {expect.state} in {lasted:.1f} s of faults"
    return Check(EXPECTATION, name, inside == 0, text)


def _recovers(expect: Expect, seen: Seen) -> Check:
    healed_s = max((band.ended_s for band in seen.bands), default=0.0)
    sent = [one for one in seen.submissions if one.submitted_ns and one.error is None]
    missing = sum(1 for one in sent if not one.reached_ns(expect.state))
    times = [at_s for at_s in seen.times_s(expect.state) if at_s > healed_s]
    name = f"goes on within {expect.within_s:g} s after the last fault"
    if missing or not (times or sent):
        text = f"{missing:,} of {len(sent):,} batches never became {expect.state}"
        return Check(PROGRESS, name, False, text)
    first_s = times[0] - healed_s if times else 0.0
    text = f"{expect.state} again after {first_s:.1f} s, and nothing is left"
    return Check(PROGRESS, name, first_s <= expect.within_s, text)


def _latency(expect: Expect, seen: Seen) -> Check:
    found = [one.latency_ms(expect.state) for one in seen.submissions if one.submitted_ns
             and one.reached_ns(expect.state)]  # fmt: skip
    p50, p99 = percentiles(found)
    name = f"99 of 100 are {expect.state} within {expect.within_s:g} s"
    text = f"median {p50:,.0f} ms, 99th percentile {p99:,.0f} ms of {len(found):,} batches"
    return Check(EXPECTATION, name, bool(found) and p99 <= expect.within_s * 1000, text)


def _lag(expect: Expect, seen: Seen) -> Check:
    lags = [one.lag for one in seen.samples if one.lag is not None]
    name = f"settlement lag reaches {expect.at_least} blocks and falls again"
    if not lags:
        return Check(EXPECTATION, name, False, "nobody told the lag")
    text = f"{max(lags):,} ordered blocks waited at most, {lags[-1]:,} at the end"
    return Check(EXPECTATION, name, max(lags) >= expect.at_least > lags[-1], text)


def _code(expect: Expect, seen: Seen) -> Check:
    count = seen.codes.get(expect.name, 0)
    if seen.load is not None:
        count += seen.load.errors.get(expect.name, 0)
    text = f"{count:,} times"
    name = f"{expect.name} is answered {expect.at_least:,} times at least"
    return Check(EXPECTATION, name, count >= expect.at_least, text)


def _status(expect: Expect, seen: Seen) -> Check:
    grown = 0
    for entry in seen.testnet.processes:
        if expect.role in (entry.role, entry.name) and entry.name in seen.last:
            before = number(seen.first.get(entry.name) or {}, expect.name)
            now = number(seen.last[entry.name], expect.name)
            # A process that started again counts from 0.
            grown += now - before if now >= before else now
    name = f"{expect.name} of {expect.role} grows by {expect.at_least:,}"
    return Check(EXPECTATION, name, grown >= expect.at_least, f"by {grown:,}")


def _counted(expect: Expect, seen: Seen) -> Check:
    count = seen.counted.get(expect.name, 0)
    if not expect.at_least:
        return Check(EXPECTATION, f"no event {expect.name}", not count, f"{count:,} of them")
    name = f"{expect.at_least:,} events {expect.name}"
    return Check(EXPECTATION, name, count >= expect.at_least, f"{count:,} of them")


def _solvent(expect: Expect, seen: Seen) -> Check:
    del expect
    worst = max((one.bad_debt_uusd for one in seen.samples), default=0)
    text = f"{worst / 1_000_000:,.2f} dollars at most"
    return Check(EXPECTATION, "no bad debt", bool(seen.samples) and worst == 0, text)


def _frozen(expect: Expect, seen: Seen) -> Check:
    del expect
    told = [seen.last.get(entry.name, {}).get("frozen") for entry in seen.testnet.of_role("node")]
    text = f"{told.count('yes')} of {len(told)} validators say so"
    return Check(EXPECTATION, "the shard is frozen in the end", set(told) == {"yes"}, text)
