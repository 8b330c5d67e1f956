"""The block function: fixed phases in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

from execution.batches import Batches, VerifySignature, open_all, set_marks
from execution.custody import Custody
from execution.state import State
from protocol.errors import SafetyViolation
from protocol.settlement import InboxEntry


def run_block(
    state: State,
    custody: Custody,
    batches: Batches,
    verify: VerifySignature,
    inbox: Sequence[InboxEntry],
    inbox_cursor: int,
    raws: Sequence[bytes],
) -> None:
    """Execute a block that `state.begin` has started.

    1. Inbox, oracle prices; then marks are fixed for the block.
    2. The ordered actions, in the order of the log.

    What the exchange does by itself (funding, expiries, triggers, then liquidations) has its place
    between the two, at this block's marks.
    """
    opened = open_all(raws)
    batches.executed = 0
    for entry in inbox:
        custody.deposit(entry)
    if state.inbox_cursor != inbox_cursor:
        raise SafetyViolation(
            f"the block takes the inbox to {inbox_cursor}, its entries to {state.inbox_cursor}"
        )
    for batch in opened:
        if batch.oracle:
            batches.run_oracle(batch, verify)
    set_marks(state)
    for batch in opened:
        if not batch.oracle:
            batches.run(batch, verify)
