"""Time per order in `Engine.apply`, signatures excluded.

    python bench/engine.py [--orders 200000] [--seed 1] [--json] [--profile]

64 accounts, 3 markets, batches of 20 actions, 50 batches a block: half of the actions rest, 40 %
cancel, 10 % take. The oracle moves all marks in every block. Signatures count as valid.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import random
import time
from typing import NamedTuple

import msgspec

from execution import BlockResult, Engine
from matching import COMPILED
from protocol.actions import (
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    Action,
    ActionBatch,
    Cancel,
    OraclePrice,
    Order,
    SignedBatch,
)
from protocol.codec import encode
from protocol.events import Fill, OrderChanged, OrderOpened
from protocol.genesis import Chain, Genesis, Identity, Limits, MarketConfig, Pace, parse_genesis
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit

ACCOUNTS = 64
MARKETS = 3
BATCH = 20
BATCHES_PER_BLOCK = 50
START_MS = 1_700_000_000_000
BLOCK_MS = 20
MID_TICKS = 60_000


def chain(limits: Limits | None = None) -> Chain:
    """A chain with three markets and one oracle."""
    pace = Pace(20, 100, 1_000, 500, 5_000, 1 << 20)
    peer = Identity("v0", "11" * 32, 1, "00")
    markets = [
        MarketConfig(
            number, f"M{number}-PERP", 1_000_000, 1_000, 50_000, 25_000, 400, 100, 1_000_000,
            100_000, 1_000_000, MID_TICKS,
        )
        for number in range(MARKETS)
    ]  # fmt: skip
    genesis = Genesis(
        "bench", START_MS, 0, [peer], [peer], [], [ORACLE.hex()], markets, [], pace, pace,
        limits=limits or Limits(),
    )  # fmt: skip
    return parse_genesis(msgspec.json.encode(genesis))


ORACLE = b"\xee" * 32


def signers(count: int) -> list[bytes]:
    """Public keys of the first accounts."""
    return [(number + 1).to_bytes(2, "big") * 16 for number in range(count)]


SIGNERS = signers(ACCOUNTS)


def deposits(keys: list[bytes]) -> list[InboxDeposit]:
    """Money enough for each of them."""
    return [
        InboxDeposit(number, FIRST_ACCOUNT + number, address_of(key), 10**14)
        for number, key in enumerate(keys)
    ]


class Live(NamedTuple):
    """A resting order of the workload."""

    market: int
    order_id: int


class Flow:
    """Produces blocks of the mix; follows the events to know which orders live."""

    def __init__(self, seed: int, accounts: int = ACCOUNTS) -> None:
        self.rng = random.Random(seed)
        self.signers = signers(accounts)
        self.live: list[list[Live]] = [[] for _ in self.signers]
        self.place: dict[int, tuple[int, int]] = {}
        """Owner, and place in the owner's list, of each live order."""
        self.mids = [MID_TICKS] * MARKETS
        self.nonce = START_MS

    def sign(self, signer: bytes, account: int, actions: list[Action]) -> bytes:
        """An envelope whose signature nobody checks."""
        self.nonce += 1
        batch = ActionBatch(account, self.nonce, 0, actions)
        return encode(SignedBatch(1, signer, encode(batch), bytes(64)))

    def oracle(self) -> bytes:
        """New prices of all markets."""
        for market in range(MARKETS):
            self.mids[market] += self.rng.randint(-2, 2)
        prices: list[Action] = [OraclePrice(m, price) for m, price in enumerate(self.mids)]
        return self.sign(ORACLE, 0, prices)

    def block(self) -> list[bytes]:
        """One block of signed batches."""
        return [self.oracle()] + [self.batch() for _ in range(BATCHES_PER_BLOCK)]

    def batch(self, size: int = BATCH, owner: int | None = None) -> bytes:
        """One account's batch, anybody's where none is named."""
        if owner is None:
            owner = self.rng.randrange(len(self.signers))
        actions = [self.action(owner) for _ in range(size)]
        return self.sign(self.signers[owner], FIRST_ACCOUNT + owner, actions)

    def action(self, owner: int) -> Action:
        """Half adds, 40 % cancels, 10 % takers."""
        rng = self.rng
        kind = rng.randrange(10)
        market = rng.randrange(MARKETS)
        mid = self.mids[market]
        side = rng.randrange(2)
        towards = 1 if side == BUY else -1
        if kind == 9:
            return Order(market, side, mid + towards * 60, rng.randint(1, 200), IOC)
        if kind >= 5:
            mine = self.pick(owner)
            if mine is not None:
                return Cancel(mine.market, mine.order_id)
        price = mid - towards * rng.randint(1, 50)
        tif = POST_ONLY if kind == 0 else GTC
        return Order(market, side, price, rng.randint(1, 100), tif)

    def pick(self, owner: int) -> Live | None:
        """One of the owner's live orders, taken out of the list, if there is one."""
        mine = self.live[owner]
        if not mine:
            return None
        found = mine[self.rng.randrange(len(mine))]
        self.forget(found.order_id)
        return found

    def forget(self, order_id: int) -> None:
        """Drop an order from the live ones."""
        owner, index = self.place.pop(order_id, (0, -1))
        if index < 0:
            return
        mine = self.live[owner]
        last = mine.pop()
        if last.order_id != order_id:
            mine[index] = last
            self.place[last.order_id] = owner, index

    def follow(self, result: BlockResult, sizes: dict[int, int]) -> int:
        """Follow what happened; returns the number of fills."""
        fills = 0
        for event in result.events:
            if isinstance(event, OrderOpened):
                owner = event.account - FIRST_ACCOUNT
                self.place[event.order_id] = owner, len(self.live[owner])
                self.live[owner].append(Live(event.market, event.order_id))
                sizes[event.order_id] = event.size_lots
            elif isinstance(event, Fill):
                fills += 1
                sizes[event.maker_order] -= event.size_lots
                if not sizes[event.maker_order]:
                    self.forget(event.maker_order)
            elif isinstance(event, OrderChanged) and not event.remaining_lots:
                self.forget(event.order_id)
        return fills


def main() -> None:
    """Run the workload and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()

    engine = Engine(chain(), lambda *_: True)
    flow = Flow(options.seed)
    sizes: dict[int, int] = {}
    height = 1
    engine.apply(height, START_MS + 1, b"", deposits(flow.signers), ACCOUNTS, [])
    warm = 20
    blocks = max(1, options.orders // (BATCH * BATCHES_PER_BLOCK))
    nanoseconds = actions = fills = changed = events = 0
    codes: dict[int, int] = {}
    profile = cProfile.Profile()
    gc.set_threshold(50_000, 50, 1_000)
    for number in range(warm + blocks):
        height += 1
        raws = flow.block()
        timed = number >= warm
        if options.profile and timed:
            profile.enable()
        start = time.process_time_ns()
        result = engine.apply(height, START_MS + height * BLOCK_MS, b"", [], ACCOUNTS, raws)
        elapsed = time.process_time_ns() - start
        if options.profile and timed:
            profile.disable()
        filled = flow.follow(result, sizes)
        if timed:
            nanoseconds += elapsed
            actions += result.actions
            fills += filled
            changed += len(result.changes)
            events += len(result.events)
            for event in result.events:
                for outcome in getattr(event, "results", ()):
                    codes[outcome.code] = codes.get(outcome.code, 0) + 1
    engine.check()
    figures = {
        "engine": "compiled" if COMPILED else "interpreted",
        "us_per_order": round(nanoseconds / actions / 1_000, 3),
        "orders_per_s": actions * 1_000_000_000 // nanoseconds,
        "orders": actions,
        "fills": fills,
        "events": events,
        "leaf_changes": changed,
        "resting": len(flow.place),
        "codes": {str(code): count for code, count in sorted(codes.items())},
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>14}  {value}")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
