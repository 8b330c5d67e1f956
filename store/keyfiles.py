"""Key files: 64 hex digits in a file of mode 0600."""

from __future__ import annotations

import os
from pathlib import Path

from protocol.errors import ConfigError
from protocol.keys import Key


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
    """Read a key file; raises `ConfigError` when missing, open to others or malformed."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the key file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the key file {path} does not hold 64 hex digits") from None
    if mode & 0o077:
        raise ConfigError(f"the key file {path} is open to others; run: chmod 600 {path}")
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise ConfigError(f"the key file {path} does not hold 64 hex digits")
    return Key(seed)
