"""Keys and values of the state's leaves: everything that influences a later result.

Keys start with a byte for their kind and have one length per kind, so no key is a prefix of
another. Numbers are big-endian. Values are canonical MessagePack arrays.
"""

from __future__ import annotations

from struct import Struct

from protocol.actions import BUY
from protocol.codec import Decoder, Wire
from protocol.events import Result

ACCOUNT = b"a"
GLOBAL = b"g"
AGENT = b"k"
MARKET = b"m"
NONCE = b"n"
ORDER = b"o"
POSITION = b"p"
ORACLE = b"r"

CLOCK_KEY = GLOBAL + b"\x00"
COUNTERS_KEY = GLOBAL + b"\x01"
MONEY_KEY = GLOBAL + b"\x02"

_PRICE_MASK = (1 << 32) - 1

_account = Struct(">cQ")
_agent = Struct(">cQ32s")
_market = Struct(">cH")
_nonce = Struct(">c32sB")
_order = Struct(">cHBIQ")
_position = Struct(">cQH")
_oracle = Struct(">cHH")

KEY_BYTES = {
    ACCOUNT: _account.size,
    GLOBAL: 2,
    AGENT: _agent.size,
    MARKET: _market.size,
    NONCE: _nonce.size,
    ORDER: _order.size,
    POSITION: _position.size,
    ORACLE: _oracle.size,
}
"""Length of the keys of each kind, kind byte included."""


class ClockLeaf(Wire, frozen=True):
    """The last executed block."""

    height: int
    time_ms: int


class CountersLeaf(Wire, frozen=True):
    """The next order id and outbox number, and inbox entries consumed so far."""

    next_order_id: int
    next_outbox: int
    inbox_cursor: int


class MoneyLeaf(Wire, frozen=True):
    """Micro-dollars that ever came in and went out; their difference is in the accounts."""

    deposits_uusd: int
    withdrawals_uusd: int


class AccountLeaf(Wire, frozen=True):
    """Address (empty for system accounts) and cash."""

    address: bytes
    cash_uusd: int


class PositionLeaf(Wire, frozen=True):
    """An open position: signed size and what it cost."""

    size_lots: int
    cost_uusd: int


class OrderLeaf(Wire, frozen=True):
    """A resting order; market, side, price and id are in its key."""

    account: int
    remaining_lots: int
    client_id: int


class MarketLeaf(Wire, frozen=True):
    """Prices (0: none yet) and open interest of a market."""

    mark_ticks: int
    oracle_ticks: int
    last_ticks: int
    open_interest_lots: int


class OracleLeaf(Wire, frozen=True):
    """The latest price of one oracle for one market, its nonce and the time of its block."""

    price_ticks: int
    nonce_ms: int
    time_ms: int


class AgentLeaf(Wire, frozen=True):
    """Expiry of an agent key; 0: revoked for ever."""

    expires_ms: int


class NonceLeaf(Wire, frozen=True):
    """An executed batch of a signer: its nonce, identity, account and results."""

    nonce_ms: int
    batch_id: bytes
    account: int
    results: list[Result]


decode_clock: Decoder[ClockLeaf] = Decoder(ClockLeaf)
decode_counters: Decoder[CountersLeaf] = Decoder(CountersLeaf)
decode_money: Decoder[MoneyLeaf] = Decoder(MoneyLeaf)
decode_account: Decoder[AccountLeaf] = Decoder(AccountLeaf)
decode_position: Decoder[PositionLeaf] = Decoder(PositionLeaf)
decode_order: Decoder[OrderLeaf] = Decoder(OrderLeaf)
decode_market: Decoder[MarketLeaf] = Decoder(MarketLeaf)
decode_oracle: Decoder[OracleLeaf] = Decoder(OracleLeaf)
decode_agent: Decoder[AgentLeaf] = Decoder(AgentLeaf)
decode_nonce: Decoder[NonceLeaf] = Decoder(NonceLeaf)


def account_key(account: int) -> bytes:
    """Key of an account."""
    return _account.pack(ACCOUNT, account)


def agent_key(account: int, agent: bytes) -> bytes:
    """Key of an agent (32-byte public key) of an account."""
    return _agent.pack(AGENT, account, agent)


def market_key(market: int) -> bytes:
    """Key of a market."""
    return _market.pack(MARKET, market)


def nonce_key(signer: bytes, slot: int) -> bytes:
    """Key of one of a signer's 100 nonce slots."""
    return _nonce.pack(NONCE, signer, slot)


def order_key(market: int, side: int, price_ticks: int, order_id: int) -> bytes:
    """Key of a resting order: its order among the keys of a side is its priority."""
    price = _PRICE_MASK - price_ticks if side == BUY else price_ticks
    return _order.pack(ORDER, market, side, price, order_id)


def position_key(account: int, market: int) -> bytes:
    """Key of a position."""
    return _position.pack(POSITION, account, market)


def oracle_key(market: int, oracle: int) -> bytes:
    """Key of the price of an oracle (its index in genesis) for a market."""
    return _oracle.pack(ORACLE, market, oracle)


def parse_account_key(key: bytes) -> int:
    """Account of an account key."""
    return int.from_bytes(key[1:], "big")


def parse_agent_key(key: bytes) -> tuple[int, bytes]:
    """(account, agent) of an agent key."""
    _, account, agent = _agent.unpack(key)
    return account, agent


def parse_market_key(key: bytes) -> int:
    """Market of a market key."""
    return int.from_bytes(key[1:], "big")


def parse_nonce_key(key: bytes) -> tuple[bytes, int]:
    """(signer, slot) of a nonce key."""
    _, signer, slot = _nonce.unpack(key)
    return signer, slot


def parse_order_key(key: bytes) -> tuple[int, int, int, int]:
    """(market, side, price_ticks, order_id) of an order key."""
    _, market, side, price, order_id = _order.unpack(key)
    return market, side, _PRICE_MASK - price if side == BUY else price, order_id


def parse_position_key(key: bytes) -> tuple[int, int]:
    """(account, market) of a position key."""
    _, account, market = _position.unpack(key)
    return account, market


def parse_oracle_key(key: bytes) -> tuple[int, int]:
    """(market, oracle) of an oracle key."""
    _, market, oracle = _oracle.unpack(key)
    return market, oracle
