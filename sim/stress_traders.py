"""What traders and oracles of a stress run send: top-ups, and prices.

An oracle reports the true price as it was `delay_ms` ago, with the time of that observation, which
the staleness bound of the market is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from protocol.actions import OraclePrice, Transfer
from protocol.settlement import account_number
from sim.stress_exchange import ORACLES, signed
from sim.stress_population import Trader

ORACLE_WIRE_MS = 5
RETRY_MS = 500
"""Who is told that the exchange is busy tries again after this time."""


class Report(NamedTuple):
    """A batch of an oracle: bytes, signer and nonce."""

    raw: bytes
    signer: bytes
    nonce_ms: int


def oracle_reports(ticks: int, observed_ms: int) -> list[Report]:
    """What the committee sends about one observation."""
    action = OraclePrice(0, ticks)
    return [Report(signed(0, observed_ms, [action], key), key, observed_ms) for key in ORACLES]


class Reserves:
    """Traders who top up: when the price passes their alarm, they send their reserve, once."""

    def __init__(self, traders: Sequence[Trader]) -> None:
        owners = [trader for trader in traders if trader.reserve_uusd]
        self._longs = [(-one.alarm_ticks, one.account) for one in owners if one.size_lots > 0]
        self._shorts = [(one.alarm_ticks, one.account) for one in owners if one.size_lots < 0]
        self._longs.sort(reverse=True)
        self._shorts.sort(reverse=True)
        self._traders = {one.account: one for one in owners}
        self._due: list[tuple[int, int]] = []

    def look(self, now_ms: int, true_ticks: int) -> None:
        """The true price is this: alarms go off."""
        for waiting, ticks in ((self._longs, -true_ticks), (self._shorts, true_ticks)):
            while waiting and waiting[-1][0] <= ticks:
                _, account = waiting.pop()
                heappush(self._due, (now_ms + self._traders[account].react_ms, account))

    def due(self, now_ms: int) -> list[tuple[int, Transfer]]:
        """(sub-account, transfer) of those who have reacted by now."""
        found = []
        while self._due and self._due[0][0] <= now_ms:
            _, account = heappop(self._due)
            amount = self._traders[account].reserve_uusd
            found.append((account, Transfer(account, amount)))
        return found

    def again(self, account: int, now_ms: int) -> None:
        """A top-up was refused as busy."""
        heappush(self._due, (now_ms + RETRY_MS, account))

    @staticmethod
    def purse(account: int) -> int:
        """The sub-account that holds a trader's reserve."""
        return account_number(account, 1)
