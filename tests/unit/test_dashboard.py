"""The live status: states of processes, sparklines, lags, faults, and 80 columns."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from client.status import ProcessRow
from cluster import dashboard as dashboard_module
from cluster.dashboard import Book, Dashboard, Scene
from cluster.dashboard_view import SPARED, make_dashboard, sparkline
from cluster.faults_hold import RunFolder
from cluster.testnet import TestnetOptions, create_testnet
from store.config import parse_address
from store.testnet import Testnet


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    testnet = create_testnet(tmp_path / "t", TestnetOptions(traders=1, free_ports=True))
    RunFolder(testnet.directory).clear()
    return testnet


def shown(scene: Scene, testnet: Testnet, width: int = 80, height: int = 50) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(make_dashboard(scene, testnet, testnet.chain().genesis.markets, 0, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def answer(dashboard: Dashboard, name: str, now_s: float, **values: int) -> None:
    """As if the process had just answered so."""
    poller = next(one for one in dashboard._pollers if one.entry.name == name)
    poller._take(dict(values), now_s)


def test_bars_reach_from_nothing_to_the_largest_and_leave_gaps() -> None:
    assert sparkline([0, 1, None, 2], 10) == "▁▅ █"
    assert sparkline([0.0, 0.0], 10) == "▁▁"
    assert sparkline([1, 2, 3, 4], 2) == "▆█"
    assert sparkline([], 5) == ""


@pytest.mark.parametrize("body", [b"[1]", b'{"plan": null}', b'{"plan": {"toxics": [7]}}', b"{"])
def test_somebody_else_at_a_process_ports_is_survived(testnet: Testnet, body: bytes) -> None:
    poller = Dashboard(testnet)._pollers[0]

    async def answer_anything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async def answer_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\0\0\0\3\x92\x02\x01")  # an answer of a kind that there is none of
        await reader.read()
        writer.close()

    async def work() -> None:
        await asyncio.start_server(answer_anything, *parse_address(poller.entry.observe))
        await asyncio.start_server(answer_garbage, *parse_address(poller.entry.public))
        assert await poller._ordered_faults() == []
        await poller._look()
        assert poller.state in ("down", "silent")

    asyncio.run(work())


def test_rates_and_lags_come_from_what_processes_answer(testnet: Testnet) -> None:
    dashboard = Dashboard(testnet)
    for now_s, height, actions in ((10.0, 5, 100), (11.0, 9, 150)):
        answer(dashboard, "sequencer-0", now_s, height=height, ordered_actions=actions)
        answer(dashboard, "validator-0", now_s, last_ordered_block=5, final_ordered_block=0)
        scene = dashboard.scene(now_s)
    assert scene.rates["ordered"] == [0.0, 50.0]
    # Blocks up to 5 were there at 10 s: one of them waits to be final since then.
    assert scene.final_lag_s[-1] == 1.0
    assert scene.settled_lag_s == [0.0, 0.0]
    answer(dashboard, "validator-0", 12.0, last_ordered_block=9, final_ordered_block=9)
    assert dashboard.scene(12.0).final_lag_s[-1] == 0.0


def test_a_process_that_is_held_or_stopped_is_called_so(testnet: Testnet) -> None:
    RunFolder(testnet.directory).hold("validator-1")
    rows = {row.name: row for row in Dashboard(testnet).scene(1.0).rows}
    assert rows["validator-1"].state == "held"
    assert rows["validator-2"].state == "down"


@pytest.fixture
def busy(testnet: Testnet) -> Scene:
    """A cluster that answers with large numbers."""
    dashboard = Dashboard(testnet)
    for step in range(90):
        answer(
            dashboard, "sequencer-0", float(step), height=10**6 + step, pool=1_234, view=10**6,
            ordered_actions=20_000 * step, accepted_actions=20_000 * step, store_bytes=10**9,
        )  # fmt: skip
        for number in range(4):
            answer(
                dashboard, f"validator-{number}", float(step), height=10**5 + step, peers=3,
                last_ordered_block=10**6, final_ordered_block=10**6 - 50, final_batch=40_000,
                last_batch=40_100, mempool=12, view=10**6, store_bytes=10**8,
            )  # fmt: skip
        for name in ("execution-0", "prover-0"):
            answer(dashboard, name, float(step), height=10**6 + step, executed_actions=step)
        scene = dashboard.scene(float(step))
    markets = range(len(testnet.chain().genesis.markets))
    books = [Book(number, 599_000, None, 599_500) for number in markets]
    return msgspec.structs.replace(scene, books=books)


FIVE = [f"validator-{number}: delay 200 ms" for number in range(5)]


def test_it_fits_80_columns_with_faults_and_books(testnet: Testnet, busy: Scene) -> None:
    faults = [f"validator-{n}: " + "x" * 100 for n in range(9)]
    lines = shown(msgspec.structs.replace(busy, faults=faults), testnet)
    assert max(len(line) for line in lines) <= 80
    text = "\n".join(lines)
    assert "20,000 /s" in text
    assert "and 3 more" in text
    assert "BTC-PERP" in text and "lines more" not in text


def test_24_lines_show_faults_and_alarms_and_say_what_is_left_out(
    testnet: Testnet, busy: Scene
) -> None:
    stop = "prover-0 stopped for safety's sake and stays down; its log says why"
    rows = [_saying(row, refusal="its batch 4 is disputed") for row in busy.rows]
    scene = msgspec.structs.replace(busy, rows=rows, faults=FIVE, stopped=[stop])
    lines = shown(scene, testnet, height=24)
    assert len(lines) == 24
    at = lines.index(stop)
    assert at == 2 + len(busy.rows), "right below the processes"
    assert lines[at + 1] == "validator-0: its batch 4 is disputed"
    assert lines[at + 2 : at + 8] == ["faults", *(f"  {fault}" for fault in FIVE)]
    assert lines[-1] == f"… {len(shown(scene, testnet)) - 23 - 4} lines more", "4 are empty"
    assert not any("books" in line for line in lines)


def test_a_large_cluster_leaves_room_for_what_is_wrong(testnet: Testnet, busy: Scene) -> None:
    rows = [msgspec.structs.replace(busy.rows[0], name=f"validator-{n}") for n in range(40)]
    rows[37] = msgspec.structs.replace(rows[37], state="held")
    lines = shown(msgspec.structs.replace(busy, rows=rows, faults=FIVE), testnet, height=24)
    assert len(lines) == 24
    assert any(line.startswith("validator-37") and "held" in line for line in lines)
    assert f"  {FIVE[-1]}" in lines
    (more,) = (line for line in lines if "processes more" in line)
    shown_rows = [line for line in lines if line.startswith("validator-") and ":" not in line]
    assert more == f"… {40 - len(shown_rows)} processes more"


@pytest.mark.parametrize("width", [60, 40])
def test_a_narrow_terminal_shows_fewer_columns_whole(
    testnet: Testnet, busy: Scene, width: int
) -> None:
    lines = shown(msgspec.structs.replace(busy, faults=FIVE), testnet, width)
    assert max(len(line) for line in lines) <= width
    assert "…" not in "".join(lines)
    names = lines[1].split()
    assert set(names) < {"process", "state", *SPARED} and names[:2] == ["process", "state"]
    left_out = [name for name in SPARED if name not in names]
    assert f"no room for: {', '.join(left_out)} " in " ".join(lines)


async def test_who_stopped_for_safety_is_asked_for_only_while_somebody_is_missing(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    stop = "prover-0 stopped for safety's sake and stays down; its log says why"

    def stops(_: Testnet) -> list[str]:
        asked.append(threading.current_thread() is threading.main_thread())
        return [stop]

    monkeypatch.setattr(dashboard_module, "safety_stops", stops)
    monkeypatch.setattr(dashboard_module, "STOPS_EVERY_S", 0.001)
    dashboard = Dashboard(testnet)
    asking = asyncio.ensure_future(dashboard._ask_for_stops())
    try:
        await until(lambda: dashboard.scene(1.0).stopped == [stop])
        assert not any(asked), "it blocks"
        faults = dashboard.scene(2.0).faults
        assert "validator-0: down" in faults
        assert not any(line.startswith("prover-0") for line in faults), "it is told already"
        for poller in dashboard._pollers:
            poller._take({}, 3.0)
        await until(lambda: not dashboard.scene(3.0).stopped)
    finally:
        asking.cancel()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def _saying(row: ProcessRow, refusal: str) -> ProcessRow:
    if row.name != "validator-0":
        return row
    return msgspec.structs.replace(row, values={**row.values, "refusal": refusal})
