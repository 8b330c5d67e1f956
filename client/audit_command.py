"""`trilemma audit`: fetch the base layer and have it re-executed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from client.faults import InvalidProof
from client.sdk import Exchange
from node.audit import AuditDifference, Auditor, AuditReport
from protocol.chain import Block
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView

BLOCKS_AT_ONCE = 256

Progress = Callable[[int, int], None]
"""(ledger blocks audited, ledger blocks in all)"""


async def audit(exchange: Exchange, progress: Progress | None = None) -> AuditReport:
    """Audit from genesis up to the newest block at the time of the call.

    Raises `InvalidProof` that names the first difference.
    """
    node = exchange.channel("node")
    newest = (await node.ask(HeaderView, HeaderRequest, 0)).header.height
    auditor = Auditor(exchange.chain)
    try:
        waiting: list[Block] = []
        while auditor.height < newest:
            first = auditor.height + len(waiting) + 1
            view = await node.ask(BlocksView, BlocksFrom, first, BLOCKS_AT_ONCE)
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
