"""The prover process: follows log and execution, keeps the state tree, posts batches."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from execution.process_light import CHECKPOINT_NAME
from execution.process_log import LogFollower
from net.logs import set_log_place
from net.runner import run_process, until_stopped
from net.service import ClientSession, PublicService, StatusValues
from net.upstream import Upstream, next_frame
from protocol.codec import Wire, encode
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
from protocol.settlement import LedgerAction, PostBatch, sign_action
from prover.batcher import Batch, Batcher
from prover.contest import Defending
from prover.defence import Defence
from prover.posting import Poster, Standing
from prover.process_agreement import ExecutionWatch, Retention
from prover.process_contest import ProcessContest
from prover.process_health import SettlementLag, trouble
from prover.process_settled import SettledBatches
from prover.settlement import (
    Settlement,
    genesis,
    interval_ms,
    make_batcher,
    place_of,
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

RETRY_S = 0.25
POST_TIMEOUT_MS = 20_000

COMPLAINT_INTERVAL_MS = 60_000
"""Least time between two lines of the log on a batch that the ledger refuses."""

T = TypeVar("T")

_log = structlog.get_logger()


class ProverProcess:
    """Runs one prover."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        self._config = config
        self._chain = chain
        self._key = key
        self._store = ProverStore(config.data)
        self._batcher = self._restore()
        self._settlement = Settlement(
            self._batcher, interval_ms(chain, BATCH_INTERVAL_MS), IDLE_INTERVAL_MS,
            *place_of(chain, key.public),
        )  # fmt: skip
        self._poster = Poster(self, self._store, self._batcher, self._settlement)
        executions = [parse_address(one) for one in config.execution]
        self._execution = Upstream(executions, chain.chain_id, config.name)
        self._others = ExecutionWatch(
            chain, executions, config.name, lambda: self._batcher.next_diff
        )
        self._retention = Retention(
            "nothing settles until an execution node has the diffs of these blocks: one that "
            "begins with an empty data directory makes them anew"
        )
        self._ledger = Upstream(
            [parse_address(one) for one in config.validators], chain.chain_id, config.name, key
        )
        self._proven = SettledBatches(
            chain, self._ledger, config.data / CHECKPOINT_NAME,
            least_height=self._store.ledger_height(),
        )  # fmt: skip
        self._contest = ProcessContest(
            Upstream(
                [parse_address(one) for one in config.validators], chain.chain_id, config.name
            ),
            self._proven.leaves,
            self.send,
            Upstream(executions, chain.chain_id, config.name),
            key.public,
        )
        defence = Defence(chain, self._batcher.tree, self._store)
        self._defending = Defending(self._contest, defence, chain)
        self._service = PublicService(chain, "prover", config.name, self._status)
        self._service.on(WithdrawalRequest, self._withdrawal)
        self._service.on(
            StateProofRequest, lambda _, request: state_proof_view(request, self._batcher)
        )
        metrics = self._service.metrics
        self._lag = SettlementLag(
            metrics.histogram("executed_to_settled_seconds"),
            metrics.histogram("settled_to_final_seconds"),
        )
        self._service.trouble = self._trouble
        self._service.note = self._others.agreement.sentence
        set_log_place(self._place)
        self._disagreements = 0
        self._settled = 0
        self._settled_actions = 0
        self._data_bytes = 0
        self._tree_ns = 0
        self._refusal = ""
        self._complained_ms: int | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._again = asyncio.Event()
        self._sending = asyncio.Lock()

    def _restore(self) -> Batcher:
        chain = self._chain
        position = self._store.position()
        if position is None:
            position, tree = genesis(chain)
            self._store.begin(position, list(tree.iterate()))
        else:
            tree = StateTree(self._store.leaves())
        return make_batcher(chain, self._key.public, tree, position)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        port = await self._service.open(self._config)
        gc.freeze()  # the tree lives on: collecting it again and again only costs time
        tasks = [
            asyncio.ensure_future(self._follow()),
            asyncio.ensure_future(self._poster.run(self._store.posting())),
            asyncio.ensure_future(self._proven.stay_fresh()),
            asyncio.ensure_future(self._others.run()),
            *self._defend(),
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

    def _defend(self) -> list[asyncio.Future[None]]:
        """Answer disputes, where the chain leaves time for any."""
        if not self._chain.genesis.settlement.window_ms:
            return []
        return [asyncio.ensure_future(self._defending.run())]

    # --- inputs

    async def _follow(self) -> None:
        """Follow log and execution; anew from wherever the position went back to."""
        while True:
            self._again.clear()
            tasks = [
                asyncio.ensure_future(self._follow_log()),
                asyncio.ensure_future(self._follow_execution()),
                asyncio.ensure_future(self._again.wait()),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()
            await self._execution.drop()

    async def _follow_log(self) -> None:
        position = self._batcher.position
        addresses = [parse_address(one) for one in self._config.sequencers]
        log = LogFollower(
            self._chain, addresses, self._config.name, position.block, position.block_id
        )
        async for chunk in log.chunks():
            if self._again.is_set():
                return
            self._batcher.add_chunk(chunk)
            self._news.set()
            await self._until(self._batcher.takes_blocks)

    async def _follow_execution(self) -> None:
        while True:
            connection = await self._execution.connection()
            address = connection.host, connection.port
            try:
                self._others.follows(address)
                request_id = connection.next_request_id()
                request = encode(SubscribeDiffs(request_id, self._batcher.next_diff))
                frames = connection.subscribe(request, request_id, capacity=64)
                while True:
                    answer = decode_answer(await next_frame(connection, frames))
                    if not isinstance(answer, DiffPush):
                        raise Rejected(Code.UNKNOWN_MESSAGE, "expected state diffs")
                    if self._again.is_set():
                        return
                    diff = decode_block_diff(answer.diff)
                    if diff.height != self._batcher.next_diff:
                        raise Rejected(Code.MALFORMED, "execution skipped a state diff")
                    self._others.told(address, answer.diff, diff.height)
                    self._retention.served(address)
                    self._batcher.add_diff(diff)
                    self._lag.executed(diff)
                    self._news.set()
                    await self._until(self._batcher.takes_diffs)
            except (ConnectionError, TimeoutError, RemoteFault, EOFError, Rejected) as error:
                if self._retention.refused(address, error):
                    await asyncio.sleep(RETRY_S)
                else:
                    _log.info("execution lost", error=str(error))
            await self._execution.drop()

    async def _until(self, has_room: Callable[[], bool]) -> None:
        """What waits for settlement waits in memory: what is too much is not read yet. Whoever
        streams it waits, or ends the stream, which is then asked for again where it ended."""
        while not has_room():
            self._room.clear()
            await self._room.wait()

    # --- settlement: the surroundings of a `prover.posting.Poster`

    def now_ms(self) -> int:
        """Milliseconds of a clock that only goes forward."""
        return _now_ms()

    async def standing(self, numbers: Sequence[int]) -> Standing:
        """The ledger as a validator proves it; asks until that is answered."""
        while True:
            try:
                standing = await self._proven.standing(numbers)
                self._lag.final(standing.final.batch)
                return standing
            except RemoteFault as error:
                _log.warning("ledger refuses", error=str(error))
            except (ConnectionError, TimeoutError, Rejected) as error:
                _log.info("ledger lost", error=str(error))
            await self._ledger.drop()
            await asyncio.sleep(RETRY_S)

    async def submit(self, posting: PostBatch) -> Committed:
        """Send a batch to the ledger."""
        try:
            return await self.send(posting)
        except (ConnectionError, TimeoutError, Rejected, RemoteFault):
            await self._ledger.drop()
            raise

    async def send(self, action: LedgerAction) -> Committed:
        """Sign a ledger transaction and wait until it is committed; one after the other, as each
        takes the key's next nonce. Raises what asking raises."""
        address = self._key.address
        async with self._sending:
            balance = await self._ledger.ask(
                BalanceView, lambda request_id: BalanceRequest(request_id, address)
            )
            # The least fee is enough: validators put batches before everything else.
            signed = sign_action(self._key, self._chain, balance.nonce, action)
            return await self._ledger.ask(
                Committed, lambda request_id: SubmitTransaction(request_id, signed), POST_TIMEOUT_MS
            )

    async def news(self, timeout_ms: int | None) -> None:
        """Return when blocks or diffs came, or after a while."""
        self._room.set()
        self._news.clear()
        await _wait(self._news, timeout_ms)

    async def pause(self, pause_ms: int) -> None:
        """Wait."""
        await asyncio.sleep(pause_ms / 1000)

    async def synced(self) -> None:
        """The database syncs every transaction itself."""

    def timed(self, build: Callable[[], T]) -> T:
        """Run what builds a batch, and count the time."""
        started = time.perf_counter_ns()
        built = build()
        self._tree_ns += time.perf_counter_ns() - started
        self._room.set()
        return built

    def moved(self) -> None:
        """Blocks and diffs must come again from an earlier position on."""
        self._again.set()

    def tell(self, what: str, number: int, code: int = 0, text: str = "") -> None:
        """Keep in the status why a batch does not settle, and log what people should know."""
        self._room.set()
        if what == "refused":
            self._refuse(number, code, text)
        elif what in ("settled", "followed"):
            self._refusal = ""
        elif what == "wrong":
            self._disagreements += 1
            _log.error("a settled batch contradicts our execution", number=number)
        elif what == "taken_back":
            self._lag.removed(number)
            _log.warning("batches were removed or replaced", first=number)
        elif what == "unproven":
            _log.warning("batch is not proven settled", number=number)
        elif what == "interrupted":
            _log.info("posting interrupted", number=number, error=text)

    def count(self, batch: Batch | None, posting: PostBatch | None) -> None:
        """A batch is settled; of one from before a restart only the posting is at hand."""
        self._settled += 1
        settled = batch or posting
        if settled is not None:
            self._lag.settled(settled.header)
        if batch is not None:
            self._settled_actions += batch.actions
            self._data_bytes += len(batch.data)
        elif posting is not None:
            self._data_bytes += len(posting.data)

    def _refuse(self, number: int, code: int, text: str) -> None:
        """Tell why a batch does not settle: in the status, and now and then in the log."""
        self._refusal = refusal_text(code, text, self._key.address)
        now_ms = _now_ms()
        if self._complained_ms is None or now_ms - self._complained_ms >= COMPLAINT_INTERVAL_MS:
            self._complained_ms = now_ms
            _log.error("batch refused", number=number, error=self._refusal)

    # --- queries

    def _withdrawal(self, session: ClientSession, request: WithdrawalRequest) -> Wire:
        del session
        found = self._store.withdrawal(request.number) if request.number < 1 << 63 else None
        return withdrawal_view(request, found, self._store.unsettled())

    def _status(self) -> StatusValues:
        batcher = self._batcher
        return {
            "batch": batcher.position.number,
            "height": batcher.position.block,
            "state_root": batcher.position.state_root.hex(),
            "waiting_blocks": batcher.waiting_blocks,
            "settlement_lag_ms": self._lag.lag_ms(),
            "root_disagreements": self._disagreements,
            "final_batch": self._poster.final_batch,
            "wrong_batch": self._poster.wrong_batch,
            "taken_back": self._poster.taken_back,
            "moves_of_defence": self._defending.moves,
            "settled_batches": self._settled,
            "settled_actions": self._settled_actions,
            "data_bytes": self._data_bytes,
            "leaves": len(batcher.tree),
            "tree_ms": self._tree_ns // 1_000_000,
            "store_bytes": self._store.stored_bytes,
            "refusal": self._refusal,
            "disagreement": self._others.agreement.sentence(),
            "execution_disagreements": self._others.agreement.disagreements,
        }

    def _trouble(self) -> str:
        number, wrong = self._batcher.position.number, self._poster.wrong_batch
        return trouble(self._lag.lag_ms(), number, self._refusal, wrong)

    def _place(self) -> dict[str, int]:
        position = self._batcher.position
        return {"height": position.block, "batch": position.number}


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


async def _wait(event: asyncio.Event, timeout_ms: int | None) -> None:
    try:
        async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
            await event.wait()
    except TimeoutError:
        return


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    await ProverProcess(config, chain, key).serve(stop)


def main(config_path: Path) -> int:
    """Run the prover of a configuration file; returns the exit status."""
    return run_process(config_path, "prover", _serve)
