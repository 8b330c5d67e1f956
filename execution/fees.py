"""Fee tiers by the volume of a master account, kept in UTC-day buckets."""

from __future__ import annotations

from bisect import bisect_right

from execution import leaves as lv
from execution.state import State
from margin.account import Account
from protocol.genesis import DAY_MS

VOLUME_DAYS = 14
"""Full UTC days before the present one whose volume counts."""

VOLUME_LIMIT_UUSD = 1 << 62
"""A day's volume stays at this value, which no fee schedule reaches."""


class Fees:
    """Volumes of master accounts, and the tiers that follow from them.

    Markets may have tiers at different volumes. A tier here counts the volumes at which any of
    them changes its fees, and each market's `fees_ppm` is laid out by that count. Without any tier
    in genesis no volumes are kept.
    """

    __slots__ = ("_state", "_volumes_uusd")

    def __init__(self, state: State) -> None:
        self._state = state
        volumes = {t.volume_uusd for m in state.markets for t in m.config.fee_tiers}
        self._volumes_uusd = sorted(volumes)
        for market in state.markets:
            config = market.config
            rates = [(0, config.taker_fee_ppm, config.maker_fee_ppm)]
            rates += [(t.volume_uusd, t.taker_fee_ppm, t.maker_fee_ppm) for t in config.fee_tiers]
            market.fees_ppm = [
                next((taker, maker) for above, taker, maker in reversed(rates) if volume >= above)
                for volume in (0, *self._volumes_uusd)
            ]

    def tier(self, account: Account) -> int:
        """The account's fee tier on the UTC day of the block, an index into `Market.fees_ppm`.

        It follows from the volume of the account's master on the 14 days before, so it is the same
        all day long.
        """
        today = self._state.time_ms // DAY_MS
        if account.tier_day != today:
            row = self._state.volumes.get(lv.volume_key(account.master))
            days = [] if row is None else row.days
            first = today - VOLUME_DAYS
            volume_uusd = sum(uusd for day, uusd in days if first <= day < today)
            account.tier_day = today
            account.tier = bisect_right(self._volumes_uusd, volume_uusd)
        return account.tier

    def fold(self) -> None:
        """At the end of a block: add its trades to the day's volumes, forget days that no longer
        count."""
        state = self._state
        if not self._volumes_uusd:
            return
        today = state.time_ms // DAY_MS
        for master, traded_uusd in sorted(state.volume_uusd.items()):
            key = lv.volume_key(master)
            row = state.volumes.get(key)
            days = [] if row is None else [d for d in row.days if d[0] >= today - VOLUME_DAYS]
            if days and days[-1][0] == today:
                traded_uusd += days.pop()[1]
            days.append((today, min(traded_uusd, VOLUME_LIMIT_UUSD)))
            state.volumes.put(key, lv.VolumeLeaf(days))
