"""One round of a validator: events in, effects sorted into what is written and what is sent.

A round steps the replica through every event that waits, so that all of them share one
transaction and one sync.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus import (
    Broadcast,
    Committed,
    Effect,
    Event,
    Persist,
    PersistBlock,
    Replica,
    ReplicaConfig,
    Send,
    Tick,
)
from node.app import ExecutedBlock, LedgerApplication
from node.store import WriteBatch
from protocol.errors import SafetyViolation
from protocol.genesis import Pace

MAX_LEDGER_PAYLOAD_BYTES = 3 << 20
"""Largest block payload that consensus carries; a larger one in genesis counts as this."""


@dataclass(slots=True)
class Round:
    """What a round asks of the shell: write `batch`, sync, then send `messages` in order."""

    batch: WriteBatch = field(default_factory=WriteBatch)
    messages: list[Send | Broadcast] = field(default_factory=list)
    executed: list[ExecutedBlock] = field(default_factory=list)


def replica_config(pace: Pace) -> ReplicaConfig:
    """Pace of the ledger's consensus as its replica takes it."""
    return ReplicaConfig(
        block_interval_ms=pace.block_interval_ms,
        empty_interval_ms=pace.empty_interval_ms,
        idle_interval_ms=pace.idle_interval_ms or None,
        timeout_ms=pace.timeout_ms,
        timeout_max_ms=pace.timeout_max_ms,
        prove_roots=True,
        max_payload_bytes=min(pace.max_payload_bytes, MAX_LEDGER_PAYLOAD_BYTES),
    )


def run_round(
    replica: Replica, app: LedgerApplication, events: Iterable[Event], now_ms: int
) -> Round:
    """Step through the events and whatever is due at `now_ms`."""
    done = Round()
    for event in events:
        _sort(replica.step(event, now_ms), done)
    deadline_ms = replica.next_deadline_ms()
    if deadline_ms is not None and deadline_ms <= now_ms:
        _sort(replica.step(Tick(), now_ms), done)
    done.executed = done.batch.executed = app.take_executed()
    expected = [one.block.header.height for one in done.executed]
    if expected != done.batch.committed_heights:
        raise SafetyViolation("the replica and its application disagree on what is committed")
    return done


def _sort(effects: Iterable[Effect], done: Round) -> None:
    batch = done.batch
    for effect in effects:
        if isinstance(effect, PersistBlock):
            batch.proposed.append(effect.block)
        elif isinstance(effect, Persist):
            batch.voting_state = effect.state
        elif isinstance(effect, Committed):
            batch.committed_heights.append(effect.block.header.height)
        elif isinstance(effect, Send | Broadcast):
            done.messages.append(effect)
