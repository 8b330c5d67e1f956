"""Shapes of partitions and choices of victims, named as Jepsen's nemeses are.

Everything here is pure: the same names and the same generator give the same faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from protocol.errors import ConfigError

Blocked = dict[str, list[str]]
"""For each process the peers that nothing it sends reaches any more."""

SHAPES = ("partition-halves", "partition-one", "majorities-ring", "bridge")


def between(groups: Sequence[Sequence[str]], *, one_way: bool = False) -> Blocked:
    """Nothing passes between groups; `one_way`: only what the first group sends is lost."""
    _check_groups(groups)
    blocked: Blocked = {}
    for place, group in enumerate(groups):
        if one_way and place:
            break
        others = [name for other in groups if other is not group for name in other]
        for name in group:
            blocked[name] = others
    return blocked


def _check_groups(groups: Sequence[Sequence[str]]) -> None:
    if len(groups) < 2 or not all(groups):
        raise ConfigError("a partition is between two groups or more, with a process each")
    names = [name for group in groups for name in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{twice[0]} is in two groups of the partition")


def shape(name: str, members: Sequence[str], rng: Random) -> Blocked:
    """The blocked links of a named partition of these members; raises `ConfigError`.

    partition-halves: a random half from the rest. partition-one: a random one from the rest.
    majorities-ring: each sees a majority, and no two the same one. bridge: two halves, and one
    member that sees both.
    """
    if len(members) < 2 or (name in ("majorities-ring", "bridge") and len(members) < 3):
        raise ConfigError(f"{name} needs more members than {len(members)}")
    mixed = list(members)
    rng.shuffle(mixed)
    if name == "partition-halves":
        middle = len(mixed) // 2
        return between([mixed[:middle], mixed[middle:]])
    if name == "partition-one":
        return between([mixed[:1], mixed[1:]])
    if name == "bridge":
        rest = mixed[1:]
        middle = len(rest) // 2
        return between([rest[:middle], rest[middle:]])
    if name == "majorities-ring":
        return _ring(mixed)
    raise ConfigError(f"there is no partition {name!r}; there are {', '.join(SHAPES)}")


def _ring(mixed: list[str]) -> Blocked:
    count = len(mixed)
    reach = (count // 2 + 1) // 2
    blocked: Blocked = {}
    for place, name in enumerate(mixed):
        seen = {mixed[(place + step) % count] for step in range(-reach, reach + 1)}
        others = [other for other in mixed if other not in seen]
        if others:
            blocked[name] = others
    return blocked


def tolerated(count: int) -> int:
    """f: how many of `count` members may be faulty."""
    return (count - 1) // 3


def choose(members: Sequence[str], how: str, rng: Random) -> list[str]:
    """Members by a word: `all`, `random`, `random:N`, `minority` (f), `majority` (more than f),
    raises `ConfigError`."""
    word, _, number = how.partition(":")
    counts = {
        "all": len(members), "random": 1, "minority": tolerated(len(members)),
        "majority": tolerated(len(members)) + 1,
    }  # fmt: skip
    if word not in counts or (number and (word != "random" or not number.isdigit())):
        raise ConfigError(f"members are chosen by all, random, random:N, minority, majority: {how}")
    count = int(number) if number else counts[word]
    if not 0 <= count <= len(members):
        raise ConfigError(f"{how}: there are only {len(members)}")
    chosen = set(rng.sample(list(members), count))
    return [name for name in members if name in chosen]
