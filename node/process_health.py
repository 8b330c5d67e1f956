"""Whether a validator takes part and keeps up, in one sentence, and how fast blocks commit."""

from __future__ import annotations

from collections.abc import Iterable

from net.metrics import Histogram
from net.readiness import Participation, silent_s
from node.app import ExecutedBlock
from node.machine import Validator

LIVE_MS = 60_000
"""Blocks older than this when they commit here are caught up: they say nothing of consensus."""


class ValidatorHealth:
    """Watches one validator's machine."""

    def __init__(self, commit: Histogram) -> None:
        self._commit = commit
        self._part = Participation("validators", "ledger blocks")

    def note(self, validator: Validator, executed: list[ExecutedBlock], now_ms: int) -> None:
        """Blocks have committed and are durable."""
        for one in executed:
            age_ms = now_ms - one.block.header.time_ms
            if age_ms < LIVE_MS:
                self._commit.observe(age_ms / 1000)
        if executed:
            self._part.committed(_timeouts(validator))

    def start_anew(self) -> None:
        """Another machine goes on, with counters of its own."""
        self._part.committed(0)

    def trouble(self, validator: Validator, connected: Iterable[bytes], now_ms: int) -> str:
        """Why the validator does not take part or keep up; empty where it does. `connected`: keys
        of the peers that can be sent to."""
        members, replica, key = validator.members, validator.replica, validator.key
        if key is None:
            return "not validating: it was restored from a backup, and needs a new key"
        if not validator.is_member:
            return f"not validating: its key is not among the members of epoch {members.epoch}"
        newest = replica.committed_block.header
        trouble = self._part.trouble(
            members, {key.public, *connected}, _timeouts(validator), newest.height,
            replica.high_qc.height - newest.height,
        )  # fmt: skip
        silence_s = silent_s(now_ms - newest.time_ms, replica.config.idle_interval_ms)
        if not trouble and newest.height and silence_s:
            return f"no ledger block for {silence_s} s"
        return trouble


def _timeouts(validator: Validator) -> int:
    return validator.replica.counters.get("timeouts_sent", 0)
