"""What a sequencer saw of batches: when it accepted them, and when they were ordered, by its own
clock."""

from __future__ import annotations

from net.moments import Moments
from protocol.messages_trace import TraceMark, TraceRequest, TraceView
from protocol.ordering import Receipt
from sequencer.pool import BatchPool


class Journey:
    """Notes receipts and committed blocks, for those who trace an action."""

    def __init__(self) -> None:
        self._accepted: Moments[bytes] = Moments()
        self._committed: Moments[int] = Moments()

    def accepted(self, receipt: Receipt) -> None:
        """This sequencer gave a receipt."""
        self._accepted.note(receipt.batch_id, receipt.time_ms)

    def committed(self, height: int, now_ms: int) -> None:
        """A block is committed and durable."""
        self._committed.note(height, now_ms)

    def marks(self, request: TraceRequest, pool: BatchPool) -> TraceView:
        """What is known of the batch `request.batch_id`."""
        identity, marks = request.batch_id, []
        accepted_ms = self._accepted.at_ms(identity)
        height = pool.committed_at(identity)
        if accepted_ms:
            marks.append(TraceMark("accepted", accepted_ms, 0))
        if height is not None:
            marks.append(TraceMark("ordered", self._committed.at_ms(height), height))
        return TraceView(request.request_id, marks)
