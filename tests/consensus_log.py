"""Applications for consensus tests: a log of operations, and one whose member sets change."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from consensus import MemberSet, RecoveredState, VotingState
from protocol.chain import QC, Block, CommitCertificate, Member, origin_qc
from sim.bank import SimKey

EPOCH_MS = 1_000

Chain = dict[int, tuple[Block, CommitCertificate | None]]


class LogApp:
    """Orders operations, one in a block; the root is a hash chain over committed blocks."""

    def __init__(self) -> None:
        self.pending: list[bytes] = []
        self.height = 0
        self.digest = bytes(32)
        self.log: list[bytes] = []

    def has_work(self) -> bool:
        return bool(self.pending)

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        taken = {block.payload for block in ancestors}
        return next((op for op in self.pending if op not in taken), b"")

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        return None

    def commit(self, block: Block, certificate: CommitCertificate | None) -> None:
        self.height += 1
        assert block.header.height == self.height, "heights must come in order"
        self.digest = sha256(self.digest + block.header.block_id()).digest()
        if block.payload:
            self.log.append(block.payload)
            if block.payload in self.pending:
                self.pending.remove(block.payload)

    def root(self) -> tuple[int, bytes]:
        return self.height, self.digest

    def epoch(self) -> MemberSet | None:
        return None


class EpochLog(LogApp):
    """A log whose members follow `plan`: for each epoch the numbers of their keys; the last entry
    stays in force. One entry alone is one epoch for ever."""

    def __init__(
        self,
        chain_id: bytes,
        start_ms: int,
        keys: Sequence[SimKey],
        plan: Sequence[Sequence[int]],
        stakes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.chain_id, self.keys, self.plan = chain_id, keys, plan
        self.stakes = stakes or [1] * len(keys)
        self.boundary: int | None = None
        self.origin: QC | None = None
        self.number = 0
        self.ends_ms = start_ms + EPOCH_MS if len(plan) > 1 else None

    def members(self) -> MemberSet:
        chosen = self.plan[min(self.number, len(self.plan) - 1)]
        members = [Member(self.keys[index].public, self.stakes[index]) for index in chosen]
        return MemberSet(
            self.chain_id, members, self.number, origin=self.origin, ends_ms=self.ends_ms
        )

    def commit(self, block: Block, certificate: CommitCertificate | None) -> None:
        header = block.header
        assert header.epoch == self.number, "a block of another epoch"
        assert self.boundary is None or not block.payload, "a payload behind the boundary"
        super().commit(block, certificate)
        if self.ends_ms is None:
            return
        if self.boundary is None and header.time_ms >= self.ends_ms:
            self.boundary = header.height
        elif self.boundary is not None and header.app_height >= self.boundary:
            self.number, self.boundary = self.number + 1, None
            self.ends_ms = header.time_ms + EPOCH_MS
            self.origin = origin_qc(self.number, header, header.block_id())

    def epoch(self) -> MemberSet | None:
        return self.members()


class Disk:
    """What survives a crash of one member."""

    def __init__(self) -> None:
        self.state: VotingState | None = None
        self.blocks: dict[bytes, Block] = {}
        self.chain: Chain = {}

    def recover(self) -> RecoveredState | None:
        """What a restart finds; None on an empty disk."""
        if self.state is None and not self.chain:
            return None
        height = max(self.chain, default=0)
        while height and self.chain[height][1] is None:
            height -= 1
        tip = self.chain[height] if height else (None, None)
        # A crash inside a commit step leaves blocks without the certificate that ends the step.
        for above in [h for h in self.chain if h > height]:
            block = self.chain.pop(above)[0]
            self.blocks[block.header.block_id()] = block
        loose = [b for b in self.blocks.values() if b.header.height > height]
        return RecoveredState(self.state, tip[0], tip[1], loose)
