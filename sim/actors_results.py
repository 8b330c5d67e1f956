"""Readers of what execution nodes tell: kept results, and the stream of events."""

from __future__ import annotations

from typing import Any

from protocol.codec import Decoder
from protocol.errors import Code, Rejected
from protocol.events import BatchExecuted, decode_block_events
from protocol.messages_trading import EventsPush, SubscribeEvents
from sim.actors_process import Process, Setting, StreamReader
from sim.checkers import Violation

decode_result: Decoder[BatchExecuted] = Decoder(BatchExecuted, canonical=False)


class EventReader(Process):
    """Follows all events from the first on, and holds the stream to its numbers."""

    role = "client"

    def __init__(self, setting: Setting, name: str, executions: list[str]) -> None:
        super().__init__(setting, name)
        self._executions = executions
        self.next_seq = 1
        self.batches = 0

    def start(self) -> None:
        """Begin to follow."""
        reader = StreamReader(
            self, self._executions, lambda i: SubscribeEvents(i, self.next_seq, []), self._take
        )
        reader.start()

    def _take(self, message: Any) -> bool:
        if not isinstance(message, EventsPush):
            raise Rejected(Code.UNKNOWN_MESSAGE, "expected events")
        block = decode_block_events(message.block)
        if block.first_seq != self.next_seq:
            # Blocks without events have no number of their own and may be seen again.
            return block.first_seq == block.next_seq
        if block.next_seq != block.first_seq + len(block.events):
            raise Violation("prefix", f"block {block.height} miscounts its events")
        self.next_seq = block.next_seq
        self.batches += sum(isinstance(event, BatchExecuted) for event in block.events)
        return True
