"""Finds every account below maintenance after marks, funding or accounts changed.

Few accounts are valued one by one. Many are kept in arrays that compiled code walks
(`margin.sweep_arrays`); it computes with the same integers, so both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from margin.account import Account
from margin.valuation import Valuation
from protocol.settlement import FIRST_ACCOUNT

if TYPE_CHECKING:
    from margin.sweep_arrays import Arrays

LEAST_IN_ARRAYS = 1_000
"""From so many accounts with positions on, arrays are used: smaller processes never load what
compiles the code."""


class Below(NamedTuple):
    """Equity and maintenance margin of an account below maintenance, as `Valuation.liquidation`
    gives them."""

    tv_uusd: int
    mm_uusd: int

    @property
    def excess_uusd(self) -> int:
        """TV - MM, below 0."""
        return self.tv_uusd - self.mm_uusd


class Sweep:
    """Knows, between changes, who is below maintenance; system accounts are left out.

    `accounts` is the live mapping of all accounts. Whoever changes positions or cash tells it by
    `update`; changes of marks and the like it sees by the valuation's version.
    """

    __slots__ = (
        "_accounts", "_arrays", "_below", "_changed", "_exposed", "_least", "_risk", "_version",
    )  # fmt: skip

    def __init__(
        self, risk: Valuation, accounts: Mapping[int, Account], least: int | None = None
    ) -> None:
        self._risk = risk
        self._accounts = accounts
        self._least = LEAST_IN_ARRAYS if least is None else least
        self._arrays: Arrays | None = None
        self._exposed: dict[int, None] = {}
        """Accounts with an open position or a debt, while there are no arrays; nobody else can be
        below maintenance."""
        self._changed: dict[int, None] = {}
        self._below: dict[int, Below] = {}
        self._version = 0
        self.update(accounts)

    def update(self, numbers: Iterable[int]) -> None:
        """Positions or cash of these accounts changed."""
        accounts, exposed = self._accounts, self._exposed
        changed = [number for number in numbers if number >= FIRST_ACCOUNT]
        self._changed.update(dict.fromkeys(changed))
        if self._arrays is not None:
            self._arrays.update(changed)
            return
        for number in changed:
            if _is_exposed(accounts[number]):
                exposed[number] = None
            else:
                exposed.pop(number, None)
        if len(exposed) >= self._least:
            from margin.sweep_arrays import Arrays

            self._arrays = Arrays(self._risk, accounts)
            self._arrays.update(exposed)
            self._exposed = {}

    def below(self) -> dict[int, Below]:
        """All accounts with TV < MM, in no particular order."""
        if self._version != self._risk.version:
            self._version = self._risk.version
            self._below = self._scan(None)
        else:
            for number in self._changed:
                self._below.pop(number, None)
            self._below.update(self._scan(self._changed))
        self._changed = {}
        return self._below

    def _scan(self, numbers: Mapping[int, None] | None) -> dict[int, Below]:
        """Those below maintenance among these accounts (None: among all)."""
        found: dict[int, Below] = {}
        left: Iterable[int] = self._exposed if numbers is None else numbers
        if self._arrays is not None:
            valued, left = self._arrays.scan(numbers)
            found = {number: Below(tv_uusd, mm_uusd) for number, tv_uusd, mm_uusd in valued}
        liquidation = self._risk.liquidation
        for number in left:
            tv_uusd, mm_uusd = liquidation(self._accounts[number])
            if tv_uusd < mm_uusd:
                found[number] = Below(tv_uusd, mm_uusd)
        return found


def _is_exposed(account: Account) -> bool:
    return account.cash_uusd < 0 or any(e.size_lots for e in account.exposures.values())
