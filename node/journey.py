"""What a validator saw of batches: when they were settled and final, by its own clock."""

from __future__ import annotations

from net.moments import Moments
from node.ledger import Ledger
from node.outcomes import BlockOutcome
from protocol.messages_trace import TraceMark, TraceRequest, TraceView


class Journey:
    """Notes the batches of executed ledger blocks, for those who trace an action.

    A batch that a validator saw only as part of a state (after its start, or a snapshot) is known
    without its time.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._settled: Moments[int] = Moments()
        self._final: Moments[int] = Moments()
        self._finished = ledger.final().batch

    def note(self, outcome: BlockOutcome, ledger: Ledger, now_ms: int) -> None:
        """A ledger block is executed and durable."""
        for header in outcome.removed:
            self._settled.forget(header.number)
        for header in outcome.batches:
            self._settled.note(header.number, now_ms)
        newest = ledger.final().batch
        for number in range(self._finished + 1, newest + 1):
            self._final.note(number, now_ms)
        self._finished = max(self._finished, newest)

    def marks(self, request: TraceRequest, ledger: Ledger) -> TraceView:
        """What is known of the settled batch `request.number`."""
        number, marks = request.number, []
        batch = ledger.batch(number) if 0 < number < 1 << 63 else None
        if batch is not None:
            height = batch.ledger_height
            marks.append(TraceMark("settled", self._settled.at_ms(number), height, number))
        if 0 < number <= ledger.final().batch:
            marks.append(TraceMark("final", self._final.at_ms(number), 0, number))
        return TraceView(request.request_id, marks)
