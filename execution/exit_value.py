"""What an account is worth under a state root, for whoever has nothing but the root and proofs.

It is the equity that the engine would compute there: cash, positions at the marks (at the price
once a market has expired) and unsettled funding. A stale market's mark counts as it stands:
both sides of a position leave at one price, so that claims stay a share of the cash there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from execution import leaves as lv
from margin.market import Market
from protocol.errors import Code, Rejected
from protocol.genesis import Genesis
from protocol.settlement import FIRST_ACCOUNT, master_of
from protocol.tree_proof import TreeProof, verify_first, verify_proof


class ExitValue(NamedTuple):
    """An account's equity and its master's address, and the cash of all accounts together."""

    value_uusd: int
    address: bytes
    shard_cash_uusd: int


def position_prefix(account: int) -> bytes:
    """What the keys of an account's positions begin with, and no others."""
    return lv.position_key(account, 0)[:-2]


def exit_keys(account: int, positions: Iterable[bytes]) -> list[bytes]:
    """Keys of the leaves that value an account whose positions have these keys, but for the
    positions themselves."""
    keys = {lv.MONEY_KEY, lv.account_key(account), lv.account_key(master_of(account))}
    for key in positions:
        market = lv.parse_position_key(key)[1]
        keys |= {lv.market_key(market), lv.pricing_key(market)}
    return sorted(keys)


def read_exit_value(
    genesis: Genesis, root: bytes, account: int, positions: TreeProof, values: TreeProof
) -> ExitValue:
    """The worth of an account under a state root (32 bytes).

    `positions`: proof of the first leaves under `position_prefix`, as many as there are markets, so
    that none is left out; `values`: of `exit_keys`. Raises `Rejected`: `bad_proof` where one is of
    another root, hides anything or shows more than that; `unknown_account` where there is no such
    account, or it is the system's.
    """
    if not FIRST_ACCOUNT <= account < 1 << 63:
        raise Rejected(Code.UNKNOWN_ACCOUNT, "an account of the system belongs to nobody")
    held = verify_first(root, positions, position_prefix(account), len(genesis.markets))
    keys = exit_keys(account, [key for key, _ in held])
    shown = verify_proof(root, values, keys)
    raw, master = shown[lv.account_key(account)], shown[lv.account_key(master_of(account))]
    if raw is None or master is None:
        raise Rejected(Code.UNKNOWN_ACCOUNT, f"there is no account {account} under this root")
    value_uusd = lv.decode_account(raw).cash_uusd
    for key, leaf in held:
        number = lv.parse_position_key(key)[1]
        value_uusd += _position_uusd(genesis, shown, number, lv.decode_position(leaf))
    money = lv.decode_money(_required(shown, lv.MONEY_KEY))
    return ExitValue(
        value_uusd, lv.decode_account(master).address, money.deposits_uusd - money.withdrawals_uusd
    )


def _position_uusd(
    genesis: Genesis, shown: Mapping[bytes, bytes | None], number: int, position: lv.PositionLeaf
) -> int:
    """A position at its market's mark or settlement price, with its unsettled funding."""
    mark_ticks = lv.decode_market(_required(shown, lv.market_key(number))).mark_ticks
    row = shown[lv.pricing_key(number)]
    pricing = lv.PricingLeaf() if row is None else lv.decode_pricing(row)
    product = Market(genesis.markets[number]).product
    if pricing.settled_ticks:
        return product.settled_uusd(position.size_lots, pricing.settled_ticks)
    change = pricing.funding_index - position.funding_index
    funding_uusd = product.funding_uusd(position.size_lots, change)
    return product.value_uusd(position.size_lots, mark_ticks) + funding_uusd


def _required(shown: Mapping[bytes, bytes | None], key: bytes) -> bytes:
    value = shown[key]
    if value is None:
        raise Rejected(Code.BAD_PROOF, f"the state has no leaf {key.hex()}")
    return value
