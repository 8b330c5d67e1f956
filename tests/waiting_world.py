"""A world with a clock that can jump, in which a restored twin executes every block as well."""

from __future__ import annotations

from typing import Any

from engine_world import START_MS, World

from execution import BlockResult
from protocol.actions import BUY, GTC, SELL, Order, TriggerOrder
from protocol.events import OrderChanged, TriggerChanged, TriggerFired, TwapChanged
from protocol.settlement import InboxDeposit

A, B, C, D = 16, 17, 18, 19


class WaitingWorld(World):
    """With `twins`, each block also runs on an engine restored from the leaves before it, which
    must give the same events and changes."""

    def __init__(self, *args: Any, twins: bool = True, **changes: Any) -> None:
        self.skipped_ms = 0
        self.twins = twins
        super().__init__(*args, **changes)

    @property
    def time_ms(self) -> int:
        return START_MS + self.height * 10 + self.skipped_ms

    def block(self, batches: list[bytes], inbox: list[InboxDeposit] | None = None) -> BlockResult:
        twin = self.restore() if self.twins else None
        result = super().block(batches, inbox)
        phases = self.engine._phases
        phases.triggers.check()
        phases.schedules.check()
        if twin is not None:
            again = twin.apply(self.height, self.time_ms, b"", inbox or [], self.cursor, batches)
            assert again.events == result.events
            assert again.changes == result.changes
        return result

    def batch(self, account: int, *actions: Any, **fields: Any) -> bytes:
        self.nonce = max(self.nonce, self.time_ms)  # an oracle's nonce is its time
        return super().batch(account, *actions, **fields)

    def wait(self, ms: int) -> BlockResult:
        """An empty block, so much later than the last one (0: as soon as can be)."""
        self.skipped_ms += max(0, ms - 10)
        return self.block([])

    def until(self, time_ms: int) -> BlockResult:
        """An empty block at this time."""
        self.skipped_ms += time_ms - self.time_ms - 10
        return self.block([])

    # -- what happened

    def fired(self) -> list[int]:
        """Triggers that fired in the last block, in order."""
        return [event.trigger_id for event in self.of(TriggerFired)]

    def triggers(self) -> list[tuple[int, int, int]]:
        """(trigger, size, reason) of the block's changes."""
        return [(e.trigger_id, e.size_lots, e.reason) for e in self.of(TriggerChanged)]

    def orders(self) -> list[tuple[int, int, int]]:
        """(order, remaining, reason) of the block's changes."""
        return [(e.order_id, e.remaining_lots, e.reason) for e in self.of(OrderChanged)]

    def slices(self) -> list[tuple[int, int, int]]:
        """(TWAP, done, reason) of the block's changes."""
        return [(e.twap_id, e.done_lots, e.reason) for e in self.of(TwapChanged)]


def bid(price: int, lots: int, client: int = 0, **fields: Any) -> Order:
    """A limit order to buy in market 0."""
    return Order(0, BUY, price, lots, GTC, client, **fields)


def ask(price: int, lots: int, client: int = 0, **fields: Any) -> Order:
    """A limit order to sell in market 0."""
    return Order(0, SELL, price, lots, GTC, client, **fields)


def trigger(side: int, lots: int, kind: int, ticks: int, **fields: Any) -> TriggerOrder:
    """A trigger in market 0, as a market order within 10 % unless it has a limit."""
    if not fields.get("limit_ticks"):
        fields.setdefault("slippage_ppm", 100_000)
    return TriggerOrder(fields.pop("market", 0), side, lots, kind, ticks, **fields)
