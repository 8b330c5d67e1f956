"""One step of an ordered block, as a dispute names it, and what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from execution.admission import Opened
from execution.engine import Engine
from execution.phases import work_of
from execution.steps import Stage, Steps, batch_of, plan
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from protocol.settlement import InboxEntry

_BOOKLESS = (
    Stage.INBOX, Stage.COMMITTEE, Stage.EXPIRIES, Stage.LEFT, Stage.UNBACKED, Stage.END,
)  # fmt: skip

WHOLE = -1


class Scope(NamedTuple):
    """What is executed: a stage (None: all), batches, and an account that something may have
    left."""

    stage: Stage | None
    batches: list[Opened]
    left: Sequence[int] = ()

    @property
    def signers(self) -> set[bytes]:
        """Who signed the batches."""
        return {opened.signed.signer for opened in self.batches if opened.signed is not None}

    @property
    def accounts(self) -> list[int]:
        """Whose batches they are, or whom it is about."""
        owners = [opened.batch.account for opened in self.batches if opened.batch is not None]
        return [*owners, *self.left]

    def looks_at(self, market: int) -> bool:
        """Whether it may look at the book of a market."""
        if self.stage in _BOOKLESS:
            return False
        if self.stage not in (Stage.MAKING, Stage.TAKING):
            return True
        actions = [one for opened in self.batches if opened.batch for one in opened.batch.actions]
        return any(getattr(action, "market", market) == market for action in actions)


class StepInput(NamedTuple):
    """What is executed: of an ordered block, with the inbox entries that it takes in and the inbox
    cursor after it, step `number`. Behind the last one nothing happens; `WHOLE` is all of them."""

    block: OrderedBlock
    inbox: Sequence[InboxEntry]
    inbox_cursor: int
    number: int = WHOLE

    def payload(self) -> OrderedPayload:
        """The block's batches; raises `Rejected`."""
        raw = self.block.payload
        return decode_payload(raw) if raw else OrderedPayload(0, [])

    def scope(self, chain: Chain) -> Scope:
        """What it is about; raises `Rejected` where its block does not decode."""
        work = work_of(chain.genesis, self.inbox, self.inbox_cursor, self.payload().batches)
        if self.number == WHOLE:
            return Scope(None, [*work.committee, *work.making, *work.taking])
        steps = plan(work, chain.genesis)
        if self.number >= len(steps):
            return Scope(Stage.END, [])
        step = steps[self.number]
        if step.stage == Stage.LEFT:
            return Scope(step.stage, [], [work.left()[step.batch]])
        opened = batch_of(step, work)
        return Scope(step.stage, [] if opened is None else [opened])

    def steps(self, engine: Engine) -> Steps:
        """Its steps, from the one on before which the engine's state stands."""
        time_ms, batches = self.block.header.time_ms, self.payload().batches
        return engine.steps(time_ms, self.inbox, self.inbox_cursor, batches)

    def run(self, engine: Engine) -> dict[bytes, bytes | None]:
        """Execute it on an engine that stands before it; the leaves that it changes."""
        header = self.block.header
        if self.number == WHOLE:
            return engine.apply(
                header.height, header.time_ms, header.block_id(), self.inbox, self.inbox_cursor,
                self.payload().batches,
            ).changes  # fmt: skip
        steps = self.steps(engine)
        if self.number >= len(steps.plan) and not steps.done:
            return {}
        if steps.done != self.number:
            raise Rejected(
                Code.BAD_WITNESS, f"the state stands before step {steps.done}, not {self.number}"
            )
        return steps.run(header.height)
