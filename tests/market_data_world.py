"""A world around an engine whose blocks are followed by what is derived from them."""

from __future__ import annotations

from typing import Any

from engine_world import World

from execution import BlockResult
from execution.derived import Derived
from execution.market_data_liquidations import LiquidationFeed, MemoryLog
from protocol.events import Receipt
from protocol.messages_trading import OrderStatusView
from protocol.settlement import InboxDeposit


class WatchedWorld(World):
    """`derived` has seen every block; `step_ms` between them may be changed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.derived: Derived | None = None
        self.next_seq = 1
        super().__init__(*arguments, **options)

    def block(self, batches: list[bytes], inbox: list[InboxDeposit] | None = None) -> BlockResult:
        result = super().block(batches, inbox)
        if self.derived is None:
            self.derived = Derived(self.chain)
        self.derived.take(self.height, self.time_ms, self.next_seq, result.events, result.executed)
        self.next_seq += len(result.events)
        return result

    def status(self, order_id: int = 0, account: int = 0, client_id: int = 0) -> OrderStatusView:
        """What became of an order."""
        assert self.derived is not None
        return self.derived.orders.view(0, order_id, account, client_id)


def receipt(number: int, account: int = 20) -> Receipt:
    """A receipt of a liquidation order."""
    return Receipt(number, 0, 5, account, account, 0, -3, 900, 880, 2_640_000, 9, 10, 0, 4, 0)


def feed() -> LiquidationFeed:
    """An empty feed in memory."""
    return LiquidationFeed(MemoryLog())
