"""The public feed of liquidations: who fell below maintenance, every receipt, bad debt.

The feed is a log that grows with each such event; `execution.receipt_proof` proves its receipts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Protocol

from execution import leaves as lv
from execution.receipt_proof import ReceiptTree
from protocol.codec import Decoder, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.events import BadDebt, BlockEvents, LiquidationBegun, LiquidationEnded, Receipt
from protocol.messages_market_data import LiquidationEntry, LiquidationEvent

FEED_EVENTS = (LiquidationBegun, LiquidationEnded, Receipt, BadDebt)

_decode_entry: Decoder[LiquidationEntry] = Decoder(LiquidationEntry, canonical=False)


class FeedLog(Protocol):
    """Where the entries are kept: an append-only log of records, numbered from 0."""

    @property
    def next_index(self) -> int:
        """Number that the next record will get."""

    def append(self, payload: bytes, /) -> int:
        """Add a record; returns its number."""

    def read(self, index: int, /) -> bytes:
        """A record; raises `IndexError` where there is none."""


class MemoryLog:
    """A `FeedLog` that lives as long as its process."""

    def __init__(self) -> None:
        self._records: list[bytes] = []

    @property
    def next_index(self) -> int:
        """Number that the next record will get."""
        return len(self._records)

    def append(self, payload: bytes) -> int:
        """Add a record."""
        self._records.append(payload)
        return len(self._records) - 1

    def read(self, index: int) -> bytes:
        """A record."""
        return self._records[index]


class LiquidationFeed:
    """Entries of the feed by event number and by receipt number, and the tree of receipts.

    `log` may hold entries from before a restart; events that are in it are not added again.
    `first_number`: of the first receipt to come, where the log is empty and older ones are lost;
    then no paths can be given.
    """

    __slots__ = ("_first_number", "_log", "_places", "_seqs", "_tree")

    def __init__(self, log: FeedLog, first_number: int = 0) -> None:
        self._log = log
        self._seqs: list[int] = []
        """Event number of each entry."""
        self._places: list[int] = []
        """Entry of each receipt."""
        self._tree = ReceiptTree()
        self._first_number = first_number
        for index in range(log.next_index):
            entry = _decode_entry(log.read(index))
            if not self._places and isinstance(entry.event, Receipt):
                self._first_number = entry.event.number
            self._note(entry.seq, entry.event)

    @property
    def receipts(self) -> int:
        """Number of the receipt to come: how many there are in all."""
        return self._first_number + len(self._places)

    def take(self, seq: int, height: int, time_ms: int, event: LiquidationEvent) -> None:
        """Add event `seq`, unless the log has it."""
        if self._seqs and seq <= self._seqs[-1]:
            return
        self._note(seq, event)
        self._log.append(encode(LiquidationEntry(seq, height, time_ms, event)))

    def _note(self, seq: int, event: LiquidationEvent) -> None:
        if isinstance(event, Receipt):
            if event.number != self.receipts:
                raise SafetyViolation(f"receipt {event.number} comes where {self.receipts} is next")
            self._places.append(len(self._seqs))
            if not self._first_number:
                self._tree.append(event)
        self._seqs.append(seq)

    def read(
        self, from_seq: int, from_number: int, limit: int
    ) -> tuple[list[LiquidationEntry], int]:
        """Up to `limit` entries from event `from_seq` on (0: from receipt `from_number` on), and
        the event number to ask on from. Raises `Rejected` (not_retained)."""
        if from_seq:
            begin = bisect_left(self._seqs, from_seq)
        elif from_number < self._first_number:
            raise Rejected(Code.NOT_RETAINED, f"receipts are kept from {self._first_number} on")
        else:
            place = from_number - self._first_number
            begin = self._places[place] if place < len(self._places) else len(self._seqs)
            if not from_number:
                begin = 0
        entries = [
            _decode_entry(self._log.read(index))
            for index in range(begin, min(begin + limit, len(self._seqs)))
        ]
        if entries:
            return entries, entries[-1].seq + 1
        last_seq = self._seqs[-1] if self._seqs else 0
        return [], max(from_seq, last_seq + 1)

    def receipt(self, number: int, count: int) -> tuple[Receipt, int, list[bytes]]:
        """A receipt, the size of its tree (`count`, or where that is 0 all receipts), and its path.

        Raises `Rejected` (not_found, not_retained).
        """
        count = count or self.receipts
        if not 0 <= number < count or count > self.receipts:
            there = f"there are {self.receipts} receipts, numbered from 0"
            text = there if self.receipts else "nobody has been liquidated yet"
            raise Rejected(Code.NOT_FOUND, text)
        if self._first_number:
            raise Rejected(Code.NOT_RETAINED, "the first receipts are not kept here")
        entry = _decode_entry(self._log.read(self._places[number]))
        if not isinstance(entry.event, Receipt):
            raise SafetyViolation(f"the feed has no receipt {number} where it should be")
        return entry.event, count, self._tree.path(number, count)

    def catch_up(self, blocks: Iterable[BlockEvents]) -> None:
        """Add what these blocks, in order, have and the log has not."""
        for block in blocks:
            for seq, event in enumerate(block.events, block.first_seq):
                if isinstance(event, FEED_EVENTS):
                    self.take(seq, block.height, block.time_ms, event)


def receipts_in(leaves: Iterable[tuple[bytes, bytes]]) -> int:
    """How many receipts a state with these leaves has."""
    for key, value in leaves:
        if key == lv.RECEIPTS_KEY:
            return lv.decode_receipts(value).count
    return 0
