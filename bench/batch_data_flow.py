"""Ordered blocks of realistic flow: the load generator's, and a recorded day."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random

from client.load_flow import Flow
from client.lobster import Mapper, ReduceClient
from protocol.actions import Action, ActionBatch, Order, Reduce, SignedBatch
from protocol.chain import EMPTY_HASH, Header, genesis_header, payload_hash
from protocol.codec import encode
from protocol.genesis import MarketConfig
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload

START_MS = 1_700_000_000_000
CHAIN_ID = b"\x77" * 32
RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "l3"


class Log:
    """An ordered log whose signatures and hashes are random bytes."""

    def __init__(self, seed: int, batches_per_block: int = 30) -> None:
        self.rng = Random(seed)
        self.blocks: list[OrderedBlock] = []
        self.actions = self.signatures = 0
        self._per_block = batches_per_block
        self._waiting: list[bytes] = []
        self._keys = [self.rng.randbytes(32) for _ in range(64)]
        self._last = genesis_header(CHAIN_ID, START_MS, EMPTY_HASH)
        self._nonces = [0] * 64

    def sign(self, number: int, actions: list[Action]) -> None:
        """A batch of an account; blocks come as soon as they are full."""
        wall_ms = self._last.time_ms - self.rng.randrange(20)
        self._nonces[number] = nonce = max(wall_ms, self._nonces[number] + 1)
        body = encode(ActionBatch(16 + number, nonce, 0, actions))
        self.actions += len(actions)
        self.signatures += 1
        self.add(encode(SignedBatch(1, self._keys[number], body, self.rng.randbytes(64))))

    def add(self, raw: bytes) -> None:
        """A batch as it is."""
        self._waiting.append(raw)
        if len(self._waiting) >= self._per_block:
            self.close()

    def close(self) -> None:
        """A block of what waits."""
        payload = encode(OrderedPayload(7, self._waiting)) if self._waiting else b""
        self.append(payload)
        self._waiting = []

    def append(self, payload: bytes) -> None:
        """A block of this payload, whatever it is."""
        last, draw = self._last, self.rng.randrange
        self._last = Header(
            CHAIN_ID, 0, last.view + 1, last.height + 1, last.block_id(), last.view,
            last.time_ms + 20 + draw(4), last.view % 4, payload_hash(payload),
            self.rng.randbytes(32), max(0, last.height - 1), EMPTY_HASH,
        )  # fmt: skip
        self.blocks.append(OrderedBlock(self._last, payload))


def batches_of(blocks: Iterable[OrderedBlock]) -> list[bytes]:
    """All encoded batches of the blocks."""
    return [
        raw for block in blocks if block.payload for raw in decode_payload(block.payload).batches
    ]


def market_of(number: int, ticks: int, max_lots: int = 1_000_000) -> MarketConfig:
    """A market whose price begins there."""
    return MarketConfig(
        number, f"M{number}", 10_000, 1_000_000, 50_000, 30_000, 450, 150, 1_000_000, max_lots,
        100_000_000, ticks,
    )  # fmt: skip


def load_log(batches: int, size: int = 20, seed: int = 1) -> Log:
    """The load generator's flow in four markets, signed by 32 accounts in turns."""
    log = Log(seed)
    markets = [(market_of(n, t), t) for n, t in enumerate((600_000, 30_000, 57_700, 150_000))]
    flow = Flow(
        seed, markets, accounts=32, batch=size, taker_share=0.2, first_client_id=START_MS << 8
    )
    for _ in range(batches):
        log.sign(*flow.next_batch())
    log.close()
    return log


def recorded_log(folder: Path, rows: int, size: int = 50) -> Log:
    """The first rows of GOOG's LOBSTER day in `folder`, as `trilemma replay` sends them."""
    log = Log(1)
    mapper = Mapper(market_of(2, 57_700, 1_000), 16)
    name = "lobster_GOOG_20120621_{}_10.csv.xz"
    order_ids: dict[int, int] = {}
    account, batch = 0, list[Action]()
    with (
        lzma.open(folder / name.format("message"), "rt") as messages,
        lzma.open(folder / name.format("orderbook"), "rt") as book,
    ):
        for step in mapper.steps(islice(messages, rows), islice(book, rows)):
            for intent in step.intents + step.adopt:
                if intent.account != account or len(batch) >= size:
                    if batch:
                        log.sign(account, batch)
                    account, batch = intent.account, []
                action = intent.action
                if isinstance(action, ReduceClient):
                    batch.append(Reduce(2, order_ids[action.client_id], action.by_lots))
                    continue
                if isinstance(action, Order):
                    order_ids[action.client_id] = len(order_ids) + 1
                batch.append(action)
    log.sign(account, batch)
    log.close()
    return log
