"""The sequencer process: public port, base-layer follower, disk, and the machine between them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from consensus import Broadcast, Committed, Misbehaviour, Persist, PersistBlock, Send
from execution.process_health import WatchedInbox
from execution.process_light import CHECKPOINT_NAME
from net.clock import now_ms
from net.logs import set_log_place
from net.runner import run_process, until_stopped
from net.service import ClientSession, PublicService, StatusValues
from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import (
    Accepted,
    Done,
    LogChunk,
    Ordered,
    Submit,
    SubmitOnDisconnect,
    SubscribeLog,
)
from protocol.messages_trace import TraceRequest
from sequencer.inbox_height import grown_at
from sequencer.journey import Journey
from sequencer.machine import Accept, Order, Pass, PersistBatches, Sequencer, SequencerEffect
from sequencer.on_disconnect import OnDisconnect
from sequencer.process_evidence import KeptEvidence
from sequencer.process_health import SequencerHealth
from sequencer.process_peers import SequencerLinks
from sequencer.process_settled import ask_settled_height
from sequencer.store import SequencerStore
from store.config import ProcessConfig, parse_address
from store.ownership import may_sign

FLUSH_MS_MIN = 1.0
FLUSH_MS_MAX = 8.0
"""Submissions wait this long for company: the longer, the more of them there are."""

FLUSH_BATCHES = 64
"""From this many waiting submissions on, the wait is the longest."""

RETRY_S = 0.05
"""What a full pool did not take of an ended session is tried again after so long."""

SILENCE_S = 20
"""A client that left batches for its disconnect is given up when its machine has not acknowledged
anything for so long."""

_log = structlog.get_logger()


class SequencerProcess:
    """Runs one sequencer: the only one, or one of several that agree among themselves."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        self._config, self._chain = config, chain
        self._peers: SequencerLinks | None = None
        if len(chain.genesis.sequencers) > 1:
            self._peers = SequencerLinks(config, chain, key, self._on_message)
        self._store = SequencerStore(config.data)
        self._machine = Sequencer(
            chain, config.index, key, self._store.recover(), self._store.stored,
            signs=may_sign(config),
        )  # fmt: skip
        self._machine.signer_batches_max = config.clients.signer_batches
        self._service = PublicService(chain, "sequencer", config.name, self._status)
        self._service.on(Submit, self._submit)
        self._service.on(SubmitOnDisconnect, self._keep_for_disconnect)
        self._service.on(SubscribeLog, self._subscribe)
        self._service.on(TraceRequest, lambda _, one: self._journey.marks(one, self._machine.pool))
        self._journey = Journey()
        self._evidence = KeptEvidence(config.data)
        self._on_disconnect = OnDisconnect(self._machine)
        self._inbox = WatchedInbox(
            chain, [parse_address(one) for one in config.validators], config.name,
            self._ledger_news, config.data / CHECKPOINT_NAME, needed=None,
        )  # fmt: skip
        self._health = SequencerHealth(
            self._machine, self._inbox,
            self._service.metrics.histogram("accepted_to_ordered_seconds"),
        )  # fmt: skip
        self._service.trouble = lambda: self._health.trouble(key.public, self._connected())
        set_log_place(lambda: {"height": self._store.height, "view": self._machine.replica.view})
        self._sessions: dict[int, ClientSession] = {}
        self._numbers: dict[ClientSession, int] = {}
        self._next_number = 1
        self._flush_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._turn_due = False
        self._failed = False
        self._stopping = False
        self._grown = asyncio.Event()

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        others: list[asyncio.Future[None]] = []
        watches: list[asyncio.Future[None]] = []
        try:
            # Before anybody can submit, pass a batch on, or tell of the base layer.
            self._guarded(lambda: self._machine.start(now_ms()))
            if self._peers is not None:
                await self._peers.start()
                others.append(self._peers.mesh.failure)
            port = await self._service.open(self._config)
            watches.append(asyncio.ensure_future(self._inbox.run()))
            if self._machine.settled.asks:
                watches.append(asyncio.ensure_future(self._learn_settled()))
            _log.info("sequencer ready", height=self._store.height, port=port)
            if not self._machine.signs:
                _log.warning("restored from a backup: it follows and serves, and signs nothing")
            fatal = self._service.fatal
            await until_stopped(stop, *watches, *others, *([] if fatal is None else [fatal]))
        finally:
            for watch in watches:
                watch.cancel()
            self._stopping = True  # sessions that we end ourselves leave nothing behind
            self._flush()
            await self._service.stop()
            if self._peers is not None:
                self._peers.stop_waiting()
                await self._peers.close()
            self._failed = True  # a timer that is still due finds a closed disk
            self._store.close()

    async def _learn_settled(self) -> None:
        """Tell the machine what is settled of the log, and then rest."""
        height = await ask_settled_height(self._config, self._chain)
        _log.info("the base layer tells what is settled", settled=height)
        self._guarded(lambda: self._machine.note_settled(height, now_ms()))
        await asyncio.Event().wait()

    # --- the other sequencers

    def _on_message(self) -> None:
        """A message waits: what comes together is handled together, under one sync."""
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._take_messages)

    def _take_messages(self) -> None:
        self._turn_due = False
        if self._peers is not None:
            received = self._peers.take()
            self._guarded(lambda: self._machine.receive(received, now_ms()))

    # --- submissions

    def _submit(self, session: ClientSession, request: Submit) -> Wire | None:
        number = self._number(session)
        self._machine.submit((number, request.request_id), request.batch, session.signers, now_ms())
        self._wait_for_company(1)
        return None

    def _keep_for_disconnect(self, session: ClientSession, request: SubmitOnDisconnect) -> Wire:
        number = self._number(session)
        self._on_disconnect.give(number, request.batch, session.signers, now_ms())
        notice_silence(session.link.transport)
        return Done(request.request_id)

    def _submit_for_ended(self) -> None:
        """Submit what ended sessions left, and try again later what the pool has no room for."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        if self._failed or self._stopping:
            return
        refused = self._on_disconnect.refused
        taken = self._on_disconnect.submit(now_ms())
        refused = self._on_disconnect.refused - refused
        if taken or refused:
            _log.info("sessions ended", batches_submitted=taken, batches_refused=refused)
        if taken:
            self._wait_for_company(taken)
        if self._on_disconnect.due:
            loop = asyncio.get_running_loop()
            self._retry_timer = loop.call_later(RETRY_S, self._submit_for_ended)

    def _wait_for_company(self, count: int) -> None:
        """See to it that submissions of now are flushed soon, together."""
        self._waiting += count
        if self._flush_timer is None:
            share = min(1.0, self._waiting / FLUSH_BATCHES)
            delay_ms = FLUSH_MS_MIN + share * (FLUSH_MS_MAX - FLUSH_MS_MIN)
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(delay_ms / 1000, self._flush)

    def _number(self, session: ClientSession) -> int:
        """The session's number; raises `Rejected` (not_ready) once nothing is taken any more."""
        if self._failed:
            raise Rejected(Code.NOT_READY, "the sequencer is stopping; send the same again later")
        number = self._numbers.get(session)
        return self._enter(session) if number is None else number

    def _enter(self, session: ClientSession) -> int:
        number = self._next_number
        self._next_number += 1
        self._sessions[number] = session
        self._numbers[session] = number

        def leave() -> None:
            self._sessions.pop(number, None)
            self._numbers.pop(session, None)
            self._machine.forget(number)
            self._health.left(number)
            if not self._stopping:
                self._on_disconnect.ended(number)
                if self._retry_timer is None:  # else its turn comes then
                    self._submit_for_ended()

        session.on_close.append(leave)
        return number

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._waiting = 0
        self._guarded(lambda: self._machine.flush(now_ms()))

    def _tick(self) -> None:
        self._tick_timer = None
        self._guarded(lambda: self._machine.tick(now_ms()))

    def _ledger_news(self, height: int, inbox_count: int) -> None:
        grown = grown_at(self._inbox.count_at, height)
        self._guarded(lambda: self._machine.note_ledger(height, inbox_count, now_ms(), grown))

    def _guarded(self, step: Callable[[], Iterable[SequencerEffect]]) -> None:
        """Take a step and carry its effects out; a failure (a full disk, say) ends the process.

        After a failure no step is taken any more: what the machine believes to be on disk is not,
        and records behind a missing one would stand in the wrong place.
        """
        if self._failed:
            return
        try:
            self._carry_out(step())
        except Exception as error:
            self._failed = True
            fatal = self._service.fatal
            if fatal is None or fatal.done():
                raise
            fatal.set_result(error)

    def _carry_out(self, effects: Iterable[SequencerEffect]) -> None:
        answers: list[SequencerEffect] = []
        store = self._store
        committed = 0
        for effect in effects:
            if isinstance(effect, PersistBatches):
                store.write_batches(effect)
            elif isinstance(effect, PersistBlock):
                store.write_block(effect.block)
            elif isinstance(effect, Persist):
                store.write_voting(effect.state)
            elif isinstance(effect, Committed):
                cursor = self._machine.pool.cursor_after(effect.block.header.height)
                store.write_committed(effect.block, effect.certificate, cursor)
                committed = effect.block.header.height
                self._journey.committed(committed, now_ms())
            else:
                answers.append(effect)
        store.sync()
        for answer in answers:
            self._answer(answer)
        if committed:
            self._health.committed()
            self._inbox.release(self._machine.pool.inbox_cursor)
            store.prune(self._machine.pool.__contains__)
            self._grown.set()
            self._grown = asyncio.Event()
        self._schedule_tick()

    def _answer(self, effect: SequencerEffect) -> None:
        if isinstance(effect, Send | Broadcast | Pass):
            if self._peers is not None:
                self._peers.send([effect])
        elif isinstance(effect, Misbehaviour):
            evidence = effect.evidence
            name = self._chain.genesis.sequencers[evidence.member].name
            path = str(self._evidence.keep(evidence))
            _log.warning(
                "a sequencer signed against itself", sequencer=name, of_view=evidence.view,
                evidence=path,
            )  # fmt: skip
        elif isinstance(effect, Accept):
            session = self._sessions.get(effect.ticket[0])
            if session is not None:
                self._health.accepted(effect.ticket, now_ms())
                self._journey.accepted(effect.receipt)
                session.send(Accepted(effect.ticket[1], effect.receipt))
        elif isinstance(effect, Order):
            session = self._sessions.get(effect.ticket[0])
            if session is not None:
                self._health.ordered(effect.ticket, now_ms())
                session.send(Ordered(effect.ticket[1], effect.height, effect.time_ms))

    def _schedule_tick(self) -> None:
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        deadline_ms = self._machine.next_deadline_ms()
        if deadline_ms is not None:
            delay_ms = max(0, deadline_ms - now_ms())
            loop = asyncio.get_running_loop()
            self._tick_timer = loop.call_later(delay_ms / 1000, self._tick)

    # --- the log

    async def _subscribe(self, session: ClientSession, request: SubscribeLog) -> Wire | None:
        if request.from_height < 1:
            raise Rejected(Code.NOT_RETAINED, "the log starts at height 1")
        height = request.from_height
        session.takes_along(asyncio.current_task())
        while not (session.closed or self._failed):
            grown = self._grown
            chunk = self._store.chunk(height) if height <= self._store.height else None
            if chunk is None:
                await grown.wait()
                continue
            session.send(LogChunk(request.request_id, chunk))
            height += len(chunk.blocks)
            await session.link.drain()
        return None

    def _connected(self) -> list[bytes]:
        return [] if self._peers is None else self._peers.mesh.connected

    def _status(self) -> StatusValues:
        machine = self._machine
        pool, leader = machine.pool, machine.replica.leader
        values: StatusValues = {
            "height": self._store.height,
            "view": machine.replica.view,
            "members": len(machine.members),
            "peers": 0 if self._peers is None else len(self._peers.mesh.connected),
            "leader": "" if leader is None else self._chain.genesis.sequencers[leader].name,
            "pool": len(pool),
            "pool_bytes": pool.size_bytes,
            "accepted_batches": pool.accepted_batches,
            "accepted_actions": pool.accepted_actions,
            "ordered_batches": pool.ordered_batches,
            "ordered_actions": pool.ordered_actions,
            "on_disconnect_held": self._on_disconnect.held,
            "on_disconnect_submitted": self._on_disconnect.submitted,
            "ledger_height": pool.ledger_height,
            "inbox_height": pool.inbox_height,
            "inbox_cursor": pool.inbox_cursor,
            "store_bytes": self._store.stored_bytes,
        }
        if self._peers is not None:
            values["proposals_held"] = machine.held_proposals
            values["certificate_end_s"] = self._peers.certificate_end_s
            values["evidence"] = len(self._evidence)
        values.update(sorted(machine.counters.items()))
        for name, count in sorted(machine.replica.counters.items()):
            values[f"consensus_{name}"] = count
        if self._peers is not None:
            for name, count in sorted(self._peers.mesh.rejected.items()):
                values[f"peer_{name}"] = count
        return values


def notice_silence(transport: asyncio.Transport) -> None:
    """Have the system end a connection whose other side has fallen silent, unsent data or not,
    within about `SILENCE_S`."""
    connection = transport.get_extra_info("socket")
    if connection is None or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_S // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_S // 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    await SequencerProcess(config, chain, key).serve(stop)


def main(config_path: Path) -> int:
    """Run the sequencer of a configuration file; returns the exit status."""
    return run_process(config_path, "sequencer", _serve)
