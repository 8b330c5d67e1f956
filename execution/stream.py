"""Which events of a block a subscriber gets."""

from __future__ import annotations

from collections.abc import Set

from protocol.codec import encode
from protocol.events import (
    BadDebt,
    BlockEvents,
    Event,
    Expired,
    Fill,
    FundingRate,
    MarkChanged,
    MarketChanged,
    Receipt,
    Transferred,
)

PUBLIC = (MarkChanged, MarketChanged, FundingRate, Expired, BadDebt)
"""Events that concern everybody: marks, modes, funding rates, expiries, and bad debt, which cuts
every withdrawal."""


def concerns(event: Event, accounts: Set[int]) -> bool:
    """Whether an event is about one of the accounts, or about everybody."""
    if isinstance(event, Fill):
        return event.maker_account in accounts or event.taker_account in accounts
    if isinstance(event, PUBLIC):
        return True
    if isinstance(event, Transferred):
        return event.from_account in accounts or event.to_account in accounts
    if isinstance(event, Receipt) and event.of_account in accounts:
        return True
    return event.account in accounts


def select(block: BlockEvents, from_seq: int, accounts: Set[int]) -> bytes | None:
    """Encoded `BlockEvents` with the events from `from_seq` on that concern `accounts` (empty:
    all of them); None when there are none."""
    seqs: list[int] = []
    events: list[Event] = []
    for seq, event in enumerate(block.events, block.first_seq):
        if seq >= from_seq and (not accounts or concerns(event, accounts)):
            seqs.append(seq)
            events.append(event)
    if not events:
        return None
    return encode(BlockEvents(block.height, block.time_ms, seqs[0], block.next_seq, seqs, events))
