"""Signatures of posted batches are verified as they arrive, in a thread of their own, so that the
ledger finds them verified when it takes the batch in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from node.ledger import Ledger
from protocol.actions import actions_digest, open_batch
from protocol.batch_data import unpack_blocks
from protocol.errors import Rejected
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.ordering import decode_payload
from protocol.settlement import PostBatch, decode_signed_transaction, decode_transaction

KEPT = 1 << 16
"""Verdicts in each of the two generations that are remembered."""

WAITING_MAX = 16
"""Transactions that wait for the thread; what comes on top is verified by the ledger itself."""


class SignatureCache:
    """Verifies as `protocol.keys.verify` does, and remembers the verdicts."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        # Two generations: where the younger is full, the older is forgotten as a whole.
        self._young: dict[bytes, bool] = {}
        self._old: dict[bytes, bool] = {}
        self.hits = self.misses = 0

    def __call__(self, public_key: bytes, signature: bytes, digest: bytes) -> bool:
        """Whether the signature is valid."""
        key = public_key + signature + digest
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        verdict = verify(public_key, signature, digest)
        if len(self._young) >= self._kept:
            self._old, self._young = self._young, {}
        self._young[key] = verdict
        return verdict


class AheadVerifier:
    """Feeds the cache of one validator; without native checks it does nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._cache = SignatureCache()
        self._waiting = 0
        self._thread: ThreadPoolExecutor | None = None
        if chain.genesis.settlement.native_checks:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="signatures")

    def serve(self, ledger: Ledger) -> None:
        """Have a ledger verify through the cache."""
        if self._thread is not None:
            ledger.verify_signature = self._cache

    def submit(self, raw: bytes) -> None:
        """A transaction arrived."""
        if self._thread is None or self._waiting >= WAITING_MAX:
            return
        self._waiting += 1
        self._thread.submit(self._verify_all, raw)

    def _verify_all(self, raw: bytes) -> None:
        try:
            action = decode_transaction(decode_signed_transaction(raw).payload).action
            if isinstance(action, PostBatch):
                self._verify_batches(action)
        except Rejected:
            return  # the ledger says what is wrong with it
        finally:
            self._waiting -= 1

    def _verify_batches(self, posting: PostBatch) -> None:
        for block in unpack_blocks(posting.data):
            for batch in decode_payload(block.payload).batches if block.payload else []:
                try:
                    signed, _ = open_batch(batch)
                except Rejected:
                    continue
                digest = actions_digest(self._chain.chain_id, posting.header.shard, signed.payload)
                self._cache(signed.signer, signed.signature, digest)

    def close(self) -> None:
        """End the thread; what waits for it is dropped."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
