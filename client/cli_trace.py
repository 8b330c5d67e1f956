"""The command ``trilemma trace``: one action's life."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import Timeout
from client.console import Json, emit, run, testnet_directory

if TYPE_CHECKING:
    from client.trace import Trace

PAUSE_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(trace)


def trace(
    context: typer.Context,
    action_id: Annotated[
        str,
        typer.Argument(
            metavar="ACTION-ID",
            help="HEX, as what submits prints it; HEX:N for action N of it.",
        ),
    ],
    wait: Annotated[
        str, typer.Option(help="Look until this state is reached: accepted to final.")
    ] = "",
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """One action's way through accepted, ordered, executed, settled, final: when, and by whom.

    Each process tells what it saw by its own clock. Exits with 4 where the state that was to be
    waited for is not reached in time.
    """
    from client.faults import NoProgress
    from client.trace import STATES, Tracer, parse_action_id
    from protocol.errors import ConfigError
    from store.testnet import Testnet

    if wait and wait not in STATES:
        raise ConfigError(f"--wait takes {', '.join(STATES)}, not {wait!r}")
    identity, place = parse_action_id(action_id)
    tracer = Tracer(Testnet.load(testnet_directory(context)))

    async def look() -> Trace:
        deadline = time.monotonic() + timeout
        while True:
            found = await tracer.trace(identity, place)
            reached = -1 if found.reached is None else STATES.index(found.reached)
            if not wait or reached >= STATES.index(wait):
                return found
            if time.monotonic() >= deadline:
                raise NoProgress(f"the action is {found.reached}, not {wait} after {timeout:g} s")
            await asyncio.sleep(PAUSE_S)

    found = run(look())
    emit(trace_data(found), trace_text(found), as_json=as_json)


def trace_data(found: Trace) -> dict[str, Any]:
    """The trace for ``--json``."""
    from msgspec.structs import asdict

    return asdict(found) | {"steps": [asdict(step) for step in found.steps]}


def trace_text(found: Trace) -> str:
    """The trace for people: what it is, a line for each state and process, what came of it."""
    lines = [_subject(found)]
    first_ms = min((step.time_ms for step in found.steps if step.time_ms), default=0)
    said: set[str] = set()
    for step in found.steps:
        state = "" if step.state in said else step.state
        said.add(step.state)
        when, after = "time not kept", ""
        if step.time_ms:
            when = (
                datetime.fromtimestamp(step.time_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3] + "Z"
            )
            after = f"+{step.time_ms - first_ms:,} ms"
        line = f"{state:<10}{when:<15}{after:>12}  {step.process:<14}{_where(found, step.state)}"
        lines.append(line.rstrip())
    lines += [_missing(found)] if found.reached != "final" else []
    if found.silent:
        lines.append(f"no answer from {', '.join(found.silent)}")
    return "\n".join(lines)


def _subject(found: Trace) -> str:
    from protocol.meanings import meaning

    kinds = ", ".join(dict.fromkeys(found.actions)) or "unknown actions"
    count = f"action {found.place}: " if found.place else f"{_counted(len(found.actions))}: "
    result = ""
    if found.code is not None:
        result = f"; {meaning(found.code)}" if found.code else "; ok"
    return f"{found.batch_id[:16]} of account {found.account}, {count}{kinds}{result}"


def _counted(actions: int) -> str:
    return f"{actions} action" if actions == 1 else f"{actions} actions"


def _where(found: Trace, state: str) -> str:
    if state == "ordered":
        return f"block {found.height:,}" + (f", led by {found.leader}" if found.leader else "")
    if state == "settled":
        heights = [step.height for step in found.steps if step.state == "settled" and step.height]
        ledger = f", ledger block {min(heights):,}" if heights else ""
        return f"batch {found.number:,} of {found.prover}{ledger}"
    return ""


def _missing(found: Trace) -> str:
    from client.trace import STATES

    reached = found.reached
    left = STATES if reached is None else STATES[STATES.index(reached) + 1 :]
    return f"not yet {left[0]}" if left else ""
