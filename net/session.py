"""A session: one connection that carries frames both ways, with bounded buffers.

Built on `asyncio.Protocol` callbacks, because streams cost several times more per frame. Writes of
one loop iteration are joined into one. Whatever piles up is bounded: reading stops when the owner
asks, and a peer that does not read is closed with the reason ``slow_consumer``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from net.deadlines import Deadlines
from net.faults import DelayLine, LinkFaults
from net.frames import FrameSplitter, pack_length
from net.injection import injection
from net.limits import CLIENT_LIMITS, NODE_LIMITS, SessionLimits
from net.owners import SessionOwner, SessionRegistry
from net.sockets import reset_at_close, tune
from net.traffic import traffic
from protocol.errors import Code, Rejected

__all__ = [
    "CLIENT_LIMITS",
    "NODE_LIMITS",
    "Session",
    "SessionLimits",
    "SessionOwner",
    "SessionRegistry",
]

FLUSH_BYTES = 256 * 1024
"""Collected writes above this go to the transport at once instead of at the iteration's end."""


class Session(asyncio.Protocol):
    """One connection. `reject_frame` makes the last frame sent to a peer whose input is refused;
    as links of `link_kind` (see `net.traffic`) its bytes are counted."""

    __slots__ = (
        "_closing", "_deadlines", "_discarding", "_fault", "_input_paused", "_line", "_loop",
        "_out", "_out_bytes", "_registry", "_reject_frame", "_reset_timer", "_scheduled",
        "_splitter", "_started", "_transport", "_waiters", "_write_paused", "bytes_in",
        "bytes_out", "close_reason", "frames_in", "frames_out", "limits", "link_kind",
        "on_writable", "owner", "rejects",
    )  # fmt: skip

    def __init__(
        self,
        owner: SessionOwner,
        limits: SessionLimits = CLIENT_LIMITS,
        *,
        reject_frame: Callable[[Rejected], bytes] | None = None,
        registry: SessionRegistry | None = None,
        faults: LinkFaults | None = None,
        link_kind: str = "",
    ) -> None:
        self.owner = owner
        self.limits = limits
        self.link_kind = link_kind
        self.close_reason = ""
        self.on_writable: Callable[[Session], None] | None = None
        self.bytes_in = self.bytes_out = self.frames_in = self.frames_out = self.rejects = 0
        self._loop = asyncio.get_running_loop()
        self._reject_frame = reject_frame
        self._registry = registry
        self._line = None if faults is None else DelayLine(faults, self._loop, self)
        self._splitter = FrameSplitter(limits.frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._started = self._discarding = self._input_paused = False
        self._closing = True  # until connected, so that nothing is queued for a socket not there
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._scheduled = self._write_paused = False
        self._waiters: list[asyncio.Future[None]] = []
        self._fault: Rejected | None = None
        self._deadlines = Deadlines(limits, self._loop, self.close)
        self._reset_timer: asyncio.TimerHandle | None = None

    # --- state

    @property
    def open(self) -> bool:
        """Whether frames can still be sent."""
        return not self._closing

    @property
    def writable(self) -> bool:
        """Whether the peer keeps up; while False, senders should wait or drop."""
        held = 0 if self._line is None else self._line.held_bytes
        return not (self._closing or self._write_paused) and held < self.limits.write_high_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes accepted for sending that the kernel has not taken yet."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        held = 0 if self._line is None else self._line.held_bytes
        return self._out_bytes + waiting + held

    @property
    def frame_limit(self) -> int:
        """Largest payload in bytes taken from the peer; may be raised once a role is proven."""
        return self._splitter.limit

    @frame_limit.setter
    def frame_limit(self, limit: int) -> None:
        self._splitter.limit = limit

    @property
    def transport(self) -> asyncio.Transport:
        """The connection below, for its extra info; raises `ConnectionError` before `on_open`."""
        if self._transport is None:
            raise ConnectionError("the session is not connected")
        return self._transport

    @property
    def host(self) -> str:
        """The peer's address without its port, or ``?``."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else "?"

    @property
    def remote(self) -> str:
        """The peer's address as ``host:port``, or ``?``."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else "?"

    # --- sending

    def send(self, frame: bytes) -> bool:
        """Queue one frame; False when the session is closed (or closes now as a slow consumer)."""
        if self._line is None:
            return self.carry(frame)
        if not self._closing:
            self._line.push(frame)
            if self._line.held_bytes > self.limits.write_hard_bytes:
                self._abort_slow()
        return not self._closing

    def send_many(self, frames: Sequence[bytes]) -> bool:
        """Queue several frames in order; like `send`."""
        if self._line is not None:
            for frame in frames:
                self.send(frame)
            return not self._closing
        if self._closing:
            return False
        out = self._out
        size = 0
        for frame in frames:
            length = len(frame)
            if length == 0:
                raise ValueError("a frame has at least one byte of payload")
            out.append(pack_length(length))
            out.append(frame)
            size += length
        self.frames_out += len(frames)
        self._out_bytes += size + 4 * len(frames)
        return self._queued()

    def carry(self, frame: bytes) -> bool:
        """Queue one frame past any faults; like `send`."""
        if self._closing:
            return False
        length = len(frame)
        if length == 0:
            raise ValueError("a frame has at least one byte of payload")
        self._out.append(pack_length(length))
        self._out.append(frame)
        self.frames_out += 1
        self._out_bytes += length + 4
        return self._queued()

    def _queued(self) -> bool:
        if self._out_bytes >= FLUSH_BYTES:
            if not self._write_paused:
                self._flush()
            if self.buffered_bytes > self.limits.write_hard_bytes:
                self._abort_slow()
                return False
        elif not self._scheduled and not self._write_paused:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)
        return True

    def _abort_slow(self) -> None:
        limit = self.limits.write_hard_bytes
        self.rejects += 1
        self._fault = Rejected(Code.SLOW_CONSUMER, f"more than {limit} bytes wait to be read")
        self.abort(Code.SLOW_CONSUMER.label)

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        if not self._write_paused and not self._closing:
            self._flush()

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self.bytes_out += len(data)
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer keeps up; raises `ConnectionError` when the session is closed."""
        while not self._closing and not self.writable:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        if self._closing:
            raise ConnectionResetError(f"session closed: {self.close_reason or 'by the peer'}")

    def pause_writing(self) -> None:
        """Called by the transport: the peer does not keep up."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Called by the transport: the peer has caught up."""
        self._write_paused = False
        if self._closing:
            return
        self._flush()
        if self.writable:
            self._keeps_up()

    def _keeps_up(self) -> None:
        self._wake()
        if self.on_writable is not None:
            self.on_writable(self)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- faults on purpose

    def set_faults(self, faults: LinkFaults | None) -> None:
        """What befalls frames sent from here on; with None what was held back is let go."""
        if self._line is not None:
            self._line.change(faults or LinkFaults())
            self.line_moved()
        elif faults is not None:
            self._line = DelayLine(faults, self._loop, self)

    def carry_bytes(self, data: bytes) -> None:
        """Called by the line: a part of a frame, in a write of its own."""
        if not self._closing:
            self._out.append(data)
            self._out_bytes += len(data)
            if not self._write_paused:
                self._flush()

    def line_moved(self) -> None:
        """Called by the line: it holds less than before, or nothing for ever."""
        if self._line is not None and self._line.idle:
            self._line = None
        if self.writable:
            self._keeps_up()

    def cut(self) -> None:
        """Called by the line: it carries no more."""
        self.close("limit_of_data")

    # --- receiving

    def pause_input(self) -> None:
        """Stop reading, so that back-pressure reaches the peer.

        A batch already read may still be delivered.
        """
        if not self._input_paused:
            self._input_paused = self._deadlines.paused = True
            if self._reading_may_change():
                self.transport.pause_reading()

    def resume_input(self) -> None:
        """Read again. The peer's deadlines start anew: the pause was ours."""
        if self._input_paused:
            self._input_paused = False
            self._deadlines.paused = False
            self._deadlines.restart()
            if self._reading_may_change():
                self.transport.resume_reading()

    def _reading_may_change(self) -> bool:
        transport = self._transport
        return transport is not None and not self._closing and not transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Called by the transport with bytes as they came."""
        if self._closing:
            return
        self.bytes_in += len(data)
        try:
            frames = self._splitter.feed(data)
            self._deadlines.progress(bool(frames), self._splitter.pending > 0)
            if frames:
                self.frames_in += len(frames)
                self.owner.on_frames(self, frames)
        except Rejected as fault:
            self.reject(fault)
        except Exception as error:
            # Left to the loop, an OSError of ours would pass for a fault of the connection.
            self._loop.call_exception_handler(
                {"message": f"handling frames from {self.remote} failed", "exception": error}
            )
            self.abort("internal_error")

    # --- life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop when the connection (with TLS) stands."""
        self._transport = _as_transport(transport)
        self._transport.set_write_buffer_limits(high=self.limits.write_high_bytes)
        self._closing = False
        tune(self._transport)
        if self._registry is not None and not self._registry.admit(self):
            return
        self._started = True
        injection.joined(self)
        traffic.joined(self)
        if self._input_paused:
            self._transport.pause_reading()
        self._deadlines.start()
        try:
            self.owner.on_open(self)
        except Rejected as fault:
            self.reject(fault)

    def eof_received(self) -> bool | None:
        """Called when the peer finished sending: the session ends."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the connection is gone."""
        self._closing = True
        self._out.clear()
        self._out_bytes = 0
        self._deadlines.stop()
        if self._reset_timer is not None:
            self._reset_timer.cancel()
        if self._line is not None:
            self._line.close()
        injection.left(self)
        traffic.left(self)
        self._wake()
        if self._registry is not None:
            self._registry.forget(self)
        if self._started:
            self._started = False
            self.owner.on_close(self, self._fault or exc)

    def reject(self, fault: Rejected) -> None:
        """The peer broke the rules: tell it with an error frame and close."""
        self.rejects += 1
        self._fault = self._fault or fault
        if self._reject_frame is None:
            self.close(fault.code.label)
        else:
            self.close_with(self._reject_frame(fault), fault.code.label)

    def close_with(self, frame: bytes, reason: str) -> None:
        """Send a last frame and close so that the peer can read it.

        Closing with unread input would reset the connection and lose the frame, so what still
        arrives is read and discarded until the peer closes too or the close time-out passes.
        """
        if self._closing or self._transport is None:
            return
        if self._line is not None and self._line.stalled:
            self.close(reason)
            return
        self.carry(frame)
        if self._closing or not self._transport.can_write_eof():
            self.close(reason)
            return
        self.close_reason = reason
        self._closing = self._discarding = True
        self._flush()
        self._transport.write_eof()
        if self._input_paused:
            self._transport.resume_reading()
        self._abort_later()
        self._wake()

    def close(self, reason: str = "closed") -> None:
        """Send what is queued (within the close time-out) and close."""
        if self._transport is None or (self._closing and not self._discarding):
            return
        self.close_reason = self.close_reason or reason
        self._closing, self._discarding = True, False
        self._flush()
        self._transport.close()
        self._abort_later()
        self._wake()

    def abort(self, reason: str) -> None:
        """Close at once and drop what is queued."""
        self.close_reason = self.close_reason or reason
        self._closing = True
        self._out.clear()
        self._out_bytes = 0
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def give_up(self, reason: str) -> None:
        """Called by who dialled, and gives up though the connection may stand: uvloop then closes
        it, and never calls `connection_lost`."""
        self.abort(reason)
        self.connection_lost(None)

    def reset(self, reason: str) -> None:
        """Close at once so that the peer sees a reset."""
        if self._transport is not None:
            reset_at_close(self._transport)
        self.abort(reason)

    def _abort_later(self) -> None:
        if self._reset_timer is None and self._transport is not None:
            self._reset_timer = self._loop.call_later(
                self.limits.close_timeout_ms / 1000, self._transport.abort
            )


def _as_transport(transport: Any) -> asyncio.Transport:
    # uvloop's transports are no subclasses of asyncio.Transport, though they have its methods.
    result: asyncio.Transport = transport
    return result
