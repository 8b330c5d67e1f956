"""Kinds of faults that a schedule orders: their parameters, and what orders each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from cluster.faults_api import Nemesis
from cluster.faults_evidence import Fault
from cluster.faults_shapes import SHAPES
from protocol.errors import ConfigError

Value = int | float | str | bool | list[str] | list[list[str]]
Values = dict[str, Value]


class Surroundings(Protocol):
    """What a run has beside the testnet: a price source, more load, bad clients."""

    async def set_oracle(self, mode: str, values: Values) -> Fault:
        """Have the price source do something else until the fault ends."""

    async def spike(self, rate: int) -> Fault:
        """Send more load until the fault ends."""

    async def force(self, trader: str) -> Fault:
        """Have a trader act through the base layer, until the fault ends."""

    async def attack(self, names: list[str], what: str) -> Fault:
        """Send bad input to processes until the fault ends."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is ordered on."""

    nemesis: Nemesis
    around: Surroundings


Act = Callable[[Scene, list[str], Values], Awaitable[Fault]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: `parameters` with their defaults (their type where one must be given),
    whether it has `targets`, and what orders it."""

    act: Act
    parameters: dict[str, Value | type] = field(default_factory=dict)
    targets: bool = True


def _number(values: Values, name: str) -> int:
    value = values[name]
    if not isinstance(value, int):
        raise ConfigError(f"{name} is a whole number, not {value!r}")
    return value


def _text(values: Values, name: str) -> str:
    return str(values[name])


def _names(values: Values, name: str) -> list[str]:
    value = values[name]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{name} is a list of names, not {value!r}")
    return [str(one) for one in value]


def _one(names: list[str]) -> str:
    if len(names) != 1:
        raise ConfigError(f"one process at a time, not {', '.join(names)}")
    return names[0]


async def _partition(scene: Scene, names: list[str], values: Values) -> Fault:
    nemesis, groups = scene.nemesis, values["groups"]
    one_way = bool(values["one_way"])
    if not groups:
        # The targets against everybody else.
        rest = [name for name in nemesis.names if name not in names]
        return await nemesis.partition([names, rest], one_way=one_way)
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise ConfigError("groups is a list of lists of processes")
    return await nemesis.partition([list(group) for group in groups], one_way=one_way)


async def _byzantine(scene: Scene, names: list[str], values: Values) -> Fault:
    """A victim of censorship may be given by the name of a trader."""
    act, _, victim = _text(values, "mode").partition(":")
    nemesis = scene.nemesis
    if victim in nemesis.testnet.traders:
        victim = nemesis.testnet.key(victim).public.hex()
    return await nemesis.byzantine(f"{act}:{victim}" if victim else act, *names)


def _shaped(shape: str) -> Act:
    return lambda scene, names, values: scene.nemesis.partition_shape(shape, names)


def _oracle(mode: str) -> Act:
    return lambda scene, names, values: scene.around.set_oracle(mode, values)


KINDS: dict[str, Kind] = {
    "kill": Kind(lambda scene, names, values: scene.nemesis.kill(*names)),
    "stop": Kind(lambda scene, names, values: scene.nemesis.stop(*names)),
    "crash": Kind(lambda scene, names, values: scene.nemesis.crash(*names)),
    "restart": Kind(
        lambda scene, names, values: scene.nemesis.restart(
            *names, graceful=bool(values["graceful"])
        ),
        {"graceful": True},
    ),
    "pause": Kind(lambda scene, names, values: scene.nemesis.pause(*names)),
    "partition": Kind(_partition, {"groups": [], "one_way": False}),
    "delay": Kind(
        lambda scene, names, values: scene.nemesis.delay(
            *names, latency_ms=_number(values, "latency_ms"),
            jitter_ms=_number(values, "jitter_ms"), peers=_names(values, "peers"),
        ),
        {"latency_ms": 100, "jitter_ms": 0, "peers": []},
    ),
    "loss": Kind(
        lambda scene, names, values: scene.nemesis.loss(
            *names, loss_ppm=_number(values, "loss_ppm"), peers=_names(values, "peers")
        ),
        {"loss_ppm": 50_000, "peers": []},
    ),
    "bandwidth": Kind(
        lambda scene, names, values: scene.nemesis.bandwidth(
            *names, rate_kib_s=_number(values, "rate_kib_s"), peers=_names(values, "peers")
        ),
        {"rate_kib_s": 256, "peers": []},
    ),
    "reset": Kind(
        lambda scene, names, values: scene.nemesis.reset(
            *names, timeout_ms=_number(values, "timeout_ms"), peers=_names(values, "peers")
        ),
        {"timeout_ms": 200, "peers": []},
    ),
    "slicer": Kind(
        lambda scene, names, values: scene.nemesis.slicer(*names, size=_number(values, "bytes")),
        {"bytes": 512},
    ),
    "limit-data": Kind(
        lambda scene, names, values: scene.nemesis.limit_data(
            *names, size=_number(values, "bytes")
        ),
        {"bytes": 65_536},
    ),
    "clock": Kind(
        lambda scene, names, values: scene.nemesis.clock_skew(
            *names, skew_ms=_number(values, "skew_ms")
        ),
        {"skew_ms": 300},
    ),
    "clock-scrambler": Kind(
        lambda scene, names, values: scene.nemesis.clock_scrambler(
            *names, most_ms=_number(values, "most_ms")
        ),
        {"most_ms": 400},
    ),
    "slow-disk": Kind(
        lambda scene, names, values: scene.nemesis.slow_disk(
            *names, delay_ms=_number(values, "delay_ms")
        ),
        {"delay_ms": 50},
    ),
    "full-disk": Kind(lambda scene, names, values: scene.nemesis.full_disk(*names)),
    "read-only-disk": Kind(lambda scene, names, values: scene.nemesis.read_only_disk(*names)),
    "corrupt-file": Kind(
        lambda scene, names, values: scene.nemesis.corrupt_file(
            _one(names), path=_text(values, "path") or None, bits=_number(values, "bits")
        ),
        {"path": "", "bits": 8},
    ),
    "byzantine": Kind(_byzantine, {"mode": str}),
    "oracle-silence": Kind(_oracle("silent"), {}, targets=False),
    "oracle-wild": Kind(_oracle("wild"), {"move_ppm": 300_000}, targets=False),
    "oracle-drift": Kind(_oracle("drift"), {"move_ppm": 5_000}, targets=False),
    "load-spike": Kind(
        lambda scene, names, values: scene.around.spike(_number(values, "rate")),
        {"rate": 2_000},
        targets=False,
    ),
    "forced-action": Kind(
        lambda scene, names, values: scene.around.force(_text(values, "trader")),
        {"trader": str},
        targets=False,
    ),
    "bad-input": Kind(
        lambda scene, names, values: scene.around.attack(names, _text(values, "input")),
        {"input": "all"},
    ),
    # Jepsen's names for what is put together from the above.
    "hammer-time": Kind(lambda scene, names, values: scene.nemesis.pause(*names)),
    "kill-random": Kind(lambda scene, names, values: scene.nemesis.kill(*names)),
    **{name: Kind(_shaped(name)) for name in SHAPES},
}  # fmt: skip


def kind_of(name: str) -> Kind:
    """A kind by name; raises `ConfigError` that lists them."""
    found = KINDS.get(name)
    if found is None:
        raise ConfigError(f"there is no fault {name!r}; there are {', '.join(sorted(KINDS))}")
    return found


def complete(name: str, given: Values) -> Values:
    """The parameters of a fault with their defaults; raises `ConfigError`."""
    known = kind_of(name).parameters
    for parameter, value in given.items():
        if parameter not in known:
            raise ConfigError(
                f"{name} has no parameter {parameter!r}; it has {', '.join(known) or 'none'}"
            )
        default = known[parameter]
        wanted = default if isinstance(default, type) else type(default)
        if type(value) is not wanted:
            raise ConfigError(f"{name}: {parameter} is a {_words(wanted)}, not {value!r}")
    values: Values = {}
    for parameter, default in known.items():
        if parameter in given:
            values[parameter] = given[parameter]
        elif isinstance(default, type):
            raise ConfigError(f"{name} needs the parameter {parameter!r}")
        else:
            values[parameter] = default
    return values


def _words(wanted: type) -> str:
    words = {int: "whole number", str: "text", bool: "true or false", list: "list"}
    return words.get(wanted, wanted.__name__)


async def apply(scene: Scene, name: str, names: list[str], values: Values) -> Fault:
    """Order a fault."""
    return await kind_of(name).act(scene, names, values)
