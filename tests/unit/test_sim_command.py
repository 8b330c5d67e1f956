"""`trilemma sim`: dealing seeds, exit statuses, replay, what is printed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster import sim_command
from protocol.errors import Code, ConfigError
from sim.kernel import Kernel
from sim.runner import Outcome, Report, Scenario

app = typer.Typer()
app.callback()(lambda: None)
sim_command.register(app)
runner = CliRunner()


def made(name: str, judge: Callable[[Outcome], None], bites: tuple[str, ...] = ()) -> Scenario:
    def run(seed: int, size: int, keep_trace: int) -> Outcome:
        outcome = Outcome(name, seed, size, trace_hash=f"{seed:032x}", virtual_us=3_600_000_000)
        outcome.bit = {"lost": seed, "replica_votes": 5}
        judge(outcome)
        return outcome

    return Scenario(name, f"about {name}", run, bites)


def broken(outcome: Outcome) -> None:
    if outcome.seed == 3:
        outcome.violation = "agreement: two blocks"


def stuck(outcome: Outcome) -> None:
    if outcome.seed == 2:
        outcome.stalled = "no progress"


def sound(outcome: Outcome) -> None:
    return None


def traced(outcome: Outcome) -> None:
    outcome.lines = [
        "1 long ago\n",
        f"1500000 commit {('validator-0', 7, bytes([0xAB]) * 32)!r}\n",
        "2000000 healed ()\n",
        "2000001 dispute ('prover-0', None, 'a b')\n",
    ]


MADE = {
    one.name: one
    for one in (
        made("broken", broken), made("stuck", stuck), made("sound", sound, ("lost",)),
        made("blunt", sound, ("lost", "torn")),
    )
}  # fmt: skip


@pytest.fixture(autouse=True)
def scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_command, "all_scenarios", lambda: MADE)


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = runner.invoke(app, ["sim", "--jobs", "1", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_sound_seeds_exit_with_zero_and_a_table() -> None:
    status, out, _ = invoke("--scenario", "sound", "--seeds", "25", "--validators", "7")
    assert status == 0
    assert "25 runs, 7 validators" in out
    assert "25.00" in out, "virtual hours"
    assert "lost 325" in out
    assert "replica_votes" not in out


def test_a_violation_exits_with_five_and_says_how_to_replay_it() -> None:
    status, out, err = invoke("--scenario", "broken", "--seeds", "12")
    assert status == 5
    for text in (out, err):
        assert "violation in scenario broken, seed 3: agreement: two blocks" in text
        assert "trilemma sim --scenario broken --validators 4 --replay 3" in text


def test_lack_of_progress_exits_with_four() -> None:
    status, out, _ = invoke("--scenario", "stuck", "--seeds", "5")
    assert status == 4
    assert "no progress in scenario stuck, seed 2" in out


def test_a_fault_that_never_happened_fails_a_run_of_enough_seeds() -> None:
    status, out, _ = invoke("--scenario", "blunt", "--seeds", "20")
    assert status == 1
    assert "never happened: torn" in out
    assert invoke("--scenario", "blunt", "--seeds", "19")[0] == 0


def test_a_replay_shows_one_seed_and_takes_its_status() -> None:
    status, out, _ = invoke("--scenario", "broken", "--replay", "3")
    assert status == 5
    assert f"trace hash {3:032x}" in out
    assert invoke("--scenario", "broken", "--replay", "4")[0] == 0


def test_a_replay_shows_what_happened_in_words_and_in_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sim_command, "all_scenarios", lambda: {"traced": made("traced", traced)})
    out = invoke("--scenario", "traced", "--replay", "1", "--trace", "3")[1]
    assert out.splitlines()[:3] == [
        "    1.500000  commit      validator-0  7  abababababab…",
        "    2.000000  healed",
        "    2.000001  dispute     prover-0  a b",
    ]
    for lines, count in (("0", 0), ("4", 4), ("5", 4), ("60", 4)):
        more = invoke("--scenario", "traced", "--replay", "1", "--trace", lines)[1]
        assert more.splitlines().index("") == count, "all that there are, where fewer"
    shown = json.loads(invoke("--scenario", "traced", "--replay", "1", "--trace", "3", "--json")[1])
    assert shown["trace"] == [
        {"time_us": 1_500_000, "event": "commit", "values": ["validator-0", 7, "ab" * 32]},
        {"time_us": 2_000_000, "event": "healed", "values": []},
        {"time_us": 2_000_001, "event": "dispute", "values": ["prover-0", None, "a b"]},
    ]


def test_a_replay_reads_the_trace_of_a_kernel() -> None:
    kernel = Kernel(1, keep_trace=10)
    kernel.trace("x", 1, "it's", b"\x00'", None)
    kernel.trace("y")
    kernel.trace("z", Code.BUSY, "text")
    kernel.trace("z", object())  # type: ignore[arg-type]
    found = [sim_command._event(line)["values"] for line in kernel.lines]
    assert found[:3] == [[1, "it's", "0027", None], [], [int(Code.BUSY), "text"]]
    assert found[3][0].startswith("(<object object")


def test_json_holds_every_failure() -> None:
    _, out, _ = invoke("--scenario", "broken", "--seeds", "4", "--json")
    (entry,) = json.loads(out)["scenarios"]
    assert (entry["seeds"], entry["faults"]) == (4, {"lost": 10})
    assert [failure["seed"] for failure in entry["violations"]] == [3]
    assert entry["violations"][0]["replay"].endswith("--replay 3")


def test_the_list_names_every_scenario() -> None:
    status, out, _ = invoke("--scenario", "list")
    assert status == 0
    assert "broken  about broken" in out


def test_an_unknown_scenario_and_a_replay_of_many_are_refused() -> None:
    with pytest.raises(ConfigError, match="list"):
        sim_command.choose("nonsense")
    result = runner.invoke(app, ["sim", "--scenario", "consensus", "--replay", "1"])
    assert isinstance(result.exception, ConfigError)


def test_seeds_are_dealt_evenly_and_in_chunks() -> None:
    dealt = list(sim_command.tasks(list(MADE.values()), 50, 4, 100))
    counts: dict[str, list[int]] = {}
    for name, first, count, _ in dealt:
        counts.setdefault(name, []).extend(range(first, first + count))
    assert [len(seeds) for seeds in counts.values()] == [13, 13, 12, 12]
    assert all(seeds == list(range(100, 100 + len(seeds))) for seeds in counts.values())
    assert max(count for _, _, count, _ in dealt) <= sim_command.CHUNK


def test_scenarios_that_get_no_seed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_command, "choose", lambda _: list(MADE.values()))
    _, out, err = invoke("--seeds", "2", "--json")
    assert "2 seeds for 4 scenarios; only these are run: broken, stuck\n" in err
    assert [entry["scenario"] for entry in json.loads(out)["scenarios"]] == ["broken", "stuck"]
    assert "only these" not in invoke("--seeds", "4")[2]


WORKER_OF_A_PARENT = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from client.workers import begin_worker
context = multiprocessing.get_context("spawn")
pool = ProcessPoolExecutor(1, mp_context=context, initializer=begin_worker)
pool.submit(print, "begun", flush=True)
pool.submit(time.sleep, 300).result()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", WORKER_OF_A_PARENT],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout is not None and parent.stdout.readline() == b"begun\n"
        parent.send_signal(number)
        # The pipe closes when nobody is left who holds it.
        assert parent.communicate(timeout=60)[0] == b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_reports_of_chunks_add_up() -> None:
    total = Report("broken", "", ())
    for first in (1, 3):
        part = Report("broken", "", ())
        for seed in (first, first + 1):
            part.add(MADE["broken"].run(seed, 4, 0))
        total.merge(part)
    assert (total.seeds, total.bit["lost"], len(total.violations)) == (4, 10, 1)
    assert total.virtual_hours == 4
