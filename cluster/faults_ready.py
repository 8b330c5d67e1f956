"""Whether a process that was started goes on, and what it said where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from client.console import note
from client.faults import EXIT_SAFETY, EXIT_USAGE
from cluster.child import log_tail
from cluster.faults_targets import RUNNING, FaultFailed, Target
from cluster.restart import readiness
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from cluster.faults_api import Nemesis
    from cluster.faults_evidence import Fault

READY_S = 10.0
"""How long it is waited for a process to be ready: one that catches up may need far longer."""

_POLL_S = 0.1


class LastLine(msgspec.Struct, frozen=True):
    """The line of a log in JSON with which a process ends."""

    event: str
    error: str = ""


def stopped_for_good(target: Target, name: str, status: int | None) -> FaultFailed:
    """Why a process that was started is down and stays so, with the last line that it left."""
    return FaultFailed(f"{name} stopped for good with status {status}{last_line(target, name)}")


def last_line(target: Target, name: str) -> str:
    """The end of a sentence on a process that ended: what it said last, and where there is more."""
    if target.kind != "local":
        return f"; see: docker compose logs {name}"
    log = target.testnet.log_path(name)
    lines = log_tail(log, 1).splitlines()
    if not lines:
        return f"; it left no word in {log}"
    return f": {_told(lines[-1], name)}; see {log}"


def _told(line: str, name: str) -> str:
    try:
        last = msgspec.json.decode(line, type=LastLine)
    except msgspec.DecodeError:
        return line.removeprefix(f"trilemma {name}: ")
    return f"{last.event}: {last.error}" if last.error else last.event


async def restarted(nemesis: Nemesis, names: Sequence[str]) -> Fault:
    """Restart processes by hand, and see what it comes to: one that finds what it keeps wrong may
    serve first. Tells who is not ready in time; raises as `unready`."""
    fault = await nemesis.restart(*names)
    for name, trouble in (await unready(nemesis, fault.wanted, READY_S)).items():
        note(f"{name} serves, and is not ready yet: {trouble}")
    return fault


async def unready(nemesis: Nemesis, names: Sequence[str], within_s: float) -> dict[str, str]:
    """Wait until processes that serve are ready, too; what those say that are not by then.

    Raises `FaultFailed` for one that stopped for good meanwhile, as it finds what it keeps wrong
    only after it began to serve.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s

    def ask(name: str) -> str:
        try:
            return readiness(nemesis.testnet, name)
        except ConfigError:  # it has no address that tells
            return ""

    async def trouble(name: str) -> str:
        while True:
            told = await nemesis.ask(ask, name)
            state = await nemesis.ask(nemesis.target.state, name)
            if state != RUNNING:
                status = await nemesis.ask(nemesis.target.exit_status, name)
                if status in (EXIT_USAGE, EXIT_SAFETY):
                    raise stopped_for_good(nemesis.target, name, status)
                told = f"it is {state}"
            if not told or loop.time() > deadline:
                return told
            await asyncio.sleep(_POLL_S)

    found = await asyncio.gather(*map(trouble, names))
    return {name: told for name, told in zip(names, found, strict=True) if told}
