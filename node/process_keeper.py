"""The shard's state beside a validator that prunes: executed from final batches, checked, kept.

A validator may forget a batch's data only when it has the state behind it: with all others gone,
its disk must suffice to prove what every account is worth. So a process of its own executes the
final batches from time to time, from the state that was kept last, and keeps the new one. Where the
blocks for that are gone, as after a start from a snapshot, it takes a state that others keep.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from net.upstream import Upstream
from node.kept_state import kept_file, read_kept
from node.process_states import fetch_state
from node.rebuild import CheckedState, Progress, RebuiltState
from node.store_reading import StoreReading
from protocol.errors import Code, ConfigError, Rejected, TrilemmaError
from protocol.genesis import Chain
from store.config import parse_address, read_chain
from store.files import lock_directory, write_atomic

STATE_NAME = "shard.state"
"""The newest state that was checked, in the data directory."""

LOCK_FOLDER = "keeper"
"""Folder whose lock the keeper holds while it is at work."""

PIECE_S = 300.0
"""A state is kept after so long even where more batches are to be executed."""

FETCH_S = 900.0
"""After so long a state that others keep is left for the next time, which goes on from there."""

NICENESS = 19


def read_kept_state(path: Path) -> CheckedState | None:
    """A kept state, None where there is none. Whoever uses it checks it against the ledger.

    Raises `ConfigError` for a file that is none.
    """
    try:
        return read_kept(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except Rejected as error:
        raise ConfigError(f"{path} is no kept state: {error.text}") from None


def rebuilt_from_disk(
    directory: Path,
    chain: Chain,
    start: CheckedState | None = None,
    progress: Progress | None = None,
) -> RebuiltState:
    """The final state out of a validator's data directory, whether its process runs or not.

    Without `start` it begins with the state that the validator has kept, else with genesis.
    `progress`: (batches executed, all). Raises `ConfigError` where there is no such directory,
    `Rejected(not_retained)` where its blocks were pruned, `SafetyViolation`.
    """
    reading = StoreReading(directory, chain)
    try:
        start = start or read_kept_state(directory / STATE_NAME)
        state = RebuiltState(reading.ledger, start)
        state.advance(reading.block, progress)
    finally:
        reading.close()
    return state


def keep(directory: Path, chain: Chain, validators: Sequence[str] = ()) -> int:
    """Keep the final state in the data directory; the batch that it is of, 0 before the first.

    `validators`: addresses of those who may have a state where the blocks that lead to it are gone
    here. Raises `ConfigError`, also where another one is at it, `Rejected(not_retained)`,
    `SafetyViolation`, and what asking raises.
    """
    # One whose validator was killed may still be at work: it must not put an older state in the
    # place of a newer one, behind which blocks have gone.
    with lock_directory(directory / LOCK_FOLDER):
        for torn in directory.glob(f".{STATE_NAME}.*.tmp"):
            torn.unlink()
        return _keep(directory, chain, validators)


def _keep(directory: Path, chain: Chain, validators: Sequence[str]) -> int:
    path = directory / STATE_NAME
    reading = StoreReading(directory, chain)
    try:
        state = _begun(reading, path)
        if validators and _blocks_are_gone(reading, state.batch):
            asyncio.run(_fetch(reading, path, validators))
            state = _begun(reading, path)
        kept_s, batch = time.monotonic(), state.batch

        def keep_now_and_then(*_: int) -> None:
            nonlocal kept_s, batch
            if time.monotonic() >= kept_s + PIECE_S:
                write_atomic(path, kept_file(state))
                kept_s, batch = time.monotonic(), state.batch

        state.advance(reading.block, keep_now_and_then)
        if state.batch > batch:
            write_atomic(path, kept_file(state))
    finally:
        reading.close()
    return state.batch


def _begun(reading: StoreReading, path: Path) -> RebuiltState:
    """From the kept state where it is one of this ledger, else from genesis."""
    with suppress(ConfigError, Rejected):
        return RebuiltState(reading.ledger, read_kept_state(path))
    return RebuiltState(reading.ledger)


def _blocks_are_gone(reading: StoreReading, batch: int) -> bool:
    """Whether the batch behind this one is final, and what it was posted with is not kept here."""
    if batch >= reading.ledger.final().batch:
        return False
    following = reading.ledger.batch(batch + 1)
    return following is None or reading.block(following.ledger_height) is None


async def _fetch(reading: StoreReading, path: Path, validators: Sequence[str]) -> None:
    """Take a state that another validator keeps, from those in turn."""
    addresses = [parse_address(one) for one in validators]
    upstream = Upstream(addresses, reading.ledger.chain.chain_id, "state-keeper")
    try:
        async with asyncio.timeout(FETCH_S):
            await fetch_state(upstream, reading.ledger, reading.retained_from(), path)
    except TimeoutError:
        raise Rejected(Code.NOT_READY, "no validator gave its state in time") from None
    finally:
        await upstream.close()


async def keep_in_child(directory: Path, genesis: Path, validators: Sequence[str]) -> int:
    """`keep` in a process of its own; raises `ConfigError` with what it said where it fails."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "node.process_keeper", str(directory), str(genesis), *validators,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, problem = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    if child.returncode:
        raise ConfigError(problem.decode(errors="replace").strip() or "the keeper failed")
    return int(out)


def main(directory: Path, genesis: Path, validators: Sequence[str] = ()) -> int:
    """Keep the state once; returns the exit status."""
    try:
        print(keep(directory, read_chain(genesis), validators))
    except (TrilemmaError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print("usage: python -m node.process_keeper DATA GENESIS [ADDRESS]...", file=sys.stderr)
        sys.exit(2)
    os.nice(NICENESS)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
