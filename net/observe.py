"""What a process tells about itself over HTTP: metrics, and whether it lives and keeps up.

``GET /metrics`` is Prometheus' text; ``GET /healthz`` answers 200 while the process's loop runs;
``GET /readyz`` answers 200 while the process serves and keeps up, otherwise 503 with one sentence
why not. Where the process takes orders to break itself, ``/faults`` stands beside them. Connections
are few and short-lived, requests small: this port must never harm the process behind it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from net.metrics import Metrics
from protocol.errors import ConfigError
from store.config import ProcessConfig, parse_address

CONNECTIONS_MAX = 64
"""Connections at once; more are closed at once."""

PATIENCE_S = 30.0
"""A connection without a complete request for so long is closed, whatever dribbles in."""

BODY_BYTES_MAX = 256 * 1024
HEADER_BYTES_MAX = 4 * 1024
"""Of a request line, and of one header."""

TICK_S = 0.25
"""How often the lateness of timers is measured."""

SAMPLE_TICKS = 4
"""Connections are looked through at each so-many-th tick."""

SHUTDOWN_S = 0.5

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Trouble = Callable[[], str]

_log = structlog.get_logger()
_garbage = logging.getLogger("net.observe.garbage")
"""What strangers send that is no HTTP is answered, and worth no line of the log."""

_garbage.setLevel(logging.CRITICAL)


class Observer:
    """The HTTP server of one process.

    `trouble` gives one sentence on why the process does not serve or keep up, empty where it does;
    `note` what else people should know. `data` is the process's data directory.
    """

    def __init__(
        self,
        metrics: Metrics,
        trouble: Trouble,
        note: Trouble,
        *,
        routes: Sequence[web.AbstractRouteDef] = (),
    ) -> None:
        self._metrics = metrics
        metrics.trouble = trouble
        self._trouble = trouble
        self._note = note
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._answering()])
        app.add_routes(
            [
                web.get("/metrics", self._show_metrics),
                web.get("/healthz", self._show_health),
                web.get("/readyz", self._show_ready),
                *routes,
            ]
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_garbage,
            keepalive_timeout=PATIENCE_S,
            shutdown_timeout=SHUTDOWN_S,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )
        self._server: asyncio.Server | None = None
        self._heard: dict[asyncio.BaseProtocol, float] = {}
        self._lag = metrics.histogram("loop_lag_seconds")
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0

    @property
    def port(self) -> int:
        """The port listened on."""
        if self._server is None:
            raise ConnectionError("the observer is not listening")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `ConfigError` with one sentence where the port cannot be had."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._accept, host, port, backlog=CONNECTIONS_MAX, reuse_address=True
            )
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(_explain(host, port, error)) from None
        self._timer = loop.call_at(loop.time() + TICK_S, self._tick, loop.time() + TICK_S)

    async def stop(self) -> None:
        """Close everything."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._runner.cleanup()

    # --- connections

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(self._heard) >= CONNECTIONS_MAX:
            return _Refused()
        handler = server()
        self._heard[handler] = asyncio.get_running_loop().time()
        return handler

    def _answering(self) -> Middleware:
        @web.middleware
        async def answering(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.protocol in self._heard:
                self._heard[request.protocol] = asyncio.get_running_loop().time()
            try:
                return await handler(request)
            except OSError as error:  # a file went while its size was asked for
                _log.warning("observing failed", path=request.path, error=str(error))
                return web.Response(status=500, text=f"{error}\n")
            except web.HTTPException:
                raise
            except Exception as error:
                _log.error("observing failed", path=request.path, exc_info=error)
                return web.Response(
                    status=500, text="this is a fault of the process; see its log\n"
                )

        return answering

    def _tick(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._lag.observe(now - due)
        self._ticks += 1
        if self._ticks % SAMPLE_TICKS == 0:
            self._close_silent(now)
        self._timer = loop.call_at(now + TICK_S, self._tick, now + TICK_S)

    def _close_silent(self, now: float) -> None:
        for handler, heard in list(self._heard.items()):
            transport = getattr(handler, "transport", None)
            if transport is None:
                del self._heard[handler]
            elif now - heard > PATIENCE_S:
                del self._heard[handler]
                transport.abort()

    # --- answers

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": METRICS_TYPE})

    async def _show_health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _show_ready(self, _: web.Request) -> web.Response:
        trouble = self._trouble()
        if trouble:
            return web.Response(status=503, text=f"{trouble}\n")
        note = self._note()
        return web.Response(text=f"ok: {note}\n" if note else "ok\n")


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def free_bytes(directory: Path) -> Callable[[], int]:
    """How much room the file system of a directory has for us; 0 where it does not say."""

    def count() -> int:
        try:
            found = os.statvfs(directory)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    return count


async def observed(
    config: ProcessConfig, metrics: Metrics, trouble: Trouble, note: Trouble
) -> Observer:
    """Serve where the configuration says; raises `ConfigError` as `Observer.start` does."""
    routes: Sequence[web.AbstractRouteDef] = ()
    if config.faults:
        from net.injection_http import fault_routes

        routes = fault_routes()
    observer = Observer(metrics, trouble, note, routes=routes)
    metrics.free_bytes = free_bytes(config.data)
    host, port = parse_address(config.observe)
    await observer.start(host, port)
    return observer


def _explain(host: str, port: int, error: OSError) -> str:
    where = f"the observe address {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is already in use; stop the other process or choose another port"
    if error.errno == errno.EACCES:
        return f"{where} needs privileges this process lacks; choose a port above 1023"
    return f"cannot serve metrics at {where}: {error.strerror or error}"
