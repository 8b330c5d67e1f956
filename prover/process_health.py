"""How far settlement lags behind execution, and how long each batch took to settle and be final."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from net.metrics import Histogram
from protocol.events import BlockDiff
from protocol.settlement import BatchHeader

LAG_S = 60.0
"""Executed blocks with actions that wait for longer mean that settlement does not keep up."""

SETTLED_KEPT = 4_096
"""Settled batches whose finality is waited for."""


class _Waiting(NamedTuple):
    height: int
    actions: int
    since_s: float


class _Settled(NamedTuple):
    at_s: float
    blocks: list[_Waiting]


class SettlementLag:
    """Notes when executed blocks came, were settled and became final; by this process's clock."""

    def __init__(
        self,
        settled: Histogram,
        final: Histogram,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._to_settled = settled
        self._to_final = final
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._settled: OrderedDict[int, _Settled] = OrderedDict()

    def executed(self, diff: BlockDiff) -> None:
        """A block's diff has come; one that came before counts from the first time on. One that had
        to wait where it is kept, as there was no room here, counts from when it came."""
        if self._waiting and diff.height <= self._waiting[-1].height:
            return
        if diff.actions:
            self._waiting.append(_Waiting(diff.height, diff.actions, self._clock()))

    def settled(self, header: BatchHeader) -> None:
        """A batch is settled."""
        now_s = self._clock()
        blocks = []
        while self._waiting and self._waiting[0].height <= header.last_block:
            one = self._waiting.popleft()
            self._to_settled.observe(now_s - one.since_s, one.actions)
            blocks.append(one)
        self._settled[header.number] = _Settled(now_s, blocks)
        while len(self._settled) > SETTLED_KEPT:
            self._settled.popitem(last=False)

    def final(self, number: int) -> None:
        """Batches up to this one are final."""
        now_s = self._clock()
        while self._settled and next(iter(self._settled)) <= number:
            self._to_final.observe(now_s - self._settled.popitem(last=False)[1].at_s)

    def removed(self, number: int) -> None:
        """The settled batch of this number and those after it are gone: their blocks wait again."""
        for each in sorted((one for one in self._settled if one >= number), reverse=True):
            self._waiting.extendleft(reversed(self._settled.pop(each).blocks))

    def lag_ms(self) -> int:
        """Age of the oldest executed block with actions that is not settled; 0 for none."""
        if not self._waiting:
            return 0
        return int(1000 * (self._clock() - self._waiting[0].since_s))


def trouble(lag_ms: int, batch: int, refusal: str, wrong_batch: int) -> str:
    """Why settlement does not keep up; empty where it does."""
    if wrong_batch:
        return f"settled batch {wrong_batch} contradicts our execution; waiting for its removal"
    if refusal:
        return f"the ledger refuses batch {batch}: {refusal}"
    if lag_ms > LAG_S * 1000:
        return f"settlement lags: an executed block has waited for {lag_ms // 1000} s"
    return ""
