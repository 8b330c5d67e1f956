"""One stress run: the real engine under a crash, a load and an oracle delay, in virtual time.

Discrete steps. In each, everybody looks at what reaches them and sends, the pipeline admits and
orders, and the engine executes a block. Its result is known to the world when execution has worked
it off, which under load is later than the block's time: makers wait for their acknowledgements,
and positions count as closed, only then. After the window the load ends, prices stand still, and
the run goes on until no liquidation is open; then the books are checked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from protocol.actions import Action
from protocol.errors import Code, SafetyViolation
from protocol.events import LIQUIDATION_ORDER
from protocol.genesis import PPM
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT
from sequencer.lanes import Lane
from sim.stress_exchange import Exchange, Facts, make_chain, signed
from sim.stress_ladder import Ladder, Tally, claims, ladder, require_paid
from sim.stress_makers import PPB, Participant, Sight
from sim.stress_queue import (
    BLOCK_MS,
    FILLER_ACTIONS,
    NO_BOUNDS,
    NO_COSTS,
    Ordered,
    Pipeline,
    Sent,
)
from sim.stress_report import NEVER, Backlog, Flow, Run, Series, Wrongful, delays, percentiles
from sim.stress_setting import Cell, Start
from sim.stress_traders import ORACLE_WIRE_MS, Reserves, oracle_reports
from sim.stress_watch import Holdings, Watch

ORACLE_MS = 600
"""An oracle reports so often (the ideal exchange: in every step)."""
SAMPLE_MS = 1_000
SERIES_MS = 5_000
DRAIN_MS = 15 * 60_000
"""After the window liquidations must have ended in this time beyond what execution is behind."""
IMPACT_PPM = 200_000
"""With impact, selling a part of open interest moves the price by a fifth of that part at once."""
IMPACT_MS = 300_000
"""The move decays with this time constant."""
IMPACT_MOST_PPB = PPB // 10
NONCE_AGO_MS = 24 * 3600 * 1000


class Impact:
    """What liquidations have done to the true price, in parts per billion of it."""

    def __init__(self, open_lots: int, step_ms: int) -> None:
        self._open_lots = max(open_lots, 1)
        self._step_ms = step_ms
        self.shift_ppb = 0

    def sold(self, lots: int) -> None:
        """Liquidations sold so much (negative: bought)."""
        move = PPB * IMPACT_PPM // PPM * lots // self._open_lots
        self.shift_ppb = max(-IMPACT_MOST_PPB, min(self.shift_ppb + move, IMPACT_MOST_PPB))

    def step(self) -> None:
        """Time passes."""
        decay = abs(self.shift_ppb) * self._step_ms // IMPACT_MS
        self.shift_ppb += decay if self.shift_ppb < 0 else -decay


class Executed(NamedTuple):
    """A block that the engine has executed, and when the world knows.

    `sent_ms`: when its newest prices were sent (without any, its time); `observed_ms`: when they
    were observed (0: it has none, or they are stale)."""

    done_ms: int
    sent_ms: int
    observed_ms: int
    facts: Facts
    batches: dict[tuple[int, int], Sent]


class World:
    """A run of one cell."""

    def __init__(self, start: Start, cell: Cell) -> None:
        self.start, self.cell = start, cell
        path = start.path
        first = path.ticks[0]
        chain = make_chain(
            path.start_ms - 1, first, cell.staleness_ms, start.funds,
            path.step_ms // BLOCK_MS, endless=cell.ideal,
        )  # fmt: skip
        self.exchange = Exchange(chain, start.leaves)
        self.before = self.exchange.state()
        self.makers, self.takers, _ = start.participants()
        self.participants: list[Participant] = [*self.makers, *self.takers]
        self.by_account = {one.account: one for one in self.participants}
        self.reserves = Reserves(start.population.traders)
        if cell.ideal:
            self.pipeline = Pipeline(cell.policy, NO_COSTS, NO_BOUNDS)
        else:
            self.pipeline = Pipeline(cell.policy, start.shape.costs)
        holdings = Holdings(start.product)
        for account, (size, cash) in self.before.items():
            holdings.put(account, size, cash)
        self.watch = Watch(holdings, first)
        self.known = {one: self.before[one] for one in (INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT)}
        """What the funds hold as far as the world knows."""
        self.tally = Tally(start.product)
        self.impact = Impact(start.population.open_interest_lots, path.step_ms)
        self.series = Series()
        self.true = list(path.ticks)
        """The true price of each step, as it turned out."""
        self.step = 0
        self._executed: deque[Executed] = deque()
        self._outbox: list[Sent] = []
        self._nonce = path.start_ms - NONCE_AGO_MS
        self._next_oracle_ms = self._next_sample_ms = path.start_ms
        self._best = (0, 0)
        self._filler = self._observed_ms = 0
        self._end_ms = path.start_ms + len(path.ticks) * path.step_ms
        self._loaded = True
        self.flow, self.backlog, self.wrongful = Flow(), Backlog(), Wrongful()
        self._acknowledged_ms: list[int] = []
        self._next_series_ms = path.start_ms

    # -- the loop

    def run(self) -> Run:
        """Run to the end; raises `SafetyViolation` where money or a winner's claim is lost."""
        path = self.start.path
        now_ms = path.start_ms
        while now_ms < self._end_ms:
            self._advance(now_ms)
            now_ms += path.step_ms
        self._loaded = False
        stop_ms = now_ms + self.pipeline.behind_ms(now_ms) + DRAIN_MS
        while now_ms < stop_ms and not self._quiet(now_ms):
            self._advance(now_ms)
            now_ms += path.step_ms
        return self._finish(now_ms)

    def _quiet(self, now_ms: int) -> bool:
        """Whether everything sent was executed, the last price is known, and nobody is below
        maintenance."""
        return (
            self._observed_ms >= self._end_ms
            and not self.pipeline.waiting
            and not self.pipeline.behind_ms(now_ms)
            and not self.watch.episodes
        )

    def _advance(self, from_ms: int) -> None:
        """A step. What happens in it happens just before the last of its blocks, so that a step's
        length is no delay of its own."""
        to_ms = from_ms + self.start.path.step_ms
        now_ms = to_ms - BLOCK_MS
        while self._executed and self._executed[0].done_ms <= now_ms:
            self._learn(self._executed.popleft())
        self._move_price(now_ms)
        self._act(now_ms)
        filler = self._load(from_ms)
        for one in self.pipeline.offer(self._outbox, filler, from_ms, to_ms):
            self._answer(one, to_ms, Code.BUSY)
        self._outbox = []
        self._execute(self.pipeline.order(from_ms, to_ms))
        if now_ms >= self._next_sample_ms:
            self._next_sample_ms = now_ms + SAMPLE_MS
            self._sample(now_ms)

    def _load(self, now_ms: int) -> int:
        """Batches of filler that come in a step."""
        if self.cell.ideal or not self._loaded:
            return 0
        path = self.start.path
        per_s = self.start.shape.load_actions * self.cell.load_ppm
        activity = max(path.activity_ppm[path.step_at(now_ms)], PPM // 4)
        self._filler += per_s * activity * path.step_ms
        unit = PPM * PPM * 1_000 * FILLER_ACTIONS
        batches, self._filler = divmod(self._filler, unit)
        flow = self.flow
        flow.offered_filler += batches
        flow.peak_load = max(flow.peak_load, batches * FILLER_ACTIONS * 1_000 // path.step_ms)
        return batches

    def _move_price(self, now_ms: int) -> None:
        """The true price passes all of the path's steps up to now."""
        path = self.start.path
        last = path.step_at(now_ms)
        while self.step <= last:
            if self.cell.impact:
                self.impact.step()
                ticks = path.ticks[self.step] * (PPB - self.impact.shift_ppb) // PPB
                self.true[self.step] = max(ticks, 1)
            at_ms = path.start_ms + self.step * path.step_ms
            self.watch.move_true(self.true[self.step], at_ms)
            self.reserves.look(at_ms, self.true[self.step])
            self.step += 1

    # -- who sends

    def _act(self, now_ms: int) -> None:
        cell, path = self.cell, self.start.path
        if now_ms >= self._next_oracle_ms:
            self._next_oracle_ms = now_ms + (0 if cell.ideal else ORACLE_MS)
            observed_ms = now_ms - cell.delay_ms
            for report in oracle_reports(self.true[path.step_at(observed_ms)], observed_ms):
                key = int.from_bytes(report.signer, "big")
                self._send(key, Lane.ORACLE, report.raw, report.nonce_ms, now_ms, ORACLE_WIRE_MS)
        for one in self.participants:
            if one.due(now_ms):
                wish = one.act(now_ms, self._sight(now_ms - one.feed_ms))
                if wish is not None:
                    self._submit(one.account, wish.actions, wish.lane, now_ms, one.wire_ms)
        for account, transfer in self.reserves.due(now_ms):
            purse = Reserves.purse(account)
            self._submit(purse, [transfer], Lane.REDUCING, now_ms, ORACLE_WIRE_MS, owner=account)

    def _sight(self, at_ms: int) -> Sight:
        path = self.start.path
        step = min(path.step_at(at_ms), self.step - 1)
        return Sight(
            self.true[step],
            path.volatility_ppb[step],
            self.start.usual_ppb,
            path.step_ms,
            self._best,
        )

    def _submit(
        self,
        account: int,
        actions: list[Action],
        lane: Lane,
        now_ms: int,
        wire_ms: int,
        owner: int = 0,
    ) -> None:
        self._nonce += 1
        owner = owner or account
        raw = signed(account, self._nonce, actions, owner.to_bytes(32, "big"))
        self._send(owner, lane, raw, self._nonce, now_ms, wire_ms)

    def _send(
        self, signer: int, lane: Lane, raw: bytes, nonce_ms: int, now_ms: int, wire_ms: int
    ) -> None:
        arrival_ms = now_ms if self.cell.ideal else now_ms + wire_ms
        self._outbox.append(Sent(signer, nonce_ms, lane, raw, 1, now_ms, arrival_ms))

    def _answer(self, one: Sent, now_ms: int, code: int) -> None:
        """Its sender learns what became of a batch."""
        participant = self.by_account.get(one.signer)
        if participant is not None:
            participant.answered(one.sent_ms, now_ms, code)
            self._acknowledged_ms.append(now_ms - one.sent_ms)
        elif one.lane == Lane.REDUCING:
            if code == Code.BUSY:
                self.reserves.again(one.signer, now_ms)
            else:
                self.flow.top_ups += not code

    # -- the exchange

    def _execute(self, block: Ordered) -> None:
        facts = self.exchange.apply(block.time_ms, [one.raw for one in block.sent])
        done_ms = self.pipeline.execute(block, int(facts.mark_moved), facts.visits, facts.moves)
        prices = [one.sent_ms for one in block.sent if one.lane == Lane.ORACLE]
        sent_ms = max(prices) if prices else block.time_ms
        observed_ms = sent_ms - self.cell.delay_ms if prices and not facts.stale else 0
        batches = {(one.signer, one.nonce_ms): one for one in block.sent}
        self._executed.append(Executed(done_ms, sent_ms, observed_ms, facts, batches))
        flow = self.flow
        flow.blocks += 1
        flow.stale_blocks += facts.stale
        flow.behind_ms = max(flow.behind_ms, done_ms - block.time_ms)

    def _learn(self, executed: Executed) -> None:
        """A block's result is known."""
        now_ms, sent_ms, observed_ms, facts, batches = executed
        self._observed_ms = max(self._observed_ms, observed_ms)
        watch = self.watch
        if facts.mark_ticks != watch.mark_ticks:
            watch.move_mark(facts.mark_ticks, now_ms, sent_ms)
        sold = 0
        for receipt in facts.receipts:
            self.tally.add(receipt)
            if receipt.kind == LIQUIDATION_ORDER:
                sold -= receipt.size_lots
        for account in facts.handled:
            if watch.order(account, now_ms):
                self._liquidated(account)
        self.impact.sold(sold)
        for account, (size, cash) in facts.holdings.items():
            watch.put(account, size, cash, now_ms, facts.time_ms)
            if account in self.known:
                self.known[account] = (size, cash)
            participant = self.by_account.get(account)
            if participant is not None:
                participant.holds(size)
        self._best = facts.best
        for answer in facts.answers:
            one = batches.get((int.from_bytes(answer.signer, "big"), answer.nonce_ms))
            if one is not None:
                code = answer.code or answer.results[0].code
                self._answer(one, now_ms, code)

    # -- results

    def _liquidated(self, account: int) -> None:
        """The first liquidation order of an account was executed."""
        self.flow.liquidated += 1
        watch = self.watch
        if not watch.episodes[account].wrongful:
            return
        found, held = self.wrongful, watch.holdings.open[account]
        notional = self.start.product.notional_uusd(abs(held.size_lots), watch.true_ticks)
        found.accounts += 1
        found.notional_uusd += notional
        if account not in watch.ever_true:
            found.never += 1
            found.never_uusd += notional

    def _sample(self, now_ms: int) -> None:
        watch, backlog, tally = self.watch, self.backlog, self.tally
        one_lot = self.start.product.notional_uusd(1, watch.true_ticks)
        waiting, below_true, below_mark = (lots * one_lot for lots in watch.backlog_lots())
        backlog.most_uusd = max(backlog.most_uusd, waiting)
        backlog.most_true_uusd = max(backlog.most_true_uusd, below_true)
        backlog.most_mark_uusd = max(backlog.most_mark_uusd, below_mark)
        low_ms = self.start.low_ms
        if backlog.zero_ms == NEVER and not waiting and self._observed_ms >= low_ms:
            backlog.zero_ms = now_ms - low_ms
        withdrawn = sum(maker.withdrawn for maker in self.makers)
        self.flow.withdrawn_ms += withdrawn * SAMPLE_MS
        if now_ms >= self._next_series_ms:
            self._next_series_ms = now_ms + SERIES_MS
            now = self._ladder(self.known, watch.mark_ticks)
            self.series.add(
                now_ms, watch.true_ticks, watch.mark_ticks, waiting,
                self.pipeline.behind_ms(now_ms), withdrawn, sum(tally.notional.values()),
                now.trader_uusd, now.backstop_uusd, now.fund_uusd, now.deleveraging_uusd,
                now.haircut_uusd,
            )  # fmt: skip

    def _ladder(self, state: Mapping[int, tuple[int, int]], ticks: int) -> Ladder:
        first = self.start.path.ticks[0]
        return ladder(self.tally, self.start.product, self.before, state, first, ticks)

    def _finish(self, now_ms: int) -> Run:
        """Check the books and say what was found."""
        start, watch, flow = self.start, self.watch, self.flow
        self.exchange.check()
        if watch.below_mark:
            raise SafetyViolation(
                f"{len(watch.below_mark)} accounts are still below maintenance after prices have "
                f"stood still for {DRAIN_MS // 60_000} minutes"
            )
        after = self.exchange.state()
        found = claims(start.product, after, watch.mark_ticks)
        require_paid(found)
        first, closed = start.path.ticks[0], watch.closed
        flow.refused_filler, flow.refused = self.pipeline.refused_filler, self.pipeline.refused
        flow.missed = sum(one.sent_ms == 0 for one in closed)
        flow.withdrawals = sum(maker.withdrawals for maker in self.makers)
        flow.acknowledgements = percentiles(self._acknowledged_ms)
        return Run(
            crash=start.window.name,
            seed=start.seed,
            cell=self.cell.name,
            accounts=len(start.population.traders),
            open_interest_uusd=start.product.notional_uusd(
                start.population.open_interest_lots, first
            ),
            first_ticks=first,
            low_ticks=min(self.true),
            low_ms=start.low_ms,
            begin_ms=start.path.start_ms,
            end_ms=now_ms,
            delays=delays(closed),
            backlog=self.backlog,
            wrongful=self.wrongful,
            flow=flow,
            ladder=self._ladder(after, watch.mark_ticks),
            closed=self.tally.closed(),
            claims=found,
            series=self.series,
        )
