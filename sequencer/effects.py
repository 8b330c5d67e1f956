"""What a sequencer asks of its shell, and what it wants back after a restart."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from consensus import Effect, RecoveredState
from protocol.chain import Block
from protocol.ordering import Receipt
from sequencer.lanes import OWN
from sequencer.peer import PassedBatches

Ticket = tuple[int, int]
"""Who asked: session number and request id, chosen by the shell."""


class PersistBatches(msgspec.Struct, frozen=True):
    """Store batches until they are ordered; `height` is the newest committed one.

    What was `promised` has to be durable before anything is sent; what another sequencer (`origin`,
    its index) passed on is stored with the next sync that there is.
    """

    height: int
    batches: list[bytes]
    origin: int = OWN

    @property
    def promised(self) -> bool:
        """Whether they were accepted here."""
        return self.origin == OWN


class Accept(msgspec.Struct, frozen=True):
    """Answer a submission with its receipt."""

    ticket: Ticket
    receipt: Receipt


class Order(msgspec.Struct, frozen=True):
    """Tell a submitter that its batch is committed at `height`."""

    ticket: Ticket
    height: int
    time_ms: int


class Pass(msgspec.Struct, frozen=True):
    """Send accepted batches to all other sequencers."""

    message: PassedBatches


SequencerEffect = PersistBatches | Accept | Order | Pass | Effect


class RecoveredSequencer(msgspec.Struct, frozen=True):
    """What the shell reads back: consensus state, accepted batches, and recently committed ones.

    `accepted` are stored batches in their order, committed ones among them; `recent` are committed
    blocks, oldest first, reaching back at least to the one that was the newest when the oldest
    batch in `accepted` came. Both are read as they are taken: go through them once, before anything
    is written. `passed_by` tells, by batch id, which sequencer passed on what was not promised
    here.
    """

    consensus: RecoveredState
    accepted: Iterable[bytes]
    recent: Iterable[Block]
    inbox_height: int
    inbox_cursor: int
    passed_by: dict[bytes, int] = {}
