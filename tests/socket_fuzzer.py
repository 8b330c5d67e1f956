"""Fuzzing of whole processes over their sockets: right requests, nearly right ones, and noise.

Every public port, HTTP port and peer port of a running cluster is spoken to; on the public ports
also as a trader whose key is right, on one peer port also as a validator whose key is right. What
is sent follows from the seed; what comes back is counted by code.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import msgspec
from cluster_world import Cluster, SteadyTrader
from wire_values import Grammar, type_info

from net.tls import client_context
from node.peer import decode_peer_message
from protocol.actions import ActionBatch, sign_batch
from protocol.codec import encode
from protocol.errors import Code
from protocol.genesis import Identity
from protocol.keys import Key
from protocol.messages import (
    WIRE_VERSION,
    Authenticate,
    Hello,
    Request,
    Submit,
    SubmitOnDisconnect,
    SubmitTransaction,
    decode_answer,
    session_digest,
)
from protocol.settlement import Transaction, sign_transaction
from sequencer.peer import decode_peer_message as decode_sequencer_message
from store.config import parse_address

FRAMES_OF_SESSION = 60
ANSWER_S = 0.5
"""So long a session waits for the answers to what it has sent."""

REQUEST = type_info(Request)
BATCH = type_info(ActionBatch)
TRANSACTION = type_info(Transaction)
VALIDATOR_MESSAGE = type_info(decode_peer_message._decode.__self__.type)  # type: ignore[attr-defined]
SEQUENCER_MESSAGE = type_info(decode_sequencer_message._decode.__self__.type)  # type: ignore[attr-defined]
MAX_NUMBER = 2**63 - 1


class Measured(msgspec.Struct):
    """What a process holds: resident memory and descriptors."""

    rss_kib: int
    descriptors: int


def measure(pid: int) -> Measured:
    """Of a process of this machine."""
    with open(f"/proc/{pid}/status") as file:
        rss_kib = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return Measured(rss_kib, len(os.listdir(f"/proc/{pid}/fd")))


class Fuzzer:
    """Attacks a running cluster until told to stop; the counters tell what happened."""

    def __init__(self, cluster: Cluster, seed: int, pause_s: float = 0.0) -> None:
        self.cluster = cluster
        self.seed = seed
        self.pause_s = pause_s
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.unreadable: list[bytes] = []
        self.sessions = 0
        self._stop = False

    async def run(self, seconds: float, sessions_of_port: int = 1) -> None:
        """Attack every port for so long, with so many connections to each public one."""
        work = []
        for number, entry in enumerate(self.cluster.testnet.processes):
            for again in range(sessions_of_port):
                random = Random(f"{self.seed} {number} {again}")
                work.append(self._public(entry.role, parse_address(entry.public), random))
            if entry.observe:
                random = Random(f"{self.seed} {number} http")
                work.append(self._garbage("http", parse_address(entry.observe), random))
            if entry.peer:
                random = Random(f"{self.seed} {number} peer")
                work.append(self._garbage("peer", parse_address(entry.peer), random))
        genesis = self.cluster.chain.genesis
        for members, shape in (
            (genesis.validators, VALIDATOR_MESSAGE),
            (genesis.sequencers, SEQUENCER_MESSAGE),
        ):
            work.append(self._member(members, shape, Random(f"{self.seed} member")))
        tasks = [asyncio.ensure_future(one) for one in work]
        await asyncio.sleep(seconds)
        self._stop = True
        await asyncio.gather(*tasks)

    # --- the public port

    async def _public(self, role: str, address: tuple[str, int], random: Random) -> None:
        while not self._stop:
            self.sessions += 1
            try:
                await _Talk(self, role, random).run(address)
            except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.ended[type(error).__name__] += 1
            await asyncio.sleep(self.pause_s)

    # --- the other ports

    async def _garbage(self, kind: str, address: tuple[str, int], random: Random) -> None:
        """Bytes that are no TLS, or hardly HTTP."""
        grammar = Grammar(random)
        while not self._stop:
            with suppress(ConnectionError, TimeoutError):
                reader, writer = await asyncio.open_connection(*address)
                for _ in range(random.randrange(1, 4)):
                    raw = grammar.noise() if kind == "peer" else http_request(random)
                    writer.write(grammar.mutated(raw) if random.randrange(2) else raw)
                    self.sent[kind] += 1
                async with asyncio.timeout(ANSWER_S):
                    while await reader.read(1 << 16):
                        pass
            with suppress(UnboundLocalError):
                writer.transport.abort()
            await asyncio.sleep(0.05 + self.pause_s)

    async def _member(self, identities: list[Identity], shape: Any, random: Random) -> None:
        """The last member's key, at the first one's peer port: a member that has gone mad."""
        if len(identities) < 4:
            return
        key = self.cluster.testnet.key(identities[-1].name)
        own, victim = (bytes.fromhex(identities[at].certificate) for at in (-1, 0))
        context = client_context(key, own, [victim])
        address = parse_address(self.cluster.testnet.process(identities[0].name).peer)
        grammar = Grammar(random)
        while not self._stop:
            with suppress(ConnectionError, ssl.SSLError, TimeoutError):
                _, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="")
                for _ in range(random.randrange(1, 40)):
                    raw = self._peer_message(grammar, shape)
                    writer.write(struct.pack(">I", len(raw)) + raw)
                    self.sent["member"] += 1
                async with asyncio.timeout(ANSWER_S):
                    await writer.drain()
                await asyncio.sleep(0.2)
                writer.transport.abort()
            await asyncio.sleep(0.5 + self.pause_s)

    def _peer_message(self, grammar: Grammar, shape: Any) -> bytes:
        raw = encode(grammar.value(shape))
        kind = grammar.random.randrange(10)
        if kind < 5:
            return raw
        return (grammar.mutated(raw) if kind < 9 else grammar.noise()) or b"\x00"


class _Talk:
    """One session with a public port."""

    def __init__(self, fuzzer: Fuzzer, role: str, random: Random) -> None:
        self._fuzzer = fuzzer
        self._role = role
        self._random = random
        self._grammar = Grammar(random)
        self._key: Key | None = None
        self._nonce_ms = 0
        self._next_id = 0

    async def run(self, address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address, limit=1 << 24)
        try:
            if self._random.randrange(3):
                await self._greet(reader, writer)
            count = self._random.randrange(1, FRAMES_OF_SESSION)
            for _ in range(count):
                writer.write(self._frame())
            reading = asyncio.ensure_future(self._read(reader))
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await writer.drain()
                    await reading
            reading.cancel()
        finally:
            writer.transport.abort()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chain = self._fuzzer.cluster.chain
        writer.write(framed(encode(Hello(1, WIRE_VERSION, chain.chain_id, "fuzz"))))
        async with asyncio.timeout(30):
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            welcome: Any = decode_answer(await reader.readexactly(length))
        if not self._random.randrange(3):
            return
        self._key = self._fuzzer.cluster.testnet.key(f"trader-{self._random.randrange(8):02d}")
        self._nonce_ms = welcome.time_ms
        proof = self._key.sign(session_digest(chain.chain_id, welcome.challenge))
        writer.write(framed(encode(Authenticate(2, 1, self._key.public, proof))))

    def _frame(self) -> bytes:
        """The next thing to say, with its header."""
        random, sent = self._random, self._fuzzer.sent
        kind = random.randrange(20)
        if kind == 0 and not random.randrange(5):
            sent["raw bytes"] += 1
            return self._grammar.noise()[:4096]
        if kind == 1:
            sent["noise"] += 1
            return framed(self._grammar.noise()[:100_000] or b"\xc0")
        request = self._request()
        raw = encode(request)
        if kind < 8:
            sent["mutated"] += 1
            return framed(self._grammar.mutated(raw) or b"\xc0")
        sent[type(request).__name__] += 1
        return framed(raw)

    def _request(self) -> Any:
        """A request of any kind; of those that carry something signed, often rightly signed."""
        self._next_id += 1
        signed_here = self._role in ("node", "sequencer") or not self._random.randrange(8)
        if self._key is not None and signed_here and self._random.randrange(4):
            return self._signed(self._key)
        request = self._grammar.value(REQUEST)
        if self._random.randrange(8):
            request = msgspec.structs.replace(request, request_id=self._next_id)
        return request

    def _signed(self, key: Key) -> Any:
        chain, random = self._fuzzer.cluster.chain, self._random
        kind = random.randrange(4)
        if self._role == "node":
            transaction = self._grammar.value(TRANSACTION)
            raw = sign_transaction(key, chain.chain_id, transaction)
            raw = self._grammar.mutated(raw) if kind == 1 else raw
            return SubmitTransaction(self._next_id, raw)
        batch = self._grammar.value(BATCH)
        if random.randrange(4):
            self._nonce_ms += 1
            account = random.randrange(12)
            batch = msgspec.structs.replace(
                batch, account=account, nonce_ms=self._nonce_ms, expires_ms=0
            )
        raw = sign_batch(key, chain.chain_id, chain.genesis.shard, batch)
        if kind == 1:
            raw = self._grammar.mutated(raw)
        made = SubmitOnDisconnect if kind == 2 and not random.randrange(4) else Submit
        return made(self._next_id, raw)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Count answers until the process ends the session."""
        answers = self._fuzzer.answers
        while True:
            try:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                raw = await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                return
            try:
                answer: Any = decode_answer(raw)
            except Exception:
                self._fuzzer.unreadable.append(raw[:200])
                raise
            if hasattr(answer, "code") and type(answer).__name__ == "ErrorFrame":
                answers[Code(answer.code).label] += 1
            else:
                answers[type(answer).__name__] += 1


HTTP_HEADERS = (
    b"Host: x", b"Content-Length: 99999999999", b"X: " + b"y" * 9_000, b"Content-Length: -1",
    b"Transfer-Encoding: chunked", b": ", b"\x00",
)  # fmt: skip


def framed(raw: bytes) -> bytes:
    """A frame."""
    return struct.pack(">I", len(raw)) + raw


def http_request(random: Random) -> bytes:
    """Some request to the HTTP port; orders to break something are not among them."""
    method = random.choice((b"GET", b"POST", b"HEAD", b"OPTIONS", b"\x00\xff", b"G" * 9_000))
    path = random.choice(
        (b"/metrics", b"/healthz", b"/readyz", b"/", b"/..%2f", b"/" + b"a" * 9_000)
    )
    header = random.choice(HTTP_HEADERS)
    return method + b" " + path + b" HTTP/1.1\r\n" + header + b"\r\n\r\n"


class Finding(msgspec.Struct):
    """One process before, in the middle (what fills up has grown less since), and after."""

    name: str
    before: Measured
    halfway: Measured
    after: Measured


class Report(msgspec.Struct):
    """What a run of the fuzzer found; `problems` is empty where all is well."""

    seed: int
    seconds: float
    sessions: int
    sent: dict[str, int]
    answers: dict[str, int]
    ended: dict[str, int]
    honest_orders: int
    honest_reconnects: int
    processes: list[Finding]
    problems: list[str]


async def fuzz(
    cluster: Cluster,
    honest: SteadyTrader,
    seed: int,
    seconds: float,
    *,
    warm_s: float = 5.0,
    calm_s: float = 5.0,
    growth_kib: int = 64 * 1024,
    pause_s: float = 0.0,
) -> Report:
    """Attack for so long, with a shorter attack first, that what is cached is already there."""
    pids = {name: pid for name, pid in cluster.pids().items() if pid is not None}
    await Fuzzer(cluster, seed + 1, pause_s).run(warm_s)
    await asyncio.sleep(calm_s)
    before = _measured(pids)
    done = honest.done
    fuzzer = Fuzzer(cluster, seed, pause_s)
    running = asyncio.ensure_future(fuzzer.run(seconds))
    await asyncio.sleep(seconds / 2)
    halfway = _measured(pids)
    await running
    orders = honest.done - done
    await asyncio.sleep(calm_s)
    problems = []
    if {name: pid for name, pid in cluster.pids().items() if pid is not None} != pids:
        problems.append(f"processes died: {pids} are now {cluster.pids()}")
        return _report(fuzzer, seconds, honest, orders, [], problems)
    after = _measured(pids)
    found = [Finding(name, before[name], halfway[name], after[name]) for name in pids]
    for one in found:
        if one.after.rss_kib > one.before.rss_kib + growth_kib:
            problems.append(f"{one.name} grew from {one.before.rss_kib} to {one.after.rss_kib} KiB")
        if one.after.descriptors > one.before.descriptors + 20:
            problems.append(f"{one.name} keeps {one.after.descriptors} descriptors")
        if "Traceback" in cluster.log(one.name):
            problems.append(f"{one.name} wrote a trace: {cluster.log(one.name)[-3000:]}")
    honest.check()
    if orders < seconds / 2 or honest.reconnects:
        problems.append(f"the honest client: {orders} orders, {honest.reconnects} reconnects")
    if fuzzer.unreadable:
        problems.append(f"answers that cannot be read: {fuzzer.unreadable[:3]}")
    if (await cluster.status("execution-0"))["money_conserved"] != "yes":
        problems.append("money is not conserved")
    return _report(fuzzer, seconds, honest, orders, found, problems)


def _measured(pids: dict[str, int]) -> dict[str, Measured]:
    """What each process holds; those that died are missing."""
    found = {}
    for name, pid in pids.items():
        with suppress(FileNotFoundError, ProcessLookupError, StopIteration):
            found[name] = measure(pid)
    return found


def _report(
    fuzzer: Fuzzer,
    seconds: float,
    honest: SteadyTrader,
    orders: int,
    found: list[Finding],
    problems: list[str],
) -> Report:
    return Report(
        fuzzer.seed, seconds, fuzzer.sessions, dict(fuzzer.sent.most_common()),
        dict(fuzzer.answers.most_common()), dict(fuzzer.ended), orders, honest.reconnects, found,
        problems,
    )  # fmt: skip
