"""The block function: fixed phases in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

from execution.batches import Batches, Kind, VerifySignature, open_all
from execution.custody import Custody
from execution.fees import Fees
from execution.funding import Funding
from execution.liquidation import Liquidations
from execution.pricing import Pricing
from execution.realised import Realised
from execution.schedules import Schedules
from execution.state import State
from execution.triggers import Triggers
from protocol.errors import SafetyViolation
from protocol.settlement import InboxEntry


class Phases:
    """What a block does, in the order of the specification.

    1. Inbox, oracle prices and guardians' votes; expiries; then marks and modes are fixed for the
       block.
    2. Where the chain puts cancels first: batches that cannot take.
    3. Funding; dead-man's switches and TWAP slices; triggers.
    4. Liquidations.
    5. The (remaining) batches, in the order of the log.
    """

    __slots__ = (
        "_batches", "_custody", "_fees", "_funding", "_liquidations", "_pricing", "_realised",
        "_schedules", "_state", "_triggers",
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
        self._batches = batches
        self._pricing = pricing
        self._funding = funding
        self._schedules = schedules
        self._triggers = triggers
        self._liquidations = liquidations
        self._fees = fees
        self._realised = realised

    def run(
        self,
        verify: VerifySignature,
        inbox: Sequence[InboxEntry],
        inbox_cursor: int,
        raws: Sequence[bytes],
    ) -> None:
        """Execute a block that `state.begin` has started."""
        state, batches = self._state, self._batches
        batches.executed = 0
        opened = open_all(raws)
        for entry in inbox:
            self._custody.deposit(entry)
        if state.inbox_cursor != inbox_cursor:
            raise SafetyViolation(
                f"the block takes the inbox to {inbox_cursor}, its entries to {state.inbox_cursor}"
            )
        rest = []
        for batch in opened:
            if batch.kind >= Kind.ORACLE:
                batches.run_committee(batch, verify)
            else:
                rest.append(batch)
        self._schedules.expire()
        self._pricing.begin_block()
        if state.chain.genesis.cancels_first:
            for batch in rest:
                if batch.kind == Kind.MAKING:
                    batches.run(batch, verify)
            rest = [batch for batch in rest if batch.kind != Kind.MAKING]
        self._funding.run()
        self._schedules.run()
        self._triggers.run()
        self._liquidations.run()
        for batch in rest:
            batches.run(batch, verify)
        self._fees.fold()
        self._realised.fold()
