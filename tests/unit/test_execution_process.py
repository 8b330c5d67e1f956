"""Streams of an execution node end with the sessions that asked for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_world import key_of, make_chain
from service_world import until

from execution.process import ExecutionProcess
from net.rpc import Connection
from protocol.codec import Wire, encode
from protocol.messages_market_data import SubscribeLiquidations
from protocol.messages_trading import SubscribeDiffs, SubscribeEvents
from store.config import ProcessConfig


@pytest.mark.parametrize("lost", ["closed", "reset"])
async def test_a_stream_that_waits_for_a_block_ends_with_its_session(
    tmp_path: Path, lost: str
) -> None:
    """Of an idle exchange the next block may be far away, and sessions come and go."""
    chain = make_chain([(key_of("alice"), 0, 500)], sequencers=1)
    config = ProcessConfig(
        "execution", "execution-0", 0, Path("g"), Path("k"), tmp_path, "127.0.0.1:0",
        validators=["127.0.0.1:1"], sequencers=["127.0.0.1:1"],
    )  # fmt: skip
    process = ExecutionProcess(config, chain)
    service = process._service
    await service.start("127.0.0.1", 0)
    assert service._server is not None
    try:
        waiting = service._tasks
        for _ in range(3):
            connection = await Connection("127.0.0.1", service._server.port).open()
            requests: list[Wire] = [
                SubscribeEvents(1, 0, []), SubscribeDiffs(2, 1), SubscribeLiquidations(3, 1, 0)
            ]  # fmt: skip
            streams = [connection.subscribe(encode(one), n) for n, one in enumerate(requests, 1)]
            await until(lambda: len(waiting) == 3)
            if lost == "closed":
                await connection.close()
            else:
                connection.session.reset("test")
            await until(lambda: not waiting)
            for stream in streams:
                with pytest.raises(ConnectionError):
                    await stream.get()
        assert service.fatal is not None and not service.fatal.done()
    finally:
        await service.stop()
        process._store.close()
