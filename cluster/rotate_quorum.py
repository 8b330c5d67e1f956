"""Whether a chain goes on while one validator is exchanged for another: arithmetic over stakes."""

from __future__ import annotations

from collections.abc import Mapping, Set

from client.faults import NoProgress
from client.validators import ValidatorSetView
from protocol.errors import ConfigError
from protocol.genesis import Staking


def next_stakes(found: ValidatorSetView, rules: Staking) -> dict[str, int]:
    """Stakes by public key (hex) that the next epoch begins with, as the ledger chooses them."""
    able = [
        one for one in found.validators if one.stake_uusd >= rules.min_stake_uusd and not one.jailed
    ]
    able.sort(key=lambda one: (-one.stake_uusd, one.public_key))
    return {one.public_key: one.stake_uusd for one in able[: rules.max_validators]}


def require_quorum(
    stakes: Mapping[str, int], names: Mapping[str, str], up: Set[str], old: str, new: str,
    stake_uusd: int,
) -> None:  # fmt: skip
    """Require that the next epoch has a quorum while `new`, in the place of `old`, is down.

    `stakes` are those of the next epoch as it stands, `up` who takes part now, all by public key;
    `names` are for the message. Raises `ConfigError` where it has none even with all others up,
    `NoProgress` where it has none now.
    """
    others = {key: stake for key, stake in stakes.items() if key not in (old, new)}
    total_uusd = sum(others.values()) + stake_uusd
    if 3 * sum(others.values()) <= 2 * total_uusd:
        raise ConfigError(
            f"the others have {sum(others.values())} uusd of {total_uusd} uusd of stake, and more "
            "than two thirds are needed while this validator restarts with its new key: the chain "
            "would stand still; bond more validators first"
        )
    if 3 * sum(stake for key, stake in others.items() if key in up) <= 2 * total_uusd:
        absent = ", ".join(names.get(key, key[:16]) for key in others if key not in up)
        raise NoProgress(
            f"without {absent}, which do not take part now, the others are no quorum while this "
            "validator restarts with its new key; restart or repair them first"
        )
