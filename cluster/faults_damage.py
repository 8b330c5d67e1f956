"""Damage to what a process keeps: bits of its files, and a line of its configuration."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cluster.byzantine import check_mode, modes
from cluster.faults_targets import Target
from protocol.errors import ConfigError
from store.config import load_config
from store.testnet import ProcessEntry, Testnet

SPARED = ("LOCK", "OWNER", "FORMAT", "RESTORED")
SPARED_SUFFIXES = ("-shm",)
"""Files without state of their own: whose the directory is, and an index that is made anew."""

COUNTED = "; of a wrong batch, :N behind it says how many times, as in mints-cash:1"
"""What may stand behind a prover's lie."""

_BYZANTINE = re.compile(r"^byzantine\s*=.*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Damage:
    """Flipped bits: `places` are (offset in bytes, bit) in `path`; `before` the whole file."""

    path: str
    places: list[tuple[int, int]]
    before: bytes

    def text(self) -> str:
        """For people."""
        first = ", ".join(str(offset) for offset, _ in self.places[:4])
        size = len(self.before)
        return f"{len(self.places)} bits of {self.path} flipped (of {size} bytes, at {first})"


def flip_bits(
    target: Target, name: str, rng: Random, *, path: str | None = None, bits: int = 8
) -> Damage:
    """Flip random bits anywhere in a data file of a process that is down.

    `path` may be the beginning of a file's path, as ``history``; a random file where None. Raises
    `ConfigError` where there is nothing to damage.
    """
    found = {
        one: size
        for one, size in target.files(name).items()
        if size and one.rpartition("/")[2] not in SPARED and not one.endswith(SPARED_SUFFIXES)
        and (path is None or one.startswith(path))
    }  # fmt: skip
    if not found:
        raise ConfigError(f"{name} has no data file {path or ''} that could be damaged")
    chosen = rng.choice(sorted(found))
    before = target.read_file(name, chosen)
    raw = bytearray(before)
    bits = min(bits, len(raw) * 8)
    spots = sorted(rng.sample(range(len(raw) * 8), bits))
    places = [(spot // 8, spot % 8) for spot in spots]
    for offset, bit in places:
        raw[offset] ^= 1 << bit
    target.write_file(name, chosen, bytes(raw))
    return Damage(chosen, places, before)


def set_byzantine(testnet: Testnet, entry: ProcessEntry, mode: str) -> None:
    """Write the lie of a process into its configuration; empty: it is honest again.

    Raises `ConfigError` for a mode that its role has not, or a chain that is no testnet.
    """
    if mode:
        try:
            check_mode(entry.role, mode)
        except ConfigError as error:
            counted = COUNTED if entry.role == "prover" else ""
            raise ConfigError(f"{error}{counted}") from None
        if not testnet.chain().genesis.testnet:
            raise ConfigError("Byzantine modes are for testnets, and this genesis is of none")
    path = testnet.config_path(entry.name)
    try:
        text = _BYZANTINE.sub("", path.read_text(encoding="utf-8"))
        if mode:
            text = f'byzantine = "{mode}"\n{text}'
        _replace(path, text)
    except OSError as error:
        raise ConfigError(f"cannot change {path}: {error.strerror}") from None


def byzantine_mode(testnet: Testnet, name: str) -> str:
    """The lie in a process's configuration; empty where it is honest, or nobody can tell."""
    try:
        return load_config(testnet.config_path(name)).byzantine
    except ConfigError:
        return ""


def byzantine_modes(entry: ProcessEntry) -> list[str]:
    """The lies that a process's role knows."""
    return list(modes(entry.role))


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, its mode and owner kept: a container's user reads it."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    before = path.stat()
    os.chmod(partial, before.st_mode & 0o777)
    if os.geteuid() == 0:
        os.chown(partial, before.st_uid, before.st_gid)
    os.replace(partial, path)
