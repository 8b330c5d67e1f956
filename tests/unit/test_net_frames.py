"""Frames: any chunking gives the same frames, bad headers are refused, prefixes peeked right."""

from __future__ import annotations

from itertools import pairwise

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from net.frames import FrameSplitter, encode_frame, pack_length
from net.rpc import peek_prefix, peek_request_id
from protocol.errors import Code, Rejected

PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)


@given(payloads=PAYLOADS, cuts=st.lists(st.integers(0, 600), max_size=20))
def test_any_chunking_gives_the_same_frames(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, payloads))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = FrameSplitter(64)
    got: list[bytes] = []
    for start, stop in pairwise(edges):
        got += splitter.feed(stream[start:stop])
    assert got == payloads
    assert splitter.pending == 0


def test_every_split_point_of_two_frames() -> None:
    stream = encode_frame(b"abc") + encode_frame(b"d" * 300)
    for cut in range(len(stream) + 1):
        splitter = FrameSplitter(300)
        got = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:])
        assert got == [b"abc", b"d" * 300], cut


def test_single_bytes_and_a_truncated_end() -> None:
    splitter = FrameSplitter(10)
    stream = encode_frame(b"xy") + encode_frame(b"z")[:-1]
    got = [frame for byte in stream for frame in splitter.feed(bytes([byte]))]
    assert got == [b"xy"]
    assert splitter.pending == 4


@pytest.mark.parametrize(
    ("header", "code"),
    [(11, Code.FRAME_TOO_LARGE), (0, Code.MALFORMED), (0xFFFFFFFF, Code.FRAME_TOO_LARGE)],
)
@pytest.mark.parametrize("split", [0, 1, 3])
def test_a_bad_header_is_refused_before_its_payload(header: int, code: Code, split: int) -> None:
    splitter = FrameSplitter(10)
    stream = pack_length(header)
    splitter.feed(stream[:split])
    with pytest.raises(Rejected) as refused:
        splitter.feed(stream[split:])
    assert refused.value.code is code


def test_a_raised_limit_holds_for_the_next_frame() -> None:
    splitter = FrameSplitter(4)
    assert splitter.feed(encode_frame(b"1234")) == [b"1234"]
    splitter.limit = 5
    assert splitter.feed(encode_frame(b"12345")) == [b"12345"]


@given(
    tag=st.integers(0, 2**16),
    request_id=st.integers(0, 2**64 - 1),
    rest=st.lists(st.integers(), max_size=20).map(lambda values: [v % 1000 for v in values]),
)
def test_the_request_id_is_peeked_from_any_encoder(
    tag: int, request_id: int, rest: list[int]
) -> None:
    frame = msgpack.packb([tag, request_id, *rest])
    assert peek_prefix(frame) == (tag, request_id)


@settings(max_examples=300)
@given(st.binary(max_size=12))
def test_peeking_at_garbage_never_fails(raw: bytes) -> None:
    got = peek_prefix(raw)
    assert got is None or min(got) >= 0


@pytest.mark.parametrize(
    "value", [[], [1], {1: 2}, 7, "text", [-1, 5], ["a", 5], [1, -5], [1, "b"], [1, None]]
)
def test_no_request_id_in_other_shapes(value: object) -> None:
    assert peek_request_id(msgpack.packb(value)) is None


def test_a_cut_request_id_is_no_request_id() -> None:
    frame = msgpack.packb([300, 2**40])
    for size in range(len(frame)):
        assert peek_request_id(frame[:size]) is None
