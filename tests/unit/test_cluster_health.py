"""The health probe against servers that answer well, badly, or not at all."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.faults_targets import FaultFailed
from cluster.faults_wire import read_faults
from cluster.health import main, probe, wait_testnet
from cluster.testnet import TestnetOptions, create_testnet
from protocol.codec import encode
from protocol.errors import Rejected, RemoteFault
from protocol.messages import ErrorFrame, Hello, Status, StatusRequest, Welcome, decode_request
from store.testnet import ProcessEntry

CHAIN = bytes(range(32))
PATIENCE_S = 60.0


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def answer_well(request: object) -> bytes:
    if isinstance(request, Hello):
        return frame(encode(Welcome(request.request_id, 1, CHAIN, 0, "node", "v", 1, b"c")))
    if isinstance(request, StatusRequest):
        return frame(encode(Status(request.request_id, {"height": 7})))
    return b""


@asynccontextmanager
async def server(answer: Callable[[object], bytes]) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readexactly(4):
                payload = await reader.readexactly(*struct.unpack(">I", header))
                writer.write(answer(decode_request(payload)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def test_a_process_that_serves_tells_its_status() -> None:
    async with server(answer_well) as address:
        assert (await probe(address, CHAIN, PATIENCE_S)).values == {"height": 7}
        assert (await probe(address, b"", PATIENCE_S)).values == {"height": 7}
        everywhere = address.replace("127.0.0.1", "0.0.0.0")
        assert (await probe(everywhere, CHAIN, PATIENCE_S)).values == {"height": 7}
        with pytest.raises(Rejected, match="another chain"):
            await probe(address, bytes(32), PATIENCE_S)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (frame(encode(ErrorFrame(1, 702, "starting"))), RemoteFault),
        (frame(encode(Status(1, {}))), Rejected),
        (frame(b"\xc1"), Rejected),
        (struct.pack(">I", 1 << 31), Rejected),
        (struct.pack(">I", 0), Rejected),
    ],
)
async def test_a_wrong_answer_is_an_error(answer: bytes, error: type[Exception]) -> None:
    async with server(lambda _: answer) as address:
        with pytest.raises(error):
            await probe(address, CHAIN, PATIENCE_S)


async def test_silence_and_absence_are_errors() -> None:
    async with server(lambda _: b"") as address:
        with pytest.raises(TimeoutError):
            await probe(address, CHAIN, 0.05)
    with pytest.raises(OSError):
        await probe(address, CHAIN, PATIENCE_S)


async def test_what_is_told_of_a_silent_process_says_that_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> Status:
        raise TimeoutError  # which has no text of its own

    monkeypatch.setattr("cluster.health.probe", silent)
    testnet = create_testnet(tmp_path, TestnetOptions(traders=0, free_ports=True))
    troubles = await wait_testnet(testnet, 0.0)
    assert "validator-0 does not serve: no answer in time" in troubles

    monkeypatch.setattr("cluster.faults_wire.ANSWER_S", 0.05)
    async with server(lambda _: b"") as address:
        entry = ProcessEntry("validator-0", "node", 0, address, observe=address)
        with pytest.raises(FaultFailed, match="nothing in time"):
            await read_faults(entry)


def test_the_command_tells_by_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    testnet = create_testnet(tmp_path, TestnetOptions(traders=0, free_ports=True))
    assert main(["--config", str(testnet.config_path("validator-0"))]) == 1
    assert "validator-0 does not serve" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "absent.toml")]) == 2
    assert "cannot read the configuration" in capsys.readouterr().err
