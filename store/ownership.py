"""Whose a data directory is, in which format it is stored, and whether it came from a backup.

Three small files say so: ``OWNER`` (role, key of a member, chain), ``FORMAT`` (see
`store.migrations`) and, in a directory that was restored, ``RESTORED``. All functions block, and
belong under the directory's lock.
"""

from __future__ import annotations

from pathlib import Path

from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import PEER_ROLES, ProcessConfig
from store.files import sync_directory, write_atomic

OWNER_NAME = "OWNER"
"""File in a data directory that says whose it is: role, key of a member, chain."""

RESTORED_NAME = "RESTORED"
"""File in a data directory that came from a backup: `UNFINISHED`, `UNSIGNING`, or `_PASSING` and
the owner it passes to."""

UNFINISHED = "unfinished\n"
UNSIGNING = "signs nothing with the key of its backup\n"
"""The directory holds no voting state, so the key that it belongs to may have signed more than it
tells of."""

_PASSING = "passes to "


def claim_directory(config: ProcessConfig, chain: Chain, key: Key) -> bool:
    """Write down whose directory this is; True for a new one.

    Raises `ConfigError` where it is somebody else's, or where its restore has not finished.

    A restored one may pass to a new key of its role, which has never signed anything.
    """
    restored = restored_as(config.data)
    if restored == UNFINISHED:
        raise ConfigError(
            f"the restore into {config.data} did not finish; empty the directory, and restore again"
        )
    member = "" if config.role == "execution" else key.public.hex()
    owner = f"{config.role} {member or '-'} {chain.chain_id.hex()}\n"
    path = config.data / OWNER_NAME
    try:
        found = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        write_atomic(path, owner.encode("ascii"))
        return True
    if found == owner:
        if restored == _PASSING + owner:
            # A crash came in between: this owner's key has signed nothing yet.
            forget_restore(config.data)
        return False
    same_chain = found.split()[-1:] == owner.split()[-1:]
    may_pass = restored not in ("", _PASSING + found)
    if may_pass and same_chain and found.split()[:1] == [config.role]:
        # As long as there is a mark nobody signs. It names the new owner before that one's key is
        # written down, so that a start after a crash can tell it from the key of the backup.
        mark_restore(config.data, _PASSING + owner)
        write_atomic(path, owner.encode("ascii"))
        forget_restore(config.data)
        return False
    whose = "another process of this chain" if same_chain else "another chain"
    raise ConfigError(
        f"the data directory {config.data} belongs to {whose}; give this process one of its own"
    )


def restored_as(directory: Path) -> str:
    """What `RESTORED` says, empty where there is none."""
    try:
        return (directory / RESTORED_NAME).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return ""


def mark_restore(directory: Path, text: str) -> None:
    """Say that a directory comes from a backup: `UNFINISHED` or `UNSIGNING`."""
    write_atomic(directory / RESTORED_NAME, text.encode("ascii"))


def forget_restore(directory: Path) -> None:
    """The directory is as good as one that was never restored."""
    (directory / RESTORED_NAME).unlink()
    sync_directory(directory)


def may_sign(config: ProcessConfig) -> bool:
    """Whether a member may sign with its key: not where its voting state was left behind."""
    return config.role not in PEER_ROLES or not restored_as(config.data)
