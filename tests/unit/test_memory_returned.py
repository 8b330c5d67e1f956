"""What a burst of large messages took of the memory goes back to the system."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from net import runner

BURST = """
import random, threading
from net import runner

if {ours}:
    runner._give_memory_back()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4 // 1024

def burst(seed, pins):
    draw, waiting = random.Random(seed), []
    for turn in range(2_000):
        waiting.append(bytes(draw.randrange(1_000, 800_000)))
        if len(waiting) > 100:
            waiting.pop(draw.randrange(100))
        if not turn % 10:
            pins.append(bytes(5_000))

before, pins = resident(), []
threads = [threading.Thread(target=burst, args=(seed, pins)) for seed in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the parameters are glibc's")
def test_a_burst_of_large_blocks_leaves_less_behind_than_malloc_alone_would() -> None:
    left = {
        ours: int(
            subprocess.run(
                [sys.executable, "-c", BURST.format(ours=ours)],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for ours in (True, False)
    }  # fmt: skip
    assert left[True] < left[False] / 2, left


def test_where_there_is_no_such_function_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    runner._give_memory_back()
