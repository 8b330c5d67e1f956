"""What happened in a run, as nobody inside it can see it; wrong turns are found as they happen.

Processes tell the history what they did and what they were promised. It compares: one block per
height of either chain over all processes and times, one result per executed block, no batch
executed twice. What can only be known at the end is checked by `sim.pipeline_checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from node.outcomes import NOT_FINAL
from protocol.actions import batch_id
from protocol.codec import encode
from protocol.errors import Code
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_DELEVERAGED,
    LIQUIDATION_ORDER,
    BatchExecuted,
    BlockDiff,
    Deposited,
    Event,
    FundingPaid,
    LiquidationBegun,
    MarketChanged,
    TriggerFired,
    WithdrawalQueued,
)
from protocol.events import Receipt as LiquidationReceipt
from protocol.messages import Committed
from protocol.ordering import OrderedBlock, Receipt
from sim.checkers import Violation
from sim.kernel import Kernel

_TOLD = {LiquidationBegun: "liquidated", TriggerFired: "triggered", FundingPaid: "funded"}
_RECEIPTS = {
    LIQUIDATION_ORDER: "sold_in_book",
    LIQUIDATION_BACKSTOP: "taken_by_backstop",
    LIQUIDATION_DELEVERAGED: "deleveraged",
}


def _digest(value: object) -> bytes:
    return blake2b(encode(value), digest_size=16).digest()


class History:
    """Everything that was done and promised in one run. `counters` say how often what happened.

    `keep_diffs`: what executed blocks changed is kept in `diffs`, not only compared.
    """

    def __init__(self, kernel: Kernel, keep_diffs: bool = True) -> None:
        self.counters: dict[str, int] = {}
        self.ledger: dict[int, tuple[bytes, bytes]] = {0: (b"", b"")}
        """Block id and ledger root by height; nothing of genesis."""
        self.log: dict[int, bytes] = {}
        """Id of each ordered block."""
        self.receipts: dict[bytes, bytes] = {}
        """Accepted batches by id."""
        self.notices: dict[bytes, set[int]] = {}
        """Heights at which the sequencer said that a batch is ordered."""
        self.ledger_answers: dict[bytes, Committed] = {}
        """What validators said became of transactions."""
        self.batch_results: dict[tuple[bytes, int], bytes] = {}
        """Digest of the first results of each (signer, nonce) that was not refused."""
        self.refused: set[tuple[bytes, int]] = set()
        self.deposited: dict[int, Deposited] = {}
        self.withdrawn: dict[int, WithdrawalQueued] = {}
        self.liquidations: list[LiquidationReceipt] = []
        """Receipts of liquidations, in order."""
        self.blocks: dict[int, OrderedBlock] = {}
        """Ordered blocks by height."""
        self.diffs: list[BlockDiff] = []
        """What each executed block changed, from the first on."""
        self.looks: Callable[[str], None] | None = None
        """Told the name of each validator that has a ledger block on disk."""
        self.executed_height = 0
        self.active_height = 0
        """The newest executed block in which anything happened."""
        self._executed: dict[int, bytes] = {}
        self._kernel = kernel
        self._keep_diffs = keep_diffs

    def count(self, what: str, by: int = 1) -> None:
        """Something happened."""
        self.counters[what] = self.counters.get(what, 0) + by

    def highest(self, what: str, value: int) -> None:
        """The highest value of something."""
        if value > self.counters.get(what, 0):
            self.counters[what] = value

    def stopped(self, name: str, why: str, honest: bool) -> None:
        """A process found an invariant of its own broken."""
        self.count("safety_stops")
        self._kernel.trace("stopped", name, why)
        if honest:
            raise Violation("stopped", f"{name} stopped: {why}")

    # --- chains

    def committed(self, name: str, height: int, block_id: bytes, root: bytes) -> None:
        """A validator has a ledger block on disk."""
        known = self.ledger.setdefault(height, (block_id, root))
        if known[0] != block_id:
            raise Violation(
                "agreement", f"{name} has another block than others at ledger height {height}"
            )
        if known[1] != root:
            raise Violation(
                "root", f"{name} has another ledger root than others at height {height}"
            )
        self._kernel.trace("ledger", name, height, block_id)
        if self.looks is not None:
            self.looks(name)

    def ordered(self, height: int, block_id: bytes) -> None:
        """Somebody took an ordered block for committed."""
        known = self.log.setdefault(height, block_id)
        if known != block_id:
            raise Violation("prefix", f"two ordered blocks at height {height}")

    def executed(self, name: str, events: list[Event], diff: BlockDiff) -> None:
        """An execution node executed a block."""
        digest = _digest((events, diff))
        known = self._executed.setdefault(diff.height, digest)
        if known != digest:
            raise Violation(
                "root", f"{name} executed block {diff.height} to another result than before"
            )
        self._kernel.trace("executed", name, diff.height, digest)
        if diff.height != self.executed_height + 1:
            return
        self.executed_height = diff.height
        if self._keep_diffs:
            self.diffs.append(diff)
        if events:
            self.active_height = diff.height
        self.count("executed_actions", diff.actions)
        for event in events:
            self._take_event(event)

    def _take_event(self, event: Event) -> None:
        self.count(_TOLD.get(type(event), type(event).__name__))
        if isinstance(event, LiquidationReceipt):
            self.liquidations.append(event)
            self.count(_RECEIPTS[event.kind])
        elif isinstance(event, MarketChanged):
            self.count("market_stale" if event.stale else f"market_mode_{event.mode}")
        elif isinstance(event, BatchExecuted):
            place = (event.signer, event.nonce_ms)
            if event.duplicate:
                self.count("duplicates_answered")
                if self.batch_results.get(place) != _digest(event.results):
                    raise Violation(
                        "exactly_once",
                        "a duplicate was answered with other results than the first time",
                    )
            elif event.code:
                self.refused.add(place)
                self.count(f"refused_{Code(event.code).label}")
            elif place in self.batch_results:
                raise Violation(
                    "exactly_once", f"a signed batch was executed twice (nonce {event.nonce_ms})"
                )
            else:
                self.batch_results[place] = _digest(event.results)
                for result in event.results:
                    if result.code:
                        self.count(f"code_{Code(result.code).label}")
        elif isinstance(event, Deposited):
            if event.index in self.deposited:
                raise Violation("exactly_once", f"deposit {event.index} was credited twice")
            self.deposited[event.index] = event
        elif isinstance(event, WithdrawalQueued):
            if event.number in self.withdrawn:
                raise Violation("exactly_once", f"withdrawal {event.number} was queued twice")
            self.withdrawn[event.number] = event

    # --- promises

    def accepted(self, raw: bytes, receipt: Receipt) -> None:
        """A client holds a receipt that verified."""
        identity = batch_id(raw)
        if receipt.batch_id != identity:
            raise Violation(
                "durability", "a receipt names another batch than the one that was sent"
            )
        if identity not in self.receipts:
            self.count("accepted")
            self._kernel.trace("accepted", identity)
        self.receipts[identity] = raw

    def told_ordered(self, raw: bytes, height: int) -> None:
        """A client was told at which height its batch is ordered."""
        self.notices.setdefault(batch_id(raw), set()).add(height)

    def answered(self, answer: Committed) -> None:
        """A validator said what became of a transaction."""
        known = self.ledger_answers.get(answer.transaction_id)
        changed = known is not None and (known.height, known.code) != (answer.height, answer.code)
        if changed and known is not None and known.code not in NOT_FINAL:
            raise Violation("durability", "validators say different things about one transaction")
        self.ledger_answers[answer.transaction_id] = answer
        self._kernel.trace("answered", answer.transaction_id, answer.height, answer.code)
