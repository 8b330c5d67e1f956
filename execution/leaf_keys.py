"""Keys of the state's leaves.

A key starts with a byte for its kind and has one length per kind, so no key is a prefix of another.
Numbers are big-endian.
"""

from __future__ import annotations

from struct import Struct

from protocol.actions import BUY

ACCOUNT = b"a"
VOTE = b"c"
DEAD_MAN = b"d"
PRICING = b"f"
GLOBAL = b"g"
AGENT = b"k"
DISTRESS = b"l"
MARKET = b"m"
NONCE = b"n"
ORDER = b"o"
POSITION = b"p"
ORACLE = b"r"
SETTINGS = b"s"
TRIGGER = b"t"
VOLUME = b"v"
TWAP = b"w"
REALISED = b"y"
REALISED_NOW = b"z"

CLOCK_KEY = GLOBAL + b"\x00"
COUNTERS_KEY = GLOBAL + b"\x01"
MONEY_KEY = GLOBAL + b"\x02"
RECEIPTS_KEY = GLOBAL + b"\x03"
BACKSTOP_KEY = GLOBAL + b"\x04"
TURN_KEY = GLOBAL + b"\x05"
PROGRESS_KEY = GLOBAL + b"\x06"

_PRICE_MASK = (1 << 32) - 1

_account = Struct(">cQ")
"""Also dead-man's switches, distressed accounts, volumes of masters, and TWAPs by their id."""
_agent = Struct(">cQ32s")
_market = Struct(">cH")
_nonce = Struct(">c32sB")
_order = Struct(">cHBIQ")
_position = Struct(">cQH")
_oracle = Struct(">cHH")
"""Also guardians' votes."""
_trigger = Struct(">cHQ")

KEY_BYTES = {
    ACCOUNT: _account.size,
    VOTE: _oracle.size,
    DEAD_MAN: _account.size,
    PRICING: _market.size,
    DISTRESS: _account.size,
    SETTINGS: _position.size,
    TRIGGER: _trigger.size,
    VOLUME: _account.size,
    TWAP: _account.size,
    REALISED: _position.size,
    REALISED_NOW: _position.size,
    GLOBAL: 2,
    AGENT: _agent.size,
    MARKET: _market.size,
    NONCE: _nonce.size,
    ORDER: _order.size,
    POSITION: _position.size,
    ORACLE: _oracle.size,
}
"""Length of the keys of each kind, kind byte included."""


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


def vote_key(market: int, guardian: int) -> bytes:
    """Key of a guardian's vote (its index in genesis) for a market."""
    return _oracle.pack(VOTE, market, guardian)


def pricing_key(market: int) -> bytes:
    """Key of a market's pricing."""
    return _market.pack(PRICING, market)


def settings_key(account: int, market: int) -> bytes:
    """Key of an account's settings in a market."""
    return _position.pack(SETTINGS, account, market)


def realised_key(account: int, market: int) -> bytes:
    """Key of a master account's realised profit in a market."""
    return _position.pack(REALISED, account, market)


def realised_now_key(account: int, market: int) -> bytes:
    """Key of what a master account realised in a market in the block so far."""
    return _position.pack(REALISED_NOW, account, market)


def trigger_key(market: int, trigger_id: int) -> bytes:
    """Key of a trigger: market, then placement."""
    return _trigger.pack(TRIGGER, market, trigger_id)


def twap_key(twap_id: int) -> bytes:
    """Key of a TWAP."""
    return _account.pack(TWAP, twap_id)


def dead_man_key(account: int) -> bytes:
    """Key of an account's dead-man's switch."""
    return _account.pack(DEAD_MAN, account)


def volume_key(master: int) -> bytes:
    """Key of a master account's volumes."""
    return _account.pack(VOLUME, master)


def distress_key(account: int) -> bytes:
    """Key of an account below maintenance."""
    return _account.pack(DISTRESS, account)


def parse_account_key(key: bytes) -> int:
    """Number in the key of an account, a dead-man's switch, volumes, distress or a TWAP."""
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
    """(account, market) of the key of a position, of settings or of realised profit."""
    _, account, market = _position.unpack(key)
    return account, market


def parse_oracle_key(key: bytes) -> tuple[int, int]:
    """(market, number) of an oracle's or vote's key."""
    _, market, oracle = _oracle.unpack(key)
    return market, oracle


def parse_trigger_key(key: bytes) -> tuple[int, int]:
    """(market, id) of a trigger key."""
    _, market, trigger_id = _trigger.unpack(key)
    return market, trigger_id
