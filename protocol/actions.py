"""Signed actions: what a client may ask the exchange to do.

A client signs an *action batch*: 1 to 100 actions of one account under one nonce. The envelope
carries the batch as bytes, so that everybody hashes, orders and stores exactly what was signed.
"""

from __future__ import annotations

from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected
from protocol.keys import SCHEME_ED25519, Key, domain_hash

BUY = 0
SELL = 1

GTC = 0
"""Good till cancelled: what does not fill rests."""
IOC = 1
"""Immediate or cancel: what does not fill is cancelled."""
POST_ONLY = 2
"""Rests or is rejected; never takes."""

MAX_ACTIONS = 100
"""Most actions in one signed batch."""

MAX_BATCH_BYTES = 16 * 1024
"""Most bytes of one encoded signed batch."""

NONCE_PAST_MS = 2 * 24 * 3600 * 1000
NONCE_FUTURE_MS = 24 * 3600 * 1000
"""A millisecond nonce is valid inside (T - 2 days, T + 1 day), T the block time."""

NONCES_KEPT = 100
"""The highest nonces of a signer that are kept, with their results."""


class Order(Wire, frozen=True, tag=1):
    """A limit order. `client_id` 0 means none; otherwise unique per account while it lives."""

    market: int
    side: int
    price_ticks: int
    size_lots: int
    tif: int = GTC
    client_id: int = 0


class MarketOrder(Wire, frozen=True, tag=2):
    """Takes what is there up to `slippage_ppm` away from the mark; the rest is cancelled."""

    market: int
    side: int
    size_lots: int
    slippage_ppm: int
    client_id: int = 0


class Cancel(Wire, frozen=True, tag=3):
    """Cancel a resting order by its id."""

    market: int
    order_id: int


class CancelClient(Wire, frozen=True, tag=4):
    """Cancel a resting order by the client id that the account gave it."""

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
    """A price observed by an oracle of the genesis committee; takes effect before trading."""

    market: int
    price_ticks: int


Action = (
    Order | MarketOrder | Cancel | CancelClient | Reduce
    | Withdraw | ApproveAgent | RevokeAgent | OraclePrice
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
