"""The validator process: links to the other validators, public port, disk, and the machines."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import structlog

from consensus import Event, MemberSet, Received, Replica, Send, Start, Work
from execution.engine import Engine
from net.mesh import Peer, PeerMesh
from net.runner import run_process, until_stopped
from net.service import ClientSession, PublicService, StatusValues
from net.tls import client_context, server_context
from node.app import ExecutedBlock, LedgerApplication
from node.clients import SubmissionDesk
from node.envelopes import Envelopes
from node.peer import MAX_GOSSIP_TRANSACTIONS, TransactionGossip, decode_peer_message
from node.queries import LedgerQueries
from node.rounds import Round, replica_config, run_round
from node.store import ValidatorStore
from protocol.chain import genesis_header
from protocol.codec import Wire, encode
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import (
    BalanceRequest,
    BatchRequest,
    BlocksFrom,
    Committed,
    HeaderRequest,
    InboxRequest,
    LedgerNews,
    ProofRequest,
    SubmitTransaction,
    SubscribeLedger,
)
from prover.tree import StateTree
from store.config import ProcessConfig, parse_address

MAX_EVENTS = 1024
"""Events that may wait for the next round; beyond them the links are not read."""

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Bytes of messages that may wait for the next round."""

HOUSEKEEPING_MS = 1_000
"""How often the pool is swept and own transactions are passed on again."""

MAX_SUBSCRIBERS = 256
"""Most sessions that follow the ledger."""

_log = structlog.get_logger()


def genesis_state_root(chain: Chain) -> bytes:
    """Root of the shard's state before its first block (32 bytes)."""
    return StateTree(Engine(chain).leaves().items()).root


class ValidatorProcess:
    """Runs one validator."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        if config.role != "node":
            raise ConfigError(f"this is the configuration of a {config.role}, not of a node")
        if not config.peer_listen or len(config.peers) != len(chain.genesis.validators):
            raise ConfigError("a validator needs peer_listen, and all validators as peers")
        self._config = config
        self._chain = chain
        self._key = key
        pace = replica_config(chain.genesis.ledger_pace)
        state_root = genesis_state_root(chain)
        self._store = ValidatorStore(config.data, chain)
        envelopes = Envelopes(chain.chain_id)
        self._ledger = self._store.load_ledger(state_root, envelopes)
        self._app = LedgerApplication(self._ledger, pace.max_payload_bytes)
        self._queries = LedgerQueries(self._ledger, self._store)
        members = MemberSet(chain.chain_id, [one.member() for one in chain.genesis.validators])
        genesis_root = self._store.genesis_root()
        self._replica = Replica(
            pace,
            members,
            key,
            self._app,
            genesis_header(chain.chain_id, chain.genesis.time_ms, genesis_root),
            self._store.recovered(),
            stored=self._store.block,
        )
        self._desk = SubmissionDesk()
        self._service = PublicService(chain, "node", config.name, self._status)
        self._register()
        self._mesh = self._make_mesh()
        self._events: deque[Event] = deque([Start()])
        self._event_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False
        self._subscribers: dict[ClientSession, int] = {}
        # Own clients' transactions: when each is passed on again, and the wait after that.
        self._own: dict[bytes, tuple[int, int]] = {}
        self._swept_ms = 0
        self._last_ms = 0
        # Executed, but not yet on disk.
        self._settling: set[bytes] = set()
        self._gossip_refused = 0
        self._rounds = 0
        self._committed = self._store.outcomes_stored()

    def _make_mesh(self) -> PeerMesh:
        config, identities = self._config, self._chain.genesis.validators
        certificates = [bytes.fromhex(one.certificate) for one in identities]
        own = certificates[config.index]
        peers = [
            Peer(index, *parse_address(peer.address), bytes.fromhex(identity.public_key))
            for index, (peer, identity) in enumerate(zip(config.peers, identities, strict=True))
        ]
        host, port = parse_address(config.peer_listen)
        return PeerMesh(
            config.index,
            peers,
            server_context(self._key, own, certificates),
            client_context(self._key, own, certificates),
            self._on_peer_message,
            listen_host=host,
            listen_port=port,
        )

    def _register(self) -> None:
        queries = self._queries
        for request, handler in (
            (SubmitTransaction, self._submit),
            (SubscribeLedger, self._subscribe),
            (HeaderRequest, lambda _, request: queries.header(request)),
            (BatchRequest, lambda _, request: queries.batch(request)),
            (BalanceRequest, lambda _, request: queries.balance(request)),
            (InboxRequest, lambda _, request: queries.inbox(request)),
            (BlocksFrom, lambda _, request: queries.blocks(request)),
            (ProofRequest, lambda _, request: queries.proof(request)),
        ):
            self._service.on(request, handler)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`; a round that has begun is finished and synced."""
        host, port = parse_address(self._config.public)
        rounds: asyncio.Task[None] | None = None
        try:
            await self._mesh.start()
            await self._service.start(host, port)
            rounds = asyncio.ensure_future(self._run_rounds())
            _log.info("validator ready", height=self._ledger.height, port=port)
            fatal = self._service.fatal
            others = [] if fatal is None else [fatal]
            await until_stopped(stop, rounds, self._mesh.failure, *others)
        finally:
            self._stopping = True
            self._wake.set()
            if rounds is not None:
                await asyncio.wait([rounds])
            await self._service.stop()
            await self._mesh.close()
            self._store.close()
        rounds.result()
        _log.info("validator stopped", height=self._ledger.height)

    # --- rounds

    def _now_ms(self) -> int:
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        return self._last_ms

    async def _run_rounds(self) -> None:
        while not self._stopping:
            await self._wait_for_round()
            now_ms = self._now_ms()
            events = list(self._events)
            self._events.clear()
            self._event_bytes = 0
            self._room.set()
            done = run_round(self._replica, self._app, events, now_ms)
            self._settling = {one.id for it in done.executed for one in it.outcome.results}
            if done.batch:
                await asyncio.to_thread(self._store.write, done.batch)
            self._settling.clear()
            self._publish(done)
            self._rounds += 1
            if now_ms >= self._swept_ms + HOUSEKEEPING_MS:
                self._sweep(now_ms)

    async def _wait_for_round(self) -> None:
        """Return when an event waits or the replica has something due."""
        self._wake.clear()
        if self._events or self._stopping:
            return
        deadline_ms = self._replica.next_deadline_ms()
        sweep_ms = self._swept_ms + HOUSEKEEPING_MS
        due_ms = sweep_ms if deadline_ms is None else min(deadline_ms, sweep_ms)
        delay_ms = due_ms - self._now_ms()
        if delay_ms > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay_ms / 1000)

    def _publish(self, done: Round) -> None:
        """Everything of the round is durable: send its messages, answer its submissions."""
        for effect in done.messages:
            frame = encode(effect.message)
            if isinstance(effect, Send):
                with suppress(KeyError):
                    self._mesh.send(effect.member, frame)
            else:
                self._mesh.broadcast(frame)
        if done.executed:
            self._queries.set_tip()
        for executed in done.executed:
            self._announce(executed)

    def _announce(self, executed: ExecutedBlock) -> None:
        outcome = executed.outcome
        self._committed += len(outcome.results)
        for result in outcome.results:
            self._own.pop(result.id, None)
            self._desk.committed(result.id, outcome.height, int(result.code), result.text)
        for identity in executed.outdated:
            self._own.pop(identity, None)
            text = "another transaction of this sender has used the nonce"
            self._desk.dropped(identity, Code.BAD_LEDGER_NONCE, text)
        inbox_count = self._ledger.entries_at(outcome.height)
        for session, request_id in list(self._subscribers.items()):
            if session.link.writable:
                session.send(
                    LedgerNews(
                        request_id, outcome.height, outcome.time_ms, inbox_count, outcome.batches
                    )
                )
            else:
                # News that cannot be kept whole is worth nothing: the follower subscribes anew.
                session.link.close("slow_consumer")

    def _sweep(self, now_ms: int) -> None:
        self._swept_ms = now_ms
        for identity in self._app.mempool.expire(now_ms):
            self._own.pop(identity, None)
            text = "the transaction waited too long; is an earlier nonce of its sender missing?"
            self._desk.dropped(identity, Code.NOT_READY, text)
        self._desk.forget_closed()
        self._pass_on_again(now_ms)

    def _pass_on_again(self, now_ms: int) -> None:
        """Repeat what still waits, ever more rarely: links are reliable while they stand, and a
        cluster that stands still must not fill them with the same batches."""
        sent = 0
        for identity, (due_ms, wait_ms) in list(self._own.items()):
            waiting = self._app.mempool.get(identity)
            if waiting is None:
                del self._own[identity]
            elif due_ms <= now_ms and sent < MAX_GOSSIP_TRANSACTIONS:
                sent += 1
                self._own[identity] = (now_ms + wait_ms, 2 * wait_ms)
                self._mesh.broadcast(encode(TransactionGossip([waiting.raw])))

    # --- other validators

    async def _on_peer_message(self, peer: int, frame: bytes) -> None:
        message = decode_peer_message(frame)
        while self._crowded and not self._stopping:
            self._room.clear()
            await self._room.wait()
        if not isinstance(message, TransactionGossip):
            self._event_bytes += len(frame)
            self._events.append(Received(peer, message))
            self._wake.set()
            return
        if len(message.transactions) > MAX_GOSSIP_TRANSACTIONS:
            raise Rejected(Code.TOO_MANY_ACTIONS, "too many transactions in one message")
        now_ms = self._now_ms()
        for raw in message.transactions:
            try:
                if self._app.submit(raw, now_ms)[1]:
                    self._note_work()
            except Rejected:
                # It may be fine elsewhere or later; the validator that submitted it still has it.
                self._gossip_refused += 1

    @property
    def _crowded(self) -> bool:
        return len(self._events) >= MAX_EVENTS or self._event_bytes >= MAX_EVENT_BYTES

    def _note_work(self) -> None:
        if not self._events or not isinstance(self._events[-1], Work):
            self._events.append(Work())
        self._wake.set()

    # --- clients

    def _submit(self, session: ClientSession, request: SubmitTransaction) -> Wire | None:
        self._desk.require_room(session)
        raw = request.transaction
        identity = self._ledger.envelopes.identity(raw)
        known = self._store.outcome(identity)
        if known is not None and known.code != Code.BAD_LEDGER_NONCE:
            return Committed(request.request_id, identity, known.height, known.code, known.text)
        settling = identity in self._settling
        now_ms = self._now_ms()
        new = not settling and self._app.submit(raw, now_ms)[1]
        self._desk.wait(identity, session, request.request_id)
        if new:
            self._own[identity] = (now_ms + HOUSEKEEPING_MS, 2 * HOUSEKEEPING_MS)
            self._mesh.broadcast(encode(TransactionGossip([raw])))
            self._note_work()
        return None

    def _subscribe(self, session: ClientSession, request: SubscribeLedger) -> Wire | None:
        if session in self._subscribers or len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise Rejected(
                Code.TOO_MANY_SUBSCRIPTIONS,
                f"a session follows the ledger once, and {MAX_SUBSCRIBERS} sessions may",
            )
        self._subscribers[session] = request.request_id

        def leave() -> None:
            self._subscribers.pop(session, None)

        session.on_close.append(leave)
        return LedgerNews(
            request.request_id,
            self._ledger.height,
            self._queries.tip_time_ms,
            self._ledger.inbox().count,
            [],
        )

    def _status(self) -> StatusValues:
        ledger, mempool = self._ledger, self._app.mempool
        shard = ledger.shard_leaf()
        values: StatusValues = {
            "height": ledger.height,
            "view": self._replica.view,
            "time_ms": self._queries.tip_time_ms,
            "ledger_root": ledger.root.hex(),
            "conserved": "yes" if ledger.conserved else "no",
            "committed_transactions": self._committed,
            "mempool": len(mempool),
            "mempool_bytes": mempool.total_bytes,
            "waiting_submissions": len(self._desk),
            "gossip_refused": self._gossip_refused,
            "peers": len(self._mesh.connected),
            "inbox_entries": ledger.inbox().count,
            "inbox_cursor": shard.inbox_cursor,
            "batches_settled": shard.batch,
            "last_batch": shard.batch,
            "last_ordered_block": shard.last_block,
            "bridge_funds_uusd": shard.funds_uusd,
            "underfunded_payouts": ledger.counters.underfunded_payouts,
            "store_bytes": self._store.size_bytes(),
            "rounds": self._rounds,
        }
        for name, count in sorted(self._replica.counters.items()):
            values[f"consensus_{name}"] = count
        for name, count in sorted(self._mesh.rejected.items()):
            values[f"peer_{name}"] = count
        return values


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    await ValidatorProcess(config, chain, key).serve(stop)


def main(config_path: Path) -> int:
    """Run the validator of a configuration file; returns the exit status."""
    return run_process(config_path, "node", _serve)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m node.process FILE", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
