"""Frames per second over one loopback connection: `python bench/net_frames.py [--json]`.

One process sends, another splits and counts, both on uvloop; `--one-process` runs both sides in one
loop. Frames are sent one by one, as a process with many small messages does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import time
from multiprocessing.connection import Connection as Pipe

import uvloop

from net.server import FrameServer
from net.session import NODE_LIMITS, Session

DONE = b"done"


class Counter:
    """Counts what arrives and answers the last frame."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def on_open(self, session: Session) -> None:
        """Note the processor time used so far."""
        self.cpu_s = time.process_time()

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Answer the last frame with the processor time used."""
        if frames[-1] == DONE:
            session.send(str(time.process_time() - self.cpu_s).encode())

    def on_close(self, session: Session, error: Exception | None) -> None:
        """Nothing to do."""


class Sender:
    """Waits for the counter's answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_open(self, session: Session) -> None:
        """Nothing to do."""

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """The counter has everything."""
        self.answer.set_result(frames[0])

    def on_close(self, session: Session, error: Exception | None) -> None:
        """Nothing to do."""


async def serve(pipe: Pipe) -> None:
    """Serve until the parent closes the pipe."""
    server = await listen()
    pipe.send(server.port)
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    await server.stop()


async def listen() -> FrameServer:
    """A counting server on a free port."""
    server = FrameServer("127.0.0.1", 0, Counter, limits=NODE_LIMITS)
    await server.start()
    return server


async def measure(port: int, frames: int, size: int) -> dict[str, float]:
    """Send `frames` frames of `size` bytes; figures per second of wall time."""
    owner = Sender()
    _, session = await asyncio.get_running_loop().create_connection(
        lambda: Session(owner, NODE_LIMITS), "127.0.0.1", port
    )
    payload = b"x" * size
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for start in range(0, frames, 256):
        for _ in range(min(256, frames - start)):
            session.send(payload)
        if not session.writable:
            await session.drain()
    session.send(DONE)
    counter_cpu_s = float(await owner.answer)
    wall_s = time.perf_counter() - wall_s
    sender_cpu_s = time.process_time() - cpu_s
    session.close()
    return {
        "frame_bytes": size,
        "frames": frames,
        "frames_per_s": round(frames / wall_s),
        "megabytes_per_s": round(frames * (size + 4) / wall_s / 1e6, 1),
        "sender_cpu_us_per_frame": round(sender_cpu_s * 1e6 / frames, 3),
        "receiver_cpu_us_per_frame": round(counter_cpu_s * 1e6 / frames, 3),
    }


def _child(pipe: Pipe) -> None:
    uvloop.run(serve(pipe))


async def _one_process(frames: int, sizes: list[int]) -> list[dict[str, float]]:
    server = await listen()
    figures = [await measure(server.port, frames, size) for size in sizes]
    await server.stop()
    return figures


def _two_processes(frames: int, sizes: list[int]) -> list[dict[str, float]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs,))
    child.start()
    port = ours.recv()

    async def work() -> list[dict[str, float]]:
        return [await measure(port, frames, size) for size in sizes]

    figures = uvloop.run(work())
    ours.send(None)
    child.join()
    return figures


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="frames per second over one loopback connection")
    parser.add_argument("--frames", type=int, default=500_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 4096])
    parser.add_argument("--one-process", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.one_process:
        figures = uvloop.run(_one_process(options.frames, options.sizes))
    else:
        figures = _two_processes(options.frames, options.sizes)
    report = {
        "benchmark": "net_frames",
        "processes": 1 if options.one_process else 2,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "results": figures,
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for row in figures:
        print(
            f"{row['frame_bytes']:>6} B  {row['frames_per_s']:>9,.0f} frames/s  "
            f"{row['megabytes_per_s']:>8,.1f} MB/s"
        )


if __name__ == "__main__":
    main()
