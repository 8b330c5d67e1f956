"""Pages, bounds and instruments of what a process tells about itself over HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from execution.process_health import Keeping
from net import observe
from net.metrics import Histogram, Metrics, Rarely
from net.metrics_table import (
    HISTOGRAMS,
    PREFIX,
)
from net.observe import Observer
from net.readiness import TIMEOUTS, Hearing, Participation
from protocol.errors import ConfigError
from protocol.events import BlockDiff
from protocol.settlement import BatchHeader
from prover.process_health import SettlementLag, trouble
from sequencer.process_health import SequencerHealth


@asynccontextmanager
async def served(
    trouble: str = "", note: str = "", role: str = "execution", **status: int | str
) -> AsyncIterator[Observer]:
    """A running observer of a process that says so of itself."""
    metrics = Metrics(role, lambda: status, {"busy": 3})
    observer = Observer(metrics, lambda: trouble, lambda: note)
    await observer.start("127.0.0.1", 0)
    try:
        yield observer
    finally:
        await observer.stop()


async def get(observer: Observer, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{observer.port}{path}"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return answer.status, await answer.text()


# --- pages


async def test_metrics_are_those_of_the_table_in_base_units() -> None:
    async with served(height=7, time_ms=1_500, money_conserved="yes", history_bytes=9) as one:
        status, text = await get(one, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["trilemma_execution_height",] == 7
    assert values["trilemma_execution_block_timestamp_seconds",] == 1.5
    assert values["trilemma_money_conserved",] == 1
    assert values["trilemma_store_bytes", "history"] == 9
    assert values["trilemma_rejected_requests_total", "busy"] == 3
    assert values["trilemma_unmapped_values",] == 0
    assert {family.name.startswith(PREFIX) for family in families.values()} == {True}


async def test_a_value_without_a_place_in_the_table_is_counted() -> None:
    async with served(height=7, brand_new=1, leaves="no number") as one:
        _, text = await get(one, "/metrics")
    assert "trilemma_unmapped_values 2.0" in text


async def test_ready_says_why_not() -> None:
    async with served() as one:
        assert await get(one, "/readyz") == (200, "ok\n")
        assert "trilemma_ready 1.0" in (await get(one, "/metrics"))[1]
    async with served(note="frozen") as one:
        assert await get(one, "/readyz") == (200, "ok: frozen\n")
    async with served(trouble="no quorum: 1 of 4") as one:
        assert await get(one, "/readyz") == (503, "no quorum: 1 of 4\n")
        assert await get(one, "/healthz") == (200, "ok\n")
        assert (await get(one, "/faults"))[0] == 404
        assert "trilemma_ready 0.0" in (await get(one, "/metrics"))[1]


async def test_a_port_in_use_is_said_with_advice() -> None:
    async with served() as one:
        second = Observer(Metrics("node", dict, {}), str, str)
        with pytest.raises(ConfigError, match="already in use; stop the other process or choose"):
            await second.start("127.0.0.1", one.port)


async def test_a_fault_of_ours_is_answered_and_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> dict[str, int | str]:
        raise ZeroDivisionError("broken getter")

    observer = Observer(Metrics("node", broken, {}), str, str)
    await observer.start("127.0.0.1", 0)
    try:
        assert (await get(observer, "/metrics"))[0] == 500
        assert (await get(observer, "/healthz"))[0] == 200
    finally:
        await observer.stop()
    assert "broken getter" in capsys.readouterr().out


# --- bounds


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("this never came")


async def test_connections_beyond_the_limit_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "CONNECTIONS_MAX", 3)
    async with served() as one:
        held = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(3)]
        await _until(lambda: len(one._heard) == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        assert await reader.read() == b""
        for each in (writer, *(writer for _, writer in held)):
            each.close()

        def forgotten() -> bool:
            one._close_silent(asyncio.get_running_loop().time())
            return not one._heard

        await _until(forgotten)
        assert await get(one, "/healthz") == (200, "ok\n")


async def test_a_connection_that_dribbles_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "PATIENCE_S", 0.0)
    async with served() as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        with pytest.raises(ConnectionError):  # it is reset
            if await reader.read() == b"":
                raise ConnectionError
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # TLS
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\x00" * 10_000,
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n" + bytes(9_000),
    ],
)
async def test_garbage_is_refused_and_nobody_else_notices(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        writer.write(request_bytes)
        answer = await reader.read(64)
        assert re.match(rb"HTTP/1\.\d 4\d\d ", answer), answer
        writer.close()
        assert await get(one, "/healthz") == (200, "ok\n")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_value_that_takes_long_is_computed_seldom() -> None:
    clock, calls = [0], []

    def compute() -> int:
        clock[0] += 10
        calls.append(clock[0])
        return len(calls)

    value = Rarely(compute, 20, lambda: clock[0])
    assert [value(), value()] == [1, 1]
    clock[0] = 209
    assert value() == 1
    clock[0] = 210
    assert value() == 2


# --- instruments


def test_histograms_count_up_to_and_with_their_bounds() -> None:
    histogram = Histogram(HISTOGRAMS["node"][0])
    for value in (-1.0, 0.001, 0.0011, 60.0, 61.0):
        histogram.observe(value)
    histogram.observe(0.3, 5)
    family = histogram.family()
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert (buckets["0.001"], buckets["0.002"], buckets["0.5"]) == (2, 3, 8)
    assert (buckets["60.0"], buckets["+Inf"]) == (9, 10)
    assert histogram.total == pytest.approx(0.001 + 0.0011 + 121.0 + 1.5)


class _Members:
    keys = (b"a", b"b", b"c", b"d")
    stakes = (1, 1, 1, 1)

    def quorum(self, stake: int) -> bool:
        return 3 * stake > 8


def test_participation_needs_a_quorum_that_answers() -> None:
    part, members = Participation("validators", "ledger blocks"), _Members()
    most = {b"a", b"b", b"c"}
    assert part.trouble(members, most, 0, 5, 0) == ""
    assert "2 of 4 validators" in part.trouble(members, {b"a", b"d", b"stranger"}, 0, 5, 0)
    assert "3 timeouts since block 5" in part.trouble(members, most, TIMEOUTS, 5, 0)
    part.committed(TIMEOUTS)
    assert part.trouble(members, most, TIMEOUTS, 6, 0) == ""
    assert "1000 ledger blocks are missing after 6" in part.trouble(members, most, 0, 6, 1_000)


def test_silence_is_trouble_where_the_chain_is_never_silent() -> None:
    now = [0.0]
    hearing, silent = Hearing("base layer", 5_000, lambda: now[0]), Hearing("log", 0)
    assert "yet" in hearing.trouble()
    hearing.heard()
    silent.heard()
    now[0] = 15.0
    assert hearing.trouble() == silent.trouble() == ""
    now[0] = 16.0
    assert hearing.trouble() == "nothing was heard of the base layer for 16 s"


def _diff(height: int, actions: int) -> BlockDiff:
    return BlockDiff(height, b"", 0, [], [], actions)


def _batch(number: int, first: int, last: int) -> BatchHeader:
    none = bytes(32)
    return BatchHeader(
        none, 0, number, first, last, none, none, none, none, 0, none, 0, 0, none, 0
    )  # fmt: skip


def test_settlement_lag_is_of_the_oldest_block_with_actions() -> None:
    now = [100.0]
    settled, final = (Histogram(spec) for spec in HISTOGRAMS["prover"])
    lag = SettlementLag(settled, final, lambda: now[0])
    lag.executed(_diff(1, 0))
    assert lag.lag_ms() == 0
    for height, actions in ((2, 3), (3, 4), (4, 5), (3, 4)):
        lag.executed(_diff(height, actions))
        now[0] += 1
    assert lag.lag_ms() == 4_000
    lag.settled(_batch(1, 1, 3))
    assert (sum(settled.counts), settled.total) == (7, 3 * 4 + 4 * 3)
    assert lag.lag_ms() == 2_000
    lag.removed(1)
    assert lag.lag_ms() == 4_000
    lag.settled(_batch(1, 1, 4))
    now[0] += 5
    lag.final(1)
    assert (sum(final.counts), final.total, lag.lag_ms()) == (1, 5.0, 0)


def test_settlement_troubles() -> None:
    assert trouble(59_000, 5, "", 0) == ""
    assert "waited for 61 s" in trouble(61_000, 5, "", 0)
    assert "refuses batch 5: no money" in trouble(0, 5, "no money", 0)
    assert "batch 4 contradicts" in trouble(0, 5, "no money", 4)


def test_ordering_is_timed_from_the_receipt_on() -> None:
    ordering = Histogram(HISTOGRAMS["sequencer"][0])
    health = SequencerHealth(None, None, ordering)  # type: ignore[arg-type]
    health.accepted((1, 10), 1_000)
    health.accepted((1, 11), 1_000)
    health.accepted((2, 10), 1_000)
    health.ordered((1, 10), 1_250)
    health.ordered((1, 10), 9_999)  # once
    health.left(2)
    health.ordered((2, 10), 9_999)
    health.ordered((3, 1), 9_999)
    assert (sum(ordering.counts), ordering.total) == (1, 0.25)


def test_execution_is_behind_while_blocks_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("execution.process_health.time.monotonic", lambda: now[0])
    lag = Histogram(HISTOGRAMS["execution"][0])
    keeping = Keeping(lag)
    assert keeping.trouble(0, 0) == ""
    keeping.executed(6_000, 5, known=False)
    keeping.executed(6_000, 5, known=True)  # from before a restart
    assert (sum(lag.counts), lag.total) == (5, 30.0)
    assert "which was executed 6 s after" in keeping.trouble(9, 9)
    now[0] += 3
    assert keeping.trouble(9, 9) == ""
    keeping.executed(20, 5, known=False)
    keeping.waits(77)
    assert keeping.trouble(9, 12) == ""
    now[0] += 6
    assert "not known up to height 77" in keeping.trouble(9, 12)
    keeping.executed(20, 5, known=False)
    assert keeping.trouble(10, 12) == ""


# --- the port


def test_the_address_of_a_process_stands_in_the_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        observer = Metrics("node", dict, {})

        async def start() -> None:
            await Observer(observer, str, str).start("127.0.0.1", port)

        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            asyncio.run(start())
