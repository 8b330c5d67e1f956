"""A sequencer process on a real port, with clients that leave batches for their disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from ledger_world import key_of

from client.endpoint import Endpoint
from client.nonces import wall_clock_ms
from cluster.testnet import TestnetOptions, create_testnet
from protocol.actions import ALL_MARKETS, ActionBatch, CancelAll, sign_batch
from protocol.chain import Block
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.ordering import decode_payload
from sequencer.process import SequencerProcess
from store.config import load_chain, load_config, load_process_key

ALICE, BOB = key_of("alice"), key_of("bob")
NOW_MS = 1_700_000_100_000


def cancel(chain: Chain, key: Key = ALICE, account: int = 16, nonce_ms: int = NOW_MS) -> bytes:
    """A signed `CancelAll`."""
    batch = ActionBatch(account, nonce_ms, 0, [CancelAll(ALL_MARKETS)])
    return sign_batch(key, chain.chain_id, chain.genesis.shard, batch)


class Shell:
    """A sequencer process on a real port, and the batches that it ordered."""

    def __init__(self, directory: Path) -> None:
        testnet = create_testnet(directory, TestnetOptions(traders=2, free_ports=True))
        self.path = testnet.config_path("sequencer-0")
        self.config = load_config(self.path)
        self.chain = load_chain(self.config)
        self.process = SequencerProcess(
            self.config, self.chain, load_process_key(self.config, self.chain)
        )
        self.stop = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.config.public.rpartition(":")
        return host, int(port)

    def listens(self) -> bool:
        server = self.process._service._server
        return server is not None and server._server is not None

    def ordered(self) -> list[bytes]:
        """The batches of all blocks, in their order."""
        found: list[bytes] = []
        for height in range(1, self.process._store.height + 1):
            stored = self.process._store.stored(height)
            assert stored is not None
            block: Block = stored[0]
            if block.payload:
                found += decode_payload(block.payload).batches
        return found

    async def settle(self, count: int) -> list[bytes]:
        """What is ordered once there is this much of it, and some time has brought no more."""
        await self.until(lambda: len(self.ordered()) >= count)
        await asyncio.sleep(0.1)
        return self.ordered()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until this holds."""
        for _ in range(500):
            if true():
                return
            await asyncio.sleep(0.01)
        raise TimeoutError

    async def client(self, *keys: Key) -> Endpoint:
        endpoint = Endpoint(*self.address, self.chain)
        await endpoint.greet()
        for key in keys or (ALICE,):
            await endpoint.prove(key)
        return endpoint


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Shell]:
    shell = Shell(directory)
    serving = asyncio.ensure_future(shell.process.serve(shell.stop))
    await shell.until(shell.listens)
    machine = shell.process._machine
    shell.process._guarded(lambda: machine.note_settled(0, wall_clock_ms()))  # no base layer is up
    try:
        yield shell
    finally:
        shell.stop.set()
        await serving


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(work, 60))


def now_cancel(shell: Shell, account: int = 16, key: Key = ALICE) -> bytes:
    return cancel(shell.chain, key, account, wall_clock_ms())
