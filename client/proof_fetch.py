"""Fetching proofs: evidence from prover and execution, the batch from validators, all verified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from client.faults import InvalidProof
from client.light import VerifiedLedger
from client.proof_file import (
    EpochChange,
    SettledProof,
    WithdrawalEvidence,
    ledger_keys,
    show,
)
from client.proof_kinds import LIQUIDATION, STATE_KINDS, WITHDRAWAL, check_subject
from execution import leaves as lv
from execution.receipt_proof import ReceiptProof
from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault
from protocol.ledger_leaves import SettledBatch, batch_key, decode_batch, decode_final, final_key
from protocol.messages import (
    EpochRequest,
    EpochView,
    ProofRequest,
    ProofView,
    StateProofRequest,
    StateProofView,
    WithdrawalRequest,
    WithdrawalView,
)
from protocol.tree_proof import TreeProof, decode_tree_proof, verify_proof

if TYPE_CHECKING:
    from client.sdk import Exchange

POLL_S = 0.2
_NOT_YET = frozenset((Code.NOT_READY, Code.NOT_FOUND, Code.UNKNOWN_BATCH))


class Shown(NamedTuple):
    """Evidence as the prover shows it, under a batch that may not be settled yet."""

    batch: int
    evidence: bytes
    receipts: TreeProof | None = None


class ProofFetcher:
    """Fetches proofs of one exchange. `checkpoint`: file to trust, None for genesis; files lead
    from its epoch on."""

    def __init__(
        self,
        exchange: Exchange,
        checkpoint: Path | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._exchange = exchange
        self._ledger = VerifiedLedger(exchange, checkpoint, keep=False, clock=clock)
        self._first_epoch = self._ledger.light.client.epoch
        self._changes: list[EpochChange] = []

    async def fetch(
        self, kind: str, subject: list[int], timeout_ms: int = 120_000, *, final: bool = False
    ) -> SettledProof:
        """A proof under a settled batch, all checked; waits for that, with `final` until nothing
        can remove the batch any more.

        Raises `RemoteFault` where there is nothing to prove, `InvalidProof`, `TimeoutError`.
        """
        try:
            check_subject(kind, subject, self._exchange.chain.genesis.markets)
        except Rejected as error:
            raise ConfigError(error.text) from None
        if kind == LIQUIDATION:
            await self._exchange.questions.receipt(subject[0])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        shown: Shown | None = None
        refusal = ""
        while True:
            try:
                shown = shown or await self._evidence(kind, subject)
                # The prover goes on to later batches: what it showed is kept until that settles.
                found = None if shown is None else await self._settled(kind, subject, shown)
            except RemoteFault as fault:
                if fault.code not in _NOT_YET:
                    raise
                found, refusal = None, f": {fault.text}"
            if isinstance(found, SettledProof):
                if not final or show(found, self._exchange.chain).final:
                    return found
            elif found is False:
                shown = None
            if loop.time() >= deadline:
                state = "final" if final else "settled"
                what = f"what proves it is not {state} after {timeout_ms / 1000:g} s"
                raise TimeoutError(what + ("" if shown else refusal))
            await asyncio.sleep(POLL_S)

    async def _evidence(self, kind: str, subject: list[int]) -> Shown | None:
        prover = self._exchange.channel("prover")
        if kind == WITHDRAWAL:
            view = await prover.ask(WithdrawalView, WithdrawalRequest, subject[0])
            return Shown(view.batch, encode(WithdrawalEvidence(view.entry, view.path)))
        receipts = kind == LIQUIDATION
        keys = [lv.RECEIPTS_KEY] if receipts else STATE_KINDS[kind].keys(subject)
        told = await prover.ask(StateProofView, StateProofRequest, keys)
        return Shown(told.batch, told.proof, _decoded(told.proof) if receipts else None)

    async def _settled(
        self, kind: str, subject: list[int], shown: Shown
    ) -> SettledProof | bool | None:
        """The whole proof; None while the batch is not settled, False where another evidence is
        needed: the receipt came later, or another batch of this number was settled."""
        chain = self._exchange.chain
        shard = chain.genesis.shard
        keys = ledger_keys(kind, subject, shard, shown.batch)
        view: Any = await self._exchange.channel("node").ask(ProofView, ProofRequest, keys)
        try:
            await self._ledger.light.verify(view.header, view.certificate)
            ledger_proof = decode_tree_proof(view.proof)
            values = verify_proof(view.header.app_root, ledger_proof, keys)
        except Rejected as error:
            raise InvalidProof(error.text) from None
        raw = values[batch_key(shard, shown.batch)]
        if raw is None:
            return None
        final = values[final_key(shard)]
        try:
            evidence = shown.evidence
            if shown.receipts is not None:
                receipt = await self._receipt(subject[0], decode_batch(raw), shown.receipts)
                if receipt is None:
                    return False
                evidence = encode(receipt)
            found = SettledProof(
                chain.chain_id, kind, subject, shard, shown.batch,
                await self._epochs(view.header.epoch), view.header, view.certificate, ledger_proof,
                evidence,
            )  # fmt: skip
            show(found, chain)
        except InvalidProof:
            if final is not None and decode_final(final).batch >= shown.batch:
                raise
            # The prover's batch and the settled one differ, as long as a dispute can go on.
            return False
        return found

    async def _receipt(
        self, number: int, settled: SettledBatch, list_proof: TreeProof
    ) -> ReceiptProof | None:
        """The receipt under the settled batch, None where that has not got it."""
        root = settled.header.post_state_root
        try:
            value = verify_proof(root, list_proof, [lv.RECEIPTS_KEY])[lv.RECEIPTS_KEY]
            count = 0 if value is None else lv.decode_receipts(value).count
        except Rejected as error:
            raise InvalidProof(error.text) from None
        if count <= number:
            return None
        told = await self._exchange.questions.receipt(number, count)
        return ReceiptProof(told.receipt, told.path, list_proof)

    async def _epochs(self, epoch: int) -> list[EpochChange]:
        """What leads from the checkpoint's epoch to another one, as validators show it."""
        node = self._exchange.channel("node")
        for number in range(self._first_epoch + len(self._changes) + 1, epoch + 1):
            view: Any = await node.ask(EpochView, EpochRequest, number)
            change = EpochChange(view.header, view.certificate, _decoded(view.proof))
            self._changes.append(change)
        return list(self._changes)


def _decoded(raw: bytes) -> TreeProof:
    try:
        return decode_tree_proof(raw)
    except Rejected as error:
        raise InvalidProof(error.text) from None


async def fetch_receipt(
    exchange: Exchange, number: int, timeout_ms: int = 120_000, checkpoint: Path | None = None
) -> SettledProof:
    """A liquidation receipt with its proofs; raises as `ProofFetcher.fetch`."""
    return await ProofFetcher(exchange, checkpoint).fetch(LIQUIDATION, [number], timeout_ms)
