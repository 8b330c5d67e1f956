"""Ask a process on this machine whether it is ready: ``python -IS cluster/ready.py PORT``.

``GET /readyz`` on its observe port; exits with 0 where it is ready, else with 1 and its sentence.
A container's health check: a dozen of them start every few seconds, so it imports next to nothing.
"""

from __future__ import annotations

import socket
import sys

TIMEOUT_S = 4.0
REQUEST = b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n"
ANSWER_BYTES = 4_096


def check(port: int, host: str = "127.0.0.1") -> str:
    """Empty where the process is ready, else what it says or why it does not answer."""
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            connection.sendall(REQUEST)
            answer = b""
            while len(answer) < ANSWER_BYTES and (part := connection.recv(ANSWER_BYTES)):
                answer += part
    except OSError as error:
        return f"no answer on port {port}: {error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    line = head.split(b"\r\n", 1)[0].decode(errors="replace")
    if line.split(" ")[1:2] == ["200"]:
        return ""
    return body.decode(errors="replace").strip() or line or "an empty answer"


def main(arguments: list[str]) -> int:
    """Check the port of the only argument."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        print("usage: python -IS cluster/ready.py PORT", file=sys.stderr)
        return 2
    trouble = check(int(arguments[0]))
    print(trouble or "ready")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
