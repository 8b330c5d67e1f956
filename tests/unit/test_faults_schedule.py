"""Experiments as files: read strictly, expanded the same way from the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.faults_kinds import KINDS, Values, complete
from cluster.faults_run import fresh_options
from cluster.faults_schedule import expand, load_experiment, parse_experiment
from cluster.testnet import NAMES
from protocol.errors import ConfigError

FILES = sorted((Path(__file__).parents[2] / "faults").glob("*.toml"))
ROWS = (
    "up to f validators or sequencers crash, lie, stall",
    "more than f down",
    "execution node killed",
    "wrong batch posted",
    "prover dead",
    "power loss at any instruction",
    "sequencers censor",
    "garbage, oversized, replayed, wrongly signed input",
    "price source stale or wild",
)
"""The failure model's."""

WHOLE = ("soak", "deadline-missed")
"""Have no short form: an hour, which `faults soak` cuts, and a deadline of the genesis."""

ABOUT = """
[experiment]
name = "x"
description = "d"
expected = "e"
duration_s = 20
short_s = 5
"""
MEMBERS = {
    "validator": [f"validator-{n}" for n in range(4)],
    "sequencer": ["sequencer-0"],
    "execution": ["execution-0", "execution-1"],
    "prover": ["prover-0"],
    "challenger": [],
}


def fault(*lines: str, at: str = "at_s = 1") -> str:
    return "\n".join([ABOUT, "[[fault]]", at, *lines])


def scattered(line: str) -> str:
    return f"{ABOUT}\n[[random]]\nkinds = ['kill']\ntargets = ['prover-0']\n{line}\n"


def test_every_row_of_the_failure_model_has_an_experiment() -> None:
    rows = {load_experiment(path).about.row for path in FILES}
    assert set(ROWS) <= rows


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_experiments_of_the_project_are_right(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.about.name == path.stem
    assert experiment.expects and (experiment.faults or experiment.random)
    options = fresh_options(experiment)
    members = {
        NAMES[role]: [f"{NAMES[role]}-{number}" for number in range(count)]
        for role, count in options.counts().items()
    }
    assert expand(experiment, members, 1)
    if path.stem in WHOLE:
        assert experiment.short() == experiment
        return
    short = experiment.short()
    assert short.about.duration_s == experiment.about.short_s <= 15
    assert len(short.faults) == len(experiment.faults)
    assert all(one.at_s < short.about.duration_s for one in short.faults)


def test_the_page_lists_every_experiment() -> None:
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    for path in FILES:
        about = load_experiment(path).about
        assert f"| `{about.name}` | {about.row} | {about.description} |" in page


def test_the_same_seed_gives_the_same_faults() -> None:
    text = (
        f"{ABOUT}\n[[random]]\nkinds = ['kill', 'pause', 'delay']\nevery_s = 1.0\n"
        "targets = ['random:validator', 'all:execution']\n"
    )
    experiment = parse_experiment(text)
    first, again = (expand(experiment, MEMBERS, 7) for _ in range(2))
    assert first == again and len(first) > 8
    assert {step.kind for step in first} == {"kill", "pause", "delay"}
    assert expand(experiment, MEMBERS, 8) != first
    assert [step.at_s for step in first] == sorted(step.at_s for step in first)
    assert all(step.until_s <= 20 for step in first)


def test_several_tables_draw_each_in_its_own_time() -> None:
    text = (
        f"{ABOUT}\n[[random]]\nkinds = ['kill']\nevery_s = 1.0\nuntil_s = 6\n"
        "targets = ['random:validator']\n"
        "[[random]]\nkinds = ['pause']\nevery_s = 1.0\nfrom_s = 10\ntargets = ['prover-0']\n"
    )
    steps = expand(parse_experiment(text), MEMBERS, 3)
    assert max(step.at_s for step in steps if step.kind == "kill") < 6
    pauses = [step for step in steps if step.kind == "pause"]
    assert min(step.at_s for step in pauses) == 10 and len(pauses) > 4
    assert {name for step in pauses for name in step.targets} == {"prover-0"}


@pytest.mark.parametrize(
    ("target", "count"),
    [("all:validator", 4), ("random:validator", 1), ("random:3:validator", 3),
     ("minority:validator", 1), ("majority:validator", 2), ("validator-2", 1)],
)  # fmt: skip
def test_targets_are_chosen_by_words(target: str, count: int) -> None:
    experiment = parse_experiment(fault('kind = "kill"', f'targets = ["{target}"]'))
    (step,) = expand(experiment, MEMBERS, 3)
    assert len(step.targets) == count and set(step.targets) <= set(MEMBERS["validator"])
    assert (step.at_s, step.until_s) == (1, 20)


def test_a_leader_is_found_when_the_fault_begins() -> None:
    experiment = parse_experiment(fault('kind = "kill"', 'targets = ["leader:validator"]'))
    (step,) = expand(experiment, MEMBERS, 3)
    assert (step.targets, step.leaders) == ([], ["validator"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the table"),
        ("[experiment", "is no TOML"),
        (f"{ABOUT}\n[extra]\na = 1", r"unknown table \[extra\]"),
        (f"{ABOUT}\n[load]\nrate = 'fast'", r"\[load\] \(line 9\).*int"),
        (f"{ABOUT}\n[load]\nspeed = 1", "unknown field `speed`"),
        (fault('kind = "explode"', 'targets = ["a"]'), "no fault 'explode'; there are .*kill"),
        (fault('kind = "kill"'), "kill needs targets"),
        (fault('kind = "kill"', 'targets = ["all:cook"]'), "names no role"),
        (fault('kind = "kill"', 'targets = ["most:validator"]'), "are chosen by"),
        (fault('kind = "delay"', 'targets = ["a"]', "ms = 5"), "no parameter 'ms'; .*latency_ms"),
        (fault('kind = "delay"', 'targets = ["a"]', "latency_ms = true"), "whole number, not True"),
        (fault('kind = "byzantine"', 'targets = ["a"]'), "needs the parameter 'mode'"),
        (fault('kind = "oracle-silence"', 'targets = ["a"]'), "has no targets"),
        (fault('kind = "kill"', 'targets = ["a"]', at="at_s = 30"), "begins at 0 to 20 s"),
        (f"{ABOUT}\n[[expect]]\nwhat = 'joy'", r"\[\[expect\]\] 1 \(line 9\)"),
        (f"{ABOUT}\n[load]\nshare = 1.5", "share is 0"),
        (f"{ABOUT}\n[[random]]\nkinds = ['boom']\ntargets = ['a']", "no fault 'boom'"),
        (fault('kind = "partition"'), "partition needs targets, .* or groups"),
        (fault('kind = "partition"', 'targets = ["a"]', 'groups = [["a"], ["b"]]'), "or groups"),
        (fault('kind = "kill"', 'targets = ["leader:prover"]'), "only validator and sequencers"),
        (scattered("from_s = 20"), r"\[\[random\]\] 1 \(line 9\).*from_s is 0 to 20 s"),
        (scattered("from_s = 9\nuntil_s = 9"), "until_s is above it"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_experiment(text)


def test_the_place_of_an_error_is_named() -> None:
    text = fault('kind = "kill"', 'targets = ["a"]') + "\n\n[[fault]]\nat_s = 1\nkind = 'kill'\n"
    line = text.splitlines().index("[[fault]]", 10) + 1
    with pytest.raises(ConfigError, match=rf"\[\[fault\]\] 2 \(line {line}\)"):
        parse_experiment(text)


def test_a_target_that_the_testnet_lacks() -> None:
    for target, said in (("validator-9", "no process"), ("all:challenger", "no challenger")):
        experiment = parse_experiment(fault('kind = "kill"', f'targets = ["{target}"]'))
        with pytest.raises(ConfigError, match=said):
            expand(experiment, MEMBERS, 1)


def test_defaults_complete_what_is_given() -> None:
    assert complete("delay", {"latency_ms": 7}) == {"latency_ms": 7, "jitter_ms": 0, "peers": []}
    for name, kind in KINDS.items():
        needed: Values = {
            p: "x" for p, default in kind.parameters.items() if isinstance(default, type)
        }
        assert set(complete(name, needed)) == set(kind.parameters)
