"""Orders as people write them, made into actions: decimals in, integers out.

Everything raises `ConfigError` for what cannot be meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from client.units import parse_micro, price_to_ticks, size_to_lots
from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    FOK,
    GTC,
    HALTED,
    IOC,
    MAX_ACTIONS,
    OPEN,
    POST_ONLY,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    SELL,
    STOP,
    STP_CANCEL_BOTH,
    STP_CANCEL_MAKER,
    STP_CANCEL_TAKER,
    STP_DECREMENT,
    STP_MASTER,
    TAKE_PROFIT,
    TRAILING,
    Bracket,
    MarketOrder,
    MassQuote,
    Oco,
    Order,
    TriggerOrder,
    Twap,
)
from protocol.errors import ConfigError
from protocol.markets import MarketConfig
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    INSURANCE_ACCOUNT,
    account_number,
    isolated_market,
    master_of,
    subaccount_of,
)

SIDES = {"buy": BUY, "sell": SELL}
TIFS = {"gtc": GTC, "ioc": IOC, "post-only": POST_ONLY, "fok": FOK}
KINDS = {"stop": STOP, "take-profit": TAKE_PROFIT, "trailing": TRAILING}
STP_MODES = {
    "cancel-maker": STP_CANCEL_MAKER,
    "cancel-taker": STP_CANCEL_TAKER,
    "cancel-both": STP_CANCEL_BOTH,
    "decrement": STP_DECREMENT,
}
MODES = {
    "open": OPEN,
    "reduce-only": REDUCE_ONLY_MODE,
    "post-only": POST_ONLY_MODE,
    "cancel-only": CANCEL_ONLY,
    "halted": HALTED,
}
WEIGHTS = ("even", "rising", "falling")
FUNDS = {"insurance": INSURANCE_ACCOUNT, "backstop": BACKSTOP_ACCOUNT}
SUBACCOUNTS = 256

DEFAULT_SLIPPAGE_PPM = 10_000
TRIGGER_SLIPPAGE_PPM = 50_000
"""How far from the mark an order of a trigger may go unless told otherwise: it enters when prices
move."""

_SPAN = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
_SPAN_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME = re.compile(r"\d{12,15}", re.ASCII)


def choose(names: dict[str, int], text: str, what: str) -> int:
    """The number of a name; `what` says of what."""
    found = names.get(text.lower())
    if found is None:
        raise ConfigError(f"{what} is one of {', '.join(names)}, not {text!r}")
    return found


def parse_side(text: str) -> int:
    """``buy`` or ``sell``."""
    side = SIDES.get(text.lower())
    if side is None:
        raise ConfigError(f"a side is buy or sell, not {text!r}")
    return side


def parse_tif(text: str) -> int:
    """``gtc``, ``ioc``, ``post-only`` or ``fok``."""
    return choose(TIFS, text, "a time in force")


def parse_span_ms(text: str) -> int:
    """Milliseconds of a length of time: ``500ms``, ``30s``, ``10m``, ``2h``, ``1d``."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"a length of time is written as 30s, 10m, 2h or 1d, not {text!r}")
    return int(match[1]) * _SPAN_MS[match[2]]


def parse_time_ms(text: str, now_ms: int) -> int:
    """A time: a length of time from now, or milliseconds since 1970; empty: 0."""
    if not text:
        return 0
    if _TIME.fullmatch(text.strip()):
        return int(text)
    return now_ms + parse_span_ms(text)


def order_flags(*, reduce_only: bool = False, stp: str = "", stp_master: bool = False) -> int:
    """Order flags; `stp`: a name of `STP_MODES`, empty for the default."""
    flags = choose(STP_MODES, stp, "self-trade prevention") if stp else STP_CANCEL_MAKER
    return flags | (REDUCE_ONLY if reduce_only else 0) | (STP_MASTER if stp_master else 0)


def limit_order(
    market: MarketConfig,
    side: str,
    size: str,
    price: str,
    *,
    tif: str = "gtc",
    client_id: int = 0,
    flags: int = 0,
    expires_ms: int = 0,
) -> Order:
    """A limit order."""
    return Order(
        market.market, parse_side(side), price_to_ticks(market, price), size_to_lots(market, size),
        parse_tif(tif), client_id, flags, expires_ms,
    )  # fmt: skip


def market_order(
    market: MarketConfig,
    side: str,
    size: str,
    *,
    slippage_ppm: int = DEFAULT_SLIPPAGE_PPM,
    client_id: int = 0,
    flags: int = 0,
) -> MarketOrder:
    """A market order that takes up to `slippage_ppm` away from the mark."""
    lots = size_to_lots(market, size)
    return MarketOrder(market.market, parse_side(side), lots, slippage_ppm, client_id, flags)


def trigger_order(
    market: MarketConfig,
    side: str,
    size: str | None,
    kind: str,
    at: str,
    *,
    limit: str | None = None,
    slippage_ppm: int = TRIGGER_SLIPPAGE_PPM,
    client_id: int = 0,
    flags: int = 0,
    expires_ms: int = 0,
) -> TriggerOrder:
    """An order that waits for the mark: `at` a price, or, trailing, that far behind the best one.

    It enters as limit order at `limit`, otherwise as market order. `size` None: that of a bracket.
    """
    return TriggerOrder(
        market.market,
        parse_side(side),
        0 if size is None else size_to_lots(market, size),
        choose(KINDS, kind, "a trigger"),
        price_to_ticks(market, at),
        0 if limit is None else price_to_ticks(market, limit),
        slippage_ppm if limit is None else 0,
        client_id,
        flags,
        expires_ms,
    )


def one_cancels_other(first: Order | TriggerOrder, second: TriggerOrder) -> Oco:
    """A pair of which one takes the other out; both of one market and side."""
    if (first.market, first.side) != (second.market, second.side):
        raise ConfigError("the two orders of a pair have one market and one side")
    return Oco(first, second)


def bracket(
    market: MarketConfig,
    parent: Order,
    *,
    take_profit: str,
    stop: str,
    trailing: bool = False,
    take_profit_limit: str | None = None,
    stop_limit: str | None = None,
    slippage_ppm: int = TRIGGER_SLIPPAGE_PPM,
) -> Bracket:
    """An order with its exits; `trailing`: `stop` is a distance from the best mark."""
    side = "sell" if parent.side == BUY else "buy"
    kind = "trailing" if trailing else "stop"
    return Bracket(
        parent,
        trigger_order(
            market, side, None, "take-profit", take_profit, limit=take_profit_limit,
            slippage_ppm=slippage_ppm,
        ),
        trigger_order(
            market, side, None, kind, stop, limit=stop_limit, slippage_ppm=slippage_ppm
        ),
    )  # fmt: skip


def twap(
    market: MarketConfig,
    side: str,
    size: str,
    duration_ms: int,
    *,
    client_id: int = 0,
    flags: int = 0,
) -> Twap:
    """A size executed evenly over a time."""
    lots = size_to_lots(market, size)
    return Twap(market.market, parse_side(side), lots, duration_ms, flags, client_id)


def quotes(
    market: MarketConfig, bids: Sequence[tuple[str, str]], asks: Sequence[tuple[str, str]]
) -> MassQuote:
    """All quotes in a market as (price, size), brought into order; none takes them out."""

    def levels(given: Sequence[tuple[str, str]], sign: int) -> list[tuple[int, int]]:
        found = [
            (price_to_ticks(market, price), size_to_lots(market, size)) for price, size in given
        ]
        return sorted(found, key=lambda level: sign * level[0])

    return MassQuote(market.market, levels(bids, -1), levels(asks, 1))


def parse_quote(text: str) -> tuple[str, str]:
    """(price, size) of ``PRICE:SIZE``."""
    price, found, size = text.partition(":")
    if not found:
        raise ConfigError(f"a quote is written as PRICE:SIZE, not {text!r}")
    return price, size


def scale_orders(
    market: MarketConfig,
    side: str,
    size: str,
    first_price: str,
    last_price: str,
    count: int,
    *,
    weights: str = "even",
    tif: str = "gtc",
    flags: int = 0,
    expires_ms: int = 0,
) -> list[Order]:
    """`count` limit orders from one price to another, evenly spaced, that sum to exactly `size`.

    `weights`: all of a size, or sizes that rise (1 : 2 : 3 ...) or fall from the first to the last.
    """
    if not 2 <= count <= MAX_ACTIONS:
        raise ConfigError(f"scale takes 2 to {MAX_ACTIONS} orders, not {count}")
    if weights not in WEIGHTS:
        raise ConfigError(f"weights are one of {', '.join(WEIGHTS)}, not {weights!r}")
    first, last = price_to_ticks(market, first_price), price_to_ticks(market, last_price)
    lots = size_to_lots(market, size)
    shares = list(range(1, count + 1)) if weights != "even" else [1] * count
    if weights == "falling":
        shares.reverse()
    prices = [first + (last - first) * place // (count - 1) for place in range(count)]
    if len(set(prices)) < count:
        raise ConfigError(f"there are not {count} prices from {first_price} to {last_price}")
    whole, passed, sizes = sum(shares), 0, []
    for share in shares:
        sizes.append(lots * (passed + share) // whole - lots * passed // whole)
        passed += share
    if min(sizes) < 1:
        raise ConfigError(f"the size {size} is too small for {count} orders")
    number, tif_number = parse_side(side), parse_tif(tif)
    return [
        Order(market.market, number, price, lots_each, tif_number, 0, flags, expires_ms)
        for price, lots_each in zip(prices, sizes, strict=True)
    ]


# --- accounts


def parse_account(text: str, own: int, markets: Sequence[MarketConfig]) -> int:
    """An account number: of a sub-account of the same master as `own`, or of a fund.

    ``0`` is the master account, ``3`` its sub-account 3, ``3:BTC-PERP`` that sub-account isolated
    in a market, ``insurance`` and ``backstop`` the funds, ``#NUMBER`` an account by its number.
    """
    text = text.strip()
    if text in FUNDS:
        return FUNDS[text]
    if re.fullmatch(r"#\d{1,19}", text, re.ASCII):
        return int(text[1:])
    index, isolated, symbol = text.partition(":")
    if not re.fullmatch(r"\d{1,3}", index, re.ASCII) or int(index) >= SUBACCOUNTS:
        raise ConfigError(
            f"an account is written as 3 (sub-account), 3:BTC-PERP (isolated), insurance, "
            f"backstop or #NUMBER, not {text!r}"
        )
    market = -1
    if isolated:
        found = [one.market for one in markets if one.symbol == symbol]
        if not found:
            known = ", ".join(one.symbol for one in markets)
            raise ConfigError(f"there is no market {symbol!r}; there are {known}")
        market = found[0]
    return account_number(master_of(own), int(index), market)


def account_text(account: int, markets: Sequence[MarketConfig]) -> str:
    """An account as people write it: its number, and what it is of which master."""
    for name, number in FUNDS.items():
        if account == number:
            return name
    master, index, market = master_of(account), subaccount_of(account), isolated_market(account)
    text = str(master)
    if index:
        text += f" sub-account {index}"
    if 0 <= market < len(markets):
        text += f" isolated in {markets[market].symbol}"
    return text


def signed_lots(market: MarketConfig, text: str) -> int:
    """Lots of a signed size in base units, such as ``-0.5``; not 0."""
    micro = parse_micro(text, "size")
    lots = size_to_lots(market, text.strip().lstrip("+-")) if micro else 0
    if not lots:
        raise ConfigError("the size must not be 0")
    return -lots if micro < 0 else lots
