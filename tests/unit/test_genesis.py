"""A genesis that the processes could not live with is refused with one clear sentence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from ledger_world import MARKET, PACE, make_chain

from execution import Engine
from protocol.actions import MAX_BATCH_BYTES
from protocol.errors import ConfigError
from protocol.genesis import ORDERED_PAYLOAD_BYTES, Genesis, Limits, parse_genesis
from prover.batcher import BATCH_BYTES_MAX
from sequencer.pool import BATCH_OVERHEAD_BYTES, PAYLOAD_MARGIN_BYTES
from sequencer.store import BLOCK_OVERHEAD_BYTES

GENESIS = make_chain([]).genesis
replace = msgspec.structs.replace


def parsed(genesis: Genesis) -> Engine:
    return Engine(parse_genesis(msgspec.json.encode(genesis)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"markets": []}, "1 to 16384 markets"),
        ({"shard": -1}, "the shard must be"),
        ({"shard": 1 << 16}, "the shard must be"),
        ({"limits": Limits(inbox_per_block=0)}, "inbox_per_block must be above 0"),
        ({"limits": Limits(fills_per_block=0)}, "fills_per_block must be above 0"),
        ({"oracles": GENESIS.oracles * 2}, "two oracles share a key"),
        ({"sequencer_pace": replace(PACE, max_payload_bytes=32_767)}, "max_payload_bytes"),
        ({"sequencer_pace": replace(PACE, max_payload_bytes=2 << 20)}, "max_payload_bytes"),
        ({"markets": [replace(MARKET, initial_price_ticks=(1 << 31) - 1, lot_micro=300_000)]},
         "more than one cash movement"),
        ({"markets": [replace(MARKET, market=1)]}, "has number 1, but stands at 0"),
        ({"markets": [replace(MARKET, maker_fee_ppm=-451)]}, "sum to less than 0"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parsed(replace(GENESIS, **changes))


def test_what_is_in_order_starts_an_engine() -> None:
    assert parsed(GENESIS).height == 0


def test_a_block_holds_any_client_batch_and_fits_a_settlement_batch() -> None:
    least, most = ORDERED_PAYLOAD_BYTES
    assert least >= MAX_BATCH_BYTES + BATCH_OVERHEAD_BYTES + PAYLOAD_MARGIN_BYTES
    assert most + BLOCK_OVERHEAD_BYTES <= BATCH_BYTES_MAX
