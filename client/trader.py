"""Trading for one account: decimals in, submissions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from client.orders import (
    DEFAULT_SLIPPAGE_PPM,
    bracket,
    limit_order,
    market_order,
    one_cancels_other,
    order_flags,
    quotes,
    scale_orders,
    signed_lots,
    trigger_order,
    twap,
)
from client.sdk import Exchange
from client.submission import Submission, results_of
from client.units import price_to_ticks, size_to_lots, usd_to_uusd
from protocol.actions import (
    ALL_MARKETS,
    Action,
    ApproveAgent,
    Cancel,
    CancelAll,
    CancelClient,
    Modify,
    Order,
    Reduce,
    RevokeAgent,
    ScheduleCancel,
    SetLeverage,
    SetProtection,
    Transfer,
    TransferPosition,
    TriggerOrder,
    Withdraw,
)
from protocol.keys import Key
from protocol.messages_trading import (
    AccountView,
    MarginView,
    OrderStatusView,
    OrdersView,
    StandingView,
)


class Trader:
    """Signs and submits for `account` with `key`: the owner's, or an agent's.

    Every method returns as soon as the batch is on its way; the `Submission` tells the rest.
    """

    def __init__(self, exchange: Exchange, key: Key, account: int) -> None:
        self.exchange = exchange
        self.key = key
        self.account = account

    async def batch(self, actions: list[Action], *, expires_ms: int = 0) -> Submission:
        """Sign 1 to 100 actions as one batch and submit it; each has its own result."""
        await self.exchange.prove(self.key)
        signed = self.exchange.sign(self.key, self.account, actions, expires_ms=expires_ms)
        return await self.exchange.submit(signed)

    # --- orders

    async def place(
        self,
        market: str | int,
        side: str,
        *,
        size: str,
        price: str,
        tif: str = "gtc",
        client_id: int = 0,
        reduce_only: bool = False,
        stp: str = "",
        stp_master: bool = False,
        expires_ms: int = 0,
    ) -> Submission:
        """Place a limit order; raises `ConfigError` for a market, price or size that is none.

        `tif`: ``gtc``, ``ioc``, ``post-only`` or ``fok``; `stp`: ``cancel-maker`` (the default),
        ``cancel-taker``, ``cancel-both`` or ``decrement``; `expires_ms`: what rests is cancelled
        then.
        """
        flags = order_flags(reduce_only=reduce_only, stp=stp, stp_master=stp_master)
        order = limit_order(
            self.exchange.market(market), side, size, price, tif=tif, client_id=client_id,
            flags=flags, expires_ms=expires_ms,
        )  # fmt: skip
        return await self.batch([order])

    async def market(
        self,
        market: str | int,
        side: str,
        *,
        size: str,
        slippage_ppm: int = DEFAULT_SLIPPAGE_PPM,
        client_id: int = 0,
        reduce_only: bool = False,
        stp: str = "",
        stp_master: bool = False,
    ) -> Submission:
        """Place a market order that takes up to `slippage_ppm` away from the mark."""
        flags = order_flags(reduce_only=reduce_only, stp=stp, stp_master=stp_master)
        order = market_order(
            self.exchange.market(market), side, size, slippage_ppm=slippage_ppm,
            client_id=client_id, flags=flags,
        )  # fmt: skip
        return await self.batch([order])

    async def modify(
        self, market: str | int, order_id: int, *, size: str, price: str
    ) -> Submission:
        """Give a resting order a new price and remaining size."""
        config = self.exchange.market(market)
        ticks, lots = price_to_ticks(config, price), size_to_lots(config, size)
        return await self.batch([Modify(config.market, order_id, ticks, lots)])

    async def quote(
        self,
        market: str | int,
        *,
        bids: Sequence[tuple[str, str]] = (),
        asks: Sequence[tuple[str, str]] = (),
    ) -> Submission:
        """Replace all quotes in a market at once by these (price, size); none takes them out."""
        return await self.batch([quotes(self.exchange.market(market), bids, asks)])

    async def scale(
        self,
        market: str | int,
        side: str,
        *,
        size: str,
        first_price: str,
        last_price: str,
        count: int,
        weights: str = "even",
        **options: Any,
    ) -> Submission:
        """Place `count` limit orders from one price to another that sum to `size`; see
        `client.orders.scale_orders`."""
        orders = scale_orders(
            self.exchange.market(market), side, size, first_price, last_price, count,
            weights=weights, **options,
        )  # fmt: skip
        return await self.batch(list(orders))

    # --- orders that wait

    async def trigger(
        self,
        market: str | int,
        side: str,
        *,
        size: str,
        kind: str,
        at: str,
        **options: Any,
    ) -> Submission:
        """Let an order wait for the mark: ``stop``, ``take-profit`` or ``trailing``; the options
        are those of `client.orders.trigger_order`."""
        action = trigger_order(self.exchange.market(market), side, size, kind, at, **options)
        return await self.batch([action])

    async def oco(self, first: Order | TriggerOrder, second: TriggerOrder) -> Submission:
        """One cancels other: see `client.orders.limit_order` and `trigger_order` to make them."""
        return await self.batch([one_cancels_other(first, second)])

    async def bracket(
        self,
        market: str | int,
        side: str,
        *,
        size: str,
        price: str,
        take_profit: str,
        stop: str,
        tif: str = "gtc",
        client_id: int = 0,
        **options: Any,
    ) -> Submission:
        """An order with its exits, armed as it fills; the options are those of
        `client.orders.bracket`."""
        config = self.exchange.market(market)
        parent = limit_order(config, side, size, price, tif=tif, client_id=client_id)
        return await self.batch(
            [bracket(config, parent, take_profit=take_profit, stop=stop, **options)]
        )

    async def twap(
        self, market: str | int, side: str, *, size: str, duration_ms: int, **options: Any
    ) -> Submission:
        """Execute a size evenly over a time; the options are those of `client.orders.twap`."""
        config = self.exchange.market(market)
        return await self.batch([twap(config, side, size, duration_ms, **options)])

    async def schedule_cancel(self, time_ms: int) -> Submission:
        """Dead-man's switch: everything of the account is cancelled at `time_ms`, unless it is set
        anew before; 0 switches it off."""
        return await self.batch([ScheduleCancel(time_ms)])

    # --- cancels

    async def cancel(self, market: str | int, order_id: int) -> Submission:
        """Cancel a resting order, a trigger or a TWAP."""
        return await self.batch([Cancel(self.exchange.market(market).market, order_id)])

    async def cancel_client(self, market: str | int, client_id: int) -> Submission:
        """Cancel by the client id that an order, trigger or TWAP was given."""
        return await self.batch([CancelClient(self.exchange.market(market).market, client_id)])

    async def cancel_all(self, market: str | int | None = None) -> Submission:
        """Cancel all orders, triggers and TWAPs in a market, or in all."""
        number = ALL_MARKETS if market is None else self.exchange.market(market).market
        return await self.batch([CancelAll(number)])

    async def reduce(self, market: str | int, order_id: int, *, by: str) -> Submission:
        """Make a resting order smaller; it keeps its priority."""
        config = self.exchange.market(market)
        return await self.batch([Reduce(config.market, order_id, size_to_lots(config, by))])

    # --- the account

    async def leverage(self, market: str | int, leverage: int) -> Submission:
        """Cap the leverage in a market; 0 takes the cap away."""
        return await self.batch([SetLeverage(self.exchange.market(market).market, leverage)])

    async def protection(self, market: str | int, fills: int, window_ms: int) -> Submission:
        """Market-maker protection: all orders in the market go after so many fills within the
        window; 0, 0 switches it off."""
        number = self.exchange.market(market).market
        return await self.batch([SetProtection(number, fills, window_ms)])

    async def transfer(self, to_account: int, amount: str) -> Submission:
        """Move dollars to another account of the same master, or to a fund; see
        `protocol.settlement.account_number`."""
        return await self.batch([Transfer(to_account, usd_to_uusd(amount))])

    async def transfer_position(self, to_account: int, market: str | int, size: str) -> Submission:
        """Move a signed size of a position to another account of the same master."""
        config = self.exchange.market(market)
        lots = signed_lots(config, size)
        return await self.batch([TransferPosition(to_account, config.market, lots)])

    async def withdraw(self, amount: str, address: bytes | None = None) -> Submission:
        """Debit dollars from the account, payable to `address` (the key's) on the ledger."""
        return await self.batch([Withdraw(usd_to_uusd(amount), address or self.key.address)])

    async def withdraw_and_pay(
        self,
        amount: str,
        address: bytes | None = None,
        timeout_ms: int = 120_000,
        debited: Callable[[int], None] | None = None,
    ) -> int:
        """Withdraw, wait until that is final, have the ledger pay; returns the outbox number, which
        `debited` is told before the long wait, once execution has taken the dollars.

        Raises `ActionRejected`, `TransactionRejected`, `TimeoutError`.
        """
        submission = await self.withdraw(amount, address)
        number = results_of(await submission.executed(timeout_ms))[0].order_id
        if debited is not None:
            debited(number)
        await submission.settled(timeout_ms)
        # Whether its batch is final the ledger says; only then it pays.
        await self.exchange.ledger.pay_out(self.key, number, timeout_ms)
        return number

    async def approve_agent(self, agent: bytes, expires_ms: int) -> Submission:
        """Let a public key trade for the account until `expires_ms`; it never withdraws."""
        return await self.batch([ApproveAgent(agent, expires_ms)])

    async def revoke_agent(self, agent: bytes) -> Submission:
        """Take an agent's right away for ever."""
        return await self.batch([RevokeAgent(agent)])

    # --- questions

    async def view(self) -> AccountView:
        """The account as execution sees it now."""
        return await self.exchange.account(self.account)

    async def orders(self) -> OrdersView:
        """The account's resting orders."""
        return await self.exchange.orders(self.account)

    async def standing(self) -> StandingView:
        """The account's triggers, TWAPs, dead-man's switch and settings."""
        return await self.exchange.questions.standing(self.account)

    async def margin(self, *, ranks: bool = False) -> MarginView:
        """The account's margin report."""
        return await self.exchange.questions.margin(self.account, ranks=ranks)

    async def status(self, order_id: int = 0, *, client_id: int = 0) -> OrderStatusView:
        """What became of an order, trigger or TWAP, by its id or client id."""
        return await self.exchange.questions.order_status(
            order_id, account=self.account, client_id=client_id
        )
