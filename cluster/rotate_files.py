"""The files of a validator that gets a new key: what is kept until that is done, and the swap.

Below ``keys/`` of the testnet: ``NAME-next.key`` is the new key until the swap, which makes it
``NAME.key``; ``rotation/NAME.json`` is there from the first step to the last; the old key stays as
``NAME-retired-XXXXXXXX.key``, since money hangs on it, and the new one of a rotation that was given
up as ``NAME-abandoned-XXXXXXXX.key``. What root writes there belongs to whom the
folder does, as whom the process may run. Each function may be interrupted at any instruction and
called again.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

import msgspec

from cluster.rotate_places import Place
from net.tls import make_certificate
from protocol.errors import ConfigError
from protocol.keys import Key
from store.config import JOINING, load_config, parse_address
from store.files import LOCK_NAME, DirectoryLock, lock_directory, sync_directory, write_atomic
from store.keyfiles import load_key, save_key
from store.ownership import OWNER_NAME, RESTORED_NAME, UNFINISHED, UNSIGNING
from store.testnet import DESCRIPTION_FILE, KEY_FOLDER, Description

ROTATION_FOLDER = "rotation"
CERTIFICATE_SUFFIX = ".crt"


class SignedWithdrawal(msgspec.Struct, frozen=True):
    """The withdrawal that pays for the new stake, kept before it is sent, so that it is never
    signed twice: `raw` in hex, `first_seq` of the events that its result is among, `number` in the
    outbox, 0 where that is not known yet."""

    payer: str
    raw: str
    nonce_ms: int
    account: int
    first_seq: int
    number: int = 0


class Journal(msgspec.Struct, frozen=True):
    """A rotation that is not done: the public keys in hex, and where others dial the new one."""

    old: str
    new: str
    peer: str
    withdrawal: SignedWithdrawal | None = None


class RotationFiles:
    """The files of one validator of a testnet."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.testnet = testnet = place.testnet
        self.name = name = place.name
        self._folder = testnet.directory / KEY_FOLDER / ROTATION_FOLDER
        self._journal_path = self._folder / f"{name}.json"
        self.key_path = testnet.key_path(name)
        self._next_path = testnet.key_path(f"{name}-next")

    def lock(self) -> DirectoryLock:
        """Held while a rotation runs, of whichever validator; raises `ConfigError`."""
        try:
            lock = lock_directory(self._folder)
        except ConfigError as error:
            raise ConfigError(f"{error}; only one key is exchanged at a time") from None
        for path in (self._folder, self._folder / LOCK_NAME):
            self._own(path)
        return lock

    def unfinished(self) -> list[str]:
        """Names of the validators whose rotation is not done."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def journal(self) -> Journal | None:
        """What is kept of a rotation that is not done; raises `ConfigError` for a damaged file."""
        try:
            return msgspec.json.decode(self._journal_path.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"cannot read {self._journal_path}: {error}") from None

    def keep(self, journal: Journal) -> Journal:
        """Replace what is kept."""
        self._write(self._journal_path, msgspec.json.encode(journal), 0o600)
        return journal

    def begin(self, peer: str) -> Journal:
        """Make the new key; the journal of what begins. `peer` is where others will dial it."""
        if not self._next_path.exists():
            part = self._next_path.with_suffix(".part")
            part.unlink(missing_ok=True)  # of a beginning that was interrupted
            save_key(Key.generate(), part)
            self._own(part)
            os.replace(part, self._next_path)
            sync_directory(self._next_path.parent)
        old, new = load_key(self.key_path), load_key(self._next_path)
        return self.keep(Journal(old.public.hex(), new.public.hex(), peer))

    def keys(self, journal: Journal) -> tuple[Key, Key]:
        """The old key and the new one, wherever the swap has got to; raises `ConfigError`."""
        wanted = bytes.fromhex(journal.old), bytes.fromhex(journal.new)
        retired = self.retired_path(journal)
        paths = [path for path in (self.key_path, self._next_path, retired) if path.exists()]
        found = {key.public: key for key in map(load_key, paths)}
        for public in wanted:
            if public not in found:
                raise ConfigError(
                    f"{self._journal_path} tells of the key {public.hex()}, which is in none of "
                    f"the files of {self.name} in {self.key_path.parent}; put it back"
                )
        return found[wanted[0]], found[wanted[1]]

    def retired_path(self, journal: Journal) -> Path:
        """Where the old key lies after the swap."""
        return self.testnet.key_path(f"{self.name}-retired-{journal.old[:8]}")

    def installed(self, journal: Journal) -> bool:
        """Whether the swap is done to its last change."""
        return load_key(self.key_path).public.hex() == journal.new

    def certificate(self, new: Key) -> bytes:
        """The certificate (DER) of the new key: the same at every call."""
        return make_certificate(new, self.name)

    def swapped(self, journal: Journal) -> bool:
        """Whether the swap has begun to exchange the keys."""
        return self.installed(journal) or self.retired_path(journal).exists()

    def abandon(self, journal: Journal) -> Path:
        """The rotation is given up; where the new key lies from now on."""
        # Killed in between, it leaves the new key to the next rotation, with whatever it has.
        self.finish()
        kept = self.testnet.key_path(f"{self.name}-abandoned-{journal.new[:8]}")
        os.replace(self._next_path, kept)
        sync_directory(kept.parent)
        return kept

    # --- the swap

    def install(self, journal: Journal) -> Path:
        """Give the process, which is down, the new key; where the old one lies from now on.

        Raises `ConfigError` where its configuration cannot take the change.
        """
        old, new = self.keys(journal)
        self._leave_voting_state(old)
        path = self.key_path.with_suffix(CERTIFICATE_SUFFIX)
        pem = ssl.DER_cert_to_PEM_cert(self.certificate(new)).encode("ascii")
        self._write(path, pem)
        self._configure(journal.peer, self._place.give_certificate(path, pem))
        self._describe(journal.peer)
        retired = self.retired_path(journal)
        if not retired.exists():
            os.link(self.key_path, retired)
        if self._next_path.exists():
            os.replace(self._next_path, self.key_path)
        sync_directory(self.key_path.parent)
        return retired

    def finish(self) -> None:
        """The rotation is done."""
        self._journal_path.unlink(missing_ok=True)
        sync_directory(self._folder)

    def _leave_voting_state(self, old: Key) -> None:
        """From here on the directory signs nothing for the old key, and may pass to another one."""
        place, marks = self._place, (UNSIGNING, UNFINISHED)
        if old.public.hex() not in place.data_text(OWNER_NAME):
            return
        if place.data_text(RESTORED_NAME) not in marks:
            place.leave_voting_state()

    def _configure(self, peer: str, certificate: str) -> None:
        path = self.testnet.config_path(self.name)
        text = path.read_text(encoding="utf-8")
        config = load_config(path)
        port = parse_address(peer)[1]
        host = config.peer_listen.rpartition(":")[0]
        wanted = {
            "index": str(JOINING),
            "peer_listen": _quoted(f"{host}:{port}"),
            "certificate": _quoted(certificate),
        }
        trial = path.with_name(f".{path.name}.next")
        raw = with_fields(text, wanted).encode("utf-8")
        write_atomic(trial, raw)
        try:
            read = load_config(trial)
            expected = msgspec.structs.replace(
                config, index=JOINING, peer_listen=f"{host}:{port}", certificate=read.certificate
            )
            # However the configuration spells the path of that file.
            wanted_file = os.path.realpath(path.parent / certificate)
            if read != expected or os.path.realpath(read.certificate or "") != wanted_file:
                raise ConfigError(
                    f"cannot set index, peer_listen and certificate in {path} without changing "
                    "more; write each of its fields on a line of its own"
                )
        finally:
            trial.unlink()
        self._write(path, raw)

    def _describe(self, peer: str) -> None:
        """The testnet's description tells the new peer address."""
        testnet, shown = self.testnet, self._place.described(peer)
        entries = [
            msgspec.structs.replace(entry, peer=shown) if entry.name == self.name else entry
            for entry in testnet.processes
        ]
        description = Description(testnet.name, entries, testnet.traders)
        raw = msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"
        self._write(testnet.directory / DESCRIPTION_FILE, raw)

    def _write(self, path: Path, raw: bytes, mode: int | None = None) -> None:
        write_atomic(path, raw, mode, self._owner())

    def _own(self, path: Path) -> None:
        owner = self._owner()
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)

    def _owner(self) -> tuple[int, int] | None:
        """Whom what we write as root belongs to: user and group of the folder of keys."""
        if os.geteuid() != 0:
            return None
        found = self.key_path.parent.stat()
        return found.st_uid, found.st_gid


def with_fields(text: str, fields: dict[str, str]) -> str:
    """A TOML text with these top-level fields set to TOML values; everything else stays."""
    lines = text.splitlines()
    top = next((place for place, line in enumerate(lines) if line.startswith("[")), len(lines))
    head, tail = lines[:top], lines[top:]
    for name, value in fields.items():
        line = f"{name} = {value}"
        pattern = re.compile(rf"\s*{name}\s*=")
        places = [place for place, each in enumerate(head) if pattern.match(each)]
        if places:
            head[places[0]] = line
        else:
            head.insert(0, line)
    return "\n".join([*head, *tail]) + "\n"


def _quoted(text: str) -> str:
    # A JSON text is a TOML text too.
    return msgspec.json.encode(text).decode()
