"""What goes into a replica and what comes out: events, effects, configuration, the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from consensus.members import MemberSet
from consensus.safety import VotingState
from protocol.chain import Block, CommitCertificate, ConsensusMessage
from protocol.errors import ConfigError
from protocol.evidence import Evidence


class Start(msgspec.Struct, frozen=True):
    """The first event: take up the recovered state."""


class Received(msgspec.Struct, frozen=True):
    """A message from an authenticated peer; members have their index, others any other number."""

    peer: int
    message: ConsensusMessage


class Tick(msgspec.Struct, frozen=True):
    """Time passed: sent when `Replica.next_deadline_ms` is reached."""


class Work(msgspec.Struct, frozen=True):
    """The application got something new to propose."""


Event = Start | Received | Tick | Work


class PersistBlock(msgspec.Struct, frozen=True):
    """Store an uncommitted block; it may be forgotten once a block of its height committed."""

    block: Block


class Persist(msgspec.Struct, frozen=True):
    """Store the voting state, replacing the last one."""

    state: VotingState


class Committed(msgspec.Struct, frozen=True):
    """A block is final. Heights come in order, each exactly once.

    `certificate` proves the newest block that committed in the same step: where
    `certificate.height` is above the block's height, parent hashes lead down to this block.
    A shell stores the commits of one step in one transaction, or after a crash treats what lies
    above the last certified height as uncommitted blocks. Where member sets change it must be one
    transaction with the voting state too, which may be of the next epoch already.
    """

    block: Block
    certificate: CommitCertificate


class Send(msgspec.Struct, frozen=True):
    """Send to one peer (a member index, or the number under which the peer was received)."""

    member: int
    message: ConsensusMessage


class Broadcast(msgspec.Struct, frozen=True):
    """Send to every other member."""

    message: ConsensusMessage


class EpochBegan(msgspec.Struct, frozen=True):
    """Blocks from here on are of another member set: sessions and certificates follow it.

    Comes behind the `Committed` of the old epoch's last block. Member indices in later effects, and
    in events that the shell gives, are those of the new set.
    """

    members: MemberSet


class Misbehaviour(msgspec.Struct, frozen=True):
    """A member signed against itself; the evidence is checked and new here."""

    evidence: Evidence


class FellBehind(msgspec.Struct, frozen=True):
    """A peer can no longer serve, or not within reason, the blocks between here and `height`: the
    shell gets a snapshot of the application and starts a new replica from it."""

    peer: int
    height: int


Effect = (
    PersistBlock | Persist | Committed | Send | Broadcast | EpochBegan | Misbehaviour | FellBehind
)


class Outbox:
    """Collects the effects of one step in the order that makes one sync per step enough.

    Blocks, then the last voting state, then commits, then news for the shell, then messages:
    everything durable comes before anything that another process can see.
    """

    __slots__ = ("_blocks", "_commits", "_messages", "_news", "_state")

    def __init__(self) -> None:
        self._blocks: list[Effect] = []
        self._state: VotingState | None = None
        self._commits: list[Effect] = []
        self._news: list[Effect] = []
        self._messages: list[Effect] = []

    def persist_block(self, block: Block) -> None:
        self._blocks.append(PersistBlock(block))

    def persist(self, state: VotingState) -> None:
        self._state = state

    def committed(self, block: Block, certificate: CommitCertificate) -> None:
        self._commits.append(Committed(block, certificate))

    def tell(self, news: EpochBegan | Misbehaviour | FellBehind) -> None:
        self._news.append(news)

    def send(self, member: int, message: ConsensusMessage) -> None:
        self._messages.append(Send(member, message))

    def broadcast(self, message: ConsensusMessage) -> None:
        self._messages.append(Broadcast(message))

    def drop_sends(self) -> None:
        """Drop messages to single members: their numbers mean others from now on."""
        self._messages = [one for one in self._messages if not isinstance(one, Send)]

    def drain(self) -> list[Effect]:
        """All effects of the step; the outbox is empty afterwards."""
        effects = self._blocks
        if self._state is not None:
            effects.append(Persist(self._state))
            self._state = None
        effects += self._commits
        effects += self._news
        effects += self._messages
        self._blocks, self._commits, self._news, self._messages = [], [], [], []
        return effects


class Application(Protocol):
    """The deterministic machine whose input the chain orders; it has no I/O of its own."""

    def has_work(self) -> bool:
        """Whether there may be something to propose; cheap, called in every step.

        What uncommitted blocks already carry may count: `propose` has the last word. Members
        should learn of work together, as a view's timer shortens where there is some.
        """

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        """Payload on top of the uncommitted `ancestors` (oldest first); empty for nothing."""

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        """Raise `Rejected` when the block must not be voted for."""

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        """Execute a block: once per height, in order. `certificate` as in `Committed`."""

    def root(self) -> tuple[int, bytes]:
        """Height of the newest executed block and the state's root after it."""

    def epoch(self) -> MemberSet | None:
        """Members who order the blocks above the newest executed one; None where they never change.

        Another epoch than before means that the block just executed was the last of its epoch.
        """


BlockSource = Callable[[int], "tuple[Block, CommitCertificate | None] | None"]
"""Committed block of a height from disk, with the certificate where it ended a commit step."""


@dataclass(frozen=True)
class RecoveredState:
    """What a shell reads back at start-up.

    `tip` is the newest committed block with its certificate (None before the first commit),
    `blocks` the stored blocks above it in any order. An application that is behind the tip is
    brought up to it from the block source; one that is ahead of the tip is a safety violation, so
    a shell stores commits no later than the application's own state.
    """

    voting_state: VotingState | None
    tip: Block | None
    certificate: CommitCertificate | None
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class ReplicaConfig:
    """Pace and bounds of a replica; times in milliseconds.

    `block_interval_ms`: least time from the parent's block time to a block with work.
    `empty_interval_ms`: pace of empty blocks while a block with payload is uncommitted.
    `idle_interval_ms`: heartbeat with nothing to do; None is silence.
    `prove_roots`: empty blocks also go on until a committed header names the application's root
    after the newest payload (in a new chain: until there is one), so that proofs of it need not
    wait for heartbeats.
    `timeout_ms`: first view timeout, growing by half each failed view up to `timeout_max_ms`.
    `committed_window`, `committed_bytes`: committed blocks kept in memory, no more and no larger
    together than that; the shell's store has the others.
    `reputation_window`: committed blocks that decide who leads; all members need the same.
    `snapshot_distance`: who is so many blocks behind asks its shell for a snapshot.
    """

    block_interval_ms: int = 20
    empty_interval_ms: int = 5
    idle_interval_ms: int | None = 1000
    prove_roots: bool = False
    timeout_ms: int = 1000
    timeout_max_ms: int = 16_000
    max_clock_ahead_ms: int = 500
    max_payload_bytes: int = 1 << 20
    max_response_bytes: int = 4 << 20
    fetch_timeout_ms: int = 300
    fetch_limit: int = 64
    committed_window: int = 128
    committed_bytes: int = 16 << 20
    max_uncommitted: int = 256
    max_orphans: int = 16
    reputation_window: int = 128
    snapshot_distance: int = 10_000

    def __post_init__(self) -> None:
        if min(self.block_interval_ms, self.empty_interval_ms) < 0:
            raise ConfigError("block intervals must not be negative")
        if self.idle_interval_ms is not None and self.idle_interval_ms < 1:
            raise ConfigError("idle_interval_ms must be at least 1, or absent")
        if self.timeout_ms <= max(self.block_interval_ms, self.empty_interval_ms):
            raise ConfigError("timeout_ms must exceed the block intervals")
        if self.timeout_max_ms < self.timeout_ms:
            raise ConfigError("timeout_max_ms must not be below timeout_ms")
        if not 0 < self.max_payload_bytes <= 3 << 20:
            raise ConfigError("max_payload_bytes must be 1 to 3 MiB: two blocks share a frame")
        if self.committed_bytes < 2 * self.max_payload_bytes:
            # The newest block must be there before the shell has stored it.
            raise ConfigError("committed_bytes must hold two of the largest blocks")
        bounds = (self.fetch_timeout_ms, self.committed_window, self.max_uncommitted)
        others = (self.max_orphans, self.reputation_window, self.snapshot_distance)
        if min(*bounds, *others) < 1 or self.fetch_limit < 2:
            raise ConfigError("bounds must be positive, and fetch_limit at least 2")
