"""`trilemma audit`: read the base layer from somewhere and have it re-executed.

From the validators, a validator's directory or an archive; from genesis, from a state in an archive
or from an execution node's snapshot; on one core or several.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from client.audit_workers import Prechecked, SegmentedShard
from client.export_archive import STATE, Archive, Record
from client.export_source import Source, newest_height, proven_blocks
from client.faults import InvalidProof
from client.sdk import Exchange
from client.workers import stop_pool, worker_pool
from consensus import MemberSet
from consensus.light import LightClient
from execution.store import ExecutionStore
from node.audit import AuditDifference, Auditor, AuditReport, AuditStart
from node.audit_locate import ClaimedBlock, Claims
from node.audit_shard import ShardState
from node.process_keeper import read_kept_state
from protocol.chain import Block, CommitCertificate
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.events import decode_block_diff, decode_block_events
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.ledger_leaves import CURRENT_EPOCH_KEY, decode_current_epoch
from protocol.light import Checkpoint
from protocol.tree_proof import decode_tree_proof
from store.files import lock_directory

Progress = Callable[[int, int], None]
"""(height of the newest ledger block audited, of the newest in all)"""

Chunk = tuple[list[Block], CommitCertificate]
T = TypeVar("T")

CHUNKS_AHEAD = 2
"""Chunks whose signatures other processes verify before the audit comes to them."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How to audit. `state`: where the shard begins: an execution node's data directory with its
    newest snapshot, or the file of a state that a validator keeps. `from_batch`: the batch of an
    archive's state to begin from (0: genesis), which takes `checkpoint`, trusted at `now_ms`.
    `against`: an execution node's data directory that tells what the poster's blocks changed.
    `jobs`: processes that work."""

    from_batch: int = 0
    state: Path | None = None
    checkpoint: Checkpoint | None = None
    now_ms: int = 0
    against: Path | None = None
    jobs: int = 1


async def audit(exchange: Exchange, progress: Progress | None = None) -> AuditReport:
    """Audit what validators keep, as `audit_source`."""
    return await audit_source(
        exchange.chain, exchange.channel("node"), AuditOptions(), progress
    )  # fmt: skip


async def audit_source(
    chain: Chain, source: Source, options: AuditOptions, progress: Progress | None = None
) -> AuditReport:
    """Audit from genesis up to the newest block at the time of the call.

    A validator that does not keep a block any more is passed over. Raises `InvalidProof` that names
    the first difference, `RemoteFault(not_retained)` where no validator keeps everything.
    """
    if options.from_batch and options.state is None:
        raise ConfigError(
            "an audit from a batch begins from a state: name an --archive that has one, or a "
            "--state directory"
        )
    newest = await newest_height(source)
    return await _whole(chain, proven_blocks(source, 0, newest), newest, options, progress)


async def audit_archive(
    chain: Chain, genesis: bytes, archive: Archive, options: AuditOptions,
    progress: Progress | None = None, executed: Progress | None = None,
) -> AuditReport:  # fmt: skip
    """Audit an archive, offline; `genesis` is the chain's file. Raises as `audit_source`.

    `executed`: (newest batch executed, newest of all), where other processes execute them.
    """
    archive.require_complete()
    archive.check()  # also what this audit has no use for
    states = {record.first: record for record in archive.of_kind(STATE)}
    begin = options.from_batch if options.state is None else 0
    if begin:
        return await _audit_from(chain, archive, _state_of(states, begin), options, progress)
    if archive.first > 1:
        raise ConfigError(
            f"the archive begins at ledger block {archive.first}; audit from one of its states: "
            f"--from {_known(states)}"
        )
    if options.jobs > 1 and states and options.state is None and options.against is None:
        shows = (progress, executed)
        return await _audit_segments(chain, genesis, archive, states, options.jobs, shows)
    return await _whole(chain, _chunks(archive), archive.newest, options, progress)


async def _whole(
    chain: Chain, chunks: AsyncIterator[Chunk], newest: int, options: AuditOptions,
    progress: Progress | None,
) -> AuditReport:  # fmt: skip
    """Audit the ledger from genesis, the shard from there or from a state, on the fly."""
    with (
        _open_state(chain, options) as (state, claims),
        _prechecked(chain, options.jobs) as checked,
    ):
        auditor = _told(
            lambda: Auditor(
                chain, state=state, claims=claims, verify_signature=checked or verify
            ),
            trusted=state is None,
        )  # fmt: skip
        await _feed(auditor, chunks, newest, checked, progress)
        report = _told(auditor.report)
    if options.from_batch and report.from_batch > options.from_batch:
        raise ConfigError(
            f"the state to begin from is of batch {report.from_batch}, later than "
            f"{options.from_batch}; everything from it on was right"
        )
    return report


# --- where it begins


def _known(states: dict[int, Record]) -> str:
    return ", ".join(str(number) for number in sorted(states)) or "none"


def _state_of(states: dict[int, Record], batch: int) -> Record:
    if batch not in states:
        raise ConfigError(
            f"the archive has no state after batch {batch}; it has those of: {_known(states)}"
        )
    return states[batch]


async def _audit_from(
    chain: Chain, archive: Archive, record: Record, options: AuditOptions,
    progress: Progress | None,
) -> AuditReport:  # fmt: skip
    """Audit from a state in the archive, whose members a checkpoint vouches for."""
    state = archive.state(record)
    raw = dict(state.ledger_leaves).get(CURRENT_EPOCH_KEY)
    epoch = 0 if raw is None else _told(lambda: decode_current_epoch(raw)).number
    members = _members(chain, archive, epoch, options)
    shard = ShardState(state.batch, state.shard_leaves)
    start = AuditStart(state.header, state.ledger_leaves, members, shard)
    with _open_claims(options.against) as claims, _prechecked(chain, options.jobs) as checked:
        auditor = _told(
            lambda: Auditor(
                chain, start=start, claims=claims, verify_signature=checked or verify
            ),
            trusted=False,
        )  # fmt: skip
        chunks = _chunks(archive, state.header.height)
        await _feed(auditor, chunks, archive.newest, checked, progress)
        report = _told(auditor.report)
    if report.final_batch < state.batch:
        raise InvalidProof(
            f"audit: batch {state.batch}, from which it began, is not final at the archive's end"
        )
    return report


def _members(chain: Chain, archive: Archive, epoch: int, options: AuditOptions) -> MemberSet:
    """The members of an epoch, followed from the checkpoint over the archive's epochs."""
    checkpoint = options.checkpoint
    if checkpoint is None:
        raise ConfigError("an audit from a state needs a checkpoint to trust: --checkpoint FILE")
    try:
        light = LightClient(
            checkpoint, trusting_ms=chain.genesis.staking.trusting_ms, now_ms=options.now_ms
        )
        for change in archive.epochs():
            if light.epoch < epoch and change.number == light.epoch + 1:
                proof = decode_tree_proof(change.proof)
                light.advance(change.header, change.certificate, proof, options.now_ms)
    except Rejected as error:
        if error.code == Code.UNTRUSTED_CHECKPOINT:
            raise ConfigError(error.text) from None
        raise InvalidProof(f"audit: the archive's change of members: {error.text}") from None
    members = light.members_of(epoch)
    if members is None:
        raise ConfigError(
            f"the state is of epoch {epoch}, and the checkpoint of epoch {checkpoint.epoch} does "
            "not lead there; give an older or a newer --checkpoint"
        )
    return members


@contextmanager
def _open_state(
    chain: Chain, options: AuditOptions
) -> Iterator[tuple[ShardState | None, Claims | None]]:
    """The state to begin from, and what an execution node claims."""
    state = None if options.state is None else _read_state(chain, options.state)
    with _open_claims(options.against) as claims:
        yield state, claims


def _read_state(chain: Chain, path: Path) -> ShardState:
    """A state as a validator keeps it, or the newest snapshot of an execution node."""
    if path.is_file():
        kept = read_kept_state(path)
        if kept is None or kept.chain_id != chain.chain_id:
            raise ConfigError(f"the state {path} is of another chain")
        return ShardState(0, kept.leaves)
    with _execution_store(path) as store:
        found = next(store.snapshots(), None)
    if found is None:
        raise ConfigError(f"there is no usable snapshot in {path}")
    if found.chain_id != chain.chain_id:
        raise ConfigError(f"the snapshot in {path} is of another chain")
    return ShardState(0, found.leaves)


@contextmanager
def _open_claims(directory: Path | None) -> Iterator[Claims | None]:
    if directory is None:
        yield None
        return
    with _execution_store(directory) as store:

        def claims(height: int) -> ClaimedBlock | None:
            try:
                record = store.record(height)
            except IndexError:
                return None
            diff, told = decode_block_diff(record.diff), decode_block_events(record.events)
            return ClaimedBlock(dict(diff.changes), told.events)

        yield claims


@contextmanager
def _execution_store(directory: Path) -> Iterator[ExecutionStore]:
    if not (directory / "history").is_dir():
        raise ConfigError(f"{directory} is no data directory of an execution node")
    with lock_directory(directory):
        store = ExecutionStore(directory)
        try:
            yield store
        finally:
            store.close()


# --- working


def _told(work: Callable[[], T], *, trusted: bool = True) -> T:
    """Work that finds differences. `trusted`: what breaks then is not the state it began from."""
    try:
        return work()
    except (AuditDifference, Rejected) as difference:
        raise InvalidProof(f"audit: {difference}") from None
    except SafetyViolation as violation:
        if trusted:
            raise
        text = f"audit: the state that it began from does not hold: {violation}"
        raise InvalidProof(text) from None


async def _chunks(archive: Archive, above: int = 0) -> AsyncIterator[Chunk]:
    for chunk in archive.blocks(above):
        yield chunk.blocks, chunk.certificate


@contextmanager
def _prechecked(chain: Chain, jobs: int) -> Iterator[Prechecked | None]:
    """What verifies signatures ahead in other processes; None for one job."""
    if jobs <= 1:
        yield None
        return
    pool = worker_pool(jobs)
    try:
        yield Prechecked(pool, jobs, chain, actions=True)
    finally:
        stop_pool(pool)


async def _feed(
    auditor: Auditor,
    chunks: AsyncIterator[Chunk],
    newest: int,
    checked: Prechecked | None,
    progress: Progress | None,
) -> None:
    """Give the auditor everything; raises `InvalidProof` at the first difference."""
    waiting: deque[tuple[Chunk, list[Future[list[bytes]]]]] = deque()

    async def add() -> None:
        (blocks, certificate), futures = waiting.popleft()
        if checked is not None:
            await asyncio.to_thread(checked.take, futures)
        _told(lambda: auditor.add(blocks, certificate), trusted=auditor.anchored)
        if progress is not None:
            progress(auditor.height, max(auditor.height, newest))
        await asyncio.sleep(0)

    async for chunk in chunks:
        started = [] if checked is None else checked.start(chunk[0], auditor.members.keys)
        waiting.append((chunk, started))
        if checked is None or len(waiting) > CHUNKS_AHEAD:
            await add()
    while waiting:
        await add()


async def _audit_segments(
    chain: Chain, genesis: bytes, archive: Archive, states: dict[int, Record], jobs: int,
    shows: tuple[Progress | None, Progress | None],
) -> AuditReport:  # fmt: skip
    """The ledger here, the shard's history in segments in other processes."""
    pool: Any = worker_pool(jobs)
    try:
        shard = SegmentedShard(pool, genesis, archive, states)
        auditor = Auditor(chain, shard=shard)
        await _feed(auditor, _chunks(archive), archive.newest, None, shows[0])
        await asyncio.to_thread(
            _told, lambda: shard.finish(auditor.batches, auditor.ledger, shows[1])
        )
        return _told(auditor.report)
    finally:
        stop_pool(pool)
