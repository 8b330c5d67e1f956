"""The way out without anybody's help: forced actions, the freeze of a shard, and claims on it."""

from __future__ import annotations

from protocol.codec import Decoder, Wire


class ForceAction(Wire, frozen=True, tag=13):
    """Put an account's signed batch (an encoded `SignedBatch`) into the inbox of the shard.

    It holds one action: `Withdraw`, `CancelAll`, or a `MarketOrder` that only reduces. It keeps its
    nonce, so that it is executed once whichever way it comes. Anybody may send it for the owner.
    """

    signed: bytes


class Freeze(Wire, frozen=True, tag=14):
    """Freeze a shard that missed its deadline; anybody may ask, the ledger's clock decides."""


class Claim(Wire, frozen=True, tag=15):
    """Register an account's claim on a frozen shard, with two encoded `TreeProof`s under the last
    final state root: of all its positions, and of the other leaves that say what it is worth (see
    `execution.exit_value`). Anybody may send it; it is paid to the account's address."""

    account: int
    positions: bytes
    values: bytes


class Collect(Wire, frozen=True, tag=16):
    """After claims have closed, pay an account's claim at the factor for all; anybody may send
    it."""

    account: int


class Refund(Wire, frozen=True, tag=17):
    """Return the deposit with this inbox index, which a frozen shard never took in."""

    index: int


ExitAction = ForceAction | Freeze | Claim | Collect | Refund


class FreezeLeaf(Wire, frozen=True):
    """A frozen shard: window time of the freeze, the final batch and the state root that claims are
    proven under, inbox entries that this state has taken in, the sum of the claims so far, the
    money there is for them (known from the first claim on), what was paid of it, and the deposits
    that are still to be refunded."""

    since_ms: int
    batch: int
    state_root: bytes
    inbox_cursor: int
    claims_uusd: int = 0
    funds_uusd: int = 0
    paid_uusd: int = 0
    refunds_uusd: int = 0


class ClaimLeaf(Wire, frozen=True):
    """A registered claim: where it is paid, its amount, and whether that was done."""

    address: bytes
    amount_uusd: int
    paid: bool = False


class ExitsLeaf(Wire, frozen=True):
    """Payouts of the running hour and day in window time, counted from genesis, and what the bridge
    held when each began, for the limits on exits."""

    hour: int = 0
    hour_uusd: int = 0
    hour_held_uusd: int = 0
    day: int = 0
    day_uusd: int = 0
    day_held_uusd: int = 0


decode_freeze: Decoder[FreezeLeaf] = Decoder(FreezeLeaf)
decode_claim: Decoder[ClaimLeaf] = Decoder(ClaimLeaf)
decode_exits: Decoder[ExitsLeaf] = Decoder(ExitsLeaf)
