"""Audit: re-executes the whole exchange from base-layer data alone and compares every root.

A pure machine. It is fed the base layer's blocks from genesis, checks every certificate against the
members of its epoch, which it knows from its own execution of the ledger, and for every settled
batch executes the ordered blocks in its data with a fresh engine, signatures included. Nothing that
a prover, an execution node or a sequencer said is taken on trust.
"""

from __future__ import annotations

import msgspec

from consensus import VerifiedCache, verify_certificate, verify_qc
from consensus.light import checkpoint_members, members_after
from execution import Engine
from node.app import decode_ledger_payload
from node.batches import expand
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
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation, TrilemmaError
from protocol.events import BatchExecuted, Fill
from protocol.genesis import Chain
from protocol.inbox import block_inbox_height, next_cursor
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    EpochLeaf,
    ShardLeaf,
    decode_current_epoch,
    decode_epoch,
    epoch_key,
)
from protocol.light import genesis_checkpoint
from protocol.merkle import list_root
from protocol.ordering import decode_blocks, decode_payload
from protocol.settlement import Payout, PostBatch, decode_signed_transaction, decode_transaction
from prover.tree import StateTree

ROOTS_KEPT = 4_096


class AuditDifference(TrilemmaError):
    """The first place where the base layer and its re-execution do not agree."""


class AuditReport(msgspec.Struct, frozen=True):
    """What was checked, and the state it leads to."""

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

    def line(self) -> str:
        """The verdict in one line."""
        return (
            f"audit ok: {self.ledger_blocks} ledger blocks, {self.batches} batches, "
            f"{self.ordered_blocks} ordered blocks, {self.actions} actions re-executed; "
            f"every root agrees, {self.certificates} certificates of {self.epochs} epochs hold, "
            f"money is conserved "
            f"(state root {self.state_root[:16]})"
        )


class Auditor:
    """Feed it `add` with consecutive ledger blocks; `report` says what holds so far."""

    def __init__(self, chain: Chain) -> None:
        genesis = chain.genesis
        self._chain = chain
        self._engine = Engine(chain)
        self._tree = StateTree(sorted(self._engine.leaves().items()))
        self._ledger: Ledger = genesis_ledger(chain, self._tree.root)
        self._members = checkpoint_members(genesis_checkpoint(chain))
        self._decided: EpochLeaf | None = None
        self._genesis = genesis_header(chain.chain_id, genesis.time_ms, self._ledger.root)
        self._parent = self._genesis
        self._parent_id = self._genesis.block_id()
        self._roots: dict[int, bytes] = {0: self._ledger.root}
        self._cache = VerifiedCache()
        self._unpaid: dict[int, int] = {}
        self._inbox_height = 0
        self._batches = self._ordered = self._signed = self._actions = self._fills = 0
        self._certificates = self._data_bytes = 0

    @property
    def height(self) -> int:
        """Ledger blocks audited."""
        return self._ledger.height

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
                verify_certificate(self._members, header, certificate, cache=self._cache)
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
        verify_qc(self._members, justify, origin, cache=self._cache)
        self._certificates += 1
        self._parent, self._parent_id = header, header.block_id()

    def _wrong_epoch(self, header: Header) -> Rejected:
        return Rejected(
            Code.WRONG_EPOCH, f"it is of epoch {header.epoch}, not of {self._members.epoch}"
        )

    def _execute(self, block: Block) -> None:
        header = block.header
        named = self._roots.get(header.app_height)
        if named != header.app_root:
            raise AuditDifference(
                f"ledger block {header.height} names the ledger root {header.app_root.hex()[:16]} "
                f"for height {header.app_height}; re-execution gives "
                f"{'another' if named is None else named.hex()[:16]}"
            )
        if header.epoch != self._members.epoch:
            raise AuditDifference(f"ledger block {header.height}: {self._wrong_epoch(header)}")
        decided = self._decided
        if decided is not None and header.height > decided.boundary_height and block.payload:
            raise AuditDifference(
                f"ledger block {header.height} carries a payload behind the boundary of its epoch"
            )
        before = self._ledger.shard_leaf()
        transactions = decode_ledger_payload(block.payload)
        outcome = self._ledger.apply_block(header, transactions)
        self._roots[header.height] = outcome.root
        self._roots.pop(header.height - ROOTS_KEPT, None)
        self._settle(before, transactions, outcome)
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

    def _settle(self, before: ShardLeaf, transactions: list[bytes], outcome: BlockOutcome) -> None:
        """Re-execute the batches that a ledger block settled; payouts must be of such batches."""
        state_root = before.state_root
        for raw, result in zip(transactions, outcome.results, strict=True):
            if result.code != Code.OK:
                continue
            action = decode_transaction(decode_signed_transaction(raw).payload).action
            if isinstance(action, PostBatch):
                self._reexecute(action, state_root)
                state_root = action.header.post_state_root
            elif isinstance(action, Payout):
                entry = action.entry
                if self._unpaid.pop(entry.number, None) != entry.amount_uusd:
                    raise AuditDifference(f"payout {entry.number} pays what was never withdrawn")
        if outcome.batches or outcome.payouts or outcome.entries:
            self._require_conserved()

    def _reexecute(self, post: PostBatch, state_root: bytes) -> None:
        header = post.header
        limit = self._chain.genesis.limits.inbox_per_block
        changes: dict[bytes, bytes | None] = {}
        outbox: list[bytes] = []
        for block in decode_blocks(expand(post.data)):
            payload = decode_payload(block.payload) if block.payload else None
            self._inbox_height = block_inbox_height(block.payload, self._inbox_height)
            first = self._engine.inbox_cursor
            cursor = next_cursor(first, self._ledger.entries_at(self._inbox_height), limit)
            placed = self._ledger.entries(first, cursor - first, self._inbox_height)
            result = self._engine.apply(
                block.header.height, block.header.time_ms, block.header.block_id(),
                [entry for _, entry in placed], cursor, payload.batches if payload else [],
            )  # fmt: skip
            changes.update(result.changes)
            for entry in result.outbox:
                outbox.append(encode(entry))
                self._unpaid[entry.number] = entry.amount_uusd
            self._ordered += 1
            self._actions += result.actions
            self._fills += sum(isinstance(event, Fill) for event in result.events)
            self._signed += sum(isinstance(event, BatchExecuted) for event in result.events)
        root = self._tree.update(changes)
        self._batches += 1
        self._data_bytes += len(post.data)
        self._compare(header.number, "pre-state root", header.pre_state_root, state_root)
        self._compare(header.number, "post-state root", header.post_state_root, root)
        self._compare(header.number, "outbox root", header.outbox_root, list_root(outbox))
        if header.inbox_cursor != self._engine.inbox_cursor or header.outbox_count != len(outbox):
            raise AuditDifference(f"batch {header.number}: inbox cursor or outbox count differs")

    def _compare(self, batch: int, what: str, posted: bytes, computed: bytes) -> None:
        if posted != computed:
            raise AuditDifference(
                f"batch {batch}: the posted {what} is {posted.hex()[:16]}, "
                f"re-execution gives {computed.hex()[:16]}"
            )

    def _require_conserved(self) -> None:
        """Money on the bridge = cash in the shard + deposits and withdrawals on their way."""
        ledger, engine = self._ledger, self._engine
        if not engine.money_conserved():
            raise AuditDifference("cash in the shard is not deposits less withdrawals")
        funds = ledger.shard_leaf().funds_uusd
        waiting = ledger.entries(engine.inbox_cursor, ledger.inbox().count, ledger.height)
        arriving = sum(entry.amount_uusd for _, entry in waiting)
        owed = engine.total_cash_uusd() + arriving + sum(self._unpaid.values())
        if funds != owed:
            raise AuditDifference(f"the bridge holds {funds} uusd and owes {owed} uusd")

    def report(self) -> AuditReport:
        """What was audited so far, all of it in order."""
        self._ledger.require_conserved()
        self._engine.check()
        self._require_conserved()
        return AuditReport(
            ledger_blocks=self._ledger.height,
            batches=self._batches,
            ordered_blocks=self._ordered,
            signed_batches=self._signed,
            actions=self._actions,
            fills=self._fills,
            certificates=self._certificates,
            data_bytes=self._data_bytes,
            state_root=self._tree.root.hex(),
            ledger_root=self._ledger.root.hex(),
            epochs=self._members.epoch + 1,
            funds_uusd=self._ledger.shard_leaf().funds_uusd,
        )
