"""What the transactions of a rotation cost: arithmetic over the fees of genesis."""

from __future__ import annotations

from protocol.genesis import CASH_MOVE_LIMIT, Chain
from protocol.keys import Key
from protocol.settlement import Bond, LedgerAction, OutboxEntry, Payout, Unbond, sign_action

TIMES = 10
"""The new key can pay each of its steps so often: one that is refused has paid too, and its
unbonding, when it is exchanged itself, comes out of the same balance."""

_LARGE = 1 << 62
"""A number as long as numbers get."""

_PATH = 32
"""Hashes that prove one of so many withdrawals as no batch holds."""


def fee_uusd(chain: Chain, key: Key, action: LedgerAction) -> int:
    """Least fee of a transaction of `key` with this action, whatever its nonce will be."""
    return chain.genesis.fees.least_uusd(len(sign_action(key, chain, _LARGE, action)))


def fees_uusd(chain: Chain, key: Key, bond: Bond) -> int:
    """What a new key needs beyond its stake: it has itself paid out, bonds, and unbonds one day."""
    paid = OutboxEntry(_LARGE, _LARGE, key.address, CASH_MOVE_LIMIT)
    steps = Payout(_LARGE, paid, [bytes(32)] * _PATH), bond, Unbond(bond.amount_uusd)
    return TIMES * sum(fee_uusd(chain, key, step) for step in steps)
