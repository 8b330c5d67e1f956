"""The verdict on a run: what the simulator checks, and what the experiment expects.

Safety is judged with the simulator's own checkers, fed with what each process of the real cluster
holds; nothing is taken on the word of a single process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from client.audit_command import audit
from client.faults import EXIT_FAILED, EXIT_NO_PROGRESS, EXIT_OK, EXIT_SAFETY, InvalidProof
from cluster.faults_collect import NotTold, executed_blocks, ledger_headers, ordered_blocks
from cluster.faults_flow import WatchedExchange
from node.audit import AuditReport
from protocol.actions import batch_id
from protocol.errors import SafetyViolation, TrilemmaError
from protocol.genesis import Chain
from protocol.ordering import decode_payload
from sim.checkers import Violation
from sim.kernel import Kernel
from sim.pipeline_checks import check_receipts
from sim.pipeline_history import History
from store.config import Role
from store.testnet import ProcessEntry, Testnet

SAFETY, PROGRESS, EXPECTATION = "safety", "progress", "expectation"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; `kind` is safety, progress or expectation."""

    kind: str
    name: str
    ok: bool
    text: str


def exit_status(checks: list[Check]) -> int:
    """0 passed, 5 where safety is broken, 4 where nothing went on, 1 for other failures."""
    failed = {check.kind for check in checks if not check.ok}
    if SAFETY in failed:
        return EXIT_SAFETY
    if PROGRESS in failed:
        return EXIT_NO_PROGRESS
    return EXIT_FAILED if failed else EXIT_OK


def verdict(status: int) -> str:
    """An exit status in words."""
    words = {EXIT_OK: "passed", EXIT_SAFETY: "SAFETY VIOLATION", EXIT_NO_PROGRESS: "NO PROGRESS"}
    return words.get(status, "FAILED")


class Judge:
    """Fetches what the processes of a healed cluster hold and checks it.

    `liars` are processes that lied in the run: what they hold is not compared. Each look may take
    `limit_s`.
    """

    def __init__(
        self, testnet: Testnet, exchange: WatchedExchange, liars: set[str], limit_s: float
    ) -> None:
        self.checks: list[Check] = []
        self.history = History(Kernel(0), keep_diffs=False)
        self.audited: AuditReport | None = None
        self._testnet = testnet
        self._chain: Chain = testnet.chain()
        self._exchange = exchange
        self._liars = liars
        self._limit_s = limit_s
        self._places: dict[bytes, list[int]] = {}

    async def judge(self) -> None:
        """Check everything; what is found stands in `checks`."""
        await self._safely("one ledger", self._ledger)
        await self._safely("one ordered log", self._log)
        await self._safely("executed once, to one result", self._executions)
        await self._safely("nothing acknowledged is lost", self._receipts)
        await self._safely("audit from base-layer data", self._audit)

    async def _safely(self, name: str, look: Callable[[], object]) -> None:
        """Note what a look finds: a `Violation` is one of safety, a refusal a missing proof."""
        try:
            async with asyncio.timeout(self._limit_s):
                found = look()
                text = str(await found if hasattr(found, "__await__") else found)
            self.checks.append(Check(SAFETY, name, True, text))
        except (Violation, SafetyViolation, InvalidProof) as broken:
            self.checks.append(Check(SAFETY, name, False, str(broken)))
        except (NotTold, TrilemmaError, OSError) as missing:
            text = f"could not be checked: {str(missing) or 'it took too long'}"
            self.checks.append(Check(PROGRESS, name, False, text))

    def _honest(self, role: Role) -> list[ProcessEntry]:
        """The processes of a role that did not lie; raises `NotTold` where all of them did."""
        honest = [one for one in self._testnet.of_role(role) if one.name not in self._liars]
        if not honest:
            raise NotTold(f"every process of the role {role} lied")
        return honest

    async def _ledger(self) -> str:
        blocks = 0
        honest = self._honest("node")
        for entry in honest:
            async for header in ledger_headers(self._chain, entry):
                self.history.committed(
                    entry.name, header.height, header.block_id(), header.app_root
                )
                blocks = max(blocks, header.height)
        return f"{len(honest)} validators hold the same {blocks:,} blocks"

    async def _log(self) -> str:
        blocks = 0
        everybody = self._testnet.of_role("sequencer")
        # A censor's log is right in itself, and where it is the only one, it is the log.
        honest = [one for one in everybody if one.name not in self._liars] or everybody
        placed = 0
        for entry in honest:
            async for block in ordered_blocks(self._chain, entry):
                height = block.header.height
                self.history.ordered(height, block.header.block_id())
                if height <= placed:
                    continue
                placed = height
                if block.payload:
                    for raw in decode_payload(block.payload).batches:
                        self._places.setdefault(batch_id(raw), []).append(height)
            blocks = max(blocks, placed)
        return f"{len(honest)} sequencers hold the same {blocks:,} blocks"

    async def _executions(self) -> str:
        history = self.history
        honest = self._honest("execution")
        for entry in honest:
            async for block in executed_blocks(self._chain, entry):
                history.executed(entry.name, block.events, block.diff)
        actions = history.counters.get("executed_actions", 0)
        return (
            f"{len(honest)} execution nodes have the same result of each of "
            f"{history.executed_height:,} blocks, {actions:,} actions once each"
        )

    def _receipts(self) -> str:
        history = self.history
        if self._exchange.tracker.duplicated:
            raise Violation(
                "exactly_once", f"{self._exchange.tracker.duplicated} batches had two results"
            )
        for submission in self._exchange.submissions:
            if submission.receipt is not None:
                history.accepted(submission.raw, submission.receipt)
        check_receipts(history, self._chain, self._places)
        return f"{len(history.receipts):,} receipts, each batch ordered and executed"

    async def _audit(self) -> str:
        report = self.audited = await audit(self._exchange)
        if not (report.roots_agree and report.money_conserved):
            raise Violation("conservation", report.line())
        return report.line()
