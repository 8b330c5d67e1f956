"""Signatures of posted batches are verified before the ledger takes them in, and never believed
where they are false."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from dispute_world import DisputeWorld
from ledger_world import key_of
from test_ledger_native import FIRST_TICKS, NativeWorld

from node.process_signatures import AheadVerifier, SignatureCache
from protocol.errors import Code


def verified(ahead: AheadVerifier, raw: bytes) -> SignatureCache:
    """What the thread knows after a transaction arrived."""
    ahead.submit(raw)
    assert ahead._thread is not None
    ahead._thread.shutdown(wait=True)
    return ahead._cache


def test_the_ledger_finds_the_signatures_of_a_batch_verified() -> None:
    world = NativeWorld()
    world.price(FIRST_TICKS + 1)
    ahead = AheadVerifier(world.chain)
    ahead.serve(world.ledger)
    raw = world.sign(world.prover, world.posting())
    cache = verified(ahead, raw)
    assert cache.misses > 0
    before = cache.misses
    assert world.code(raw) == Code.OK
    assert (cache.hits, cache.misses) == (before, before)


def test_a_false_signature_stays_false_and_a_garbage_transaction_harms_nothing() -> None:
    cache, key = SignatureCache(kept=2), key_of("alice")
    digest, signature = b"\x01" * 32, b"\x02" * 64
    assert [cache(key.public, signature, digest) for _ in range(3)] == [False] * 3
    assert (cache.hits, cache.misses) == (2, 1)
    for number in range(9):  # far more than are kept
        other = bytes([number]) * 32
        assert cache(key.public, key.sign(other), other)
    assert cache.misses == 10
    assert not cache(key.public, signature, digest)
    assert verified(AheadVerifier(NativeWorld().chain), b"\xc1garbage").misses == 0


def test_a_chain_without_native_checks_verifies_nothing_ahead() -> None:
    ahead = AheadVerifier(DisputeWorld().chain)
    ahead.submit(b"anything")
    assert ahead._thread is None
    ahead.close()
