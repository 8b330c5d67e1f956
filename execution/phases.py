"""The block function: fixed phases in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from execution.admission import Kind, Opened, VerifySignature, open_all
from execution.batches import Batches
from execution.custody import Custody
from execution.fees import Fees
from execution.funding import Funding
from execution.liquidation import Liquidations
from execution.pricing import Pricing
from execution.realised import Realised
from execution.schedules import Schedules
from execution.state import State
from execution.triggers import Triggers
from protocol.actions import Transfer, TransferPosition, Withdraw
from protocol.errors import SafetyViolation
from protocol.genesis import Genesis
from protocol.settlement import InboxDeposit, InboxEntry, InboxForced

LEAVING = (Withdraw, Transfer, TransferPosition)
"""Actions by which something leaves an account."""


class Work(NamedTuple):
    """What a block brings: inbox entries, the cursor after them, and its batches by phase."""

    inbox: Sequence[InboxEntry]
    inbox_cursor: int
    committee: list[Opened]
    making: list[Opened]
    taking: list[Opened]

    def left(self) -> list[int]:
        """The accounts that something may leave by an action, ascending."""
        return sorted(
            {
                opened.batch.account
                for opened in (*self.making, *self.taking)
                if opened.batch is not None
                and any(isinstance(action, LEAVING) for action in opened.batch.actions)
            }
        )


def work_of(
    genesis: Genesis, inbox: Sequence[InboxEntry], inbox_cursor: int, raws: Sequence[bytes]
) -> Work:
    """The work of a block, forced actions as if their owners had sent them, and nobody before:
    cancels still come before all takers."""
    forced = [entry.signed for entry in inbox if isinstance(entry, InboxForced)]
    opened = open_all(raws)
    committee = [batch for batch in opened if batch.kind >= Kind.ORACLE]
    rest = [*open_all(forced), *(batch for batch in opened if batch.kind < Kind.ORACLE)]
    if not genesis.cancels_first:
        return Work(inbox, inbox_cursor, committee, [], rest)
    making = [batch for batch in rest if batch.kind == Kind.MAKING]
    taking = [batch for batch in rest if batch.kind != Kind.MAKING]
    return Work(inbox, inbox_cursor, committee, making, taking)


class Phases:
    """What a block does, in the order of the specification.

    1. The inbox: deposits are credited, forced actions stand before the block's own batches from
       here on. Oracle prices and guardians' votes; expiries; then marks and modes are fixed for
       the block.
    2. Where the chain puts cancels first: batches that cannot take.
    3. Funding; dead-man's switches and TWAP slices; triggers.
    4. Liquidations.
    5. The (remaining) batches, in the order of the log; then triggers that nothing stands behind
       any more go.
    """

    __slots__ = (
        "_custody", "_state", "batches", "fees", "funding", "liquidations", "pricing", "realised",
        "schedules", "triggers",
    )  # fmt: skip

    def __init__(
        self,
        state: State,
        custody: Custody,
        batches: Batches,
        pricing: Pricing,
        funding: Funding,
        schedules: Schedules,
        triggers: Triggers,
        liquidations: Liquidations,
        fees: Fees,
        realised: Realised,
    ) -> None:
        self._state = state
        self._custody = custody
        self.batches = batches
        self.pricing = pricing
        self.funding = funding
        self.schedules = schedules
        self.triggers = triggers
        self.liquidations = liquidations
        self.fees = fees
        self.realised = realised

    def run(self, verify: VerifySignature, work: Work) -> None:
        """Execute a block that `state.begin` has started."""
        batches = self.batches
        batches.executed = 0
        self.take_in(work)
        for batch in work.committee:
            batches.run_committee(batch, verify)
        self.schedules.begin()
        self.schedules.expire(self.schedules.left)
        self.pricing.begin_block()
        for batch in work.making:
            batches.run(batch, verify)
        self.funding.run()
        self.schedules.run()
        self.triggers.run()
        self.liquidations.run()
        self.liquidations.backstop.unwind()
        for batch in work.taking:
            batches.run(batch, verify)
        self.triggers.drop_unbacked()
        self.fees.fold()
        self.realised.fold()

    def take_in(self, work: Work) -> None:
        """Consume the inbox; forced actions are executed with the batches."""
        for entry in work.inbox:
            if isinstance(entry, InboxDeposit):
                self._custody.deposit(entry)
            else:
                self._custody.take_forced(entry)
        if self._state.inbox_cursor != work.inbox_cursor:
            raise SafetyViolation(
                f"the block takes the inbox to {work.inbox_cursor}, its entries to "
                f"{self._state.inbox_cursor}"
            )
