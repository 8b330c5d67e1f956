"""Sequencers as pure machines over a fake network and fake disks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
from ledger_world import GENESIS_MS, key_of, make_chain

from consensus import Broadcast, Committed, Persist, PersistBlock, RecoveredState, Send
from protocol.actions import ActionBatch, Order, batch_id, sign_batch
from protocol.chain import Block, CommitCertificate
from protocol.genesis import Capacity, Pace, parse_genesis
from protocol.keys import Key
from protocol.ordering import decode_payload
from sequencer.machine import (
    Accept,
    Pass,
    PersistBatches,
    RecoveredSequencer,
    Sequencer,
    SequencerEffect,
)
from sequencer.machine import Order as Ordered
from sequencer.peer import PeerMessage

ALICE = key_of("alice")
COUNT = 4
PACE = Pace(20, 0, 0, 1_000, 4_000, 1 << 20)
NOTHING = RecoveredSequencer(RecoveredState(None, None, None, []), [], [], 0, 0)


class Member:
    """One sequencer: a machine, and a disk that takes what its effects say."""

    def __init__(self, world: SharedWorld, index: int) -> None:
        self.world, self.index = world, index
        self.up = True
        self.pooled: list[bytes] = []
        self.passed_by: dict[bytes, int] = {}
        self.voting: Persist | None = None
        self.uncommitted: list[Block] = []
        self.log: list[tuple[Block, CommitCertificate]] = []
        self.accepts: list[Accept] = []
        self.orders: list[Ordered] = []
        self.machine: Sequencer
        self.inbox_cursor = 0
        self.boot(NOTHING)

    def boot(self, recovered: RecoveredSequencer) -> None:
        key = key_of(f"sequencer-{self.index}")
        self.machine = Sequencer(self.world.chain, self.index, key, recovered, self.stored)
        self.up = True

    def start(self) -> None:
        self.take(self.machine.start(self.world.now_ms))
        self.take(self.machine.note_settled(0, self.world.now_ms))

    def stored(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        if not 1 <= height <= len(self.log):
            return None
        block, certificate = self.log[height - 1]
        return block, certificate if certificate.height == height else None

    def restart(self, *, lose_pool: bool = False) -> None:
        """A new machine from what is on the disk."""
        tip = self.log[-1] if self.log else (None, None)
        height = len(self.log)
        state = RecoveredState(
            None if self.voting is None else self.voting.state, tip[0], tip[1],
            [block for block in self.uncommitted if block.header.height > height],
        )  # fmt: skip
        pool = self.machine.pool
        self.boot(
            RecoveredSequencer(
                state,
                [] if lose_pool else list(self.pooled),
                [block for block, _ in self.log],
                pool.inbox_height,
                pool.inbox_cursor,
                dict(self.passed_by),
            )
        )
        self.start()

    def take(self, effects: list[SequencerEffect]) -> list[SequencerEffect]:
        """Carry effects out: first what is to be stored, then what others see."""
        for effect in effects:
            if isinstance(effect, PersistBatches):
                self.pooled += effect.batches
                for identity in map(batch_id, effect.batches):
                    if effect.promised:
                        self.passed_by.pop(identity, None)
                    else:
                        self.passed_by[identity] = effect.origin
            elif isinstance(effect, PersistBlock):
                self.uncommitted.append(effect.block)
            elif isinstance(effect, Persist):
                self.voting = effect
            elif isinstance(effect, Committed):
                assert effect.block.header.height == len(self.log) + 1
                self.log.append((effect.block, effect.certificate))
        for effect in effects:
            if isinstance(effect, Accept):
                assert effect.receipt.batch_id in {batch_id(raw) for raw in self.pooled}
                self.accepts.append(effect)
            elif isinstance(effect, Ordered):
                assert effect.height <= len(self.log)
                self.orders.append(effect)
            elif isinstance(effect, Send):
                self.world.post(self.index, effect.member, effect.message)
            elif isinstance(effect, Broadcast | Pass):
                for other in range(COUNT):
                    if other != self.index:
                        self.world.post(self.index, other, effect.message)
        return effects

    def submit(self, raw: bytes, ticket: tuple[int, int] = (1, 1)) -> list[SequencerEffect]:
        """Submit and flush."""
        self.machine.submit(ticket, raw, {ALICE.public}, self.world.now_ms)
        return self.take(self.machine.flush(self.world.now_ms))

    def ordered(self) -> list[bytes]:
        """All batches in the log, in order."""
        payloads = [block.payload for block, _ in self.log if block.payload]
        return [raw for payload in payloads for raw in decode_payload(payload).batches]


class SharedWorld:
    """Four sequencers, one clock, and links that `drop` may cut (sender, receiver, message)."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        genesis = make_chain([(ALICE, 0, 0)], sequencers=COUNT).genesis
        genesis = msgspec.structs.replace(
            genesis, sequencer_pace=PACE, capacity=capacity or Capacity()
        )
        self.chain = parse_genesis(msgspec.json.encode(genesis))
        self.now_ms = GENESIS_MS + 1_000
        self.nonce_ms = self.now_ms
        self.drop: Callable[[int, int, PeerMessage], bool] = lambda *_: False
        self.sent: list[tuple[int, int, PeerMessage]] = []
        self._wire: deque[tuple[int, int, PeerMessage]] = deque()
        self.members = [Member(self, index) for index in range(COUNT)]
        for member in self.members:
            member.start()
        self.run(50)

    def post(self, sender: int, receiver: int, message: PeerMessage) -> None:
        self.sent.append((sender, receiver, message))
        if not self.drop(sender, receiver, message):
            self._wire.append((sender, receiver, message))

    def batch(self, key: Key = ALICE, actions: int = 1) -> bytes:
        self.nonce_ms += 1
        batch = ActionBatch(16, self.nonce_ms, 0, [Order(0, 0, 600_000, 1)] * actions)
        return sign_batch(key, self.chain.chain_id, 0, batch)

    def run(self, for_ms: int) -> None:
        """Let time pass, and everything happen that is due within it."""
        end_ms = self.now_ms + for_ms
        while True:
            while self._wire:
                sender, receiver, message = self._wire.popleft()
                member = self.members[receiver]
                if member.up:
                    member.take(member.machine.receive([(sender, message)], self.now_ms))
            due = [
                (deadline_ms, member.index)
                for member in self.members
                if member.up and (deadline_ms := member.machine.next_deadline_ms()) is not None
            ]
            if not due or min(due)[0] > end_ms:
                self.now_ms = end_ms
                return
            at_ms, index = min(due)
            self.now_ms = max(self.now_ms, at_ms)
            member = self.members[index]
            member.take(member.machine.tick(self.now_ms))

    def logs(self) -> set[tuple[bytes, ...]]:
        """The different logs of those who are up."""
        return {tuple(member.ordered()) for member in self.members if member.up}
