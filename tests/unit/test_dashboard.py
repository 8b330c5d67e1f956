"""The live status: states of processes, sparklines, lags, faults, and 80 columns."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from cluster.dashboard import Book, Dashboard, Scene
from cluster.dashboard_view import make_dashboard, sparkline
from cluster.faults_hold import RunFolder
from cluster.testnet import TestnetOptions, create_testnet
from store.config import parse_address
from store.testnet import Testnet


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    testnet = create_testnet(tmp_path / "t", TestnetOptions(traders=1, free_ports=True))
    RunFolder(testnet.directory).clear()
    return testnet


def shown(scene: Scene, testnet: Testnet, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(make_dashboard(scene, testnet, testnet.chain().genesis.markets, 0, width))
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


def test_it_fits_80_columns_with_faults_and_books(testnet: Testnet) -> None:
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
        scene = dashboard.scene(float(step))
    books = [Book(number, 599_000, None, 599_500) for number in range(3)]
    lines = shown(_with(scene, books, [f"validator-{n}: " + "x" * 100 for n in range(9)]), testnet)
    assert max(len(line) for line in lines) <= 80
    text = "\n".join(lines)
    assert "20,000 /s" in text
    assert "and 3 more" in text
    assert "BTC-PERP" in text


def _with(scene: Scene, books: list[Book], faults: list[str]) -> Scene:
    import msgspec

    return msgspec.structs.replace(scene, books=books, faults=faults)
