"""Open submissions are answered once, messages between validators decode, rounds sort effects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import PACE, LedgerWorld

from node import clients
from node.clients import SubmissionDesk
from node.peer import TransactionGossip, decode_peer_message
from node.rounds import MAX_LEDGER_PAYLOAD_BYTES, replica_config
from protocol.chain import EMPTY_HASH, Certified, Vote, genesis_header, genesis_qc
from protocol.codec import Wire, encode
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Pace
from protocol.messages import Committed, ErrorFrame


class Session:
    def __init__(self) -> None:
        self.closed = False
        self.sent: list[Wire] = []

    def send(self, answer: Wire) -> None:
        self.sent.append(answer)


def test_everybody_who_submitted_is_answered_once() -> None:
    desk, one, two = SubmissionDesk(), Session(), Session()
    desk.wait(b"a", one, 5)
    desk.wait(b"a", two, 6)
    desk.wait(b"b", one, 7)
    desk.committed(b"a", 9, 0, "")
    desk.committed(b"a", 9, 0, "")
    assert one.sent == [Committed(5, b"a", 9, 0, "")]
    assert two.sent == [Committed(6, b"a", 9, 0, "")]
    desk.dropped(b"b", Code.NOT_READY, "waited too long")
    assert one.sent[1:] == [ErrorFrame(7, Code.NOT_READY, "waited too long")]
    assert len(desk) == 0


def test_submissions_of_closed_sessions_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_WAITERS", 2)
    desk, one, two = SubmissionDesk(), Session(), Session()
    desk.wait(b"a", one, 1)
    desk.wait(b"a", two, 2)
    with pytest.raises(Rejected) as refused:
        desk.require_room(two)
    assert refused.value.code == Code.BUSY
    one.closed = True
    desk.forget_closed()
    desk.require_room(two)
    desk.committed(b"a", 1, 0, "")
    assert (one.sent, len(two.sent)) == ([], 1)


def test_no_session_shuts_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_WAITERS_OF_SESSION", 3)
    desk, one, two = SubmissionDesk(), Session(), Session()
    for request_id in range(3):
        desk.wait(b"a", one, request_id)
    with pytest.raises(Rejected) as refused:
        desk.require_room(one)
    assert refused.value.code == Code.BUSY
    desk.require_room(two)
    desk.committed(b"a", 1, 0, "")
    desk.require_room(one)
    desk.wait(b"b", one, 9)
    one.closed = True
    desk.forget_closed()
    assert len(desk) == 0 and not desk._of_session


def test_consensus_and_transactions_share_a_link() -> None:
    chain_id = LedgerWorld().chain.chain_id
    qc = genesis_qc(genesis_header(chain_id, 0, EMPTY_HASH))
    for message in (
        TransactionGossip([b"one", b"two"]),
        Certified(qc, None),
        Vote(chain_id, 0, 1, 1, EMPTY_HASH, 2, bytes(64)),
    ):
        assert decode_peer_message(encode(message)) == message
    for raw in (b"", b"\xc1", encode((99, 1)), encode((16, [b"x"], 1)), encode((16, "x"))):
        with pytest.raises(Rejected):
            decode_peer_message(raw)


def test_the_pace_of_genesis_becomes_the_replicas() -> None:
    config = replica_config(PACE)
    assert (config.block_interval_ms, config.idle_interval_ms, config.timeout_ms) == (20, 200, 600)
    large = replica_config(Pace(20, 5, 0, 600, 3_000, 6 << 20))
    assert large.max_payload_bytes == MAX_LEDGER_PAYLOAD_BYTES and large.idle_interval_ms is None
    with pytest.raises(ConfigError):
        replica_config(Pace(20, 5, 200, 10, 3_000, 1 << 20))
