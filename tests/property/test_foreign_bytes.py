"""Whatever else reads bytes of others than a `Decoder`: frames, envelopes, batch data, kept states,
certificates, plans of faults, checkpoints, proof files. Each refuses in its own one way."""

from __future__ import annotations

import ast
import json
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from struct import pack
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_values import BOMBS, PACKAGES, ROOT, Grammar, encoded, type_info

from client.proof_file import InvalidProof, from_file
from cluster.testnet import TestnetOptions, create_testnet
from net.frames import FrameSplitter, encode_frame
from net.injection_plan import parse_plan
from net.rpc import _fault_of, peek_prefix
from net.service import _explain
from net.tls import certificate_public_key, is_usable, make_certificate
from node.certificates import check_certificate
from node.kept_state import MAX_PART_BYTES, KeptHead, inflate, read_kept
from protocol.actions import ActionBatch, SignedBatch, open_batch, sign_batch
from protocol.batch_data import pack_blocks, unpack_blocks
from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault
from protocol.genesis import Chain, parse_genesis
from protocol.keys import Key
from protocol.light import checkpoint_from_json
from protocol.ordering import OrderedBlock
from protocol.tree_proof import decode_tree_proof, open_proof

KEY = Key(b"\x07" * 32)
RANDOM = st.randoms(use_true_random=False)
SOME = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


class Reader(NamedTuple):
    """A function that reads foreign bytes, its one kind of refusal, and bytes that it takes."""

    read: Callable[[bytes], Any]
    refusal: type[Exception] | tuple[type[Exception], ...]
    sample: Callable[[Random], bytes]


def signed(random: Random) -> bytes:
    batch = Grammar(random).value(type_info(ActionBatch))
    return sign_batch(KEY, b"\x01" * 32, 0, batch)


def envelope(random: Random) -> bytes:
    return encoded(Grammar(random), type_info(SignedBatch))


def batch_data(random: Random) -> bytes:
    blocks = [Grammar(random).value(type_info(OrderedBlock)) for _ in range(random.randrange(3))]
    try:
        return pack_blocks(blocks)
    except (OverflowError, ValueError, Rejected):  # no sequencers order such a block
        return pack_blocks([])


def kept(random: Random) -> bytes:
    part = zlib.compress(random.getrandbits(80).to_bytes(10, "big"))
    head = encode(KeptHead(b"\x01" * 32, 1, 1, [len(part)]))
    return len(head).to_bytes(4, "big") + head + part


def plan(random: Random) -> bytes:
    toxic = {"name": "a", "type": "latency", "peers": ["*"], "attributes": {"latency_ms": 1}}
    clock, disk = {"name": "b", "skew_ms": 5}, {"name": "c", "delay_ms": 2}
    return json.dumps({"toxics": [toxic], "clocks": [clock], "disks": [disk], "seed": 7}).encode()


def checkpoint(random: Random) -> bytes:
    text = {"chain_id": "00", "epoch": 0, "members": [], "origin_height": 0, "origin_view": 0}
    text |= {"origin_id": "00", "ends_ms": 0, "time_ms": 0, "fingerprint": ""}
    return json.dumps(text).encode()


def proof_root(raw: bytes) -> None:
    open_proof(b"\x02" * 32, decode_tree_proof(raw))


def certificate(random: Random) -> bytes:
    return make_certificate(KEY, "somebody")


def frames(raw: bytes) -> None:
    splitter = FrameSplitter(4096)
    for at in range(0, len(raw), 7):
        splitter.feed(raw[at : at + 7])
        assert splitter.pending <= 4096 + 4


def fault(raw: bytes) -> None:
    assert isinstance(_fault_of(raw), RemoteFault)


def explained(raw: bytes) -> None:
    request_id, error = _explain(raw, Rejected(Code.MALFORMED, "it is not"))
    assert request_id >= 0 and isinstance(error, Rejected)


def usable(raw: bytes) -> None:
    assert not is_usable(raw, KEY.public) or certificate_public_key(raw) == KEY.public


NOTHING: tuple[type[Exception], ...] = ()
READERS = {
    "open_batch": Reader(open_batch, Rejected, signed),
    "open_envelope": Reader(open_batch, Rejected, envelope),
    "unpack_blocks": Reader(unpack_blocks, Rejected, batch_data),
    "read_kept": Reader(read_kept, Rejected, kept),
    "inflate": Reader(inflate, Rejected, lambda _: zlib.compress(b"x" * 99)),
    "open_proof": Reader(proof_root, Rejected, lambda random: encoded(Grammar(random), PROOF)),
    "certificate_public_key": Reader(certificate_public_key, Rejected, certificate),
    "is_usable": Reader(usable, NOTHING, certificate),
    "parse_plan": Reader(parse_plan, ConfigError, plan),
    "checkpoint_from_json": Reader(checkpoint_from_json, ConfigError, checkpoint),
    "frames": Reader(frames, Rejected, lambda random: encode_frame(b"x" * random.randint(1, 99))),
    "error_frame": Reader(fault, NOTHING, lambda _: encode([0, 1, 2, "text"])),
    "explain": Reader(explained, NOTHING, lambda _: encode([0, 1, 2, "text"])),
    "peek_prefix": Reader(peek_prefix, NOTHING, lambda _: encode([0, 1, 2, "text"])),
}
PROOF = type_info(decode_tree_proof._decode.__self__.type)  # type: ignore[attr-defined]
EVERY = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
JSON_BOMBS = (
    b"[" * 100_000, b'{"kind":' * 50_000, b'{"kind":' + b"[" * 100_000, b'{"kind":"\xff"}',
    b'{"kind":1e999}', b'{"kind":' + b"9" * 5_000 + b"}", b"{", b"null", b"[]", b"\xff",
)  # fmt: skip


def attempt(reader: Reader, raw: bytes) -> None:
    try:
        reader.read(raw)
    except reader.refusal as refused:
        assert str(refused)


@EVERY
@SOME
@given(random=RANDOM)
def test_mutants_and_noise_are_refused_in_one_way(reader: Reader, random: Random) -> None:
    raw = reader.sample(random)
    attempt(reader, raw)
    attempt(reader, Grammar(random).mutated(raw))
    attempt(reader, Grammar(random).noise())


@EVERY
def test_bombs_cost_nothing(reader: Reader) -> None:
    tracemalloc.start()
    try:
        for bomb in (*BOMBS, *JSON_BOMBS):
            attempt(reader, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    options = TestnetOptions(validators=1, traders=1)
    return create_testnet(tmp_path_factory.mktemp("foreign") / "testnet", options).chain()


def test_files_of_others_are_refused_in_one_way(chain: Chain) -> None:
    for bomb in (*BOMBS, *JSON_BOMBS):
        with pytest.raises((ConfigError, InvalidProof)):
            from_file(bomb, chain)
        with pytest.raises(ConfigError):
            parse_genesis(bomb)


def test_certificates_over_keys_that_nobody_knows_are_refused() -> None:
    """Ed25519 is 1.3.101.112; the number of another algorithm, known or not, changes a byte."""
    good = make_certificate(KEY, "somebody")
    assert good.count(b"\x2b\x65\x70") == 3
    for last in (0x00, 0x26, 0x6E, 0x6F, 0x71, 0xFF):
        for count in (1, 2, 3):
            bad = good.replace(b"\x2b\x65\x70", b"\x2b\x65" + bytes([last]), count)
            assert not is_usable(bad, KEY.public)
            with pytest.raises(Rejected):
                check_certificate(bad, KEY.public)
        swapped = good[::-1].replace(b"\x70\x65\x2b", bytes([last]) + b"\x65\x2b", 2)[::-1]
        with pytest.raises(Rejected):
            certificate_public_key(swapped)


# --- what is compressed


def test_a_small_part_that_inflates_to_gigabytes_is_refused_early() -> None:
    bomb = zlib.compress(bytes(256 * 1024 * 1024), 9)
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        with pytest.raises(Rejected, match="too long"):
            inflate(bomb)
        data = pack(">BII", 1, len(bomb), 0) + bomb
        for form in range(4):
            with pytest.raises(Rejected):
                unpack_blocks(bytes([form]) + data[1:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The bound of what so many bytes may decode to, and some copies of it.
    assert peak < 4 * max(MAX_PART_BYTES, 64 * len(bomb) + 4 * 1024 * 1024)


@cache
def nodes() -> list[tuple[Path, ast.Call | ast.Import | ast.ImportFrom]]:
    """Every call and import in the packages."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [
        (path, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.Import | ast.ImportFrom)
    ]


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Every call of a function or method of this name in the packages."""
    return [
        (path, node)
        for path, node in nodes()
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr == name)
            or (isinstance(node.func, ast.Name) and node.func.id == name)
        )
    ]


def test_nothing_is_decompressed_without_a_bound() -> None:
    """A new decompression has to name its bound as the second argument, as `zlib` wants it."""
    found = calls("decompress")
    assert len(found) >= 3
    for path, call in found:
        assert len(call.args) == 2, f"{path}:{call.lineno}: give decompress() a bound"


def test_other_readers_of_messagepack_are_known() -> None:
    """All MessagePack of others goes through `protocol.codec`, but for two that only peek."""
    known = {"protocol/codec.py", "net/service.py", "net/rpc.py"}
    made = {
        path.relative_to(ROOT).as_posix()
        for path, call in calls("Decoder")
        if isinstance(call.func, ast.Attribute)
    }
    assert made == known
    decoded = {
        path.relative_to(ROOT).as_posix()
        for path, call in calls("decode")
        if ast.unparse(call.func) in ("msgspec.msgpack.decode", "msgpack.decode")
    }
    assert not decoded - known


def test_no_other_format_that_runs_code_is_read() -> None:
    for path, node in nodes():
        if not isinstance(node, ast.Call):
            text = ast.unparse(node)
            for name in ("pickle", "marshal", "shelve", "xml"):
                assert f" {name}" not in text, f"{path}:{node.lineno}: {text}"
