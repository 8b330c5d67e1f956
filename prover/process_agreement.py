"""Hears the execution nodes that the prover does not follow, and compares what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256

import structlog

from net.upstream import Upstream, next_frame
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import decode_answer
from protocol.messages_trading import DiffPush, SubscribeDiffs
from prover.agreement import Agreement

AHEAD_MAX = 4_096
"""Blocks by which another node may be ahead of what the prover has itself."""

RETRY_S = 1.0

Address = tuple[str, int]

_log = structlog.get_logger()


class Retention:
    """Execution nodes that do not keep the diffs that are asked for; each is told of once.

    `meaning`: what follows while it stays so. Asked again and again, they would fill the log, or
    nobody would ever read why nothing moves.
    """

    def __init__(self, meaning: str) -> None:
        self._meaning = meaning
        self._told: set[Address] = set()

    def refused(self, address: Address, error: Exception) -> bool:
        """Whether a node failed for this; the first time it is logged."""
        if not isinstance(error, RemoteFault) or error.code != Code.NOT_RETAINED:
            return False
        if address not in self._told:
            self._told.add(address)
            _log.warning(
                "execution node keeps too little",
                node=_named(address), error=error.text, meaning=self._meaning,
            )  # fmt: skip
        return True

    def served(self, address: Address) -> None:
        """It has what is asked for; from now on a refusal is news."""
        self._told.discard(address)


class ExecutionWatch:
    """The execution nodes at `addresses`, beside the one that is followed.

    `next_diff()` is the block whose diff the prover takes next. Nothing that they say changes
    what is posted: it is compared, counted and told.
    """

    def __init__(
        self, chain: Chain, addresses: Sequence[Address], name: str, next_diff: Callable[[], int]
    ) -> None:
        self.agreement = Agreement()
        self._addresses = list(dict.fromkeys(addresses))
        self._upstreams = {one: Upstream([one], chain.chain_id, name) for one in self._addresses}
        self._next_diff = next_diff
        self._retention = Retention(
            "what it says is not compared until the prover has come to the blocks that it keeps"
        )
        self._followed: Address | None = None
        self._moved = asyncio.Event()
        self._grown = asyncio.Event()

    def follows(self, address: Address) -> None:
        """The prover follows the node at this address from now on."""
        self.agreement.began(_named(address))
        if address != self._followed:
            self._followed = address
            self._moved.set()

    def told(self, address: Address, diff: bytes, height: int) -> None:
        """The node at this address has said this of a block."""
        if not self.agreement.told(_named(address), height, sha256(diff).digest()):
            _log.error("execution nodes disagree", what=self.agreement.sentence())
        if address == self._followed:
            self._grown.set()

    async def run(self) -> None:
        """Hear the others for ever; there may be none."""
        hearing: dict[Address, asyncio.Task[None]] = {}
        try:
            while True:
                await self._moved.wait()
                self._moved.clear()
                for address in self._addresses:
                    if address == self._followed and address in hearing:
                        await _ended(hearing.pop(address))
                    elif address != self._followed and address not in hearing:
                        hearing[address] = asyncio.ensure_future(self._hear(address))
                moved = asyncio.ensure_future(self._moved.wait())
                try:
                    done, _ = await asyncio.wait(
                        [moved, *hearing.values()], return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    moved.cancel()
                for task in done:
                    task.result()  # whoever is heard is heard for ever
        finally:
            for task in hearing.values():
                task.cancel()

    async def _hear(self, address: Address) -> None:
        upstream = self._upstreams[address]
        try:
            while True:
                try:
                    await self._compare(upstream, address)
                except (ConnectionError, TimeoutError, RemoteFault, EOFError, Rejected) as error:
                    if not self._retention.refused(address, error):
                        _log.debug("execution node lost", error=str(error))
                await upstream.drop()
                await asyncio.sleep(RETRY_S)
        finally:
            await upstream.close()

    async def _compare(self, upstream: Upstream, address: Address) -> None:
        connection = await upstream.connection()
        self.agreement.began(_named(address))
        request_id, height = connection.next_request_id(), self._next_diff()
        request = encode(SubscribeDiffs(request_id, height))
        frames = connection.subscribe(request, request_id, capacity=64)
        while True:
            answer = decode_answer(await next_frame(connection, frames))
            if not isinstance(answer, DiffPush):
                raise Rejected(Code.UNKNOWN_MESSAGE, "expected state diffs")
            self._retention.served(address)
            # The diff names its block: one that is skipped contradicts what others say of it.
            self.told(address, answer.diff, height)
            height += 1
            while height > self._next_diff() + AHEAD_MAX:
                self._grown.clear()
                await self._grown.wait()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _named(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
