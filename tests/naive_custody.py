"""Money, positions and settings of accounts in the naive exchange."""

from __future__ import annotations

from naive_margin import (
    im_uusd,
    mm_uusd,
    move_position,
    position,
    tv_uusd,
    withdrawable_uusd,
)
from naive_orders import reached_limit, shrink_reduce_only
from naive_requests import market_code
from naive_state import Books, NaiveAccount

from protocol import actions as act
from protocol import events as ev
from protocol.actions import BUY, SELL
from protocol.errors import Code
from protocol.events import Result
from protocol.markets import CASH_MOVE_LIMIT, PPM
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    INSURANCE_ACCOUNT,
    InboxDeposit,
    OutboxEntry,
    isolated_market,
    master_of,
    subaccount_of,
)

PROTECTION_FILLS = 1_000
PROTECTION_WINDOW_MS = 3_600_000


def deposit(x: Books, entry: InboxDeposit) -> None:
    if entry.account not in x.accounts:
        x.accounts[entry.account] = NaiveAccount(entry.account, entry.address)
    x.accounts[entry.account].cash += entry.amount_uusd
    x.events.append(ev.Deposited(entry.index, entry.account, entry.address, entry.amount_uusd))


def out_code(x: Books, account: int, amount: int) -> int:
    """Whether this much cash may leave an account."""
    if not 0 < amount < CASH_MOVE_LIMIT:
        return Code.BAD_AMOUNT
    free, settled = withdrawable_uusd(x, account)
    if amount > settled:
        return Code.INSUFFICIENT_CASH
    return Code.INSUFFICIENT_MARGIN if amount > free else Code.OK


def withdraw(x: Books, account: int, a: act.Withdraw) -> Result:
    if not 0 < a.amount_uusd < CASH_MOVE_LIMIT:
        return Result(Code.BAD_AMOUNT)
    if len(a.address) != 20:
        return Result(Code.WRONG_TYPE)
    if code := out_code(x, account, a.amount_uusd):
        return Result(code)
    number = x.next_outbox
    x.next_outbox += 1
    x.accounts[account].cash -= a.amount_uusd
    x.outbox.append(OutboxEntry(number, account, a.address, a.amount_uusd))
    x.left.add(account)
    x.events.append(ev.WithdrawalQueued(number, account, a.address, a.amount_uusd))
    return Result(0, order_id=number)


# -- transfers


def target_code(x: Books, account: int, to: int) -> int:
    """Whether `to` is another account of the same master that exists or may begin."""
    if to == account or to < 0 or master_of(to) != master_of(account):
        return Code.WRONG_TRANSFER
    if isolated_market(to) >= len(x.markets):
        return Code.WRONG_TRANSFER
    if subaccount_of(to) > x.limits.subaccounts:
        return Code.TOO_MANY_SUBACCOUNTS
    return Code.OK


def transfer(x: Books, account: int, a: act.Transfer) -> Result:
    if not 0 < a.amount_uusd < CASH_MOVE_LIMIT:
        return Result(Code.BAD_AMOUNT)
    fund = a.to_account in (INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT)
    if not fund and (code := target_code(x, account, a.to_account)):
        return Result(code)
    if code := out_code(x, account, a.amount_uusd):
        return Result(code)
    if a.to_account not in x.accounts:
        x.accounts[a.to_account] = NaiveAccount(a.to_account, b"")
    x.accounts[account].cash -= a.amount_uusd
    x.accounts[a.to_account].cash += a.amount_uusd
    x.left.add(account)
    x.events.append(ev.Transferred(account, a.to_account, a.amount_uusd, 0, 0))
    return Result(0)


def transfer_position(x: Books, account: int, a: act.TransferPosition) -> Result:
    if code := market_code(x, a.market):
        return Result(code)
    if x.markets[a.market].mode == act.HALTED:
        return Result(Code.MARKET_HALTED)
    if x.markets[a.market].stale:
        return Result(Code.STALE_MARKET)
    if a.size_lots == 0:
        return Result(Code.BAD_SIZE)
    if code := target_code(x, account, a.to_account):
        return Result(code)
    if isolated_market(a.to_account) not in (-1, a.market):
        return Result(Code.ISOLATED_ACCOUNT)
    size, lots = position(x, account, a.market), a.size_lots
    if lots * size <= 0 or abs(lots) > abs(size):
        return Result(Code.NO_POSITION)
    side, mark = (BUY if lots > 0 else SELL), x.markets[a.market].mark
    if position_of(x, a.to_account, a.market) * lots < 0:
        return Result(Code.WRONG_TRANSFER)
    saved = x.save()
    if a.to_account not in x.accounts:
        x.accounts[a.to_account] = NaiveAccount(a.to_account, b"")
    if code := reached_limit(x, a.to_account, a.market, side, mark, abs(lots)):
        x.undo(saved)
        return Result(code)
    # At what it cost, the part that moves rounded like a part that is sold.
    holding = x.accounts[account].holding(a.market)
    cash = holding.cost - holding.cost * (size - lots) // size
    if abs(cash) >= CASH_MOVE_LIMIT:
        x.undo(saved)
        return Result(Code.BAD_SIZE)
    profit = lots * mark * x.value(a.market) - cash
    free = withdrawable_uusd(x, account)[0]
    before = {n: (tv_uusd(x, n), mm_uusd(x, n)) for n in (account, a.to_account)}
    sizes = {n: position(x, n, a.market) for n in before}
    move_position(x, account, a.market, -lots, -cash)
    move_position(x, a.to_account, a.market, lots, cash)
    for n in before:
        if profit > max(free, 0) or not legal(x, n, a.market, sizes[n], before[n]):
            x.undo(saved)
            return Result(Code.INSUFFICIENT_MARGIN)
    x.left.add(account)
    x.events.append(ev.Transferred(account, a.to_account, cash, a.market, lots))
    shrink_reduce_only(x, account, a.market)
    return Result(0)


def position_of(x: Books, account: int, market: int) -> int:
    return position(x, account, market) if account in x.accounts else 0


def legal(x: Books, account: int, market: int, size: int, before: tuple[int, int]) -> bool:
    """Whether the account may be as it is now, after its position was `size`."""
    if tv_uusd(x, account) >= im_uusd(x, account):
        return True
    after = position(x, account, market)
    if not (0 <= after < size or size < after <= 0):
        return False
    tv, mm = before
    if mm_uusd(x, account) == 0:
        return tv_uusd(x, account) >= 0
    return tv_uusd(x, account) * mm >= tv * mm_uusd(x, account)


# -- settings


def setting_changed(x: Books, account: int, market: int) -> Result:
    h = x.accounts[account].holding(market)
    x.events.append(ev.SettingChanged(account, market, h.leverage, h.fills, h.window))
    return Result(0)


def set_leverage(x: Books, account: int, a: act.SetLeverage) -> Result:
    if code := market_code(x, a.market):
        return Result(code)
    if isolated_market(account) not in (-1, a.market):
        return Result(Code.ISOLATED_ACCOUNT)
    if not 0 <= a.leverage <= PPM // x.configs[a.market].initial_ppm:
        return Result(Code.BAD_LEVERAGE)
    holding = x.accounts[account].holding(a.market)
    before, im = holding.leverage, im_uusd(x, account)
    holding.leverage = a.leverage
    after = im_uusd(x, account)
    if after > im and tv_uusd(x, account) < after:
        holding.leverage = before
        return Result(Code.LEVERAGE_TOO_HIGH)
    return setting_changed(x, account, a.market)


def set_protection(x: Books, account: int, a: act.SetProtection) -> Result:
    if code := market_code(x, a.market):
        return Result(code)
    if isolated_market(account) not in (-1, a.market):
        return Result(Code.ISOLATED_ACCOUNT)
    fine = 1 <= a.fills <= PROTECTION_FILLS and 1 <= a.window_ms <= PROTECTION_WINDOW_MS
    if not fine and (a.fills, a.window_ms) != (0, 0):
        return Result(Code.BAD_PROTECTION)
    holding = x.accounts[account].holding(a.market)
    holding.fills, holding.window = a.fills, a.window_ms
    holding.counted = holding.began = 0
    return setting_changed(x, account, a.market)
