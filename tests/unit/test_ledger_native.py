"""Native checks on the ledger: posted prices, native leaves, removal, restarts, contradictions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from defence_world import LedgerInbox
from dispute_world import RULES, DisputeWorld, Lie, dispute_chain
from ledger_world import MARKET, key_of

from execution import leaves as lv
from execution.native import NativeState, decode_used_nonce
from node.ledger import Ledger
from protocol.actions import BUY, ActionBatch, ApproveAgent, OraclePrice, Order, sign_batch
from protocol.codec import encode
from protocol.dispute import Contradict
from protocol.errors import Code
from protocol.genesis import Chain, parse_genesis
from protocol.ledger_leaves import NATIVE_KIND, NATIVE_UNDO_KIND
from protocol.prices import PriceChange
from protocol.settlement import PostBatch
from prover.challenger import Challenger
from prover.judge import contradiction_keys
from prover.prices import posted_prices
from prover.tree import StateTree

ALICE, BOB, ORACLE, AGENT = (key_of(name) for name in ("alice", "bob", "oracle", "agent"))
FIRST_TICKS = MARKET.initial_price_ticks


def native_chain(**rules: Any) -> Chain:
    """The chain of disputes with native checks, and other rules for its market."""
    genesis = dispute_chain(msgspec.structs.replace(RULES, native_checks=True)).genesis
    markets = [msgspec.structs.replace(MARKET, max_open_interest_lots=1_000, **rules)]
    return parse_genesis(msgspec.json.encode(msgspec.structs.replace(genesis, markets=markets)))


class NativeWorld(DisputeWorld):
    """Batches come with the prices of their blocks, or with others."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(chain=native_chain(**rules))
        self.said: dict[int, list[PriceChange]] = {}
        """What is posted of a block (its place in the batch) in place of its prices."""
        self.fill(2)

    def posting(self, lie: Lie | None = None, upto: int | None = None, **changed: Any) -> PostBatch:
        first = self.ledger.shard_leaf().last_block + 1
        last = upto or len(self.log.blocks)
        before = StateTree(self.truth.leaves(first - 1))
        prices = posted_prices(before, self.changes[first - 1 : last])
        for place, said in self.said.items():
            prices[place] = said
        return msgspec.structs.replace(super().posting(lie, upto, **changed), prices=prices)

    def refused(self, **said: list[PriceChange]) -> Code:
        """Why the next batch is refused with these prices of blocks ``b0``, ``b1``, ..."""
        self.said = {int(name[1:]): one for name, one in said.items()}
        code = self.code(self.sign(self.prover, self.posting()))
        self.said = {}
        return code

    def price(self, ticks: int) -> None:
        """A block in which the oracle tells a price."""
        self.order(self.of(0, OraclePrice(0, ticks), by=ORACLE), inbox_height=0)

    def of(self, account: int, *actions: Any, by: Any) -> bytes:
        """A batch of an account, signed by any key."""
        self._nonce_ms += 1
        batch = ActionBatch(account, self._nonce_ms, 0, [*actions])
        return sign_batch(by, self.chain.chain_id, 0, batch)

    def native(self) -> dict[bytes, bytes]:
        """The native leaves on the ledger."""
        pairs = ((key, self.ledger.read(key)) for key in self.ledger.keys_of(NATIVE_KIND))
        return {key[3:]: value for key, value in pairs if value is not None}

    def true_native(self, upto: int) -> dict[bytes, bytes]:
        """The native leaves after an ordered block, from genesis on."""
        native = NativeState(self.chain)
        entries = [one for _, one in self.ledger.entries(0, 100, self.ledger.height)]
        posted = posted_prices(StateTree(self.truth.leaves(0)), self.changes[:upto])
        cursor = 0
        for block, end, prices in zip(self.log.blocks, self.cursors, posted, strict=False):
            raws = msgspec.msgpack.decode(block.payload)[1] if block.payload else []
            native.apply(block.header.time_ms, entries[cursor:end], raws, prices)
            cursor = end
        return native.leaves()


def change(ticks: int, index: int = 0) -> PriceChange:
    return PriceChange(0, ticks, index)


def test_a_batch_leaves_behind_who_acted_and_at_what_prices() -> None:
    world = NativeWorld()
    assert world.native() == NativeState(world.chain).leaves()
    forged = bytearray(world.act(ALICE, Order(0, BUY, 1_000, 1)))
    forged[-1] ^= 1
    good = world.act(ALICE, ApproveAgent(AGENT.public, 1 << 50))
    world.order(bytes(forged), good, world.act(AGENT, Order(0, BUY, 1_000, 1)), inbox_height=0)
    world.order(world.of(16, Order(0, BUY, 1_000, 1), by=AGENT), inbox_height=0)
    world.order(world.of(17, Order(0, BUY, 1_000, 1), by=AGENT), good, inbox_height=0)
    world.price(FIRST_TICKS + 9)
    world.post()
    leaves = world.native()
    assert leaves == world.true_native(6)
    settled = world.ledger.batch(1)
    assert settled is not None and settled.native_root == StateTree(leaves.items()).root
    assert settled.prices == [(FIRST_TICKS + 9, 0)]
    # One batch of each was admitted: neither the forged one, nor that of a foreign agent.
    used = [decode_used_nonce(leaf) for key, leaf in leaves.items() if key[:1] == lv.NONCE]
    assert len(used) == 3 and lv.agent_key(16, AGENT.public) in leaves


def test_prices_that_cannot_be_are_refused_and_change_nothing() -> None:
    world = NativeWorld(funding_interval_ms=5_000)
    world.price(FIRST_TICKS + 9)
    world.order()
    before, root = world.native(), world.ledger.shard_leaf()
    wrong: list[tuple[Code, dict[str, list[PriceChange]]]] = [
        (Code.MARK_OUT_OF_BAND, {"b2": [change(FIRST_TICKS + 8)]}),
        (Code.MARK_OUT_OF_BAND, {"b2": []}),
        (Code.STALE_PRICES_MOVED, {"b0": [change(FIRST_TICKS + 9)]}),
        (Code.FUNDING_BEYOND_CAP, {"b3": [change(FIRST_TICKS + 9, 1)]}),
        (Code.BAD_PRICES, {"b3": [PriceChange(1, 5, 5)]}),
        (Code.BAD_PRICES, {"b3": [change(FIRST_TICKS + 9)]}),
    ]
    for code, said in wrong:
        assert world.refused(**said) == code
        assert world.native() == before and world.ledger.shard_leaf() == root
    short = world.posting()
    short = msgspec.structs.replace(short, prices=short.prices[:-1])
    assert world.code(world.sign(world.prover, short)) == Code.BAD_PRICES
    # What was refused left nothing in memory, either.
    world.post()
    assert world.native() == world.true_native(4)


def test_chains_without_native_checks_take_no_prices() -> None:
    world = DisputeWorld()
    world.fill(2)
    post = msgspec.structs.replace(world.posting(), prices=[[], []])
    assert world.code(world.sign(world.prover, post)) == Code.BAD_PRICES
    assert world.post() == 1
    assert world.ledger.keys_of(NATIVE_KIND) == [] == world.ledger.keys_of(NATIVE_UNDO_KIND)


@pytest.mark.parametrize("restarted", [False, True])
def test_removed_batches_take_their_native_leaves_with_them(restarted: bool) -> None:
    world = NativeWorld()
    world.price(FIRST_TICKS + 1)
    world.post()
    kept = world.native()
    world.order(world.act(ALICE, ApproveAgent(AGENT.public, 1 << 50)), inbox_height=0)
    world.price(FIRST_TICKS + 2)
    world.said = {1: [change(FIRST_TICKS + 2)]}
    lie = world.post(lambda n, one: {**one, lv.account_key(16): encode((ALICE.address, 1))})
    world.said = {}
    world.order(world.act(BOB, Order(0, BUY, 1_000, 1)), inbox_height=0)
    world.price(FIRST_TICKS + 3)
    world.post()
    if restarted:
        ledger = world.ledger
        world.ledger = Ledger(world.chain, ledger.leaves(), ledger.height)
    assert world.open(lie, ALICE) == Code.OK
    world.play(lie, ALICE)
    assert world.ledger.shard_leaf().batch == lie - 1
    assert world.native() == kept
    world.post()
    assert world.native() == world.true_native(len(world.log.blocks))
    world.wait(RULES.window_ms)
    assert world.ledger.keys_of(NATIVE_UNDO_KIND) == []


def test_posted_prices_that_are_not_those_of_the_state_fall_at_once() -> None:
    world = NativeWorld(impact_notional_uusd=1_000_000)
    world.price(FIRST_TICKS)
    world.post()
    world.order()
    # Inside the band, so that nothing but the state after the batch says otherwise.
    world.said = {0: [change(FIRST_TICKS + 1)]}
    world.post()
    for number, code in ((1, Code.NOTHING_DISPUTED), (2, Code.OK)):
        settled = world.ledger.batch(number)
        assert settled is not None
        keys = contradiction_keys(settled)
        proof = encode(world.truth.prove(settled.header.last_block, keys))
        assert world.send(BOB, Contradict(number, proof)) == code
    assert world.ledger.shard_leaf().batch == 1
    assert world.native() == world.true_native(3)


def test_a_challenger_finds_prices_that_are_not_those_of_the_state() -> None:
    world = NativeWorld(impact_notional_uusd=1_000_000)
    challenger = Challenger(world.chain, BOB.address)
    world.price(FIRST_TICKS)
    world.post()
    world.order()
    world.said = {0: [change(FIRST_TICKS - 1)]}
    world.post()
    world.said = {}
    inbox: Any = LedgerInbox(world)
    for number in (1, 2):
        challenger.look(world.ledger.read)
        assert challenger.next == number
        challenger.check(world.posted[number][0].blocks, inbox)
    move = challenger.move()
    assert isinstance(move, Contradict) and "prices" in challenger.wrong
    assert world.send(BOB, move) == Code.OK
    challenger.look(world.ledger.read)
    assert challenger.move() is None
    world.post()
    challenger.look(world.ledger.read)
    challenger.check(world.posted[2][0].blocks, inbox)
    assert challenger.next == 3 and not challenger.wrong
