"""Where in a wrong batch the wrong begins: the ordered block, the step, and the leaf.

That takes what the poster's execution says that each block changed. It is believed only where these
changes lead to the very root that was posted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple, Protocol

from execution import leaves as lv
from protocol.events import BatchExecuted, Event
from prover.tree import StateTree


class ClaimedBlock(NamedTuple):
    """What the poster says that an ordered block changed, and its events."""

    changes: Mapping[bytes, bytes | None]
    events: Sequence[Event]


Claims = Callable[[int], ClaimedBlock | None]
"""What is claimed of the ordered block of a height; None where nothing is known."""


class Place(NamedTuple):
    """Where the poster's execution first differs from ours. `event`: number of the first event
    of the block that differs, -1 where only leaves do; `key`: the first leaf that differs."""

    block: int
    event: int
    key: bytes
    text: str


class _Block(Protocol):
    @property
    def height(self) -> int: ...
    @property
    def changes(self) -> Mapping[bytes, bytes | None]: ...
    @property
    def events(self) -> Sequence[Event]: ...


def locate(
    tree: StateTree,
    posted_root: bytes,
    blocks: Sequence[_Block],
    undo: Mapping[bytes, bytes | None],
    claims: Claims,
) -> Place | None:
    """The first difference in the blocks of a batch; `tree` is the right state after it, `undo`
    what its leaves were before. None where the claims do not lead to the posted root."""
    told: list[ClaimedBlock] = []
    merged: dict[bytes, bytes | None] = {}
    for block in blocks:
        claimed = claims(block.height)
        if claimed is None:
            return None
        told.append(claimed)
        merged.update(claimed.changes)
    wrong = {**undo, **merged}
    right = {key: tree.get(key) for key in wrong}
    root = tree.update(wrong)
    tree.update(right)
    if root != posted_root:
        return None
    for block, claimed in zip(blocks, told, strict=True):
        if dict(block.changes) != dict(claimed.changes):
            return _place(block, claimed)
    return None


def _place(block: _Block, claimed: ClaimedBlock) -> Place:
    keys = sorted(
        key
        for key in {*block.changes, *claimed.changes}
        if block.changes.get(key, b"") != claimed.changes.get(key, b"")
        or (key in block.changes) != (key in claimed.changes)
    )
    number, step = _step(block.events, claimed.events)
    key = keys[0]
    text = (
        f"ordered block {block.height}, {step}: {leaf_name(key)} is posted as "
        f"{_value(claimed.changes, key)}, right is {_value(block.changes, key)}"
    )
    if len(keys) > 1:
        text += f"; {len(keys)} leaves of the block differ"
    return Place(block.height, number, key, text)


def _step(ours: Sequence[Event], theirs: Sequence[Event]) -> tuple[int, str]:
    """The first event that differs, and the signed batch to which it belongs."""
    batches = 0
    for number, (right, claimed) in enumerate(zip_longest(ours, theirs)):
        if right != claimed:
            shown = claimed if right is None else right
            name = type(shown).__name__
            where = f"event {number} ({name}), signed batch {batches}"
            if isinstance(right, BatchExecuted) and isinstance(claimed, BatchExecuted):
                pairs = zip_longest(right.results, claimed.results)
                at = [index for index, (one, two) in enumerate(pairs) if one != two]
                where += f", action {at[0]}" if at else ""
            return number, where
        batches += isinstance(right, BatchExecuted)
    return -1, "step not known (its events agree)"


def _value(changes: Mapping[bytes, bytes | None], key: bytes) -> str:
    if key not in changes:
        return "unchanged"
    value = changes[key]
    return "absent" if value is None else value.hex()


_NAMES = {
    lv.ACCOUNT: "account", lv.VOTE: "vote", lv.DEAD_MAN: "dead-man's switch of account",
    lv.PRICING: "pricing of market", lv.AGENT: "agent", lv.DISTRESS: "distress of account",
    lv.MARKET: "market", lv.NONCE: "nonce of signer", lv.ORDER: "order", lv.POSITION: "position",
    lv.ORACLE: "oracle price", lv.SETTINGS: "settings", lv.TRIGGER: "trigger",
    lv.VOLUME: "volume of account", lv.TWAP: "TWAP", lv.REALISED: "realised profit",
}  # fmt: skip
_GLOBALS = {
    lv.CLOCK_KEY: "the clock", lv.COUNTERS_KEY: "the counters", lv.MONEY_KEY: "the money that came",
    lv.RECEIPTS_KEY: "the liquidation receipts", lv.BACKSTOP_KEY: "the backstop",
    lv.TURN_KEY: "the turn of liquidation",
}  # fmt: skip
_NUMBERS = {
    lv.ORDER: (lv.parse_order_key, ("market", "side", "price", "id")),
    lv.POSITION: (lv.parse_position_key, ("account", "market")),
    lv.SETTINGS: (lv.parse_position_key, ("account", "market")),
    lv.REALISED: (lv.parse_position_key, ("account", "market")),
    lv.TRIGGER: (lv.parse_trigger_key, ("market", "id")),
    lv.ORACLE: (lv.parse_oracle_key, ("market", "oracle")),
    lv.VOTE: (lv.parse_oracle_key, ("market", "guardian")),
}


def leaf_name(key: bytes) -> str:
    """A leaf of the state for people."""
    kind = key[:1]
    if key in _GLOBALS:
        return f"leaf {key.hex()} ({_GLOBALS[key]})"
    if len(key) != lv.KEY_BYTES.get(kind) or kind not in _NAMES:
        return f"leaf {key.hex()}"
    if kind in _NUMBERS:
        parse, names = _NUMBERS[kind]
        parts = zip(names, parse(key), strict=True)
        told = ", ".join(f"{name} {number}" for name, number in parts)
        return f"leaf {key.hex()} ({_NAMES[kind]}: {told})"
    if kind in (lv.AGENT, lv.NONCE):
        return f"leaf {key.hex()} ({_NAMES[kind]})"
    return f"leaf {key.hex()} ({_NAMES[kind]} {lv.parse_account_key(key)})"
