"""`/faults` over HTTP: what a process of a testnet is told to suffer, and what of it really hit.

``GET`` answers ``{"process", "plan": {toxics, clocks, disks, seed}, "bit": {"peers": {name: its
counters}, "disk": counters, "clock_off_ms"}, "sessions": {name: connections}}``, ``PUT`` replaces
the plan by a whole document, ``DELETE`` clears it; both answer what ``GET`` does. Errors are
``{"error": sentence}``: 400 a plan that is wrong, 403 a request of a web page, 404 where no faults
may be ordered, 413 one too long, 415 no JSON.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from net.injection import Injection, injection
from net.injection_plan import NOTHING, PLAN_BYTES_MAX, parse_plan
from protocol.errors import ConfigError

PATH = "/faults"


def fault_routes(faults: Injection = injection) -> list[web.AbstractRouteDef]:
    """The handlers of ``/faults``, working on this process's faults."""

    async def show(request: web.Request) -> web.Response:
        return _refusal(request, faults, changes=False) or _state(faults)

    async def replace(request: web.Request) -> web.Response:
        refusal = _refusal(request, faults, changes=True)
        if refusal is not None:
            return refusal
        document = await _document(request)
        if document is None:
            return _error(413, f"a plan of faults has at most {PLAN_BYTES_MAX} bytes")
        try:
            faults.apply(parse_plan(document))
        except ConfigError as error:
            return _error(400, str(error))
        return _state(faults)

    async def clear(request: web.Request) -> web.Response:
        refusal = _refusal(request, faults, changes=False)
        if refusal is not None:
            return refusal
        faults.apply(NOTHING)
        return _state(faults)

    return [web.get(PATH, show), web.put(PATH, replace), web.delete(PATH, clear)]


def _refusal(request: web.Request, faults: Injection, *, changes: bool) -> web.Response | None:
    """The answer to a request that may not be served, or None."""
    if not faults.enabled:
        return _error(
            404, "this process takes no faults; a testnet's process does with `faults = true`"
        )
    if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
        return _error(403, "requests of web pages are refused here")
    if changes and request.content_type != "application/json":
        return _error(415, "send the plan with the header Content-Type: application/json")
    return None


async def _document(request: web.Request) -> bytes | None:
    """The request's body, or None where it is too long."""
    parts, size = [], 0
    async for part in request.content.iter_chunked(PLAN_BYTES_MAX):
        size += len(part)
        if size > PLAN_BYTES_MAX:
            return None
        parts.append(part)
    return b"".join(parts)


def _state(faults: Injection) -> web.Response:
    return _json(200, faults.state())


def _error(status: int, sentence: str) -> web.Response:
    return _json(status, {"error": sentence})


def _json(status: int, document: object) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(status=status, body=body, content_type="application/json")
