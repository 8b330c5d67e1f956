"""Load generator: realistic flow at a rate, or as much as the exchange takes.

It holds the exchange to its word while it measures: every batch with a receipt must get exactly
one result, whatever is killed and restarted meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import msgspec

from client.channel import Unreachable
from client.load_flow import Flow
from client.load_report import UNANSWERED, LoadReport, Meters
from client.nonces import wall_clock_ms
from client.sdk import Exchange
from client.submission import STATES, State, Submission
from protocol.actions import Action, CancelClient, Order
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.events import BlockEvents, Fill
from protocol.keys import Key

TICK_S = 0.002
STALE_S = 5.0
PRESIGN_LIMIT = 20_000
"""Most batches that are made and signed ahead."""
OPEN_LIMIT = 8_192
"""Most batches without a result in an open loop; beyond that the loop waits, and says so."""
HURRIED_S = 5.0
"""How long cancels are waited for at the end where other batches waited in vain."""


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A load run.

    `rate` in actions per second, 0 for a closed loop with `window` batches under way. `markets` by
    symbol, empty for all. Accounts are the testnet's traders from `first_trader` on. `presign`
    batches are made and signed before the clock starts. After the last batch, results are waited
    for up to `drain_s`, settlement up to `settle_s` (0: not at all).
    """

    rate: int = 0
    batch: int = 20
    accounts: int = 16
    seconds: float = 10.0
    markets: tuple[str, ...] = ()
    seed: int = 1
    taker_share: float = 0.2
    window: int = 256
    first_trader: int = 0
    presign: int = 2_000
    drain_s: float = 60.0
    settle_s: float = 60.0
    clean_up: bool = True


class LoadGenerator:
    """One run of load against an exchange.

    While `run` goes on, `counts()` tells how far it is; `stop()` ends sending early.
    """

    def __init__(self, exchange: Exchange, options: LoadOptions) -> None:
        self.options = options
        self.throttled = 0
        self.left_resting = ""
        """Why orders of this run may still rest; empty where none does."""
        self._exchange = exchange
        self._meters = Meters(options.seed)
        self._errors: Counter[int] = Counter()
        self._refusals: Counter[int] = Counter()
        self._fills = self._batches = self._actions = self._refused = 0
        self._signers: list[tuple[Key, int]] = []
        self._ready: list[tuple[Submission, int, list[Action]]] = []
        """Batches that are signed and not sent, the next one last, with account and actions."""
        self._orders = 0
        self._flow: Flow | None = None
        self._room = asyncio.Event()
        self._stopped = False
        self._under_way: dict[Submission, None] = {}

    def counts(self) -> dict[str, int]:
        """Actions so far: submitted, and by state; fills; and batches without a result."""
        counts = {"submitted": self._actions}
        counts.update({state: self._meters.actions(state) for state in STATES})
        return {**counts, "fills": self._fills, "under_way": len(self._under_way)}

    def stop(self) -> None:
        """Send nothing more; `run` then waits for what is under way and reports."""
        self._stopped = True
        self._room.set()

    async def run(self) -> LoadReport:
        """Prepare, send, wait for results and settlement.

        Raises `Unreachable` where nothing answers for the exchange's patience, `SafetyViolation`
        for a gap in the event stream, `ConfigError` for options that make no sense. What was
        measured is reported also where the orders that rest cannot be cancelled (`left_resting`).
        """
        await self._prepare()
        self._meters = Meters(self.options.seed)
        self._meters.start_ns = time.perf_counter_ns()
        if self.options.rate:
            await self._send_at_rate()
        else:
            await self._send_in_window()
        sent_ns = time.perf_counter_ns()
        await self._drain()
        cpu_s = time.process_time() - self._meters.cpu_start_s
        report = self._report((sent_ns - self._meters.start_ns) / 1e9, cpu_s)
        if self.options.clean_up:
            try:
                await self._clean_up()
            except (TimeoutError, RemoteFault, Unreachable) as error:
                self.left_resting = str(error)
        return report

    # --- before the clock starts

    async def _prepare(self) -> None:
        options, exchange = self.options, self._exchange
        testnet = exchange.testnet
        if testnet is None:
            raise ConfigError("load signs with the traders' keys of a testnet directory")
        names = testnet.traders[options.first_trader : options.first_trader + options.accounts]
        if len(names) < options.accounts:
            raise ConfigError(
                f"the testnet has {len(testnet.traders)} traders; load wants {options.accounts} "
                f"from number {options.first_trader} on"
            )
        markets = exchange.chain.genesis.markets
        if options.markets:
            markets = [exchange.market(symbol) for symbol in options.markets]
        started = []
        for config in markets:
            mark = (await exchange.book(config.market, 1)).mark_ticks
            started.append((config, mark or config.initial_price_ticks))
        for name in names:
            key = exchange.key(name)
            account = (await exchange.account_of(key.address, wait_ms=10_000)).account
            await exchange.prove(key)
            self._signers.append((key, account))
        self._flow = Flow(
            options.seed, started, accounts=options.accounts, batch=options.batch,
            taker_share=options.taker_share, first_client_id=wall_clock_ms() << 8,
        )  # fmt: skip
        await exchange.follow()
        exchange.watchers.append(self._watch)
        wanted = options.presign
        if options.rate:
            wanted = min(wanted, int(options.rate * options.seconds / options.batch) + 1)
        for made in range(min(wanted, PRESIGN_LIMIT)):
            account, actions = self._flow.next_batch()
            self._ready.append((self._make(account, actions), account, actions))
            if made % 50 == 49:
                await asyncio.sleep(0)
        self._ready.reverse()

    def _make(self, account: int, actions: list[Action]) -> Submission:
        key, number = self._signers[account]
        submission = self._exchange.sign(key, number, actions)
        submission.on_reach = self._reached
        submission.on_fail = self._failed
        submission.orders = sum(1 for action in actions if type(action) is not CancelClient)
        return submission

    # --- sending

    async def _send(self) -> None:
        if self._flow is None:
            raise ConfigError("load is sent by run()")
        ready = self._ready
        submission = ready.pop()[0] if ready else self._make(*self._flow.next_batch())
        self._batches += 1
        self._actions += submission.actions
        self._orders += submission.orders
        self._under_way[submission] = None
        await self._exchange.submit(submission)

    async def _send_at_rate(self) -> None:
        options = self.options
        loop = asyncio.get_running_loop()
        start = loop.time()
        total = int(options.rate * options.seconds / options.batch)
        sent = 0
        while sent < total and not self._stopped:
            due = int((loop.time() - start) * options.rate / options.batch) + 1
            while sent < min(due, total) and len(self._under_way) < OPEN_LIMIT:
                await self._send()
                sent += 1
            self.throttled += len(self._under_way) >= OPEN_LIMIT
            self._exchange.check()
            await asyncio.sleep(TICK_S)

    async def _send_in_window(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.options.seconds
        while loop.time() < until and not self._stopped:
            while len(self._under_way) < self.options.window and loop.time() < until:
                await self._send()
            self._room.clear()
            try:
                async with asyncio.timeout(min(0.5, max(0.001, until - loop.time()))):
                    await self._room.wait()
            except TimeoutError:
                self._exchange.check()

    # --- what comes back

    def _reached(self, submission: Submission, state: State) -> None:
        self._meters.note(submission, state)
        if state == "executed":
            self._under_way.pop(submission, None)
            self._room.set()
            result = submission.result
            if result is None:
                return
            if result.code:
                self._errors[result.code] += submission.actions
            for one in result.results:
                if one.code:
                    self._errors[one.code] += 1
            # Counted, they are of no more use; an hour of load would fill the memory with them.
            submission.result = None

    def _watch(self, block: BlockEvents) -> None:
        self._fills += sum(1 for event in block.events if type(event) is Fill)

    def _failed(self, submission: Submission, error: Exception) -> None:
        if not submission.accepted_ns and submission in self._under_way:
            del self._under_way[submission]
            self._refused += 1
            self._exchange.tracker.drop(submission)
            self._refusals[error.code if isinstance(error, RemoteFault) else Code.NOT_READY] += 1
            self._room.set()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        start = resent = loop.time()
        while self._under_way and loop.time() < start + self.options.drain_s:
            self._exchange.check()
            if loop.time() > resent + STALE_S:
                resent = loop.time()
                stale = [s for s in self._under_way if s.accepted_ns]
                try:
                    await self._exchange.pipeline.resend_stale(stale[:256])
                except Unreachable:
                    break
            await asyncio.sleep(0.02)
        start = loop.time()
        # Real chains' windows last for days: nobody waits here for what cannot come in time.
        window_s = self._exchange.chain.genesis.settlement.window_ms / 1000
        last = self._meters.by_state["final" if window_s < self.options.settle_s else "settled"]
        executed = self._meters.by_state["executed"]
        while last.batches < executed.batches and loop.time() < start + self.options.settle_s:
            self._exchange.check()
            await asyncio.sleep(0.05)

    async def _clean_up(self) -> None:
        """Cancel what still rests, so that the next run finds empty books."""
        if self._flow is None:
            return
        self._exchange.watchers.remove(self._watch)
        patience_s = self.options.drain_s
        if self._under_way:
            patience_s = min(patience_s, HURRIED_S)
        last = []
        for account, actions in self._unsent_cancels() + self._flow.last_cancels():
            key, number = self._signers[account]
            last.append(await self._exchange.submit(self._exchange.sign(key, number, actions)))
        for submission in last:
            await submission.wait("executed", int(patience_s * 1000))

    def _unsent_cancels(self) -> list[tuple[int, list[Action]]]:
        """What a run that was stopped early did not cancel of what it had sent, though the flow
        counts on it; the flow numbers its orders upwards."""
        ahead = [(account, actions) for _, account, actions in reversed(self._ready)]
        orders = (one.client_id for _, actions in ahead for one in actions if type(one) is Order)
        first_unsent = next(orders, 0)
        found: list[tuple[int, list[Action]]] = []
        for account, actions in ahead:
            cancels: list[Action] = [
                one for one in actions
                if type(one) is CancelClient and one.client_id < first_unsent
            ]  # fmt: skip
            if cancels:
                found.append((account, cancels))
        return found

    def _report(self, seconds: float, cpu_s: float) -> LoadReport:
        exchange, meters = self._exchange, self._meters
        lost = [s for s in self._under_way if s.accepted_ns]
        start_ns = meters.start_ns
        refusals = {_label(code): count for code, count in sorted(self._refusals.items())}
        if unanswered := len(self._under_way) - len(lost):
            refusals[UNANSWERED] = unanswered
        return LoadReport(
            seconds=round(seconds, 3),
            batches=self._batches,
            actions=self._actions,
            orders=self._orders,
            cancels=self._actions - self._orders,
            fills=self._fills,
            accepted=meters.actions("accepted"),
            ordered=meters.actions("ordered"),
            executed=meters.actions("executed"),
            settled=meters.actions("settled"),
            final=meters.actions("final"),
            tps={state: meter.per_second(start_ns) for state, meter in meters.by_state.items()},
            latency_ms={state: meter.latency() for state, meter in meters.by_state.items()},
            lost=len(lost),
            duplicated=exchange.tracker.duplicated,
            refused=self._refused + unanswered,
            busy=exchange.pipeline.busy,
            resent=exchange.pipeline.resent,
            reconnects=exchange.reconnects,
            errors={_label(code): count for code, count in sorted(self._errors.items())},
            refusals=refusals,
            cpu_s=round(cpu_s, 3),
        )


def _label(code: int) -> str:
    try:
        return Code(code).label
    except ValueError:
        return f"code_{code}"
