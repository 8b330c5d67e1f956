"""Attacks on the sockets of real processes, while an honest client beside them trades on.

Each attack is answered or ended, counted where it shows, and afterwards the process has the memory
and the descriptors that it had. The honest client checks every single result of its orders.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from typing import Any

import msgpack
import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, Cluster, SteadyTrader, eventually
from socket_fuzzer import fuzz
from wire_values import BOMBS

from net.tls import client_context, make_certificate
from protocol import messages as wire
from protocol.actions import ActionBatch, Cancel, sign_batch
from protocol.codec import encode
from protocol.errors import Code
from protocol.genesis import Chain
from protocol.keys import Key
from store.client_limits import ClientLimits
from store.config import parse_address
from store.testnet import Testnet

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = ["validator-0", "sequencer-0", "execution-0", "prover-0"]
STEADY = "trader-31"
SEED = 20_260_801
ERROR = 0
LIMITS = ClientLimits()


class Raw:
    """A connection on which anything may be written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int], **options: Any) -> Raw:
        return cls(*await asyncio.open_connection(*address, **options))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def frame(self, body: bytes) -> None:
        await self.write(struct.pack(">I", len(body)) + body)

    async def answer(self) -> list[Any]:
        async with asyncio.timeout(DEADLINE_S):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            found = msgpack.unpackb(await self.reader.readexactly(length), raw=False)
        assert isinstance(found, list)
        return found

    async def ended(self) -> bytes:
        """What still comes until the process closes the connection."""
        found = b""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError, ssl.SSLError):
                while data := await self.reader.read(1 << 16):
                    found = (found + data)[-4096:]
        return found

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


class Watched:
    """The cluster, its honest client, and what its processes hold."""

    def __init__(self, cluster: Cluster, steady: SteadyTrader) -> None:
        self.cluster = cluster
        self.steady = steady

    def public(self, name: str) -> tuple[str, int]:
        return self.cluster.address(name)

    def peer(self, name: str) -> tuple[str, int]:
        return parse_address(self.cluster.testnet.process(name).peer)

    def descriptors(self, name: str) -> int:
        return len(os.listdir(f"/proc/{self.cluster.pids()[name]}/fd"))

    def memory_kib(self, name: str) -> int:
        with open(f"/proc/{self.cluster.pids()[name]}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    async def trades_on(self) -> None:
        """Ten more orders of the honest client get their results."""
        target = self.steady.done + 10

        async def more() -> bool:
            self.steady.check()
            return self.steady.done >= target

        await eventually("the honest client's orders", more)

    async def rejected(self, name: str) -> int:
        return await self.cluster.number(name, "rejected")

    async def back_to(self, name: str, descriptors: int) -> None:
        """The descriptors of an attack are free again (a few come and go by themselves)."""

        async def few() -> bool:
            return self.descriptors(name) <= descriptors + 10

        await eventually(f"descriptors of {name} like before", few)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(testnet_cluster: Cluster) -> AsyncIterator[Watched]:
    async with testnet_cluster.exchange() as exchange:
        await exchange.account_of(exchange.key(STEADY).address, wait_ms=60_000)
        steady = SteadyTrader(exchange, STEADY)
        steady.start()
        found = Watched(testnet_cluster, steady)
        await found.trades_on()
        yield found
        steady.check()


@pytest.fixture(autouse=True)
def pids(testnet_cluster: Cluster) -> Any:
    """No process dies of an attack, nor is started anew."""
    before = testnet_cluster.pids()
    yield
    assert testnet_cluster.pids() == before


def files_of(watched: Watched) -> Testnet:
    return watched.cluster.testnet


# --- slowness


async def test_whoever_dribbles_a_frame_is_closed(watched: Watched) -> None:
    """Half a frame for ever, and a byte a second: both are closed when the frame is overdue."""
    before = {name: (watched.descriptors(name), await watched.rejected(name)) for name in PUBLIC}
    slow: list[Raw] = []
    for name in PUBLIC:
        for number in range(12):
            one = await Raw.open(watched.public(name))
            await one.write(b"\x00\x00\x10\x00" + bytes(7) if number % 2 else b"\x00\x00")
            slow.append(one)

    async def dribble(one: Raw) -> None:
        with suppress(ConnectionError):
            while not one.reader.at_eof():
                await one.write(b"\x00")
                await asyncio.sleep(1)

    dribbling = [asyncio.ensure_future(dribble(one)) for one in slow[1::2]]
    await watched.trades_on()
    await asyncio.gather(*(one.ended() for one in slow))
    for task in dribbling:
        task.cancel()
    for one in slow:
        await one.close()
    for name, (descriptors, rejected) in before.items():
        await watched.back_to(name, descriptors)
        assert await watched.rejected(name) >= rejected + 12
    await watched.trades_on()


async def test_who_never_reads_harms_nobody(watched: Watched) -> None:
    """Questions whose answers are not read: the process stops reading the questions."""
    name = "execution-0"
    memory_kib = watched.memory_kib(name)
    deaf = [await Raw.open(watched.public(name), limit=1 << 10) for _ in range(8)]
    question = encode(wire.StatusRequest(1))
    flood = (struct.pack(">I", len(question)) + question) * 2_000
    for one in deaf:
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(20):
            one.writer.write(flood)
    await watched.trades_on()
    assert watched.memory_kib(name) < memory_kib + 256 * 1024
    for one in deaf:
        one.writer.transport.abort()
    await watched.trades_on()


# --- connections


async def test_connections_that_say_nothing_shut_nobody_out(watched: Watched) -> None:
    """One address floods a port with connections: over its share they are turned away."""
    name = "sequencer-0"
    descriptors, rejected = watched.descriptors(name), await watched.rejected(name)
    silent = [await Raw.open(watched.public(name)) for _ in range(LIMITS.sessions_of_host)]
    late = [await Raw.open(watched.public(name)) for _ in range(40)]
    refused = [(await one.answer())[2] for one in late]
    assert set(refused) <= {Code.BUSY, Code.RATE_LIMITED}
    assert LIMITS.sessions_of_host < LIMITS.sessions
    assert watched.descriptors(name) < descriptors + LIMITS.sessions_of_host + 60
    await watched.trades_on()
    for one in silent + late:
        one.writer.transport.abort()
    await watched.back_to(name, descriptors)
    assert await watched.rejected(name) >= rejected + 40
    await watched.trades_on()


async def test_connections_opened_and_reset_leave_nothing(watched: Watched) -> None:
    name = "validator-0"
    descriptors = watched.descriptors(name)
    for _ in range(20):
        opened = await asyncio.gather(*(Raw.open(watched.public(name)) for _ in range(25)))
        for one in opened:
            one.writer.transport.abort()
    await watched.back_to(name, descriptors)
    await watched.trades_on()


# --- the wrong language


async def test_other_protocols_at_the_public_port_are_told_off(watched: Watched) -> None:
    hello = tls_hello()
    for name in PUBLIC:
        rejected = await watched.rejected(name)
        for words in (hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-x\r\n", b"\xff" * 64):
            one = await Raw.open(watched.public(name))
            await one.write(words)
            refused = await one.answer()
            assert refused[:3] == [ERROR, 0, Code.FRAME_TOO_LARGE], refused
            await one.ended()
            await one.close()
        assert await watched.rejected(name) >= rejected + 4
    await watched.trades_on()


def tls_hello() -> bytes:
    """The first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


async def test_the_peer_port_speaks_tls_with_members_only(watched: Watched) -> None:
    """Frames in the clear, broken handshakes, strangers and keys of other roles all end there."""
    name = "validator-0"
    descriptors = watched.descriptors(name)
    height = await watched.cluster.number(name, "height")
    random = Random(SEED)
    hello = tls_hello()
    frame = struct.pack(">I", 5) + b"\x91\x01\x02\x03\x04"
    broken = bytearray(hello)
    for at in random.sample(range(5, len(broken)), 40):
        broken[at] ^= 1 << random.randrange(8)
    words = [frame, b"GET / HTTP/1.1\r\n\r\n", hello[:50], bytes(broken), random.randbytes(4_000)]
    words += [b"\x16\x03\x01\xff\xff" + bytes(100), b"\x15\x03\x03\x00\x02\x02\x28", b""]
    callers = [await Raw.open(watched.peer(name)) for _ in range(5 * len(words))]
    for one, what in zip(callers, words * 5, strict=True):
        await one.write(what)
    await asyncio.gather(*(one.ended() for one in callers))
    for one in callers:
        await one.close()
    testnet = files_of(watched)
    identities = testnet.chain().genesis
    victim = bytes.fromhex(identities.validators[0].certificate)
    sequencer = testnet.key("sequencer-0"), bytes.fromhex(identities.sequencers[0].certificate)
    keys = [Key.generate(), testnet.key("prover-0"), testnet.key("execution-0")]
    strangers = [sequencer, *((key, make_certificate(key, "validator-1")) for key in keys)]
    for key, certificate in strangers:
        await stranger(watched.peer(name), client_context(key, certificate, [victim]))
    old = client_context(*sequencer, [victim])
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    await stranger(watched.peer(name), old)
    await watched.back_to(name, descriptors)
    await watched.trades_on()
    assert await watched.cluster.number(name, "height") > height


async def stranger(address: tuple[str, int], context: ssl.SSLContext) -> None:
    """Dial, say something, and be cut off without an answer."""
    try:
        one = await Raw.open(address, ssl=context, server_hostname="")
        await one.frame(b"\x91\x01")
        assert await one.ended() == b""
        await one.close()
    except (ssl.SSLError, ConnectionError):
        return


# --- bombs


@pytest.mark.parametrize("name", PUBLIC)
async def test_bombs_are_refused_and_cost_no_memory(watched: Watched, name: str) -> None:
    """Nesting without end, and headers that promise more than there is, as frames and in fields."""
    memory_kib, rejected = watched.memory_kib(name), await watched.rejected(name)
    bombs = [bomb for bomb in BOMBS if bomb]
    deep = [b"\x91" * 200_000, b"\x92\x01" * 100_000, b"\xdd\x00\x00\x00\x01" * 50_000]
    headed = [b"\x93\x03\x01" + bomb for bomb in bombs]
    one = await Raw.open(watched.public(name))
    for bomb in (*bombs, *deep, *headed):
        await one.frame(bomb)
        refused = await one.answer()
        assert refused[0] == ERROR and refused[2] in (
            Code.MALFORMED, Code.WRONG_TYPE, Code.UNKNOWN_MESSAGE,
        ), refused  # fmt: skip
        assert len(refused[3]) >= 15
    await one.frame(encode(wire.StatusRequest(7)))
    assert (await one.answer())[:2] == [66, 7], "the session goes on"
    await one.close()
    assert watched.memory_kib(name) < memory_kib + 64 * 1024
    assert await watched.rejected(name) >= rejected + len(bombs)
    await watched.trades_on()


@pytest.mark.parametrize("length", [0, wire.CLIENT_FRAME_BYTES + 1, 2**31, 2**32 - 1])
async def test_frames_of_impossible_lengths_end_the_session(watched: Watched, length: int) -> None:
    for name in PUBLIC:
        one = await Raw.open(watched.public(name))
        await one.write(struct.pack(">I", length) + b"\x93\x03\x01\x00")
        refused = await one.answer()
        assert refused[:2] == [ERROR, 0]
        assert refused[2] == (Code.MALFORMED if length == 0 else Code.FRAME_TOO_LARGE)
        await one.ended()
        await one.close()
    await watched.trades_on()


async def test_compressed_bombs_where_batches_are_taken(watched: Watched) -> None:
    """Batch data is looked at only once it is a prover's: a stranger's never gets so far."""
    bomb = zlib.compress(bytes(64 * 1024 * 1024), 9)
    name = "validator-0"
    memory_kib = watched.memory_kib(name)
    one = await Raw.open(watched.public(name))
    await one.frame(encode(wire.SubmitTransaction(5, b"\x94\x00" + bomb)))
    refused = await one.answer()
    assert refused[:2] == [ERROR, 5], refused
    await one.close()
    assert watched.memory_kib(name) < memory_kib + 32 * 1024
    await watched.trades_on()


# --- batches that are not the sender's, or not for here


async def test_stolen_and_foreign_batches_are_refused(watched: Watched) -> None:
    """A batch seen elsewhere and sent by somebody who cannot prove its signer; for another chain;
    with another's signature; out of every range: each has its code."""
    chain: Chain = watched.cluster.chain
    key = files_of(watched).key("trader-05")
    nonce_ms = await now_of(watched)
    good = sign_batch(key, chain.chain_id, chain.genesis.shard, batch(nonce_ms))
    thief = await Raw.open(watched.public("sequencer-0"))
    await thief.frame(encode(wire.Submit(1, good)))
    assert (await thief.answer())[:3] == [ERROR, 1, Code.SESSION_NOT_PROVEN]
    await thief.frame(encode(wire.Hello(2, wire.WIRE_VERSION, b"\x09" * 32, "thief")))
    assert (await thief.answer())[:3] == [ERROR, 2, Code.WRONG_CHAIN]
    await thief.frame(encode(wire.Hello(3, wire.WIRE_VERSION, chain.chain_id, "thief")))
    challenge = (await thief.answer())[8]
    proof = Key.generate().sign(wire.session_digest(chain.chain_id, challenge))
    await thief.frame(encode(wire.Authenticate(4, 1, key.public, proof)))
    assert (await thief.answer())[:3] == [ERROR, 4, Code.BAD_SIGNATURE]
    await thief.frame(encode(wire.Submit(5, good)))
    assert (await thief.answer())[:3] == [ERROR, 5, Code.SESSION_NOT_PROVEN]
    proof = key.sign(wire.session_digest(chain.chain_id, challenge))
    await thief.frame(encode(wire.Authenticate(6, 1, key.public, proof)))
    assert (await thief.answer())[0] == 65
    for number, (raw, code) in enumerate(
        (
            (sign_batch(key, chain.log_id, 0, batch(nonce_ms)), Code.BAD_SIGNATURE),
            (sign_batch(key, chain.chain_id, 9, batch(nonce_ms)), Code.BAD_SIGNATURE),
            (sign_batch(key, chain.chain_id, 0, batch(1)), Code.NONCE_EXPIRED),
            (sign_batch(key, chain.chain_id, 0, batch(2**63 - 1)), Code.NONCE_TOO_NEW),
            (sign_batch(key, chain.chain_id, 0, batch(nonce_ms, 101)), Code.TOO_MANY_ACTIONS),
            (sign_batch(key, chain.chain_id, 0, batch(nonce_ms, 0)), Code.TOO_MANY_ACTIONS),
            (good[:-1] + bytes([good[-1] ^ 1]), Code.BAD_SIGNATURE),
            (good + b"\x00", Code.MALFORMED),
            (good[:-1], Code.MALFORMED),
        ),
        10,
    ):
        await thief.frame(encode(wire.Submit(number, raw)))
        refused = await thief.answer()
        assert refused[:3] == [ERROR, number, code], (refused, code)
    await thief.close()
    await watched.trades_on()


async def test_a_batch_replayed_a_hundred_times_is_executed_once(watched: Watched) -> None:
    chain: Chain = watched.cluster.chain
    key = files_of(watched).key("trader-06")
    raw = sign_batch(key, chain.chain_id, 0, batch(await now_of(watched)))
    before = await watched.cluster.number("sequencer-0", "ordered_batches")
    done = watched.steady.done
    one = await Raw.open(watched.public("sequencer-0"))
    await one.frame(encode(wire.Hello(1, wire.WIRE_VERSION, chain.chain_id, "echo")))
    challenge = (await one.answer())[8]
    proof = key.sign(wire.session_digest(chain.chain_id, challenge))
    await one.frame(encode(wire.Authenticate(2, 1, key.public, proof)))
    assert (await one.answer())[0] == 65
    for number in range(100, 200):
        await one.frame(encode(wire.Submit(number, raw)))
    heights: dict[int, int] = {}
    while len(heights) < 100:
        found = await one.answer()
        assert found[0] in (67, 68), found
        if found[0] == 68:
            heights[found[1]] = found[2]
    assert len(set(heights.values())) == 1, "every copy has the place of the first"
    await one.close()
    await watched.trades_on()
    ordered = await watched.cluster.number("sequencer-0", "ordered_batches") - before
    honest = watched.steady.done - done
    assert ordered <= honest + 60, "prices and the honest client's, and one batch of ours"


def batch(nonce_ms: int, actions: int = 1) -> ActionBatch:
    return ActionBatch(1, nonce_ms, 0, [Cancel(0, 2**62) for _ in range(actions)])


async def now_of(watched: Watched) -> int:
    one = await Raw.open(watched.public("sequencer-0"))
    await one.frame(encode(wire.Hello(1, wire.WIRE_VERSION, b"", "clock")))
    welcome = await one.answer()
    await one.close()
    return int(welcome[7])


# --- whatever nobody has thought of


async def test_ten_seconds_of_fuzzing(watched: Watched) -> None:
    """The same for ten minutes: ``python -m tests.fuzz.process --minutes 10``."""
    report = await fuzz(watched.cluster, watched.steady, SEED, 10.0, warm_s=4.0, calm_s=1.0)
    print(f"seed {SEED}: {report.sent}, {report.answers}")
    assert not report.problems, report.problems
    assert sum(report.answers.values()) > 500
    await watched.trades_on()


# --- at the end


async def test_after_all_of_it_nobody_has_noticed(watched: Watched) -> None:
    """The honest client was never even disconnected, and no process wrote a trace."""
    await watched.steady.stop()
    print(f"{watched.steady.done} orders and cancels of the honest client")
    assert watched.steady.done > 100 and watched.steady.reconnects == 0
    for name in PUBLIC:
        assert "Traceback" not in watched.cluster.log(name), watched.cluster.log(name)[-3000:]
    assert (await watched.cluster.status("execution-0"))["money_conserved"] == "yes"
    assert (await watched.cluster.status("validator-0"))["conserved"] == "yes"
