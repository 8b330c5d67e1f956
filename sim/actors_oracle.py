"""Who tells prices and modes, and who makes the market, in simulated exchanges.

They go on after the load until the exchange is calm: before that somebody is still to be sold, or a
market is not open.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.actions import (
    ALL_MARKETS,
    CANCEL_ONLY,
    HALTED,
    OPEN,
    POST_ONLY_MODE,
    REDUCE_ONLY_MODE,
    Action,
    CancelAll,
    MassQuote,
    OraclePrice,
    ScheduleCancel,
    SetMode,
    SetProtection,
)
from protocol.messages import Ordered
from sim.actors_trader import OPEN_MAX, Trader
from sim.pipeline_venue import STEP_MS
from sim.random import PPM, SplitMix64

Vote = tuple[int, int, int]
"""When (ms since genesis), market, mode."""
RESTRICTED = (CANCEL_ONLY, POST_ONLY_MODE, REDUCE_ONLY_MODE, HALTED)
VOTE_AGAIN_MS = 1_000
QUOTE_MS = 200
LEVELS = 4


class Servant(Trader):
    """Goes on until it is told to stop; `calm` says whether that may be."""

    calm: Callable[[], bool] = staticmethod(lambda: True)
    pace_ms = STEP_MS

    def start(self) -> None:
        """Begin."""
        self.on(Ordered, self._ordered)
        self.spawn(self._serve())

    async def _serve(self) -> None:
        await self.begin()
        while True:
            works = self.kernel.now_us < self._stop_us or not self.calm()
            if works and self.open_submissions < OPEN_MAX:
                self.turn()
            await self.sleep(self.pace_ms)

    async def begin(self) -> None:
        """What comes before the first turn."""

    def turn(self) -> None:
        """Do what there is to do now."""


class Oracle(Servant):
    """Sends the prices of the path, a little beside them."""

    def turn(self) -> None:
        """Tell all prices; seldom one that is unsure of itself."""
        random = self.random
        prices: list[Action] = []
        for market in range(len(self.venue.markets)):
            ticks = self.price(market)
            beside = ticks * random.between(-100, 100) // PPM
            confidence_ppm = 60_000 if random.chance(20_000) else random.between(0, 2_000)
            prices.append(OraclePrice(market, ticks + beside, confidence_ppm))
        self._send(self.sign(*prices, account=0))


class Guardian(Servant):
    """Votes as planned with its fellows, and for open markets in the end."""

    votes: tuple[Vote, ...] = ()

    def turn(self) -> None:
        """Cast the votes that are due."""
        passed_ms = self.kernel.now_us // 1_000
        due = [vote for vote in self.votes if vote[0] <= passed_ms]
        if due:
            self.votes = self.votes[len(due) :]
            self._vote([SetMode(market, mode) for _, market, mode in due])
        elif self.kernel.now_us >= self._stop_us and self.random.chance(
            STEP_MS * PPM // VOTE_AGAIN_MS
        ):
            self._vote([SetMode(market, OPEN) for market in range(len(self.venue.markets))])

    def _vote(self, votes: list[Action]) -> None:
        self._send(self.sign(*votes, account=0))


def planned_votes(random: SplitMix64, markets: int, until_ms: int) -> tuple[Vote, ...]:
    """Votes that all guardians cast: some market is restricted for a while, and opened again."""
    votes, at_ms = [], random.between(500, 1_500)
    while at_ms < until_ms:
        market = random.below(markets)
        votes.append((at_ms, market, random.pick(RESTRICTED)))
        at_ms += random.between(200, 700)
        votes.append((at_ms, market, OPEN))
        at_ms += random.between(1_000, 2_500)
    return tuple(votes)


class Maker(Servant):
    """Quotes both sides of all markets with much money, and steps aside when prices run."""

    pace_ms = QUOTE_MS

    async def begin(self) -> None:
        """Get the account."""
        await self._enter()
        self._before = [self.price(market) for market in range(len(self.venue.markets))]
        self._send(self.sign(SetProtection(1, 30, 500)))

    def turn(self) -> None:
        """New quotes around the price; none where it has just moved far."""
        random = self.random
        if random.chance(100_000):
            self._send(self.sign(CancelAll(ALL_MARKETS)))
            return
        actions: list[Action] = [ScheduleCancel(self.now_ms() + 6_000)]
        for market, before in enumerate(self._before):
            ticks = self._before[market] = self.price(market)
            bids, asks = [], []
            if abs(ticks - before) * 100 < before or self.kernel.now_us >= self._stop_us:
                step = max(1, ticks * random.between(200, 800) // PPM)
                lots = random.between(20, 200)
                bids = [(max(1, ticks - n * step), lots) for n in range(1, LEVELS + 1)]
                asks = [(ticks + n * step, lots) for n in range(1, LEVELS + 1)]
            actions.append(MassQuote(market, bids, asks))
        self._send(self.sign(*actions))
