"""Signed actions: what a client may ask the exchange to do.

A client signs an *action batch*: 1 to 100 actions of one account under one nonce. The envelope
carries the batch as bytes, so that everybody hashes, orders and stores exactly what was signed.
"""

from __future__ import annotations

from typing import Final

from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected
from protocol.keys import SCHEME_ED25519, Key, domain_hash

BUY: Final = 0
SELL: Final = 1

GTC: Final = 0
"""Good till cancelled: what does not fill rests."""
IOC: Final = 1
"""Immediate or cancel: what does not fill is cancelled."""
POST_ONLY: Final = 2
"""Rests or is rejected; never takes."""
FOK: Final = 3
"""Fill or kill: fills as a whole at once, or does nothing."""

REDUCE_ONLY: Final = 1
"""Order flag: only ever makes the position smaller; shrinks with it, and never flips it."""
STP_CANCEL_MAKER: Final = 0
STP_CANCEL_TAKER: Final = 2
STP_CANCEL_BOTH: Final = 4
STP_DECREMENT: Final = 6
"""Order flags: what happens when an incoming order meets one of its owner's. The resting one goes
(the default); what is left of the incoming one goes; both go; both shrink by the smaller size."""
STP_MODES: Final = 6
"""Mask of the mode of self-trade prevention."""
STP_MASTER: Final = 8
"""Order flag: all accounts of one master account count as the owner's, not this one alone."""
ORDER_FLAGS: Final = REDUCE_ONLY | STP_MODES | STP_MASTER
"""Every flag that a client may set."""
QUOTE: Final = 16
POSTED: Final = 32
"""Flags of resting orders, which no client sets: a mass quote placed it; it came in post-only, and
stays that when it is modified."""

STOP: Final = 0
"""Fires when the mark moves against: a sell at or below the trigger, a buy at or above it."""
TAKE_PROFIT: Final = 1
"""Fires when the mark moves in favour: a sell at or above the trigger, a buy at or below it."""
TRAILING: Final = 2
"""A stop whose trigger follows the best mark since it was armed, `trigger_ticks` behind it."""

ALL_MARKETS: Final = -1

CANCEL_ONLY: Final = 0
POST_ONLY_MODE: Final = 1
OPEN: Final = 2
REDUCE_ONLY_MODE: Final = 3
HALTED: Final = 4
"""Modes of a market. Halted: not even cancels. Reduce-only: what only reduces, and cancels."""

DEAD_MAN_LEAST_MS: Final = 5_000
"""A dead-man's switch is set at least so far ahead."""
DEAD_MAN_DAILY: Final = 10
"""It goes off at most so often in a UTC day, so that blocks are not filled with mass cancels."""
TWAP_SLICE_MS: Final = 30_000
"""Time between the slices of a TWAP order."""
TWAP_SLIPPAGE_PPM: Final = 30_000
"""Slippage bound of each slice."""
TWAP_CATCH_UP: Final = 3
"""A slice that makes up for unfilled ones is at most so many times the plain slice."""
TWAP_LONGEST_MS: Final = 24 * 3600 * 1000
MAX_QUOTES: Final = 50
"""Most quotes of one side in a mass quote."""

MAX_ACTIONS: Final = 100
"""Most actions in one signed batch."""

MAX_BATCH_BYTES: Final = 16 * 1024
"""Most bytes of one encoded signed batch."""

NONCE_PAST_MS: Final = 2 * 24 * 3600 * 1000
NONCE_FUTURE_MS: Final = 24 * 3600 * 1000
"""A millisecond nonce is valid inside (T - 2 days, T + 1 day), T the block time."""

NONCES_KEPT: Final = 100
"""The highest nonces of a signer that are kept, with their results."""


class Order(Wire, frozen=True, tag=1):
    """A limit order. `client_id` 0 means none; otherwise unique per account while it lives.

    `expires_ms` 0: none; otherwise no block later than it executes the action, and what rests is
    cancelled then (good till time). `flags`: see `ORDER_FLAGS`.
    """

    market: int
    side: int
    price_ticks: int
    size_lots: int
    tif: int = GTC
    client_id: int = 0
    flags: int = 0
    expires_ms: int = 0


class MarketOrder(Wire, frozen=True, tag=2):
    """Takes what is there up to `slippage_ppm` away from the mark; the rest is cancelled."""

    market: int
    side: int
    size_lots: int
    slippage_ppm: int
    client_id: int = 0
    flags: int = 0


class Cancel(Wire, frozen=True, tag=3):
    """Cancel a resting order, a trigger or a TWAP by its id."""

    market: int
    order_id: int


class CancelClient(Wire, frozen=True, tag=4):
    """Cancel a resting order, a trigger or a TWAP by the client id that the account gave it."""

    market: int
    client_id: int


class Reduce(Wire, frozen=True, tag=5):
    """Make a resting order smaller by `by_lots`; it keeps its priority. At zero it is gone."""

    market: int
    order_id: int
    by_lots: int


class Withdraw(Wire, frozen=True, tag=6):
    """Debit the account and write a numbered outbox entry payable to `address` on the ledger."""

    amount_uusd: int
    address: bytes


class ApproveAgent(Wire, frozen=True, tag=7):
    """Let `agent` (public key) trade for the account until `expires_ms`; it never withdraws."""

    agent: bytes
    expires_ms: int


class RevokeAgent(Wire, frozen=True, tag=8):
    """Take an agent's right away for ever."""

    agent: bytes


class OraclePrice(Wire, frozen=True, tag=9):
    """A price observed by an oracle of the genesis committee; takes effect before trading.

    The batch's nonce is the time of the observation. `confidence_ppm`: half-width of the source's
    confidence interval, in parts per million of the price.
    """

    market: int
    price_ticks: int
    confidence_ppm: int = 0


class Modify(Wire, frozen=True, tag=10):
    """Give a resting order a new price and remaining size. It keeps its id and its priority where
    the price stays and the size does not grow; otherwise a new order with its client id and flags
    takes its place, or, where that one is refused, the old one stays. A linked order only shrinks.
    """

    market: int
    order_id: int
    price_ticks: int
    size_lots: int


class CancelAll(Wire, frozen=True, tag=11):
    """Cancel all orders, triggers and TWAPs in a market, or in all (`ALL_MARKETS`)."""

    market: int


class MassQuote(Wire, frozen=True, tag=12):
    """Replace all quotes of the account in a market at once: (price_ticks, size_lots), best first.

    Quotes are post-only. All of it happens or nothing: where one quote is refused, the old ones
    stay. Empty lists take the quotes out.
    """

    market: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


class TriggerOrder(Wire, frozen=True, tag=13):
    """An order that waits for the mark, then enters as IOC market or as limit order.

    `kind`: `STOP`, `TAKE_PROFIT` or `TRAILING` (then `trigger_ticks` is the distance).
    `limit_ticks` 0: a market order bounded by `slippage_ppm` around the mark; otherwise a GTC
    limit order.
    """

    market: int
    side: int
    size_lots: int
    kind: int
    trigger_ticks: int
    limit_ticks: int = 0
    slippage_ppm: int = 0
    client_id: int = 0
    flags: int = 0
    expires_ms: int = 0


class Oco(Wire, frozen=True, tag=14):
    """One cancels other: a resting limit order or a trigger, and a trigger, of one market and side.

    The first fill, firing or cancel of one takes the other out.
    """

    first: Order | TriggerOrder
    second: TriggerOrder


class Bracket(Wire, frozen=True, tag=15):
    """An order with its exits: as the parent fills, a take-profit and a stop, one cancels other and
    reduce-only, wait with the size filled so far. Their side is opposite, their size 0."""

    parent: Order
    take_profit: TriggerOrder
    stop: TriggerOrder


class Twap(Wire, frozen=True, tag=16):
    """Execute `size_lots` evenly over `duration_ms`, in slices of `TWAP_SLICE_MS`."""

    market: int
    side: int
    size_lots: int
    duration_ms: int
    flags: int = 0
    client_id: int = 0


class ScheduleCancel(Wire, frozen=True, tag=17):
    """Dead-man's switch: cancel everything of the account at `time_ms`, unless it is set anew
    before; 0 switches it off."""

    time_ms: int


class SetLeverage(Wire, frozen=True, tag=18):
    """Cap the account's leverage in a market; 0 takes the cap away."""

    market: int
    leverage: int


class SetProtection(Wire, frozen=True, tag=19):
    """Market-maker protection: after `fills` fills of resting orders within `window_ms`, all of the
    account's orders in the market are cancelled; 0, 0 switches it off."""

    market: int
    fills: int
    window_ms: int


class Transfer(Wire, frozen=True, tag=20):
    """Move cash to another account of the same master account, which starts with it; or give it to
    the insurance fund or the backstop."""

    to_account: int
    amount_uusd: int


class TransferPosition(Wire, frozen=True, tag=21):
    """Move `size_lots` (signed) of a position, at what it cost, to another account of the same
    master, which holds nothing or the same direction there. No profit is realised by it."""

    to_account: int
    market: int
    size_lots: int


class SetMode(Wire, frozen=True, tag=22):
    """A guardian's vote for a market's mode, which changes when more than half of them agree."""

    market: int
    mode: int


Action = (
    Order | MarketOrder | Cancel | CancelClient | Reduce
    | Withdraw | ApproveAgent | RevokeAgent | OraclePrice
    | Modify | CancelAll | MassQuote | TriggerOrder | Oco | Bracket | Twap
    | ScheduleCancel | SetLeverage | SetProtection | Transfer | TransferPosition | SetMode
)  # fmt: skip


class ActionBatch(Wire, frozen=True):
    """What is signed: an account's actions, each with its own result.

    `nonce_ms` is the replay guard, unique per signer. `expires_ms` 0 means no expiry of its own;
    otherwise a block with a later time refuses the batch. Oracle batches use account 0.
    """

    account: int
    nonce_ms: int
    expires_ms: int
    actions: list[Action]


class SignedBatch(Wire, frozen=True):
    """Envelope: signature scheme, signer's public key, encoded `ActionBatch`, signature."""

    scheme: int
    signer: bytes
    payload: bytes
    signature: bytes


decode_actions: Decoder[ActionBatch] = Decoder(ActionBatch)
decode_signed: Decoder[SignedBatch] = Decoder(SignedBatch)


def actions_digest(chain_id: bytes, shard: int, payload: bytes) -> bytes:
    """What a client signs: the payload, bound to chain and shard."""
    return domain_hash(b"trilemma/actions", chain_id, shard.to_bytes(2, "big"), payload)


def batch_id(signed: bytes) -> bytes:
    """Identity of an encoded `SignedBatch` (32 bytes)."""
    return domain_hash(b"trilemma/batch", signed)


def sign_batch(key: Key, chain_id: bytes, shard: int, batch: ActionBatch) -> bytes:
    """Sign a batch; returns the encoded `SignedBatch`."""
    payload = encode(batch)
    signature = key.sign(actions_digest(chain_id, shard, payload))
    return encode(SignedBatch(SCHEME_ED25519, key.public, payload, signature))


def open_batch(raw: bytes) -> tuple[SignedBatch, ActionBatch]:
    """Decode an envelope and its batch and check their shape, not the signature.

    Raises `Rejected` (frame_too_large, malformed, wrong_type, non_canonical, too_many_actions,
    scheme_unknown).
    """
    if len(raw) > MAX_BATCH_BYTES:
        raise Rejected(
            Code.FRAME_TOO_LARGE,
            f"a signed batch has at most {MAX_BATCH_BYTES} bytes, not {len(raw)}",
        )
    signed = decode_signed(raw)
    if signed.scheme != SCHEME_ED25519:
        raise Rejected(Code.SCHEME_UNKNOWN, f"signature scheme {signed.scheme}; 1 is Ed25519")
    if len(signed.signer) != 32 or len(signed.signature) != 64:
        raise Rejected(Code.WRONG_TYPE, "a signer has 32 bytes and a signature 64")
    batch = decode_actions(signed.payload)
    if not 1 <= len(batch.actions) <= MAX_ACTIONS:
        raise Rejected(
            Code.TOO_MANY_ACTIONS,
            f"a batch holds 1 to {MAX_ACTIONS} actions, not {len(batch.actions)}",
        )
    return signed, batch
