"""The state of a shard in memory, what a block touched of it, and its leaves.

Objects remember the leaf that the state tree holds for them; at the end of a block each touched
object is encoded once, and only leaves that differ are changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from execution import leaves as lv
from execution.nonces import Nonces
from execution.tables import LeafTable
from margin.account import Account, Exposure
from margin.market import Market
from margin.risk import Risk
from matching.book import Resting
from protocol.codec import encode
from protocol.errors import Rejected, SafetyViolation
from protocol.events import Event
from protocol.genesis import Chain
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    EMPTY_OUTBOX_HASH,
    FEE_ACCOUNT,
    INSURANCE_ACCOUNT,
    POOL_ACCOUNT,
    OutboxEntry,
)


class State:
    """Everything that execution knows, under the state root or derived from it."""

    __slots__ = (
        "accounts", "agents_before", "backstop", "by_address", "chain", "dead_men",
        "deposits_uusd", "dirty_accounts", "dirty_exposures", "dirty_markets", "dirty_orders",
        "distressed", "events", "fees", "fills_left", "funds", "global_leaves", "guardians",
        "height", "inbox_cursor", "insurance", "limits", "looks_left", "markets", "moved_uusd",
        "next_order_id", "next_outbox", "nonces", "oracle_prices", "oracles", "outbox",
        "outbox_hash", "pool", "pricing", "progress", "realised", "realised_now", "realised_uusd",
        "receipts", "risk", "settings", "tables", "time_ms", "touched", "triggers", "turns",
        "twaps", "volume_uusd", "volumes", "votes", "withdrawals_uusd", "written",
    )  # fmt: skip

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        genesis = chain.genesis
        self.limits = genesis.limits
        self.markets = [Market(config) for config in genesis.markets]
        self.risk = Risk(self.markets)
        self.nonces = Nonces()
        self.oracles = {bytes.fromhex(key): number for number, key in enumerate(genesis.oracles)}
        self.guardians = {bytes.fromhex(key): n for n, key in enumerate(genesis.guardians)}
        self.oracle_prices: list[dict[int, lv.OracleLeaf]] = [{} for _ in self.markets]
        self.fees = Account(FEE_ACCOUNT, b"")
        self.pool = Account(POOL_ACCOUNT, b"")
        self.insurance = Account(INSURANCE_ACCOUNT, b"")
        self.backstop = Account(BACKSTOP_ACCOUNT, b"")
        system = (self.fees, self.pool, self.insurance, self.backstop)
        self.accounts: dict[int, Account] = {account.number: account for account in system}
        self._make_tables()
        self.by_address: dict[bytes, int] = {}
        self.height = 0
        self.time_ms = genesis.time_ms
        self.next_order_id = 1
        self.next_outbox = 0
        self.outbox_hash = EMPTY_OUTBOX_HASH
        self.inbox_cursor = 0
        self.deposits_uusd = 0
        self.withdrawals_uusd = 0
        self.global_leaves: dict[bytes, bytes] = {}
        self.touched: dict[int, None] = {}
        self._forget_block()
        self.dirty_accounts.update((account, None) for account in system)
        self.dirty_markets.update((market, None) for market in self.markets)
        self.commit()

    def _make_tables(self) -> None:
        self.triggers = LeafTable(lv.decode_trigger)
        self.twaps = LeafTable(lv.decode_twap)
        self.settings = LeafTable(lv.decode_settings)
        self.dead_men = LeafTable(lv.decode_dead_man)
        self.volumes = LeafTable(lv.decode_volume)
        self.realised = LeafTable(lv.decode_realised)
        self.distressed = LeafTable(lv.decode_distress)
        self.votes = LeafTable(lv.decode_vote)
        self.pricing = LeafTable(lv.decode_pricing)
        self.receipts = LeafTable(lv.decode_receipts)
        self.funds = LeafTable(lv.decode_backstop)
        self.turns = LeafTable(lv.decode_turn)
        self.progress = LeafTable(lv.decode_progress)
        self.realised_now = LeafTable(lv.decode_realised_now)
        self.tables: dict[bytes, LeafTable[Any]] = {
            lv.TRIGGER: self.triggers,
            lv.TWAP: self.twaps,
            lv.SETTINGS: self.settings,
            lv.DEAD_MAN: self.dead_men,
            lv.VOLUME: self.volumes,
            lv.REALISED: self.realised,
            lv.DISTRESS: self.distressed,
            lv.VOTE: self.votes,
            lv.PRICING: self.pricing,
            lv.RECEIPTS_KEY: self.receipts,
            lv.BACKSTOP_KEY: self.funds,
            lv.TURN_KEY: self.turns,
            lv.PROGRESS_KEY: self.progress,
            lv.REALISED_NOW: self.realised_now,
        }

    def _forget_block(self) -> None:
        # Dicts stand for ordered sets: their order is the order of first touch.
        self.dirty_accounts: dict[Account, None] = {}
        self.dirty_exposures: dict[Exposure, None] = {}
        self.dirty_markets: dict[Market, None] = {}
        self.dirty_orders: dict[Resting, None] = {}
        self.agents_before: dict[tuple[int, bytes], int | None] = {}
        self.written: dict[bytes, bytes] = {}
        self.moved_uusd = 0
        self.fills_left = self.limits.fills_per_block
        self.looks_left = self.limits.fills_per_block
        """Orders that fill-or-kill orders may still look at in this block."""
        self.volume_uusd: dict[int, int] = {}
        """Notional traded in this block, by master account."""
        self.realised_uusd: dict[tuple[int, int], int] = {}
        """Profit realised in this block, by master account and market."""
        self.events: list[Event] = []
        self.outbox: list[OutboxEntry] = []

    def holds_wild(self, account: Account) -> bool:
        """Whether the account has a position whose price jumped and is not believed yet: how far,
        no band says, so that nothing leaves the account before it is known."""
        for number, e in account.exposures.items():
            if e.size_lots and self.markets[number].stale:
                row = self.pricing.get(lv.pricing_key(number))
                if row is not None and row.wild_ms:
                    return True
        return False

    def move(self, account: Account, e: Exposure, lots: int, cash_uusd: int) -> None:
        """Change a position by signed lots for `cash_uusd` received, and count open interest and
        realised profit: for what moves without an order. The other side is the caller's."""
        market = self.markets[e.market]
        after = self.risk.moved(account, e, market, lots, cash_uusd)
        market.open_interest_lots += max(after.size_lots, 0) - max(e.size_lots, 0)
        if after.realised_uusd:
            key = (account.master, e.market)
            self.realised_uusd[key] = self.realised_uusd.get(key, 0) + after.realised_uusd
        self.risk.commit(account, e, after)
        self.dirty_accounts[account] = None
        self.dirty_exposures[e] = None
        self.dirty_markets[market] = None

    # -- block boundary

    def begin(self, height: int, time_ms: int) -> None:
        """Start a block; raises `SafetyViolation` when it does not follow the last one."""
        if height <= self.height or time_ms < self.time_ms:
            raise SafetyViolation(
                f"block {height} at {time_ms} ms after block {self.height} at {self.time_ms} ms"
            )
        self._forget_block()
        self.height = height
        self.time_ms = time_ms

    def commit(self) -> dict[bytes, bytes | None]:
        """End a block: check conservation and return the leaves that changed."""
        self._check_conservation()
        changes: dict[bytes, bytes | None] = {}
        for order in self.dirty_orders:
            if order.remaining_lots:
                changes[_order_key(order)] = _order_leaf(order)
                order.stored = True
            elif order.stored:
                changes[_order_key(order)] = None
        self._note_touched()
        for account in self.dirty_accounts:
            leaf = _account_leaf(account)
            if leaf != account.leaf:
                changes[lv.account_key(account.number)] = account.leaf = leaf
        for exposure in self.dirty_exposures:
            position = _position_leaf(exposure)
            if position != exposure.leaf:
                changes[lv.position_key(exposure.account, exposure.market)] = position
                exposure.leaf = position
        for market in self.dirty_markets:
            leaf = _market_leaf(market)
            if leaf != market.leaf:
                changes[lv.market_key(market.number)] = market.leaf = leaf
        for (number, agent), before in self.agents_before.items():
            expires_ms = self.accounts[number].agents.get(agent)
            if expires_ms != before:
                kept = None if expires_ms is None else encode(lv.AgentLeaf(expires_ms))
                changes[lv.agent_key(number, agent)] = kept
        changes.update(self.written)
        for table in self.tables.values():
            table.commit(changes)
        for key, leaf in self._global_leaves().items():
            if leaf != self.global_leaves.get(key):
                changes[key] = self.global_leaves[key] = leaf
        return changes

    def flush(self) -> dict[bytes, bytes | None]:
        """Between two steps of a block: the leaves that changed since the step before. The block's
        budgets, sums, events and outbox go on."""
        changes = self.commit()
        kept = self.fills_left, self.looks_left, self.volume_uusd, self.realised_uusd
        told = self.events, self.outbox
        self._forget_block()
        self.fills_left, self.looks_left, self.volume_uusd, self.realised_uusd = kept
        self.events, self.outbox = told
        return changes

    def _note_touched(self) -> None:
        self.touched.update((account.number, None) for account in self.dirty_accounts)
        self.touched.update((exposure.account, None) for exposure in self.dirty_exposures)

    def _check_conservation(self) -> None:
        """Cash moved by deposits and withdrawals alone, and positions sum to zero."""
        moved = 0
        for account in self.dirty_accounts:
            moved += account.cash_uusd - account.committed_uusd
            account.committed_uusd = account.cash_uusd
        if moved != self.moved_uusd:
            raise SafetyViolation(
                f"cash changed by {moved} uUSD, deposits less withdrawals by {self.moved_uusd}"
            )
        sums: dict[int, int] = {}
        for e in self.dirty_exposures:
            sums[e.market] = sums.get(e.market, 0) + e.size_lots - e.committed_lots
            e.committed_lots = e.size_lots
        if any(sums.values()):
            raise SafetyViolation("the positions of a market do not sum to zero")

    # -- all leaves

    def leaves(self) -> dict[bytes, bytes]:
        """The full set of leaves at a block boundary."""
        found = self._global_leaves()
        for account in self.accounts.values():
            found[lv.account_key(account.number)] = _account_leaf(account)
            for agent, expires_ms in account.agents.items():
                found[lv.agent_key(account.number, agent)] = encode(lv.AgentLeaf(expires_ms))
            for exposure in account.exposures.values():
                position = _position_leaf(exposure)
                if position is not None:
                    found[lv.position_key(exposure.account, exposure.market)] = position
            for order in account.orders.values():
                found[_order_key(order)] = _order_leaf(order)
        for market in self.markets:
            found[lv.market_key(market.number)] = _market_leaf(market)
            for oracle, price in self.oracle_prices[market.number].items():
                found[lv.oracle_key(market.number, oracle)] = encode(price)
        for signer, nonces in self.nonces.signers.items():
            for kept in nonces.kept.values():
                found[lv.nonce_key(signer, kept.slot)] = kept.leaf
        for table in self.tables.values():
            table.collect(found)
        return found

    def _global_leaves(self) -> dict[bytes, bytes]:
        return {
            lv.CLOCK_KEY: encode(lv.ClockLeaf(self.height, self.time_ms)),
            lv.COUNTERS_KEY: encode(
                lv.CountersLeaf(
                    self.next_order_id, self.next_outbox, self.inbox_cursor, self.outbox_hash
                )
            ),
            lv.MONEY_KEY: encode(lv.MoneyLeaf(self.deposits_uusd, self.withdrawals_uusd)),
        }

    @classmethod
    def restore(cls, chain: Chain, leaves: Iterable[tuple[bytes, bytes]]) -> State:
        """The state that these leaves, in any order, are the full set of.

        Raises `SafetyViolation` when they do not belong together.
        """
        state = cls(chain)
        always: list[Account | Market] = [*state.accounts.values(), *state.markets]
        for one in always:
            one.leaf = None
        try:
            # Key order puts accounts and markets before what refers to them, and the orders of a
            # level in their priority; an account's own orders stand in the order of their ids.
            for key, value in sorted(leaves):
                state._restore_leaf(key, value)
        except (KeyError, IndexError, ValueError, Rejected) as error:
            raise SafetyViolation(f"the leaves do not form a state: {error!r}") from error
        for account in state.accounts.values():
            account.orders = dict(sorted(account.orders.items()))
            for exposure in account.exposures.values():
                exposure.reducing = dict(sorted(exposure.reducing.items()))
        if any(one.leaf is None for one in always):
            raise SafetyViolation("a leaf of a system account or market is missing")
        return state

    def _restore_leaf(self, key: bytes, value: bytes) -> None:
        kind = key[:1]
        if lv.KEY_BYTES.get(kind) != len(key):
            raise SafetyViolation(f"no leaf has the key {key.hex()}")
        table = self.tables.get(key if kind == lv.GLOBAL else kind)
        if table is not None:
            table.restore(key, value)
            return
        if kind == lv.ORDER:
            self._restore_order(key, value)
        elif kind == lv.NONCE:
            signer, slot = lv.parse_nonce_key(key)
            nonce = lv.decode_nonce(value)
            self.nonces.restore(signer, slot, nonce.nonce_ms, nonce.batch_id, value)
        elif kind == lv.ACCOUNT:
            self._restore_account(key, value)
        elif kind == lv.POSITION:
            number, market = lv.parse_position_key(key)
            exposure = self.accounts[number].exposure(self.markets[market].number)
            position = lv.decode_position(value)
            exposure.size_lots = exposure.committed_lots = position.size_lots
            exposure.cost_uusd = position.cost_uusd
            exposure.funding_index = position.funding_index
            exposure.leaf = value
        elif kind == lv.AGENT:
            number, agent = lv.parse_agent_key(key)
            self.accounts[number].agents[agent] = lv.decode_agent(value).expires_ms
        elif kind == lv.ORACLE:
            market, oracle = lv.parse_oracle_key(key)
            self.oracle_prices[market][oracle] = lv.decode_oracle(value)
        elif kind == lv.MARKET:
            self._restore_market(self.markets[lv.parse_market_key(key)], value)
        else:
            self._restore_global(key, value)

    def _restore_account(self, key: bytes, value: bytes) -> None:
        number = lv.parse_account_key(key)
        leaf = lv.decode_account(value)
        account = self.accounts.get(number) or Account(number, leaf.address)
        account.cash_uusd = account.committed_uusd = leaf.cash_uusd
        account.leaf = value
        self.accounts[number] = account
        if leaf.address:
            self.by_address[leaf.address] = number

    def _restore_market(self, market: Market, value: bytes) -> None:
        leaf = lv.decode_market(value)
        market.mark_ticks = leaf.mark_ticks
        market.oracle_ticks = leaf.oracle_ticks
        market.last_ticks = leaf.last_ticks
        market.open_interest_lots = leaf.open_interest_lots
        market.voted_mode = leaf.voted_mode
        market.stale = leaf.stale
        market.leaf = value

    def _restore_order(self, key: bytes, value: bytes) -> None:
        market, side, price_ticks, order_id = lv.parse_order_key(key)
        leaf = lv.decode_order(value)
        order = Resting(
            market, order_id, leaf.account, leaf.client_id, side, price_ticks, leaf.remaining_lots,
            leaf.flags, leaf.expires_ms, leaf.link,
        )  # fmt: skip
        order.stored = True
        account = self.accounts[leaf.account]
        account.orders[order_id] = order
        if leaf.client_id:
            account.clients[leaf.client_id] = order_id
        self.markets[market].book.add(order)
        self.risk.count_resting(account, order)

    def _restore_global(self, key: bytes, value: bytes) -> None:
        self.global_leaves[key] = value
        if key == lv.CLOCK_KEY:
            clock = lv.decode_clock(value)
            self.height, self.time_ms = clock.height, clock.time_ms
        elif key == lv.COUNTERS_KEY:
            counters = lv.decode_counters(value)
            self.next_order_id = counters.next_order_id
            self.next_outbox = counters.next_outbox
            self.inbox_cursor = counters.inbox_cursor
            self.outbox_hash = counters.outbox_hash
        elif key == lv.MONEY_KEY:
            money = lv.decode_money(value)
            self.deposits_uusd = money.deposits_uusd
            self.withdrawals_uusd = money.withdrawals_uusd
        else:
            raise SafetyViolation(f"no leaf has the key {key.hex()}")


def _order_key(order: Resting) -> bytes:
    return lv.order_key(order.market, order.side, order.price_ticks, order.order_id)


def _order_leaf(order: Resting) -> bytes:
    return encode(
        lv.OrderLeaf(
            order.account, order.remaining_lots, order.client_id, order.flags, order.expires_ms,
            order.link,
        )
    )  # fmt: skip


def _account_leaf(account: Account) -> bytes:
    return encode(lv.AccountLeaf(account.address, account.cash_uusd))


def _position_leaf(exposure: Exposure) -> bytes | None:
    if not exposure.size_lots:
        return None
    return encode(lv.PositionLeaf(exposure.size_lots, exposure.cost_uusd, exposure.funding_index))


def _market_leaf(market: Market) -> bytes:
    return encode(
        lv.MarketLeaf(
            market.mark_ticks, market.oracle_ticks, market.last_ticks, market.open_interest_lots,
            market.voted_mode, market.stale,
        )
    )  # fmt: skip
