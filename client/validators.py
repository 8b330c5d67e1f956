"""Validators as a client sees them: proven leaves of the ledger, and changes of one's own stake."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from client.light import VerifiedLedger
from client.sdk import Exchange
from client.units import utc
from execution.process_light import CHECKPOINT_NAME, LightFollower
from net.tls import certificate_public_key
from protocol.errors import ConfigError
from protocol.keys import Key, address_of
from protocol.ledger_leaves import ValidatorLeaf, decode_validator, validator_key
from protocol.messages import Committed, ValidatorsRequest, ValidatorsView
from protocol.settlement import Bond, Unbond, Unjail
from store.config import load_config, parse_address

KEYS_AT_ONCE = 128
"""Leaves that are proven by one answer."""

CERTIFICATE_SUFFIX = ".crt"
"""A validator's certificate lies beside its key, in PEM form."""


class UnbondingView(msgspec.Struct, frozen=True):
    """Stake on its way out; `free_ms` 0: from the end of the epoch on it will be counted."""

    amount_uusd: int
    free_ms: int


class ValidatorView(msgspec.Struct, frozen=True):
    """A validator.

    `name` is that of genesis or of a process of the testnet, or empty; `index` its place among the
    members of the current epoch (None: no member), `voting_uusd` its weight there; `stake_uusd`
    what counts in the next one unless it is jailed.
    """

    name: str
    address: str
    public_key: str
    index: int | None
    voting_uusd: int
    stake_uusd: int
    jailed: bool
    jailed_until_ms: int
    unbonding: list[UnbondingView]
    peer: str


class ValidatorSetView(msgspec.Struct, frozen=True):
    """The validators at a ledger height. Everything is proven, but not that none is left out."""

    epoch: int
    ledger_height: int
    ends_ms: int
    validators: list[ValidatorView]


async def validator_set(exchange: Exchange) -> ValidatorSetView:
    """The validators as the ledger proves them; members first, by their weight.

    Raises `Rejected` for a proof that does not hold, `Unreachable`, `ConfigError`.
    """
    node = exchange.channel("node")
    # Who there is, is only a hint; what each of them has, is proven.
    hint = await node.ask(ValidatorsView, ValidatorsRequest)
    names = _names(exchange)
    follower = _follower(exchange)
    keys = list(dict.fromkeys([*names, *hint.keys]))
    leaves, height = await _leaves(follower, keys)
    members = follower.client.members
    missing = [key for key in members.keys if key not in leaves]
    if missing:
        more, height = await _leaves(follower, missing)
        leaves.update(more)
        members = follower.client.members
    weights = dict(zip(members.keys, members.stakes, strict=True))
    shown = [
        _view(leaf, names.get(key, ""), members.index_of(key), weights.get(key, 0))
        for key, leaf in leaves.items()
        if leaf is not None
    ]
    shown.sort(key=lambda one: (-one.voting_uusd, -one.stake_uusd, one.public_key))
    return ValidatorSetView(members.epoch, height, members.ends_ms or 0, shown)


def _names(exchange: Exchange) -> dict[bytes, str]:
    """Names by public key: those of genesis, but where a process of the testnet has another key by
    now, that key has its name."""
    genesis = exchange.chain.genesis.validators
    names = {bytes.fromhex(one.public_key): one.name for one in genesis}
    testnet = exchange.testnet
    if testnet is None:
        return names
    for entry in testnet.of_role("node"):
        certificate = read_certificate_beside(testnet.key_path(entry.name))
        if certificate is not None:
            names = {key: "" if name == entry.name else name for key, name in names.items()}
            names[certificate_public_key(certificate)] = entry.name
    return names


def _follower(exchange: Exchange) -> LightFollower:
    testnet = exchange.testnet
    kept = None if testnet is None else testnet.directory / CHECKPOINT_NAME
    return VerifiedLedger(exchange, kept).light


async def _leaves(
    follower: LightFollower, keys: Sequence[bytes]
) -> tuple[dict[bytes, ValidatorLeaf | None], int]:
    """Proven leaves of validators by public key, and the ledger height of the last proof."""
    found: dict[bytes, ValidatorLeaf | None] = {}
    height = 0
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[start : start + KEYS_AT_ONCE]
        proven = await follower.leaves([validator_key(address_of(key)) for key in some])
        height = proven.height
        for key in some:
            raw = proven.raw(validator_key(address_of(key)))
            found[key] = None if raw is None else decode_validator(raw)
    return found, height


def _view(leaf: ValidatorLeaf, name: str, index: int | None, weight: int) -> ValidatorView:
    return ValidatorView(
        name,
        address_of(leaf.public_key).hex(),
        leaf.public_key.hex(),
        index,
        weight,
        leaf.stake_uusd,
        leaf.jailed_until_ms > 0,
        leaf.jailed_until_ms,
        [UnbondingView(one.amount_uusd, one.free_ms) for one in leaf.unbonding],
        leaf.address,
    )


async def bond(
    exchange: Exchange, key: Key, amount_uusd: int, address: str, certificate: bytes | None
) -> Committed:
    """Add to the stake of the key's validator, or make it one.

    Where `address` or `certificate` is left away, that of the ledger stays in force; a validator of
    the testnet's genesis, of which the ledger has no address, gets that of the testnet. Raises
    `ConfigError` where there is none yet, `TransactionRejected` where the ledger refuses.
    """
    if address:
        parse_address(address)
    if not address or certificate is None:
        leaves, _ = await _leaves(_follower(exchange), [key.public])
        known = leaves[key.public]
        if known is None:
            raise ConfigError(
                "the ledger does not know this validator yet: give --address, and have its "
                f"certificate beside the key ({CERTIFICATE_SUFFIX}); make one with: "
                "trilemma validator init"
            )
        address = address or known.address or _peer_address(exchange, key.public)
        certificate = known.certificate if certificate is None else certificate
        if not address:
            raise ConfigError(
                "the ledger knows no address of this validator, as of those of genesis: give "
                "--address HOST:PORT, its peer_listen"
            )
    return await exchange.ledger.send(key, Bond(amount_uusd, certificate, address))


def _peer_address(exchange: Exchange, public_key: bytes) -> str:
    """Where the testnet's validators dial one of genesis, which between containers is not where
    this host does; empty for any other key."""
    testnet, members = exchange.testnet, exchange.chain.genesis.validators
    names = [one.name for one in members if bytes.fromhex(one.public_key) == public_key]
    if testnet is None or not names:
        return ""
    peers = load_config(testnet.config_path(testnet.of_role("node")[0].name)).peers
    return next((peer.address for peer in peers if peer.name == names[0]), "")


async def unbond(exchange: Exchange, key: Key, amount_uusd: int) -> Committed:
    """Take stake out; all of it (0 stands for that) means to leave."""
    if not amount_uusd:
        leaves, _ = await _leaves(_follower(exchange), [key.public])
        known = leaves[key.public]
        amount_uusd = 0 if known is None else known.stake_uusd
    return await exchange.ledger.send(key, Unbond(amount_uusd))


async def unjail(exchange: Exchange, key: Key) -> Committed:
    """Return to the set from the next epoch on."""
    return await exchange.ledger.send(key, Unjail())


def read_certificate_beside(key_path: Path) -> bytes | None:
    """The certificate (DER) beside a key file, None where there is none; raises `ConfigError`."""
    path = key_path.with_suffix(CERTIFICATE_SUFFIX)
    if not path.exists():
        return None
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {path}: {error.strerror}") from None
    except (UnicodeDecodeError, ValueError):
        raise ConfigError(f"the certificate {path} is not in PEM form") from None


def describe(shown: ValidatorSetView) -> list[dict[str, Any]]:
    """Rows for a table: name, weight, stake and state of each validator."""
    rows = []
    for one in shown.validators:
        state = "validates" if one.voting_uusd else "waits" if one.stake_uusd else "left"
        if one.jailed:
            state += f", jailed until {utc(one.jailed_until_ms)} of the ledger's time"
        rows.append(
            {
                "name": one.name or one.address[:12],
                "voting_uusd": one.voting_uusd,
                "stake_uusd": one.stake_uusd,
                "unbonding_uusd": sum(each.amount_uusd for each in one.unbonding),
                "state": state,
                "address": one.address,
            }
        )
    return rows
