"""An account's settings in a market: leverage cap and market-maker protection."""

from __future__ import annotations

from execution import leaves as lv
from execution.state import State
from execution.trading import OK, REFUSED, Trading
from margin.account import Account
from margin.market import Market
from protocol.actions import SetLeverage, SetProtection
from protocol.errors import Code
from protocol.events import REASON_PROTECTION, Result, SettingChanged
from protocol.markets import PPM
from protocol.settlement import isolated_market

PROTECTION_FILLS = 1_000
PROTECTION_WINDOW_MS = 3_600_000
"""Most fills, and the longest window, of market-maker protection."""


class Settings:
    """Executes the actions that change settings, and counts the fills of protected quotes."""

    __slots__ = ("_state", "_trading")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading
        for key, row in state.settings.rows.items():
            number, market = lv.parse_position_key(key)
            exposure = state.accounts[number].exposure(market)
            exposure.leverage = row.leverage
            exposure.protected = row.fills > 0

    def set_leverage(self, account: Account, action: SetLeverage) -> Result:
        """Cap the leverage, where the account can carry what it has under the cap."""
        state = self._state
        if not 0 <= action.market < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        if isolated_market(account.number) not in (-1, action.market):
            return REFUSED[Code.ISOLATED_ACCOUNT]
        highest = PPM // state.markets[action.market].config.initial_ppm
        if not 0 <= action.leverage <= highest:
            return REFUSED[Code.BAD_LEVERAGE]
        exposure = account.exposure(action.market)
        before, im_before = exposure.leverage, account.im_uusd
        exposure.leverage = action.leverage
        state.risk.refresh(account)
        if account.tv_uusd < account.im_uusd and account.im_uusd > im_before:
            exposure.leverage = before
            state.risk.refresh(account)
            return REFUSED[Code.LEVERAGE_TOO_HIGH]
        row = self._row(account, action.market)
        self._put(
            account,
            action.market,
            lv.SettingsLeaf(action.leverage, row.fills, row.window_ms, row.counted, row.began_ms),
        )
        return OK

    def set_protection(self, account: Account, action: SetProtection) -> Result:
        """Switch market-maker protection on (its count starts anew) or off."""
        state, fills, window_ms = self._state, action.fills, action.window_ms
        if not 0 <= action.market < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        if isolated_market(account.number) not in (-1, action.market):
            return REFUSED[Code.ISOLATED_ACCOUNT]
        in_range = 1 <= fills <= PROTECTION_FILLS and 1 <= window_ms <= PROTECTION_WINDOW_MS
        if not (in_range or (fills, window_ms) == (0, 0)):
            return REFUSED[Code.BAD_PROTECTION]
        account.exposure(action.market).protected = fills > 0
        row = self._row(account, action.market)
        self._put(account, action.market, lv.SettingsLeaf(row.leverage, fills, window_ms))
        return OK

    def count_fill(self, account: Account, market: Market) -> None:
        """A resting order of a protected account filled; after the last one allowed, all its
        orders in the market go."""
        state, number = self._state, market.number
        row = self._row(account, number)
        counted, began_ms = row.counted, row.began_ms
        if not counted or state.time_ms - began_ms >= row.window_ms:
            counted, began_ms = 0, state.time_ms
        counted += 1
        if counted >= row.fills:
            counted = 0
        key = lv.settings_key(account.number, number)
        state.settings.put(
            key, lv.SettingsLeaf(row.leverage, row.fills, row.window_ms, counted, began_ms)
        )
        if not counted:
            self._trading.crossing.count_refused(account)
            self._trading.cancel_orders(account, number, REASON_PROTECTION)

    def _row(self, account: Account, market: int) -> lv.SettingsLeaf:
        return self._state.settings.get(lv.settings_key(account.number, market)) or (
            lv.SettingsLeaf()
        )

    def _put(self, account: Account, market: int, row: lv.SettingsLeaf) -> None:
        state = self._state
        key = lv.settings_key(account.number, market)
        if row.leverage or row.fills:
            state.settings.put(key, row)
        else:
            state.settings.drop(key)
        state.events.append(
            SettingChanged(account.number, market, row.leverage, row.fills, row.window_ms)
        )
