"""The load's flow is reproducible and plausible, and its report counts what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from client.load import HURRIED_S, LoadGenerator, LoadOptions
from client.load_command import STUCK_S, Progress, describe
from client.load_flow import QUOTES_PER_MARKET, Flow
from client.load_report import Latency, Meters, StateMeter
from client.submission import STATES, Submission
from cluster.defaults import MARKETS
from protocol.actions import (
    BUY,
    IOC,
    MAX_ACTIONS,
    Action,
    ActionBatch,
    CancelClient,
    MarketOrder,
    Order,
)
from protocol.codec import encode
from protocol.errors import Code, ConfigError

STARTED = [(market, market.initial_price_ticks) for market in MARKETS]


def flow(seed: int = 7, batch: int = 20, accounts: int = 8) -> Flow:
    return Flow(
        seed, STARTED, accounts=accounts, batch=batch, taker_share=0.25, first_client_id=1_000
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    def some(seed: int) -> list[bytes]:
        made = flow(seed)
        return [
            encode(ActionBatch(account, 1, 0, actions))
            for account, actions in (made.next_batch() for _ in range(200))
        ]

    assert some(7) == some(7)
    assert some(7) != some(8)


def test_orders_keep_the_markets_rules_and_both_sides_are_quoted() -> None:
    made = flow()
    sides = [0, 0]
    kinds: set[type] = set()
    for _ in range(500):
        account, actions = made.next_batch()
        assert len(actions) == 20 and 0 <= account < 8
        for action in actions:
            kinds.add(type(action))
            if isinstance(action, Order):
                market = MARKETS[action.market]
                notional = action.price_ticks * action.size_lots * market.value_uusd
                assert notional >= market.min_notional_uusd
                assert 0 < action.size_lots <= market.max_order_lots
                start = market.initial_price_ticks
                assert abs(action.price_ticks - start) * 100 < start
                if action.tif != IOC:
                    sides[action.side] += 1
    assert kinds == {Order, CancelClient, MarketOrder}
    assert 0.4 < sides[BUY] / sum(sides) < 0.6


def test_cancels_name_own_orders_once_and_quotes_stay_bounded() -> None:
    made = flow()
    live: dict[tuple[int, int], set[int]] = {}

    def apply(account: int, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Order) and action.client_id:
                mine = live.setdefault((account, action.market), set())
                assert action.client_id not in mine
                mine.add(action.client_id)
                assert len(mine) <= QUOTES_PER_MARKET
            elif isinstance(action, CancelClient):
                live[account, action.market].remove(action.client_id)

    for _ in range(1_000):
        apply(*made.next_batch())
    for account, actions in made.last_cancels():
        assert len(actions) <= MAX_ACTIONS
        apply(account, actions)
    assert not any(live.values())


def test_options_that_make_no_sense_are_refused() -> None:
    for batch, accounts in ((0, 8), (101, 8), (20, 1)):
        with pytest.raises(ConfigError):
            flow(batch=batch, accounts=accounts)


def test_meters_count_actions_and_give_percentiles() -> None:
    meters = Meters(1)
    for place in range(1, 101):
        submission = Submission(b"", bytes(32), place, 16, 20)
        submission.submitted_ns = 1
        submission.on_reach = meters.note
        submission.reach("accepted", 1 + place * 1_000_000)
    meter = meters.by_state["accepted"]
    assert meters.actions("accepted") == 2_000 and meters.actions("ordered") == 0
    assert meter.latency() == Latency(50.0, 99.0)
    assert meter.per_second(1) == 20_000.0
    assert StateMeter(1).latency() == Latency(0.0, 0.0)


def counts(submitted: int, executed: int, under_way: int = 1) -> dict[str, int]:
    reached = {state: executed if state in ("accepted", "executed") else 0 for state in STATES}
    return {"submitted": submitted, **reached, "fills": 0, "under_way": under_way}


def test_a_load_that_stands_still_is_told_once_and_again_when_it_goes_on() -> None:
    progress = Progress()
    assert progress.line(counts(20, 10), 0.0).startswith("submitted 20  accepted 10")
    assert progress.line(counts(40, 10), 2.0).startswith("submitted 40"), "more is sent"
    assert progress.line(counts(40, 10), 4.0) == ""
    late_s = STUCK_S + 2.0
    assert progress.line(counts(60, 10), late_s) == "no progress for 12 s; see: trilemma status"
    assert progress.line(counts(80, 10), late_s + 2.0) == ""
    assert progress.line(counts(80, 30), late_s + 4.0).startswith("submitted 80  accepted 30")
    assert progress.line(counts(80, 30), 2 * late_s) == ""
    assert progress.line(counts(80, 30), 3 * late_s).startswith("no progress for ")


def test_a_window_of_settlement_is_no_standstill() -> None:
    progress = Progress(window_s=30.0)
    progress.line(counts(20, 20, under_way=0), 0.0)
    assert progress.line(counts(20, 20, under_way=0), STUCK_S + 20.0) == ""
    assert progress.line(counts(20, 20, under_way=0), STUCK_S + 30.0).startswith("no progress")


class Measured(LoadGenerator):
    """A load that has sent two batches of 20 actions, one of them without a receipt."""

    def __init__(self, **options: Any) -> None:
        exchange: Any = SimpleNamespace(
            tracker=SimpleNamespace(duplicated=0), pipeline=SimpleNamespace(busy=0, resent=0),
            reconnects=0, watchers=[self._watch], sign=lambda *_: None, submit=self.submit,
        )  # fmt: skip
        super().__init__(exchange, LoadOptions(rate=20, **options))
        self.waited_s: list[float] = []

    async def _prepare(self) -> None:
        self._flow = flow()
        for _ in range(20):
            self._flow.next_batch()
        self._signers = [(None, number) for number in range(8)]  # type: ignore[misc]

    async def _send_at_rate(self) -> None:
        self._batches, self._actions = 2, 40
        lost, unanswered = (Submission(b"", bytes(32), place, 16, 20) for place in (1, 2))
        lost.accepted_ns = 1
        self._under_way = {lost: None, unanswered: None}
        self._errors[Code.NO_LIQUIDITY] = 1_699

    async def _drain(self) -> None:
        pass

    async def submit(self, _: Submission) -> Any:
        async def wait(state: str, timeout_ms: int) -> None:
            self.waited_s.append(timeout_ms / 1000)
            raise TimeoutError("the batch is not executed")

        return SimpleNamespace(wait=wait)


async def test_a_load_that_cannot_cancel_at_its_end_is_reported_all_the_same() -> None:
    load = Measured()
    report = await load.run()
    assert load.left_resting == "the batch is not executed" and load.waited_s == [HURRIED_S]
    assert (report.lost, report.refused, report.refusals) == (1, 1, {"unanswered": 1})
    assert report.errors == {"no_liquidity": 1_699}


async def test_refused_batches_are_told_from_rejected_actions() -> None:
    text = describe(await Measured(clean_up=False).run())
    assert "batches lost 1, executed twice 0, refused 1, sent again 0 (busy 0)" in text
    assert "batches refused: unanswered 1\n" in text
    assert text.endswith("actions rejected at execution: no_liquidity 1,699")
    assert max(map(len, text.splitlines()[1:])) <= 80
