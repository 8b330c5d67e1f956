"""How markets and margin of an execution node stand, and whether it keeps up with the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from execution.process_inbox import InboxFollower
from execution.replay import Replay
from execution.state import State
from net.metrics import Histogram
from net.readiness import Hearing
from net.service import StatusValues
from protocol.genesis import Chain

LATE_S = 5.0
"""Blocks executed later than this after their order mean that the node is behind."""

QUIET_S = 2.0
"""When nothing came for so long, whatever was late has been made up for."""


def market_health(state: State) -> StatusValues:
    """What is at risk in the shard, in micro-dollars and counts; cheap."""
    markets = state.markets
    insurance_uusd = state.insurance.cash_uusd
    return {
        "markets": len(markets),
        "stale_markets": sum(market.stale for market in markets),
        "accounts": len(state.accounts),
        "accounts_below_maintenance": len(state.distressed.rows),
        "resting_orders": sum(len(market.book.orders) for market in markets),
        "waiting_triggers": len(state.triggers.rows),
        "open_interest_uusd": sum(
            market.product.value_uusd(market.open_interest_lots, market.mark_ticks)
            for market in markets
        ),
        "insurance_uusd": max(insurance_uusd, 0),
        "backstop_uusd": state.backstop.cash_uusd,
        "bad_debt_uusd": max(-insurance_uusd, 0),
        "fees_uusd": state.fees.cash_uusd,
    }


class Keeping:
    """Whether execution keeps up with the ordered log."""

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag
        self._late_s = 0.0
        self._at_s = 0.0
        self._waits_since_s: float | None = None
        self.waits_for = 0
        """Ledger height that the next block waits for, 0 for none."""

    def waits(self, ledger_height: int) -> None:
        """The next block needs the base layer up to this height."""
        self.waits_for, self._waits_since_s = ledger_height, time.monotonic()

    def executed(self, late_ms: int, actions: int, *, known: bool) -> None:
        """A block was executed so late after the time in its header; `known`: not for the first
        time."""
        self.waits_for, self._waits_since_s = 0, None
        self._late_s, self._at_s = late_ms / 1000, time.monotonic()
        if actions and not known:
            self._lag.observe(self._late_s, actions)

    def trouble(self, height: int, received: int) -> str:
        """Why execution does not keep up; empty where it does. `received`: newest block of the log
        that has come."""
        now_s = time.monotonic()
        behind = f"behind the ordered log at block {height}"
        if self._waits_since_s is not None and now_s - self._waits_since_s > LATE_S:
            return f"{behind}: the base layer is not known up to height {self.waits_for}"
        if self._late_s > LATE_S and now_s - self._at_s < QUIET_S:
            return f"{behind}, which was executed {self._late_s:.0f} s after its order"
        if received - height and now_s - self._at_s > LATE_S and self._at_s:
            return f"{behind}: {received - height} blocks wait"
        return ""


class Produced:
    """What blocks gave that were executed here for the first time since the process began.

    A node that starts goes on from its snapshot: numbers of the shard would go back there, and what
    is executed again would look like a burst of trading.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._before = self._counts()

    def known(self) -> None:
        """The newest block, and so every one before it, was executed before a restart."""
        self._before = self._counts()

    def counts(self) -> tuple[int, int, int]:
        """Events, fills, and receipts of liquidations."""
        events, fills, receipts = self._counts()
        events_before, fills_before, receipts_before = self._before
        return events - events_before, fills - fills_before, receipts - receipts_before

    def _counts(self) -> tuple[int, int, int]:
        derived = self._replay.derived
        return self._replay.next_seq, derived.market_data.fills, derived.feed.receipts


class WatchedInbox(InboxFollower):
    """An inbox that notes when its validator told of a ledger block."""

    def __init__(
        self,
        chain: Chain,
        validators: Sequence[tuple[str, int]],
        name: str,
        on_news: Callable[[int, int], None] | None = None,
        checkpoint: Path | None = None,
        *,
        needed: int | None = 0,
    ) -> None:
        super().__init__(chain, validators, name, on_news, checkpoint, needed=needed)
        self.hearing = Hearing("base layer", chain.genesis.ledger_pace.idle_interval_ms)

    def told(self, count: int) -> bool:
        """As below."""
        self.hearing.heard()
        return super().told(count)
