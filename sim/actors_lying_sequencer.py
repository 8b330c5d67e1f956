"""A sequencer that lies: to others by a behaviour of `sim.byzantine`, to clients, to followers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from consensus import MemberSet
from protocol.actions import ActionBatch, OraclePrice, SignedBatch
from protocol.codec import Wire, encode
from protocol.errors import Code, Rejected
from protocol.keys import SCHEME_ED25519
from protocol.messages import Accepted, LogChunk, Submit
from sequencer.peer import PassedBatches
from sim.actors_sequencer import SimSequencer
from sim.byzantine_forgers import BEHAVIOURS

LIE_PPM = 300_000
GARBAGE_PPM = 20_000


class ByzantineSequencer(SimSequencer):
    """Runs the real machine and changes what leaves it.

    `behaviour` names one of `sim.byzantine_forgers.BEHAVIOURS`. It takes no submissions, keeps
    blocks back from followers, tampers with others, and passes rubbish and false prices on.
    """

    behaviour = ""

    def start(self) -> None:
        """As an honest one, behind a behaviour."""
        self.honest = False
        super().start()
        stand: Any = _Stand(self)
        replica: Any = self.machine.replica
        if not isinstance(replica, _Mask):
            masked: Any = _Mask(BEHAVIOURS[self.behaviour](stand, replica), replica)
            self.machine.replica = masked

    def _submit(self, client: str, request: Submit) -> Wire | None:
        self.history.count("submissions_ignored")
        if self.random.chance(500_000):
            raise Rejected(Code.BUSY, "a lie")
        return None

    def send(self, target: str, message: Wire) -> None:
        """Send, sometimes not the truth, or nothing."""
        if isinstance(message, Accepted):
            return
        if isinstance(message, LogChunk) and self.random.chance(LIE_PPM):
            if self.random.chance(500_000):
                self.history.count("chunks_withheld")
                return
            self.history.count("chunks_forged")
            message = self._forged(message)
        elif target in self._names and self.random.chance(GARBAGE_PPM):
            self.history.count("rubbish_passed")
            rubbish = [b"", b"\xff" * 40, self.random.next().to_bytes(8, "big") * 20]
            super().send(target, PassedBatches([*rubbish, self._false_price()]))
        super().send(target, message)

    def _false_price(self) -> bytes:
        """A price that no oracle has signed."""
        oracle = bytes.fromhex(self.chain.genesis.oracles[0])
        nonce_ms = self.now_ms() + self.random.below(1_000)
        payload = encode(ActionBatch(0, nonce_ms, 0, [OraclePrice(0, 1)]))
        return encode(SignedBatch(SCHEME_ED25519, oracle, payload, bytes(64)))

    def _forged(self, message: LogChunk) -> LogChunk:
        blocks = message.chunk.blocks
        kind = self.random.below(3)
        if kind == 0:
            blocks = blocks[1:]
        elif kind == 1:
            blocks = [*blocks[:-1], msgspec.structs.replace(blocks[-1], payload=b"no payload")]
        else:
            header = blocks[-1].header
            header = msgspec.structs.replace(header, time_ms=header.time_ms + 1)
            blocks = [*blocks[:-1], msgspec.structs.replace(blocks[-1], header=header)]
        chunk = msgspec.structs.replace(message.chunk, blocks=blocks)
        return msgspec.structs.replace(message, chunk=chunk)


class _Mask:
    """A behaviour in the place of the replica that it runs."""

    def __init__(self, behaviour: Any, replica: Any) -> None:
        self._replica = replica
        self.step = behaviour.step
        self.next_deadline_ms = behaviour.next_deadline_ms

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)


class _Stand:
    """What a behaviour wants to know of the node that it runs in."""

    def __init__(self, sequencer: ByzantineSequencer) -> None:
        self.name = sequencer.name
        self.key = sequencer.key
        self.world = SimpleNamespace(
            kernel=sequencer.kernel,
            bite=self._bite,
            config=sequencer.machine.replica.config,
            operations=[],
            checkers=SimpleNamespace(roots=_NoRoots(), blocks=sequencer.history.log or {0: b""}),
        )
        self._sequencer = sequencer

    def _bite(self, kind: str, count: int = 1) -> None:
        self._sequencer.history.count(f"byzantine_{kind}", count)

    @property
    def members(self) -> MemberSet:
        """The sequencers."""
        return self._sequencer.machine.members


class _NoRoots:
    """The log has no state of its own."""

    def get(self, height: int, default: bytes | None = None) -> bytes | None:
        """The root after a block."""
        del height, default
        return bytes(32)
