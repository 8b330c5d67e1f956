"""Bad clients: garbage, frames too large, values too deep, batches replayed or wrongly signed.

What a process does with each input is counted by the code that it answers, or as ``closed``.
"""

from __future__ import annotations

import asyncio
import struct
from random import Random

from client.endpoint import Endpoint
from client.submission import Submission
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.keys import Key
from protocol.messages import Accepted, Answer, ErrorFrame, Submit, decode_answer
from store.config import parse_address
from store.testnet import ORACLE_KEY, ProcessEntry, Testnet

INPUTS = ("garbage", "oversized", "deep", "wrong-signature", "replay")
"""Kinds of bad input; the last two are batches, which only sequencers take."""

PAUSE_S = 0.05
ANSWER_MS = 1_500
CLOSED = "closed"

_LENGTH = struct.Struct(">I")
_TLS_HELLO = bytes.fromhex("160301020001")
_HUGE_BYTES = 1 << 30
_DEEP = 4_096


class Attack:
    """Sends bad input to one process until cancelled; `codes` counts what came of it.

    `known`: batches of honest clients, to send again or spoil.
    """

    def __init__(
        self, testnet: Testnet, entry: ProcessEntry, kinds: list[str], known: list[Submission],
        seed: int,
    ) -> None:  # fmt: skip
        self.codes: dict[str, int] = {}
        self._chain = testnet.chain()
        self._testnet = testnet
        self._keys: dict[bytes, Key] = {}
        self._entry = entry
        batches = entry.role == "sequencer"
        self._kinds = [kind for kind in kinds if batches or kind not in INPUTS[3:]]
        self._known = known
        self._rng = Random(f"{seed}/{entry.name}")

    async def run(self) -> None:
        """Attack until cancelled."""
        while True:
            for kind in self._kinds:
                try:
                    async with asyncio.timeout(2 * ANSWER_MS / 1000):
                        await self._send(kind)
                except (OSError, TimeoutError, RemoteFault, Rejected) as error:
                    if isinstance(error, RemoteFault | Rejected):
                        self._count(_label(error.code))
                await asyncio.sleep(PAUSE_S)

    def _count(self, what: str) -> None:
        self.codes[what] = self.codes.get(what, 0) + 1

    async def _send(self, kind: str) -> None:
        if kind == "garbage":
            raw = self._rng.randbytes(self._rng.randint(8, 512))
            await self._raw(_TLS_HELLO + raw if self._rng.random() < 0.5 else raw)
        elif kind == "oversized":
            await self._raw(_LENGTH.pack(_HUGE_BYTES) + self._rng.randbytes(64))
        elif kind == "deep":
            payload = b"\x91" * _DEEP
            await self._raw(_LENGTH.pack(len(payload)) + payload)
        else:
            await self._batch(replayed=kind == "replay")

    async def _raw(self, raw: bytes) -> None:
        """Write bytes to the public port; the answer is an error frame or the end."""
        host, port = parse_address(self._entry.public)
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(raw)
            await writer.drain()
            header = await reader.read(_LENGTH.size)
            if len(header) < _LENGTH.size:
                self._count(CLOSED)
                return
            (length,) = _LENGTH.unpack(header)
            answer: Answer = decode_answer(await reader.readexactly(length))
            self._count(_label(answer.code) if isinstance(answer, ErrorFrame) else "answered")
        except (ConnectionResetError, asyncio.IncompleteReadError, BrokenPipeError):
            self._count(CLOSED)
        finally:
            writer.close()

    async def _batch(self, *, replayed: bool) -> None:
        """Send a trader's last batch again, or with another signature."""
        done = self._executed()
        if done is None:
            return
        raw = bytearray(done.raw)
        if not replayed:
            raw[-1 - self._rng.randrange(32)] ^= 1 << self._rng.randrange(8)
        host, port = parse_address(self._entry.public)
        endpoint = Endpoint(host, port, self._chain)
        try:
            await endpoint.greet()
            await endpoint.prove(self._key(done.signer))
            request_id = endpoint.next_request_id()
            frame = encode(Submit(request_id, bytes(raw)))
            answer = decode_answer(await endpoint.request(frame, request_id, ANSWER_MS))
            if isinstance(answer, ErrorFrame):
                self._count(_label(answer.code))
            elif isinstance(answer, Accepted):
                self._count("accepted_again" if replayed else "accepted_badly_signed")
        finally:
            await endpoint.close()

    def _key(self, signer: bytes) -> Key:
        """The key of a trader: its session is proven, so that what it sends is looked at."""
        if not self._keys:
            keys = (self._testnet.key(name) for name in [*self._testnet.traders, ORACLE_KEY])
            self._keys.update((key.public, key) for key in keys)
        return self._keys[signer]

    def _executed(self) -> Submission | None:
        """A batch of this run with a result; any, so that it is old as well as new."""
        known = self._known
        if not known:
            return None
        one = known[self._rng.randrange(len(known))]
        return one if one.executed_ns else None


def _label(code: int) -> str:
    try:
        return Code(code).label
    except ValueError:
        return f"code_{code}"
