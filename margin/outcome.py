"""What a fill or move would make of an account."""

from __future__ import annotations

from mypy_extensions import mypyc_attr


# It refers to nothing: compiled, the garbage collector need not visit it.
@mypyc_attr(acyclic=True)
class Outcome:
    """An account in one market after a fill or move that has not happened yet.

    `realised_uusd`: profit it realises, fee excluded.
    """

    __slots__ = (
        "ask_lots", "bid_lots", "cash_uusd", "cost_uusd", "excess_uusd", "fee_uusd",
        "market_im_uusd", "realised_uusd", "reduce_ask_lots", "reduce_bid_lots", "reserve_uusd",
        "size_lots", "total_im_uusd", "tv_uusd",
    )  # fmt: skip

    def __init__(
        self,
        fee_uusd: int,
        cash_uusd: int,
        tv_uusd: int,
        total_im_uusd: int,
        market_im_uusd: int,
        size_lots: int,
        cost_uusd: int,
        bid_lots: int,
        ask_lots: int,
        reduce_bid_lots: int,
        reduce_ask_lots: int,
        excess_uusd: int,
        reserve_uusd: int,
        realised_uusd: int,
    ) -> None:
        self.fee_uusd = fee_uusd
        self.cash_uusd = cash_uusd
        self.tv_uusd = tv_uusd
        self.total_im_uusd = total_im_uusd
        self.market_im_uusd = market_im_uusd
        self.size_lots = size_lots
        self.cost_uusd = cost_uusd
        self.bid_lots = bid_lots
        self.ask_lots = ask_lots
        self.reduce_bid_lots = reduce_bid_lots
        self.reduce_ask_lots = reduce_ask_lots
        self.excess_uusd = excess_uusd
        self.reserve_uusd = reserve_uusd
        self.realised_uusd = realised_uusd
