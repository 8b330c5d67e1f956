"""Engines that lie about what ordered blocks do, each in one way: what a prover says that lies.

Pure. Each `Lie` changes what an honest engine is given, the rules that it goes by, or what it says
afterwards. `LyingExecution` goes on from its own lies, so that they stay consistent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from execution.admission import Kind, Opened, open_one
from execution.batches import VerifySignature
from execution.engine import BlockResult, Engine
from execution.leaves import account_key, decode_account
from execution.steps import Stage
from protocol.actions import ActionBatch, SignedBatch, Withdraw
from protocol.codec import encode
from protocol.events import Fill
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.settlement import InboxEntry, InboxForced

Changes = dict[bytes, bytes | None]

FORGED = b"\x00" * 64
"""What a liar's engine takes for a signature."""

MINTED_UUSD = STOLEN_UUSD = 1_000_000
CAP_PPB = 1_000
"""A bound of funding rates below what they usually are."""

MAINTENANCE_PPM = 1_000
"""So far below the initial margin stands a maintenance that fails the healthy."""


class Given(NamedTuple):
    """An ordered block as execution takes it: the inbox entries that it takes in, the inbox cursor
    after it, and encoded signed batches."""

    height: int
    time_ms: int
    inbox: Sequence[InboxEntry]
    cursor: int
    batches: Sequence[bytes]


class Told(NamedTuple):
    """What an engine says that a block did; `outbox` is encoded."""

    changes: Changes
    outbox: list[bytes]
    actions: int


Trial = Callable[[], BlockResult]
"""What the block would do in truth."""


class Lie:
    """One way to lie; this one is the truth. `address`: for whom one lies.

    `stage`: where in a block the lie shows. `once`: it is told of one block, and what follows is
    executed as it ought to be, on the wrong state. `own_rules`: steps by the liar's chain show it,
    too.
    """

    text = "tells the truth"
    stage = Stage.END
    once = False
    own_rules = False

    def __init__(self, address: bytes = b"x" * 20) -> None:
        self.address = address

    def chain(self, chain: Chain) -> Chain:
        """The rules that the liar goes by."""
        return chain

    def given(self, given: Given, trial: Trial) -> Given:
        """The block as the liar executes it; the same object for the truth."""
        del trial
        return given

    def said(self, changes: Changes, leaves: Mapping[bytes, bytes]) -> Changes:
        """What the liar says of what changed, told the leaves before; the same object for the
        truth."""
        del leaves
        return changes


class MintsCash(Lie):
    """An account has more than it ought to: that of the address, or the first one."""

    text = "gives an account money out of nothing"
    once = True

    def said(self, changes: Changes, leaves: Mapping[bytes, bytes]) -> Changes:
        after = {**leaves, **changes}
        keys = [key for key in after if key[:1] == account_key(0)[:1] and after[key]]
        known = {key: decode_account(after[key] or b"") for key in sorted(keys)}
        owned = [key for key, leaf in known.items() if leaf.address]
        mine = [key for key in owned if known[key].address == self.address]
        if not owned:
            return changes
        key = (mine or owned)[0]
        more = replace(known[key], cash_uusd=known[key].cash_uusd + MINTED_UUSD)
        return {**changes, key: encode(more)}


class DropsFill(Lie):
    """The fills of one batch never happened, as if it had not been sent."""

    text = "leaves out a batch that was filled"
    stage = Stage.TAKING

    def given(self, given: Given, trial: Trial) -> Given:
        takers = {
            event.taker_account
            for event in trial().events
            if isinstance(event, Fill) and not event.liquidation
        }
        for place, raw in enumerate(given.batches):
            batch = open_one(raw).batch
            if batch is not None and batch.account in takers:
                kept = [*given.batches[:place], *given.batches[place + 1 :]]
                return given._replace(batches=kept)
        return given


class SkipsPriority(Lie):
    """Who came later is served first."""

    text = "serves those first who came later in a block"
    stage = Stage.TAKING

    def given(self, given: Given, trial: Trial) -> Given:
        del trial
        backwards = list(given.batches[::-1])
        return given if len(backwards) < 2 else given._replace(batches=backwards)


def _with_markets(chain: Chain, change: Callable[[Any], Any]) -> Chain:
    markets = [change(market) for market in chain.genesis.markets]
    return replace(chain, genesis=replace(chain.genesis, markets=markets))


class MispricesFunding(Lie):
    """Funding is paid at hardly any rate."""

    text = "moves funding at another rate"
    stage = Stage.FUNDING
    own_rules = True

    def chain(self, chain: Chain) -> Chain:
        return _with_markets(chain, lambda market: replace(market, funding_cap_ppb=CAP_PPB))


def _with_maintenance(chain: Chain, change: Callable[[int], int]) -> Chain:
    """The chain with another maintenance margin, made from the initial one, everywhere."""

    def changed(one: Any) -> Any:
        return replace(one, maintenance_ppm=change(one.initial_ppm))

    return _with_markets(
        chain,
        lambda market: replace(
            changed(market), margin_tiers=[changed(tier) for tier in market.margin_tiers]
        ),
    )


class LiquidatesHealthy(Lie):
    """Accounts above maintenance are closed."""

    text = "liquidates accounts that are above their maintenance margin"
    stage = Stage.LIQUIDATIONS
    own_rules = True

    def chain(self, chain: Chain) -> Chain:
        return _with_maintenance(chain, lambda initial_ppm: initial_ppm - MAINTENANCE_PPM)


class SparesUnhealthy(Lie):
    """Accounts below maintenance are left alone."""

    text = "leaves accounts alone that are below their maintenance margin"
    stage = Stage.LIQUIDATIONS
    own_rules = True

    def chain(self, chain: Chain) -> Chain:
        return _with_maintenance(chain, lambda _: 1)


class DeleveragesOthers(Lie):
    """A deleveraging is shared among other counterparties: the first one takes all."""

    text = "shares a deleveraging among the wrong counterparties"
    stage = Stage.LIQUIDATIONS
    own_rules = True

    def chain(self, chain: Chain) -> Chain:
        limits = replace(chain.genesis.limits, deleverage_counterparties=1)
        return replace(chain, genesis=replace(chain.genesis, limits=limits))


class IgnoresInbox(Lie):
    """Deposits never arrive, and what was forced is not done."""

    text = "takes in the inbox without doing what it says"
    stage = Stage.INBOX

    def given(self, given: Given, trial: Trial) -> Given:
        del trial
        nothing = [InboxForced(entry.index, b"") for entry in given.inbox]
        return given._replace(inbox=nothing) if nothing else given


class InventsWithdrawal(Lie):
    """A withdrawal that nobody ordered, out of the account of somebody who trades, to the
    address."""

    text = "withdraws somebody's money to an address of its own"
    stage = Stage.TAKING
    once = True

    def given(self, given: Given, trial: Trial) -> Given:
        del trial
        for raw in given.batches:
            forged = self._forged(open_one(raw))
            if forged:
                return given._replace(batches=[*given.batches, forged])
        return given

    def _forged(self, opened: Opened) -> bytes:
        signed, batch = opened.signed, opened.batch
        if signed is None or batch is None or opened.kind >= Kind.ORACLE:
            return b""
        take = Withdraw(STOLEN_UUSD, self.address)
        body = encode(ActionBatch(batch.account, batch.nonce_ms + 1, 0, [take]))
        return encode(SignedBatch(signed.scheme, signed.signer, body, FORGED))


LIES: dict[str, type[Lie]] = {
    "mints-cash": MintsCash,
    "drops-fill": DropsFill,
    "skips-price-time-priority": SkipsPriority,
    "misprices-funding": MispricesFunding,
    "liquidates-healthy": LiquidatesHealthy,
    "spares-unhealthy": SparesUnhealthy,
    "deleverages-wrong-account": DeleveragesOthers,
    "ignores-inbox": IgnoresInbox,
    "invents-withdrawal": InventsWithdrawal,
}
"""Every lie by its name."""

_TRUTH = Lie()


class LyingExecution:
    """Executes blocks after a lie, from a state's leaves on; `since`: first height of the lie."""

    def __init__(
        self,
        lie: Lie,
        chain: Chain,
        leaves: Iterable[tuple[bytes, bytes]],
        verify_signature: VerifySignature = verify,
        since: int = 0,
    ) -> None:
        self._lie = lie
        self._chain = chain
        self._leaves = dict(leaves)
        self._since = since
        self._engine: Engine | None = None
        self._told = _TRUTH
        """What the engine at hand was made for."""
        self._lied = False

        def verified(public: bytes, signature: bytes, digest: bytes) -> bool:
            return signature == FORGED or verify_signature(public, signature, digest)

        self._verify = verified

    def apply(self, given: Given) -> Told:
        """Execute the next block. Raises `SafetyViolation` where the lie led nowhere."""
        lie = self._lie
        if given.height < self._since or (lie.once and self._lied):
            lie = _TRUTH
        if self._engine is None or (lie is _TRUTH) != (self._told is _TRUTH):
            self._engine = self._restored(lie)
        self._told = lie
        executed = lie.given(given, lambda: _run(self._restored(lie), given))
        result = _run(self._engine, executed)
        changes = lie.said(result.changes, self._leaves)
        if executed is not given or changes is not result.changes:
            self._lied = True
        if changes is not result.changes:
            self._engine = None
        for key, value in changes.items():
            if value is None:
                self._leaves.pop(key, None)
            else:
                self._leaves[key] = value
        return Told(changes, [encode(entry) for entry in result.outbox], result.actions)

    def _restored(self, lie: Lie) -> Engine:
        return Engine.restore(lie.chain(self._chain), self._leaves.items(), self._verify)


def _run(engine: Engine, given: Given) -> BlockResult:
    height, time_ms, inbox, cursor, batches = given
    return engine.apply(height, time_ms, b"", inbox, cursor, batches)
