"""A further validator for a running testnet: its directory with key, certificate, configuration."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from pathlib import Path

from cluster.layout import free_ports
from net.tls import make_certificate
from protocol.errors import ConfigError
from protocol.keys import Key
from store.config import JOINING, load_chain, load_config, parse_address
from store.keyfiles import load_key, save_key
from store.testnet import Testnet

KEY_NAME = "validator.key"
CERTIFICATE_NAME = "validator.crt"
"""PEM file beside the key."""
CONFIG_NAME = "node.toml"
DATA_NAME = "data"


@dataclass(frozen=True, slots=True)
class JoiningValidator:
    """What `prepare_validator` made; `address` is the validator's on the ledger (20 bytes)."""

    directory: Path
    address: bytes
    public: str
    peer: str

    @property
    def key_path(self) -> Path:
        """The validator's key file."""
        return self.directory / KEY_NAME

    @property
    def config_path(self) -> Path:
        """The validator's configuration."""
        return self.directory / CONFIG_NAME


def prepare_validator(
    directory: Path | str,
    testnet: Testnet,
    *,
    name: str = "",
    key_file: Path | None = None,
    public: str = "",
    peer: str = "",
) -> JoiningValidator:
    """Make the directory of a validator that joins `testnet`.

    `key_file`: a key whose ledger account has money already, a new one where None. `public` and
    `peer` are ``host:port`` to listen on, free ports of the local machine where empty.
    Raises `ConfigError` where the directory is not empty or something given makes no sense.
    """
    directory = Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} is not an empty directory; take another")
    chain = testnet.chain()
    if not chain.genesis.staking.epoch_ms:
        raise ConfigError(
            "this testnet has one epoch for ever, in which nobody can bond; make one with epochs: "
            "trilemma init --epoch-s 3600"
        )
    name = name or directory.name
    host = parse_address(testnet.of_role("node")[0].peer)[0]
    entries = testnet.processes
    taken = {parse_address(each)[1] for one in entries for each in (one.public, one.peer) if each}
    found = iter(free_ports(host, 2, taken))
    public = public or _join(host, next(found))
    peer = peer or _join(host, next(found))
    for each in (public, peer):
        parse_address(each)
    key = Key.generate() if key_file is None else load_key(key_file)
    if key.public.hex() in (one.public_key for one in chain.genesis.validators):
        raise ConfigError(f"the key in {key_file} is that of a validator of genesis")
    made = JoiningValidator(directory, key.address, public, peer)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_key(key, made.key_path)
        pem = ssl.DER_cert_to_PEM_cert(make_certificate(key, name))
        (directory / CERTIFICATE_NAME).write_text(pem, encoding="ascii")
        made.config_path.write_text(_config(testnet, made, name), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {directory}: {error.strerror}") from None
    load_chain(load_config(made.config_path))
    return made


def _config(testnet: Testnet, made: JoiningValidator, name: str) -> str:
    """The TOML of the validator; it finds the others where those of genesis listen."""
    first = load_config(testnet.config_path(testnet.of_role("node")[0].name))
    fields: list[tuple[str, str | int | bool | list[str]]] = [
        ("role", "node"),
        ("name", name),
        ("index", JOINING),
        ("genesis", str(testnet.genesis_path)),
        ("key", KEY_NAME),
        ("certificate", CERTIFICATE_NAME),
        ("data", DATA_NAME),
        ("public", made.public),
        ("peer_listen", made.peer),
        ("validators", testnet.addresses("node")),
        ("log_level", first.log_level),
        ("log_json", first.log_json),
    ]
    # A JSON value of these kinds is a TOML value too.
    lines = [f"{field} = {json.dumps(value)}" for field, value in fields]
    for entry in testnet.of_role("node"):
        lines += ["", "[[peers]]", f"name = {json.dumps(entry.name)}"]
        lines.append(f"address = {json.dumps(entry.peer)}")
    return "\n".join(lines) + "\n"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
