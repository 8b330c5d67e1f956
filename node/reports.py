"""Offences that a validator saw, reported to the ledger by transactions of its own key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node.app import ExecutedBlock, LedgerApplication
from protocol.errors import Code, Rejected
from protocol.evidence import Evidence, evidence_id
from protocol.keys import Key
from protocol.ledger_leaves import OFFENCE_KIND
from protocol.settlement import ReportEvidence, Transaction, sign_transaction

MAX_PENDING = 64
"""Most offences that wait for their punishment here; others will report the rest."""

MAX_KNOWN = 4_096
"""Most offences that are remembered as dealt with."""

MAX_ATTEMPTS = 16
NONCES_AHEAD = 8
"""How many transactions of the own key may wait before the report."""

STAGGER_MS = 1_000
"""Members report one after the other, so that one transaction is enough where nobody sleeps."""
MAX_STAGGER = 8
RETRY_MS = 3_000

_FINAL = frozenset(
    (Code.OK, Code.EVIDENCE_KNOWN, Code.EVIDENCE_EXPIRED, Code.BAD_EVIDENCE, Code.WRONG_EPOCH)
)
_TAKEN = frozenset((Code.BAD_LEDGER_NONCE, Code.FEE_TOO_LOW))
"""What the pool says where another transaction of the key has the nonce."""


@dataclass(slots=True)
class _Report:
    evidence: Evidence
    due_ms: int
    transaction: bytes = b""
    attempts: int = 0


class EvidenceReporter:
    """Makes `ReportEvidence` transactions and follows them until the offence is punished."""

    def __init__(self, chain_id: bytes, key: Key, app: LedgerApplication) -> None:
        self._chain_id = chain_id
        self._key = key
        self._app = app
        self._pending: dict[bytes, _Report] = {}
        self._known: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def offence(self, evidence: Evidence, rank: int, now_ms: int) -> None:
        """Note an offence; the member of rank 0 reports it at once, the others later."""
        identity = evidence_id(self._chain_id, evidence)
        if identity in self._known or identity in self._pending:
            return
        if len(self._pending) < MAX_PENDING:
            due_ms = now_ms + min(rank, MAX_STAGGER) * STAGGER_MS
            self._pending[identity] = _Report(evidence, due_ms)

    def executed(self, blocks: Iterable[ExecutedBlock]) -> None:
        """Blocks were executed: offences that they punish need no report, failed ones another."""
        for block in blocks:
            for key in block.outcome.changes:
                if key[:1] == OFFENCE_KIND:
                    self._settle(key[1:])
            if not self._pending:
                continue
            codes = {result.id: result.code for result in block.outcome.results}
            for identity, report in list(self._pending.items()):
                code = codes.get(report.transaction)
                if code is not None:
                    self._outcome(identity, report, code)

    def next_ms(self) -> int | None:
        """When `due` has something to look at."""
        return min((one.due_ms for one in self._pending.values()), default=None)

    def due(self, now_ms: int) -> list[tuple[bytes, bytes]]:
        """Reports made now: id and bytes of transactions that are new in the pool."""
        made = []
        for identity, report in list(self._pending.items()):
            if report.due_ms > now_ms:
                continue
            report.due_ms = now_ms + RETRY_MS
            if report.transaction and self._app.mempool.get(report.transaction) is not None:
                continue
            report.attempts += 1
            if report.attempts > MAX_ATTEMPTS:
                self._settle(identity)
                continue
            submitted = self._submit(identity, report, now_ms)
            if submitted is not None:
                made.append(submitted)
        return made

    def _submit(self, identity: bytes, report: _Report, now_ms: int) -> tuple[bytes, bytes] | None:
        """Put a report into the pool behind what the own key has there."""
        nonce = self._app.ledger.account(self._key.address).nonce
        for ahead in range(NONCES_AHEAD):
            transaction = Transaction(nonce + ahead, ReportEvidence(report.evidence))
            raw = sign_transaction(self._key, self._chain_id, transaction)
            try:
                report.transaction = self._app.submit(raw, now_ms)[0]
            except Rejected as error:
                if error.code in _TAKEN:
                    continue
                if error.code in _FINAL:
                    self._settle(identity)
                return None
            return report.transaction, raw
        return None

    def _outcome(self, identity: bytes, report: _Report, code: int) -> None:
        report.transaction = b""
        if code in _FINAL:
            self._settle(identity)

    def _settle(self, identity: bytes) -> None:
        self._pending.pop(identity, None)
        self._known[identity] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
