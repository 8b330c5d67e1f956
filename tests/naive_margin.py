"""Margin of the naive exchange: every answer is computed from nothing but the lists."""

from __future__ import annotations

from naive_state import Books, NaiveOrder

from protocol.actions import BUY, REDUCE_ONLY
from protocol.markets import PPM, MarketConfig
from protocol.settlement import master_of

DAY_MS = 86_400_000


def up(number: int, divisor: int) -> int:
    """Division rounded up."""
    return -(-number // divisor)


def tiered_uusd(config: MarketConfig, notional: int, initial: bool) -> int:
    """Margin of a notional: each part at the rate of its tier, rounded up once."""
    bounds = [0] + [tier.above_uusd for tier in config.margin_tiers]
    if initial:
        rates = [config.initial_ppm] + [tier.initial_ppm for tier in config.margin_tiers]
    else:
        rates = [config.maintenance_ppm] + [tier.maintenance_ppm for tier in config.margin_tiers]
    total = 0
    for number, (above, rate) in enumerate(zip(bounds, rates, strict=True)):
        end = bounds[number + 1] if number + 1 < len(bounds) else notional
        total += max(0, min(notional, end) - above) * rate
    return up(total, PPM)


def fee_uusd(x: Books, market: int, price: int, lots: int, rate: int) -> int:
    return up(price * lots * x.value(market) * rate, PPM)


def fee_rates(config: MarketConfig) -> list[tuple[int, int]]:
    """(taker, maker) by tier."""
    first = [(config.taker_fee_ppm, config.maker_fee_ppm)]
    return first + [(tier.taker_fee_ppm, tier.maker_fee_ppm) for tier in config.fee_tiers]


def tier_of(x: Books, market: int, account: int) -> int:
    """The fee tier from the master's volume of the 14 full days before today."""
    today = x.time // DAY_MS
    master = master_of(account)
    volume = sum(
        uusd
        for (who, day), uusd in x.volumes.items()
        if who == master and today - 14 <= day < today
    )
    reached = [tier for tier in x.configs[market].fee_tiers if volume >= tier.volume_uusd]
    return len(reached)


def taker_ppm(x: Books, market: int, account: int) -> int:
    return fee_rates(x.configs[market])[tier_of(x, market, account)][0]


def maker_ppm(x: Books, market: int, account: int) -> int:
    return fee_rates(x.configs[market])[tier_of(x, market, account)][1]


def reserve_ppm(config: MarketConfig) -> int:
    """What resting orders set aside for fees: the highest maker fee there is."""
    return max(0, *(maker for _, maker in fee_rates(config)))


def cross_ppm(config: MarketConfig) -> int:
    """The highest fee that an order may pay that takes and then rests."""
    return max(reserve_ppm(config), *(taker for taker, _ in fee_rates(config)))


def reach(x: Books, account: int, market: int) -> tuple[int, int]:
    """(longest, shortest) position that the resting orders can lead to; the second counts down."""
    size = position(x, account, market)
    orders = x.orders_of(account, market)
    bids = sum(o.lots for o in orders if o.side == BUY and not o.flags & REDUCE_ONLY)
    asks = sum(o.lots for o in orders if o.side != BUY and not o.flags & REDUCE_ONLY)
    reduce_bids = sum(o.lots for o in orders if o.side == BUY and o.flags & REDUCE_ONLY)
    reduce_asks = sum(o.lots for o in orders if o.side != BUY and o.flags & REDUCE_ONLY)
    longest = size + min(reduce_bids, max(0, -size)) + bids
    shortest = size - min(reduce_asks, max(0, size)) - asks
    return longest, -shortest


def position(x: Books, account: int, market: int) -> int:
    holding = x.accounts[account].holdings.get(market)
    return holding.size if holding else 0


def excess_uusd(x: Books, market: int, side: int, price: int, lots: int) -> int:
    """What an order loses against the mark when it fills at its limit."""
    mark = x.markets[market].mark
    through = price - mark if side == BUY else mark - price
    return max(0, through) * lots * x.value(market)


def order_uusd(x: Books, o: NaiveOrder) -> int:
    """What a resting order needs beside the position it may lead to."""
    rate = reserve_ppm(x.configs[o.market])
    return excess_uusd(x, o.market, o.side, o.price, o.lots) + fee_uusd(
        x, o.market, o.price, o.lots, rate
    )


def rate_uusd(x: Books, account: int, market: int, lots: int) -> int:
    """What an account needs for a position of so many lots."""
    config, found = x.configs[market], x.markets[market]
    notional = lots * found.mark * config.value_uusd
    needed = max(tiered_uusd(config, notional, True), up(notional * found.scaled, PPM))
    leverage = x.accounts[account].holding(market).leverage
    return max(needed, up(notional, leverage)) if leverage else needed


def initial_uusd(x: Books, account: int, market: int) -> int:
    """Initial margin of an account in a market."""
    needed = rate_uusd(x, account, market, max(reach(x, account, market)))
    return needed + sum(order_uusd(x, o) for o in x.orders_of(account, market))


def im_uusd(x: Books, account: int) -> int:
    return sum(initial_uusd(x, account, market.number) for market in x.markets)


def mm_uusd(x: Books, account: int) -> int:
    """Maintenance margin: positions alone."""
    total = 0
    for market, holding in x.accounts[account].holdings.items():
        config = x.configs[market]
        notional = abs(holding.size) * x.markets[market].mark * config.value_uusd
        total += tiered_uusd(config, notional, False)
    return total


def tv_uusd(x: Books, account: int) -> int:
    """Equity; a position in a stale market counts at the bad end of the band."""
    total = x.accounts[account].cash
    for market, holding in x.accounts[account].holdings.items():
        worth = holding.size * x.markets[market].mark * x.value(market)
        total += worth
        if x.markets[market].stale:
            total -= up(abs(worth) * x.configs[market].stale_band_ppm, PPM)
    return total


def withdrawable_uusd(x: Books, account: int) -> tuple[int, int]:
    """(free, settled): equity that nothing needs, and cash without what open positions cost."""
    notional = profit = 0
    settled = x.accounts[account].cash
    for market, holding in x.accounts[account].holdings.items():
        worth = holding.size * x.markets[market].mark * x.value(market)
        band = up(abs(worth) * x.configs[market].stale_band_ppm, PPM)
        if x.markets[market].stale:
            worth -= band
        notional += abs(holding.size) * x.markets[market].mark * x.value(market)
        profit += max(0, worth - holding.cost)
        settled += holding.cost
    free = tv_uusd(x, account) - max(im_uusd(x, account), up(notional, 10), profit)
    return max(free, 0), settled


def move_position(x: Books, account: int, market: int, lots: int, cash: int) -> None:
    """Change a position by signed `lots` that are worth `cash` (what the account pays for them)."""
    holding = x.accounts[account].holding(market)
    before, after = holding.size, holding.size + lots
    if before == 0 or before * lots > 0:
        holding.cost += cash
    elif after == 0:
        holding.cost = 0
    elif before * after > 0:
        holding.cost = holding.cost * after // before
    else:
        holding.cost = cash * after // lots
    holding.size = after
    x.accounts[account].cash -= cash
