"""The engine and the naive exchange side by side: the same blocks, and everything compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from engine_world import DOLLAR, GOOD, ORACLES, START_MS, accept, signer
from naive_exchange import NaiveExchange
from naive_margin import im_uusd, mm_uusd, tv_uusd
from naive_state import Books

from execution import Engine
from execution import leaves as lv
from protocol.actions import BUY, SELL, ActionBatch, OraclePrice, SignedBatch
from protocol.codec import encode
from protocol.events import BatchExecuted, Event, Result
from protocol.genesis import Chain
from protocol.keys import address_of
from protocol.settlement import (
    FIRST_ACCOUNT,
    InboxDeposit,
    InboxEntry,
    InboxForced,
    master_of,
)

Sent = tuple[bytes, int, Sequence[Any]]
"""Signer, account, actions."""


class Duel:
    """Both, fed alike. `check` compares after each block; a difference is an assertion error.

    What `forces` says of a batch decides whether it comes through the inbox.
    """

    def __init__(self, chain: Chain, accounts: int = 4, dollars: int = 40) -> None:
        self.chain = chain
        self.engine = Engine(chain, accept)
        self.naive = NaiveExchange(chain.genesis)
        self.forces: Callable[[ActionBatch], bool] = lambda batch: False
        self.height = self.cursor = 0
        self.time_ms = self.nonce = START_MS
        self.accounts = [FIRST_ACCOUNT + number for number in range(accounts)]
        self.events: list[Event] = []
        self.block([], [(n, dollars * DOLLAR) for n in self.accounts])

    @property
    def x(self) -> Books:
        return self.naive.x

    def block(
        self, sent: Sequence[Sent], deposits: Sequence[tuple[int, int]] = (), wait_ms: int = 10
    ) -> list[Event]:
        """A block for both; returns its events."""
        self.height += 1
        self.time_ms += wait_ms
        inbox: list[InboxEntry] = []
        for account, uusd in deposits:
            address = address_of(signer(account))
            inbox.append(InboxDeposit(self.cursor, account, address, uusd))
            self.cursor += 1
        batches = []
        for key, account, actions in sent:
            self.nonce = max(self.nonce + 1, self.time_ms)
            batch = ActionBatch(account, self.nonce, 0, list(actions))
            if self.forces(batch):
                raw = encode(SignedBatch(1, key, encode(batch), GOOD))
                inbox.append(InboxForced(self.cursor, raw))
                self.cursor += 1
            else:
                batches.append((key, batch))
        expected = self.naive.block(self.time_ms, inbox, batches)
        raws = [encode(SignedBatch(1, key, encode(batch), GOOD)) for key, batch in batches]
        result = self.engine.apply(self.height, self.time_ms, b"", inbox, self.cursor, raws)
        self.events = result.events
        for number, (mine, theirs) in enumerate(zip(expected, result.events, strict=False)):
            assert theirs == mine, f"event {number}: engine {theirs}, naive {mine}"
        assert len(result.events) == len(expected), (expected, result.events)
        assert result.outbox == self.x.outbox
        self.compare()
        return result.events

    def act(self, account: int, *actions: Any, wait_ms: int = 10) -> list[Result]:
        """Results of a batch of an account's owner in a block of its own."""
        self.block([(signer(master_of(account)), account, actions)], wait_ms=wait_ms)
        answer = [e for e in self.events if isinstance(e, BatchExecuted)][-1]
        return answer.results

    def mark(self, ticks: int, number: int = 0, wait_ms: int = 10) -> None:
        """All oracles report a price."""
        self.block([(key, 0, [OraclePrice(number, ticks)]) for key in ORACLES], wait_ms=wait_ms)

    def restart(self) -> None:
        """The engine goes on from its leaves alone, given in another order."""
        leaves = self.engine.leaves()
        self.engine = Engine.restore(self.chain, reversed(list(leaves.items())), accept)
        assert self.engine.leaves() == leaves
        self.engine.check()

    # -- comparison

    def compare(self) -> None:
        """Every leaf but nonces and oracle prices, equity and margin, books, invariants."""
        self.engine.check()
        mine, theirs = rows(self.x), decoded(self.engine.leaves())
        for key in sorted(mine.keys() | theirs.keys(), key=str):
            assert theirs.get(key) == mine.get(key), (
                f"{key}: engine {theirs.get(key)}, naive {mine.get(key)}"
            )
        for account in self.x.traders():
            view = self.engine.account_view(0, account.number)
            n = account.number
            seen = (view.equity_uusd, view.initial_margin_uusd, view.maintenance_margin_uusd)
            known = (tv_uusd(self.x, n), im_uusd(self.x, n), mm_uusd(self.x, n))
            assert seen == known, f"account {n}: engine {seen}, naive {known}"
        for m in self.x.markets:
            book = self.engine.book_view(0, m.number, 1_000)
            assert book.bids == self.x.depth(m.number, BUY)
            assert book.asks == self.x.depth(m.number, SELL)


def decoded(leaves: dict[bytes, bytes]) -> dict[Any, Any]:
    """The leaves that the naive exchange knows, by readable keys."""
    found: dict[Any, Any] = {}
    for key, value in leaves.items():
        kind = key[:1]
        if kind == lv.ACCOUNT:
            found["account", lv.parse_account_key(key)] = lv.decode_account(value)
        elif kind == lv.POSITION:
            found["position", *lv.parse_position_key(key)] = lv.decode_position(value)
        elif kind == lv.ORDER:
            market_number, side, price, order_id = lv.parse_order_key(key)
            row = msgspec.structs.replace(lv.decode_order(value), link=0)
            found["order", order_id] = (market_number, side, price, row)
        elif kind == lv.MARKET:
            found["market", lv.parse_market_key(key)] = lv.decode_market(value)
        elif kind == lv.SETTINGS:
            found["settings", *lv.parse_position_key(key)] = settings_row(lv.decode_settings(value))
        elif kind == lv.TRIGGER:
            found["trigger", *lv.parse_trigger_key(key)] = trigger_row(lv.decode_trigger(value))
        elif kind == lv.TWAP:
            found["twap", lv.parse_account_key(key)] = lv.decode_twap(value)
        elif kind == lv.DEAD_MAN:
            found["dead man", lv.parse_account_key(key)] = lv.decode_dead_man(value)
        elif kind == lv.VOLUME:
            found["volume", lv.parse_account_key(key)] = lv.decode_volume(value)
        elif key == lv.COUNTERS_KEY:
            counters = lv.decode_counters(value)
            found["next",] = (counters.next_order_id, counters.next_outbox)
    return found


def trigger_row(leaf: lv.TriggerLeaf) -> tuple[int, ...]:
    """Without what the engine keeps for its index of trailing stops."""
    return (
        leaf.account, leaf.client_id, leaf.side, leaf.kind, leaf.trigger_ticks, leaf.limit_ticks,
        leaf.slippage_ppm, leaf.size_lots, leaf.flags, leaf.expires_ms, leaf.link, leaf.parent,
    )  # fmt: skip


def settings_row(leaf: lv.SettingsLeaf) -> lv.SettingsLeaf:
    """Without the beginning of a window that has not begun."""
    return leaf if leaf.counted else msgspec.structs.replace(leaf, began_ms=0)


def rows(x: Books) -> dict[Any, Any]:
    """The same from the naive exchange."""
    found: dict[Any, Any] = {("next",): (x.next_id, x.next_outbox)}
    for a in x.accounts.values():
        found["account", a.number] = lv.AccountLeaf(a.address, a.cash)
        for number, h in a.holdings.items():
            if h.size:
                found["position", a.number, number] = lv.PositionLeaf(h.size, h.cost, 0)
            if h.leverage or h.fills:
                found["settings", a.number, number] = settings_row(
                    lv.SettingsLeaf(h.leverage, h.fills, h.window, h.counted, h.began)
                )
        if a.dead_man or a.dead_man_fired:
            found["dead man", a.number] = lv.DeadManLeaf(
                a.dead_man, a.dead_man_day, a.dead_man_fired
            )
    for o in x.orders:
        leaf = lv.OrderLeaf(o.account, o.lots, o.client, o.flags, o.expires, 0)
        found["order", o.id] = (o.market, o.side, o.price, leaf)
    for m in x.markets:
        interest = x.open_interest(m.number)
        found["market", m.number] = lv.MarketLeaf(
            m.mark, m.oracle, m.last, interest, m.voted, m.stale
        )
    for t in x.triggers:
        found["trigger", t.market, t.id] = (
            t.account, t.client, t.side, t.kind, t.trigger, t.limit, t.slippage, t.lots, t.flags,
            t.expires, t.link, t.parent,
        )  # fmt: skip
    for w in x.twaps:
        found["twap", w.id] = lv.TwapLeaf(
            w.account, w.client, w.market, w.side, w.lots, w.done, w.flags, w.began, w.duration,
            w.next,
        )  # fmt: skip
    for master in {who for who, _ in x.volumes}:
        days = sorted((day, uusd) for (who, day), uusd in x.volumes.items() if who == master)
        found["volume", master] = lv.VolumeLeaf(days)
    return found
