"""Options of the sockets below sessions."""

from __future__ import annotations

import asyncio
import socket
from struct import pack

FAMILIES = (socket.AF_INET, socket.AF_INET6)


def tune(transport: asyncio.Transport) -> None:
    """No delay for small frames, and keep-alive so that a half-open connection is noticed."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in FAMILIES:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def reset_at_close(transport: asyncio.Transport) -> None:
    """The peer shall see a reset when the connection is closed, and nothing more that was sent."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in FAMILIES:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
