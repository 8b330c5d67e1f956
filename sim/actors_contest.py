"""How the simulator's challengers and provers reach the base layer and execution."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from execution.process_light import LightFollower
from protocol.dispute import DisputeLeaf
from protocol.events import BlockDiff, decode_block_diff
from protocol.ledger_leaves import SettledBatch
from protocol.messages import BlocksFrom, BlocksView, Committed
from protocol.messages_disputes import DisputesRequest, DisputesView
from protocol.messages_trading import DiffPush, SubscribeDiffs
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, LedgerAction
from prover.contest import Leaves
from prover.process_contest import posted_blocks, shown_heights, shown_witness
from sim.actors_followers import Upstream
from sim.actors_process import Process
from sim.actors_tasks import Promise
from sim.checkers import Violation

T = TypeVar("T")

ASK_MS = 1_000
DIFFS_MS = 3_000


class SimContest:
    """What `prover.process_contest.ProcessContest` is to the processes."""

    def __init__(
        self,
        process: Process,
        validators: list[str],
        send: Callable[[LedgerAction], Awaitable[Committed]],
        executions: Sequence[str] = (),
        prover: bytes = b"",
    ) -> None:
        self._process = process
        self._upstream = Upstream(process, validators)
        self._light = LightFollower(process.chain, self._upstream, None, process.now_ms)
        self._send = send
        self._executions = executions
        self._prover = prover

    async def leaves(self, keys: Sequence[bytes]) -> Leaves:
        """Proven ledger leaves."""
        return await self._light.leaves(keys)

    async def batch_blocks(self, settled: SettledBatch) -> list[OrderedBlock]:
        """The data of a settled batch, from the block that settled it."""
        return posted_blocks(await self._block(settled.ledger_height), settled)

    async def _block(self, height: int) -> BlocksView:
        return await self._upstream.ask(
            BlocksView, lambda request_id: BlocksFrom(request_id, height, 1), ASK_MS
        )

    async def shown(self, game: DisputeLeaf) -> bytes:
        """The other side's last witness, from the blocks with its move and its parts."""
        return shown_witness([await self._block(one) for one in shown_heights(game)], game)

    async def send(self, action: LedgerAction) -> Committed:
        """Send a move."""
        return await self._send(action)

    async def pause(self, pause_ms: int) -> None:
        """Wait."""
        await self._process.sleep(pause_ms)

    async def apart(self, work: Callable[[], T]) -> T:
        """Time stands still while a simulated process works."""
        return work()

    async def drop(self) -> None:
        """Ask another validator next time."""
        await self._upstream.drop()

    def tell(self, what: str, number: int, text: str = "") -> None:
        """Count what happened."""
        self._process.kernel.trace("dispute", self._process.name, what, number, text)
        self._process.history.count(f"disputes_{what}")
        if what == "lost":
            raise Violation("dispute", text)

    async def games(self) -> list[tuple[int, bytes]]:
        """Games that wait for the prover."""
        view = await self._upstream.ask(
            DisputesView, lambda request_id: DisputesRequest(request_id, self._prover)
        )
        return view.games

    async def diffs(self, header: BatchHeader) -> list[BlockDiff]:
        """State diffs of a batch's blocks, from one of the execution nodes."""
        process, diffs = self._process, list[BlockDiff]()
        done: Promise[None] = Promise()

        def take(message: Any) -> None:
            if isinstance(message, DiffPush):
                diff = decode_block_diff(message.diff)
                if diff.height == header.first_block + len(diffs) <= header.last_block:
                    diffs.append(diff)
                if len(diffs) > header.last_block - header.first_block:
                    done.resolve(None)

        stream = process.open_stream(take)
        node = process.random.pick(list(self._executions))
        process.send(node, SubscribeDiffs(stream, header.first_block))
        process.later(DIFFS_MS, done.resolve, None)
        await done
        process.close_stream(stream)
        return diffs
