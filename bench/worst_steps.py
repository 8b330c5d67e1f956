"""Witnesses of steps that somebody makes large on purpose.

    python -m bench.worst_steps [--accounts 50] [--orders 2000] [--case sweep ...] [--json]

So many accounts with so many resting orders each meet in one step, signatures count as valid:

- sweep: one action takes an order of each of them;
- linked: the same, and fifty of the other orders of each are linked with stops;
- refused: as the first, but the mark has moved by so much that margin lets none of them trade: all
  of their orders are needed to show that, of as many as an action meets;
- cancel: one of them cancels everything;
- expiries: an order of each expires; switches: the dead-man's switch of each goes off;
- triggers: a stop of each fires at once, into the others' orders.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench.engine import BLOCK_MS, MARKETS, MID_TICKS, START_MS
from bench.witness import Population, valid
from execution.engine import Engine
from execution.steps import Stage
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    IOC,
    POST_ONLY,
    SELL,
    STOP,
    CancelAll,
    Oco,
    Order,
    ScheduleCancel,
    TriggerOrder,
    Withdraw,
)
from protocol.genesis import Limits
from protocol.settlement import FIRST_ACCOUNT
from prover.steps import walk
from prover.witness import decode_witness, execute

LATER_MS = 20_000
TIGHT_UUSD = 100_000
"""Money of an account above what its orders ask for."""
REFUSED_TICKS = 40
LINKED = 50
WITHDRAWALS = 100
"""As there is a most for each."""


class Crowd(Population):
    """Accounts with resting orders, and one more who takes them."""

    def __init__(self, accounts: int, orders: int, case: str, limits: Limits | None = None) -> None:
        self.case, self.taker = case, accounts
        super().__init__(accounts + 1, 0, 0, limits)
        tight = case == "refused"
        for owner in range(accounts):
            placed = [*self._placed(orders, not tight)]
            batches = [
                self._sign(owner, placed[at : at + 100]) for at in range(0, len(placed), 100)
            ]
            self.apply([self.flow.oracle(), *batches] if not owner else batches)
        if tight:
            self.apply([self._withdrawal(owner) for owner in range(accounts)])
            self.flow.mids = [MID_TICKS + REFUSED_TICKS] * MARKETS
            self.apply([self.flow.oracle()])

    def _withdrawal(self, owner: int) -> bytes:
        """All but what the account's orders need."""
        account = self.engine.state.accounts[FIRST_ACCOUNT + owner]
        spare_uusd = account.tv_uusd - account.im_uusd - TIGHT_UUSD
        withdrawal = Withdraw(spare_uusd // WITHDRAWALS, account.address)
        return self._sign(owner, [withdrawal] * WITHDRAWALS)

    def _placed(self, orders: int, spread: bool) -> list[Any]:
        rng, case = self.rng, self.case
        later_ms = START_MS + LATER_MS
        first_ms = later_ms if case == "expiries" else 0
        found: list[Any] = [Order(0, SELL, MID_TICKS + 1, 1, POST_ONLY, 0, 0, first_ms)]
        while len(found) < orders:
            market, side = (rng.randrange(MARKETS), rng.randrange(2)) if spread else (0, SELL)
            away = rng.randint(100, 1_100) * (1 if side == SELL else -1)
            order = Order(market, side, MID_TICKS + away, 1, POST_ONLY)
            if case == "linked" and len(found) <= LINKED:
                stop = TriggerOrder(market, side, 1, STOP, MID_TICKS - away, slippage_ppm=50_000)
                found.append(Oco(order, stop))
            else:
                found.append(order)
        if case == "switches":
            found.append(ScheduleCancel(later_ms))
        elif case == "triggers":
            found.append(TriggerOrder(0, BUY, 1, STOP, MID_TICKS + 50, slippage_ppm=50_000))
        return found

    def last(self) -> list[bytes]:
        """The batches of the block that is measured."""
        if self.case == "cancel":
            return [self._sign(0, [CancelAll(ALL_MARKETS)])]
        if self.case in ("expiries", "switches"):
            self.height += 2 * LATER_MS // BLOCK_MS
            return []
        if self.case == "triggers":
            self.flow.mids = [MID_TICKS + 60] * MARKETS
            return [self.flow.oracle()]
        return [self._sign(self.taker, [Order(0, BUY, MID_TICKS + 90, self.taker, IOC)])]


STAGES = {
    "sweep": Stage.TAKING, "linked": Stage.TAKING, "refused": Stage.TAKING, "cancel": Stage.TAKING,
    "expiries": Stage.EXPIRIES, "switches": Stage.SWITCHES, "triggers": Stage.TRIGGERS,
}  # fmt: skip


def figures(case: str, accounts: int, orders: int) -> dict[str, Any]:
    """Bytes, leaves by kind and seconds of the large step of a case."""
    crowd = Crowd(accounts, orders, case)
    step = crowd.step(crowd.last())
    with walk(crowd.rules, crowd.tree, step, valid) as walked:
        plan = step.steps(Engine.restore(crowd.rules, crowd.tree.iterate(), valid)).plan
        number = next(n for n, one in enumerate(plan) if one.stage == STAGES[case])
        root = walked.to(number)
        made, shown = timed(lambda: walked.witness(number))
        judged, _ = timed(
            lambda: execute(crowd.rules, root, shown, step._replace(number=number), valid)
        )
        changed = len(walked.step(step.block.header.height))
    leaves = decode_witness(shown).proof.leaves
    return {
        "leaves_of_state": len(crowd.tree), "changed": changed, "bytes": len(shown),
        "leaves": len(leaves), "made_s": made, "judged_s": judged,
        "kinds": {chr(kind): count for kind, count in Counter(key[0] for key, _ in leaves).items()},
    }  # fmt: skip


def timed(work: Callable[[], bytes]) -> tuple[float, bytes]:
    """CPU seconds of something, and what it gives."""
    begun = time.process_time()
    found = work()
    return round(time.process_time() - begun, 2), found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--orders", type=int, default=2_000)
    parser.add_argument("--case", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {case: figures(case, options.accounts, options.orders) for case in options.case}
    if options.json:
        print(json.dumps(found))
        return
    for case, values in found.items():
        print(f"{case:>9}  {values}")


if __name__ == "__main__":
    main()
