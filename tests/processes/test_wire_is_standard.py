"""The wire, spoken with a plain socket and a plain MessagePack library.

What a client of another language would have to write: nothing of this project's code is used but to
start the processes. Tags and fields are those that `protocol.messages` documents.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cluster_world import Cluster
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HELLO, AUTHENTICATE, STATUS, SUBMIT = 1, 2, 3, 4
EVENTS, ACCOUNT, BOOK, HEADER = 10, 12, 13, 21
ERROR, WELCOME, DONE, STATUS_VIEW, ACCEPTED, ORDERED = 0, 64, 65, 66, 67, 68
EVENTS_PUSH, ACCOUNT_VIEW, BOOK_VIEW, HEADER_VIEW = 70, 72, 73, 81
MALFORMED, WRONG_TYPE, UNKNOWN_MESSAGE = 100, 101, 104
BATCH_EXECUTED, ORDER_OPENED = 1, 3
ORDER, POST_ONLY, BUY, RESTING = 1, 2, 0, 1


def pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=True))


def domain_hash(domain: bytes, *parts: bytes) -> bytes:
    return sha256(bytes([len(domain)]) + domain + b"".join(parts)).digest()


class PlainClient:
    """A socket; frames of a 4-byte big-endian length and one MessagePack value."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.pushes: list[Any] = []

    def send(self, value: Any) -> None:
        self.send_bytes(pack(value))

    def send_bytes(self, body: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, "the process closed the connection"
            data += piece
        return data

    def receive(self) -> Any:
        (length,) = struct.unpack(">I", self._read(4))
        return msgpack.unpackb(self._read(length), raw=False)

    def ask(self, value: Any) -> Any:
        self.send(value)
        return self.receive()

    def close(self) -> None:
        self.socket.close()


class Chain:
    """What stands in the testnet's files."""

    def __init__(self, directory: Path) -> None:
        raw = (directory / "genesis.json").read_bytes()
        self.genesis = json.loads(raw)
        self.id = domain_hash(b"trilemma/chain", raw)
        self.log_id = domain_hash(b"trilemma/log", self.id)
        self.ports = {
            entry["name"]: ("127.0.0.1", int(entry["public"].rpartition(":")[2]))
            for entry in json.loads((directory / "testnet.json").read_text())["processes"]
        }
        seed = bytes.fromhex((directory / "keys" / "trader-07.key").read_text().strip())
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.address = sha256(self.public).digest()[:20]

    def connect(self, name: str) -> PlainClient:
        return PlainClient(self.ports[name])

    def member(self, role: str, index: int) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(
            bytes.fromhex(self.genesis[role][index]["public_key"])
        )

    def sign_batch(self, account: int, nonce_ms: int, actions: list[Any]) -> bytes:
        payload = pack([account, nonce_ms, 0, actions])
        shard = self.genesis["shard"].to_bytes(2, "big")
        signature = self.key.sign(domain_hash(b"trilemma/actions", self.id, shard, payload))
        return pack([1, self.public, payload, signature])


@pytest.fixture(scope="module")
def chain(testnet_cluster: Cluster) -> Chain:
    return Chain(testnet_cluster.testnet.directory)


def account_of(chain: Chain) -> int:
    """The trader's account, once its deposit of genesis is executed."""
    client = chain.connect("execution-0")
    deadline = time.monotonic() + 60
    while True:
        view = client.ask([ACCOUNT, 1, 0, chain.address])
        if view[0] == ACCOUNT_VIEW:
            client.close()
            assert view[3] == chain.address and view[4] == 100_000_000_000_000
            return int(view[2])
        assert view[:3] == [ERROR, 1, 400] and time.monotonic() < deadline, view
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("validator-0", "node"), ("sequencer-0", "sequencer"), ("execution-0", "execution"),
        ("prover-0", "prover"),
    ],
)  # fmt: skip
def test_every_process_says_who_it_is_and_how_it_does(chain: Chain, name: str, role: str) -> None:
    client = chain.connect(name)
    welcome = client.ask([HELLO, 7, 1, chain.id, "plain msgpack"])
    assert welcome[:7] == [WELCOME, 7, 1, chain.id, 0, role, name]
    assert len(welcome) == 9 and len(welcome[8]) == 32
    assert abs(welcome[7] - time.time() * 1000) < 3_600_000, "time in milliseconds"
    # Whoever does not know the chain may leave it out and learn it.
    assert client.ask([HELLO, 8, 1, b"", "curious"])[3] == chain.id
    status = client.ask([STATUS, 2**64 - 1])
    assert status[:2] == [STATUS_VIEW, 2**64 - 1]
    assert status[2]["role"] == role and status[2]["name"] == name
    client.close()


def test_an_order_from_signature_to_event(chain: Chain) -> None:
    account = account_of(chain)
    execution = chain.connect("execution-0")
    book = execution.ask([BOOK, 1, 1, 5])
    assert book[0] == BOOK_VIEW and len(book) == 9
    execution.send([EVENTS, 2, book[4], [account]])

    sequencer = chain.connect("sequencer-0")
    challenge = sequencer.ask([HELLO, 1, 1, chain.id, "plain"])[8]
    proof = chain.key.sign(domain_hash(b"trilemma/session", chain.id, challenge))
    assert sequencer.ask([AUTHENTICATE, 2, 1, chain.public, proof]) == [DONE, 2]
    nonce_ms = time.time_ns() // 1_000_000
    order = [ORDER, 1, BUY, 250_000, 3, POST_ONLY, 77, 0, 0]
    signed = chain.sign_batch(account, nonce_ms, [order])
    accepted = sequencer.ask([SUBMIT, 3, signed])
    assert accepted[:2] == [ACCEPTED, 3]
    check_receipt(chain, accepted[2], signed)
    ordered = sequencer.receive()
    assert ordered[:2] == [ORDERED, 3] and len(ordered) == 4 and ordered[2] >= 1

    pushes = [execution.receive()]
    assert pushes[0][:2] == [EVENTS_PUSH, 2]
    height, time_ms, first_seq, next_seq, seqs, events = msgpack.unpackb(pushes[0][2], raw=False)
    assert (height, time_ms) == (ordered[2], ordered[3])
    assert seqs[0] == first_seq and seqs[-1] < next_seq and len(seqs) == len(events)
    opened = next(event for event in events if event[0] == ORDER_OPENED)
    executed = next(event for event in events if event[0] == BATCH_EXECUTED)
    assert opened[1] == 1 and opened[3:8] == [account, 77, BUY, 250_000, 3]
    assert executed[1:5] == [account, chain.public, nonce_ms, 0]
    assert executed[5] == [[0, RESTING, opened[2], 0, 3]] and executed[6] is False

    view = chain.connect("execution-0").ask([ACCOUNT, 9, account, b""])
    assert view[:4] == [ACCOUNT_VIEW, 9, account, chain.address] and view[8] == 1
    for client in (sequencer, execution):
        client.close()


def check_receipt(chain: Chain, receipt: list[Any], signed: bytes) -> None:
    """RFC 6962 path to a root that the sequencer signed."""
    sequencer, identity, time_ms, root, index, size, path, signature = receipt
    assert identity == domain_hash(b"trilemma/batch", signed)
    assert (index, size, path) == (0, 1, [])
    assert root == sha256(b"\x00" + identity).digest()
    statement = domain_hash(b"trilemma/receipt", chain.id, pack([time_ms, root, size]))
    chain.member("sequencers", sequencer).verify(signature, statement)


def test_a_validators_header_verifies_by_hand(chain: Chain) -> None:
    client = chain.connect("validator-2")
    view = client.ask([HEADER, 5, 0])
    assert view[:2] == [HEADER_VIEW, 5]
    header, (qc, child, child_qc, path) = view[2], view[3]
    assert header[0] == chain.id and len(header) == 13 and len(qc) == 6 and path == []
    # Two certified blocks, parent and child, one view apart: that is final.
    assert child[4] == domain_hash(b"trilemma/header", pack(header)) and child[2] == header[2] + 1
    assert child[9] == domain_hash(b"trilemma/qc", pack(qc))
    for block, (_, epoch, view_number, height, block_id, signatures) in (
        (header, qc), (child, child_qc)
    ):  # fmt: skip
        assert block_id == domain_hash(b"trilemma/header", pack(block))
        statement = domain_hash(
            b"trilemma/vote", chain.id, pack([epoch, view_number, height, block_id])
        )
        assert len({member for member, _ in signatures}) >= 3, "more than two thirds of four"
        for member, signature in signatures:
            chain.member("validators", member).verify(signature, statement)
    client.close()


@pytest.mark.parametrize("name", ["validator-1", "sequencer-0", "execution-0", "prover-0"])
def test_only_exactly_the_documented_fields_pass(chain: Chain, name: str) -> None:
    client = chain.connect(name)
    for value, code, request_id in (
        ([STATUS, 11, "one field too many"], WRONG_TYPE, 11),
        ([HELLO, 12, 1, chain.id], WRONG_TYPE, 12),
        ([HELLO, 13, 1, "text for bytes", "x"], WRONG_TYPE, 13),
        ([HELLO, 14, 1.5, chain.id, "x"], WRONG_TYPE, 14),
        ([HELLO, 15, True, chain.id, "x"], WRONG_TYPE, 15),
        ([199, 16], UNKNOWN_MESSAGE, 16),
        ([WELCOME, 17], UNKNOWN_MESSAGE, 17),
        ([STATUS, "18"], WRONG_TYPE, 0),
        ({"tag": STATUS, "request_id": 19}, WRONG_TYPE, 0),
        ([], WRONG_TYPE, 0),
        (None, WRONG_TYPE, 0),
    ):
        answer = client.ask(value)
        assert answer[:3] == [ERROR, request_id, code], (value, answer)
        assert len(answer) == 4 and len(answer[3]) > 10, answer
    client.send_bytes(pack([STATUS, 20]) + b"\xc0")
    assert client.receive()[:3] == [ERROR, 0, MALFORMED]
    # Any encoding of an integer is MessagePack; only what is signed has to be canonical.
    client.send_bytes(b"\xdd\x00\x00\x00\x02\xd3" + struct.pack(">q", STATUS) + b"\xcd\x00\x15")
    assert client.receive()[:2] == [STATUS_VIEW, 21]
    client.close()
