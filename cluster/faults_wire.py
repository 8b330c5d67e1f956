"""Order a process's own faults: HTTP on its `observe` address (`net.injection_http`)."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from cluster.faults_targets import FaultFailed
from net.injection_plan import NOTHING, Plan
from protocol.errors import ConfigError
from store.testnet import ProcessEntry

ANSWER_S = 3.0


class Told(msgspec.Struct, frozen=True):
    """What a process says of its faults: the `plan`, and counters of what of it `bit`."""

    plan: Plan = NOTHING
    bit: dict[str, Any] = {}


async def read_faults(entry: ProcessEntry) -> Told:
    """The faults of a process now.

    Raises `ConfigError` where it takes none, `FaultFailed` where it does not answer.
    """
    return await _call(entry, "GET")


async def order_faults(entry: ProcessEntry, plan: Plan) -> Told:
    """Replace the faults of a process; raises as `read_faults`, and for a plan that it refuses."""
    return await _call(entry, "PUT", msgspec.json.encode(plan))


async def clear_faults(entry: ProcessEntry) -> Told:
    """End the faults of a process; raises as `read_faults`."""
    return await _call(entry, "DELETE")


async def _call(entry: ProcessEntry, method: str, body: bytes | None = None) -> Told:
    if not entry.observe:
        raise ConfigError(f"{entry.name} has no observe address, over which faults are ordered")
    headers = {"Content-Type": "application/json"} if body is not None else {}
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(
                method, f"http://{entry.observe}/faults", data=body, headers=headers
            ) as answer,
        ):
            raw = await answer.read()
            status = answer.status
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise FaultFailed(
            f"{entry.name} does not answer on {entry.observe}: {str(error) or 'nothing in time'}"
        ) from None
    return _told(entry, status, raw)


def _told(entry: ProcessEntry, status: int, raw: bytes) -> Told:
    if status == 404:
        raise ConfigError(
            f"{entry.name} takes no faults: its configuration needs `faults = true`, which "
            "only a testnet's process may have"
        )
    try:
        if status != 200:
            sentence = msgspec.json.decode(raw, type=dict[str, Any]).get("error", "")
            raise ConfigError(f"{entry.name} refuses the faults: {sentence or f'HTTP {status}'}")
        return msgspec.json.decode(raw, type=Told)
    except msgspec.DecodeError:
        raise FaultFailed(f"{entry.name} answers HTTP {status}, and no faults") from None
