"""The checksum of a book: its bytes as documented, and the same on both ends of the stream."""

from __future__ import annotations

import random
from zlib import crc32

import msgspec
import pytest
from engine_world import World, market

from client.book import KEPT_CHECKSUMS, BookMirror, ProvenBook
from protocol.actions import BUY, IOC, SELL, CancelAll, Order
from protocol.depth import CHECKED_LEVELS, depth_checksum
from protocol.errors import SafetyViolation
from protocol.events import BlockEvents


def test_the_bytes_are_those_of_the_documentation() -> None:
    raw = (
        "02" "01"
        "000003e8" "0000000000000007"
        "000003e7" "0000000100000000"
        "000003ea" "0000000000000001"
    )  # fmt: skip
    bids, asks = [(1_000, 7, 2), (999, 1 << 32, 1)], [(1_002, 1, 1)]
    assert depth_checksum(bids, asks) == crc32(bytes.fromhex(raw))
    assert depth_checksum([], []) == crc32(b"\0\0")


def test_every_price_size_and_side_counts_and_only_the_best_levels() -> None:
    bids = [(1_000 - n, 5 + n, 1) for n in range(CHECKED_LEVELS)]
    asks = [(1_001 + n, 5 + n, 1) for n in range(CHECKED_LEVELS)]
    whole = depth_checksum(bids, asks)
    others = {whole, depth_checksum(asks, bids), depth_checksum(bids[1:], asks)}
    for place in range(CHECKED_LEVELS):
        for changed in ((1, 5 + place, 1), (1_000 - place, 99, 1)):
            levels = list(bids)
            levels[place] = changed
            others.add(depth_checksum(levels, asks))
    assert len(others) == 3 + 2 * CHECKED_LEVELS
    deeper = [*bids, (1, 1, 1)], [*asks, (9_999, 1, 1)]
    assert depth_checksum(*deeper) == whole


def test_a_mirror_of_the_stream_proves_its_copy() -> None:
    seed = 5
    print("seed", seed)
    rng = random.Random(seed)
    world, mirror = World([market(0)], accounts=3), BookMirror(0)
    first, seen = world.accounts[0], set()
    for _ in range(120):
        side = rng.randrange(2)
        price = 1_000 + (-1 if side == BUY else 1) * rng.randint(-3, 25)
        action = Order(0, side, price, rng.randint(1, 9), IOC if rng.random() < 0.2 else 0)
        if rng.random() < 0.05:
            world.act(first, CancelAll(0))
        else:
            world.one(rng.choice(world.accounts), action)
        for event in world.events:
            mirror.apply(event)
        view = world.engine.book_view(0, 0, 3)
        assert mirror.checksum() == view.checksum
        assert mirror.levels(SELL, 3) == view.asks
        seen.add(view.checksum)
    assert len(seen) > 60


def test_an_answer_is_compared_with_the_mirror_of_its_block() -> None:
    world, book = World([market(0), market(1)], accounts=3), ProvenBook(0)
    seq, views = 1, []
    for number in range(KEPT_CHECKSUMS + 5):
        world.one(world.accounts[0], Order(0, BUY, 900 + number % 50, 1))
        block = BlockEvents(
            world.height, world.time_ms, seq, seq + len(world.events), [], world.events
        )
        seq = block.next_seq
        view = world.engine.book_view(0, 0, 3, seq)
        assert not book.agrees(view), "its block has not come yet"
        book.take(block)
        views.append(view)
        assert book.agrees(view)
    assert book.agrees(views[-KEPT_CHECKSUMS]) and not book.agrees(views[0])
    assert not book.agrees(world.engine.book_view(0, 1, 3, seq)), "another market"
    wrong = msgspec.structs.replace(views[-1], checksum=views[-1].checksum ^ 1)
    with pytest.raises(SafetyViolation, match="another book"):
        book.agrees(wrong)
