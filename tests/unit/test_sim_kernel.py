"""Virtual time: order, cancelling, bounds, the trace."""

from __future__ import annotations

import pytest

from sim.kernel import Kernel, SimulationLimit


def test_events_come_in_order_of_time_and_then_of_scheduling() -> None:
    kernel, seen = Kernel(1), []
    kernel.at(20, seen.append, "late")
    kernel.at(10, seen.append, "first")
    kernel.at(10, seen.append, "second")
    kernel.run(15)
    assert (seen, kernel.now_us) == (["first", "second"], 15)
    kernel.run(20)
    assert seen[-1] == "late"


def test_what_is_scheduled_in_the_past_happens_now() -> None:
    kernel, seen = Kernel(1), []
    kernel.run(100)
    kernel.at(5, lambda: seen.append(kernel.now_us))
    kernel.run(100)
    assert seen == [100]


def test_a_cancelled_timer_never_fires() -> None:
    kernel, seen = Kernel(1), []
    timer = kernel.after(10, seen.append, 1)
    kernel.cancel(timer)
    kernel.cancel(None)
    kernel.run(50)
    kernel.cancel(timer)
    assert seen == []


def test_a_run_that_never_rests_is_stopped() -> None:
    kernel = Kernel(1, max_events=100)

    def again() -> None:
        kernel.after(0, again)

    again()
    with pytest.raises(SimulationLimit):
        kernel.run(10)
    crowded = Kernel(1, max_pending=3)
    with pytest.raises(SimulationLimit):
        for _ in range(5):
            crowded.after(1, lambda: None)


def test_the_trace_hash_covers_time_kind_and_values() -> None:
    def traced(at_us: int, kind: str, value: bytes) -> str:
        kernel = Kernel(1, keep_trace=4)
        kernel.run(at_us)
        kernel.trace(kind, 1, value, None)
        assert len(kernel.lines) == 1
        return kernel.trace_hash()

    hashes = {
        traced(1, "a", b"x"),
        traced(2, "a", b"x"),
        traced(1, "b", b"x"),
        traced(1, "a", b"y"),
    }
    assert len(hashes) == 4
    assert traced(1, "a", b"x") in hashes
