"""What a backup of each role holds, and how far its stores go.

Voting states stay behind: the table ``voting`` of a validator with the blocks that it has not seen
committed, and the log ``consensus`` of a sequencer. Everything else is copied in an order in which
what is copied later never lacks what was in the earlier one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

from net.clock import now_ms
from node.process_keeper import STATE_NAME as KEPT_STATE_NAME
from node.store import DATABASE_NAME
from protocol.errors import ConfigError, Rejected
from prover.challenger import decode_final_state
from prover.process_challenger import STATE_NAME as FINAL_STATE_NAME
from prover.process_challenger import WINDOW_NAME
from sequencer.process_evidence import DIRECTORY as EVIDENCE
from sequencer.process_evidence import SUFFIX as EVIDENCE_SUFFIX
from store.backup import (
    ARCHIVE_FORMAT,
    Manifest,
    copy_database,
    copy_files,
    copy_log,
    pack,
)
from store.config import ProcessConfig, Role, load_chain
from store.files import LOCK_NAME, lock_directory, sync_directory
from store.migrations import FORMAT, FORMAT_NAME, format_of
from store.ownership import OWNER_NAME, UNFINISHED, restored_as

PROVER_DATABASE = "prover.sqlite"
CHECKPOINTS = "checkpoint*.json"
STAGING_PREFIX = ".backup."
"""Folders in which a backup is prepared; what a killed one left is removed by the next."""
SPARE_BYTES = 64 << 20
"""Room that a backup leaves: a process that writes to the same disk has to go on."""

Heights = dict[str, int]


def release() -> str:
    """The version of this program."""
    return version("trilemma")


def _copy_node(data: Path, staging: Path) -> Heights:
    copy = staging / DATABASE_NAME
    copy_database(data / DATABASE_NAME, copy, forget=("voting", "proposed"))
    # The state after the ledger: it may be newer than that, but never older than its blocks.
    copy_files(data, staging, KEPT_STATE_NAME)
    return {"ledger": _number(copy, "SELECT value FROM meta WHERE name = 'height'")}


def _copy_sequencer(data: Path, staging: Path) -> Heights:
    # The pool first: what is ordered meanwhile is in both, and is recognised.
    copy_log(data / "pool", staging / "pool")
    height = copy_log(data / "log", staging / "log")
    copy_files(data, staging, CHECKPOINTS)
    copy_files(data, staging, f"{EVIDENCE}/*{EVIDENCE_SUFFIX}")
    return {"log": height}


def _copy_execution(data: Path, staging: Path) -> Heights:
    # Snapshots first: the logs go at least as far as any of them.
    copy_files(data, staging, "snapshots/*.snapshot")
    copy_log(data / "liquidations", staging / "liquidations")
    height = copy_log(data / "history", staging / "history")
    copy_files(data, staging, CHECKPOINTS)
    return {"history": height}


def _copy_prover(data: Path, staging: Path) -> Heights:
    copy = staging / PROVER_DATABASE
    copy_database(data / PROVER_DATABASE, copy)
    copy_files(data, staging, CHECKPOINTS)
    return {
        "batch": _number(copy, "SELECT number FROM position"),
        "log": _number(copy, "SELECT block FROM position"),
    }


def _copy_challenger(data: Path, staging: Path) -> Heights:
    copy_files(data, staging, FINAL_STATE_NAME)
    copy_files(data, staging, CHECKPOINTS)
    state = staging / FINAL_STATE_NAME
    if not state.exists():
        return {"batch": 0}
    try:
        return {"batch": decode_final_state(state.read_bytes()).final.batch}
    except Rejected as error:
        raise ConfigError(f"{data / FINAL_STATE_NAME} is damaged ({error}); delete it") from None


_COPIERS: dict[Role, Callable[[Path, Path], Heights]] = {
    "node": _copy_node,
    "sequencer": _copy_sequencer,
    "execution": _copy_execution,
    "prover": _copy_prover,
    "challenger": _copy_challenger,
}


def _number(database: Path, question: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        row = connection.execute(question).fetchone()
    return 0 if row is None else int(row[0])


@contextmanager
def _staging(name: str, beside: Path) -> Iterator[Path]:
    """A new folder in `beside` for the copies, which goes at the end. Those of others stay while
    they are in use: a copy whose first half was taken away would be packed as if it were whole."""
    prefix = f"{STAGING_PREFIX}{name}."
    for leftover in beside.glob(f"{prefix}*"):
        if not (leftover / LOCK_NAME).exists():
            continue  # it is just being made, or just goes
        with suppress(ConfigError, OSError), lock_directory(leftover):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = tempfile.TemporaryDirectory(prefix=prefix, dir=beside)
    # The lock outlives the folder: nobody else removes what is just being removed.
    with lock_directory(Path(folder.name)), folder as path:
        copies = Path(path) / "copies"
        copies.mkdir()
        yield copies


def _require_room(config: ProcessConfig, place: Path, times: int) -> None:
    """Raise `ConfigError` where the disk of `place` does not take the stores so many times."""
    stored = 0
    for folder, inside, names in os.walk(config.data):
        # What no backup holds: the window of a challenger, and the copies of other backups.
        inside[:] = [
            name for name in inside if name != WINDOW_NAME and not name.startswith(STAGING_PREFIX)
        ]
        for name in names:
            with suppress(FileNotFoundError):  # old files go at any time
                stored += os.lstat(os.path.join(folder, name)).st_size
    needed, free = times * stored + SPARE_BYTES, shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"a backup of {config.name} needs {needed:,} bytes in {place.absolute()}, and {free:,} "
            "are free; make room, or give it a place on another disk"
        )


def write_backup(
    config: ProcessConfig, out: IO[bytes], beside: Path, *, times: int = 1
) -> Manifest:
    """Write the archive of a process's stores, while it runs or not; what it holds.

    It is prepared in a folder in `beside`, whose disk takes the stores once, or `times` where `out`
    lies there, too. Raises `ConfigError` where there is nothing to back up, or no room,
    `StoreDamaged`, `OSError`.
    """
    data, chain = config.data, load_chain(config)
    try:
        owner = (data / OWNER_NAME).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{data} holds no stores: {config.name} has never run here") from None
    if restored_as(data) == UNFINISHED:
        raise ConfigError(f"the restore into {data} did not finish; there is nothing to back up")
    if len(owner) != 3 or owner[0] != config.role or owner[2] != chain.chain_id.hex():
        raise ConfigError(f"{data} belongs to another process, or to another chain")
    found = format_of(data) or 0
    if found != FORMAT:
        raise ConfigError(
            f"{data} has store format {found}, and this release {FORMAT}; make the backup with the "
            "release that wrote it, or start the process once"
        )
    with _staging(config.name, beside) as staging:
        _require_room(config, beside, times)
        heights = _COPIERS[config.role](data, staging)
        for name in (OWNER_NAME, FORMAT_NAME):
            copy_files(data, staging, name)
        manifest = Manifest(
            ARCHIVE_FORMAT, config.role, config.name, owner[1].strip("-"), owner[2], release(),
            found, now_ms(), heights,
        )  # fmt: skip
        pack(staging, manifest, out)
    return manifest


def write_backup_file(config: ProcessConfig, path: Path) -> Manifest:
    """The same into a new file of mode 0600, complete or not there at all."""
    if path.exists():
        raise ConfigError(f"{path} exists, and a backup is never overwritten; take another name")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                manifest = write_backup(config, file, path.parent, times=2)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(path.parent)
    except FileNotFoundError as error:
        raise ConfigError(f"cannot write the backup {path}: {error.strerror}") from None
    return manifest
