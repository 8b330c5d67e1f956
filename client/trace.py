"""One action's way through the five states: asks every process what it saw of it, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from client.channel import Unreachable
from client.endpoint import Endpoint
from protocol.actions import ActionBatch, batch_id, open_batch
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault
from protocol.events import BatchExecuted
from protocol.messages import (
    BatchRequest,
    BatchView,
    LogChunk,
    SubscribeLog,
    decode_answer,
)
from protocol.messages_trace import TraceMark, TraceRequest, TraceState, TraceView
from protocol.messages_trading import ResultRequest, ResultView
from protocol.ordering import OrderedBlock, decode_payload
from store.config import Role, parse_address
from store.running import silence_hint
from store.testnet import ProcessEntry, Testnet

ASK_TIMEOUT_MS = 2_000
ID_BYTES = 32
STATES: tuple[TraceState, ...] = ("accepted", "ordered", "executed", "settled", "final")

A = TypeVar("A", bound=Wire)

_decode_result: Decoder[BatchExecuted] = Decoder(BatchExecuted, canonical=False)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one process saw: a state, when by its own clock (0: it no longer knows), and where."""

    state: TraceState
    process: str
    time_ms: int
    height: int
    number: int


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """The way of one signed batch.

    `place` is that of the action in it (0: all of it), `leader` led its block, `code` is what
    execution said of the batch or the action. `silent` are processes that did not answer.
    """

    batch_id: str
    place: int
    signer: str
    account: int
    nonce_ms: int
    actions: list[str]
    height: int
    leader: str
    code: int | None
    number: int
    prover: str
    steps: list[Step]
    silent: list[str]

    @property
    def reached(self) -> TraceState | None:
        """The last state that anybody saw."""
        seen = {step.state for step in self.steps}
        return next((state for state in reversed(STATES) if state in seen), None)


def parse_action_id(text: str) -> tuple[bytes, int]:
    """Batch id and place (1 is the first action, 0 the whole batch) of ``HEX`` or ``HEX:N``.

    Raises `ConfigError` that says what an id looks like.
    """
    head, colon, tail = text.strip().partition(":")
    try:
        identity = bytes.fromhex(head)
    except ValueError:
        identity = b""
    digits = tail.isascii() and tail.isdigit() and len(tail) <= 3
    place_ok = not colon or (digits and 0 < int(tail) <= 100)
    if len(identity) != ID_BYTES or not place_ok:
        raise ConfigError(
            f"{text!r} is no action id: it is the 64 hex digits that an order command "
            "prints, and may end with :N for the Nth action of a batch"
        )
    return identity, int(tail) if colon else 0


class Tracer:
    """Asks the processes of a testnet; every one has two seconds to answer."""

    def __init__(self, testnet: Testnet) -> None:
        self._testnet = testnet
        self._chain = testnet.chain()
        self._steps: list[Step] = []
        self._silent: dict[str, None] = {}

    async def trace(self, identity: bytes, place: int = 0) -> Trace:
        """What is known now; raises `RemoteFault` (not_found) where no sequencer knows it, and
        `Unreachable` where none answers."""
        self._steps, self._silent = [], {}
        await self._ask_all("sequencer", identity, 0, 0)
        if len(self._silent) == len(self._testnet.of_role("sequencer")):
            raise Unreachable(f"no sequencer answers; {silence_hint(self._testnet, 'sequencer')}")
        if not self._steps:
            raise RemoteFault(
                Code.NOT_FOUND,
                "no sequencer that answers knows this action; they remember the newest 100,000",
            )
        height = max((step.height for step in self._steps if step.state == "ordered"), default=0)
        block = await self._block(height) if height else None
        raw = None if block is None else _find(block, identity)
        number, prover = 0, ""
        if height:
            await self._ask_all("execution", b"", height, 0)
            number, prover = await self._batch_of(height)
        if number:
            await self._ask_all("node", b"", 0, number)
        return await self._told(identity, place, block, raw, number, prover)

    async def _told(
        self,
        identity: bytes,
        place: int,
        block: OrderedBlock | None,
        raw: bytes | None,
        number: int,
        prover: str,
    ) -> Trace:
        signer, batch = (b"", None) if raw is None else _opened(raw)
        if batch is not None and place > len(batch.actions):
            raise ConfigError(f"the batch has {len(batch.actions)} actions, none at {place}")
        result = None if batch is None else await self._result(signer, batch.nonce_ms)
        names = [one.name for one in self._chain.genesis.sequencers]
        self._steps.sort(key=lambda one: (STATES.index(one.state), one.time_ms, one.process))
        return Trace(
            batch_id=identity.hex(), place=place, signer=signer.hex(),
            account=0 if batch is None else batch.account,
            nonce_ms=0 if batch is None else batch.nonce_ms,
            actions=[] if batch is None else _kinds(batch, place),
            height=0 if block is None else block.header.height,
            leader="" if block is None else "".join(names[block.header.proposer :][:1]),
            code=None if result is None else _code(result, place),
            number=number, prover=prover, steps=self._steps, silent=list(self._silent),
        )  # fmt: skip

    async def _ask_all(self, role: Role, identity: bytes, height: int, number: int) -> None:
        """Every process of a role, side by side."""

        async def ask(entry: ProcessEntry) -> None:
            request = (identity, height, number)
            found = await self._ask(entry, TraceView, TraceRequest, *request)
            for mark in [] if found is None else found.marks:
                self._steps.append(_step(entry.name, mark))

        await asyncio.gather(*(ask(entry) for entry in self._testnet.of_role(role)))

    async def _ask(
        self, entry: ProcessEntry, kind: type[A], request: type[Wire], *fields: object
    ) -> A | None:
        """An answer, or None where the process does not give one."""
        endpoint = Endpoint(
            *parse_address(entry.public), self._chain, connect_timeout_ms=ASK_TIMEOUT_MS
        )
        try:
            await endpoint.greet()
            return await endpoint.ask(kind, request, *fields, timeout_ms=ASK_TIMEOUT_MS)
        except (ConnectionError, TimeoutError):
            self._silent[entry.name] = None
        except RemoteFault:
            pass  # it lives, and knows nothing of this
        finally:
            await endpoint.close()
        return None

    async def _first(
        self, role: Role, kind: type[A], request: type[Wire], *fields: object
    ) -> A | None:
        """The first answer that any process of a role gives."""
        for entry in self._testnet.of_role(role):
            if entry.name not in self._silent:
                found = await self._ask(entry, kind, request, *fields)
                if found is not None:
                    return found
        return None

    async def _block(self, height: int) -> OrderedBlock | None:
        """The ordered block of a height, from any sequencer that retains it."""
        for entry in self._testnet.of_role("sequencer"):
            endpoint = Endpoint(
                *parse_address(entry.public), self._chain, connect_timeout_ms=ASK_TIMEOUT_MS
            )
            try:
                await endpoint.greet()
                request_id = endpoint.next_request_id()
                frames = endpoint.subscribe(encode(SubscribeLog(request_id, height)), request_id)
                async with asyncio.timeout(ASK_TIMEOUT_MS / 1000):
                    async for frame in frames:
                        answer = decode_answer(frame)
                        if isinstance(answer, LogChunk):
                            return answer.chunk.blocks[0]
            except (ConnectionError, TimeoutError, RemoteFault, Rejected):
                continue
            finally:
                await endpoint.close()
        return None

    async def _batch_of(self, height: int) -> tuple[int, str]:
        """Number and prover of the settled batch with an ordered block; (0, "") if there is none.

        Batches follow each other, so halving finds it.
        """
        shard = self._chain.genesis.shard
        newest = await self._first("node", BatchView, BatchRequest, shard, 0)
        if newest is None or height > newest.header.last_block:
            return 0, ""
        low, high, found = 1, newest.header.number, newest
        while low < high:
            middle = (low + high) // 2
            view = await self._first("node", BatchView, BatchRequest, shard, middle)
            if view is None or height > view.header.last_block:
                low = middle + 1  # forgotten ones are the oldest
            else:
                high, found = middle, view
        if not found.header.first_block <= height <= found.header.last_block:
            return 0, ""
        return found.header.number, self._prover(found.header.prover)

    def _prover(self, key: bytes) -> str:
        known = self._chain.genesis.provers
        return f"prover-{known.index(key.hex())}" if key.hex() in known else key.hex()[:16]

    async def _result(self, signer: bytes, nonce_ms: int) -> BatchExecuted | None:
        found = await self._first("execution", ResultView, ResultRequest, signer, nonce_ms)
        return None if found is None else _decode_result(found.event)


def _step(process: str, mark: TraceMark) -> Step:
    return Step(
        state=mark.state, process=process, time_ms=mark.time_ms, height=mark.height,
        number=mark.number,
    )  # fmt: skip


def _find(block: OrderedBlock, identity: bytes) -> bytes | None:
    batches = decode_payload(block.payload).batches if block.payload else []
    return next((raw for raw in batches if batch_id(raw) == identity), None)


def _opened(raw: bytes) -> tuple[bytes, ActionBatch]:
    signed, batch = open_batch(raw)
    return signed.signer, batch


def _kinds(batch: ActionBatch, place: int) -> list[str]:
    chosen: Iterable[object] = batch.actions if not place else [batch.actions[place - 1]]
    return [type(action).__name__ for action in chosen]


def _code(event: BatchExecuted, place: int) -> int:
    """The code of the batch, of one action, or of the first action that was refused."""
    if event.code or not event.results:
        return event.code
    if place:
        return event.results[place - 1].code
    return next((result.code for result in event.results if result.code), 0)
