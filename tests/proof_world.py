"""A chain on which everything that proof files can prove is settled."""

from __future__ import annotations

from typing import Any

from light_world import LightChain
from market_data_world import receipt

from client.proof_file import (
    EpochChange,
    SettledProof,
    WithdrawalEvidence,
    check_under_checkpoint,
    ledger_keys,
)
from client.proof_kinds import LIQUIDATION, STATE_KINDS, WITHDRAWAL
from execution import leaves as lv
from execution.receipt_proof import ReceiptProof, ReceiptTree
from execution.receipts import NO_RECEIPTS, extended
from protocol.actions import SELL
from protocol.codec import encode
from protocol.ledger_leaves import FinalLeaf, SettledBatch, batch_key, final_key, paid_key
from protocol.light import Checkpoint, genesis_checkpoint
from protocol.merkle import list_proof, list_root
from protocol.settlement import BatchHeader, OutboxEntry
from prover.tree import StateTree

COUNT, NUMBER, BATCH = 11, 6, 3
OUTBOX = [OutboxEntry(4 + n, 20, b"w" * 20, 1_000_000 * (n + 1)) for n in range(3)]
SUBJECTS = {
    "account": [20],
    "position": [20, 0],
    "order": [0, SELL, 600_000, 77],
    "market": [0],
    WITHDRAWAL: [5],
    LIQUIDATION: [NUMBER],
}


class World:
    """A chain on which a batch with all kinds of things is settled."""

    def __init__(self, epochs: int = 0, final: int = BATCH, paid: bool = True) -> None:
        self.chain = LightChain()
        self.receipts, row = ReceiptTree(), NO_RECEIPTS
        for number in range(COUNT):
            self.receipts.append(receipt(number))
            row = extended(row, receipt(number))
        leaves = {
            lv.RECEIPTS_KEY: encode(row),
            lv.account_key(20): encode(lv.AccountLeaf(b"w" * 20, 5_250_000)),
            lv.position_key(20, 0): encode(lv.PositionLeaf(-30, -18_000_000, 7)),
            lv.order_key(0, SELL, 600_000, 77): encode(lv.OrderLeaf(20, 12, 0, 0, 0, 0)),
            lv.market_key(0): encode(lv.MarketLeaf(600_000, 600_100, 599_900, 30, 0, False)),
            lv.pricing_key(0): encode(lv.PricingLeaf(funding_index=7)),
        }
        self.state = StateTree(sorted(leaves.items()))
        chain_id = self.chain.chain.chain_id
        outbox_root = list_root([encode(entry) for entry in OUTBOX])
        self.batch = BatchHeader(
            chain_id, 0, BATCH, 5, 9, bytes(32), bytes(32), self.state.root, bytes(32), 0,
            outbox_root, 4, len(OUTBOX), bytes(32), 0,
        )  # fmt: skip
        if epochs:
            self.chain.to_epoch(epochs)
        ledger = {
            batch_key(0, BATCH): encode(SettledBatch(self.batch, 4, 5)),
            final_key(0): encode(FinalLeaf(final, 9, bytes(32), bytes(32), 0, 0, 7)),
        }
        if paid:
            ledger[paid_key(0, 5)] = encode(12)
        self.chain.block(ledger)
        for _ in range(3):
            self.header = self.chain.block()

    def evidence(self, kind: str, subject: list[int]) -> bytes:
        if kind in STATE_KINDS:
            return encode(self.state.prove(STATE_KINDS[kind].keys(subject)))
        if kind == WITHDRAWAL:
            index = subject[0] - 4
            path = list_proof([encode(entry) for entry in OUTBOX], index)
            return encode(WithdrawalEvidence(OUTBOX[index], path))
        proof = self.state.prove([lv.RECEIPTS_KEY])
        path = self.receipts.path(subject[0], COUNT)
        return encode(ReceiptProof(receipt(subject[0]), path, proof))

    def proof(self, kind: str, subject: list[int] | None = None) -> SettledProof:
        subject = subject or SUBJECTS[kind]
        keys = ledger_keys(kind, subject, 0, BATCH)
        return SettledProof(
            self.chain.chain.chain_id, kind, subject, 0, BATCH,
            [EpochChange(*self.chain.change(n + 1)) for n in range(self.chain.epoch)],
            self.header, self.chain.certificate(self.header), self.chain.proof(self.header, keys),
            self.evidence(kind, subject),
        )  # fmt: skip

    def check(
        self, found: SettledProof, checkpoint: Checkpoint | None = None, now_ms: int = 0
    ) -> Any:
        chain = self.chain.chain
        checkpoint = checkpoint or genesis_checkpoint(chain)
        return check_under_checkpoint(found, chain, checkpoint, now_ms or self.chain.now_ms)
