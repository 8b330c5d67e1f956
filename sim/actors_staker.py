"""Who becomes a validator in the course of a run, leaves again, or comes back from jail."""

from __future__ import annotations

from protocol.errors import Code
from protocol.settlement import Bond, LedgerAction, Unbond, Unjail
from sim.actors_keys import SimKey, certificate_of
from sim.actors_ledger_client import LedgerClient
from sim.actors_process import Setting

STAKE_UUSD = 900_000_000


class Staker(LedgerClient):
    """Acts for a validator's key: bonds if it is not in genesis, changes its stake, and unjails."""

    def __init__(
        self,
        setting: Setting,
        name: str,
        key: SimKey,
        validators: list[str],
        *,
        joins: bool,
        stop_us: int,
        skew_us: int = 0,
    ) -> None:
        super().__init__(setting, name, key, validators, skew_us)
        self._joins = joins
        self._stop_us = stop_us

    def start(self) -> None:
        """Begin to act."""
        self.spawn(self._act())

    def _bond(self, amount_uusd: int) -> Bond:
        return Bond(amount_uusd, certificate_of(self.key, self.key.name), "127.0.0.1:9000")

    async def _act(self) -> None:
        random = self.random
        if self._joins:
            await self.sleep(random.between(200, 2_000))
            await self._do("bonded", self._bond(STAKE_UUSD))
        while self.kernel.now_us < self._stop_us:
            await self.sleep(random.between(1_000, 4_000))
            draw = random.below(3)
            if draw == 0:
                await self._do("stake_added", self._bond(random.between(0, 5_000_000)))
            elif draw == 1:
                await self._do("unbonded", Unbond(random.between(0, 5_000_000)))
            else:
                await self._do("unjailed", Unjail())

    async def _do(self, what: str, action: LedgerAction) -> None:
        answer = await self.send_action(action)
        if answer is not None and answer.code == Code.OK:
            self.history.count(what)
