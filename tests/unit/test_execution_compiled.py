"""The compiled engine gives the events, the leaf changes and the leaves of the interpreted one.

Both run random flows in processes of their own. This file is also what they run: `python FILE SEED`
prints what happens.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
SWITCH = "TRILEMMA_COMPILE"
START = """\
import runpy, sys
folder, *arguments = sys.argv[1:]
sys.path[:0] = {path!r}
if folder:
    import compiled_finder
    compiled_finder.install(folder)
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
"""
PATH = [str(ROOT), str(ROOT / "tests"), str(ROOT / "deploy")]
BLOCKS = 250

MET = """
AgentChanged BatchExecuted DeadManSet Expired Fill FundingPaid FundingRate LiquidationBegun
MarketChanged MarkChanged OrderChanged OrderOpened PositionSettled Receipt SettingChanged
Transferred TriggerChanged TriggerFired TriggerOpened TwapChanged WithdrawalQueued
"""
"""Kinds of events that the flows must have met, or they would say little."""


def modules() -> list[str]:
    """The modules that are compiled."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed: list[str] = project["tool"]["trilemma"]["compiled"]
    return listed


def compiled_modules() -> list[str]:
    """Those of them that run compiled in this process."""
    files = {name: str(importlib.import_module(name).__file__) for name in modules()}
    return [name for name, file in files.items() if not file.endswith(".py")]


def flows(seed: int) -> list[Any]:
    """Ordinary trading, everything that there is (both orders of phases), and vast numbers."""
    from engine_flow import Flow
    from engine_world import World, market
    from rich_flow import RichFlow

    from protocol.actions import MarketOrder, Order
    from protocol.genesis import Limits

    class Vast(Flow):
        """Notionals far beyond what 32 bits hold, up to the limits."""

        def __init__(self, seed: int) -> None:
            super().__init__(seed, dollars=0)
            large: dict[str, Any] = {"lot_micro": 1_000_000, "initial_price_ticks": 1_000_000}
            markets = [
                market(0, tick_uusd=30_000, max_order_lots=1 << 24, max_position_lots=1 << 25,
                       initial_ppm=20_000, maintenance_ppm=10_000, **large),
                market(1, tick_uusd=32_767, max_order_lots=1 << 30, maker_fee_ppm=-333,
                       max_position_lots=(1 << 31) - 1, **large),
                market(2, tick_uusd=7, max_order_lots=1 << 30, **large),
            ]  # fmt: skip
            limits = Limits(orders_per_account=7, fills_per_action=20)
            self.world = World(markets, limits, accounts=7, dollars=10**8, checked=False)
            self.marks = [1_000_000] * 3

        def action(self) -> Any:
            action = super().action()
            if isinstance(action, Order | MarketOrder):
                lots = action.size_lots * self.rng.choice((1, 5_000, 30_000, 1_000_000))
                return msgspec.structs.replace(action, size_lots=lots)
            return action

    poor = [RichFlow(seed + number, 20 * number) for number in (2, 3)]
    return [RichFlow(seed), RichFlow(seed + 1), *poor, Flow(seed), Vast(seed)]


def digest(value: Any) -> str:
    """A short name of what a value is encoded as."""
    return hashlib.sha256(msgspec.msgpack.encode(value)).hexdigest()[:16]


def report(seed: int) -> dict[str, Any]:
    """Run the flows; what each block did, and all leaves at their ends."""
    seen: Counter[str] = Counter()
    found: list[list[str]] = []
    for flow in flows(seed):
        blocks = []
        for _ in range(BLOCKS):
            result = flow.block(6, 5)
            seen.update(type(event).__name__ for event in result.events)
            blocks.append(digest([result.events, list(result.changes.items()), result.outbox]))
        flow.world.engine.check()
        blocks.append(digest(sorted(flow.world.engine.leaves().items())))
        found.append(blocks)
    return {"compiled": compiled_modules(), "flows": found, "seen": seen}


def child(folder: str, *arguments: str, **variables: str) -> Any:
    """What a process of its own prints last, with the compiled modules of `folder`, if any."""
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    done = subprocess.run(
        [sys.executable, "-c", START.format(path=PATH), folder, __file__, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Where the compiled modules are: a folder, and environment variables to run them with.

    Those of this environment serve where they are of these sources (`make test` sees to it);
    otherwise all is compiled anew.
    """
    if os.environ.get(SWITCH) != "0" and child("") == modules():
        return "", {}
    folder = tmp_path_factory.mktemp("compiled")
    command = [sys.executable, str(ROOT / "deploy" / "compile.py"), "--into", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr + (folder / "log").read_text()
    return str(folder), {SWITCH: "0"}


def test_the_compiled_engine_agrees_with_the_interpreted_one(
    compiled: tuple[str, dict[str, str]],
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    folder, variables = compiled
    mine = child("", str(seed), **{SWITCH: "0"})
    theirs = child(folder, str(seed), **variables)
    assert (mine["compiled"], theirs["compiled"]) == ([], modules())
    for number, (one, other) in enumerate(zip(mine["flows"], theirs["flows"], strict=True)):
        differing = [
            block for block, pair in enumerate(zip(one, other, strict=True)) if len(set(pair)) > 1
        ]
        assert not differing, f"flow {number} differs from block {differing[0]} on"
    assert mine["seen"] == theirs["seen"]
    missed = [kind for kind in MET.split() if kind not in mine["seen"]]
    assert not missed, f"never met: {missed}"


if __name__ == "__main__":
    print(json.dumps(report(int(sys.argv[1])) if len(sys.argv) > 1 else compiled_modules()))
