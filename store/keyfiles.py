"""Key files: 64 hex digits in a file of mode 0600."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from protocol.errors import ConfigError
from protocol.keys import Key

MAX_BYTES = 4_096
"""More of a key file is never read."""


def save_key(key: Key, path: Path) -> None:
    """Write the seed as hex to a new file of mode 0600, synced; never overwrites.

    Raises `ConfigError` where the file exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.seed().hex() + "\n")
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise ConfigError(f"the key file {path} exists and is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write the key file {path}: {error.strerror}") from None


def load_key(path: Path) -> Key:
    """Read a key file; raises `ConfigError` when missing, open to others or malformed.

    Its mode is that of the very file that is read; what is in it appears in no error.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(MAX_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise ConfigError(f"cannot read the key file {path}: {error.strerror}") from None
    if status.st_mode & 0o077:
        raise ConfigError(f"the key file {path} is open to others; run: chmod 600 {path}")
    text = raw.strip()
    if len(text) != 64 or not all(byte in b"0123456789abcdefABCDEF" for byte in text):
        raise ConfigError(f"the key file {path} does not hold 64 hex digits")
    return Key(bytes.fromhex(text.decode("ascii")))
