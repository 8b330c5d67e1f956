"""The health check of a container: what it makes of the answers of the observe port."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster import ready


def answering(answer: bytes) -> tuple[int, socket.socket]:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4_096)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1], server


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nready\n", ""),
        (b"HTTP/1.1 503 Busy\r\n\r\n12 blocks behind\n", "12 blocks behind"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (b"garbage", "garbage"),
        (b"", "an empty answer"),
    ],
)
def test_ready_is_what_answers_200(answer: bytes, trouble: str) -> None:
    port, server = answering(answer)
    with server:
        assert ready.check(port) == trouble


def test_a_process_that_does_not_listen_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "no answer" in ready.check(port)


def test_it_runs_without_the_packages_that_are_installed() -> None:
    port, server = answering(b"HTTP/1.1 200 OK\r\n\r\n")
    path = Path(ready.__file__)
    with server:
        command = [sys.executable, "-IS", str(path), str(port)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert ready.main([]) == 2
