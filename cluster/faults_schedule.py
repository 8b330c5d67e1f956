"""Experiments as TOML files: what is run, broken and expected; read strictly.

A file has ``[experiment]``, and may have ``[testnet]``, ``[load]``, ``[oracle]``, ``[[fault]]``,
``[[random]]`` and ``[[expect]]``; docs/faults.md describes them. The same file, testnet and seed
give the same faults.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec

from cluster.faults_kinds import Values, complete, kind_of
from cluster.faults_shapes import choose
from protocol.errors import ConfigError

ROLE_WORDS = ("validator", "sequencer", "execution", "prover", "challenger")
LED = ("validator", "sequencer")
"""Roles of which one leads at a time."""

DURATION_MAX_S = 24 * 3_600.0
FAULTS_MAX = 10_000
_PLACES = ("at_s", "for_s", "kind", "targets")


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`row` is what of the failure model it shows, `expected` what a user should see. The load
    lasts `duration_s` (`short_s` in the short form); recovery may take `recover_s`."""

    name: str
    description: str
    expected: str
    duration_s: float
    row: str = ""
    short_s: float = 0.0
    recover_s: float = 60.0
    seed: int = 1


class Sizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The testnet that a fresh run makes, as `trilemma init` has it; `clock_s` is how long each
    side of a dispute has."""

    validators: int = 4
    sequencers: int = 1
    executions: int = 1
    provers: int = 1
    challengers: int = 0
    window_s: float = 1.0
    clock_s: float = 30.0
    oracle_age_s: int = 0
    forced_s: float = 0.0


class LoadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Actions a second, in batches of `batch`, by so many accounts. `share`: of what the cluster
    takes, measured just before the run, instead of `rate`."""

    rate: int = 200
    share: float = 0.0
    batch: int = 5
    accounts: int = 8


class OracleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price source that reports every `every_s`; `volatility` is percent a day of its walk."""

    every_s: float = 0.5
    volatility: float = 20.0


class FaultSpec(msgspec.Struct, frozen=True):
    """A fault from `at_s` on, for `for_s` seconds (0: until the end). `drawn`: at random."""

    kind: str
    at_s: float
    for_s: float = 0.0
    targets: list[str] = []
    values: dict[str, Any] = {}
    drawn: bool = False


class RandomSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault of one of `kinds` about every `every_s`, each for up to `for_s`, at one of `targets`,
    drawn anew each time, from `from_s` to `until_s` (0: the end). `parameters` by kind."""

    kinds: list[str]
    targets: list[str]
    every_s: float = 5.0
    for_s: float = 3.0
    from_s: float = 2.0
    until_s: float = 0.0
    parameters: dict[str, dict[str, Any]] = {}


State = Literal["accepted", "ordered", "executed", "settled", "final"]


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is expected.

    ``progress``: `state` never stands still for longer than `within_s`. ``standstill``: `state`
    does stand still while faults last, from `within_s` after their begin on. ``recovers``: all is
    final `within_s` after the last fault. ``latency``: the 99th percentile to `state` is at most
    `within_s`. ``lag``: settlement lag reaches `at_least` blocks, and falls below it again.
    ``code``: so many refusals with `name`. ``status``: the sum of `name` over the processes of
    `role` grows by `at_least`. ``counted``: so many events of `name` in the event stream, none
    where `at_least` is 0. ``solvent``: no bad debt is ever open. ``frozen``: in the end the shard
    is frozen, by every validator's account, so that not everything is settled.
    """

    what: Literal[
        "progress",
        "standstill",
        "recovers",
        "latency",
        "lag",
        "code",
        "status",
        "counted",
        "solvent",
        "frozen",
    ]
    state: State = "executed"
    within_s: float = 0.0
    at_least: int = 1
    name: str = ""
    role: str = ""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A file, read."""

    about: About
    testnet: Sizes = Sizes()
    load: LoadSpec = LoadSpec()
    oracle: OracleSpec | None = None
    faults: list[FaultSpec] = []
    random: list[RandomSpec] = []
    expects: list[Expect] = []

    def short(self) -> Experiment:
        """The same in less time: the times of its faults shrink, its bounds do not."""
        about = self.about
        if not 0 < about.short_s < about.duration_s:
            return self
        ratio = about.short_s / about.duration_s

        def scaled(one: FaultSpec) -> FaultSpec:
            return msgspec.structs.replace(one, at_s=one.at_s * ratio, for_s=one.for_s * ratio)

        scattered = [
            msgspec.structs.replace(
                one, every_s=one.every_s * ratio, for_s=one.for_s * ratio,
                from_s=one.from_s * ratio, until_s=one.until_s * ratio,
            )
            for one in self.random
        ]  # fmt: skip
        return msgspec.structs.replace(
            self, about=msgspec.structs.replace(about, duration_s=about.short_s),
            faults=[scaled(one) for one in self.faults], random=scattered,
        )  # fmt: skip


class Step(msgspec.Struct, frozen=True):
    """A fault of an expanded schedule; `leaders` are roles whose leader of the moment is meant.
    `drawn`: it comes from a table [[random]]."""

    at_s: float
    until_s: float
    kind: str
    targets: list[str]
    leaders: list[str]
    values: Values
    drawn: bool = False


def load_experiment(path: Path) -> Experiment:
    """Read a file; raises `ConfigError` with the place and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    return parse_experiment(text, str(path))


def parse_experiment(text: str, where: str = "the experiment") -> Experiment:
    """Read an experiment; raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no TOML: {error}") from None
    place = _Place(where, text)
    tables = ("experiment", "testnet", "load", "oracle", "fault", "random", "expect")
    for table in raw:
        if table not in tables:
            raise ConfigError(f"{where}: unknown table [{table}]; there are {', '.join(tables)}")
    if "experiment" not in raw:
        raise ConfigError(f"{where} lacks the table [experiment]")
    oracle = place.convert(raw, "oracle", OracleSpec) if "oracle" in raw else None
    experiment = Experiment(
        about=place.convert(raw, "experiment", About),
        testnet=place.convert(raw, "testnet", Sizes),
        load=place.convert(raw, "load", LoadSpec),
        oracle=oracle,
        faults=[_fault(place, number, one) for number, one in place.each(raw, "fault")],
        random=[
            place.convert_one(f"[[random]] {number + 1}", "random", number, one, RandomSpec)
            for number, one in place.each(raw, "random")
        ],
        expects=[
            place.convert_one(f"[[expect]] {number + 1}", "expect", number, one, Expect)
            for number, one in place.each(raw, "expect")
        ],
    )
    _check(experiment, place)
    return experiment


class _Place:
    """Names places of a file in errors."""

    def __init__(self, where: str, text: str) -> None:
        self.where = where
        self._lines = text.splitlines()

    def convert(self, raw: dict[str, Any], table: str, wanted: type[Any]) -> Any:
        return self.convert_one(f"[{table}]", table, 0, raw.get(table, {}), wanted)

    def convert_one(
        self, named: str, table: str, number: int, value: object, wanted: type[Any]
    ) -> Any:
        try:
            return msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            raise self.error(named, table, number, str(error)) from None

    def each(self, raw: dict[str, Any], table: str) -> list[tuple[int, dict[str, Any]]]:
        found = raw.get(table, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ConfigError(f"{self.where}: write each {table} under [[{table}]]")
        return list(enumerate(found))

    def error(self, named: str, table: str, number: int, text: str) -> ConfigError:
        pattern = re.compile(rf"\s*\[\[?\s*{table}\s*\]\]?")
        lines = [line for line, told in enumerate(self._lines, 1) if pattern.match(told)]
        line = f" (line {lines[number]})" if number < len(lines) else ""
        return ConfigError(f"{self.where}: {named}{line}: {text}")


def _fault(place: _Place, number: int, raw: dict[str, Any]) -> FaultSpec:
    named = f"[[fault]] {number + 1}"
    given = {name: value for name, value in raw.items() if name not in _PLACES}
    known = {name: value for name, value in raw.items() if name in _PLACES}
    fault: FaultSpec = place.convert_one(named, "fault", number, known, FaultSpec)
    try:
        values = complete(fault.kind, given)
        _check_targets(fault.kind, fault.targets, values)
    except ConfigError as error:
        raise place.error(named, "fault", number, str(error)) from None
    return msgspec.structs.replace(fault, values=values)


def _check_targets(kind: str, targets: list[str], values: Values) -> None:
    if not kind_of(kind).targets:
        if targets:
            raise ConfigError(f"{kind} has no targets")
        return
    if kind == "partition" and bool(targets) == bool(values["groups"]):
        raise ConfigError("partition needs targets, to cut off from all others, or groups")
    if not targets and kind != "partition":
        raise ConfigError(f'{kind} needs targets, as ["random:validator"]')
    for target in targets:
        word, found, role = target.rpartition(":")
        if found and role not in ROLE_WORDS:
            raise ConfigError(f"{target!r} names no role; roles are {', '.join(ROLE_WORDS)}")
        if word == "leader" and role not in LED:
            raise ConfigError(f"{target!r}: only {' and '.join(LED)}s have a leader")
        if found and word != "leader":
            choose(["a"] * 100, word, Random(0))


def _check(experiment: Experiment, place: _Place) -> None:
    about = experiment.about
    if not 0 < about.duration_s <= DURATION_MAX_S or about.recover_s <= 0:
        raise place.error("[experiment]", "experiment", 0, "duration_s and recover_s are above 0")
    if not 0 <= experiment.load.share <= 1:
        raise place.error("[load]", "load", 0, "share is 0 (use rate) to 1 (all that it takes)")
    for number, fault in enumerate(experiment.faults):
        if not 0 <= fault.at_s < about.duration_s or fault.for_s < 0:
            raise place.error(
                f"[[fault]] {number + 1}", "fault", number,
                f"it begins at 0 to {about.duration_s:g} s, and lasts 0 (to the end) or more",
            )  # fmt: skip
    for number, scattered in enumerate(experiment.random):
        try:
            if not scattered.kinds or min(scattered.every_s, scattered.for_s) <= 0:
                raise ConfigError("name kinds; every_s and for_s are above 0")
            begin_s, end_s = scattered.from_s, scattered.until_s
            if not 0 <= begin_s < about.duration_s or (end_s and end_s <= begin_s):
                raise ConfigError(
                    f"from_s is 0 to {about.duration_s:g} s, and until_s is above it, or 0"
                )
            for kind in scattered.kinds:
                values = complete(kind, scattered.parameters.get(kind, {}))
                _check_targets(kind, scattered.targets if kind_of(kind).targets else [], values)
        except ConfigError as error:
            raise place.error(f"[[random]] {number + 1}", "random", number, str(error)) from None


def expand(experiment: Experiment, members: dict[str, list[str]], seed: int) -> list[Step]:
    """The faults of a run, in order of time; `members` are names by role word.

    Raises `ConfigError` where the testnet lacks a target.
    """
    rng = Random(seed)
    end_s = experiment.about.duration_s
    specs = list(experiment.faults)
    for scattered in experiment.random:
        at_s = scattered.from_s
        until_s = min(end_s, scattered.until_s) if scattered.until_s else end_s
        while at_s < until_s and len(specs) < FAULTS_MAX:
            kind = rng.choice(scattered.kinds)
            values = complete(kind, scattered.parameters.get(kind, {}))
            aimed = kind_of(kind).targets and scattered.targets
            targets = [rng.choice(scattered.targets)] if aimed else []
            lasts_s = scattered.for_s * (0.5 + 0.5 * rng.random())
            specs.append(FaultSpec(kind, round(at_s, 3), round(lasts_s, 3), targets, values, True))
            at_s += scattered.every_s * (0.5 + rng.random())
    steps = []
    for spec in specs:
        names, leaders = _resolve(spec.targets, members, rng)
        until_s = min(end_s, spec.at_s + spec.for_s) if spec.for_s else end_s
        steps.append(Step(spec.at_s, until_s, spec.kind, names, leaders, spec.values, spec.drawn))
    return sorted(steps, key=lambda step: step.at_s)


def _resolve(
    targets: list[str], members: dict[str, list[str]], rng: Random
) -> tuple[list[str], list[str]]:
    everybody = [name for names in members.values() for name in names]
    names: dict[str, None] = {}
    leaders = []
    for target in targets:
        word, found, role = target.rpartition(":")
        if word == "leader":
            leaders.append(role)
        elif found:
            if not members.get(role):
                raise ConfigError(f"the testnet has no {role}, which {target!r} wants")
            names.update(dict.fromkeys(choose(members[role], word, rng)))
        elif target in everybody:
            names[target] = None
        else:
            raise ConfigError(f"there is no process {target!r}; there are {', '.join(everybody)}")
    return list(names), leaders
