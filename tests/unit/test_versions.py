"""Both sides of the public port refuse another version of the wire, in a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
import uvloop
from ledger_world import make_chain

from net import upstream
from net.rpc import Connection
from net.service import PublicService
from net.upstream import Upstream, say_hello
from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault
from protocol.messages import WIRE_VERSION, Hello

CHAIN = make_chain([])


class Newer(PublicService):
    """A server that takes our greeting for its own version, and answers with that."""

    def _hello(self, session: Any, request: Hello) -> Wire:
        return msgspec.structs.replace(super()._hello(session, request), version=WIRE_VERSION + 1)


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(work, 20))


async def started(kind: type[PublicService]) -> tuple[PublicService, int]:
    service = kind(CHAIN, "node", "one", dict)
    await service.start("127.0.0.1", 0)
    assert service._server is not None
    return service, service._server.port


@pytest.mark.parametrize("version", [0, WIRE_VERSION + 1])
def test_a_client_of_another_version_is_told_which_one_is_spoken(
    monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    async def work() -> None:
        service, port = await started(PublicService)
        connection = Connection("127.0.0.1", port)
        await connection.open()
        with pytest.raises(RemoteFault, match=f"not spoken here; use {WIRE_VERSION}") as refused:
            await say_hello(connection, CHAIN.chain_id, "client")
        assert refused.value.code == Code.WRONG_VERSION
        await connection.close()
        await service.stop()

    monkeypatch.setattr(upstream, "WIRE_VERSION", version)
    run(work())


def test_a_server_of_another_version_is_refused() -> None:
    async def work() -> None:
        service, port = await started(Newer)
        connection = Connection("127.0.0.1", port)
        await connection.open()
        with pytest.raises(Rejected, match="the server speaks wire version 2") as refused:
            await say_hello(connection, CHAIN.chain_id, "client")
        assert refused.value.code is Code.WRONG_VERSION
        await connection.close()
        await service.stop()

    run(work())


def test_a_process_says_once_that_another_ones_version_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(upstream._log, "warning", lambda _, **fields: told.append(fields["error"]))

    async def work() -> None:
        service, port = await started(Newer)
        asks = Upstream([("127.0.0.1", port)], CHAIN.chain_id, "client")
        for _ in range(5):
            await asks._connect_once()
        assert len(told) == 1 and "run the same release" in told[0], told
        await service.stop()

    run(work())
