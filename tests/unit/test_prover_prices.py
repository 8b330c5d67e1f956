"""Prices in batches: what a prover posts of its diffs, also after it took a batch back."""

from __future__ import annotations

import pytest
from ledger_world import MARKET, key_of
from pipeline_world import PipelineWorld

import prover.batcher as batching
from execution import leaves as lv
from protocol.actions import ActionBatch, OraclePrice, sign_batch
from protocol.codec import encode
from protocol.genesis import SettlementRules
from protocol.prices import PriceChange
from prover.prices import CHANGE_BYTES, most_price_bytes
from prover.settlement import make_batcher
from prover.tree import StateTree

FIRST_TICKS = MARKET.initial_price_ticks
RULES = SettlementRules(window_ms=60_000, native_checks=True)


class PricedWorld(PipelineWorld):
    """A pipeline whose prover posts prices, and an oracle."""

    def __init__(self) -> None:
        super().__init__(settlement=RULES)
        tree = StateTree(sorted(self.engine.leaves().items()))
        self.batcher = make_batcher(self.chain, self.prover.public, tree, self.batcher.position)

    def price(self, ticks: int) -> None:
        """A block in which the oracle tells a price."""
        self._nonce_ms += 1
        batch = ActionBatch(0, self._nonce_ms, 0, [OraclePrice(0, ticks)])
        self.order(sign_batch(key_of("oracle"), self.chain.chain_id, 0, batch), inbox_height=0)


def change(ticks: int) -> PriceChange:
    return PriceChange(0, ticks, 0)


def test_a_batch_brings_the_changes_of_its_blocks() -> None:
    world = PricedWorld()
    world.order()
    world.price(FIRST_TICKS + 5)
    world.order()
    batch = world.batcher.build(world.batcher.end_of_next())
    assert batch.prices == [[], [change(FIRST_TICKS + 5)], []]
    world.batcher.take_back()
    world.price(FIRST_TICKS + 6)
    again = world.batcher.build(3)
    assert again.prices == batch.prices
    later = world.batcher.build(world.batcher.end_of_next())
    assert later.prices == [[change(FIRST_TICKS + 6)]]


def test_prices_count_towards_the_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PricedWorld()
    for ticks in range(8):
        world.price(FIRST_TICKS + 1 + ticks)
    blocks = sum(len(encode(block)) for block in world.log.blocks)
    monkeypatch.setattr(batching, "BATCH_BYTES_MAX", blocks + CHANGE_BYTES * 4)
    assert 0 < world.batcher.end_of_next() < 8
    world.batcher.build(world.batcher.end_of_next())
    end = world.batcher.end_of_next()
    world.batcher.take_back()
    assert world.batcher.end_of_next() < 8 <= end


def test_no_change_is_larger_than_what_is_counted_for_it() -> None:
    largest = PriceChange(255, (1 << 31) - 1, -(1 << 62))
    assert len(encode(largest)) <= CHANGE_BYTES
    keys = [lv.market_key(0), lv.pricing_key(0), lv.account_key(16)]
    assert most_price_bytes(keys) == 1 + 2 * CHANGE_BYTES
