"""Batches for the end of a session: what is taken, what ends a session, and what is submitted."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from ledger_world import key_of, make_chain
from sequencer_world import ALICE, BOB, NOW_MS, cancel, now_cancel, run, serving

import net.service as service
import sequencer.on_disconnect as on_disconnect
import sequencer.pool as pool_module
from client.endpoint import Endpoint
from client.nonces import wall_clock_ms
from consensus import RecoveredState
from net.session import SessionLimits
from protocol.actions import NONCE_FUTURE_MS, NONCE_PAST_MS, ActionBatch, sign_batch
from protocol.actions import Order as LimitOrder
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.messages import Done, Submit, SubmitOnDisconnect
from sequencer.lanes import OWN, Lane
from sequencer.machine import RecoveredSequencer, Sequencer
from sequencer.on_disconnect import SESSION_BATCHES, SESSION_BYTES, OnDisconnect

NOTHING = RecoveredSequencer(RecoveredState(None, None, None, []), [], [], 0, 0)
BOTH = {ALICE.public, BOB.public}


# -- what is taken


class Held:
    """A sequencer without a disk, and what it holds for the ends of sessions."""

    def __init__(self) -> None:
        self.chain = make_chain([(ALICE, 0, 0)], sequencers=1)
        key = key_of("sequencer-0")
        self.sequencer = Sequencer(self.chain, 0, key, NOTHING, lambda height: None)
        self.sequencer.settled.told(0, 0)
        self.held = OnDisconnect(self.sequencer)

    def give(self, session: int, raw: bytes, signers: set[bytes] | None = None) -> None:
        self.held.give(session, raw, BOTH if signers is None else signers, NOW_MS)

    def refusal(self, session: int, raw: bytes, signers: set[bytes] | None = None) -> Code:
        with pytest.raises(Rejected) as caught:
            self.give(session, raw, signers)
        return caught.value.code

    def end(self, session: int, now_ms: int = NOW_MS) -> list[bytes]:
        """End a session; returns the batches that are in the pool then."""
        self.held.ended(session)
        self.held.submit(now_ms)
        return waiting(self.sequencer)


def waiting(sequencer: Sequencer) -> list[bytes]:
    """What is in the pool, lane by lane."""
    return [one.raw for lane in Lane for _, one in sequencer.pool._waiting.queue(lane, OWN)]


def test_an_ended_session_submits_what_it_left_in_order() -> None:
    held = Held()
    raws = [cancel(held.chain, account=account) for account in (18, 16, 17)]
    for raw in raws:
        held.give(1, raw)
    other = cancel(held.chain, BOB)
    held.give(2, other)
    assert held.end(1) == raws
    assert (held.held.held, held.held.submitted) == (1, 3)
    assert held.end(2) == [*raws, other]
    assert held.end(2) == [*raws, other], "nothing is submitted twice"


def test_a_later_batch_takes_the_place_of_one_for_the_same_account() -> None:
    held = Held()
    first, second = (cancel(held.chain, nonce_ms=NOW_MS + n) for n in range(2))
    held.give(1, first)
    held.give(1, second)
    assert held.held.held == 1
    assert held.end(1) == [second]


def test_a_client_that_came_back_is_not_cancelled_by_its_old_session() -> None:
    held = Held()
    first, second = (cancel(held.chain, nonce_ms=NOW_MS + n) for n in range(2))
    mine = cancel(held.chain, BOB)
    held.give(1, first)
    held.give(1, mine)
    held.give(2, second)
    assert held.end(1) == [mine]
    assert held.end(2) == [mine, second]


def test_an_empty_batch_takes_back_what_the_session_left() -> None:
    held = Held()
    held.give(1, cancel(held.chain))
    held.give(2, cancel(held.chain, BOB))
    held.give(1, b"")
    held.give(3, b"")
    assert held.held.held == 1
    assert held.end(1) == []


def test_a_batch_is_checked_like_a_submission() -> None:
    held = Held()
    good = cancel(held.chain)
    assert held.refusal(1, good, {BOB.public}) == Code.SESSION_NOT_PROVEN
    assert held.refusal(1, good, set()) == Code.SESSION_NOT_PROVEN
    assert held.refusal(1, good[:-1]) == Code.MALFORMED
    assert held.refusal(1, bytes(20_000)) == Code.FRAME_TOO_LARGE
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    assert held.refusal(1, forged) == Code.BAD_SIGNATURE
    old = cancel(held.chain, nonce_ms=NOW_MS - NONCE_PAST_MS)
    assert held.refusal(1, old) == Code.NONCE_EXPIRED
    new = cancel(held.chain, nonce_ms=NOW_MS + NONCE_FUTURE_MS)
    assert held.refusal(1, new) == Code.NONCE_TOO_NEW
    held.sequencer.submit((1, 1), good, BOTH, NOW_MS)
    assert held.refusal(1, good) == Code.NONCE_USED
    assert held.held.held == 0


def test_the_signature_is_checked_under_load_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.machine.SIGNATURES_CHECKED_BELOW", 0)
    held = Held()
    good = cancel(held.chain)
    assert held.refusal(1, good[:-1] + bytes((good[-1] ^ 1,))) == Code.BAD_SIGNATURE


def test_a_session_leaves_so_many_batches() -> None:
    held = Held()
    for account in range(16, 16 + SESSION_BATCHES):
        held.give(1, cancel(held.chain, account=account))
    too_many = cancel(held.chain, account=99)
    assert held.refusal(1, too_many) == Code.TOO_MANY_SUBSCRIPTIONS
    for later in range(1, 4):
        held.give(1, cancel(held.chain, account=16, nonce_ms=NOW_MS + later))
    held.give(2, too_many)
    # What another session took over makes room.
    held.give(2, cancel(held.chain, account=16, nonce_ms=NOW_MS + 4))
    held.give(1, cancel(held.chain, BOB))
    held.give(1, b"")
    held.give(1, too_many)


def large(held: Held, account: int, count: int = 100) -> bytes:
    orders: list[Any] = [LimitOrder(0, 0, 1 << 30, 1 << 20, 0, 1 << 60)] * count
    batch = ActionBatch(account, NOW_MS, 0, orders)
    return sign_batch(ALICE, held.chain.chain_id, held.chain.genesis.shard, batch)


def test_a_session_leaves_so_many_bytes() -> None:
    held = Held()
    size = len(large(held, 16))
    count = SESSION_BYTES // size
    assert 1 <= count < SESSION_BATCHES
    for account in range(16, 16 + count):
        held.give(1, large(held, account))
    assert held.refusal(1, large(held, 99)) == Code.TOO_MANY_SUBSCRIPTIONS
    held.give(1, large(held, 16, 99))


def test_all_sessions_together_leave_so_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disconnect, "TOTAL_BATCHES", 3)
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 0)
    held = Held()
    for session in (1, 2, 3):
        held.give(session, cancel(held.chain, account=session + 16))
    assert held.refusal(4, cancel(held.chain, account=30)) == Code.BUSY
    held.give(3, cancel(held.chain, account=19, nonce_ms=NOW_MS + 1))
    # Ended sessions whose batches wait for room count, too.
    assert held.end(1) == [] and held.held.due == 1
    assert held.refusal(4, cancel(held.chain, account=30)) == Code.BUSY


def test_what_a_full_pool_does_not_take_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    raws = [cancel(held.chain, account=account) for account in (16, 17, 18)]
    for raw in raws:
        held.give(1, raw)
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 1)
    assert held.end(1) == raws[:1]
    assert held.held.due == 2
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 10)
    assert held.held.submit(NOW_MS) == 2
    assert waiting(held.sequencer) == raws


def test_a_signer_without_room_holds_up_no_other() -> None:
    held = Held()
    mine, other = cancel(held.chain, account=17), cancel(held.chain, BOB)
    held.give(1, mine)
    held.give(2, other)
    held.sequencer.signer_batches_max = 1
    order = large(held, 16)
    held.sequencer.submit((9, 1), order, BOTH, NOW_MS)
    assert mine not in held.end(1)
    assert other in held.end(2) and held.held.due == 1
    held.sequencer.signer_batches_max = 2
    assert held.held.submit(NOW_MS) == 1 and held.held.due == 0
    assert sorted(waiting(held.sequencer)) == sorted([order, mine, other])


def test_what_finds_no_room_is_tried_again_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disconnect, "TRIES", 2)
    held = Held()
    keys = [key_of(f"trader-{number}") for number in range(5)]
    for number, key in enumerate(keys):
        held.give(number + 1, cancel(held.chain, key), {key.public})
    held.sequencer.signer_batches_max = 0
    for number in range(5):
        held.held.ended(number + 1)
    tried: list[bytes] = []
    submit = held.sequencer.submit

    def note(ticket: Any, raw: bytes, signers: Any, now_ms: int) -> None:
        tried.extend(signers)
        submit(ticket, raw, signers, now_ms)

    monkeypatch.setattr(held.sequencer, "submit", note)
    for _ in range(5):
        assert held.held.submit(NOW_MS) == 0
    assert tried == [key.public for key in keys] * 2
    held.sequencer.signer_batches_max = 1
    assert held.held.submit(NOW_MS) == 5 and held.held.due == 0


def test_a_batch_that_grew_too_old_is_refused_and_holds_up_none() -> None:
    held = Held()
    held.give(1, cancel(held.chain, account=16, nonce_ms=NOW_MS - NONCE_PAST_MS + 1))
    young = cancel(held.chain, account=17)
    held.give(1, young)
    assert held.end(1, NOW_MS + 10) == [young]
    assert (held.held.submitted, held.held.refused, held.held.due) == (1, 1, 0)


# -- what ends a session


async def closes(endpoint: Endpoint) -> None:
    await endpoint.close()


async def resets(endpoint: Endpoint) -> None:
    connection = endpoint.session.transport.get_extra_info("socket")
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    endpoint.session.transport.abort()


async def stalls(endpoint: Endpoint) -> None:
    endpoint.session.transport.write(b"\x00\x00\x00\x09half")


async def babbles(endpoint: Endpoint) -> None:
    endpoint.session.transport.write(b"\x00\x00\x00\x01\xc1" * (service.MAX_BAD_FRAMES + 1))


@pytest.mark.parametrize("end", [closes, resets, stalls, babbles])
def test_whatever_ends_the_session_submits_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[Endpoint], Any]
) -> None:
    monkeypatch.setattr(service, "CLIENT_LIMITS", SessionLimits(partial_timeout_ms=100))

    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            endpoint = await shell.client()
            raw = now_cancel(shell)
            await endpoint.ask(Done, SubmitOnDisconnect, raw)
            assert await shell.settle(0) == []
            await end(endpoint)
            assert await shell.settle(1) == [raw]
            assert shell.process._status()["on_disconnect_submitted"] == 1
            await endpoint.close()

    run(scenario())


KILLED = """
import asyncio, sys
from pathlib import Path
from client.endpoint import Endpoint
from protocol.keys import Key
from protocol.messages import Done, SubmitOnDisconnect
from store.config import load_chain, load_config

async def main(config, port, raw, secret):
    endpoint = Endpoint("127.0.0.1", int(port), load_chain(load_config(Path(config))))
    await endpoint.greet()
    await endpoint.prove(Key(bytes.fromhex(secret)))
    await endpoint.ask(Done, SubmitOnDisconnect, bytes.fromhex(raw))
    print("given", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_client_is_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            raw = now_cancel(shell)
            config = str(shell.path)
            secret = sha256(b"alice").hexdigest()
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", KILLED, config, str(shell.address[1]), raw.hex(), secret,
                stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
            )  # fmt: skip
            assert child.stdout is not None
            assert await child.stdout.readline() == b"given\n"
            assert await shell.settle(0) == []
            child.send_signal(signal.SIGKILL)
            await child.wait()
            assert await shell.settle(1) == [raw]

    run(scenario())


def test_it_comes_after_what_the_session_submitted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            endpoint = await shell.client()
            raw = now_cancel(shell)
            await endpoint.ask(Done, SubmitOnDisconnect, raw)
            orders = []
            for number in range(20):
                batch = ActionBatch(16, wall_clock_ms() + number, 0, [LimitOrder(0, 0, 100, 1)])
                orders.append(sign_batch(ALICE, shell.chain.chain_id, 0, batch))
                endpoint.post(encode(Submit(100 + number, orders[-1])))
            await endpoint.drain()
            await endpoint.close()
            found = await shell.settle(2)
            assert found[-1] == raw and found[:-1] == orders[: len(found) - 1]

    run(scenario())


def test_what_was_taken_back_is_not_submitted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            endpoint = await shell.client()
            await endpoint.ask(Done, SubmitOnDisconnect, now_cancel(shell))
            await endpoint.ask(Done, SubmitOnDisconnect, b"")
            await endpoint.close()
            assert await shell.settle(0) == []
            # A refusal says why.
            other = await shell.client(BOB)
            with pytest.raises(RemoteFault) as caught:
                await other.ask(Done, SubmitOnDisconnect, now_cancel(shell))
            assert caught.value.code == Code.SESSION_NOT_PROVEN
            await other.close()
            assert await shell.settle(0) == []

    run(scenario())


def test_the_sequencers_own_stop_submits_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            endpoint = await shell.client()
            await endpoint.ask(Done, SubmitOnDisconnect, now_cancel(shell))
        await shell.until(lambda: not endpoint.connected)
        assert shell.process._on_disconnect.submitted == 0
        assert shell.process._machine.pool.accepted_batches == 0

    run(scenario())


def test_a_full_pool_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            endpoint = await shell.client()
            raw = now_cancel(shell)
            await endpoint.ask(Done, SubmitOnDisconnect, raw)
            with monkeypatch.context() as patch:
                patch.setattr(pool_module, "POOL_BATCHES_MAX", 0)
                await endpoint.close()
                assert await shell.settle(0) == []
                assert shell.process._on_disconnect.due == 1
            assert await shell.settle(1) == [raw]

    run(scenario())


def test_silence_is_noticed_by_the_system(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "net") as shell:
            endpoint = await shell.client()
            await endpoint.ask(Done, SubmitOnDisconnect, now_cancel(shell))
            (session,) = shell.process._sessions.values()
            connection = session.link.transport.get_extra_info("socket")
            found = [
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                )
            ]  # fmt: skip
            assert found == [20_000, 10, 5, 2]
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            await endpoint.close()

    run(scenario())
