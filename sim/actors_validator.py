"""A validator of the simulator: what `node.process` does, on virtual disk, network and time."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from consensus import RecoveredState
from node.app import ExecutedBlock, LedgerApplication
from node.clients import SubmissionDesk
from node.envelopes import Envelopes
from node.genesis import genesis_leaves
from node.ledger import Ledger
from node.machine import Validator
from node.outcomes import NOT_FINAL
from node.queries import LedgerQueries
from node.rounds import FromPeer, Outgoing, Round, replica_config
from node.store import StoredOutcome, ValidatorStore, WriteBatch
from protocol.chain import Block, CommitCertificate, Header
from protocol.codec import Wire
from protocol.errors import Code, SafetyViolation
from protocol.messages import (
    BalanceRequest,
    BatchRequest,
    BlocksFrom,
    Committed,
    EpochRequest,
    HeaderRequest,
    InboxRequest,
    LedgerNews,
    ProofRequest,
    SubmitTransaction,
    SubscribeLedger,
)
from protocol.messages_disputes import DisputesRequest
from sim.actors_keys import SimKey
from sim.actors_process import Process, Setting
from sim.actors_tasks import Promise, Pulse
from sim.disk import DAMAGED, Disk

MAX_EVENTS = 1024
ROUNDS = "rounds"


class ValidatorRecords:
    """What `node.store.ValidatorStore` keeps: one record per round, all of it or nothing.

    `write` adds a record to the disk; `take` shows it to readers once it is durable.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.voting_state: Any = None
        self.blocks: dict[int, tuple[Block, CommitCertificate | None]] = {}
        self.proposed: dict[bytes, Block] = {}
        self.changes: dict[bytes, bytes | None] = {}
        self.undo: dict[int, dict[bytes, bytes | None]] = {}
        self.outcomes: dict[bytes, StoredOutcome] = {}
        self.epochs: dict[int, tuple[Header, CommitCertificate, bytes]] = {}
        self.root: bytes | None = None
        self.height = 0
        records = disk.log(ROUNDS)
        if records and records[-1] is DAMAGED:
            records.pop()
            disk.truncate(ROUNDS, len(records))
        for record in records:
            if record is DAMAGED:
                raise SafetyViolation("a round on the validator's disk is damaged")
            self.take(record)

    def write(self, batch: WriteBatch) -> None:
        """Add a round to the disk."""
        self._disk.append(ROUNDS, batch)

    def take(self, batch: WriteBatch) -> None:
        """A round is durable."""
        for block in batch.proposed:
            self.proposed.setdefault(block.header.block_id(), block)
        if batch.voting_state is not None:
            self.voting_state = batch.voting_state
        for executed in batch.executed:
            self._take_block(executed)
        if batch.executed:
            newest = batch.executed[-1]
            header = newest.block.header
            self.height, self.root = header.height, newest.outcome.root
            self.undo = {h: undo for h, undo in self.undo.items() if h > header.app_height}
            self.proposed = {
                i: b for i, b in self.proposed.items() if b.header.height > header.height
            }

    def _take_block(self, executed: ExecutedBlock) -> None:
        header, certificate = executed.block.header, executed.certificate
        outcome = executed.outcome
        ends = certificate.height == header.height
        if header.height in self.blocks:
            raise SafetyViolation(f"ledger block {header.height} is stored twice")
        self.blocks[header.height] = (executed.block, certificate if ends else None)
        self.changes.update(outcome.changes)
        self.undo[header.height] = dict(outcome.undo)
        if outcome.epoch_began and outcome.epoch_proof:
            if not ends:
                raise SafetyViolation(f"epoch {outcome.epoch_began} begins inside a commit step")
            self.epochs[outcome.epoch_began] = (header, certificate, outcome.epoch_proof)
        for one in outcome.results:
            known = self.outcomes.get(one.id)
            if known is None or known.code in NOT_FINAL:
                self.outcomes[one.id] = StoredOutcome(header.height, int(one.code), one.text)

    # --- what `ValidatorStore` offers to queries

    def block(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        """A committed block, with the certificate where it ended a commit step."""
        return self.blocks.get(height)

    def epoch(self, number: int) -> tuple[Header, CommitCertificate, bytes] | None:
        """How an epoch, 1 or higher, began: header, certificate and proof of its members."""
        return self.epochs.get(number)

    def retained_from(self) -> int:
        """Every block is kept."""
        return 1

    def certificate_from(self, height: int) -> CommitCertificate | None:
        """Certificate of the lowest block at or above `height` that has one."""
        for above in range(height, self.height + 1):
            certificate = self.blocks[above][1]
            if certificate is not None:
                return certificate
        return None

    def block_run(
        self, first: int, limit: int, max_bytes: int
    ) -> tuple[list[Block], CommitCertificate | None]:
        """Committed blocks upward from `first`, and a certificate of the last or a descendant."""
        del max_bytes  # blocks of a simulation are small
        blocks = [self.blocks[h][0] for h in range(first, min(first + limit, self.height + 1))]
        for count in range(len(blocks), 0, -1):
            certificate = self.blocks[first + count - 1][1]
            if certificate is not None:
                return blocks[:count], certificate
        return blocks, self.certificate_from(first) if blocks else None

    def outcome(self, identity: bytes) -> StoredOutcome | None:
        """What became of a recent transaction."""
        return self.outcomes.get(identity)

    def recovered(self) -> RecoveredState | None:
        """What the replica starts from."""
        tip, certificate = self.blocks.get(self.height) or (None, None)
        blocks = sorted(
            self.proposed.values(), key=lambda b: (b.header.height, b.header.block_id())
        )
        if self.voting_state is None and tip is None and not blocks:
            return None
        return RecoveredState(self.voting_state, tip, certificate, blocks)


class Session:
    """A client of a validator, as `SubmissionDesk` wants it."""

    def __init__(self, validator: SimValidator, client: str) -> None:
        self.closed = False
        self._validator = validator
        self._client = client

    def send(self, answer: Wire) -> None:
        """Send an answer."""
        self._validator.send(self._client, answer)


class SimValidator(Process):
    """One validator. `peers` are the names of all validators by their keys."""

    role = "validator"

    def __init__(
        self,
        setting: Setting,
        name: str,
        key: SimKey,
        peers: dict[bytes, str],
        genesis_state_root: bytes,
        skew_us: int = 0,
    ) -> None:
        super().__init__(setting, name, ("ledger",), skew_us)
        self.key = key
        self._names = peers
        self._keys = {peer: public for public, peer in peers.items()}
        self._genesis_state_root = genesis_state_root
        self.ledger: Ledger
        self.app: LedgerApplication
        self.machine: Validator
        self.store: ValidatorRecords
        self.genesis_root = b""

    def start(self) -> None:
        """Take up what is on disk."""
        chain = self.chain
        pace = replica_config(chain.genesis.ledger_pace)
        self.store = store = ValidatorRecords(self.disks["ledger"])
        leaves = genesis_leaves(chain, self._genesis_state_root)
        self.genesis_root = genesis_root = Ledger(chain, leaves.items(), 0).root
        for key, value in store.changes.items():
            if value is None:
                leaves.pop(key, None)
            else:
                leaves[key] = value
        undo = sorted(store.undo.items())
        self.ledger = Ledger(chain, leaves.items(), store.height, undo, Envelopes(chain.chain_id))
        if store.root is not None and self.ledger.root != store.root:
            raise SafetyViolation("the stored ledger does not have its stored root")
        self.app = LedgerApplication(self.ledger, pace.max_payload_bytes)
        self.queries = LedgerQueries(self.ledger, cast(ValidatorStore, store))
        self.machine = Validator(
            chain, self.key, self.app, genesis_root, store.recovered(), stored=store.block
        )
        self.desk = SubmissionDesk()
        self._sessions: dict[str, Session] = {}
        self._subscribers: dict[str, int] = {}
        self.events: deque[FromPeer] = deque()
        self._settling: set[bytes] = set()
        self._swept_ms = 0
        self._wake = Pulse()
        self._serve()
        self.spawn(self._run_rounds())

    def _serve(self) -> None:
        queries = self.queries
        self.on(SubmitTransaction, self._submit)
        self.on(SubscribeLedger, self._subscribe)
        self.on(HeaderRequest, lambda _, request: queries.header(request))
        self.on(BatchRequest, lambda _, request: queries.batch(request))
        self.on(BalanceRequest, lambda _, request: queries.balance(request))
        self.on(InboxRequest, lambda _, request: queries.inbox(request))
        self.on(BlocksFrom, lambda _, request: queries.blocks(request))
        self.on(EpochRequest, lambda _, request: queries.epoch(request))
        self.on(ProofRequest, lambda _, request: queries.proof(request))
        self.on(DisputesRequest, lambda _, request: queries.disputes(request))

    # --- rounds

    async def _run_rounds(self) -> None:
        while True:
            await self._wait_for_round()
            events = list(self.events)
            self.events.clear()
            done = self.machine.run(events, self.now_ms())
            self._settling = {one.id for it in done.executed for one in it.outcome.results}
            if done.batch:
                self.store.write(done.batch)
                # In a thread: the process goes on taking messages meanwhile.
                durable: Promise[None] = Promise()
                disk = self.disks["ledger"]
                disk.sync(self.later, 0, durable.resolve, None)
                self.meet_doom(disk.rule.sync_us + disk.rule.sync_jitter_us)
                await durable
                self.store.take(done.batch)
            self._settling = set()
            self._publish(done)

    async def _wait_for_round(self) -> None:
        while not self.events:
            delay_ms = self.machine.next_deadline_ms() - self.now_ms()
            if delay_ms <= 0:
                return
            await self.first_of(self._wake, delay_ms)

    def _publish(self, done: Round) -> None:
        for outgoing in done.messages:
            self._to_peers(outgoing)
        if done.executed:
            self.queries.set_tip()
        for executed in done.executed:
            self._announce(executed)
        for identity in done.expired:
            self.desk.dropped(identity, Code.NOT_READY, "the transaction waited too long")
        self.desk.forget_closed()

    def _to_peers(self, outgoing: Outgoing) -> None:
        if outgoing.to is not None:
            name = self._names.get(outgoing.to)
            if name is not None and outgoing.to != self.key.public:
                self.to_peer(name, outgoing.message)
            return
        for public, name in self._names.items():
            if public != self.key.public:
                self.to_peer(name, outgoing.message)

    def to_peer(self, name: str, message: Any) -> None:
        """Send to another validator."""
        self.send(name, message)

    def _announce(self, executed: ExecutedBlock) -> None:
        header, outcome = executed.block.header, executed.outcome
        if self.honest:
            self.history.committed(self.name, header.height, header.block_id(), outcome.root)
            self.history.highest("ledger_height", header.height)
        for result in outcome.results:
            self.desk.committed(result.id, outcome.height, int(result.code), result.text)
        for identity in executed.outdated:
            text = "another transaction of this sender has used the nonce"
            self.desk.dropped(identity, Code.BAD_LEDGER_NONCE, text)
        count = self.ledger.entries_at(outcome.height)
        for client, request_id in self._subscribers.items():
            news = LedgerNews(
                request_id, outcome.height, outcome.time_ms, count, outcome.batches,
                self.ledger.final().last_block,
            )  # fmt: skip
            self.send(client, news)

    # --- messages

    def receive(self, source: str, message: Any) -> None:
        """Consensus and gossip from validators; requests from everybody else."""
        sender = self._keys.get(source)
        if sender is None:
            super().receive(source, message)
        elif len(self.events) < MAX_EVENTS:
            self.events.append(FromPeer(sender, message))
            self._wake.set()
        else:
            self.history.count("peer_messages_dropped")

    def _submit(self, client: str, request: SubmitTransaction) -> Wire | None:
        session = self._sessions.setdefault(client, Session(self, client))
        self.desk.require_room(session)
        raw = request.transaction
        identity = self.ledger.envelopes.identity(raw)
        known = self.store.outcome(identity)
        if known is not None and known.code not in NOT_FINAL:
            return Committed(request.request_id, identity, known.height, known.code, known.text)
        messages: list[Outgoing] = []
        if identity not in self._settling:
            messages = self.machine.submit(raw, self.now_ms())[1]
        self.desk.wait(identity, session, request.request_id)
        for outgoing in messages:
            self._to_peers(outgoing)
        self._wake.set()
        return None

    def _subscribe(self, client: str, request: SubscribeLedger) -> Wire | None:
        self._subscribers[client] = request.request_id
        return LedgerNews(
            request.request_id, self.ledger.height, self.queries.tip_time_ms,
            self.ledger.inbox().count, [], self.ledger.final().last_block,
        )  # fmt: skip
