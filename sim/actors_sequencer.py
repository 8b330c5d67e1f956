"""The sequencer of the simulator: what `sequencer.process` does, on virtual disk and network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from consensus import Broadcast, Committed, Misbehaviour, Persist, PersistBlock, Send
from execution.process_light import LightFollower
from protocol.chain import (
    BlocksRequest,
    BlocksResponse,
    Certified,
    Proposal,
    Rejoin,
    Remembered,
    Timeout,
    Vote,
)
from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.keys import SCHEME_ED25519, require_signature
from protocol.messages import (
    WIRE_VERSION,
    Accepted,
    Authenticate,
    Done,
    Hello,
    LogChunk,
    Ordered,
    Submit,
    SubscribeLog,
    Welcome,
    session_digest,
)
from sequencer.inbox_height import grown_at
from sequencer.machine import Accept, Order, Pass, PersistBatches, Sequencer, SequencerEffect
from sequencer.peer import PassedBatches, PeerMessage
from sequencer.process_settled import settled_height
from sim.actors_followers import InboxFollower, Upstream
from sim.actors_process import Process, Setting, StreamServer
from sim.actors_stores import SimSequencerStore

FLUSH_MS = 2
PEERS_SAY = (
    Proposal, Vote, Timeout, Certified, BlocksRequest, BlocksResponse, Rejoin, Remembered,
    PassedBatches,
)  # fmt: skip
EVENTS_MAX = 2_048
"""Messages of other sequencers that may wait for the disk."""


class _Session:
    def __init__(self, number: int, client: str, challenge: bytes) -> None:
        self.number = number
        self.client = client
        self.challenge = challenge
        self.signers: set[bytes] = set()


class SimSequencer(Process):
    """One sequencer of those with these `names`, in the order of genesis."""

    role = "sequencer"

    def __init__(
        self,
        setting: Setting,
        name: str,
        index: int,
        key: Any,
        validators: list[str],
        names: list[str],
        skew_us: int = 0,
    ) -> None:
        super().__init__(setting, name, ("log", "consensus", "pool"), skew_us)
        self.index = index
        self.key = key
        self._validators = validators
        self._names = names
        self._next_session = 1
        self.machine: Sequencer
        self.store: SimSequencerStore

    def start(self) -> None:
        """Take up what is on disk."""
        disks = self.disks
        self.store = SimSequencerStore(disks["log"], disks["consensus"], disks["pool"])
        recovered = self.store.recover()
        accepted = list(recovered.accepted)
        self.history.count("recovered_batches", len(accepted))
        recovered = msgspec.structs.replace(recovered, accepted=accepted)
        self.machine = Sequencer(self.chain, self.index, self.key, recovered, self.store.stored)
        self._sessions: dict[str, _Session] = {}
        self._clients: dict[int, str] = {}
        self._flushing = False
        self._received: list[tuple[int, PeerMessage]] = []
        self._tick_us: int | None = None
        self._log: StreamServer[LogChunk] = StreamServer(self, self._read)
        self.on(Hello, self._hello)
        self.on(Authenticate, self._authenticate)
        self.on(Submit, self._submit)
        self.on(SubscribeLog, self._subscribe)
        for kind in PEERS_SAY:
            self.on(kind, self._from_peer)
        self.inbox = InboxFollower(self, self._validators, self._ledger_news, needed=None)
        self.inbox.start()
        self._guarded(lambda: self.machine.start(self.now_ms()))
        if self.machine.settled.asks:
            self.spawn(self._learn_settled())

    async def _learn_settled(self) -> None:
        upstream = Upstream(self, self._validators)
        light = LightFollower(self.chain, upstream, None, self.now_ms)
        height = await settled_height(self.chain, light, upstream, self.now_ms, self.sleep)
        self._guarded(lambda: self.machine.note_settled(height, self.now_ms()))

    # --- the other sequencers

    def _from_peer(self, source: str, message: Any) -> None:
        """What comes while the disk is busy is handled together."""
        if source not in self._names or len(self._received) >= EVENTS_MAX:
            self.history.count("peer_messages_dropped")
            return
        self._received.append((self._names.index(source), message))
        if len(self._received) == 1:
            self.later(0, self._take_messages)

    def _take_messages(self) -> None:
        received, self._received = self._received, []
        self._guarded(lambda: self.machine.receive(received, self.now_ms()))

    # --- sessions and submissions

    def _hello(self, client: str, request: Hello) -> Wire | None:
        known = self._sessions.get(client)
        if known is not None:
            self._clients.pop(known.number, None)
            self.machine.forget(known.number)
        challenge = self.random.next().to_bytes(8, "big") * 4
        session = _Session(self._next_session, client, challenge)
        self._next_session += 1
        self._sessions[client] = session
        self._clients[session.number] = client
        return Welcome(
            request.request_id, WIRE_VERSION, self.chain.chain_id, self.chain.genesis.shard,
            "sequencer", self.name, self.now_ms(), challenge,
        )  # fmt: skip

    def _authenticate(self, client: str, request: Authenticate) -> Wire | None:
        session = self._session(client)
        if request.scheme != SCHEME_ED25519:
            raise Rejected(Code.SCHEME_UNKNOWN, "1 is Ed25519")
        digest = session_digest(self.chain.chain_id, session.challenge)
        require_signature(request.signer, request.signature, digest)
        session.signers.add(request.signer)
        return Done(request.request_id)

    def _session(self, client: str) -> _Session:
        session = self._sessions.get(client)
        if session is None:
            raise Rejected(Code.SESSION_NOT_PROVEN, "say hello first")
        return session

    def _submit(self, client: str, request: Submit) -> Wire | None:
        session = self._session(client)
        ticket = (session.number, request.request_id)
        self.machine.submit(ticket, request.batch, session.signers, self.now_ms())
        if not self._flushing:
            self._flushing = True
            self.later(FLUSH_MS, self._flush)
        return None

    def _flush(self) -> None:
        self._flushing = False
        self._guarded(lambda: self.machine.flush(self.now_ms()))

    def _tick(self, at_us: int) -> None:
        if self._tick_us == at_us:
            self._tick_us = None
            self._guarded(lambda: self.machine.tick(self.now_ms()))

    def _ledger_news(self, height: int, count: int) -> None:
        grown = grown_at(self.inbox.count_at, height)
        self._guarded(lambda: self.machine.note_ledger(height, count, self.now_ms(), grown))

    # --- effects

    def _guarded(self, step: Callable[[], Iterable[SequencerEffect]]) -> None:
        """Take a step; the process waits for its disks before it answers or steps again."""
        if self._blocked:
            self._inputs.append((self._guarded, (step,)))
            return
        answers: list[SequencerEffect] = []
        committed: list[Committed] = []
        store = self.store
        for effect in step():
            if isinstance(effect, PersistBatches):
                store.write_batches(effect)
            elif isinstance(effect, PersistBlock):
                store.write_block(effect.block)
            elif isinstance(effect, Persist):
                store.write_voting(effect.state)
            elif isinstance(effect, Committed):
                cursor = self.machine.pool.cursor_after(effect.block.header.height)
                store.write_committed(effect.block, effect.certificate, cursor)
                committed.append(effect)
            else:
                answers.append(effect)
        store.sync()
        self._sync_next(lambda: self._durable(answers, committed))

    def _sync_next(self, then: Callable[[], None]) -> None:
        """Sync one log after the other; a crash may come between any two."""
        syncs = self.store.syncs
        if not syncs:
            then()
            return
        log = syncs.pop(0)
        log.flush()
        self.block_until_synced(lambda: self._sync_next(then), log.disk)

    def _durable(self, answers: list[SequencerEffect], committed: list[Committed]) -> None:
        for answer in answers:
            self._answer(answer)
        for effect in committed:
            header = effect.block.header
            self.history.ordered(header.height, header.block_id())
            self.kernel.trace("ordered", header.height, header.block_id())
        if committed:
            self.inbox.release(self.machine.pool.inbox_cursor)
            self.store.prune(self.machine.pool.__contains__)
            self._log.grown()
        self._schedule_tick()

    def _answer(self, effect: SequencerEffect) -> None:
        if isinstance(effect, Send):
            self.send(self._names[effect.member], effect.message)
        elif isinstance(effect, Broadcast | Pass):
            for name in self._names:
                if name != self.name:
                    self.send(name, effect.message)
        elif isinstance(effect, Misbehaviour):
            self.history.count("sequencers_caught")
        if not isinstance(effect, Accept | Order):
            return
        client = self._clients.get(effect.ticket[0])
        if client is None:
            return
        if isinstance(effect, Accept):
            self.send(client, Accepted(effect.ticket[1], effect.receipt))
        else:
            self.send(client, Ordered(effect.ticket[1], effect.height, effect.time_ms))

    def _schedule_tick(self) -> None:
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is None:
            self._tick_us = None
            return
        delay_ms = max(0, deadline_ms - self.now_ms())
        at_us = self.kernel.now_us + delay_ms * 1_000
        if self._tick_us != at_us:
            self._tick_us = at_us
            self.later(delay_ms, self._tick, at_us)

    # --- the log

    def _subscribe(self, client: str, request: SubscribeLog) -> Wire | None:
        if request.from_height < 1:
            raise Rejected(Code.NOT_RETAINED, "the log starts at height 1")
        self._log.subscribe(client, request.request_id, request.from_height)
        return None

    def _read(self, request_id: int, height: int) -> tuple[LogChunk, int] | None:
        chunk = self.store.chunk(height) if height <= self.store.height else None
        if chunk is None:
            return None
        return LogChunk(request_id, chunk), height + len(chunk.blocks)
