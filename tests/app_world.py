"""A ledger behind the application that proposes, checks and commits its blocks."""

from __future__ import annotations

from ledger_world import GENESIS_MS, LedgerWorld, key_of, make_chain

from node.app import LedgerApplication, decode_ledger_payload
from node.mempool import MempoolLimits
from protocol.chain import (
    EMPTY_HASH,
    QC,
    Block,
    CommitCertificate,
    Header,
    genesis_header,
    genesis_qc,
    payload_hash,
)
from protocol.codec import encode
from protocol.keys import Key
from protocol.settlement import Deposit

PAYLOAD_BYTES = 3_000


class AppWorld(LedgerWorld):
    """A ledger behind its application."""

    def __init__(self, limits: MempoolLimits | None = None) -> None:
        super().__init__(make_chain([(key_of("alice"), 1_000, 500), (key_of("bob"), 50, 0)]))
        self.app = LedgerApplication(self.ledger, PAYLOAD_BYTES, limits)

    def tx(self, key: Key, nonce: int, amount_uusd: int = 1) -> bytes:
        return self.sign(key, Deposit(key.address, amount_uusd), nonce)

    def make_block(self, payload: bytes) -> Block:
        height = self.ledger.height + 1
        header = Header(
            self.chain.chain_id, 0, height, height, EMPTY_HASH, height - 1,
            GENESIS_MS + height, 0, payload_hash(payload), EMPTY_HASH, 0, EMPTY_HASH,
        )  # fmt: skip
        return Block(header, payload, self._qc(header), None)

    def _qc(self, header: Header) -> QC:
        return genesis_qc(genesis_header(header.chain_id, 0, EMPTY_HASH))

    def commit(self, *raws: bytes) -> list[bytes]:
        """Commit a block; returns the ids of outdated waiting transactions."""
        block = self.make_block(encode(list(raws)) if raws else b"")
        self.app.commit(
            block, CommitCertificate(self._qc(block.header), block.header, block.justify)
        )
        return self.app.take_executed()[-1].outdated

    def propose(self, *ancestors: Block) -> list[bytes]:
        payload = self.app.propose(ancestors, 0)
        if payload:
            self.app.check(self.make_block(payload), ancestors)
        return decode_ledger_payload(payload)
