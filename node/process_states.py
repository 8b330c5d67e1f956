"""Kept states between validators: serving the parts of one's own, and getting another's.

A validator that began with a snapshot of the ledger cannot execute the shard from genesis. It takes
the state that another one keeps, part by part, slowly, each checked under its own ledger. What it
has taken is on disk at once, so that it goes on there after a crash.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from node.kept_state import (
    KeptHead,
    PartsTaken,
    decode_head,
    head_bytes,
    join_parts,
    place_of,
)
from node.ledger_state import LedgerState
from node.rebuild import CheckedState
from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault
from protocol.ledger_leaves import SettledBatch
from protocol.messages_states import StatePartRequest, StatePartView
from store.files import sync_directory, write_all, write_atomic

PAUSE_S = 0.05
"""Between two parts, so that whoever serves them hardly notices."""

TRIES = 8
"""Faults in a row before it is begun anew, or left for another time."""

PARTIAL_SUFFIX = ".partial"
_PREFIX_BYTES = 8

A = TypeVar("A")


class Asks(Protocol):
    """Where questions go: a `net.upstream.Upstream`."""

    async def ask(self, kind: type[A], make: Makes, timeout_ms: int = ..., /) -> A:
        """One request and its answer."""

    async def drop(self) -> None:
        """Ask another one next time."""


class Makes(Protocol):
    """Makes a request of a number."""

    def __call__(self, request_id: int, /) -> Wire: ...


class KeptStates:
    """The kept state in a validator's data directory, for those who ask for it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def batch(self) -> int:
        """The batch that the state is of, 0 where none is kept; raises `Rejected` for damage.

        It is durable then, also where the one who put it there was not done with that.
        """
        found = self._open()
        if found is None:
            return 0
        os.close(found[0])
        sync_directory(self._path.parent)
        return found[1].batch

    def stored_bytes(self) -> int:
        """Bytes of the kept state and of one that is being fetched."""
        folder, name = self._path.parent, self._path.name
        return sum(path.stat().st_size for path in folder.glob(f"{name}*") if path.is_file())

    def part(self, request: StatePartRequest) -> StatePartView:
        """A part of it; raises `Rejected(not_found)` where it is of another batch by now."""
        found = self._open()
        if found is None:
            raise Rejected(Code.NOT_FOUND, "this validator keeps no state of the shard")
        descriptor, head, length = found
        try:
            if request.batch not in (0, head.batch) or not 0 <= request.part < len(head.sizes):
                raise Rejected(
                    Code.NOT_FOUND,
                    f"kept are {len(head.sizes)} parts of the state after batch {head.batch}",
                )
            at, size = place_of(head, length, request.part)
            data = os.pread(descriptor, size, at)
        finally:
            os.close(descriptor)
        return StatePartView(request.request_id, head.batch, request.part, len(head.sizes), data)

    def _open(self) -> tuple[int, KeptHead, int] | None:
        """Descriptor, head, and the head's length: of one file, whatever takes its place now."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            length = head_bytes(os.pread(descriptor, 4, 0))
            return descriptor, decode_head(os.pread(descriptor, length, 4)), length
        except BaseException:
            os.close(descriptor)
            raise


async def fetch_state(
    upstream: Asks,
    ledger: LedgerState,
    blocks_from: int,
    path: Path,
    pause_s: float = PAUSE_S,
) -> int:
    """Put the state that another validator keeps at `path`; the batch that it is of.

    `ledger` and `blocks_from`, the lowest block that is kept, say what a state must be of to be of
    use here. Raises `Rejected` or `RemoteFault` where nobody has such a one, and what asking
    raises.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    taken = _resumed(partial, ledger, blocks_from)
    faults = 0
    while taken is None or not taken.complete:
        batch, part = (0, 0) if taken is None else (taken.batch, len(taken.parts))
        try:
            view = await upstream.ask(
                StatePartView,
                lambda number, batch=batch, part=part: StatePartRequest(number, batch, part),
            )
            if view.part != part or batch not in (0, view.batch):
                raise Rejected(Code.BAD_PROOF, "the answer is another part than was asked for")
            if taken is None:
                taken = PartsTaken(view.batch, _usable(ledger, view.batch, blocks_from))
                _begin(partial, view.batch)
            taken.take(view.data)
            _append(partial, view.data)
            faults = 0
        except (Rejected, RemoteFault):
            faults += 1
            if faults == TRIES:
                if taken is None:
                    raise
                taken, faults = None, 0  # those who kept it keep a newer one by now
            await upstream.drop()
        await asyncio.sleep(pause_s)
    settled = _settled(ledger, taken.batch)
    state = CheckedState(ledger.chain.chain_id, taken.batch, settled.inbox_height, [])
    write_atomic(path, join_parts(state, taken.parts))
    partial.unlink(missing_ok=True)
    return taken.batch


def _settled(ledger: LedgerState, batch: int) -> SettledBatch:
    settled = ledger.batch(batch) if 0 < batch <= ledger.final().batch else None
    if settled is None:
        raise Rejected(Code.NOT_READY, f"batch {batch} is not final in our own ledger")
    return settled


def _usable(ledger: LedgerState, batch: int, blocks_from: int) -> bytes:
    """State root of a batch behind which all blocks are kept here; raises `Rejected`."""
    settled, following = _settled(ledger, batch), ledger.batch(batch + 1)
    if following is not None and following.ledger_height < blocks_from:
        raise Rejected(
            Code.NOT_RETAINED,
            f"the state after batch {batch} is too old: batch {batch + 1} came in ledger block "
            f"{following.ledger_height}, kept here are those from {blocks_from} on",
        )
    return settled.header.post_state_root


# --- what was taken, on disk


def _begin(partial: Path, batch: int) -> None:
    write_atomic(partial, batch.to_bytes(_PREFIX_BYTES, "big"))


def _append(partial: Path, data: bytes) -> None:
    descriptor = os.open(partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, len(data).to_bytes(_PREFIX_BYTES, "big") + data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _records(raw: bytes) -> Iterator[bytes]:
    at = _PREFIX_BYTES
    while at + _PREFIX_BYTES <= len(raw):
        size = int.from_bytes(raw[at : at + _PREFIX_BYTES], "big")
        at += _PREFIX_BYTES
        if at + size > len(raw):
            return  # torn by a crash
        yield raw[at : at + size]
        at += size


def _resumed(partial: Path, ledger: LedgerState, blocks_from: int) -> PartsTaken | None:
    """Parts that were taken before, proven once more; None where there are none of use."""
    try:
        raw = partial.read_bytes()
    except FileNotFoundError:
        return None
    try:
        batch = int.from_bytes(raw[:_PREFIX_BYTES], "big")
        taken = PartsTaken(batch, _usable(ledger, batch, blocks_from))
        for data in _records(raw):
            if not taken.complete:
                taken.take(data)
    except Rejected:
        partial.unlink()
        sync_directory(partial.parent)
        return None
    # A torn record must not stay before the next one.
    write_atomic(
        partial,
        raw[:_PREFIX_BYTES]
        + b"".join(len(one).to_bytes(_PREFIX_BYTES, "big") + one for one in taken.parts),
    )
    return taken
