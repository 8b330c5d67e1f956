"""What a process knows of one signed batch's way through the five states."""

from __future__ import annotations

from typing import Literal

from protocol.codec import Wire

TraceState = Literal["accepted", "ordered", "executed", "settled", "final"]


class TraceRequest(Wire, frozen=True, tag=37):
    """Ask a process what it did with a batch of actions.

    A sequencer looks for `batch_id`, execution and provers for the ordered block `height`,
    validators for the settled batch `number`; the others of the three are empty or 0.
    """

    request_id: int
    batch_id: bytes
    height: int
    number: int


class TraceMark(Wire, frozen=True):
    """A state that a process saw reached, at its own clock (0: it no longer knows when).

    `height` is the block of its chain (the ordered log's, for a validator the ledger's) and
    `number` the settled batch, as far as there is one.
    """

    state: TraceState
    time_ms: int
    height: int
    number: int = 0


class TraceView(Wire, frozen=True, tag=110):
    """Answer to `TraceRequest`, in the order of the states; empty: this process knows nothing."""

    request_id: int
    marks: list[TraceMark]
