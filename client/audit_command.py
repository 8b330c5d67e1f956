"""`trilemma audit`: fetch the base layer and have it re-executed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from client.channel import Channel
from client.faults import InvalidProof
from client.sdk import Exchange
from node.audit import AuditDifference, Auditor, AuditReport
from protocol.chain import Block
from protocol.errors import Code, RemoteFault
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView

BLOCKS_AT_ONCE = 256

Progress = Callable[[int, int], None]
"""(ledger blocks audited, ledger blocks in all)"""


async def audit(exchange: Exchange, progress: Progress | None = None) -> AuditReport:
    """Audit from genesis up to the newest block at the time of the call.

    A validator that does not keep a block any more is passed over. Raises `InvalidProof` that names
    the first difference, `RemoteFault(not_retained)` where no validator keeps everything.
    """
    node = exchange.channel("node")
    newest = (await node.ask(HeaderView, HeaderRequest, 0)).header.height
    auditor = Auditor(exchange.chain)
    try:
        waiting: list[Block] = []
        while auditor.height < newest:
            first = auditor.height + len(waiting) + 1
            view = await _blocks(node, first)
            waiting += view.blocks
            if waiting[-1].header.height < view.certificate.height:
                continue  # committed together with later blocks, which are proven first
            auditor.add(waiting, view.certificate)
            waiting = []
            if progress is not None:
                progress(auditor.height, newest)
            await asyncio.sleep(0)
        return auditor.report()
    except AuditDifference as difference:
        raise InvalidProof(f"audit: {difference}") from None


_ABSENT = frozenset((Code.NOT_RETAINED, Code.NOT_FOUND))
"""Refusals of a validator that has pruned a block, or has not got it yet."""

_KEPT_FROM = re.compile(r"keeps blocks from (\d{1,19}) on", re.ASCII)


async def _blocks(node: Channel, first: int) -> BlocksView:
    """Blocks from a height on, of the first validator that has them."""
    pruned: list[str] = []
    for _ in range(node.places):
        try:
            return await node.ask(BlocksView, BlocksFrom, first, BLOCKS_AT_ONCE)
        except RemoteFault as fault:
            if fault.code not in _ABSENT:
                raise
            last = fault
            pruned += [fault.text] if fault.code == Code.NOT_RETAINED else []
            await node.move_on()
    if not pruned:
        raise last
    kept = [int(found[1]) for text in pruned if (found := _KEPT_FROM.search(text)) is not None]
    lowest = f"; the lowest block that one of them keeps is {min(kept)}" if kept else ""
    raise RemoteFault(
        Code.NOT_RETAINED,
        f"no validator that answers keeps ledger block {first}{lowest}. An audit from genesis "
        "needs a validator with retain_blocks = 0",
    )
