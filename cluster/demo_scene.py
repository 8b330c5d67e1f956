"""What the demo shows of the engine: a price falls, a stop order sells before it, and an account
with too much leverage is liquidated, with a receipt that anybody can check."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from client.console import note
from client.proof_fetch import fetch_receipt
from client.sdk import Exchange
from client.submission import Submission, results_of
from client.trader import Trader
from client.units import size_to_lots, ticks_to_price
from protocol.events import LIQUIDATION_BACKSTOP, LIQUIDATION_ORDER, Receipt
from protocol.settlement import account_number

MARKET = "GOOG-PERP"
MARGIN_USD = "1000"
SHARES = "14"
FALL_PPM = 80_000
"""Initial margin is 10 %, maintenance 6 %: this leaves an account in full too little."""
STOP_PPM = 20_000
SLIPPAGE_PPM = 10_000
REPORT_EVERY_S = 0.25
WAIT_S = 20.0
HOW = {LIQUIDATION_ORDER: "sold in the book", LIQUIDATION_BACKSTOP: "taken over by the backstop"}


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What happened: marks before and after, what the stop sold at, and the liquidation of which
    `receipt` was proven under a settled `batch`."""

    market: str
    mark_before: str
    mark_after: str
    stop_at: str
    stop_sold_at: str
    held_lots: int
    liquidated_lots: int
    how: str
    equity_uusd: int
    maintenance_uusd: int
    receipt: int
    batch: int


async def play(exchange: Exchange, careful: str, bold: str) -> Scene:
    """Play it with two traders of the testnet that hold nothing; raises `TimeoutError` where it
    does not come to its end, `ActionRejected`, `InvalidProof`."""
    config = exchange.market(MARKET)
    before = (await exchange.book(MARKET, 1)).mark_ticks
    note(f"{MARKET} falls by {FALL_PPM // 10_000} %, one has a stop, one has too much leverage")
    first = await exchange.trader(careful)
    await _done(await first.market(MARKET, "buy", size="1", slippage_ppm=SLIPPAGE_PPM))
    stop_ticks = before - before * STOP_PPM // 1_000_000
    stop = await _done(
        await first.trigger(
            MARKET, "sell", size="1", kind="stop", at=ticks_to_price(config, stop_ticks)
        )
    )
    owner = await exchange.trader(bold)
    sub = account_number(owner.account, 1)
    await _done(await owner.transfer(sub, MARGIN_USD))
    second = Trader(exchange, owner.key, sub)
    await _done(await second.market(MARKET, "buy", size=SHARES, slippage_ppm=SLIPPAGE_PPM))
    fallen = before - before * FALL_PPM // 1_000_000
    receipts = await _until_liquidated(exchange, {config.market: fallen}, sub)
    receipt = receipts[0]
    fired = await first.status(stop.order_id)
    sold = await first.status(fired.replaced_by)
    proven = await fetch_receipt(exchange, receipt.number)
    return Scene(
        market=MARKET,
        mark_before=ticks_to_price(config, before),
        mark_after=ticks_to_price(config, receipt.mark_ticks),
        stop_at=ticks_to_price(config, stop_ticks),
        stop_sold_at=ticks_to_price(config, sold.filled_ticks_lots // max(1, sold.filled_lots)),
        held_lots=size_to_lots(config, SHARES),
        liquidated_lots=-sum(one.size_lots for one in receipts),
        how=HOW[receipt.kind],
        equity_uusd=receipt.equity_uusd,
        maintenance_uusd=receipt.maintenance_uusd,
        receipt=receipt.number,
        batch=proven.batch,
    )


def summary(scene: Scene) -> list[str]:
    """Short lines about what happened."""
    return [
        f"{scene.market} {scene.mark_before} -> {scene.mark_after}: a stop at {scene.stop_at} "
        f"fired and sold at {scene.stop_sold_at}",
        f"liquidation: {scene.liquidated_lots} of {scene.held_lots} lots {scene.how} at equity "
        f"${scene.equity_uusd / 1e6:.2f} below maintenance ${scene.maintenance_uusd / 1e6:.2f}; "
        f"receipt {scene.receipt} proven under batch {scene.batch}",
    ]


async def _done(submission: Submission) -> Any:
    """The result of a batch of one action; raises `ActionRejected`."""
    return results_of(await submission.executed())[0]


async def _until_liquidated(
    exchange: Exchange, prices: dict[int, int], account: int
) -> list[Receipt]:
    """Report these prices until the account is liquidated: its receipts of that block."""
    asked, next_seq = 0.0, 0
    while asked < WAIT_S:
        (reported,) = await exchange.set_oracle(prices)
        await reported.executed()
        view = await exchange.questions.liquidations(from_seq=next_seq)
        events = [entry.event for entry in view.entries]
        found = [one for one in events if isinstance(one, Receipt) and one.account == account]
        if found:
            return [one for one in found if one.height == found[0].height]
        next_seq = view.next_seq
        await asyncio.sleep(REPORT_EVERY_S)
        asked += REPORT_EVERY_S
    raise TimeoutError(f"nothing was liquidated in {MARKET} within {WAIT_S:g} s")
