"""The validator's shell: nothing leaves before it is on disk, and what waits is bounded."""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from cluster.testnet import TestnetOptions, create_testnet
from net.service import ClientSession
from node import process as shell
from node.peer import TransactionGossip, decode_peer_message
from node.process import ValidatorProcess
from node.store import WriteBatch
from protocol.chain import BlocksResponse, Proposal, Timeout, Vote
from protocol.codec import Wire, encode
from protocol.genesis import Pace
from protocol.messages import SubmitTransaction
from protocol.settlement import Deposit, Transaction, sign_transaction
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
        self.process._mesh.broadcast = self.broadcast  # type: ignore[method-assign]
        self.process._mesh.send = self.send  # type: ignore[method-assign]

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

    def send(self, index: int, frame: bytes) -> bool:
        return self.broadcast(frame) > 0


async def test_nothing_signed_leaves_before_it_is_on_disk(tmp_path: Path) -> None:
    probe = Probe(tmp_path, index=1)  # the leader of view 1: it proposes, votes and times out
    rounds = asyncio.ensure_future(probe.process._run_rounds())
    while sum(isinstance(one, Timeout) for one in probe.sent) < 2:
        await asyncio.sleep(0.01)
    probe.process._stopping = True
    probe.process._wake.set()
    await rounds
    assert any(isinstance(one, Proposal) for one in probe.sent)
    assert any(isinstance(one, Vote) for one in probe.sent)
    assert probe.unsafe == []


async def test_a_disk_that_fails_keeps_everything_unsaid(tmp_path: Path) -> None:
    probe = Probe(tmp_path, index=1)
    probe.fail = True
    with pytest.raises(OSError, match="no space"):
        await probe.process._run_rounds()
    assert probe.sent == []


async def test_a_waiting_transaction_is_passed_on_ever_more_rarely(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    process, key = probe.process, probe.testnet.key("faucet")
    transaction = Transaction(0, Deposit(key.address, 5))
    raw = sign_transaction(key, process._chain.chain_id, transaction)
    session = cast(ClientSession, Client())
    assert process._submit(session, SubmitTransaction(1, raw)) is None
    assert probe.sent == [TransactionGossip([raw])]
    start = process._now_ms()
    passed = []
    for second in range(1, 40):
        before = len(probe.sent)
        process._sweep(start + 1_000 * second)
        passed += [second] * (len(probe.sent) - before)
    assert passed == [1, 3, 7, 15, 31]
    process._sweep(start + 70_000)
    assert not process._own and len(process._desk) == 0


async def test_messages_that_wait_for_a_round_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "MAX_EVENT_BYTES", 1_000)
    probe = Probe(tmp_path)
    frame = encode(BlocksResponse([], None, None))
    taken = 0

    async def flood() -> None:
        nonlocal taken
        while True:
            await probe.process._on_peer_message(1, frame)
            taken += 1

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(0)
    assert taken * len(frame) < 1_000 + len(frame)
    probe.process._events.clear()
    probe.process._event_bytes = 0
    probe.process._room.set()
    before = taken
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert taken > before
    flooding.cancel()
