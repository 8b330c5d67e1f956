"""Traders of the simulator: they trade, repeat themselves, get things wrong, and move money."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from protocol.actions import (
    ALL_MARKETS,
    NONCE_FUTURE_MS,
    NONCE_PAST_MS,
    OPEN,
    REDUCE_ONLY,
    Action,
    ActionBatch,
    CancelAll,
    MarketOrder,
    OraclePrice,
    Order,
    SetMode,
    Transfer,
    TransferPosition,
    Withdraw,
    sign_batch,
)
from protocol.errors import Code, RemoteFault
from protocol.events import BatchExecuted
from protocol.exits import ForceAction
from protocol.keys import SCHEME_ED25519
from protocol.messages import (
    WIRE_VERSION,
    Accepted,
    Authenticate,
    BatchRequest,
    BatchView,
    Done,
    Hello,
    Ordered,
    Submit,
    Welcome,
    WithdrawalRequest,
    WithdrawalView,
    session_digest,
)
from protocol.messages_trading import OrdersRequest, OrdersView, ResultRequest, ResultView
from protocol.ordering import verify_receipt
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    INSURANCE_ACCOUNT,
    Deposit,
    OutboxEntry,
    Payout,
    account_number,
)
from sim.actors_flow import Flow
from sim.actors_keys import SimKey
from sim.actors_ledger_client import LedgerClient
from sim.actors_process import Setting
from sim.actors_results import decode_result
from sim.kernel import US_PER_MS
from sim.pipeline_venue import DOLLAR, PricePath, Venue

OPEN_MAX = 12
SUBMIT_TIMEOUT_MS = 600
RETRY_MS = 150
ATTEMPTS = 40
KEPT_BATCHES = 60
NEWCOMER_UUSD = 2_000 * DOLLAR


class Trader(LedgerClient):
    """One client. `executions`: nodes that it asks; `path`: prices that it believes in; `stop_us`:
    when it sends its last batch; `pause_ms`: mean time between two."""

    def __init__(
        self,
        setting: Setting,
        name: str,
        key: SimKey,
        validators: list[str],
        sequencers: list[str],
        executions: list[str],
        prover: str,
        *,
        venue: Venue,
        path: PricePath,
        pause_ms: int,
        stop_us: int,
        skew_us: int = 0,
    ) -> None:
        super().__init__(setting, name, key, validators, skew_us)
        self.executions, self.prover = executions, prover
        self._sequencers = sequencers
        self.sequencer = sequencers[0] if len(sequencers) < 2 else self.random.pick(sequencers)
        self.venue, self.path = venue, path
        self.account = 0
        self.open_submissions = 0
        self.open_withdrawals = 0
        self.open_forced = 0
        self._pause_ms = pause_ms
        self._stop_us = stop_us
        self._nonce_ms = 0
        self._accounts: list[int] = []
        self._flow = Flow(self.random, venue, self.price, self.now_ms)
        self._sent: list[bytes] = []
        self._session = False
        self._greeting = False
        self._noticed: dict[int, bytes] = {}

    def start(self) -> None:
        """Begin to trade."""
        self.on(Ordered, self._ordered)
        self.spawn(self._trade())

    @property
    def busy(self) -> bool:
        """Whether something of its own is still under way."""
        return bool(
            self.kernel.now_us < self._stop_us
            or self.open_submissions
            or self.open_transactions
            or self.open_withdrawals
            or self.open_forced
        )

    def price(self, market: int) -> int:
        """What a market is worth outside."""
        return self.path.ticks(market, self.kernel.now_us // US_PER_MS)

    # --- submissions

    def sign(self, *actions: Action, nonce_ms: int | None = None, account: int = -1) -> bytes:
        """A signed batch under the next nonce."""
        if nonce_ms is None:
            self._nonce_ms = max(self._nonce_ms + 1, self.now_ms())
            nonce_ms = self._nonce_ms
        number = self.account if account < 0 else account
        batch = ActionBatch(number, nonce_ms, 0, list(actions))
        return sign_batch(self.key, self.chain.chain_id, self.chain.genesis.shard, batch)

    async def deliver(self, raw: bytes) -> bool:
        """Submit the same bytes until they are accepted or refused."""
        self.open_submissions += 1
        try:
            for _ in range(ATTEMPTS):
                if not self._session:
                    await self._greet()
                asked = self.sequencer
                try:
                    accepted = await self._submit(raw)
                except TimeoutError:
                    self.history.count("submissions_repeated")
                    self._move_on(asked)
                    continue
                except RemoteFault as fault:
                    if fault.code == Code.SESSION_NOT_PROVEN and self._session:
                        self._session = False
                        continue
                    if fault.code in (Code.BUSY, Code.NOT_READY, Code.RATE_LIMITED):
                        await self.sleep(RETRY_MS)
                        self._move_on(asked)
                        continue
                    self.history.count("submissions_refused")
                    return False
                place = accepted.receipt.sequencer
                key = bytes.fromhex(self.chain.genesis.sequencers[place].public_key)
                verify_receipt(self.chain.chain_id, key, accepted.receipt)
                self.history.accepted(raw, accepted.receipt)
                return True
            self.history.count("submissions_given_up")
            return False
        finally:
            self.open_submissions -= 1

    def _move_on(self, asked: str) -> None:
        """Go to another sequencer, where there is one and nobody did before."""
        if len(self._sequencers) > 1 and self.sequencer == asked:
            place = self._sequencers.index(asked)
            self.sequencer = self._sequencers[(place + 1) % len(self._sequencers)]
            self._session = False
            self.history.count("sequencers_changed")

    async def _submit(self, raw: bytes) -> Accepted:
        def request(request_id: int) -> Submit:
            self._noticed[request_id] = raw
            return Submit(request_id, raw)

        return await self.ask(self.sequencer, Accepted, request, SUBMIT_TIMEOUT_MS)

    def _ordered(self, source: str, notice: Ordered) -> None:
        del source
        raw = self._noticed.pop(notice.request_id, None)
        if raw is not None:
            self.history.count("ordered_notices")
            self.history.told_ordered(raw, notice.height)

    async def _greet(self) -> None:
        """Open a session and prove the key to it."""
        if self._greeting:
            await self.sleep(RETRY_MS)
            return
        self._greeting = True
        chain_id, asked = self.chain.chain_id, self.sequencer
        try:
            welcome = await self.ask(
                asked,
                Welcome,
                lambda request_id: Hello(request_id, WIRE_VERSION, chain_id, self.name),
            )
            proof = self.key.sign(session_digest(chain_id, welcome.challenge))
            await self.ask(
                asked,
                Done,
                lambda request_id: Authenticate(request_id, SCHEME_ED25519, self.key.public, proof),
            )
            self._session = asked == self.sequencer
        except (TimeoutError, RemoteFault):
            self.history.count("sessions_failed")
            await self.sleep(RETRY_MS)
            self._move_on(asked)
        finally:
            self._greeting = False

    # --- what it does

    async def _trade(self) -> None:
        await self._enter()
        kinds: list[tuple[int, Callable[[], None]]] = [
            (63, self._orders), (5, self._look), (5, self._transfer), (8, self._repeat),
            (7, self._wrong), (5, self._withdraw), (4, self._deposit), (3, self._force),
        ]  # fmt: skip
        while self.kernel.now_us < self._stop_us:
            await self.sleep(1 + self.random.below(2 * self._pause_ms))
            if self.open_submissions >= OPEN_MAX:
                continue
            draw = self.random.below(100)
            for share, act in kinds:
                draw -= share
                if draw < 0:
                    act()
                    break

    async def _enter(self) -> None:
        """Get an account: of genesis, or by a deposit."""
        while True:
            view = await self.balance()
            if view.account:
                self.account = view.account
                self._accounts = [view.account]
                return
            await self.send_action(Deposit(self.key.address, NEWCOMER_UUSD))
            self.history.count("newcomers")

    def _orders(self) -> None:
        account = self.account if self.random.chance(800_000) else self.random.pick(self._accounts)
        self._send(self.sign(*self._flow.actions(), account=account))

    def _look(self) -> None:
        self.spawn(self._look_at_orders())

    async def _look_at_orders(self) -> None:
        """Learn the ids of what rests."""
        account = self.account
        try:
            view = await self.ask(
                self.random.pick(self.executions),
                OrdersView,
                lambda request_id: OrdersRequest(request_id, account),
            )
        except (TimeoutError, RemoteFault):
            return
        self._flow.orders = view.orders

    def _transfer(self) -> None:
        """Move money or a position between own accounts, or give to a fund."""
        random, markets = self.random, len(self.venue.markets)
        draw = random.below(10)
        if draw == 0:
            fund = random.pick((INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT))
            self._send(self.sign(Transfer(fund, random.between(1, DOLLAR))))
            return
        isolated = random.pick((-1, -1, random.below(markets)))
        other = account_number(self.account, random.between(0, 2), isolated)
        if draw < 7:
            if other not in self._accounts:
                self._accounts.append(other)
            source = self.account if draw < 5 else random.pick(self._accounts)
            amount_uusd = random.between(1, self.venue.deposit_uusd // 5)
            self._send(self.sign(Transfer(other, amount_uusd), account=source))
            return
        lots = random.pick((1, -1)) * random.between(1, 40)
        moved = TransferPosition(other, random.below(markets), lots)
        self._send(self.sign(moved, account=random.pick(self._accounts)))

    def _send(self, raw: bytes) -> None:
        self._sent.append(raw)
        del self._sent[:-KEPT_BATCHES]
        self.spawn(self._deliver(raw))

    async def _deliver(self, raw: bytes) -> None:
        await self.deliver(raw)

    def _repeat(self) -> None:
        if self._sent:
            self.history.count("batches_sent_again")
            self.spawn(self._deliver(self.random.pick(self._sent)))

    def _wrong(self) -> None:
        """Something that must be refused, by the sequencer or by execution."""
        random, now_ms = self.random, self.now_ms()
        order = Order(0, 0, self.price(0), 1)
        raw = self.sign(order)
        kind = random.below(7)
        if kind == 0:
            raw = raw[: random.below(len(raw))]
        elif kind == 1:
            raw = raw[:-1] + bytes((raw[-1] ^ 1,))
        elif kind == 2:
            raw = self.sign(order, nonce_ms=now_ms - NONCE_PAST_MS - random.below(1_000))
        elif kind == 3:
            raw = self.sign(order, nonce_ms=now_ms + NONCE_FUTURE_MS + 1_000 + random.below(1_000))
        elif kind == 4:
            raw = self.sign(order, account=random.between(0, 40))
        elif kind == 5:
            raw = self.sign(Withdraw(1 << 41, self.key.address))
        else:
            committee = (OraclePrice(0, 1), SetMode(0, OPEN))
            raw = self.sign(Order(random.between(0, 5), 0, 0, 0), *committee)
        self.history.count(f"wrong_{kind}")
        self.spawn(self._deliver(raw))

    def _force(self) -> None:
        """Act through the base layer; sometimes the same batch goes to the sequencer too."""
        random, market = self.random, self.random.below(len(self.venue.markets))
        actions: tuple[Action, ...] = (
            CancelAll(ALL_MARKETS),
            Withdraw(random.between(1, 20 * DOLLAR), self.key.address),
            MarketOrder(market, random.below(2), 50, 50_000, 0, REDUCE_ONLY),
        )
        raw = self.sign(random.pick(actions))
        self.spawn(self._force_one(raw, self._nonce_ms))
        if random.chance(300_000):
            self._send(raw)

    async def _force_one(self, raw: bytes, nonce_ms: int) -> None:
        """What is in the inbox is executed, or refused with a code."""
        self.open_forced += 1
        try:
            done = await self.send_action(ForceAction(raw))
            if done is not None and done.code == Code.OK and await self._result(nonce_ms):
                self.history.count("forced_executed")
        finally:
            self.open_forced -= 1

    # --- money

    def _deposit(self) -> None:
        self.spawn(self._deposit_some(self.random.between(1, 200) * DOLLAR))

    async def _deposit_some(self, amount_uusd: int) -> None:
        await self.send_action(Deposit(self.key.address, amount_uusd))

    def _withdraw(self) -> None:
        amount_uusd = self.random.between(1, 60 * DOLLAR)
        self.spawn(self._withdraw_some(amount_uusd))

    async def _withdraw_some(self, amount_uusd: int) -> None:
        """Withdraw, wait for the proof, and have it paid; sometimes ask for it twice."""
        self.open_withdrawals += 1
        try:
            raw = self.sign(Withdraw(amount_uusd, self.key.address))
            nonce_ms = self._nonce_ms
            if not await self.deliver(raw):
                return
            result = await self._result(nonce_ms)
            if result is None or result.results[0].code:
                self.history.count("withdrawals_refused")
                return
            view = await self._final_proof(result.results[0].order_id)
            action = Payout(view.batch, view.entry, view.path)
            if self.random.chance(200_000):
                await self._overpay(view)
            paid = await self.send_action(action)
            if paid is not None and self.random.chance(300_000):
                self.history.count("payouts_asked_twice")
                again = await self.send_action(action)
                # A validator that is behind names an old nonce: then it is the same transaction.
                other = again is not None and again.transaction_id != paid.transaction_id
                if again is not None and other and again.code == paid.code == Code.OK:
                    self.history.count("payouts_paid_twice")
        finally:
            self.open_withdrawals -= 1

    async def _overpay(self, view: WithdrawalView) -> None:
        entry = view.entry
        more = OutboxEntry(entry.number, entry.account, entry.address, entry.amount_uusd + 1)
        answer = await self.send_action(Payout(view.batch, more, view.path))
        if answer is not None and answer.code == Code.OK:
            self.history.count("payouts_forged")
        self.history.count("payouts_forgeries_tried")

    async def _result(self, nonce_ms: int) -> BatchExecuted | None:
        """What the batch of a nonce did; None where it was refused as a whole."""
        while (self.key.public, nonce_ms) not in self.history.refused:
            try:
                view = await self.ask(
                    self.random.pick(self.executions),
                    ResultView,
                    lambda request_id: ResultRequest(request_id, self.key.public, nonce_ms),
                )
                return decode_result(view.event)
            except (TimeoutError, RemoteFault):
                await self.sleep(RETRY_MS)
        return None

    async def _final_proof(self, number: int) -> WithdrawalView:
        """The proof of a withdrawal whose batch is final, whichever batch that is in the end."""
        shard = self.chain.genesis.shard
        while True:
            view = await self._proof(number)
            ask = partial(BatchRequest, shard=shard, number=view.batch)
            try:
                found = await self.ask(self.random.pick(self.validators), BatchView, ask)
                if found.is_final:
                    return view
            except (TimeoutError, RemoteFault):
                pass
            self.history.count("withdrawals_waited")
            await self.sleep(4 * RETRY_MS)

    async def _proof(self, number: int) -> WithdrawalView:
        while True:
            try:
                return await self.ask(
                    self.prover,
                    WithdrawalView,
                    lambda request_id: WithdrawalRequest(request_id, number),
                )
            except (TimeoutError, RemoteFault):
                await self.sleep(2 * RETRY_MS)
