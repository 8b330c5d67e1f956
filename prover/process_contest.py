"""How challengers and defending provers reach the base layer and execution: proofs are verified,
data is checked against what is proven.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import structlog

from net.rpc import Connection
from net.upstream import Upstream
from protocol.batch_data import unpack_blocks
from protocol.codec import Decoder, encode
from protocol.dispute import DisputeLeaf, Prove, ShowPart, part_hash
from protocol.errors import Code, Rejected, RemoteFault
from protocol.events import BlockDiff, decode_block_diff
from protocol.ledger_leaves import SettledBatch
from protocol.messages import BlocksFrom, BlocksView, Committed, decode_answer
from protocol.messages_disputes import DisputesRequest, DisputesView
from protocol.messages_trading import DiffPush, SubscribeDiffs
from protocol.ordering import OrderedBlock
from protocol.settlement import (
    BatchHeader,
    LedgerAction,
    PostBatch,
    decode_signed_transaction,
    decode_transaction,
)
from prover.contest import Leaves
from prover.process_agreement import Retention
from prover.witness import shown_hash

T = TypeVar("T")
DIFFS_TIMEOUT_S = 20

_log = structlog.get_logger()
_decode_payload: Decoder[list[bytes]] = Decoder(list[bytes])


def posted_blocks(view: BlocksView, settled: SettledBatch) -> list[OrderedBlock]:
    """The ordered blocks that a batch was posted with, out of the ledger block that settled it.

    Raises `Rejected` where the block does not hold the batch. Whether the blocks are the batch's
    its data root says.
    """
    for action in _actions(view, settled.ledger_height):
        if isinstance(action, PostBatch) and action.header == settled.header:
            return unpack_blocks(action.data)
    raise Rejected(
        Code.NOT_FOUND,
        f"ledger block {settled.ledger_height} was shown without batch {settled.header.number}",
    )


def shown_heights(game: DisputeLeaf) -> list[int]:
    """Heights of the ledger blocks that hold the witness that a game's other side showed last."""
    return sorted({game.shown_height, *(height for height, _ in game.shown_parts)})


def shown_witness(views: Sequence[BlocksView], game: DisputeLeaf) -> bytes:
    """The witness that the other side of a game has shown last, out of the ledger blocks with its
    move and its parts; what it shows hashes to what the game says.

    Raises `Rejected` where the blocks do not hold it.
    """
    wanted, parts = set(game.shown_parts), dict[tuple[int, bytes], bytes]()
    ends: list[bytes] = []
    for height in shown_heights(game):
        for action in (one for view in views for one in _actions(view, height)):
            if isinstance(action, ShowPart) and (height, part_hash(action.data)) in wanted:
                parts[height, part_hash(action.data)] = action.data
            elif isinstance(action, Prove) and height == game.shown_height:
                ends.append(action.witness)
    if wanted == parts.keys():
        before = b"".join(parts[place] for place in game.shown_parts)
        for end in ends:
            with suppress(Rejected):
                if shown_hash(before + end) == game.shown:
                    return before + end
    raise Rejected(
        Code.NOT_FOUND, f"ledger block {game.shown_height} was shown without the witness of a game"
    )


def _actions(view: BlocksView, height: int) -> Iterator[LedgerAction]:
    """The ledger actions in the block of a height, as far as they decode."""
    for block in view.blocks:
        if block.header.height != height or not block.payload:
            continue
        for raw in _decode_payload(block.payload):
            try:
                yield decode_transaction(decode_signed_transaction(raw).payload).action
            except Rejected:
                continue


class ProcessContest:
    """The surroundings of a challenger's or a prover's contests in their processes.

    `leaves` proves ledger leaves, `send` sends a transaction and waits for its block. `execution`
    and `prover` (public key): those of a defending prover.
    """

    def __init__(
        self,
        ledger: Upstream,
        leaves: Callable[[Sequence[bytes]], Awaitable[Leaves]],
        send: Callable[[LedgerAction], Awaitable[Committed]],
        execution: Upstream | None = None,
        prover: bytes = b"",
    ) -> None:
        self._ledger = ledger
        self._leaves = leaves
        self._send = send
        self._execution = execution
        self._prover = prover
        self._retention = Retention(
            "a disputed batch of ours cannot be defended with what it keeps; where no other node "
            "has the diffs, the dispute is lost"
        )
        self.busy = asyncio.Lock()
        """Held while the machine works in another thread."""
        self.last = ""
        """What happened last, for the status."""

    async def leaves(self, keys: Sequence[bytes]) -> Leaves:
        """Proven ledger leaves."""
        return await self._leaves(keys)

    async def batch_blocks(self, settled: SettledBatch) -> list[OrderedBlock]:
        """The data of a settled batch, from the block that settled it."""
        return posted_blocks(await self._block(settled.ledger_height), settled)

    async def _block(self, height: int) -> BlocksView:
        return await self._ledger.ask(
            BlocksView, lambda request_id: BlocksFrom(request_id, height, 1)
        )

    async def shown(self, game: DisputeLeaf) -> bytes:
        """The other side's last witness, from the blocks with its move and its parts."""
        return shown_witness([await self._block(one) for one in shown_heights(game)], game)

    async def send(self, action: LedgerAction) -> Committed:
        """Send a move."""
        return await self._send(action)

    async def pause(self, pause_ms: int) -> None:
        """Wait."""
        await asyncio.sleep(pause_ms / 1000)

    async def apart(self, work: Callable[[], T]) -> T:
        """Do long work in a thread."""
        async with self.busy:
            return await asyncio.to_thread(work)

    async def drop(self) -> None:
        """Ask another validator next time."""
        await self._ledger.drop()

    def tell(self, what: str, number: int, text: str = "") -> None:
        """Log what people should know."""
        if what == "checked":
            return
        if what != "interrupted":
            self.last = f"batch {number} {what} {text}".rstrip()
        log = {"wrong": _log.error, "lost": _log.critical, "interrupted": _log.debug}
        log.get(what, _log.info)(f"dispute: {what}", batch=number, text=text)

    # --- for provers

    async def games(self) -> list[tuple[int, bytes]]:
        """Games that wait for the prover, as a validator tells."""
        view = await self._ledger.ask(
            DisputesView, lambda request_id: DisputesRequest(request_id, self._prover)
        )
        return view.games

    async def diffs(self, header: BatchHeader) -> list[BlockDiff]:
        """State diffs of a batch's blocks from an execution node."""
        if self._execution is None:
            raise Rejected(Code.NOT_READY, "no execution node is configured")
        try:
            async with asyncio.timeout(DIFFS_TIMEOUT_S):
                return await self._read_diffs(self._execution, header)
        finally:
            # The stream goes on behind what is needed.
            await self._execution.drop()

    async def _read_diffs(self, execution: Upstream, header: BatchHeader) -> list[BlockDiff]:
        connection = await execution.connection()
        address = connection.host, connection.port
        try:
            diffs = await _diffs_of(connection, header)
        except RemoteFault as fault:
            self._retention.refused(address, fault)
            raise
        self._retention.served(address)
        return diffs


async def _diffs_of(connection: Connection, header: BatchHeader) -> list[BlockDiff]:
    request_id = connection.next_request_id()
    request = encode(SubscribeDiffs(request_id, header.first_block))
    diffs: list[BlockDiff] = []
    async for frame in connection.subscribe(request, request_id, capacity=64):
        answer = decode_answer(frame)
        if not isinstance(answer, DiffPush):
            raise Rejected(Code.UNKNOWN_MESSAGE, "expected state diffs")
        diffs.append(decode_block_diff(answer.diff))
        if diffs[-1].height >= header.last_block:
            return diffs
    raise ConnectionError("the stream of diffs ended early")
