"""Smallest inputs for the codes of authentication, market and request."""

from __future__ import annotations

from typing import Any

from bad_input_world import (
    AGENT,
    ALICE,
    BOB,
    GUARDIAN,
    SUB,
    TO,
    Corner,
    buy,
    case,
    chain_of,
    sell,
    stop,
)
from engine_world import BAD, DOLLAR, ORACLES, START_MS, signer

from protocol import actions as act
from protocol.errors import Code
from protocol.genesis import Limits

# -- authentication


@case(Code.BAD_SIGNATURE)
def bad_signature() -> int:
    return Corner().refused(ALICE, buy(), signature=BAD)


@case(Code.UNKNOWN_SIGNER)
def revoke_a_stranger() -> int:
    return Corner().refused(ALICE, act.RevokeAgent(AGENT))


@case(Code.NOT_AUTHORISED)
def a_stranger_signs() -> int:
    return Corner().refused(ALICE, buy(), by=AGENT)


@case(Code.NOT_AUTHORISED)
def an_agent_withdraws() -> int:
    corner = Corner()
    corner.fine(ALICE, act.ApproveAgent(AGENT, START_MS + 10**6))
    corner.fine(ALICE, buy(900), by=AGENT)
    for action in (act.Withdraw(1, TO), act.Transfer(SUB, 1), act.RevokeAgent(AGENT)):
        assert corner.refused(ALICE, action, by=AGENT) == Code.NOT_AUTHORISED
    return corner.refused(ALICE, act.TransferPosition(SUB, 0, 1), by=AGENT)


@case(Code.NOT_AUTHORISED)
def nobody_is_an_oracle_or_guardian_by_himself() -> int:
    corner = Corner()
    assert corner.refused(0, act.OraclePrice(0, 1), by=GUARDIAN) == Code.NOT_AUTHORISED
    return corner.refused(0, act.SetMode(0, act.HALTED), by=ORACLES[0])


@case(Code.NOT_AUTHORISED)
def anothers_subaccount() -> int:
    corner = Corner()
    corner.fine(ALICE, act.Transfer(SUB, DOLLAR))
    return corner.refused(SUB, act.CancelAll(0), by=signer(BOB))


@case(Code.NONCE_USED)
def a_nonce_twice() -> int:
    corner = Corner()
    corner.fine(ALICE, buy(900))
    return corner.refused(ALICE, buy(901), nonce=corner.nonce)


@case(Code.NONCE_EXPIRED)
def an_old_nonce() -> int:
    corner = Corner()
    return corner.refused(ALICE, buy(), nonce=corner.time_ms + 10 - act.NONCE_PAST_MS)


@case(Code.NONCE_TOO_NEW)
def a_nonce_ahead() -> int:
    corner = Corner()
    return corner.refused(ALICE, buy(), nonce=corner.time_ms + 10 + act.NONCE_FUTURE_MS)


@case(Code.AGENT_EXPIRED)
def an_approval_in_the_past() -> int:
    return Corner().refused(ALICE, act.ApproveAgent(AGENT, START_MS))


@case(Code.AGENT_EXPIRED)
def an_agent_whose_time_is_over() -> int:
    corner = Corner()
    corner.fine(ALICE, act.ApproveAgent(AGENT, corner.time_ms + 15))
    return corner.refused(ALICE, buy(), by=AGENT)


@case(Code.AGENT_REVOKED)
def a_revoked_agent() -> int:
    corner = Corner()
    corner.fine(ALICE, act.ApproveAgent(AGENT, START_MS + 10**6), act.RevokeAgent(AGENT))
    assert corner.refused(ALICE, buy(), by=AGENT) == Code.AGENT_REVOKED
    assert corner.refused(ALICE, act.RevokeAgent(AGENT)) == Code.AGENT_REVOKED
    return corner.refused(ALICE, act.ApproveAgent(AGENT, START_MS + 10**6))


@case(Code.SCHEME_UNKNOWN)
def another_scheme() -> int:
    return Corner().refused(ALICE, buy(), scheme=2)


@case(Code.ACTION_EXPIRED)
def a_late_batch() -> int:
    corner = Corner()
    return corner.refused(ALICE, buy(), expires_ms=corner.time_ms)


@case(Code.ACTION_EXPIRED)
def a_late_order() -> int:
    corner = Corner()
    corner.fine(ALICE, buy(900, expires_ms=corner.time_ms + 10))
    assert corner.refused(ALICE, stop(expires_ms=START_MS)) == Code.ACTION_EXPIRED
    return corner.refused(ALICE, buy(expires_ms=corner.time_ms + 9))


@case(Code.TOO_MANY_AGENTS)
def one_agent_more() -> int:
    corner = Corner(chain_of(Limits(agents_per_account=1)))
    corner.fine(ALICE, act.ApproveAgent(AGENT, START_MS + 10**6))
    return corner.refused(ALICE, act.ApproveAgent(b"\x56" * 32, START_MS + 10**6))


# -- market and request


@case(Code.UNKNOWN_MARKET)
def no_such_market() -> int:
    corner = Corner()
    for action in (
        act.Order(2, act.BUY, 1_000, 1), act.MarketOrder(2, act.BUY, 1, 10_000),
        act.Cancel(2, 1), act.CancelClient(2, 1), act.CancelAll(2), act.Reduce(2, 1, 1),
        act.Modify(2, 1, 1, 1), act.MassQuote(2, [], []), act.SetLeverage(2, 1),
        act.SetProtection(2, 1, 1), act.Twap(2, act.BUY, 1, 60_000),
        act.TriggerOrder(2, act.SELL, 1, act.STOP, 900, 0, 1), act.CancelAll(-2),
        act.TransferPosition(SUB, 2, 1),
    ):  # fmt: skip
        assert corner.refused(ALICE, action) == Code.UNKNOWN_MARKET, action
    assert corner.refused(0, act.SetMode(2, 1), by=GUARDIAN) == Code.UNKNOWN_MARKET
    return corner.refused(0, act.OraclePrice(2, 1), by=ORACLES[0])


@case(Code.BAD_PRICE)
def a_price_out_of_range() -> int:
    corner = Corner()
    assert corner.refused(ALICE, buy(1 << 31)) == Code.BAD_PRICE
    assert corner.refused(0, act.OraclePrice(0, 0), by=ORACLES[0]) == Code.BAD_PRICE
    assert corner.refused(ALICE, act.MassQuote(0, [(0, 1)], [])) == Code.BAD_PRICE
    return corner.refused(ALICE, buy(0))


@case(Code.BAD_SIZE)
def a_size_out_of_range() -> int:
    corner = Corner()
    corner.fine(ALICE, buy(900))
    assert corner.refused(ALICE, act.Reduce(0, 1, 0)) == Code.BAD_SIZE
    assert corner.refused(ALICE, act.Modify(0, 1, 900, 0)) == Code.BAD_SIZE
    assert corner.refused(ALICE, act.MassQuote(0, [(900, 0)], [])) == Code.BAD_SIZE
    assert corner.refused(ALICE, stop(lots=1_000_001)) == Code.BAD_SIZE
    for lots in (0, 1 << 31, 2_000_001):
        assert corner.refused(ALICE, act.Twap(0, act.BUY, lots, 60_000)) == Code.BAD_SIZE
    return corner.refused(ALICE, buy(lots=1_000_001))


@case(Code.BELOW_MIN_NOTIONAL)
def dust() -> int:
    corner = Corner(chain_of(min_notional_uusd=2 * DOLLAR))
    corner.fine(ALICE, buy(lots=2), act.Twap(0, act.BUY, 4, 60_000))
    assert corner.refused(ALICE, act.Twap(0, act.BUY, 2, 60_000)) == Code.BELOW_MIN_NOTIONAL
    assert corner.refused(ALICE, stop(900, 2)) == Code.BELOW_MIN_NOTIONAL
    assert corner.refused(ALICE, act.MassQuote(0, [(900, 2)], [])) == Code.BELOW_MIN_NOTIONAL
    assert corner.refused(ALICE, act.MarketOrder(0, 0, 1, 10_000)) == Code.BELOW_MIN_NOTIONAL
    return corner.refused(ALICE, buy(999, 2))


@case(Code.TOO_MANY_ACTIONS)
def too_many_actions() -> int:
    corner = Corner()
    assert corner.refused(ALICE) == Code.TOO_MANY_ACTIONS
    return corner.refused(ALICE, *[act.CancelAll(0)] * 101)


@case(Code.MIXED_BATCH)
def prices_among_orders() -> int:
    corner = Corner()
    assert corner.refused(ALICE, buy(), act.SetMode(0, 2)) == Code.MIXED_BATCH
    return corner.refused(ALICE, buy(), act.OraclePrice(0, 1_000))


@case(Code.BAD_SLIPPAGE)
def slippage_out_of_range() -> int:
    corner = Corner()
    assert corner.refused(ALICE, stop(slippage_ppm=500_001)) == Code.BAD_SLIPPAGE
    assert corner.refused(ALICE, act.MarketOrder(0, act.BUY, 1, 0)) == Code.BAD_SLIPPAGE
    return corner.refused(ALICE, act.MarketOrder(0, act.BUY, 1, 500_001))


@case(Code.STALE_ORACLE)
def an_older_price() -> int:
    corner = Corner()
    corner.price(1_000)
    return corner.refused(0, act.OraclePrice(0, 1_001), by=ORACLES[2], nonce=corner.nonce - 1)


@case(Code.BAD_FLAGS)
def flags_that_nobody_may_set() -> int:
    corner = Corner()
    for flags in (act.QUOTE, 32, -1, 1 << 63):
        assert corner.refused(ALICE, buy(flags=flags)) == Code.BAD_FLAGS
        assert corner.refused(ALICE, stop(flags=flags)) == Code.BAD_FLAGS
        assert corner.refused(ALICE, act.Twap(0, 0, 1, 60_000, flags)) == Code.BAD_FLAGS
    return corner.refused(ALICE, act.MarketOrder(0, act.BUY, 1, 1, 0, act.QUOTE))


@case(Code.BAD_EXPIRY)
def an_expiry_that_is_no_time() -> int:
    corner = Corner()
    assert corner.refused(ALICE, stop(expires_ms=-1)) == Code.BAD_EXPIRY
    assert corner.refused(ALICE, act.Oco(sell(1_100, expires_ms=-1), stop())) == Code.BAD_EXPIRY
    return corner.refused(ALICE, buy(expires_ms=-(1 << 63)))


@case(Code.PRICE_BAND)
def a_limit_far_through_the_mark() -> int:
    corner = Corner(chain_of(price_band_ppm=100_000))
    corner.fine(ALICE, buy(1_100), buy(1))
    corner.fine(BOB, act.CancelAll(0), sell(2_000))
    assert corner.refused(BOB, sell(899)) == Code.PRICE_BAND
    return corner.refused(ALICE, buy(1_101))


def closed(mode: int, *taken: object) -> int:
    """The code of a plain order in a market of this mode, where these actions are taken."""
    corner = Corner()
    corner.trade()
    corner.fine(ALICE, buy(900), buy(901))
    corner.vote(mode)
    for action in taken:
        corner.fine(ALICE, action)
    found = corner.refused(ALICE, buy())
    assert corner.refused(ALICE, act.MarketOrder(0, act.BUY, 1, 10_000)) == found
    assert corner.refused(ALICE, act.Twap(0, act.BUY, 1, 60_000)) == found
    return found


@case(Code.MARKET_HALTED)
def halted() -> int:
    corner = Corner()
    corner.fine(ALICE, buy(900))
    corner.vote(act.HALTED)
    for action in (act.Cancel(0, 1), act.CancelAll(0), act.Reduce(0, 1, 1), stop()):
        assert corner.refused(ALICE, action) == Code.MARKET_HALTED
    corner.fine(ALICE, act.CancelAll(act.ALL_MARKETS))
    assert len(corner.engine.orders_of(ALICE)) == 1
    return closed(act.HALTED)


@case(Code.MARKET_CANCEL_ONLY)
def cancel_only() -> int:
    return closed(act.CANCEL_ONLY, act.CancelAll(0))


@case(Code.MARKET_POST_ONLY)
def post_only() -> int:
    return closed(act.POST_ONLY_MODE, buy(902, tif=act.POST_ONLY), act.CancelAll(0))


@case(Code.MARKET_REDUCE_ONLY)
def reduce_only() -> int:
    return closed(act.REDUCE_ONLY_MODE, sell(1_010, flags=act.REDUCE_ONLY), act.CancelAll(0))


@case(Code.STALE_MARKET)
def stale_prices() -> int:
    corner = Corner(chain_of(oracle_age_ms=1_000))
    corner.price(1_000)
    corner.trade()
    corner.waited_ms = 2_000
    corner.block([])
    corner.fine(ALICE, sell(1_010, flags=act.REDUCE_ONLY))
    return corner.refused(ALICE, buy())


@case(Code.STALE_MARKET)
def wild_prices() -> int:
    corner = Corner(chain_of(oracle_deviation_ppm=100_000, oracle_hold_ms=60_000))
    corner.price(1_000)
    corner.trade()
    corner.fine(ALICE, act.Transfer(SUB, DOLLAR))
    corner.price(1_500)
    # Whoever holds nothing there is free to take money out.
    corner.fine(SUB, act.Transfer(ALICE, DOLLAR))
    for action in (act.Withdraw(1, TO), act.Transfer(SUB, 1), act.TransferPosition(SUB, 0, 1)):
        assert corner.refused(ALICE, action) == Code.STALE_MARKET, action
    return corner.refused(ALICE, buy())


@case(Code.MARKET_EXPIRED)
def an_expired_future() -> int:
    rules: dict[str, Any] = {"expires_ms": START_MS + 60_000, "settle_window_ms": 20_000}
    corner = Corner(chain_of(oracle_age_ms=30_000, **rules))
    corner.waited_ms = 1_000
    for _ in range(24):
        corner.price(1_000)
    return corner.refused(ALICE, buy())


@case(Code.BAD_TRIGGER)
def a_trigger_out_of_range() -> int:
    corner = Corner()
    for bad in (stop(0), stop(1 << 31), stop(limit_ticks=-1, slippage_ppm=0)):
        assert corner.refused(ALICE, bad) == Code.BAD_TRIGGER, bad
    return corner.refused(ALICE, act.TriggerOrder(0, act.SELL, 1, 3, 900, 0, 1))


@case(Code.BAD_LINK)
def links_that_do_not_belong_together() -> int:
    corner = Corner()
    assert corner.refused(ALICE, act.Oco(buy(900), stop())) == Code.BAD_LINK
    assert corner.refused(ALICE, act.Oco(stop(), act.TriggerOrder(1, 1, 1, 0, 900, 0, 1))) == (
        Code.BAD_LINK
    )
    profit = act.TriggerOrder(0, act.SELL, 0, act.TAKE_PROFIT, 1_100, 0, 10_000)
    for exits in ((profit, stop()), (profit, profit), (stop(lots=0), profit)):
        assert corner.refused(ALICE, act.Bracket(buy(900), *exits)) == Code.BAD_LINK
    return corner.refused(ALICE, act.Bracket(sell(1_100), profit, stop(lots=0)))


@case(Code.BAD_DURATION)
def a_duration_out_of_range() -> int:
    corner = Corner()
    assert corner.refused(ALICE, act.Twap(0, 0, 9, 29_999)) == Code.BAD_DURATION
    return corner.refused(ALICE, act.Twap(0, 0, 9, act.TWAP_LONGEST_MS + 1))


@case(Code.BAD_QUOTES)
def quotes_out_of_order() -> int:
    corner = Corner()
    for bids, asks in (
        ([(900, 1), (901, 1)], []), ([], [(1_100, 1), (1_099, 1)]), ([(1_000, 1)], [(1_000, 1)]),
        ([(1_000 - n, 1) for n in range(51)], []),
    ):  # fmt: skip
        assert corner.refused(ALICE, act.MassQuote(0, bids, asks)) == Code.BAD_QUOTES
    return corner.refused(ALICE, act.MassQuote(0, [(1_001, 1)], [(1_000, 1)]))


@case(Code.BAD_LEVERAGE)
def leverage_out_of_range() -> int:
    corner = Corner()
    corner.fine(ALICE, act.SetLeverage(0, 10), act.SetLeverage(0, 0))
    assert corner.refused(ALICE, act.SetLeverage(0, -1)) == Code.BAD_LEVERAGE
    return corner.refused(ALICE, act.SetLeverage(0, 11))


@case(Code.BAD_PROTECTION)
def protection_out_of_range() -> int:
    corner = Corner()
    for fills, window_ms in ((1, 0), (0, 1), (1_001, 1), (1, 3_600_001), (-1, -1)):
        assert corner.refused(ALICE, act.SetProtection(0, fills, window_ms)) == Code.BAD_PROTECTION
    return corner.refused(ALICE, act.SetProtection(0, -1, 0))


@case(Code.BAD_MODE)
def no_such_mode() -> int:
    corner = Corner()
    assert corner.refused(0, act.SetMode(0, -1), by=GUARDIAN) == Code.BAD_MODE
    return corner.refused(0, act.SetMode(0, 5), by=GUARDIAN)


@case(Code.BAD_CONFIDENCE)
def confidence_out_of_range() -> int:
    corner = Corner()
    assert corner.refused(0, act.OraclePrice(0, 1, -1), by=ORACLES[0]) == Code.BAD_CONFIDENCE
    return corner.refused(0, act.OraclePrice(0, 1, 1_000_001), by=ORACLES[0])
