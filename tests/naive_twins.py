"""Two engines fed alike on a chain where everything is on; one of them restarts again and again.

What only the naive exchange leaves out happens here too: funding, liquidation, deleveraging, dated
futures, reopening, wild prices. Moves are drawn from the state as the leaves tell it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from engine_world import DOLLAR, GOOD, START_MS, accept, market, signer
from naive_chains import chain_of
from naive_duel import Sent
from naive_moves import Moves
from naive_state import Books, NaiveAccount, NaiveOrder, NaiveTrigger, NaiveTwap

from execution import BlockResult, Engine
from execution import leaves as lv
from protocol.actions import ActionBatch, SignedBatch
from protocol.codec import encode
from protocol.events import Event
from protocol.genesis import Chain, Limits, Liquidation, MarginTier, Reopening
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit


def whole_chain() -> Chain:
    """Every feature, with small budgets and short times."""
    prices = {
        "oracle_age_ms": 40_000, "oracle_deviation_ppm": 300_000, "oracle_hold_ms": 100,
        "impact_notional_uusd": 2 * DOLLAR, "wide_ppm": 200_000,
    }  # fmt: skip
    markets = [
        market(
            0, funding_interval_ms=10_000, funding_interest_ppb=-30_000_000, backstop_max_lots=40,
            margin_tiers=[MarginTier(60 * DOLLAR, 200_000, 120_000)], maker_fee_ppm=-400,
            scale_from_uusd=100 * DOLLAR, scale_to_uusd=900 * DOLLAR, **prices,
        ),
        market(
            1, expires_ms=START_MS + 200_000, settle_window_ms=20_000, lot_micro=3_000,
            backstop_max_lots=5, **prices,
        ),
        market(2, max_open_interest_lots=300, backstop_max_lots=100),
    ]  # fmt: skip
    limits = Limits(
        orders_per_account=8, fills_per_action=5, fills_per_block=30, subaccounts=2,
        triggers_per_account=6, triggers_per_block=3, expiries_per_block=4, reduce_only_orders=3,
        liquidation_items_per_block=9, deleverage_counterparties=2,
    )  # fmt: skip
    return chain_of(
        markets, limits, cancels_first=True, insurance_uusd=3 * DOLLAR, backstop_uusd=60 * DOLLAR,
        liquidation=Liquidation(20 * DOLLAR, 250_000, 40, 50, 300_000, 50_000),
        reopening=Reopening(25_000, 10, 10),
    )  # fmt: skip


class Twins:
    """Stands for a duel where moves are drawn: `x` is what the leaves say."""

    def __init__(self, chain: Chain, accounts: int = 6, dollars: int = 12) -> None:
        self.chain = chain
        self.engine, self.twin = Engine(chain, accept), Engine(chain, accept)
        self.mirror = self.engine.leaves()
        self.height = self.cursor = 0
        self.time_ms = self.nonce = START_MS
        self.accounts = [FIRST_ACCOUNT + number for number in range(accounts)]
        self.x = Books(chain.genesis)
        self.block([], [(n, dollars * DOLLAR) for n in self.accounts])

    def block(
        self, sent: Sequence[Sent], deposits: Sequence[tuple[int, int]] = (), wait_ms: int = 10
    ) -> list[Event]:
        """A block for both, whose answers must be the same bytes."""
        self.height += 1
        self.time_ms += wait_ms
        inbox, raws = [], []
        for account, uusd in deposits:
            inbox.append(InboxDeposit(self.cursor, account, address_of(signer(account)), uusd))
            self.cursor += 1
        for key, account, actions in sent:
            self.nonce = max(self.nonce + 1, self.time_ms)
            payload = encode(ActionBatch(account, self.nonce, 0, list(actions)))
            raws.append(encode(SignedBatch(1, key, payload, GOOD)))
        results = [
            engine.apply(self.height, self.time_ms, b"", inbox, self.cursor, raws)
            for engine in (self.engine, self.twin)
        ]
        self._compare(*results)
        self.x = books_of(self.engine, self.x)
        return results[0].events

    def _compare(self, one: BlockResult, other: BlockResult) -> None:
        assert one.events == other.events
        assert encode(one.events) == encode(other.events)
        assert list(one.changes.items()) == list(other.changes.items())
        assert one.outbox == other.outbox
        for key, value in one.changes.items():
            if value is None:
                del self.mirror[key]
            else:
                self.mirror[key] = value
        self.engine.check()
        assert self.engine.money_conserved()

    def restart(self) -> None:
        """The twin goes on from the leaves alone, as the changes of all blocks make them."""
        leaves = list(self.mirror.items())
        random.Random(self.height).shuffle(leaves)
        self.twin = Engine.restore(self.chain, leaves, accept)
        self.twin.check()
        assert self.twin.leaves() == self.engine.leaves() == self.mirror


def books_of(engine: Engine, before: Books) -> Books:
    """What an engine's leaves say, as far as moves are drawn from it."""
    x = before
    x.orders, x.triggers, x.twaps, x.accounts = [], [], [], {}
    leaves = engine.leaves()
    for key, value in sorted(leaves.items()):
        kind = key[:1]
        if kind == lv.ACCOUNT:
            leaf, number = lv.decode_account(value), lv.parse_account_key(key)
            x.accounts[number] = NaiveAccount(number, leaf.address, leaf.cash_uusd)
        elif kind == lv.MARKET:
            seen, m = lv.decode_market(value), x.markets[lv.parse_market_key(key)]
            m.mark, m.stale, m.mode = seen.mark_ticks, seen.stale, seen.voted_mode
        elif kind == lv.ORDER:
            number, side, price, order_id = lv.parse_order_key(key)
            o = lv.decode_order(value)
            x.orders.append(
                NaiveOrder(order_id, number, o.account, o.client_id, side, price, o.remaining_lots,
                           o.flags, o.expires_ms)
            )  # fmt: skip
        elif kind == lv.POSITION:
            account, number = lv.parse_position_key(key)
            held, p = x.accounts[account].holding(number), lv.decode_position(value)
            held.size, held.cost = p.size_lots, p.cost_uusd
        elif kind == lv.TRIGGER:
            number, waiting = lv.parse_trigger_key(key)
            t = lv.decode_trigger(value)
            x.triggers.append(
                NaiveTrigger(waiting, number, t.account, t.client_id, t.side, t.kind, 0, 0, 0,
                             t.size_lots, t.flags, t.expires_ms)
            )  # fmt: skip
        elif kind == lv.TWAP:
            w = lv.decode_twap(value)
            x.twaps.append(
                NaiveTwap(lv.parse_account_key(key), w.account, w.client_id, w.market, w.side,
                          w.size_lots, w.flags, w.began_ms, w.duration_ms, w.next_ms)
            )  # fmt: skip
    return x


class WildMoves(Moves):
    """Marks go where they go, and whoever falls with them is liquidated."""

    waits_ms = (10,) * 40 + (1_000,) * 8 + (5_000,) * 4 + (30_000,)
    prices_percent = 70

    def _reachable(self, number: int, aim: int) -> int:
        return aim
