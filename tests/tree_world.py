"""The state tree by its definition, keys that try it, and batches of changes."""

from __future__ import annotations

import random
from hashlib import sha256

from protocol.tree_node import EMPTY_ROOT

Leaves = dict[bytes, bytes]


def bits(key: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in key)


def naive_root(items: list[tuple[bytes, bytes]]) -> bytes:
    """The definition: split the sorted leaves at the first bit in which they differ."""
    if not items:
        return EMPTY_ROOT
    if len(items) == 1:
        key, value = items[0]
        return sha256(b"\x02" + bytes((len(key),)) + key + value).digest()
    texts = [bits(key) for key, _ in items]
    at = next(i for i in range(len(texts[0])) if len({text[i] for text in texts}) > 1)
    pivot = texts[0][:at] + "1"
    pivot += "0" * (-len(pivot) % 8)
    left = naive_root([item for item, text in zip(items, texts, strict=True) if text[at] == "0"])
    right = naive_root([item for item, text in zip(items, texts, strict=True) if text[at] == "1"])
    packed = int(pivot, 2).to_bytes(len(pivot) // 8, "big")
    return sha256(b"\x03" + left + right + packed).digest()


def order_key(rng: random.Random) -> bytes:
    price = rng.randrange(1 << rng.choice([2, 8, 32])).to_bytes(4, "big")
    market, side = bytes((0, rng.randrange(3))), bytes((rng.randrange(2),))
    return (
        b"o" + market + side + price + rng.randrange(1 << rng.choice([1, 6, 64])).to_bytes(8, "big")
    )


def long_prefix_key(rng: random.Random) -> bytes:
    shared = rng.choice([0, 77, 78, 79])
    return bytes(shared) + bytes(rng.choice([0, 1, 127, 128, 255]) for _ in range(80 - shared))


def one_bit_key(rng: random.Random) -> bytes:
    """Keys that make the deepest tree: each parts from the zero key at its own bit."""
    return (1 << rng.randrange(640) >> rng.randrange(2)).to_bytes(80, "big")


def mixed_key(rng: random.Random) -> bytes:
    """Variable length, prefix-free because the length leads."""
    length = rng.randrange(6)
    return bytes((length,)) + bytes(rng.choice([0, 1, 128, 255]) for _ in range(length))


KINDS = [order_key, long_prefix_key, one_bit_key, mixed_key]


def random_changes(rng: random.Random, model: Leaves, make: object) -> dict[bytes, bytes | None]:
    assert callable(make)
    changes: dict[bytes, bytes | None] = {}
    for _ in range(rng.choice([3, 25, 25, 100])):
        old = model and rng.random() < 0.5
        key = rng.choice(sorted(model)) if old else make(rng)
        changes[key] = None if rng.random() < 0.45 else rng.randbytes(rng.randrange(4))
    if rng.random() < 0.1:
        changes.update(dict.fromkeys(model))
    return changes


def apply_to_model(model: Leaves, changes: dict[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
