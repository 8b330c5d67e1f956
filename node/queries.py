"""Answers to questions about the base layer, from the ledger and the validator's store."""

from __future__ import annotations

from collections.abc import Sequence

from node.ledger import Ledger
from node.store import ValidatorStore
from protocol.chain import CommitCertificate, Header
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.inbox import inbox_key
from protocol.keys import ADDRESS_BYTES
from protocol.messages import (
    BalanceRequest,
    BalanceView,
    BatchRequest,
    BatchView,
    BlocksFrom,
    BlocksView,
    EpochRequest,
    EpochView,
    HeaderRequest,
    HeaderView,
    InboxRequest,
    InboxView,
    ProofRequest,
    ProofView,
)
from protocol.messages_disputes import GAMES_MAX, DisputesRequest, DisputesView

MAX_INBOX_ENTRIES = 4096
"""Most inbox entries in one answer."""

MAX_BLOCKS = 256
"""Most blocks in one answer."""

MAX_BLOCKS_BYTES = 4 * 1024 * 1024
"""Blocks of one answer stop here, except that one always goes out."""

MAX_PROOF_KEYS = 256
"""Most keys of one proof."""

MAX_KEY_BYTES = 64
"""Longest key that may be asked for."""


class LedgerQueries:
    """Every method takes a request and gives its answer, or raises `Rejected`.

    Undo information of the ledger is kept for proofs under the newest stored header, the tip.
    """

    def __init__(self, ledger: Ledger, store: ValidatorStore) -> None:
        self._ledger = ledger
        self._store = store
        self._tip: tuple[Header, CommitCertificate] | None = None
        self._inbox_proof: tuple[int, bytes] | None = None
        self.set_tip()

    def set_tip(self) -> None:
        """Take up the newest block, once it is stored."""
        found = self._store.block(self._ledger.height)
        if found is not None and found[1] is not None:
            self._tip = (found[0].header, found[1])
            self._ledger.forget_undo(found[0].header.app_height)

    @property
    def tip_time_ms(self) -> int:
        """Block time of the newest block, the time of genesis before the first."""
        genesis = self._ledger.chain.genesis
        return genesis.time_ms if self._tip is None else self._tip[0].time_ms

    def _certified(self) -> tuple[Header, CommitCertificate]:
        if self._tip is None:
            raise Rejected(Code.NOT_READY, "no ledger block is committed yet; try again shortly")
        return self._tip

    def header(self, request: HeaderRequest) -> HeaderView:
        """A committed header, with the certificate of it or of its nearest descendant."""
        if request.height == 0:
            return HeaderView(request.request_id, *self._certified())
        found = self._store.block(_positive(request.height))
        certificate = self._store.certificate_from(request.height)
        if found is None or certificate is None:
            raise self._missing(request.height)
        return HeaderView(request.request_id, found[0].header, certificate)

    def batch(self, request: BatchRequest) -> BatchView:
        """A settled batch; number 0 asks for the newest."""
        if request.shard != self._ledger.shard:
            raise Rejected(Code.WRONG_SHARD, f"there is no shard {request.shard}")
        number = request.number or self._ledger.shard_leaf().batch
        settled = self._ledger.batch(number) if number < 1 << 63 else None
        if settled is None and 0 < number <= self._ledger.swept().batch:
            text = f"batch {number} is forgotten: it is final, and its withdrawals are paid"
            raise Rejected(Code.NOT_RETAINED, text)
        if settled is None:
            text = f"batch {number} is not settled" if number else "no batch is settled yet"
            raise Rejected(Code.UNKNOWN_BATCH, text)
        final = self._ledger.final()
        return BatchView(
            request.request_id, settled.header, settled.ledger_height, settled.ledger_time_ms,
            final.batch, final.last_block, self._ledger.settling.left_ms(number),
        )  # fmt: skip

    def balance(self, request: BalanceRequest) -> BalanceView:
        """An address as of the newest block; unknown ones have nothing."""
        if len(request.address) != ADDRESS_BYTES:
            raise Rejected(Code.WRONG_TYPE, f"an address has {ADDRESS_BYTES} bytes")
        account = self._ledger.account(request.address)
        return BalanceView(
            request.request_id,
            request.address,
            account.balance_uusd,
            account.nonce,
            self._ledger.account_number(request.address),
            self._ledger.height,
        )

    def inbox(self, request: InboxRequest) -> InboxView:
        """Inbox entries up to what the newest certified header's root covers."""
        header, certificate = self._certified()
        if request.from_index < 0 or request.limit < 1:
            raise Rejected(Code.WRONG_TYPE, "from_index starts at 0 and limit at 1")
        entries = self._ledger.entries_after(
            header.app_height, request.from_index, min(request.limit, MAX_INBOX_ENTRIES)
        )
        if self._inbox_proof is None or self._inbox_proof[0] != header.height:
            proof = self._prove(header, [inbox_key(self._ledger.shard)])
            self._inbox_proof = (header.height, proof)
        return InboxView(request.request_id, entries, header, certificate, self._inbox_proof[1])

    def proof(self, request: ProofRequest) -> ProofView:
        """Proof of any ledger leaves under the newest certified root."""
        keys = request.keys
        if not 1 <= len(keys) <= MAX_PROOF_KEYS:
            raise Rejected(Code.WRONG_TYPE, f"a proof has 1 to {MAX_PROOF_KEYS} keys")
        if any(not 1 <= len(key) <= MAX_KEY_BYTES for key in keys):
            raise Rejected(Code.WRONG_TYPE, f"a key has 1 to {MAX_KEY_BYTES} bytes")
        header, certificate = self._certified()
        return ProofView(request.request_id, header, certificate, self._prove(header, keys))

    def blocks(self, request: BlocksFrom) -> BlocksView:
        """Committed blocks of one epoch upward from a height, and a certificate of the last or a
        descendant: who reads them learns from an epoch's last block who certifies the next ones."""
        self._certified()
        limit = min(request.limit, MAX_BLOCKS)
        if limit < 1:
            raise Rejected(Code.WRONG_TYPE, "limit starts at 1")
        first = _positive(request.from_height)
        blocks, certificate = self._store.block_run(first, limit, MAX_BLOCKS_BYTES)
        if certificate is None:
            raise self._missing(first)
        epoch = blocks[0].header.epoch
        if blocks[-1].header.epoch != epoch:
            blocks = [block for block in blocks if block.header.epoch == epoch]
            last = blocks[-1].header.height
            certificate = self._store.certificate_from(last)
            if certificate is None or certificate.height != last:
                raise SafetyViolation(f"the last block of epoch {epoch} is stored uncertified")
        return BlocksView(request.request_id, blocks, certificate)

    def disputes(self, request: DisputesRequest) -> DisputesView:
        """Games that wait for a move of a prover, as of the newest block."""
        games = self._ledger.disputes.waiting(request.prover, GAMES_MAX)
        return DisputesView(request.request_id, games)

    def epoch(self, request: EpochRequest) -> EpochView:
        """How an epoch's members were decided: the last block before it, and their proof."""
        number = request.number
        found = self._store.epoch(number) if 1 <= number < 1 << 63 else None
        if found is None:
            raise Rejected(Code.WRONG_EPOCH, f"epoch {number} has not begun here")
        return EpochView(request.request_id, number, *found)

    def _missing(self, height: int) -> Rejected:
        lowest = self._store.retained_from()
        if height < lowest:
            return Rejected(
                Code.NOT_RETAINED, f"this validator keeps blocks from {lowest} on, not {height}"
            )
        return Rejected(Code.NOT_FOUND, f"ledger block {height} is not committed")

    def _prove(self, header: Header, keys: Sequence[bytes]) -> bytes:
        return encode(self._ledger.prove_at(header.app_height, header.app_root, keys))


def _positive(height: int) -> int:
    if not 1 <= height < 1 << 63:
        raise Rejected(Code.NOT_FOUND, f"there is no ledger block {height}")
    return height
