"""Batch data gives back the ordered blocks byte for byte, in few bytes, and within its bounds."""

from __future__ import annotations

import tracemalloc
import zlib
from random import Random
from struct import pack
from typing import Any, get_args

import msgspec
import pytest
from rich_flow import RichFlow

from bench.batch_data_flow import RECORDINGS, Log, batches_of, load_log, recorded_log
from protocol.actions import (
    ALL_MARKETS,
    Action,
    ActionBatch,
    ApproveAgent,
    Bracket,
    Cancel,
    CancelAll,
    CancelClient,
    MarketOrder,
    MassQuote,
    Modify,
    Oco,
    OraclePrice,
    Order,
    Reduce,
    RevokeAgent,
    ScheduleCancel,
    SetLeverage,
    SetMode,
    SetProtection,
    SignedBatch,
    Transfer,
    TransferPosition,
    TriggerOrder,
    Twap,
    Withdraw,
    decode_actions,
    decode_signed,
)
from protocol.batch_data import COLUMNS, RAW, pack_blocks, unpack_blocks
from protocol.batch_data_actions import MAX_TEMPLATE_BYTES, MAX_TEMPLATES
from protocol.batch_data_columns import (
    FORMAT,
    Parts,
    join_parts,
    split_parts,
    unpacked_bound,
)
from protocol.batch_data_kinds import KINDS, PLAIN
from protocol.chain import Header
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.ordering import OrderedBlock, OrderedPayload
from protocol.settlement import MAX_BATCH_DATA_BYTES

TOP, BOTTOM = (1 << 64) - 1, -(1 << 63)
HASH = b"\x09" * 32

KEPT_RAW = {
    Withdraw, ApproveAgent, RevokeAgent, Oco, Bracket, Transfer, TransferPosition,
}  # fmt: skip

EVERY_KIND: list[Action] = [
    Order(0, 0, 1_000, 7),
    Order(0, 1, 1_003, 7, 2, 99, 9, 1_700_000_000_000),
    Order(3, 1, 1_003, 254, 0, 0, 0, 5),
    Order(3, 1, 1_003, 255, 0, 4, 0, 0),
    MarketOrder(0, 0, 12, 5_000),
    MarketOrder(1, 1, 65_790, 5_000, 6, 1),
    Cancel(0, 17),
    CancelClient(2, 99),
    Reduce(0, 17, 3),
    Withdraw(5, b"t" * 20),
    ApproveAgent(b"a" * 32, 9),
    RevokeAgent(b"a" * 32),
    OraclePrice(0, 1_000),
    OraclePrice(1, 1_001, 300),
    Modify(0, 17, 998, 4),
    CancelAll(ALL_MARKETS),
    MassQuote(0, [], []),
    MassQuote(0, [(999, 1), (998, 300)], [(1_001, 2)]),
    MassQuote(0, [], [(1_001, 2), (1_002, 70_000)]),
    TriggerOrder(0, 1, 5, 0, 990),
    TriggerOrder(0, 1, 5, 1, 990, 1_000, 20_000, 8, 1, 1_700_000_000_000),
    Oco(Order(0, 1, 1_000, 4), TriggerOrder(0, 1, 4, 0, 900)),
    Oco(TriggerOrder(0, 1, 4, 1, 1_100), TriggerOrder(0, 1, 4, 0, 900)),
    Bracket(Order(0, 0, 1, 4), TriggerOrder(0, 1, 0, 1, 9), TriggerOrder(0, 1, 0, 0, 3)),
    Twap(0, 1, 500, 60_000),
    Twap(0, 1, 500, 60_000, 1, 55),
    ScheduleCancel(0),
    ScheduleCancel(1_700_000_000_000),
    SetLeverage(0, 20),
    SetProtection(0, 5, 1_000),
    Transfer(17, 100),
    TransferPosition(17, 0, -4),
    SetMode(1, 4),
]


def same(blocks: list[OrderedBlock]) -> bytes:
    """Pack, unpack, compare byte by byte; the data."""
    data = pack_blocks(blocks)
    assert [encode(one) for one in unpack_blocks(data)] == [encode(one) for one in blocks]
    assert pack_blocks(blocks) == data
    return data


def log_of(*batches: bytes) -> Log:
    log = Log(3)
    for raw in batches:
        log.add(raw)
    log.close()
    return log


def signed(*actions: Any, account: int = 16, nonce: int = 5, expires_ms: int = 0) -> bytes:
    body = encode(ActionBatch(account, nonce, expires_ms, list(actions)))
    return encode(SignedBatch(1, b"k" * 32, body, b"s" * 64))


def parts_of(data: bytes) -> Parts:
    return split_parts(data, COLUMNS)


# --- everything comes back


def test_nothing_and_empty_blocks() -> None:
    same([])
    log = Log(3)
    for _ in range(1_000):
        log.append(b"")
    data = same(log.blocks)
    assert len(data) < 1_000 * 34 + 1_500, "an empty block is the hash of its certificate"


def test_every_kind_of_action() -> None:
    assert {type(action) for action in EVERY_KIND} == set(get_args(Action))
    parts = parts_of(same(log_of(*[signed(one) for one in EVERY_KIND]).blocks))
    kept = sum(type(action) in KEPT_RAW for action in EVERY_KIND)
    assert len(parts.raw) == 1 + kept, "only the kinds that are named stay as they are"
    same(log_of(signed(*EVERY_KIND), signed(*reversed(EVERY_KIND))).blocks)


def test_the_columns_name_every_field_of_every_kind_once() -> None:
    assert set(KINDS) | KEPT_RAW == set(get_args(Action))
    for type_, kind in KINDS.items():
        assert kind.tag == type_.__struct_config__.tag and kind.tag > 0
        assert kind.size == len(msgspec.structs.fields(type_))
        if type_ is MassQuote:
            continue
        varying = [field.position for field in kind.varying]
        assert sorted([*kind.fixed, *varying]) == list(range(kind.size))
        plain = [at for at, field in enumerate(kind.varying) if field.scope == PLAIN]
        assert plain in ([], [0]), "a negative size is found before anything is written"
        assert [bit for bit, _ in kind.optional] == [1 << at for at in range(len(kind.optional))]
        assert {position for _, position in kind.optional} <= set(varying)
        assert 9 * (2 + len(kind.fixed)) <= MAX_TEMPLATE_BYTES
        if kind.sided:
            names = [one.name for one in msgspec.structs.fields(type_)]
            assert [names[position] for position in kind.fixed[:2]] == ["market", "side"]


@pytest.mark.parametrize("value", [TOP, BOTTOM, -1, 1 << 63, (1 << 63) - 1, 255, 65_790])
def test_any_number_in_any_field(value: int) -> None:
    batches = []
    for action in EVERY_KIND:
        for field in msgspec.structs.fields(action):
            if field.type is int:
                changed = msgspec.structs.replace(action, **{field.name: value})
                batches += [signed(action), signed(changed), signed(action, changed)]
    quotes = [(value, 3), (3, value), (5, 5)]
    batches += [signed(MassQuote(0, quotes, []), MassQuote(value, [], quotes))]
    for account, nonce, expires_ms in ((value, 5, 0), (16, value, 0), (16, 5, value)):
        batches.append(signed(Cancel(0, 1), account=account, nonce=nonce, expires_ms=expires_ms))
    same(log_of(*batches).blocks)


def test_bytes_that_are_no_batch() -> None:
    good = signed(Order(0, 0, 1_000, 7))
    envelope = decode_signed(good)
    body = decode_actions(envelope.payload)
    change = msgspec.structs.replace
    odd = [
        b"", b"\x00", b"\xc1", good[:-1], good + b"\x00", b"\xdc\x00\x04" + good[1:],
        encode(change(envelope, scheme=2)),
        encode(change(envelope, scheme=TOP)),
        encode(change(envelope, signer=b"k" * 31)),
        encode(change(envelope, signer=b"")),
        encode(change(envelope, signature=b"s" * 65)),
        encode(change(envelope, payload=b"")),
        encode(change(envelope, payload=envelope.payload + b"\x00")),
        encode(change(envelope, payload=envelope.payload.replace(b"\xcd\x03\xe8", b"\xc3"))),
        encode(change(envelope, payload=encode((16, 5, 0, [[1, 0, True, 1_000, 7, 0, 0, 0, 0]])))),
        encode(change(envelope, payload=encode((16, 5, 0, [[1, 0, 0, 1e3, 7, 0, 0, 0, 0]])))),
        encode(change(envelope, payload=encode((16, 5, 0, [[1, 0, 0, 1_000, 7]])))),
        encode(change(envelope, payload=encode((16, 5, 0, [[99, 0]])))),
        encode(change(envelope, payload=encode(change(body, actions=[])))),
        encode(change(envelope, payload=encode(change(body, actions=body.actions * 101)))),
        encode(change(envelope, payload=encode(change(body, actions=body.actions * 100)))),
        bytes(16_000),
    ]  # fmt: skip
    same(log_of(good, *odd, good).blocks)
    for raw in odd:
        same(log_of(good, raw, good).blocks)


def test_payloads_that_are_no_list_of_batches() -> None:
    good = encode(OrderedPayload(7, [signed(Cancel(0, 1))]))
    log = Log(3)
    for payload in (
        good, b"\xc0", good + b"\x00", good[:-1], bytes(500), encode(OrderedPayload(TOP, [])), b"",
        encode(OrderedPayload(BOTTOM, [b""])), b"\xdc\x00\x02" + good[1:], good,
    ):  # fmt: skip
        log.append(payload)
    same(log.blocks)


def test_headers_that_follow_from_nothing() -> None:
    log = load_log(90, 3)
    header, change = log.blocks[1].header, msgspec.structs.replace
    for field in msgspec.structs.fields(Header):
        values = [b"", b"x", HASH, bytes(33)] if field.type is bytes else [0, 7, TOP, BOTTOM]
        for value in values:
            odd = OrderedBlock(change(header, **{field.name: value}), log.blocks[1].payload)
            same([log.blocks[0], odd, log.blocks[2]])
            same([odd])
    odd = OrderedBlock(change(header, skipped=3, epoch=1), b"else")
    same([odd, odd, log.blocks[2], log.blocks[0]])


def test_every_action_of_the_exchange_as_it_trades() -> None:
    flow = RichFlow(5)
    log, block = Log(3), flow.world.block

    def recorded(raws: list[bytes], inbox: Any = None) -> Any:
        log.append(encode(OrderedPayload(len(log.blocks), raws)))
        return block(raws, inbox)

    flow.world.block = recorded  # type: ignore[method-assign]
    for _ in range(120):
        flow.block(6, 8)
    raws = batches_of(log.blocks)
    data = same(log.blocks)
    actions = sum(len(decode_actions(decode_signed(raw).payload).actions) for raw in raws)
    assert actions > 4_000
    rest = (len(data) - 64 * len(raws) - 32 * len(log.blocks)) / actions
    assert rest < 9, f"{rest:.2f} bytes an action beside signatures and hashes"


# --- in few bytes


@pytest.mark.parametrize(("size", "limit"), [(1, 5.0), (20, 1.5), (100, 1.2)])
def test_the_load_generators_flow_is_small(size: int, limit: int) -> None:
    log = load_log(8_000 // size, size)
    rest = (len(same(log.blocks)) - 64 * log.signatures) / log.actions
    assert rest < limit, f"{rest:.2f} bytes an action beside signatures"


@pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="the recorded order flow is not at ../shared/data/l3"
)
def test_recorded_flow_is_small() -> None:
    log = recorded_log(RECORDINGS, 8_000)
    rest = (len(same(log.blocks)) - 64 * log.signatures) / log.actions
    assert rest < 2.6, f"{rest:.2f} bytes an action beside signatures"


def test_clients_cannot_fill_the_dictionary() -> None:
    actions = [SetProtection(0, 1, number) for number in range(MAX_TEMPLATES + 500)]
    log = log_of(*[signed(*actions[at : at + 100]) for at in range(0, len(actions), 100)])
    parts = parts_of(same(log.blocks))
    assert len(msgspec.msgpack.decode(parts.raw[0])) == MAX_TEMPLATES


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 17, 32, 33, 63, 64])
@pytest.mark.parametrize("number", range(len(EVERY_KIND)))
def test_what_does_not_compress_is_smaller_than_messagepack(number: int, bits: int) -> None:
    """Blocks whose plain encoding fits a ledger transaction fit one packed, whatever they hold."""
    rng, action = Random(bits), EVERY_KIND[number]
    names = [field.name for field in msgspec.structs.fields(action) if field.type is int]
    log = Log(bits)
    for _ in range(40):
        actions = []
        for _ in range(50):
            values = {name: rng.getrandbits(bits) for name in names}
            actions.append(msgspec.structs.replace(action, **values))
        log.sign(rng.randrange(64), actions)
    log.close()
    assert len(same(log.blocks)) < len(encode(log.blocks))


# --- within bounds


def monotonous(number: int) -> bytes:
    return signed(Withdraw(1, bytes(16_000)), nonce=number)


def test_data_beyond_the_bounds_is_padded_to_them() -> None:
    log = log_of(*[monotonous(number) for number in range(300)])
    data = same(log.blocks)
    assert len(zlib.compress(encode(log.blocks), 9)) < len(data) // 4
    unpacked = sum(len(encode(block)) for block in log.blocks)
    assert unpacked <= unpacked_bound(len(data)) and len(data) < unpacked // 3
    with pytest.raises(Rejected, match="expands beyond"):
        unpack_blocks(data.rstrip(b"\0") + bytes(10))
    for other in (data[:-1] + b"\x01", data + b"\x01"):
        with pytest.raises(Rejected, match="behind its end"):
            unpack_blocks(other)


def refused(data: bytes) -> str:
    """The text of the refusal, after a look at the memory that it took."""
    tracemalloc.start()
    try:
        with pytest.raises(Rejected) as caught:
            unpack_blocks(data)
        assert tracemalloc.get_traced_memory()[1] < 48 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert caught.value.code == Code.BAD_BATCH_DATA
    return caught.value.text


def packed(counts: list[int], body: bytes, plain: bytes = b"", size: int | None = None) -> bytes:
    """A container with whatever is in it."""
    inner = zlib.compress(pack(f">{len(counts)}I", *counts) + body, 9)
    claimed = len(inner) if size is None else size
    return pack(">BII", FORMAT, claimed, len(plain)) + inner + plain


COUNTS = COLUMNS + 1 + 3


def test_what_is_no_batch_data() -> None:
    good = pack_blocks(load_log(40, 5).blocks)
    assert "at most" in refused(bytes(MAX_BATCH_DATA_BYTES + 1))
    for data in (b"", b"no data", b"\x02" + good[1:], good[:8], zlib.compress(good)):
        assert "no batch data" in refused(data)
    assert "cut short" in refused(good[:-1])
    assert "cut short" in refused(packed([0] * COUNTS, b"", size=1 << 31))
    assert "not zlib" in refused(good[:9] + b"\xff" * 9 + good[18:])
    assert "cut short" in refused(packed([0] * (COUNTS - 1), b""))
    assert "ends too early" in refused(packed([0] * COUNTS, b""))
    assert "nothing asks for" in refused(packed([0] * COUNTS, b"x"))
    assert "nothing asks for" in refused(packed([0] * COUNTS, b"", b"x"))
    bomb = zlib.compress(bytes(32 * 1024 * 1024), 9)
    assert "expands beyond" in refused(pack(">BII", FORMAT, len(bomb), 0) + bomb)


@pytest.mark.parametrize("at", range(COUNTS))
def test_counts_without_values(at: int) -> None:
    counts = [0] * COUNTS
    counts[at] = 0xFFFFFFFF
    refused(packed(counts, b""))
    refused(packed(counts, bytes(1 << 20)))


def changed(data: bytes, column: int, values: list[int]) -> bytes:
    parts = parts_of(data)
    columns = [*parts.columns]
    columns[column] = values
    return join_parts(Parts(columns, parts.raw, parts.plain), 1 << 20)


@pytest.mark.parametrize("value", [128, 255, 65_789, 65_790, 1 << 64, (1 << 72) - 1])
@pytest.mark.parametrize("column", range(COLUMNS))
def test_any_value_in_any_column(column: int, value: int) -> None:
    batches = [signed(*EVERY_KIND), signed(*EVERY_KIND), b"odd"]
    data = pack_blocks(log_of(*batches).blocks + load_log(9, 9).blocks)
    values = parts_of(data).columns[column]
    for at in range(min(len(values), 12)):
        try:
            blocks = unpack_blocks(changed(data, column, [*values[:at], value, *values[at + 1 :]]))
        except Rejected as error:
            assert error.code == Code.BAD_BATCH_DATA
        else:
            same(blocks)
    if values:
        assert "ends too early" in refused(changed(data, column, values[:-1])) or column == 0
    assert refused(changed(data, column, [*values, 1]))


def test_each_refusal_says_what_is_wrong() -> None:
    data = pack_blocks(log_of(signed(*EVERY_KIND), signed(*EVERY_KIND)).blocks)
    assert "more than 100 actions" in refused(changed(data, 11, [101, 1]))
    assert "no known kind" in refused(changed(data, 0, [RAW + 1]))
    parts = parts_of(data)
    for template, text in (([1, 4, 0, 0, 0, 0], "not optional"), ([6, 0], "no kind of action")):
        other = [encode([template]), *parts.raw[1:]]
        assert text in refused(join_parts(Parts(parts.columns, other, parts.plain), 0))
    inner = zlib.compress(pack(f">{COUNTS}I", *[0] * COUNTS))
    for odd, text in ((inner[:-1], "cut short"), (inner + b"x", "bytes behind its end")):
        assert text in refused(pack(">BII", FORMAT, len(odd), 0) + odd)


@pytest.mark.parametrize(
    "templates",
    [
        b"", b"\xc1", b"\x90" * 400_000, encode([[]]), encode([[1]]), encode([[6, 0]]),
        encode([[99, 0, 1]]), encode([[1, 0, 0, 0, 0]]), encode([[1, 0, 0, 0, 0, 0, 0]]),
        encode([[1, 4, 0, 0, 0, 0]]), encode([[1, -1, 0, 0, 0, 0]]), encode([[0, 0]]),
        encode([[True, 0]]), encode([["a"]]), encode([[0]] * (1 << 19)),
    ],
)  # fmt: skip
def test_templates_of_nothing(templates: bytes) -> None:
    parts = parts_of(pack_blocks(load_log(9, 9).blocks))
    refused(join_parts(Parts(parts.columns, [templates, *parts.raw[1:]], parts.plain), 1 << 20))


def test_data_of_which_each_byte_means_many_is_padded_too() -> None:
    action = Order(TOP, TOP, TOP, 1, TOP, TOP, TOP, TOP)
    log = log_of(*[signed(*[action] * 100, nonce=number) for number in range(1_200)])
    data = same(log.blocks)
    unpacked = sum(len(encode(block)) for block in log.blocks)
    assert unpacked <= unpacked_bound(len(data)) < unpacked + 10_000
    assert data.endswith(bytes(1_000))
    assert "more than its size allows" in refused(data[:-1_000])


@pytest.mark.parametrize("seed", range(3))
def test_damaged_data_is_refused_or_means_something(seed: int) -> None:
    rng = Random(seed)
    print("seed", seed)
    log = log_of(*[signed(one) for one in EVERY_KIND])
    data = pack_blocks(log.blocks)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            unpack_blocks(bytes(damaged))
        except Rejected as error:
            assert error.code == Code.BAD_BATCH_DATA
