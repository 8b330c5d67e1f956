"""The validator's shell: nothing leaves before it is on disk, and what waits is bounded."""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import generate_latest

from cluster.testnet import TestnetOptions, create_testnet
from net import member_links
from net.clock import now_ms
from net.service import ClientSession
from net.tls import make_certificate
from node.neighbours import Neighbour
from node.peer import TransactionGossip, decode_peer_message
from node.process import ValidatorProcess
from node.rounds import FromPeer
from node.store import WriteBatch
from protocol.chain import BlocksResponse, Proposal, Rejoin, Remembered, Timeout, Vote
from protocol.codec import Wire, encode
from protocol.genesis import Identity, Pace
from protocol.keys import Key
from protocol.messages import SubmitTransaction
from protocol.settlement import Deposit, sign_action
from store.config import load_chain, load_config, load_process_key

PACE = Pace(20, 5, 20, 50, 200, 1 << 20)


class Client:
    """A session that is answered and does not listen."""

    closed = False

    def send(self, answer: Wire) -> None:
        return None


class Probe:
    """A validator whose links and disk tell what happens in which order."""

    def __init__(self, directory: Path, index: int = 0) -> None:
        options = TestnetOptions(free_ports=True, traders=1, ledger_pace=PACE)
        self.testnet = testnet = create_testnet(directory / "testnet", options)
        config = load_config(testnet.config_path(testnet.of_role("node")[index].name))
        chain = load_chain(config)
        config.data.mkdir(parents=True, exist_ok=True)
        self.process = ValidatorProcess(config, chain, load_process_key(config, chain))
        self.sent: list[Wire] = []
        self.unsafe: list[Wire] = []
        self.fail = False
        self._signed = (0, 0, 0)
        self._write = self.process._store.write
        self.process._store.write = self.write  # type: ignore[method-assign]
        mesh = self.process._peers.mesh
        mesh.broadcast = self.broadcast  # type: ignore[method-assign]
        mesh.send = self.send  # type: ignore[method-assign]

    def write(self, batch: WriteBatch) -> None:
        if self.fail:
            raise OSError("no space left on device")
        self._write(batch)
        if batch.voting_state is not None:
            state = batch.voting_state
            self._signed = (
                state.last_voted_view, state.last_timeout_view, state.last_proposed_view
            )  # fmt: skip

    def broadcast(self, frame: bytes) -> int:
        message = decode_peer_message(frame)
        self.sent.append(message)
        voted, gave_up, proposed = self._signed
        if (
            (isinstance(message, Timeout) and message.view > gave_up)
            or (isinstance(message, Vote) and message.view > voted)
            or (isinstance(message, Proposal) and message.block.header.view > proposed)
        ):
            self.unsafe.append(message)
        return 3

    def send(self, public_key: bytes, frame: bytes) -> bool:
        return self.broadcast(frame) > 0


def remember(process: ValidatorProcess, rejoin: Rejoin) -> None:
    """The three other members answer that they know of nothing."""
    replica = process._machines.validator.replica
    answer = Remembered(
        rejoin.chain_id, rejoin.epoch, rejoin.number, replica.high_qc, None, None, None
    )
    keys = [one.public_key for one in process._peers.mesh.peers]
    process._peers._events.extend(FromPeer(key, answer) for key in keys)
    process._wake.set()


async def test_nothing_signed_leaves_before_it_is_on_disk(tmp_path: Path) -> None:
    probe = Probe(tmp_path, index=1)  # the leader of view 1: it proposes and times out
    rounds = asyncio.ensure_future(probe.process._run_rounds())
    while not probe.sent:
        await asyncio.sleep(0.01)
    assert [type(one) for one in probe.sent] == [Rejoin], "it asks before it signs"
    remember(probe.process, cast(Rejoin, probe.sent[0]))
    while sum(isinstance(one, Timeout) for one in probe.sent) < 2:
        await asyncio.sleep(0.01)
    probe.process.stop_rounds()
    await rounds
    assert any(isinstance(one, Proposal) for one in probe.sent)
    assert probe.unsafe == []


async def test_a_disk_that_fails_keeps_everything_unsaid(tmp_path: Path) -> None:
    probe = Probe(tmp_path, index=1)
    probe.fail = True
    rounds = asyncio.ensure_future(probe.process._run_rounds())
    while not probe.sent:
        await asyncio.sleep(0.01)
    remember(probe.process, cast(Rejoin, probe.sent[0]))
    with pytest.raises(OSError, match="no space"):
        await rounds
    assert {type(one) for one in probe.sent} == {Rejoin}


async def test_status_and_metrics_are_true_before_the_first_block(tmp_path: Path) -> None:
    process = Probe(tmp_path).process
    assert process._status()["time_ms"] == process._chain.genesis.time_ms
    # There without a failure, too: an alert asks for it.
    failed = {b"0.0": "", b"1.0": "no peer that can be reached helps with a snapshot"}
    for number, text in failed.items():
        process._machines.validator.snapshot_failure = text
        assert process._status()["snapshot_failure"] == text
        shown = generate_latest(process._service.metrics.registry)
        assert b"trilemma_ledger_snapshot_failed " + number in shown
    process._store.close()


async def test_a_waiting_transaction_is_passed_on_ever_more_rarely(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    process, key = probe.process, probe.testnet.key("faucet")
    raw = sign_action(key, process._chain, 0, Deposit(key.address, 5))
    session = cast(ClientSession, Client())
    clients, validator = process._clients, process._machines.validator
    assert clients._submit(session, SubmitTransaction(1, raw)) is None
    gossip = TransactionGossip([raw])
    assert probe.sent == [gossip]
    start = now_ms()

    def sent_after(seconds: int) -> int:
        done = validator.run([], start + 1_000 * seconds)
        process._publish(done)
        return sum(one.message == gossip for one in done.messages)

    assert [second for second in range(1, 40) if sent_after(second)] == [1, 3, 7, 15, 31]
    sent_after(70)
    assert len(validator._own) == len(clients.desk) == 0


async def test_messages_that_wait_for_a_round_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_links, "MAX_EVENT_BYTES", 1_000)
    probe = Probe(tmp_path)
    peers, sender = probe.process._peers, bytes(32)
    frame = encode(BlocksResponse([], None, None))
    taken = 0

    async def flood() -> None:
        nonlocal taken
        while True:
            await peers._on_message(sender, frame)
            taken += 1

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(0)
    assert taken * len(frame) < 1_000 + len(frame)
    assert len(peers.take()) == taken
    before = taken
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert taken > before
    flooding.cancel()


# --- links follow the ledger


def neighbour(key: Key, address: str, *certificates: bytes) -> Neighbour:
    return Neighbour(key.public, list(certificates), address)


async def test_links_follow_who_validates(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    links, config = probe.process._peers, probe.process._config
    identities = probe.testnet.chain().genesis.validators
    keys = [bytes.fromhex(one.public_key) for one in identities]
    assert [one.public_key for one in links.mesh.peers] == keys[1:]
    assert [f"{one.host}:{one.port}" for one in links.mesh.peers] == [
        one.address for one in config.peers[1:]
    ]
    fifth, bad = Key(b"5" * 32), Key(b"6" * 32)
    found = [
        *[neighbour_of(one) for one in identities[:3]],
        neighbour(fifth, "127.0.0.1:9", make_certificate(fifth, "fifth")),
        neighbour(bad, "127.0.0.1:9", b"no certificate", make_certificate(fifth, "other")),
        neighbour(Key(b"7" * 32), "nowhere", make_certificate(Key(b"7" * 32), "seventh")),
    ]
    links.follow(found)
    assert [one.public_key for one in links.mesh.peers] == [keys[1], keys[2], fifth.public]
    before = links.mesh._server_context
    links.follow(found)
    assert links.mesh._server_context is before, "nothing changed, nothing is built anew"
    await links.close()


def neighbour_of(identity: Identity) -> Neighbour:
    return Neighbour(bytes.fromhex(identity.public_key), [bytes.fromhex(identity.certificate)], "")
