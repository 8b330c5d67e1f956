"""An engine whose accounts begin with positions, for falls of the market."""

from __future__ import annotations

from typing import Any

from engine_world import DOLLAR, ORACLES, START_MS, World, accept, market, signer

from execution import Engine
from execution import leaves as lv
from protocol.actions import BUY, GTC, SELL, OraclePrice, Order
from protocol.codec import encode
from protocol.events import Receipt
from protocol.genesis import Limits, MarketConfig
from protocol.keys import address_of
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT, master_of

Position = int | tuple[int, int]

FREE = {"taker_fee_ppm": 0, "maker_fee_ppm": 0}
"""No trading fees, so that sums can be followed by hand."""


class Crash(World):
    """A world in which `holders` start with (equity in micro-dollars, {market: position}) at the
    initial marks. A position is signed lots, or those and the price they were opened at. The
    positions of a market sum to 0.
    """

    def __init__(
        self,
        holders: dict[int, tuple[int, dict[int, Position]]],
        markets: list[MarketConfig] | None = None,
        insurance_uusd: int = 0,
        backstop_uusd: int = 0,
        limits: Limits | None = None,
        **changes: Any,
    ) -> None:
        markets = markets or [market(0, **FREE), market(1, **FREE)]
        super().__init__(markets, limits, accounts=0, dollars=0, **changes)
        self.accounts = sorted(holders)
        leaves = self.engine.leaves()
        funds = {INSURANCE_ACCOUNT: insurance_uusd, BACKSTOP_ACCOUNT: backstop_uusd}
        total = 0
        for number, (equity_uusd, positions) in {
            **holders,
            **{fund: (cash, {}) for fund, cash in funds.items()},
        }.items():
            cash = equity_uusd
            for one, position in positions.items():
                config = markets[one]
                mark = config.initial_price_ticks
                size, entry = position if isinstance(position, tuple) else (position, mark)
                cost = size * entry * config.value_uusd
                leaves[lv.position_key(number, one)] = encode(lv.PositionLeaf(size, cost, 0))
                cash -= size * mark * config.value_uusd
            owned = number not in funds and master_of(number) == number
            address = address_of(signer(number)) if owned else b""
            leaves[lv.account_key(number)] = encode(lv.AccountLeaf(address, cash))
            total += cash
        for config in markets:
            held = [positions.get(config.market, 0) for _, positions in holders.values()]
            sizes = [one[0] if isinstance(one, tuple) else one for one in held]
            longs = sum(size for size in sizes if size > 0)
            assert sum(sizes) == 0, "the positions of a market do not sum to 0"
            ticks = config.initial_price_ticks
            leaf = lv.MarketLeaf(ticks, 0, 0, longs, 2, False)
            leaves[lv.market_key(config.market)] = encode(leaf)
        leaves[lv.MONEY_KEY] = encode(lv.MoneyLeaf(total, 0))
        self.engine = Engine.restore(self.chain, leaves.items(), accept)
        self.mirror = self.engine.leaves()
        self.receipts: list[Receipt] = []
        self.last_batches: list[bytes] = []

    def block(self, *args: Any) -> Any:
        """As `World.block`; keeps the receipts and the batches."""
        self.last_batches = args[0]
        result = super().block(*args)
        if hasattr(self, "receipts"):
            self.receipts += self.of(Receipt)
        return result

    def report(self, ticks: int, market_number: int = 0) -> None:
        """All oracles report a price that they have just seen."""
        now_ms = START_MS + (self.height + 1) * 10
        self.block(
            [
                self.batch(0, OraclePrice(market_number, ticks), by=oracle, nonce=now_ms)
                for oracle in ORACLES
            ]
        )

    def fund(self, account: int, amount_uusd: int) -> None:
        """Deposit to an account or a fund."""
        self.block([], [self.deposit(account, amount_uusd)])

    def cash(self, account: int) -> int:
        """Cash of an account."""
        return self.engine.account_view(0, account).cash_uusd

    def equity(self, account: int) -> int:
        """Equity of an account."""
        return self.engine.account_view(0, account).equity_uusd

    def size(self, account: int, market_number: int = 0) -> int:
        """Signed lots of an account."""
        return self.position(account, market_number)[0]

    def bid(self, account: int, price: int, lots: int, market_number: int = 0) -> None:
        """Rest a bid in a block of its own."""
        self._rest(account, BUY, price, lots, market_number)

    def ask(self, account: int, price: int, lots: int, market_number: int = 0) -> None:
        """Rest an ask in a block of its own."""
        self._rest(account, SELL, price, lots, market_number)

    def _rest(self, account: int, side: int, price: int, lots: int, market_number: int) -> None:
        result = self.one(account, Order(market_number, side, price, lots, GTC))
        assert result.code == 0 and result.remaining_lots == lots, result

    def distressed(self) -> dict[int, lv.DistressLeaf]:
        """Accounts that wait, with their leaves."""
        return {
            lv.parse_account_key(key): lv.decode_distress(value)
            for key, value in self.engine.leaves().items()
            if key[:1] == lv.DISTRESS
        }


def usd(dollars: float) -> int:
    """Micro-dollars."""
    return round(dollars * DOLLAR)
