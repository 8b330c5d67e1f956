"""An audit on several cores: signatures verified ahead, and segments of the shard's history.

Signatures are functions of the base layer's data, so other processes verify them before the audit
comes to them. Where states are at hand, the batches between two of them are executed by processes
of their own, each from a state whose root the ledger settled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from client.export_archive import Archive, Record
from node.app import decode_ledger_payload
from node.audit_batches import BatchFollower
from node.audit_shard import (
    AuditDifference,
    BatchFindings,
    BatchTask,
    Counts,
    ShardAudit,
    ShardState,
)
from node.ledger import Ledger
from protocol.actions import actions_digest, decode_signed
from protocol.batch_data import unpack_blocks
from protocol.chain import QC, Block, decode_block, vote_digest
from protocol.codec import encode
from protocol.errors import Rejected, SafetyViolation
from protocol.genesis import Chain, parse_genesis
from protocol.keys import verify
from protocol.ordering import decode_payload
from protocol.settlement import (
    InboxDeposit,
    PostBatch,
    decode_signed_transaction,
    decode_transaction,
)

SEGMENTS_AHEAD = 32
"""Segments that wait or run at most: their data is held in memory."""


def signature_id(public_key: bytes, signature: bytes, digest: bytes) -> bytes:
    """Names one signature over one digest (32 bytes)."""
    return sha256(public_key + signature + digest).digest()


class Precheck(NamedTuple):
    """Blocks whose signatures are to be verified. `keys`: of the members who certify them."""

    chain_id: bytes
    shard: int
    keys: tuple[bytes, ...]
    blocks: list[bytes]
    actions: bool


def precheck(task: Precheck) -> list[bytes]:
    """The ids of the signatures that hold, of certificates and of clients' batches.

    What is left out is verified where it is met, so nothing that is missing here does harm.
    """
    found: list[bytes] = []
    for raw in task.blocks:
        try:
            block = decode_block(raw)
            found += _votes(task, block.justify)
            if task.actions:
                for transaction in decode_ledger_payload(block.payload):
                    found += _actions(task, transaction)
        except Rejected:
            continue
    return found


def _votes(task: Precheck, qc: QC) -> list[bytes]:
    digest = vote_digest(qc.chain_id, qc.epoch, qc.view, qc.height, qc.block_id)
    votes = [one for one in qc.signatures if 0 <= one.member < len(task.keys)]
    return [
        signature_id(task.keys[one.member], one.signature, digest)
        for one in votes
        if verify(task.keys[one.member], one.signature, digest)
    ]


def _actions(task: Precheck, transaction: bytes) -> list[bytes]:
    action = decode_transaction(decode_signed_transaction(transaction).payload).action
    if not isinstance(action, PostBatch):
        return []
    found = []
    for block in unpack_blocks(action.data):
        for raw in decode_payload(block.payload).batches if block.payload else []:
            try:
                signed = decode_signed(raw)
            except Rejected:
                continue
            digest = actions_digest(task.chain_id, task.shard, signed.payload)
            if verify(signed.signer, signed.signature, digest):
                found.append(signature_id(signed.signer, signed.signature, digest))
    return found


class Prechecked:
    """A verifier that knows what other processes verified, and verifies the rest itself."""

    def __init__(self, pool: ProcessPoolExecutor, jobs: int, chain: Chain, actions: bool) -> None:
        self._pool = pool
        self._jobs = jobs
        self._chain = chain
        self._actions = actions
        self._known: set[bytes] = set()

    def start(self, blocks: Sequence[Block], keys: Sequence[bytes]) -> list[Future[list[bytes]]]:
        """Begin to verify the signatures in ledger blocks."""
        size = -(-len(blocks) // self._jobs)
        parts = [blocks[at : at + size] for at in range(0, len(blocks), size)]
        head = (self._chain.chain_id, self._chain.genesis.shard, tuple(keys))
        return [
            self._pool.submit(
                precheck, Precheck(*head, [encode(block) for block in part], self._actions)
            )
            for part in parts
        ]

    def take(self, futures: Sequence[Future[list[bytes]]]) -> None:
        """Know what was verified; waits for it. What was not used before is forgotten."""
        self._known.clear()
        for future in futures:
            self._known.update(future.result())

    def __call__(self, public_key: bytes, signature: bytes, digest: bytes) -> bool:
        """As `protocol.keys.verify`."""
        if self._known and signature_id(public_key, signature, digest) in self._known:
            return True
        return verify(public_key, signature, digest)


# --- segments


class Segment(NamedTuple):
    """Batches to be executed from a state in an archive (None: genesis), all to survive."""

    genesis: bytes
    archive: str
    state: Record | None
    tasks: list[BatchTask]


class SegmentEnd(NamedTuple):
    """What the execution of a segment gave. `outbox`: (number, micro-dollars) of its withdrawals;
    `text` says the first difference, empty for none."""

    root: bytes
    batch: int
    text: str
    wrong: int
    outbox: list[tuple[int, int]]
    counts: Counts
    cash_uusd: int
    inbox_cursor: int


def execute_segment(segment: Segment) -> SegmentEnd:
    """Execute the batches of a segment, and compare every root."""
    chain = parse_genesis(segment.genesis)
    state = None
    if segment.state is not None:
        archive = Archive(Path(segment.archive))
        try:
            found = archive.state(segment.state)
        finally:
            archive.close()
        state = ShardState(found.batch, found.shard_leaves)
    outbox: list[tuple[int, int]] = []
    text, wrong = "", 0
    try:
        shard = ShardAudit(chain, state)
    except SafetyViolation as error:
        first = segment.tasks[0].header.number
        text = f"the archive's state after batch {first - 1} forms no state: {error}"
        return SegmentEnd(b"", first - 1, text, first, [], Counts(), 0, 0)
    for task in segment.tasks:
        if state is not None and task is segment.tasks[0]:
            settled = task.header.pre_state_root
            if shard.root != settled:
                text, wrong = _wrong_state(shard, settled)
                break
        try:
            findings = shard.settle(task)
            shard.finalise(task.header.number)
        except AuditDifference as difference:
            text, wrong = str(difference), task.header.number
            break
        outbox += [(entry.number, entry.amount_uusd) for entry in findings.outbox]
        if findings.difference is not None:
            text, wrong = str(findings.difference), task.header.number
            break
    if not text:
        shard.engine.check()
    engine = shard.engine
    return SegmentEnd(
        shard.root, shard.batch, text, wrong, outbox, shard.counts, engine.total_cash_uusd(),
        engine.inbox_cursor,
    )  # fmt: skip


def _wrong_state(shard: ShardAudit, settled: bytes) -> tuple[str, int]:
    text = (
        f"the archive's state after batch {shard.batch} has the root {shard.root.hex()[:16]}, "
        f"settled is {settled.hex()[:16]}; another archive, or an audit without --jobs, does "
        "without it"
    )
    return text, shard.batch + 1


class SegmentedShard:
    """Takes batches as the ledger settles them, and has them executed once they are final.

    `states`: by batch, where a segment may begin.
    """

    def __init__(
        self,
        pool: ProcessPoolExecutor,
        genesis: bytes,
        archive: Archive,
        states: Mapping[int, Record],
    ) -> None:
        self.batch = 0
        self.begins_at = 0
        self.counts = Counts()
        self.root = b""
        self._pool = pool
        self._genesis = genesis
        self._archive = str(archive.path)
        self._states = states
        self._tasks: list[BatchTask] = []
        self._start: Record | None = None
        self._running: list[Future[SegmentEnd]] = []

    def settle(self, task: BatchTask) -> BatchFindings | None:
        """The next batch; its findings come at the end."""
        self._tasks.append(task)
        self.batch = task.header.number
        return None

    def remove(self, number: int) -> None:
        """A batch and all newer ones are gone."""
        while self._tasks and self._tasks[-1].header.number >= number:
            self._tasks.pop()
        self.batch = number - 1

    def finalise(self, number: int) -> None:
        """Execute what is final up to a state."""
        ends = [end for end in sorted(self._states) if self._begins() <= end <= number]
        for end in ends:
            count = end - self._begins() + 1
            self._submit(self._tasks[:count])
            del self._tasks[:count]
            self._start = self._states[end]

    def _begins(self) -> int:
        """Number of the first batch that waits."""
        return self._tasks[0].header.number if self._tasks else self.batch + 1

    def _submit(self, tasks: list[BatchTask]) -> None:
        if tasks:
            waiting = [one for one in self._running if not one.done()]
            if len(waiting) >= SEGMENTS_AHEAD:
                waiting[0].result()
            segment = Segment(self._genesis, self._archive, self._start, tasks)
            self._running.append(self._pool.submit(execute_segment, segment))

    def finish(
        self,
        follower: BatchFollower,
        ledger: Ledger,
        executed: Callable[[int, int], None] | None = None,
    ) -> None:
        """Wait for all segments and compare what only all of them together tell.

        `executed` is told the newest batch executed, and the newest of all. Raises
        `AuditDifference`.
        """
        self._submit(self._tasks)
        self._tasks = []
        ends: list[SegmentEnd] = []
        for future in self._running:
            ends.append(future.result())
            if executed is not None:
                executed(ends[-1].batch, self.batch)
        unpaid: dict[int, int] = {}
        for end in ends:
            if end.text:
                raise AuditDifference(end.text, end.wrong)
            unpaid.update(end.outbox)
            self.counts = self.counts.plus(end.counts)
        for entry in follower.payouts:
            if unpaid.pop(entry.number, None) != entry.amount_uusd:
                raise AuditDifference(f"payout {entry.number} pays what was never withdrawn")
        if not ends:
            return
        last = ends[-1]
        self.root = last.root
        if ledger.frozen:
            return
        waiting = ledger.entries(last.inbox_cursor, ledger.inbox().count, ledger.height)
        arriving = sum(one.amount_uusd for _, one in waiting if isinstance(one, InboxDeposit))
        owed = last.cash_uusd + arriving + sum(unpaid.values())
        funds = ledger.shard_leaf().funds_uusd
        if funds != owed:
            raise AuditDifference(f"the bridge holds {funds} uusd and owes {owed} uusd")
