"""The directory of a testnet that is to be created: new, empty, or a testnet to be replaced."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from cluster.lock import AlreadyRunning, supervisor_pid
from protocol.errors import ConfigError
from store.testnet import (
    CONFIG_FOLDER,
    DATA_FOLDER,
    DESCRIPTION_FILE,
    GENESIS_FILE,
    KEY_FOLDER,
    LOG_FOLDER,
)

NAMED = 8
"""Files of a directory that a refusal names."""


def prepare_folder(directory: Path, overwrite: bool) -> None:
    """Make a directory ready for a new testnet; with `overwrite` a testnet that is there goes.

    Raises `ConfigError` where something else is there, or a testnet that runs or is to stay.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = sorted(path.name for path in directory.iterdir())
    except FileExistsError:
        raise ConfigError(f"{directory} is a file, not a directory; take another name") from None
    except OSError as error:
        raise ConfigError(f"cannot use the directory {directory}: {error.strerror}") from None
    if not present:
        return
    # A testnet that has lost its description may run all the same.
    pid = supervisor_pid(directory)
    if pid is not None:
        raise AlreadyRunning(directory, pid)
    if not overwrite or DESCRIPTION_FILE not in present:
        raise ConfigError(_refusal(directory, present))
    # The description goes first: what an interruption leaves behind is no testnet.
    (directory / DESCRIPTION_FILE).unlink()
    (directory / GENESIS_FILE).unlink(missing_ok=True)
    for folder in (CONFIG_FOLDER, DATA_FOLDER, LOG_FOLDER, KEY_FOLDER):
        if (directory / folder).exists():
            shutil.rmtree(directory / folder)


def _refusal(directory: Path, present: list[str]) -> str:
    """Why what is in a directory stays, and what to do."""
    if DESCRIPTION_FILE in present:
        return (
            f"the directory {directory} is not empty: it holds a testnet; take another, or replace "
            f"it, with all its data: trilemma init {shlex.quote(str(directory))} --overwrite"
        )
    there = ", ".join([*present[:NAMED], *(["..."] if len(present) > NAMED else [])])
    if GENESIS_FILE in present:
        return (
            f"the testnet in {directory} has lost its {DESCRIPTION_FILE}; there are {there}. "
            "Put it back, take another directory, or empty this one yourself"
        )
    return (
        f"the directory {directory} is not empty and is no testnet: there are {there}; "
        "take another, or empty it yourself"
    )
