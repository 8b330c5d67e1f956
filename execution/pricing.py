"""Prices of a block: oracle, staleness, modes, marks, and the end of dated futures."""

from __future__ import annotations

from msgspec.structs import replace

from execution import leaves as lv
from execution.observations import median_of, stakes_of
from execution.state import State
from margin.account import Account, Exposure
from margin.mark import (
    EMA_GAP_MS,
    EMA_SAMPLE_MS,
    NO_IMPACT,
    band,
    blended_ticks,
    book_price_ticks,
    ema_after,
    ema_price_ticks,
    impact_now,
    median,
    scaled_initial_ppm,
    settlement_ticks,
    within,
)
from margin.market import Market
from margin.oracle import NEVER_MS, Level, follow
from protocol.actions import CANCEL_ONLY, HALTED, OPEN, POST_ONLY_MODE, REDUCE_ONLY_MODE
from protocol.errors import Code
from protocol.events import Expired, FundingPaid, MarkChanged, MarketChanged, PositionSettled
from protocol.genesis import DAY_MS
from protocol.markets import OPEN_INTEREST_NOTIONAL_LIMIT

UNPRICED = lv.PricingLeaf()
"""Pricing of a market that nothing happened in; it has no leaf."""

_STRICTNESS = {HALTED: 3, CANCEL_ONLY: 2, REDUCE_ONLY_MODE: 1, POST_ONLY_MODE: 1, OPEN: 0}

_NEWS_MS = -1


class Feed:
    """The committee's median for a market, kept while nothing changes it."""

    __slots__ = ("key", "market", "median_ticks", "quiet", "until_ms")

    def __init__(self, market: Market) -> None:
        config = market.config
        self.market = market
        self.key = lv.pricing_key(market.number)
        self.quiet = not (
            config.impact_notional_uusd
            or config.oracle_age_ms
            or config.oracle_deviation_ppm
            or config.scale_to_uusd
            or config.expires_ms
        )
        """Whether time alone changes nothing: prices move only when the committee reports."""
        self.median_ticks = 0
        self.until_ms = _NEWS_MS
        """Until when the median stands; `_NEWS_MS`: it must be taken anew."""


class Pricing:
    """Fixes prices and modes at the start of a block, and settles what they decide per account."""

    __slots__ = ("_feeds", "_previous_ms", "_stakes", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._stakes = stakes_of(state.chain.genesis)
        self._previous_ms = state.time_ms
        self._feeds = [Feed(market) for market in state.markets]
        for feed in self._feeds:
            market = feed.market
            row = state.pricing.get(feed.key) or UNPRICED
            market.mode = row.mode
            market.funding_index = row.funding_index
            market.settled_ticks = row.settled_ticks
            market.scaled_ppm = _scaled_ppm(market)

    # -- phase 1

    def resume(self, previous_ms: int) -> None:
        """The block before was at this time; what the oracles told since is not known."""
        self._previous_ms = previous_ms
        for feed in self._feeds:
            feed.until_ms = _NEWS_MS

    def begin_block(self) -> None:
        """Fix prices, marks and modes for the block, from what the oracles have reported and the
        books as the previous block left them.

        `risk.version` rises when anything changed that margin depends on, and on a new UTC day,
        which may change fee tiers.
        """
        state = self._state
        before_ms, now = self._previous_ms, state.time_ms
        self._previous_ms = now
        if now // DAY_MS != before_ms // DAY_MS:
            state.risk.version += 1
        reopens = 0 < state.chain.genesis.reopening.gap_ms < now - before_ms
        for key in state.written:
            if key[:1] == lv.ORACLE:
                self._feeds[lv.parse_oracle_key(key)[0]].until_ms = _NEWS_MS
        for feed in self._feeds:
            if not (feed.market.settled_ticks or (feed.quiet and self._rests(feed, reopens))):
                self._begin_market(feed, before_ms, reopens)

    def _rests(self, feed: Feed, reopens: bool) -> bool:
        """Whether nothing can have changed in a quiet market: no report, no vote, no reopening, no
        price that waits for open interest to fall."""
        market = feed.market
        if reopens or market.stale or feed.until_ms != NEVER_MS or market.mode != market.voted_mode:
            return False
        row = self._state.pricing.get(feed.key)
        return row is None or not row.reopened_ms

    def _begin_market(self, feed: Feed, before_ms: int, reopens: bool) -> None:
        state, market = self._state, feed.market
        old = state.pricing.get(feed.key) or UNPRICED
        ticks, *guard = self._level(feed, old)
        # Before its first price a market stands at the initial one, which no age limit vouches for.
        known = feed.median_ticks or not (ticks or market.config.oracle_age_ms)
        wild_ms, wild_ticks, from_ms, from_ticks = guard
        stale = bool(wild_ms) or not known or _too_open(market, ticks)
        row = old
        if guard != [old.wild_ms, old.wild_ticks, old.from_ms, old.from_ticks]:
            row = replace(
                row, wild_ms=wild_ms, wild_ticks=wild_ticks, from_ms=from_ms, from_ticks=from_ticks
            )
        row = self._stage(market, row, stale, reopens)
        row = self._sample(market, row, ticks, stale, before_ms)
        settles = self._settles(market, row)
        self._set_state(market, row.mode, stale and not settles, ticks)
        if settles:
            row = self._expire(market, row)
        elif ticks and not stale:
            self._set_mark(market, self._mark(market, row))
        scaled_ppm = _scaled_ppm(market)
        if scaled_ppm != market.scaled_ppm:
            market.scaled_ppm = scaled_ppm
            state.risk.version += 1
        if row is not old:
            if row == UNPRICED:
                state.pricing.drop(feed.key)
            else:
                state.pricing.put(feed.key, row)

    def _level(self, feed: Feed, row: lv.PricingLeaf) -> Level:
        """The accepted oracle price after this block's median, which is kept in `feed`."""
        state, market = self._state, feed.market
        config, now = market.config, state.time_ms
        if feed.until_ms < now:
            feed.median_ticks, feed.until_ms = median_of(
                market, state.oracle_prices[market.number], self._stakes, now
            )
        return follow(
            Level(market.oracle_ticks, row.wild_ms, row.wild_ticks, row.from_ms, row.from_ticks),
            feed.median_ticks,
            now,
            config.oracle_deviation_ppm,
            config.oracle_hold_ms,
        )

    def _stage(
        self, market: Market, row: lv.PricingLeaf, stale: bool, reopens: bool
    ) -> lv.PricingLeaf:
        """The row with the mode in force: the strictest of the voted one, of reopening and of
        expiry."""
        now, stages = self._state.time_ms, self._state.chain.genesis.reopening
        mode, reopened_ms, fresh_ms = market.voted_mode, row.reopened_ms, row.fresh_ms
        if reopens:
            reopened_ms, fresh_ms = now, 0
        if reopened_ms:
            fresh_ms = 0 if stale else fresh_ms or now
            fresh_for_ms = now - fresh_ms
            if stale or fresh_for_ms < stages.cancel_only_ms:
                mode = stricter(mode, CANCEL_ONLY)
            elif fresh_for_ms < stages.cancel_only_ms + stages.post_only_ms:
                mode = stricter(mode, POST_ONLY_MODE)
            else:
                reopened_ms = fresh_ms = 0
        if 0 < market.config.expires_ms <= now:
            mode = stricter(mode, CANCEL_ONLY)
        if (mode, reopened_ms, fresh_ms) == (row.mode, row.reopened_ms, row.fresh_ms):
            return row
        return replace(row, mode=mode, reopened_ms=reopened_ms, fresh_ms=fresh_ms)

    def _sample(
        self, market: Market, row: lv.PricingLeaf, ticks: int, stale: bool, before_ms: int
    ) -> lv.PricingLeaf:
        """The row with both averages brought up to now.

        `market` is still as the previous block left it: its price and state stood until now. The
        averages are sampled once in `EMA_SAMPLE_MS`, and when what they average changes in kind.
        """
        config, now = market.config, self._state.time_ms
        averages = 0 < config.expires_ms < now + config.settle_window_ms
        if not (config.impact_notional_uusd or averages):
            return row
        over = averages and now >= config.expires_ms and not stale
        turned = (
            over
            or stale != market.stale
            or (averages and (ticks != market.oracle_ticks or row.mode != market.mode))
        )
        if not turned and (stale or now - row.sampled_ms < EMA_SAMPLE_MS):
            return row
        ema = row.ema
        if ticks:
            dt_ms = now - row.sampled_ms if row.sampled_ms else 0
            # After a gap the book is older than the price that it would be compared with.
            silent = stale or market.stale or dt_ms > EMA_GAP_MS
            book = NO_IMPACT if silent else impact_now(market, ticks)
            ema = ema_after(ema, book, ticks, dt_ms, self._band(market, ticks))
        ticks_ms, averaged_ms = row.average_ticks_ms, row.averaged_ms
        if averages and not market.stale and market.mode != HALTED:
            counted_ms = self._counted_ms(market, row.sampled_ms or before_ms)
            ticks_ms += (market.oracle_ticks or market.mark_ticks) * counted_ms
            averaged_ms += counted_ms
        return replace(
            row, ema=ema, sampled_ms=now, average_ticks_ms=ticks_ms, averaged_ms=averaged_ms
        )

    def _counted_ms(self, market: Market, since_ms: int) -> int:
        """How much of the time until now the settlement average counts: inside its window, or
        after it while it is late, and no longer than a price lives."""
        config, now = market.config, self._state.time_ms
        since_ms = max(since_ms, config.expires_ms - config.settle_window_ms)
        until_ms = min(now, config.expires_ms) if since_ms < config.expires_ms else now
        return min(until_ms - since_ms, config.oracle_age_ms or NEVER_MS)

    def _band(self, market: Market, ticks: int) -> int:
        config = market.config
        left_ms = config.expires_ms - self._state.time_ms
        return band(ticks, config.maintenance_ppm, left_ms)

    def _mark(self, market: Market, row: lv.PricingLeaf) -> int:
        """The mark at a fresh oracle price."""
        mark = ticks = market.oracle_ticks
        ahead = ema_price_ticks(ticks, within(row.ema, self._band(market, ticks)))
        if ahead != ticks:
            book = book_price_ticks(impact_now(market, ticks), market.last_ticks, ticks)
            mark = median(ahead, book, ticks)
        if row.averaged_ms:
            window_ms = market.config.settle_window_ms
            mark = blended_ticks(mark, row.average_ticks_ms, row.averaged_ms, window_ms)
        return mark

    def _set_state(self, market: Market, mode: int, stale: bool, ticks: int) -> None:
        state = self._state
        if ticks != market.oracle_ticks:
            market.oracle_ticks = ticks
            state.dirty_markets[market] = None
        if stale != market.stale:
            state.risk.version += 1
        elif mode == market.mode:
            return
        market.mode, market.stale = mode, stale
        state.dirty_markets[market] = None
        state.events.append(MarketChanged(market.number, mode, stale))

    def _set_mark(self, market: Market, mark_ticks: int) -> None:
        state = self._state
        if mark_ticks != market.mark_ticks:
            state.risk.set_mark(market, mark_ticks)
            state.dirty_markets[market] = None
            state.events.append(MarkChanged(market.number, mark_ticks))

    def _settles(self, market: Market, row: lv.PricingLeaf) -> bool:
        """Whether a dated future is over: its time has come and at least half of its window was
        averaged over fresh prices. Guardians keep it open by halting it."""
        config = market.config
        return (
            0 < config.expires_ms <= self._state.time_ms
            and 2 * row.averaged_ms >= config.settle_window_ms
            and row.mode != HALTED
        )

    def _expire(self, market: Market, row: lv.PricingLeaf) -> lv.PricingLeaf:
        state = self._state
        settled = settlement_ticks(row.average_ticks_ms, row.averaged_ms)
        self._set_mark(market, settled)
        market.settled_ticks = settled
        state.risk.version += 1
        state.events.append(Expired(market.number, settled))
        return replace(row, settled_ticks=settled)

    # -- guardians

    def vote(self, guardian: int, market_number: int, mode: int) -> Code:
        """A guardian's (its index in genesis) vote for a market's mode, kept until it votes anew.

        The mode that more than half of the guardians then agree on counts from when prices and
        modes are next fixed.
        """
        state = self._state
        if not 0 <= market_number < len(state.markets):
            return Code.UNKNOWN_MARKET
        if mode not in _STRICTNESS:
            return Code.BAD_MODE
        market = state.markets[market_number]
        if market.settled_ticks:
            return Code.MARKET_EXPIRED
        vote = lv.VoteLeaf(mode)
        state.votes.put(lv.vote_key(market_number, guardian), vote)
        guardians = len(state.chain.genesis.guardians)
        votes = [state.votes.get(lv.vote_key(market_number, n)) for n in range(guardians)]
        if 2 * votes.count(vote) > guardians and market.voted_mode != mode:
            market.voted_mode = mode
            state.dirty_markets[market] = None
        return Code.OK

    # -- accounts

    def settle(self, account: Account) -> None:
        """Settle what is due to an account whose totals are about to be rebuilt: funding, and its
        positions in markets that have expired. Exposures that hold nothing are forgotten."""
        markets = self._state.markets
        due: list[int] = []
        unused: list[int] = []
        for number, e in account.exposures.items():
            if e.size_lots:
                market = markets[number]
                if e.funding_index != market.funding_index or market.settled_ticks:
                    due.append(number)
            elif _unused(e):
                unused.append(number)
        for number in unused:
            del account.exposures[number]
        for number in sorted(due):
            e, market = account.exposures[number], markets[number]
            if e.funding_index != market.funding_index:
                self._settle_funding(account, e, market)
            if market.settled_ticks and account is not self._state.pool:
                self._settle_position(account, e, market)

    def _settle_funding(self, account: Account, e: Exposure, market: Market) -> None:
        """The pool pays or takes what the account receives or pays; both ways the account's amount
        is rounded down, so that the pool keeps what rounding leaves."""
        state, pool = self._state, self._state.pool
        amount_uusd = state.risk.funding_uusd(e, market)
        e.funding_index = market.funding_index
        state.dirty_exposures[e] = None
        if amount_uusd:
            account.cash_uusd += amount_uusd
            pool.cash_uusd -= amount_uusd
            pool.tv_uusd -= amount_uusd
            state.dirty_accounts[account] = state.dirty_accounts[pool] = None
            state.events.append(
                FundingPaid(account.number, market.number, e.size_lots, amount_uusd)
            )

    def _settle_position(self, account: Account, e: Exposure, market: Market) -> None:
        """The pool takes the position for its worth at the settlement price: its own sizes sum to
        zero when everybody has been settled, and so does what it paid."""
        state, pool, size = self._state, self._state.pool, e.size_lots
        other = pool.exposure(market.number)
        paid_uusd = market.product.settled_uusd(size, market.settled_ticks)
        longs = max(size, 0) + max(other.size_lots, 0)
        state.risk.move(account, e, market, -size, paid_uusd)
        state.risk.move(pool, other, market, size, -paid_uusd)
        market.open_interest_lots += max(other.size_lots, 0) - longs
        state.dirty_markets[market] = None
        state.dirty_exposures[e] = state.dirty_exposures[other] = None
        state.dirty_accounts[account] = state.dirty_accounts[pool] = None
        state.events.append(PositionSettled(account.number, market.number, size, paid_uusd))


def stricter(one: int, other: int) -> int:
    """The stricter of two modes; of post-only and reduce-only, what both allow: cancels."""
    if {one, other} == {POST_ONLY_MODE, REDUCE_ONLY_MODE}:
        return CANCEL_ONLY
    return max(one, other, key=_STRICTNESS.__getitem__)


def _too_open(market: Market, ticks: int) -> bool:
    """Whether open interest at a price would be more than a number holds: the mark stays, and the
    market only reduces, until it is not."""
    notional_uusd = market.product.notional_uusd(market.open_interest_lots, ticks)
    return notional_uusd >= OPEN_INTEREST_NOTIONAL_LIMIT


def _scaled_ppm(market: Market) -> int:
    """Initial rate that a market's open interest asks for at its mark."""
    config = market.config
    if not config.scale_to_uusd or market.settled_ticks:
        return 0
    open_uusd = market.product.notional_uusd(market.open_interest_lots, market.mark_ticks)
    return scaled_initial_ppm(
        open_uusd, config.initial_ppm, config.scale_from_uusd, config.scale_to_uusd
    )


def _unused(e: Exposure) -> bool:
    """Whether nothing would be lost with an exposure, on the books or in the state's leaves."""
    return not (
        e.size_lots or e.bid_lots or e.ask_lots or e.reduce_bid_lots or e.reduce_ask_lots
        or e.leverage or e.protected or e.committed_lots or e.leaf is not None
    )  # fmt: skip
