"""Every decoder of the project takes what is canonical, and refuses everything else with a code.

The decoders are found in the source, so that none can be forgotten: one made anywhere but at the
top of a module, or of a type that the grammar cannot make, fails here.
"""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_values import BOMBS, Grammar, Named, decoders, encoded, places

from protocol.codec import encode
from protocol.errors import Code, Rejected

REFUSALS = {Code.MALFORMED, Code.WRONG_TYPE, Code.NON_CANONICAL}
EVERY = pytest.mark.parametrize("named", decoders(), ids=lambda named: named.name)
RANDOM = st.randoms(use_true_random=False)
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


def outcome(named: Named, raw: bytes) -> Any:
    """The value, or None where it was refused; anything but a refusal fails the test."""
    try:
        value = named.decoder(raw)
    except Rejected as refused:
        assert refused.code in REFUSALS and refused.text
        assert refused.code != Code.NON_CANONICAL or named.canonical
        return None
    if named.canonical:
        assert encode(value) == raw
    again = named.decoder(encode(value))
    assert encode(again) == encode(value), "what was read is written and read alike"
    return value


def test_every_decoder_is_found() -> None:
    made = places()
    hidden = [f"{module}:{line}" for module, line, inside in made if inside]
    assert not hidden, f"make decoders at the top of a module, not at {hidden}"
    assert len(decoders()) == len(made) >= 60


@EVERY
@FEW
@given(random=RANDOM)
def test_a_value_is_read_as_it_was_written(named: Named, random: Random) -> None:
    raw = encoded(Grammar(random), named.type_info)
    assert encode(named.decoder(raw)) == raw


@EVERY
@FEW
@given(random=RANDOM)
def test_what_is_cut_short_or_goes_on_is_refused(named: Named, random: Random) -> None:
    raw = encoded(Grammar(random), named.type_info)
    for size in {0, 1, len(raw) // 2, len(raw) - 1, random.randrange(len(raw))}:
        if size < len(raw):
            with pytest.raises(Rejected):
                named.decoder(raw[:size])
    with pytest.raises(Rejected):
        named.decoder(raw + b"\x00")


@EVERY
@FEW
@given(random=RANDOM)
def test_what_is_nearly_right_is_refused_or_canonical(named: Named, random: Random) -> None:
    grammar = Grammar(random)
    outcome(named, grammar.mutated(encoded(grammar, named.type_info)))


@EVERY
@FEW
@given(random=RANDOM, raw=st.binary(max_size=64))
def test_noise_is_refused_or_canonical(named: Named, random: Random, raw: bytes) -> None:
    outcome(named, raw)
    outcome(named, Grammar(random).noise())


@EVERY
def test_bombs_cost_nothing(named: Named) -> None:
    """Nesting without end and headers that promise gigabytes: little memory, no deep recursion."""
    tracemalloc.start()
    try:
        for bomb in BOMBS:
            for raw in (bomb, b"\x91" + bomb, encode([0]) + bomb):
                outcome(named, raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@EVERY
@FEW
@given(random=RANDOM)
def test_an_encoding_longer_than_needed_is_not_canonical(named: Named, random: Random) -> None:
    if not named.canonical:
        return
    grammar = Grammar(random)
    raw = encoded(grammar, named.type_info)
    longer = grammar.padded(raw[0])
    if longer != raw[:1]:
        with pytest.raises(Rejected) as refused:
            named.decoder(longer + raw[1:])
        assert refused.value.code == Code.NON_CANONICAL
