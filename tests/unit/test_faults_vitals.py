"""Growth over a long run: slopes through restarts and noise, and latency's drift."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from random import Random

import msgspec
import pytest

from cluster.faults_report import Report
from cluster.faults_schedule import FaultSpec, load_experiment
from cluster.faults_soak import CLIENT, Vigil, judged, lasting, panels, soak_picture
from cluster.faults_trends import FLAT, GROWS, HOUR_S, UNDECIDED, slope, trend
from cluster.faults_vitals import RSS_LIMIT, WARM_S, Vitals, drift, growth, read_vitals, warm_s
from cluster.faults_watch import Sample
from cluster.testnet import TestnetOptions, create_testnet

MIB = 1 << 20
SOAK_FILE = Path(__file__).parents[2] / "faults" / "soak.toml"


def looks(per_hour: float, noise: float, seconds: int, seed: int = 1) -> list[Vitals]:
    """A process that starts again with another level every 600 s, and doubles within the first
    half minute of each life."""
    rng = Random(seed)
    found = []
    for at_s in range(0, seconds, 5):
        life, age_s = divmod(at_s, 600)
        level = 100 * MIB + 7 * MIB * life - (50 * MIB if age_s < 30 else 0)
        rss = level + per_hour * age_s / HOUR_S + rng.gauss(0, noise)
        found.append(Vitals("p-0", 100 + life, float(at_s), round(rss), 30, 4))
    return found


def sample_at(at_s: float) -> Sample:
    return Sample(
        at_s=at_s, counts={}, per_s={}, latency_ms={"executed": (5.0, 9.0)}, lag=0,
        bad_debt_uusd=0, ledger_height=1, ordered_height=1, down=[], active=[],
    )  # fmt: skip


def report_of(*samples: Sample) -> Report:
    return Report(
        name="soak", description="", row="", expected="", seed=1, processes={}, where="local",
        duration_s=3_600.0, took_s=0.0, status=0, checks=[], bands=[], moments=[],
        samples=[*samples], load=None, audit=None,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_a_slope_is_found_through_restarts_and_noise(seed: int) -> None:
    grown = growth("p-0", "prover", looks(200 * MIB, MIB, 3_600, seed))
    assert (grown.starts, grown.lives) == (6, 6)
    assert abs(grown.rss.whole.per_hour - 200 * MIB) <= 2 * grown.rss.whole.bound
    assert grown.rss.verdict(RSS_LIMIT) == grown.verdict == GROWS
    flat = growth("p-0", "prover", looks(0, MIB, 3_600, seed))
    assert abs(flat.rss.whole.per_hour) <= 2 * flat.rss.whole.bound and flat.verdict == FLAT
    assert flat.descriptor.whole.per_hour == 0 and flat.rss_most_bytes > flat.rss_bytes


def test_noise_that_hangs_together_widens_the_bound() -> None:
    rng = Random(1)
    level, steps, apart = 0.0, [], []
    for at_s in range(0, 600, 5):
        level = 0.95 * level + rng.gauss(0, 1)
        steps.append((float(at_s), level))
        apart.append((float(at_s), rng.gauss(0, 3.2)))
    assert slope([steps]).bound > 2 * slope([apart]).bound


def test_a_session_more_is_no_leak_and_one_a_minute_is() -> None:
    def held(count: int, at_s: int) -> Vitals:
        return Vitals("p-0", 1, float(at_s), 90 * MIB, count, 4)

    step = [held(34 if at_s < 300 else 36, at_s) for at_s in range(0, 3_600, 5)]
    assert growth("p-0", "prover", step).verdict == FLAT
    leak = [held(34 + at_s // 60, at_s) for at_s in range(0, 3_600, 5)]
    assert growth("p-0", "prover", leak).verdict == GROWS


def test_followers_of_another_that_come_at_once_are_no_leak() -> None:
    def held(at_s: int) -> Vitals:
        count = 33 if at_s < 900 else 42
        return Vitals("p-0", 1, float(at_s), 90 * MIB, count + at_s // 5 % 2, 4)

    grown = growth("p-0", "validator", [held(at_s) for at_s in range(0, 3_600, 5)])
    assert grown.verdict == FLAT and abs(grown.descriptor.earlier.per_hour) < 3
    assert grown.descriptor.whole.jumps == pytest.approx(9, abs=1)


def test_a_short_run_decides_nothing() -> None:
    short = growth("p-0", "prover", looks(0, 20 * MIB, 120))
    assert short.verdict == UNDECIDED
    none = growth("p-0", "prover", looks(0, MIB, int(WARM_S) // 2))
    assert none.lives == 0 and none.rss.whole.bound < 0 and none.verdict == UNDECIDED
    still = growth("p-0", "prover", looks(0, 0, 300))
    assert still.verdict == UNDECIDED, "a leak takes whole arenas, so that minutes show none of it"
    assert slope([]).bound < 0 and trend([], 1.0).verdict(1.0) == UNDECIDED


def test_this_process_can_be_looked_at_and_one_that_is_gone_cannot() -> None:
    one = read_vitals("me", os.getpid(), 1.0)
    assert one is not None and one.rss_bytes > MIB
    assert one.descriptors >= 3 and one.threads >= 1
    with socket.socket():
        more = read_vitals("me", os.getpid(), 2.0)
    assert more is not None and more.sockets == one.sockets + 1
    assert read_vitals("nobody", 1 << 30, 1.0) is None


def test_drift_compares_the_first_quarter_with_the_last() -> None:
    seen = [(float(at_s), 10.0 if at_s < 300 else 30.0, 50.0) for at_s in range(600)]
    found = drift(seen, 600)
    assert (found.first_p50, found.last_p50, found.first_p99, found.ratio) == (10, 30, 50, 3)
    assert drift([], 600).ratio == float("inf")
    stopped = [look for look in seen if look[0] < 300]
    assert drift(stopped, 600).ratio == float("inf"), "nothing in the last quarter is no speed"


def test_a_soak_lasts_as_long_as_it_is_told_with_the_same_faults_a_minute() -> None:
    hour = load_experiment(SOAK_FILE)
    assert hour.about.duration_s == HOUR_S
    ten = lasting(hour, 10, 50)
    assert ten.about.duration_s == 600 and (ten.load.rate, ten.load.share) == (50, 0)
    assert [one.every_s for one in ten.random] == [one.every_s for one in hour.random]
    assert [one.until_s * 6 for one in ten.random] == [one.until_s for one in hour.random]
    assert ten.short() == ten
    assert lasting(hour, 60, None) == hour, "and it takes half of what the cluster takes"
    for minutes in (10, 60, 180):
        early, often, _ = lasting(hour, minutes, None).random
        assert early.until_s == often.from_s == 20 * minutes, "one follows the other"


def test_restarts_leave_every_process_time_to_show_what_it_grows_by() -> None:
    hour = load_experiment(SOAK_FILE)
    warmth_s = warm_s(HOUR_S)
    assert warmth_s == 1_200 == warm_s(60) and warm_s(2 * HOUR_S) == 2_400
    early, often, _ = hour.random
    assert early.until_s + warmth_s < HOUR_S, "all that restart early live long enough afterwards"
    assert {"random:validator", "prover-0"}.isdisjoint(often.targets), "one of each role at most"
    life = [
        Vitals("p-0", 1, float(at_s), min(at_s, 2_400) * MIB, 9, 4) for at_s in range(0, 3_600, 5)
    ]
    assert growth("p-0", "prover", life, warmth_s).verdict == FLAT, "a window that was filled"
    assert growth("p-0", "prover", life).verdict != FLAT


def test_a_run_shorter_than_caches_take_to_fill_does_not_tell_of_memory() -> None:
    filling = [Vitals("p-0", 1, float(at_s), at_s * MIB, 9, 4) for at_s in range(0, 900, 5)]
    grown = growth("p-0", "prover", filling, warm_s(900))
    assert grown.lives == 0 and grown.verdict == UNDECIDED


def test_descriptors_are_told_of_lives_too_short_to_tell_of_memory() -> None:
    experiment = load_experiment(SOAK_FILE)
    leak = [Vitals("p-0", 1, float(at_s), MIB, at_s // 5, 4) for at_s in range(0, 900, 5)]
    grown = growth("p-0", "prover", leak, warm_s(HOUR_S))
    assert grown.lives == 0 and grown.verdict == GROWS
    row = judged(experiment, report_of(), [grown]).lines()[2]
    assert re.search(r" \? .* \+720\.0 ± ", row), row


def often(per_hour: float, starts: int = 14, seed: int = 3) -> list[Vitals]:
    """A process that lives for 300 s, gathers 60 MiB meanwhile, and starts with more each time."""
    rng = Random(seed)
    found = []
    for at_s in range(0, 300 * starts, 5):
        life, age_s = divmod(at_s, 300)
        level = 100 * MIB + per_hour * life * 300 / HOUR_S + MIB * age_s * 60 // 300
        found.append(Vitals("p-0", 100 + life, float(at_s), round(rng.gauss(level, MIB)), 30, 4))
    return found


def test_one_restarted_too_often_is_judged_from_start_to_start() -> None:
    warmth_s = warm_s(HOUR_S)
    flat = growth("p-0", "prover", often(0), warmth_s)
    assert flat.lives == 0 and flat.verdict == FLAT
    row = judged(load_experiment(SOAK_FILE), report_of(), [flat]).lines()[2]
    assert re.search(r" [+-]\d+\.\d ± \d+\.\d +starts alone +\? ", row), row
    assert growth("p-0", "prover", often(60 * MIB), warmth_s).verdict == GROWS
    assert growth("p-0", "prover", often(0, starts=6), warmth_s).verdict == UNDECIDED


def test_the_table_shows_both_halves_and_what_jumps_added() -> None:
    seen = [
        Vitals(
            "p-0", 1, float(at_s), min(at_s, 1_830) * MIB // 36 + 9 * MIB * (at_s >= 3_000), 9, 4
        )
        for at_s in range(0, 3_600, 5)
    ]
    grown = growth("p-0", "prover", seen)
    head, row = judged(load_experiment(SOAK_FILE), report_of(), [grown]).lines()[1:3]
    assert re.search(r"MiB an hour +by halves +jumps .* fds an hour +by halves +threads", head)
    assert re.search(r" \+\d+\.\d ± \d+\.\d +\+100\.0 \+0\.0 +\+9\.\d .* undecided$", row), row


def test_what_grows_and_what_was_too_short_are_told_apart() -> None:
    short = growth("p-1", "prover", looks(0, MIB, 30))
    grown = growth("p-0", "prover", looks(200 * MIB, MIB, 3_600))
    report = report_of(sample_at(10.0), sample_at(3_500.0))
    found = judged(lasting(load_experiment(SOAK_FILE), 60, None), report, [grown, short])
    assert found.lines()[-1] == "p-0 grows; 1 of 2 processes are undecided"


def test_the_picture_draws_every_process() -> None:
    picture = soak_picture(looks(0, MIB, 600))
    assert picture.count("<polyline") > 3 and "p-0" in picture
    assert "too short" in soak_picture(looks(0, MIB, 5))


def test_the_client_that_keeps_all_does_not_flatten_the_memory_of_the_others() -> None:
    client = [msgspec.structs.replace(one, name=CLIENT) for one in looks(4_000 * MIB, 0, 60)]
    _, shown = panels([*looks(0, MIB, 60), *client])
    names = {title: [curve.name for curve in curves] for title, curves in shown}
    assert names["memory, MiB"] == ["p-0"]
    assert names["memory of the client, MiB"] == [CLIENT]
    assert names["threads"] == names["open descriptors"] == ["p-0", CLIENT]


def test_a_process_that_grows_fails_a_soak_and_the_client_may() -> None:
    experiment = lasting(load_experiment(SOAK_FILE), 60, None)
    grown = growth("p-0", "prover", looks(200 * MIB, MIB, 3_600))
    sample = sample_at(10.0)
    late = msgspec.structs.replace(sample, at_s=3_500.0, latency_ms={"executed": (8.0, 9.0)})
    report = report_of(sample, sample_at(3_500.0))
    assert judged(experiment, report, [grown]).trouble == ["p-0 grows"]
    client = msgspec.structs.replace(grown, role=CLIENT)
    assert judged(experiment, report, [client]).status == 0
    slow = msgspec.structs.replace(report, samples=[sample, late])
    found = judged(experiment, slow, [])
    assert found.status == 1 and "1.60 times" in found.trouble[0]
    lines = judged(experiment, report, [grown]).lines()
    assert any("p-0" in line and "grows" in line for line in lines)


def test_a_process_that_could_never_be_looked_at_fails_a_soak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system tells nothing of its processes: nothing would be shown to grow."""
    experiment = lasting(load_experiment(SOAK_FILE), 60, None)
    options = TestnetOptions(validators=1, traders=0, free_ports=True)
    vigil = Vigil(create_testnet(tmp_path / "net", options))
    monkeypatch.setattr("cluster.faults_soak.read_vitals", lambda *_: None)
    vigil.look(1.0)
    assert vigil.growths(60.0) == [] and vigil.unseen()[-1] == CLIENT
    report = report_of(sample_at(10.0), sample_at(3_500.0))
    assert judged(experiment, report, []).status == 0
    found = judged(experiment, report, vigil.growths(60.0), vigil.unseen())
    assert found.status == 1 and found.trouble[0] == "validator-0 could never be looked at"


def test_a_shorter_soak_leaves_out_what_would_come_after_it() -> None:
    hour = load_experiment(SOAK_FILE)
    planned = [FaultSpec("kill", at_s, 8.0, ["prover-0"]) for at_s in (30.0, 900.0)]
    ten = lasting(msgspec.structs.replace(hour, faults=planned), 10, None)
    assert [one.at_s for one in ten.faults] == [30.0]
