"""Keys and values of the state's leaves: everything that influences a later result.

Keys start with a byte for their kind and have one length per kind, so no key is a prefix of
another. Numbers are big-endian. Values are canonical MessagePack arrays.
"""

from __future__ import annotations

from struct import Struct

from protocol.actions import BUY, OPEN
from protocol.codec import Decoder, Wire
from protocol.events import Result

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

CLOCK_KEY = GLOBAL + b"\x00"
COUNTERS_KEY = GLOBAL + b"\x01"
MONEY_KEY = GLOBAL + b"\x02"
RECEIPTS_KEY = GLOBAL + b"\x03"
BACKSTOP_KEY = GLOBAL + b"\x04"
TURN_KEY = GLOBAL + b"\x05"

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
    """An open position: signed size, what it cost, and the funding index it is settled to."""

    size_lots: int
    cost_uusd: int
    funding_index: int


class OrderLeaf(Wire, frozen=True):
    """A resting order; market, side, price and id are in its key. `link`: id of the order or
    trigger it is linked with (0: none)."""

    account: int
    remaining_lots: int
    client_id: int
    flags: int
    expires_ms: int
    link: int


class MarketLeaf(Wire, frozen=True):
    """Prices (0: none yet), open interest, the mode that guardians set, and staleness."""

    mark_ticks: int
    oracle_ticks: int
    last_ticks: int
    open_interest_lots: int
    voted_mode: int
    stale: bool


class PricingLeaf(Wire, frozen=True):
    """What prices, funding and settlement of a market carry from block to block.

    `ema`: moving average of impact mid - oracle in 2^-16 ticks, at time `sampled_ms`. `wild_ms`:
    since when the median deviates, to the level of `wild_ticks` (0: it does not). `fresh_ms`: since
    when prices are fresh (0: they are not, or the market is not reopening). `reopened_ms`: when the
    shard came back after a gap (0: long ago). `mode`: the mode in force. Premium samples since the
    last payment: `premium_ppb` is their sum. `funding_index`: thousandths of a micro-dollar per
    long lot. Dated futures: `average_ticks_ms` is the sum of oracle price x milliseconds over
    `averaged_ms`; `settled_ticks` is not 0 once the market has expired.
    """

    ema: int = 0
    sampled_ms: int = 0
    wild_ms: int = 0
    wild_ticks: int = 0
    fresh_ms: int = 0
    reopened_ms: int = 0
    mode: int = OPEN
    premium_ppb: int = 0
    premium_samples: int = 0
    next_sample_ms: int = 0
    next_payment_ms: int = 0
    rate_ppb: int = 0
    funding_index: int = 0
    average_ticks_ms: int = 0
    averaged_ms: int = 0
    settled_ticks: int = 0


class SettingsLeaf(Wire, frozen=True):
    """An account's leverage cap in a market, its market-maker protection, and the fills counted
    since the window began."""

    leverage: int = 0
    fills: int = 0
    window_ms: int = 0
    counted: int = 0
    began_ms: int = 0


class TriggerLeaf(Wire, frozen=True):
    """A waiting trigger; market and id are in its key. `link`: id of the order or trigger that goes
    when this one does. `parent`: id of the bracket's resting parent (0: none, or gone). `due`: the
    mark has touched it, and its turn to fire comes in a later block.

    Trailing ones: `armed` is the place in the order of arming within market and side; the best mark
    since then is the best `best_ticks` of those of this place and later ones that are not due."""

    account: int
    client_id: int
    side: int
    kind: int
    trigger_ticks: int
    limit_ticks: int
    slippage_ppm: int
    size_lots: int
    flags: int
    expires_ms: int
    link: int
    parent: int
    best_ticks: int
    armed: int
    due: bool


class TwapLeaf(Wire, frozen=True):
    """A running TWAP; its id is in its key."""

    account: int
    client_id: int
    market: int
    side: int
    size_lots: int
    done_lots: int
    flags: int
    began_ms: int
    duration_ms: int
    next_ms: int


class DeadManLeaf(Wire, frozen=True):
    """A dead-man's switch: when it goes off (0: off), and how often it did on UTC day `day`."""

    time_ms: int
    day: int
    fired: int


class VolumeLeaf(Wire, frozen=True):
    """Traded notional of a master account: (UTC day, micro-dollars), oldest first."""

    days: list[tuple[int, int]]


class RealisedLeaf(Wire, frozen=True):
    """Realised profit of a master account in a market: (hour since the epoch, micro-dollars)."""

    hours: list[tuple[int, int]]


class DistressLeaf(Wire, frozen=True):
    """An account below maintenance: since when, and of which large positions a part was sold:
    (market, lots of the first part still to sell, when the last of these was sold or 0), by market.
    """

    since_ms: int
    parts: list[tuple[int, int, int]]


class VoteLeaf(Wire, frozen=True):
    """A guardian's vote for the mode of a market."""

    mode: int


class ReceiptsLeaf(Wire, frozen=True):
    """All liquidation receipts: how many, and the roots of the perfect subtrees of their RFC 6962
    tree, largest first."""

    count: int
    peaks: list[bytes]


class BackstopLeaf(Wire, frozen=True):
    """When the backstop next sells a part of what it holds."""

    next_unwind_ms: int


class TurnLeaf(Wire, frozen=True):
    """Where the share of liquidation for those waiting longest goes on: behind this account, which
    waits since then."""

    since_ms: int
    account: int


class OracleLeaf(Wire, frozen=True):
    """The latest price of one oracle for one market, its nonce (the time of observation), the time
    of its block and its confidence."""

    price_ticks: int
    nonce_ms: int
    time_ms: int
    confidence_ppm: int


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
decode_pricing: Decoder[PricingLeaf] = Decoder(PricingLeaf)
decode_settings: Decoder[SettingsLeaf] = Decoder(SettingsLeaf)
decode_trigger: Decoder[TriggerLeaf] = Decoder(TriggerLeaf)
decode_twap: Decoder[TwapLeaf] = Decoder(TwapLeaf)
decode_dead_man: Decoder[DeadManLeaf] = Decoder(DeadManLeaf)
decode_volume: Decoder[VolumeLeaf] = Decoder(VolumeLeaf)
decode_realised: Decoder[RealisedLeaf] = Decoder(RealisedLeaf)
decode_distress: Decoder[DistressLeaf] = Decoder(DistressLeaf)
decode_vote: Decoder[VoteLeaf] = Decoder(VoteLeaf)
decode_receipts: Decoder[ReceiptsLeaf] = Decoder(ReceiptsLeaf)
decode_backstop: Decoder[BackstopLeaf] = Decoder(BackstopLeaf)
decode_turn: Decoder[TurnLeaf] = Decoder(TurnLeaf)


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
