"""A signed batch on its way: accepted, ordered, executed, settled and final."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from protocol.errors import Code, RemoteFault
from protocol.events import BatchExecuted, Result
from protocol.meanings import meaning
from protocol.ordering import Receipt

State = Literal["accepted", "ordered", "executed", "settled", "final"]
STATES: tuple[State, ...] = ("accepted", "ordered", "executed", "settled", "final")


class Submission:
    """One signed batch. Times are `time.perf_counter_ns`, 0 where the state is not reached yet;
    `sent_ns` is when it was last sent.

    `receipt` is the sequencer's promise (verified), `height` the ordered block, `result` what
    execution says. `error` is set when the batch was refused before it was accepted.
    """

    __slots__ = (
        "_waiters",
        "accepted_ns",
        "account",
        "actions",
        "attempts",
        "error",
        "executed_ns",
        "final_ns",
        "height",
        "nonce_ms",
        "on_fail",
        "on_reach",
        "ordered_ns",
        "orders",
        "raw",
        "receipt",
        "result",
        "sent_ns",
        "settled_ns",
        "signer",
        "submitted_ns",
    )  # fmt: skip

    def __init__(
        self, raw: bytes, signer: bytes, nonce_ms: int, account: int, actions: int
    ) -> None:
        self.raw = raw
        self.signer = signer
        self.nonce_ms = nonce_ms
        self.account = account
        self.actions = actions
        self.attempts = 0
        self.sent_ns = 0
        self.height = 0
        self.receipt: Receipt | None = None
        self.result: BatchExecuted | None = None
        self.error: Exception | None = None
        self.submitted_ns = self.accepted_ns = self.ordered_ns = 0
        self.executed_ns = self.settled_ns = self.final_ns = 0
        self.orders = actions
        self.on_fail: Callable[[Submission, Exception], None] | None = None
        self.on_reach: Callable[[Submission, State], None] | None = None
        self._waiters: dict[State, asyncio.Future[None]] = {}

    @property
    def key(self) -> tuple[bytes, int]:
        """Signer and nonce: what results are matched by."""
        return self.signer, self.nonce_ms

    def reached_ns(self, state: State) -> int:
        """When a state was reached (`time.perf_counter_ns`), 0 if not yet."""
        at_ns: int = getattr(self, f"{state}_ns")
        return at_ns

    def latency_ms(self, state: State) -> float:
        """Milliseconds from the first submission to a state that was reached."""
        return (self.reached_ns(state) - self.submitted_ns) / 1e6

    def reach(self, state: State, now_ns: int | None = None) -> None:
        """Note a state, and those before it that were passed unseen; wakes who waits."""
        now_ns = time.perf_counter_ns() if now_ns is None else now_ns
        for passed in STATES[: STATES.index(state) + 1]:
            if not self.reached_ns(passed):
                setattr(self, f"{passed}_ns", now_ns)
                if self.on_reach is not None:
                    self.on_reach(self, passed)
            waiter = self._waiters.pop(passed, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """The batch was refused, or lost its way for good; wakes who waits."""
        self.error = error
        if self.on_fail is not None:
            self.on_fail(self, error)
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            if not waiter.done():
                waiter.set_exception(error)

    @property
    def refused(self) -> bool:
        """Whether it is known that execution did nothing of the batch."""
        event = self.result
        return event is not None and (
            event.code != 0 or all(result.code for result in event.results)
        )

    async def wait(
        self, state: State, timeout_ms: int = 60_000, *, while_useful: bool = False
    ) -> None:
        """Wait for a state; `while_useful`: for no state after `executed` where nothing was done.

        Raises `RemoteFault` where the sequencer refused the batch, `TimeoutError` with what was
        reached.
        """
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                if while_useful and STATES.index(state) > STATES.index("executed"):
                    await self._reached("executed")
                    if self.refused:
                        return
                await self._reached(state)
        except TimeoutError:
            reached = [name for name in STATES if self.reached_ns(name)]
            raise TimeoutError(
                f"the batch is not {state} after {timeout_ms / 1000:g} s "
                f"(it is {reached[-1] if reached else 'submitted'})"
            ) from None

    async def _reached(self, state: State) -> None:
        if self.reached_ns(state):
            return
        if self.error is not None:
            raise self.error
        waiter = self._waiters.get(state)
        if waiter is None:
            waiter = self._waiters[state] = asyncio.get_running_loop().create_future()
        await asyncio.shield(waiter)

    async def accepted(self, timeout_ms: int = 60_000) -> Receipt:
        """Wait for the sequencer's receipt."""
        await self.wait("accepted", timeout_ms)
        if self.receipt is None:
            raise RemoteFault(Code.NOT_FOUND, "the batch was executed; its receipt was lost")
        return self.receipt

    async def ordered(self, timeout_ms: int = 60_000) -> int:
        """Wait for the batch's place in the log; returns the block's height (0 if not told)."""
        await self.wait("ordered", timeout_ms)
        return self.height

    async def executed(self, timeout_ms: int = 60_000) -> BatchExecuted:
        """Wait for the result."""
        await self.wait("executed", timeout_ms)
        if self.result is None:
            raise RemoteFault(Code.NOT_FOUND, "the batch was executed; its result was lost")
        return self.result

    async def settled(self, timeout_ms: int = 120_000) -> None:
        """Wait until a batch with the executed block is committed on the base layer."""
        await self.wait("settled", timeout_ms)

    async def final(self, timeout_ms: int = 120_000) -> None:
        """Wait until nothing can remove that batch any more: its window has passed."""
        await self.wait("final", timeout_ms)


class ActionRejected(RemoteFault):
    """Execution refused a batch, or an action of it (exit 3)."""


def results_of(event: BatchExecuted) -> list[Result]:
    """The results of a batch; raises `ActionRejected` where it, or an action, was refused."""
    if event.code:
        raise ActionRejected(event.code, meaning(event.code))
    for place, result in enumerate(event.results):
        if result.code:
            which = f"action {place + 1}: " if len(event.results) > 1 else ""
            raise ActionRejected(result.code, which + meaning(result.code))
    return event.results
