"""Nonces rise whatever the clock does."""

from __future__ import annotations

from client.nonces import NonceSource


def test_nonces_follow_the_clock_when_it_moves() -> None:
    source = NonceSource()
    assert [source.take(now) for now in (1_000, 1_500, 9_000)] == [1_000, 1_500, 9_000]


def test_more_than_one_nonce_per_millisecond_runs_ahead_of_the_clock() -> None:
    source = NonceSource()
    nonces = [source.take(1_000) for _ in range(5)] + [source.take(1_002), source.take(1_010)]
    assert nonces == [1_000, 1_001, 1_002, 1_003, 1_004, 1_005, 1_010]


def test_a_clock_set_back_repeats_no_nonce() -> None:
    source = NonceSource()
    first = source.take(5_000)
    assert source.take(10) == first + 1


def test_nonces_continue_above_one_that_is_known_to_be_used() -> None:
    assert NonceSource(last_ms=7_000).take(6_000) == 7_001
