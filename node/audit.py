"""Audit: re-executes the whole exchange from base-layer data alone and compares every root.

A pure machine. It is fed the base layer's blocks from genesis, or from a state whose roots the
ledger vouches for, checks every certificate against the members of its epoch, which it knows from
its own execution of the ledger, and for every settled batch executes the ordered blocks in its data
with a fresh engine, signatures included. Nothing that a prover, an execution node or a sequencer
said is taken on trust. A wrong batch that a dispute removed is no difference, as it never counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from consensus import MemberSet, VerifiedCache, Verifier, verify_certificate, verify_qc
from consensus.light import checkpoint_members, members_after
from execution.batches import VerifySignature
from node.app import decode_ledger_payload
from node.audit_batches import BatchFollower, ShardPart
from node.audit_locate import Claims
from node.audit_shard import AuditDifference, ShardAudit, ShardState
from node.genesis import genesis_ledger
from node.ledger import BlockOutcome, Ledger
from protocol.chain import (
    Block,
    CommitCertificate,
    Header,
    genesis_header,
    genesis_qc,
    payload_hash,
)
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    EpochLeaf,
    decode_current_epoch,
    decode_epoch,
    epoch_key,
)
from protocol.light import genesis_checkpoint

__all__ = ["AuditDifference", "AuditReport", "AuditStart", "Auditor"]

ROOTS_KEPT = 4_096


class AuditReport(msgspec.Struct, frozen=True):
    """What was checked, and the state it leads to. `from_batch`: the batch from whose end it was
    checked (0: genesis); `removed_batches`: settled ones that disputes took out again."""

    ledger_blocks: int
    batches: int
    ordered_blocks: int
    signed_batches: int
    actions: int
    fills: int
    certificates: int
    data_bytes: int
    state_root: str
    ledger_root: str
    funds_uusd: int
    epochs: int = 1
    roots_agree: bool = True
    money_conserved: bool = True
    from_batch: int = 0
    newest_batch: int = 0
    final_batch: int = 0
    removed_batches: int = 0

    def line(self) -> str:
        """The verdict in one line."""
        begun = f" from the end of batch {self.from_batch} on" if self.from_batch else ""
        removed = f", {self.removed_batches} batches were removed" if self.removed_batches else ""
        return (
            f"audit ok{begun}: {self.ledger_blocks} ledger blocks, {self.batches} batches, "
            f"{self.ordered_blocks} ordered blocks, {self.actions} actions re-executed; "
            f"every root agrees, {self.certificates} certificates of {self.epochs} epochs hold, "
            f"money is conserved{removed}, final up to batch {self.final_batch} "
            f"(state root {self.state_root[:16]})"
        )


class AuditStart(NamedTuple):
    """A claimed state of ledger and shard to begin from instead of genesis.

    `header`: of the ledger block after which `leaves` are the ledger's; `members`: those of the
    next block's epoch, who are trusted; `shard`: the state after the ledger's newest batch.
    """

    header: Header
    leaves: Sequence[tuple[bytes, bytes]]
    members: MemberSet
    shard: ShardState


class Auditor:
    """Feed it `add` with consecutive ledger blocks; `report` says what holds so far.

    `start`: where to begin. `state`: of the shard, to begin the shard later than the ledger.
    `shard`: who executes batches instead. `verify_signature` may answer from what was computed
    ahead; it must say what `protocol.keys.verify` would.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        start: AuditStart | None = None,
        state: ShardState | None = None,
        shard: ShardPart | None = None,
        verify_signature: VerifySignature = verify,
        claims: Claims | None = None,
    ) -> None:
        """Raises `AuditDifference` where the parts of `start` do not belong together."""
        self._chain = chain
        self._verifier: Verifier = verify_signature
        genesis_shard = ShardAudit(chain)
        self._ledger: Ledger = genesis_ledger(chain, genesis_shard.root)
        self._members = checkpoint_members(genesis_checkpoint(chain))
        self._decided: EpochLeaf | None = None
        self._genesis = genesis_header(chain.chain_id, chain.genesis.time_ms, self._ledger.root)
        self._parent = self._genesis
        if start is not None:
            state = start.shard
        self._executor: ShardAudit | None = None
        if shard is None:
            fresh = state is not None or claims is not None or verify_signature is not verify
            shard = ShardAudit(chain, state, verify_signature, claims) if fresh else genesis_shard
            self._executor = shard
        if start is not None:
            self._begin(start, shard)
        self._parent_id = self._parent.block_id()
        self._start_height = self._ledger.height
        self._first_epoch = self._members.epoch
        self._roots: dict[int, bytes] = {self._ledger.height: self._ledger.root}
        self._cache = VerifiedCache()
        self._certificates = 0
        self._anchored = start is None
        self.batches = BatchFollower(self._ledger, shard)

    def _begin(self, start: AuditStart, shard: ShardPart) -> None:
        """Take up a claimed state; its roots are compared as soon as a block names them."""
        try:
            self._ledger = Ledger(self._chain, start.leaves, start.header.height)
            leaf, current = self._ledger.shard_leaf(), self._ledger.current_epoch()
            self._decided = self._ledger.next_epoch()
        except (SafetyViolation, Rejected) as error:
            raise AuditDifference(f"the ledger's leaves form no state: {error}") from None
        self._members, self._parent = start.members, start.header
        if current.number != start.members.epoch:
            raise AuditDifference(
                f"the state is of epoch {current.number}, the trusted members of epoch "
                f"{start.members.epoch}"
            )
        if (leaf.batch, leaf.state_root) != (shard.batch, shard.root):
            raise AuditDifference(
                f"the shard's leaves have the root {shard.root.hex()[:16]}, the ledger settled "
                f"{leaf.state_root.hex()[:16]} with batch {leaf.batch}",
                leaf.batch,
            )

    @property
    def height(self) -> int:
        """Height of the newest ledger block audited."""
        return self._ledger.height

    @property
    def members(self) -> MemberSet:
        """Members who order the next block."""
        return self._members

    @property
    def ledger(self) -> Ledger:
        """The ledger as re-executed; nobody else may change it."""
        return self._ledger

    @property
    def parent(self) -> Header:
        """Header of the newest block."""
        return self._parent

    @property
    def anchored(self) -> bool:
        """Whether the state that it began from has been compared with what is certified."""
        return self._anchored and self.batches.begun

    def shard_leaves(self) -> list[tuple[bytes, bytes]]:
        """Leaves of the shard after its newest batch, in key order."""
        if self._executor is None:
            raise SafetyViolation("this audit has its batches executed elsewhere")
        return list(self._executor.tree.iterate())

    # --- ledger blocks

    def add(self, blocks: list[Block], certificate: CommitCertificate) -> None:
        """Audit the next blocks, all of one epoch, the last of which `certificate` commits.

        Raises `AuditDifference` naming the first difference.
        """
        for block in blocks:
            try:
                self._check_block(block)
            except Rejected as error:
                raise AuditDifference(f"ledger block {block.header.height}: {error}") from None
        if blocks:
            header = blocks[-1].header
            try:
                verify_certificate(
                    self._members, header, certificate, verifier=self._verifier, cache=self._cache
                )
            except Rejected as error:
                raise AuditDifference(f"certificate of block {header.height}: {error}") from None
            self._certificates += 1
        for block in blocks:
            self._execute(block)

    def _check_block(self, block: Block) -> None:
        header, justify = block.header, block.justify
        if header.parent_id != self._parent_id or header.height != self._parent.height + 1:
            raise Rejected(Code.BAD_CERTIFICATE, "it does not continue the chain")
        if payload_hash(block.payload) != header.payload_hash:
            raise Rejected(Code.BAD_CERTIFICATE, "its payload is not the one its header names")
        if justify.digest() != header.justify_hash or justify.block_id != header.parent_id:
            raise Rejected(Code.BAD_CERTIFICATE, "its parent's certificate is another one")
        if header.view <= self._parent.view or header.time_ms <= self._parent.time_ms:
            raise Rejected(Code.BAD_CERTIFICATE, "its view or its time does not rise")
        if header.epoch != self._members.epoch:
            raise self._wrong_epoch(header)
        origin = self._members.origin or genesis_qc(self._genesis)
        verify_qc(self._members, justify, origin, verifier=self._verifier, cache=self._cache)
        self._certificates += 1
        self._parent, self._parent_id = header, header.block_id()

    def _wrong_epoch(self, header: Header) -> Rejected:
        return Rejected(
            Code.WRONG_EPOCH, f"it is of epoch {header.epoch}, not of {self._members.epoch}"
        )

    def _execute(self, block: Block) -> None:
        header = block.header
        named = self._roots.get(header.app_height)
        if named != header.app_root and header.app_height >= self._start_height:
            raise AuditDifference(
                f"ledger block {header.height} names the ledger root {header.app_root.hex()[:16]} "
                f"for height {header.app_height}; re-execution gives "
                f"{'another' if named is None else named.hex()[:16]}"
            )
        self._anchored = self._anchored or header.app_height >= self._start_height
        if header.epoch != self._members.epoch:
            raise AuditDifference(f"ledger block {header.height}: {self._wrong_epoch(header)}")
        decided = self._decided
        if decided is not None and header.height > decided.boundary_height and block.payload:
            raise AuditDifference(
                f"ledger block {header.height} carries a payload behind the boundary of its epoch"
            )
        transactions = decode_ledger_payload(block.payload)
        outcome = self._ledger.apply_block(header, transactions)
        self._roots[header.height] = outcome.root
        self._roots.pop(header.height - ROOTS_KEPT, None)
        self.batches.follow(transactions, outcome)
        self._ledger.forget_undo(header.app_height)
        self._follow_epoch(header, outcome)

    def _follow_epoch(self, header: Header, outcome: BlockOutcome) -> None:
        """Take up the members that the ledger decides on, from the block that it says."""
        decided = outcome.changes.get(epoch_key(self._members.epoch + 1))
        if decided is not None:
            self._decided = decode_epoch(decided)
        if not outcome.epoch_began:
            return
        written, leaf = outcome.changes.get(CURRENT_EPOCH_KEY), self._decided
        if written is None or leaf is None:
            raise SafetyViolation(f"the ledger began epoch {outcome.epoch_began} without deciding")
        try:
            self._members = members_after(header, leaf)
        except Rejected as error:
            raise SafetyViolation(f"the ledger decided on no member set: {error}") from None
        current = decode_current_epoch(written)
        if (current.number, current.origin_id) != (self._members.epoch, header.block_id()):
            raise SafetyViolation(f"epoch {current.number} does not begin above {header.height}")
        self._decided = None
        self._cache = VerifiedCache()

    # --- the verdict

    def report(self) -> AuditReport:
        """What was audited so far, all of it in order; raises as `add`."""
        if not self._anchored:
            raise AuditDifference(
                f"nothing certifies the state of ledger height {self._start_height} that it began "
                "from: no later block names its root"
            )
        self._ledger.require_conserved()
        counts = self.batches.check_end()
        leaf = self._ledger.shard_leaf()
        return AuditReport(
            ledger_blocks=self._ledger.height - self._start_height,
            batches=counts.batches,
            ordered_blocks=counts.ordered_blocks,
            signed_batches=counts.signed_batches,
            actions=counts.actions,
            fills=counts.fills,
            certificates=self._certificates,
            data_bytes=counts.data_bytes,
            state_root=self.batches.root.hex(),
            ledger_root=self._ledger.root.hex(),
            funds_uusd=leaf.funds_uusd,
            epochs=self._members.epoch - self._first_epoch + 1,
            from_batch=self.batches.begins,
            newest_batch=leaf.batch,
            final_batch=self._ledger.final().batch,
            removed_batches=self.batches.removed,
        )
