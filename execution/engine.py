"""The execution engine of a shard: a pure machine, one block in, one result out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from execution import audit
from execution.amend import Amend
from execution.batches import Batches, Handler, VerifySignature, kept_event
from execution.custody import Custody
from execution.fees import Fees
from execution.funding import Funding
from execution.liquidation import Liquidations
from execution.phases import Phases, work_of
from execution.pricing import Pricing
from execution.realised import Realised
from execution.receipts import Receipts
from execution.schedules import Schedules
from execution.settings import Settings
from execution.state import State
from execution.steps import Steps
from execution.trading import Trading
from execution.transfers import Transfers
from execution.triggers import Triggers
from margin.account import Account
from protocol.actions import (
    BUY,
    SELL,
    ActionBatch,
    ApproveAgent,
    Bracket,
    Cancel,
    CancelAll,
    CancelClient,
    MarketOrder,
    MassQuote,
    Modify,
    Oco,
    Order,
    Reduce,
    RevokeAgent,
    ScheduleCancel,
    SetLeverage,
    SetProtection,
    Transfer,
    TransferPosition,
    TriggerOrder,
    Twap,
    Withdraw,
)
from protocol.depth import CHECKED_LEVELS, depth_checksum
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.events import BatchExecuted, Event
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.messages_market_data import BookView
from protocol.messages_trading import AccountView, PositionView
from protocol.settlement import InboxEntry, OutboxEntry


class BlockResult(NamedTuple):
    """What a block did. `changes`: leaves written (None: removed), only those that differ.
    `executed`: the batches that ran, in order, with their results."""

    events: list[Event]
    changes: dict[bytes, bytes | None]
    outbox: list[OutboxEntry]
    actions: int
    executed: Sequence[tuple[ActionBatch, BatchExecuted]] = ()


class Engine:
    """Composes matching and margin; its state is a set of leaves.

    `verify_signature(public_key, signature, digest)` may be replaced, for instance by results that
    were computed ahead; it must say what `protocol.keys.verify` would.
    """

    __slots__ = (
        "_batches", "_phases", "_schedules", "_state", "fees", "funding", "triggers",
        "verify_signature",
    )  # fmt: skip

    def __init__(self, chain: Chain, verify_signature: VerifySignature = verify) -> None:
        self._start(State(chain), verify_signature)

    def _start(self, state: State, verify_signature: VerifySignature) -> None:
        """Put the parts together; each builds its indexes from the state as it stands."""
        self._state = state
        self.verify_signature = verify_signature
        trading = Trading(state)
        pricing, fees = Pricing(state), Fees(state)
        trading.settle, trading.tier = pricing.settle, fees.tier
        custody, amend = Custody(state), Amend(state, trading)
        transfers, settings = Transfers(state, trading), Settings(state, trading)
        trading.on_protected = settings.count_fill
        triggers = Triggers(state, trading)
        trading.crossing.on_linked = triggers.linked
        custody.on_left = transfers.on_left = triggers.note_left
        schedules = Schedules(state, trading, triggers)
        self._schedules = schedules
        trading.note_expiry, trading.waiting = schedules.note, schedules
        realised = Realised(state)
        liquidations = Liquidations(state, trading, realised, Receipts(state))
        handlers: dict[type, Handler] = {
            Order: trading.order,
            MarketOrder: trading.market_order,
            Cancel: amend.cancel,
            CancelClient: amend.cancel_client,
            CancelAll: amend.cancel_all,
            Reduce: amend.reduce,
            Modify: amend.modify,
            MassQuote: amend.mass_quote,
            TriggerOrder: triggers.trigger_order,
            Oco: triggers.oco,
            Bracket: triggers.bracket,
            Twap: schedules.twap,
            ScheduleCancel: schedules.schedule_cancel,
            SetLeverage: settings.set_leverage,
            SetProtection: settings.set_protection,
            Transfer: transfers.transfer,
            TransferPosition: transfers.transfer_position,
            Withdraw: custody.withdraw,
            ApproveAgent: custody.approve,
            RevokeAgent: custody.revoke,
        }
        self.fees, self.funding, self.triggers = fees, Funding(state), triggers
        self._batches = Batches(state, trading, pricing, handlers)
        self._phases = Phases(
            state, custody, self._batches, pricing, self.funding, schedules, triggers,
            liquidations, fees, realised,
        )  # fmt: skip

    @classmethod
    def restore(
        cls,
        chain: Chain,
        leaves: Iterable[tuple[bytes, bytes]],
        verify_signature: VerifySignature = verify,
    ) -> Engine:
        """The engine whose full leaf set this is (any order); it continues byte for byte.

        Raises `SafetyViolation` when the leaves do not belong together.
        """
        engine = cls.__new__(cls)
        state = State.restore(chain, leaves)
        try:
            engine._start(state, verify_signature)
        except (KeyError, IndexError, ValueError) as error:
            raise SafetyViolation(f"the leaves do not form a state: {error!r}") from error
        return engine

    def leaves(self) -> dict[bytes, bytes]:
        """The full present leaf set, which is what the state root stands for."""
        return self._state.leaves()

    def apply(
        self,
        height: int,
        time_ms: int,
        block_id: bytes,
        inbox: Sequence[InboxEntry],
        inbox_cursor: int,
        batches: Sequence[bytes],
    ) -> BlockResult:
        """Execute a block.

        `inbox`: the verified entries that the block takes in; `inbox_cursor`: how many have been
        consumed after it. `batches`: encoded `SignedBatch` values in log order. `block_id` names
        the block and has no influence. Raises `SafetyViolation` on a broken invariant; the engine
        cannot be used after that.
        """
        state = self._state
        state.begin(height, time_ms)
        self._batches.ran = []
        work = work_of(state.chain.genesis, inbox, inbox_cursor, batches)
        self._phases.run(self.verify_signature, work)
        changes = state.commit()
        done = self._batches
        return BlockResult(state.events, changes, state.outbox, done.executed, done.ran)

    def steps(
        self,
        time_ms: int,
        inbox: Sequence[InboxEntry],
        inbox_cursor: int,
        batches: Sequence[bytes],
    ) -> Steps:
        """The steps of a block, to be executed one by one instead of `apply`; from the one on that
        the state stands before."""
        work = work_of(self._state.chain.genesis, inbox, inbox_cursor, batches)
        return Steps(self._state, self._phases, self.verify_signature, time_ms, work)

    @property
    def switches_due(self) -> list[int]:
        """The accounts among whose dead-man's switches the present block chooses."""
        return self._schedules.switches.looked_at()

    @property
    def liquidations_looked_at(self) -> list[int]:
        """The accounts on which the choices of the last liquidations rested, changed or not."""
        return self._phases.liquidations.looked_at

    # -- views

    @property
    def state(self) -> State:
        """The state behind the last block, for questions; nobody else may change it."""
        return self._state

    @property
    def height(self) -> int:
        """Height of the last executed block (0: genesis)."""
        return self._state.height

    @property
    def time_ms(self) -> int:
        """Time of the last executed block."""
        return self._state.time_ms

    @property
    def inbox_cursor(self) -> int:
        """Inbox entries consumed so far."""
        return self._state.inbox_cursor

    def account_of(self, address: bytes) -> int:
        """Account number of an address; raises `Rejected(unknown_account)` before its first
        deposit."""
        number = self._state.by_address.get(address)
        if number is None:
            raise Rejected(Code.UNKNOWN_ACCOUNT, "nothing was ever deposited for this address")
        return number

    def _fresh(self, number: int) -> Account:
        """The account with totals at the present marks."""
        state = self._state
        account = state.accounts.get(number)
        if account is None:
            raise Rejected(Code.UNKNOWN_ACCOUNT, f"there is no account {number}")
        if account.version != state.risk.version:
            state.risk.refresh(account)
            # Only a block settles what the account is owed; the next one has to look again.
            account.version = 0
        return account

    def account_view(self, request_id: int, number: int) -> AccountView:
        """Cash, equity, margin and positions of an account at the present marks; raises
        `Rejected(unknown_account)`."""
        account = self._fresh(number)
        return AccountView(
            request_id,
            number,
            account.address,
            account.cash_uusd,
            account.tv_uusd,
            account.im_uusd,
            self._state.risk.maintenance_uusd(account),
            len(account.orders),
            self._positions(account),
            self._state.height,
        )

    def _positions(self, account: Account) -> list[PositionView]:
        views, risk = [], self._state.risk
        for number, e in sorted(account.exposures.items()):
            if e.size_lots or e.im_uusd:
                market = self._state.markets[number]
                worth = market.product.value_uusd(e.size_lots, market.mark_ticks)
                views.append(
                    PositionView(
                        number,
                        e.size_lots,
                        e.cost_uusd,
                        market.mark_ticks,
                        worth - e.cost_uusd,
                        e.im_uusd,
                        risk.maintenance_of_uusd(market, e.size_lots),
                        risk.funding_uusd(e, market),
                        e.leverage,
                        0,
                        market.stale,
                    )
                )
        return views

    def withdrawable_uusd(self, number: int) -> int:
        """The most that an account may withdraw now; raises `Rejected(unknown_account)`."""
        account = self._fresh(number)
        if self._state.holds_wild(account):
            return 0
        return max(min(self._state.risk.withdrawable_uusd(account)), 0)

    def book_view(self, request_id: int, number: int, depth: int, next_seq: int = 0) -> BookView:
        """The best `depth` levels of both sides; raises `Rejected(unknown_market)`."""
        if not 0 <= number < len(self._state.markets):
            raise Rejected(Code.UNKNOWN_MARKET, f"there is no market {number}")
        market = self._state.markets[number]
        depth = max(depth, 0)
        wanted = max(depth, CHECKED_LEVELS)
        bids, asks = market.book.depth(BUY, wanted), market.book.depth(SELL, wanted)
        return BookView(
            request_id, number, self._state.height, next_seq, market.mark_ticks,
            bids[:depth], asks[:depth], depth_checksum(bids, asks),
        )  # fmt: skip

    def orders_of(self, number: int) -> list[tuple[int, int, int, int, int, int]]:
        """Resting orders, oldest first: (market, order_id, client_id, side, price, remaining)."""
        account = self._state.accounts.get(number)
        if account is None:
            return []
        return [
            (o.market, order_id, o.client_id, o.side, o.price_ticks, o.remaining_lots)
            for order_id, o in sorted(account.orders.items())
        ]

    def kept_result(self, signer: bytes, nonce_ms: int) -> BatchExecuted | None:
        """The results of a kept batch (marked as a duplicate), if it is kept."""
        kept = self._state.nonces.find(signer, nonce_ms)
        return None if kept is None else kept_event(signer, kept.leaf)

    def total_cash_uusd(self) -> int:
        """Sum of cash over all accounts, system accounts included."""
        return sum(account.cash_uusd for account in self._state.accounts.values())

    def money_conserved(self) -> bool:
        """Whether cash over all accounts is exactly deposits less withdrawals."""
        state = self._state
        return self.total_cash_uusd() == state.deposits_uusd - state.withdrawals_uusd

    def check(self) -> None:
        """Recompute everything the slow way; raises `SafetyViolation` on any difference."""
        audit.check(self._state)
        self.triggers.check()
        self._schedules.check()
