"""Makes witnesses: from what a step does on the whole state, what it looks at.

Nothing in the engine notes what it reads. So the first attempt shows what the step changed and
reported, with the accounts that took part whole; it holds where the step gives on it what it gives
on all of the state, and otherwise more is shown, in the end every account.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from typing import NamedTuple

from execution import leaves as lv
from execution.batches import VerifySignature
from execution.dead_man import MUCH
from execution.engine import Engine
from execution.steps import Stage
from protocol.actions import BUY, REDUCE_ONLY, SELL, TRAILING
from protocol.codec import encode
from protocol.dispute import WITNESS_BYTES, WITNESS_LEAVES
from protocol.errors import Code, Rejected
from protocol.events import Event
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.settlement import master_of
from prover.step_input import Scope, StepInput
from prover.tree import StateTree
from prover.witness import (
    FRAME,
    ITEMS,
    SYSTEM_ACCOUNTS,
    Witness,
    account_keys,
    account_prefixes,
    accounts_of,
    decode_witness,
    outcome,
)

FIRST_DEPTH = 4
"""So many of the best orders and newest trailing stops of each side of each market are in the first
attempt; each further one has four times as many, the last one every account."""

LEAN_TRIES = 32
"""Attempts to find the accounts whose orders count, before more of the books is shown."""

_SIDE_BYTES = 4
"""Of an order's key: kind, market, side."""


class Room(NamedTuple):
    """Most bytes and leaves of a witness."""

    size_bytes: int
    leaves: int


FIRST_ROOM = Room(WITNESS_BYTES, WITNESS_LEAVES)


def make(
    chain: Chain,
    tree: StateTree,
    step: StepInput,
    beside: bytes = b"",
    verify_signature: VerifySignature = verify,
    room: Room = FIRST_ROOM,
) -> bytes:
    """A witness of the state in `tree`, on which the step gives what it gives on all of it. It
    shows whatever `beside`, another witness of this state, does.

    Accounts are shown with all their orders, unless that is more than `room` takes: then with those
    orders that the result needs. Raises `Rejected` (bad_witness) where that is too large, too.
    """
    engine = Engine.restore(chain, tree.iterate(), verify_signature)
    gathered = Gathered(tree, step.scope(chain))
    gathered.take_choices(Stage.SWITCHES, engine.switches_due)
    changes = step.run(engine)
    gathered.take_choices(Stage.LIQUIDATIONS, engine.liquidations_looked_at)
    gathered.take(changes, engine.state.events)
    if beside:
        gathered.add(decode_witness(beside))
    result = root_after(tree, changes)
    depth, tries = FIRST_DEPTH, 0
    while depth <= 4 * len(tree):
        witness = gathered.within(room, depth)
        if not witness:
            if gathered.lean and not gathered.spare():
                break
            gathered.lean, depth = True, FIRST_DEPTH
            continue
        more = False
        try:
            root, told = outcome(chain, tree.root, witness, step, verify_signature)
            if root == result:
                return witness
            more = gathered.lean and tries < LEAN_TRIES and gathered.open(changes, told)
        except Rejected:
            pass
        tries += 1
        if not more:
            depth *= 4
    raise Rejected(Code.BAD_WITNESS, "what the step looks at is too large to be shown")


def root_after(tree: StateTree, changes: Mapping[bytes, bytes | None]) -> bytes:
    """The root (32 bytes) that a tree would have after changes."""
    undo = {key: tree.get(key) for key in changes}
    try:
        return tree.update(changes)
    finally:
        tree.update(undo)


class Gathered:
    """The keys that a step concerns, from its scope, what it changed and what it reported."""

    def __init__(self, tree: StateTree, scope: Scope) -> None:
        self._tree = tree
        self._scope = scope
        self.keys: set[bytes] = set()
        for signer in scope.signers:
            self.keys.update(_all(tree, lv.NONCE + signer))
        self._accounts: set[int] = set(SYSTEM_ACCOUNTS)
        self.lean = False
        """Whether only accounts that were opened are shown with what of theirs rests or waits, and
        those whose batches they are with what hangs on something else."""
        self._opened: set[int] = set()
        # Items of accounts that are no leaves of their own prefix: orders, triggers, TWAPs; those
        # that hang on another one, and those that do not.
        self._items: dict[int, list[bytes]] = {}
        self._free: dict[int, list[bytes]] = {}
        self._counted: set[int] = set()
        """Accounts of which it counts how many items they have, up to `MUCH`."""
        self._reducing: dict[int, set[bytes]] = {}
        """Accounts with triggers that reduce no position; an order in the market of each."""
        for prefix, decode in ITEMS:
            for key, value in tree.iterate(prefix):
                row = decode(value)
                bound = getattr(row, "link", 0) or getattr(row, "parent", 0)
                items = self._items if bound else self._free
                items.setdefault(row.account, []).append(key)
        self._own = set(scope.accounts)
        self.note(scope.accounts)
        self._opened.update(scope.left)
        if scope.stage in (None, Stage.UNBACKED):
            self._take_reducing()

    def _take_reducing(self) -> None:
        """Show who has triggers that reduce no position, and an order that stands behind them:
        without it they look as if nothing did, whoever shows them."""
        orders: dict[tuple[int, int], bytes] = {}
        for key, value in self._tree.iterate(lv.ORDER):
            order = lv.decode_order(value)
            if not order.flags & REDUCE_ONLY:
                orders.setdefault((order.account, lv.parse_order_key(key)[0]), key)
        for key, value in self._tree.iterate(lv.TRIGGER):
            row = lv.decode_trigger(value)
            place = row.account, lv.parse_trigger_key(key)[0]
            position = self._tree.get(lv.position_key(*place))
            held = position is not None and lv.decode_position(position).size_lots
            if row.flags & REDUCE_ONLY and not held:
                found = self._reducing.setdefault(row.account, set())
                found.update([orders[place]] if place in orders else [])

    def spare(self) -> bool:
        """Leave out what is shown only so that nobody can hide what goes with it; whether there was
        any of that."""
        found, self._reducing = self._reducing, {}
        return bool(found)

    def take_choices(self, stage: Stage, numbers: Sequence[int]) -> None:
        """Note among whom a stage chooses."""
        if self._scope.stage in (None, stage):
            self.note(numbers)
            self._counted.update(numbers)

    def note(self, numbers: Iterable[int]) -> None:
        """Show these accounts whole, and their masters; anything can be named in a batch."""
        for number in numbers:
            if 0 <= number < 1 << 64:
                self._accounts.update((number, master_of(number)))

    def add(self, other: Witness) -> None:
        """Note all that another witness shows."""
        self.note(other.accounts)
        self.keys.update(key for key, _ in other.proof.leaves)

    def take(self, changes: Mapping[bytes, bytes | None], events: Iterable[Event]) -> None:
        """Note who took part in a step, and what it changed."""
        self.keys.update(changes)
        for key, value in changes.items():
            if key[:1] == lv.DEAD_MAN:
                self._opened.update(accounts_of(key, value))
            self.note(accounts_of(key, value))
            self.note(accounts_of(key, self._tree.get(key)))
        for event in events:
            for name in event.__struct_fields__:
                if name.endswith("account"):
                    self.note([getattr(event, name)])

    def open(self, *changes: Mapping[bytes, bytes | None]) -> bool:
        """Show the orders of the accounts about which two outcomes of the step differ; whether
        there are any that were not shown."""
        mine, theirs = changes
        before = len(self._opened)
        for key in mine.keys() | theirs.keys():
            values = mine.get(key), theirs.get(key)
            if values[0] != values[1] or (key in mine) != (key in theirs):
                for value in (*values, self._tree.get(key)):
                    found = accounts_of(key, value)
                    self._opened.update(
                        one for one in found if one in self._free or one in self._items
                    )
        return len(self._opened) > before

    def within(self, room: Room, depth: int) -> bytes:
        """The encoded witness as `witness`, empty where it takes more room."""
        accounts, keys = self._shown(depth)
        # Keys that are not there share a leaf at times, so that there may be fewer of these.
        if len(keys) > 2 * room.leaves:
            return b""
        found = Witness(sorted(accounts), self._tree.prove(keys))
        encoded = encode(found)
        fits = len(encoded) <= room.size_bytes and len(found.proof.leaves) <= room.leaves
        return encoded if fits else b""

    def witness(self, depth: int) -> Witness:
        """All of it, with the best `depth` orders of each side of each market."""
        accounts, keys = self._shown(depth)
        return Witness(sorted(accounts), self._tree.prove(keys))

    def _shown(self, depth: int) -> tuple[set[int], set[bytes]]:
        tree, keys, accounts = self._tree, set(self.keys), set(self._accounts)
        accounts.update(self._reducing)
        keys.update(*self._reducing.values())
        for key, value in [*self._best(depth), *self._newest(depth)]:
            keys.add(key)
            accounts.update(accounts_of(key, value))
        if depth > len(tree):
            accounts.update(lv.parse_account_key(key) for key, _ in tree.iterate(lv.ACCOUNT))
        for number in list(accounts):
            accounts.add(master_of(number))
        for prefix in FRAME:
            keys.update(_all(tree, prefix))
        for number in accounts:
            keys.update(account_keys(number))
            if not self.lean or number in self._opened or number in self._own:
                keys.update(self._items.get(number, ()))
            if not self.lean or number in self._opened:
                keys.update(self._free.get(number, ()))
            elif number in self._counted:
                items = [*self._free.get(number, ()), *self._items.get(number, ())]
                keys.update(items[:MUCH])
            for prefix in account_prefixes(number):
                keys.update(_all(tree, prefix))
        return accounts, keys

    def _best(self, depth: int) -> Iterator[tuple[bytes, bytes]]:
        for key, _ in self._tree.iterate(lv.MARKET):
            market = lv.parse_market_key(key)
            if depth == FIRST_DEPTH and not self._scope.looks_at(market):
                continue
            for side in (BUY, SELL):
                prefix = lv.order_key(market, side, 0, 0)[:_SIDE_BYTES]
                yield from islice(self._tree.iterate(prefix), depth)

    def _newest(self, depth: int) -> Iterator[tuple[bytes, bytes]]:
        """The trailing stops that were armed last: a new one is armed behind them, and the best
        mark that an older one has seen may be on their record."""
        armed: dict[tuple[int, int], list[tuple[int, bytes, bytes]]] = {}
        for key, value in self._tree.iterate(lv.TRIGGER):
            row = lv.decode_trigger(value)
            if row.kind == TRAILING and row.size_lots:
                market, _ = lv.parse_trigger_key(key)
                armed.setdefault((market, row.side), []).append((row.armed, key, value))
        for found in armed.values():
            for _, key, value in nlargest(depth, found):
                yield key, value


def _all(tree: StateTree, prefix: bytes) -> set[bytes]:
    """The keys under a prefix, and those beside it that show that there are no more."""
    return {key for key, _ in tree.iterate(prefix)} | _edges(tree, prefix)


def _edges(tree: StateTree, prefix: bytes) -> set[bytes]:
    """A key whose walk ends where the leaves of a prefix would be."""
    return set() if any(True for _ in tree.iterate(prefix)) else {prefix}
