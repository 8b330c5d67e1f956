"""What anybody can say of ordered blocks without executing them: who acted, and at what prices.

A small state beside that of the shard, with leaves of its own: owners, agents, nonces, what oracles
told, accepted prices, posted marks and funding indices. It is a function of the ordered blocks, the
inbox and the posted prices, in time linear in their size; no book, no position and no money is in
it. It agrees with the engine on every batch that was admitted or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from execution import leaves as lv
from execution.admission import Admission, Kind, Opened, Verdict, VerifySignature
from execution.agents import Change, approved, revoked
from execution.native_prices import Oracle, after_block, decode_price, first_prices
from execution.nonces import Nonces
from execution.observations import median_of, report_code, stakes_of
from execution.phases import work_of
from margin.market import Market
from margin.oracle import follow
from protocol.actions import ActionBatch, ApproveAgent, OraclePrice, RevokeAgent, SignedBatch
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.prices import PriceChange
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit, InboxEntry, master_of

_NEWS_MS = -1


class OwnerLeaf(Wire, frozen=True):
    """The address of a master account's owner."""

    address: bytes


class UsedNonceLeaf(Wire, frozen=True):
    """An admitted batch of a signer: its nonce and identity."""

    nonce_ms: int
    batch_id: bytes


decode_owner: Decoder[OwnerLeaf] = Decoder(OwnerLeaf)
decode_used_nonce: Decoder[UsedNonceLeaf] = Decoder(UsedNonceLeaf)


class NativeOwner:
    """A master account: its owner's address, and its agents."""

    __slots__ = ("address", "agents")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.agents: dict[bytes, int] = {}


class Judged(NamedTuple):
    """A batch of a block, and whether it was admitted."""

    opened: Opened
    verdict: Verdict


class NativeState:
    """The state after some block. Keys of its leaves are those of the shard's leaves that they say
    the same of. A block that is refused leaves half of itself: put back what it changed."""

    def __init__(self, chain: Chain) -> None:
        genesis = chain.genesis
        self._genesis = genesis
        self.markets = [Market(config) for config in genesis.markets]
        self.owners: dict[int, NativeOwner] = {}
        self.nonces = Nonces()
        self.oracle_prices: list[dict[int, lv.OracleLeaf]] = [{} for _ in self.markets]
        self.prices = [first_prices(market, genesis.time_ms) for market in self.markets]
        self._medians = [(0, _NEWS_MS) for _ in self.markets]
        self._stakes = stakes_of(genesis)
        self._oracles = {bytes.fromhex(key): number for number, key in enumerate(genesis.oracles)}
        self._admission = Admission(chain, self.owners, self.nonces)
        self._changes: dict[bytes, bytes | None] = {}

    # -- blocks

    def apply(
        self,
        time_ms: int,
        inbox: Sequence[InboxEntry],
        batches: Sequence[bytes],
        prices: Sequence[PriceChange],
        verify_signature: VerifySignature = verify,
    ) -> list[Judged]:
        """Follow an ordered block: the verified entries that it takes in, its encoded batches, and
        the prices that were posted for it. Returns its batches in the order of their execution.

        Raises `Rejected` where the prices cannot be true.
        """
        work = work_of(self._genesis, inbox, 0, batches)
        for entry in inbox:
            if isinstance(entry, InboxDeposit):
                self._know(entry)
        judged = [self._take(opened, time_ms, verify_signature) for opened in work.committee]
        self._take_prices(time_ms, prices)
        rest = (*work.making, *work.taking)
        return judged + [self._take(opened, time_ms, verify_signature) for opened in rest]

    def _know(self, entry: InboxDeposit) -> None:
        """The owner of a master account begins with its first deposit."""
        if entry.account >= FIRST_ACCOUNT and entry.account not in self.owners:
            self.owners[entry.account] = NativeOwner(entry.address)
            self._write(lv.account_key(entry.account), OwnerLeaf(entry.address))

    def _take(self, opened: Opened, time_ms: int, verify_signature: VerifySignature) -> Judged:
        verdict = self._admission.judge(opened, time_ms, verify_signature)
        signed, batch = opened.signed, opened.batch
        if verdict.admitted and signed is not None and batch is not None:
            if opened.kind == Kind.ORACLE:
                self._take_reports(signed, batch, time_ms)
            elif verdict.owner and batch.account == master_of(batch.account):
                self._take_approvals(batch, time_ms)
            slot = self.nonces.keep(signed.signer, batch.nonce_ms, opened.identity, b"")
            leaf = UsedNonceLeaf(batch.nonce_ms, opened.identity)
            self._write(lv.nonce_key(signed.signer, slot), leaf)
        return Judged(opened, verdict)

    def _take_reports(self, signed: SignedBatch, batch: ActionBatch, time_ms: int) -> None:
        oracle = self._oracles[signed.signer]
        for action in batch.actions:
            if not isinstance(action, OraclePrice):
                continue
            number = action.market
            if report_code(self.markets, self.oracle_prices, oracle, batch.nonce_ms, action):
                continue
            leaf = lv.OracleLeaf(action.price_ticks, batch.nonce_ms, time_ms, action.confidence_ppm)
            self.oracle_prices[number][oracle] = leaf
            self._medians[number] = (0, _NEWS_MS)
            self._write(lv.oracle_key(number, oracle), leaf)

    def _take_approvals(self, batch: ActionBatch, time_ms: int) -> None:
        agents = self.owners[batch.account].agents
        limit = self._genesis.limits.agents_per_account
        for action in batch.actions:
            if isinstance(action, ApproveAgent):
                self._change(batch.account, action.agent, approved(agents, action, time_ms, limit))
            elif isinstance(action, RevokeAgent):
                self._change(batch.account, action.agent, revoked(agents, action))

    def _change(self, account: int, agent: bytes, change: Change) -> None:
        if change.code:
            return
        agents = self.owners[account].agents
        if change.dropped:
            del agents[change.dropped]
            self._changes[lv.agent_key(account, change.dropped)] = None
        agents[agent] = change.expires_ms
        self._write(lv.agent_key(account, agent), lv.AgentLeaf(change.expires_ms))

    # -- prices

    def posted(self) -> list[tuple[int, int]]:
        """Mark and funding index of each market as they were posted last."""
        return [(prices.mark_ticks, prices.funding_index) for prices in self.prices]

    def _take_prices(self, now_ms: int, prices: Sequence[PriceChange]) -> None:
        by_market = {change.market: change for change in prices}
        if [change.market for change in prices] != sorted(by_market):
            raise Rejected(Code.BAD_PRICES, "price changes stand by market, each once")
        for market in self.markets:
            before, change = self.prices[market.number], by_market.pop(market.number, None)
            if change == PriceChange(market.number, before.mark_ticks, before.funding_index):
                raise Rejected(Code.BAD_PRICES, f"prices of market {market.number} do not change")
            after = after_block(market, before, self._oracle(market, now_ms), change, now_ms)
            if after != before:
                self.prices[market.number] = after
                self._write(lv.market_key(market.number), after)
        for number in by_market:
            raise Rejected(Code.BAD_PRICES, f"there is no market {number}")

    def _oracle(self, market: Market, now_ms: int) -> Oracle:
        """The accepted price after this block's median; both as the engine takes them."""
        number, config = market.number, market.config
        median_ticks, until_ms = self._medians[number]
        if until_ms < now_ms:
            found = median_of(market, self.oracle_prices[number], self._stakes, now_ms)
            median_ticks, _ = self._medians[number] = found
        before = self.prices[number].level
        level = follow(
            before, median_ticks, now_ms, config.oracle_deviation_ppm, config.oracle_hold_ms
        )
        return Oracle(level, bool(median_ticks) and not level.wild_ms)

    # -- leaves

    def _write(self, key: bytes, leaf: Wire) -> None:
        self._changes[key] = encode(leaf)

    def take_changes(self) -> dict[bytes, bytes | None]:
        """The leaves that changed since this was last asked; None: gone."""
        changes, self._changes = self._changes, {}
        return changes

    def leaves(self) -> dict[bytes, bytes]:
        """All leaves, what `take_changes` adds up to on those of genesis."""
        return dict(self._leaves())

    def _leaves(self) -> Iterator[tuple[bytes, bytes]]:
        for number, owner in self.owners.items():
            yield lv.account_key(number), encode(OwnerLeaf(owner.address))
            for agent, expires_ms in owner.agents.items():
                yield lv.agent_key(number, agent), encode(lv.AgentLeaf(expires_ms))
        for signer, used in self.nonces.signers.items():
            for nonce_ms, kept in used.kept.items():
                leaf = UsedNonceLeaf(nonce_ms, kept.batch_id)
                yield lv.nonce_key(signer, kept.slot), encode(leaf)
        for number, told in enumerate(self.oracle_prices):
            for oracle, price in told.items():
                yield lv.oracle_key(number, oracle), encode(price)
        for number, prices in enumerate(self.prices):
            yield lv.market_key(number), encode(prices)

    @classmethod
    def restore(cls, chain: Chain, leaves: Iterable[tuple[bytes, bytes]]) -> NativeState:
        """The state that these leaves, in any order, are all of; it goes on as the one that wrote
        them. Raises `SafetyViolation` when they do not belong together."""
        state = cls(chain)
        try:
            # Key order puts owners before their agents, and the nonces of a signer by slot.
            for key, value in sorted(leaves):
                state._restore_leaf(key, value)
        except (KeyError, IndexError, ValueError, Rejected) as error:
            raise SafetyViolation(f"the leaves do not form a native state: {error!r}") from error
        return state

    def put_back(self, leaves: Mapping[bytes, bytes | None]) -> None:
        """Make leaves what they were at an earlier time, as all others still are (None: absent)."""
        slots: dict[bytes, dict[int, bytes | None]] = {}
        # Key order takes owners away before their agents, which then go with them.
        for key, value in sorted(leaves.items()):
            kind = key[:1]
            if kind == lv.NONCE:
                signer, slot = lv.parse_nonce_key(key)
                slots.setdefault(signer, {})[slot] = value
            elif value is not None:
                self._restore_leaf(key, value)
            elif kind == lv.ACCOUNT:
                self.owners.pop(lv.parse_account_key(key), None)
            elif kind == lv.AGENT:
                number, agent = lv.parse_agent_key(key)
                if number in self.owners:
                    self.owners[number].agents.pop(agent, None)
            elif kind == lv.ORACLE:
                number, oracle = lv.parse_oracle_key(key)
                self.oracle_prices[number].pop(oracle, None)
        for signer, changed in slots.items():
            self._put_back_nonces(signer, changed)
        self._medians = [(0, _NEWS_MS) for _ in self.markets]
        self._changes = {}

    def _put_back_nonces(self, signer: bytes, changed: Mapping[int, bytes | None]) -> None:
        found = self.nonces.signers.pop(signer, None)
        used = {} if found is None else {
            kept.slot: (nonce_ms, kept.batch_id) for nonce_ms, kept in found.kept.items()
        }  # fmt: skip
        for slot, value in changed.items():
            if value is None:
                used.pop(slot, None)
            else:
                leaf = decode_used_nonce(value)
                used[slot] = (leaf.nonce_ms, leaf.batch_id)
        for slot, (nonce_ms, identity) in sorted(used.items()):
            self.nonces.restore(signer, slot, nonce_ms, identity, b"")

    def _restore_leaf(self, key: bytes, value: bytes) -> None:
        kind = key[:1]
        if lv.KEY_BYTES.get(kind) != len(key):
            raise SafetyViolation(f"no leaf has the key {key.hex()}")
        if kind == lv.ACCOUNT:
            self.owners[lv.parse_account_key(key)] = NativeOwner(decode_owner(value).address)
        elif kind == lv.AGENT:
            number, agent = lv.parse_agent_key(key)
            self.owners[number].agents[agent] = lv.decode_agent(value).expires_ms
        elif kind == lv.NONCE:
            signer, slot = lv.parse_nonce_key(key)
            used = decode_used_nonce(value)
            self.nonces.restore(signer, slot, used.nonce_ms, used.batch_id, b"")
        elif kind == lv.ORACLE:
            number, oracle = lv.parse_oracle_key(key)
            self.oracle_prices[number][oracle] = lv.decode_oracle(value)
        elif kind == lv.MARKET:
            self.prices[lv.parse_market_key(key)] = decode_price(value)
        else:
            raise SafetyViolation(f"no leaf has the key {key.hex()}")


def price_changes(
    prices: Sequence[tuple[int, int]], changes: Mapping[bytes, bytes | None]
) -> list[PriceChange]:
    """What a prover posts of a block that changed these leaves of the shard's state, from mark and
    funding index of each market before it."""
    found = []
    for number, before in enumerate(prices):
        mark, index = before
        market = changes.get(lv.market_key(number))
        if market is not None:
            mark = lv.decode_market(market).mark_ticks
        if lv.pricing_key(number) in changes:
            row = changes[lv.pricing_key(number)]
            index = 0 if row is None else lv.decode_pricing(row).funding_index
        if (mark, index) != before:
            found.append(PriceChange(number, mark, index))
    return found
