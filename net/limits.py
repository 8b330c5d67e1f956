"""Bounds of sessions, and the two sets of them in use: clients and nodes."""

from __future__ import annotations

from dataclasses import dataclass

from net.frames import CLIENT_FRAME_LIMIT, NODE_FRAME_LIMIT


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one session.

    `write_hard_bytes` must exceed the largest frame that is sent. `partial_timeout_ms`: a begun
    frame must be complete within it. `idle_timeout_ms`: a session without a complete frame for that
    long is closed; 0 means never. `silent_timeout_ms`: the same until its first complete frame.
    `close_timeout_ms`: how long a closing session may still flush.
    """

    frame_bytes: int = CLIENT_FRAME_LIMIT
    write_high_bytes: int = 1024 * 1024
    write_hard_bytes: int = 16 * 1024 * 1024
    partial_timeout_ms: int = 10_000
    idle_timeout_ms: int = 0
    silent_timeout_ms: int = 0
    close_timeout_ms: int = 2_000


CLIENT_LIMITS = SessionLimits()
"""Limits of sessions on the public port."""

NODE_LIMITS = SessionLimits(
    frame_bytes=NODE_FRAME_LIMIT,
    write_hard_bytes=4 * NODE_FRAME_LIMIT,
    partial_timeout_ms=30_000,
)
"""Limits of sessions between nodes."""
