"""Trading for one account: decimals in, submissions out."""

from __future__ import annotations

from client.sdk import Exchange
from client.submission import Submission, results_of
from client.units import price_to_ticks, size_to_lots, usd_to_uusd
from protocol.actions import (
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    SELL,
    Action,
    ApproveAgent,
    Cancel,
    CancelClient,
    MarketOrder,
    Order,
    Reduce,
    RevokeAgent,
    Withdraw,
)
from protocol.errors import ConfigError
from protocol.keys import Key
from protocol.messages import AccountView, OrdersView

SIDES = {"buy": BUY, "sell": SELL}
TIFS = {"gtc": GTC, "ioc": IOC, "post-only": POST_ONLY}
DEFAULT_SLIPPAGE_PPM = 10_000


def parse_side(text: str) -> int:
    """``buy`` or ``sell``; raises `ConfigError`."""
    side = SIDES.get(text.lower())
    if side is None:
        raise ConfigError(f"a side is buy or sell, not {text!r}")
    return side


def parse_tif(text: str) -> int:
    """``gtc``, ``ioc`` or ``post-only``; raises `ConfigError`."""
    tif = TIFS.get(text.lower())
    if tif is None:
        raise ConfigError(f"a time in force is {', '.join(TIFS)}, not {text!r}")
    return tif


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

    async def place(
        self,
        market: str | int,
        side: str,
        *,
        size: str,
        price: str,
        tif: str = "gtc",
        client_id: int = 0,
    ) -> Submission:
        """Place a limit order; raises `ConfigError` for a market, price or size that is none."""
        config = self.exchange.market(market)
        order = Order(
            config.market, parse_side(side), price_to_ticks(config, price),
            size_to_lots(config, size), parse_tif(tif), client_id,
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
    ) -> Submission:
        """Place a market order that takes up to `slippage_ppm` away from the mark."""
        config = self.exchange.market(market)
        lots = size_to_lots(config, size)
        order = MarketOrder(config.market, parse_side(side), lots, slippage_ppm, client_id)
        return await self.batch([order])

    async def cancel(self, market: str | int, order_id: int) -> Submission:
        """Cancel a resting order."""
        return await self.batch([Cancel(self.exchange.market(market).market, order_id)])

    async def cancel_client(self, market: str | int, client_id: int) -> Submission:
        """Cancel a resting order by the client id it was given."""
        return await self.batch([CancelClient(self.exchange.market(market).market, client_id)])

    async def reduce(self, market: str | int, order_id: int, *, by: str) -> Submission:
        """Make a resting order smaller; it keeps its priority."""
        config = self.exchange.market(market)
        return await self.batch([Reduce(config.market, order_id, size_to_lots(config, by))])

    async def withdraw(self, amount: str, address: bytes | None = None) -> Submission:
        """Debit dollars from the account, payable to `address` (the key's) on the ledger."""
        return await self.batch([Withdraw(usd_to_uusd(amount), address or self.key.address)])

    async def withdraw_and_pay(
        self, amount: str, address: bytes | None = None, timeout_ms: int = 120_000
    ) -> int:
        """Withdraw, wait for the settlement, have the ledger pay; returns the outbox number.

        Raises `ActionRejected`, `TransactionRejected`, `TimeoutError`.
        """
        submission = await self.withdraw(amount, address)
        number = results_of(await submission.executed(timeout_ms))[0].order_id
        await submission.settled(timeout_ms)
        await self.exchange.ledger.pay_out(self.key, number, timeout_ms)
        return number

    async def approve_agent(self, agent: bytes, expires_ms: int) -> Submission:
        """Let a public key trade for the account until `expires_ms`; it never withdraws."""
        return await self.batch([ApproveAgent(agent, expires_ms)])

    async def revoke_agent(self, agent: bytes) -> Submission:
        """Take an agent's right away for ever."""
        return await self.batch([RevokeAgent(agent)])

    async def view(self) -> AccountView:
        """The account as execution sees it now."""
        return await self.exchange.account(self.account)

    async def orders(self) -> OrdersView:
        """The account's resting orders."""
        return await self.exchange.orders(self.account)
