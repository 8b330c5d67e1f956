"""Processes that lie on purpose, to see that nobody believes them: `byzantine` in a process's
configuration names the lie, on testnets only.

A lying process is the honest one with some of its parts replaced; it signs with its own key. A
prover's lie may say how often it is told, as in mints-cash:1. The launcher runs it in the place of
the honest process (`main`); honest processes never import this.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import structlog

from net.runner import EXIT_USAGE, run_process
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from sim.lying_engines import LIES
from store.config import ProcessConfig, Role, load_config

AND = "+"
"""Between a lie and the manner in which it is defended."""

OTHER_DATA = "posts-other-data"
HIDES_ORDER = "hides-best-order"
LATE, GARBAGE, NOTHING = "answers-late", "answers-garbage", "answers-nothing"

MANNERS = {
    LATE: "answers disputes so late that its clock runs out",
    GARBAGE: "answers disputes with roots and witnesses of nothing",
    NOTHING: "answers no dispute at all",
}
"""How a prover plays; alone, or behind a lie: mints-cash+answers-garbage."""

_MODES: dict[Role, dict[str, str]] = {
    "node": {
        "equivocates": "proposes two blocks in a view, and votes for both",
        "garbage": "sends forged certificates, spoilt blocks and floods of rubbish",
        "silent": "sends nothing to other validators",
    },
    "sequencer": {
        "censors": "orders nothing that one signer sends: the first client it sees, "
        "or censors:KEY, the public key in hex",
        "equivocates": "proposes two blocks in a view, and votes for both",
        "false-prices": "passes on prices that no oracle has signed, beside all that it says",
    },
    "execution": {
        "lies": "tells of more cash than there is, in answers and in state diffs",
    },
    "prover": {
        **{name: f"settles batches as one that {kind.text}" for name, kind in LIES.items()},
        HIDES_ORDER: "settles batches as one that hides the best order from whoever takes, and "
        "shows witnesses without it",
        OTHER_DATA: "posts batches whose data is not what was ordered",
        **MANNERS,
    },
    "challenger": {
        "plays-to-lose": "disputes wrong batches before others do, and loses on purpose",
        "disputes-everything": "disputes every batch, and lets its clock run out",
    },
}

_PARTS: dict[Role, str] = {
    "node": "cluster.byzantine_node",
    "sequencer": "cluster.byzantine_sequencer",
    "execution": "cluster.byzantine_execution",
    "prover": "cluster.byzantine_prover",
    "challenger": "cluster.byzantine_challenger",
}

_log = structlog.get_logger()


def modes(role: Role) -> dict[str, str]:
    """What a process of a role can do: name, and what it does in a sentence."""
    return dict(_MODES[role])


def check_mode(role: Role, text: str) -> list[str]:
    """The names in the `byzantine` of a process; raises `ConfigError` for what is unknown."""
    names = text.split(AND)
    known = _MODES[role]
    for name in names:
        act, colon, detail = name.partition(":")
        counted = role == "prover" and detail.isascii() and detail.isdigit() and act not in MANNERS
        if act not in known or (colon and not counted and act != "censors"):
            raise ConfigError(
                f"no {role} knows how to be {name!r}; byzantine is one of {', '.join(known)}"
            )
    acts = [name for name in names if name not in MANNERS]
    if len(acts) > 1 or len(names) - len(acts) > 1:
        raise ConfigError(
            f"byzantine = {text!r}: one lie, and for a prover one of {', '.join(MANNERS)} behind it"
        )
    return names


@contextmanager
def replaced(module: ModuleType, **parts: object) -> Iterator[None]:
    """Names of a module stand for something else while this is open."""
    honest = {name: getattr(module, name) for name in parts}
    for name, part in parts.items():
        setattr(module, name, part)
    try:
        yield
    finally:
        for name, part in honest.items():
            setattr(module, name, part)


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    names = check_mode(config.role, config.byzantine)
    _log.critical(
        "THIS PROCESS LIES ON PURPOSE", name=config.name, byzantine=config.byzantine,
        text="; ".join(_MODES[config.role][name.partition(":")[0]] for name in names),
    )  # fmt: skip
    part = import_module(_PARTS[config.role])
    await part.make(config, chain, key, names).serve(stop)


def main(config_path: Path) -> int:
    """Run the lying process of a configuration file; returns the exit status."""
    try:
        role = load_config(config_path).role
    except ConfigError as error:
        print(f"trilemma {config_path.stem}: {error}", file=sys.stderr)
        return EXIT_USAGE
    return run_process(config_path, role, _serve)
