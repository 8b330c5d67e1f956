"""Whatever ordered blocks hold comes back; whatever comes as batch data is refused in peace."""

from __future__ import annotations

import tracemalloc
import zlib
from struct import pack
from typing import get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.actions import Action, ActionBatch, Bracket, Oco, Order, SignedBatch, TriggerOrder
from protocol.batch_data import COLUMNS, pack_blocks, unpack_blocks
from protocol.batch_data_columns import (
    FORMAT,
    ColumnReader,
    Parts,
    column_bytes,
    join_parts,
    unpacked_bound,
    unzigzag,
    zigzag,
)
from protocol.batch_data_kinds import KIND_OF_TAG
from protocol.chain import Header
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.ordering import OrderedBlock, OrderedPayload

MEMORY_BYTES = 64 * 1024 * 1024

numbers = st.one_of(
    st.integers(0, 300), st.sampled_from([-1, 65_789, 65_790, 1_700_000_000_000]),
    st.integers(-(1 << 63), (1 << 64) - 1),
)  # fmt: skip
sizes = st.one_of(st.integers(0, 1_000), numbers)
quotes = st.lists(st.tuples(numbers, sizes), max_size=4)
hashes = st.one_of(st.sampled_from([bytes(32), b"h" * 32]), st.binary(max_size=33))


def built(kind: type[Action]) -> st.SearchStrategy[Action]:
    """Actions of a kind with any values in all fields."""
    of_type = {int: numbers, bytes: st.binary(max_size=40), list[tuple[int, int]]: quotes}
    fields = msgspec.structs.fields(kind)
    return st.builds(kind, *[of_type[field.type] for field in fields])


flat = {kind: built(kind) for kind in get_args(Action) if kind not in (Oco, Bracket)}
exits = flat[TriggerOrder]
actions = st.one_of(
    *flat.values(),
    st.builds(Oco, st.one_of(flat[Order], exits), exits),
    st.builds(Bracket, flat[Order], exits, exits),
)
bodies = st.builds(ActionBatch, numbers, numbers, numbers, st.lists(actions, max_size=8))
batches = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda scheme, key, body, signature: encode(
            SignedBatch(scheme, key, encode(body), signature)
        ),
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from([b"a" * 32, b"b" * 32, b"b" * 31]),
        bodies,
        st.sampled_from([b"s" * 64, b"t" * 64, b""]),
    ),
)
payloads = st.one_of(
    st.just(b""),
    st.binary(max_size=30),
    st.builds(
        lambda height, raws: encode(OrderedPayload(height, raws)),
        numbers,
        st.lists(batches, max_size=5),
    ),
)
headers = st.builds(
    Header, hashes, numbers, numbers, numbers, hashes, numbers, numbers, numbers, hashes, hashes,
    numbers, hashes, st.one_of(st.none(), numbers),
)  # fmt: skip
logs = st.lists(st.builds(OrderedBlock, headers, payloads), max_size=4)


def refused_or_right(data: bytes) -> None:
    """Nothing but `Rejected` comes out of it, or blocks that encode; in bounded memory."""
    tracemalloc.start()
    try:
        blocks = unpack_blocks(data)
        assert sum(len(encode(block)) for block in blocks) <= unpacked_bound(len(data))
    except Rejected as error:
        assert error.code == Code.BAD_BATCH_DATA
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY_BYTES


@settings(max_examples=300, deadline=None)
@given(logs)
def test_any_blocks_come_back(blocks: list[OrderedBlock]) -> None:
    back = unpack_blocks(pack_blocks(blocks))
    assert [encode(one) for one in back] == [encode(one) for one in blocks]


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 600), st.integers(0, (1 << 72) - 1))))
def test_any_column_comes_back(values: list[int]) -> None:
    reader = ColumnReader(column_bytes(values))
    assert reader.column(len(values)) == values
    reader.end()


@given(st.integers())
def test_zigzag_is_undone(number: int) -> None:
    assert zigzag(number) >= 0 and unzigzag(zigzag(number)) == number


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    refused_or_right(data)
    refused_or_right(bytes((FORMAT,)) + data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=200), st.integers(0, 12))
def test_any_container_is_refused(inner: bytes, plain: bytes, zeros: int) -> None:
    body = zlib.compress(bytes(zeros) + inner)
    refused_or_right(pack(">BII", FORMAT, len(body), len(plain)) + body + plain)


few = st.lists(st.one_of(st.integers(0, 40), st.integers(0, (1 << 72) - 1)), max_size=30)
templates = st.lists(
    st.one_of(
        st.just([0]),
        st.sampled_from(sorted(KIND_OF_TAG)).flatmap(
            lambda tag: st.tuples(
                st.just(tag), st.integers(0, 7), *[numbers] * len(KIND_OF_TAG[tag].fixed)
            ).map(list)
        ),
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(few, min_size=COLUMNS, max_size=COLUMNS),
    st.lists(st.sampled_from([0, 2, 3, 6, 7, 16, 18, 22, 23, 34, 39, 64]), max_size=6),
    templates,
    st.lists(st.binary(max_size=12), max_size=6),
    st.integers(0, 40),
)
def test_any_parts_are_refused_or_mean_something(
    columns: list[list[int]], flags: list[int], table: list[list[int]], raw: list[bytes], plain: int
) -> None:
    columns[0] = flags
    items = [[b"h" * 32] * plain, [b"k" * 32] * 3, [b"s" * 64] * plain]
    refused_or_right(join_parts(Parts(columns, [encode(table), *raw], items), 0))
