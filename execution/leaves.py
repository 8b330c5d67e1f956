"""Values of the state's leaves: everything that influences a later result, and their keys.

Values are canonical MessagePack arrays; the keys are those of `execution.leaf_keys`.
"""

from __future__ import annotations

from execution.leaf_keys import ACCOUNT as ACCOUNT
from execution.leaf_keys import AGENT as AGENT
from execution.leaf_keys import BACKSTOP_KEY as BACKSTOP_KEY
from execution.leaf_keys import CLOCK_KEY as CLOCK_KEY
from execution.leaf_keys import COUNTERS_KEY as COUNTERS_KEY
from execution.leaf_keys import DEAD_MAN as DEAD_MAN
from execution.leaf_keys import DISTRESS as DISTRESS
from execution.leaf_keys import GLOBAL as GLOBAL
from execution.leaf_keys import KEY_BYTES as KEY_BYTES
from execution.leaf_keys import MARKET as MARKET
from execution.leaf_keys import MONEY_KEY as MONEY_KEY
from execution.leaf_keys import NONCE as NONCE
from execution.leaf_keys import ORACLE as ORACLE
from execution.leaf_keys import ORDER as ORDER
from execution.leaf_keys import POSITION as POSITION
from execution.leaf_keys import PRICING as PRICING
from execution.leaf_keys import PROGRESS_KEY as PROGRESS_KEY
from execution.leaf_keys import REALISED as REALISED
from execution.leaf_keys import REALISED_NOW as REALISED_NOW
from execution.leaf_keys import RECEIPTS_KEY as RECEIPTS_KEY
from execution.leaf_keys import SETTINGS as SETTINGS
from execution.leaf_keys import TRIGGER as TRIGGER
from execution.leaf_keys import TURN_KEY as TURN_KEY
from execution.leaf_keys import TWAP as TWAP
from execution.leaf_keys import VOLUME as VOLUME
from execution.leaf_keys import VOTE as VOTE
from execution.leaf_keys import account_key as account_key
from execution.leaf_keys import agent_key as agent_key
from execution.leaf_keys import dead_man_key as dead_man_key
from execution.leaf_keys import distress_key as distress_key
from execution.leaf_keys import market_key as market_key
from execution.leaf_keys import nonce_key as nonce_key
from execution.leaf_keys import oracle_key as oracle_key
from execution.leaf_keys import order_key as order_key
from execution.leaf_keys import parse_account_key as parse_account_key
from execution.leaf_keys import parse_agent_key as parse_agent_key
from execution.leaf_keys import parse_market_key as parse_market_key
from execution.leaf_keys import parse_nonce_key as parse_nonce_key
from execution.leaf_keys import parse_oracle_key as parse_oracle_key
from execution.leaf_keys import parse_order_key as parse_order_key
from execution.leaf_keys import parse_position_key as parse_position_key
from execution.leaf_keys import parse_trigger_key as parse_trigger_key
from execution.leaf_keys import position_key as position_key
from execution.leaf_keys import pricing_key as pricing_key
from execution.leaf_keys import realised_key as realised_key
from execution.leaf_keys import realised_now_key as realised_now_key
from execution.leaf_keys import settings_key as settings_key
from execution.leaf_keys import trigger_key as trigger_key
from execution.leaf_keys import twap_key as twap_key
from execution.leaf_keys import volume_key as volume_key
from execution.leaf_keys import vote_key as vote_key
from protocol.actions import OPEN
from protocol.codec import Decoder, Wire
from protocol.events import Result


class ClockLeaf(Wire, frozen=True):
    """The last executed block."""

    height: int
    time_ms: int


class CountersLeaf(Wire, frozen=True):
    """The next order id and outbox number, inbox entries consumed so far, and the running hash of
    the outbox."""

    next_order_id: int
    next_outbox: int
    inbox_cursor: int
    outbox_hash: bytes


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
    since when the median deviates, to `wild_ticks` (0: it does not); `from_ms`, `from_ticks`: see
    `margin.oracle.Level`. `fresh_ms`: since when prices are fresh (0: they are not, or the market
    is not reopening). `reopened_ms`: when the shard came back after a gap (0: long ago). `mode`:
    the mode in force. Premium samples since the last payment: `premium_ppb` is their sum.
    `funding_index`: thousandths of a micro-dollar per long lot. Dated futures: `average_ticks_ms`
    is the sum of oracle price x milliseconds over `averaged_ms`; `settled_ticks`: 0 until expiry.
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
    from_ms: int = 0
    from_ticks: int = 0


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


class ProgressLeaf(Wire, frozen=True):
    """Where the execution of a block stands between two of its steps; no block ends with it.

    `steps`: how many are done. `previous_ms`: time of the block before. `fills_left`, `looks_left`,
    `expiries_left`: what the block may still do. `results`: of the actions of the batch that has
    begun (None: none has, or it was refused). `left`: accounts that something left, by number.
    """

    steps: int
    previous_ms: int
    fills_left: int
    looks_left: int
    expiries_left: int
    results: list[Result] | None
    left: list[int]


class RealisedNowLeaf(Wire, frozen=True):
    """What a master account has realised in a market in the block so far, in micro-dollars."""

    uusd: int


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
decode_progress: Decoder[ProgressLeaf] = Decoder(ProgressLeaf)
decode_realised_now: Decoder[RealisedNowLeaf] = Decoder(RealisedNowLeaf)
