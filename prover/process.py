"""The prover process: follows log and execution, keeps the state tree, posts batches."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from execution.process_light import CHECKPOINT_NAME
from execution.process_log import LogFollower
from net.runner import run_process, until_stopped
from net.service import ClientSession, PublicService, StatusValues
from net.upstream import Upstream
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.events import decode_block_diff
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import (
    BalanceRequest,
    BalanceView,
    Committed,
    StateProofRequest,
    SubmitTransaction,
    WithdrawalRequest,
    decode_answer,
)
from protocol.messages_trading import DiffPush, SubscribeDiffs
from protocol.settlement import (
    BatchHeader,
    PostBatch,
    sign_action,
)
from prover.batcher import Batcher
from prover.process_settled import SettledBatches
from prover.settlement import (
    Settlement,
    genesis,
    require_same_root,
    state_proof_view,
    withdrawal_view,
)
from prover.store import ProverStore
from prover.tree import StateTree
from store.config import ProcessConfig, parse_address

BATCH_INTERVAL_MS = 500
"""Least time between the starts of two batches."""

IDLE_INTERVAL_MS = 30_000
"""Blocks in which nothing happened wait this long for a batch."""

WAITING_MAX = 20_000
"""Blocks, and diffs, that may wait for settlement in memory."""

RETRY_S = 0.25
POST_TIMEOUT_MS = 20_000

COMPLAINT_INTERVAL_MS = 60_000
"""Least time between two lines of the log on a batch that the ledger refuses."""

T = TypeVar("T")

_log = structlog.get_logger()
_decode_posting: Decoder[PostBatch] = Decoder(PostBatch)


class ProverProcess:
    """Runs one prover."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        self._config = config
        self._chain = chain
        self._key = key
        self._store = ProverStore(config.data)
        self._batcher = self._restore()
        self._settlement = Settlement(self._batcher, BATCH_INTERVAL_MS, IDLE_INTERVAL_MS)
        self._execution = Upstream(
            [parse_address(one) for one in config.execution], chain.chain_id, config.name
        )
        self._ledger = Upstream(
            [parse_address(one) for one in config.validators], chain.chain_id, config.name, key
        )
        self._proven = SettledBatches(chain, self._ledger, config.data / CHECKPOINT_NAME)
        self._service = PublicService(chain, "prover", config.name, self._status)
        self._service.on(WithdrawalRequest, self._withdrawal)
        self._service.on(
            StateProofRequest, lambda _, request: state_proof_view(request, self._batcher)
        )
        self._settled = 0
        self._settled_actions = 0
        self._data_bytes = 0
        self._tree_ns = 0
        self._refusal = ""
        self._complained_ms: int | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def _restore(self) -> Batcher:
        chain = self._chain
        position = self._store.position()
        if position is None:
            position, tree = genesis(chain)
            self._store.begin(position, list(tree.iterate()))
        else:
            tree = StateTree(self._store.leaves())
        return Batcher(chain.chain_id, chain.genesis.shard, self._key.public, tree, position)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        host, port = parse_address(self._config.public)
        await self._service.start(host, port)
        gc.freeze()  # the tree lives on: collecting it again and again only costs time
        tasks = [
            asyncio.ensure_future(self._follow_log()),
            asyncio.ensure_future(self._follow_execution()),
            asyncio.ensure_future(self._settle()),
            asyncio.ensure_future(self._proven.stay_fresh()),
        ]
        _log.info("prover ready", batch=self._batcher.position.number, port=port)
        try:
            fatal = self._service.fatal
            await until_stopped(stop, *tasks, *([] if fatal is None else [fatal]))
        finally:
            for task in tasks:
                task.cancel()
            await self._service.stop()
            self._store.close()

    # --- inputs

    async def _follow_log(self) -> None:
        position = self._batcher.position
        addresses = [parse_address(one) for one in self._config.sequencers]
        log = LogFollower(
            self._chain, addresses, self._config.name, position.block, position.block_id
        )
        async for chunk in log.chunks():
            self._batcher.add_chunk(chunk)
            self._news.set()
            # What waits, waits in memory: do not run far ahead of settlement.
            while self._batcher.waiting_blocks > WAITING_MAX:
                self._room.clear()
                await self._room.wait()

    async def _follow_execution(self) -> None:
        while True:
            try:
                connection = await self._execution.connection()
                request_id = connection.next_request_id()
                request = encode(SubscribeDiffs(request_id, self._batcher.next_diff))
                async for frame in connection.subscribe(request, request_id, capacity=64):
                    answer = decode_answer(frame)
                    if not isinstance(answer, DiffPush):
                        raise Rejected(Code.UNKNOWN_MESSAGE, "expected state diffs")
                    self._batcher.add_diff(decode_block_diff(answer.diff))
                    self._news.set()
                    while self._batcher.waiting_diffs > WAITING_MAX:
                        self._room.clear()
                        await self._room.wait()
            except (ConnectionError, TimeoutError, RemoteFault, EOFError, Rejected) as error:
                _log.info("execution lost", error=str(error))
            await self._execution.drop()

    # --- settlement

    async def _settle(self) -> None:
        await self._recover_posting()
        while True:
            known = await self._settled_batch(self._batcher.position.number + 1)
            if known is not None:
                await self._adopt(known)
                continue
            await self._until_due()
            batch, posting = self._build(lambda: self._settlement.build(_now_ms()))
            self._store.write(batch, self._batcher.position, encode(posting))
            await self._post(posting, batch.actions)

    async def _until_due(self) -> None:
        """Wait until a batch is worth posting."""
        while True:
            self._news.clear()
            now_ms = _now_ms()
            due_ms = self._settlement.due_ms(now_ms)
            if due_ms is None:
                await self._news.wait()
            elif due_ms > now_ms:
                await _wait(self._news, due_ms - now_ms)
            else:
                return

    def _build(self, build: Callable[[], T]) -> T:
        started = time.perf_counter_ns()
        built = build()
        self._tree_ns += time.perf_counter_ns() - started
        self._room.set()
        return built

    async def _adopt(self, header: BatchHeader) -> None:
        """Follow a batch that the ledger has already: ours from before a loss of data."""
        while not self._settlement.reaches(header):
            self._news.clear()
            await self._news.wait()
        batch = self._build(lambda: self._settlement.adopt(header))
        self._store.write(batch, self._batcher.position, None)
        self._count(batch.actions, batch.data)

    async def _recover_posting(self) -> None:
        """Post again what was built before a restart, unless it is settled."""
        raw = self._store.posting()
        if raw is None:
            return
        posting = _decode_posting(raw)
        settled = await self._settled_batch(posting.header.number)
        if settled is None:
            await self._post(posting, 0)
        else:
            require_same_root(posting.header, settled)
            self._store.settled()

    async def _settled_batch(self, number: int) -> BatchHeader | None:
        """Header of a batch that is proven settled, None where it is proven not to be; asks until
        that is answered."""
        while True:
            try:
                return await self._proven.header(number)
            except RemoteFault as error:
                _log.warning("ledger refuses", error=str(error))
            except (ConnectionError, TimeoutError, Rejected) as error:
                _log.info("ledger lost", error=str(error))
            await self._ledger.drop()
            await asyncio.sleep(RETRY_S)

    async def _post(self, posting: PostBatch, actions: int) -> None:
        """Post a batch until it is settled."""
        number = posting.header.number
        while True:
            try:
                answer = await self._submit(posting)
                if answer.code == Code.OK and await self._proven.wait(posting.header):
                    break
                if await self._settled_batch(number) is not None:
                    break
                self._refuse(number, answer.code, answer.text)
            except RemoteFault as error:
                # Such as no money for the fee: nothing settles until somebody does something.
                self._refuse(number, error.code, str(error))
                await self._ledger.drop()
                if await self._settled_batch(number) is not None:
                    break
            except (ConnectionError, TimeoutError, Rejected) as error:
                _log.info("posting interrupted", number=number, error=str(error))
                await self._ledger.drop()
                if await self._settled_batch(number) is not None:
                    break
            await asyncio.sleep(RETRY_S)
        self._refusal = ""
        self._store.settled()
        self._count(actions, posting.data)

    def _refuse(self, number: int, code: int, text: str) -> None:
        """Tell why a batch does not settle: in the status, and now and then in the log."""
        self._refusal = refusal_text(code, text, self._key.address)
        now_ms = _now_ms()
        if self._complained_ms is None or now_ms - self._complained_ms >= COMPLAINT_INTERVAL_MS:
            self._complained_ms = now_ms
            _log.error("batch refused", number=number, error=self._refusal)

    def _count(self, actions: int, data: bytes) -> None:
        self._settled += 1
        self._settled_actions += actions
        self._data_bytes += len(data)

    async def _submit(self, posting: PostBatch) -> Committed:
        address = self._key.address
        balance = await self._ledger.ask(
            BalanceView, lambda request_id: BalanceRequest(request_id, address)
        )
        # The least fee is enough: validators put batches before everything else.
        signed = sign_action(self._key, self._chain, balance.nonce, posting)
        return await self._ledger.ask(
            Committed, lambda request_id: SubmitTransaction(request_id, signed), POST_TIMEOUT_MS
        )

    # --- queries

    def _withdrawal(self, session: ClientSession, request: WithdrawalRequest) -> Wire:
        del session
        found = self._store.withdrawal(request.number) if request.number < 1 << 63 else None
        posted = self._store.posting() is not None
        return withdrawal_view(request, found, self._batcher.position.number if posted else None)

    def _status(self) -> StatusValues:
        batcher = self._batcher
        return {
            "batch": batcher.position.number,
            "height": batcher.position.block,
            "state_root": batcher.position.state_root.hex(),
            "waiting_blocks": batcher.waiting_blocks,
            "settled_batches": self._settled,
            "settled_actions": self._settled_actions,
            "data_bytes": self._data_bytes,
            "leaves": len(batcher.tree),
            "tree_ms": self._tree_ns // 1_000_000,
            "store_bytes": self._store.stored_bytes,
            "refusal": self._refusal,
        }


def refusal_text(code: int, text: str, address: bytes) -> str:
    """Why a batch is refused, and what to do where the prover at `address` cannot pay for it."""
    if code != Code.INSUFFICIENT_BALANCE:
        return text
    return (
        f"{text}; pay in to the prover's ledger address: "
        f"trilemma withdraw AMOUNT --to {address.hex()}"
    )


def _now_ms() -> int:
    """Milliseconds of a clock that only goes forward."""
    return time.monotonic_ns() // 1_000_000


async def _wait(event: asyncio.Event, timeout_ms: int) -> None:
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            await event.wait()
    except TimeoutError:
        return


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    await ProverProcess(config, chain, key).serve(stop)


def main(config_path: Path) -> int:
    """Run the prover of a configuration file; returns the exit status."""
    return run_process(config_path, "prover", _serve)
