"""The past of a state tree: the states after recent batches, out of the tree of the newest one.

A batch can be disputed or proven while its window is open, and that needs the tree as it was: the
roots, and proofs under them. Kept per batch is what it replaced (its undo). The undos behind a
batch, the oldest value of each key, are one batch of changes that leads the tree there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected, SafetyViolation
from prover.tree import StateTree, TreeProof

Changes = dict[bytes, bytes | None]


class Undo(Wire, frozen=True):
    """Of one batch: its number, the state roots around it (32 bytes each), and the leaves that it
    changed, in key order, with their values before (None: absent)."""

    number: int
    pre_root: bytes
    post_root: bytes
    leaves: list[tuple[bytes, bytes | None]]


decode_undo: Decoder[Undo] = Decoder(Undo)
"""Canonical bytes to an undo; raises Rejected."""


class TreeHistory:
    """Which states can be reopened: those from after batch `oldest` to after batch `newest`.

    The tree itself is the caller's, and stands after batch `newest` whenever a method is called.
    What `record` returns is for a store: the kept ones, oldest first, restore a history. Bounded:
    while `full`, no batch is recorded before an older one is forgotten. The keys of all kept states
    together are prefix-free.
    """

    def __init__(
        self,
        number: int,
        root: bytes,
        max_batches: int,
        max_bytes: int,
        kept: Iterable[bytes] = (),
    ) -> None:
        """Begin with the state of `root` after batch `number`, and the undos `kept` up to there.

        Raises SafetyViolation where these are damaged, or do not lead from one root to the next.
        """
        self._max_batches, self._max_bytes = max_batches, max_bytes
        self._undos: deque[tuple[int, bytes]] = deque()
        self._roots: deque[bytes] = deque([root])
        self._bytes = 0
        self._newest = number
        self._reopened = False
        raws = list(kept)
        for expected, raw in enumerate(raws, number + 1 - len(raws)):
            undo = _restored(raw)
            if not self._undos:
                self._roots = deque([undo.pre_root])
            if undo.number != expected or undo.pre_root != self._roots[-1]:
                raise SafetyViolation(
                    f"kept as undo of batch {expected} is one of {undo.number}, "
                    "or it does not begin where the one before ends"
                )
            self._append(undo, raw)
        if self._roots[-1] != root:
            raise SafetyViolation("the kept undos do not end with the root of the tree")

    @property
    def newest(self) -> int:
        """Number of the batch after which the tree stands."""
        return self._newest

    @property
    def oldest(self) -> int:
        """Lowest number of a batch the state after which can be reopened."""
        return self._newest - len(self._undos)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the encoded undos that are kept."""
        return self._bytes

    @property
    def full(self) -> bool:
        """Whether an older batch has to be forgotten before the next one."""
        return len(self._undos) >= self._max_batches or self._bytes >= self._max_bytes

    def root(self, number: int) -> bytes:
        """State root (32 bytes) after a batch; raises Rejected (not_found)."""
        self._require_kept(number)
        return self._roots[number - self.oldest]

    def record(self, number: int, undo: Mapping[bytes, bytes | None], post_root: bytes) -> bytes:
        """Take in the next batch, which the tree has just taken in: `undo` as `StateTree.update`
        gives it, and the root. Returns the encoded `Undo` for the store."""
        self._require_closed()
        if number != self._newest + 1:
            raise SafetyViolation(f"batch {number} recorded behind batch {self._newest}")
        if self.full:
            raise SafetyViolation(
                f"batch {number} recorded in a full history; forget batches first"
            )
        taken = Undo(number, self._roots[-1], post_root, sorted(undo.items(), key=_key))
        raw = encode(taken)
        self._newest = number
        self._append(taken, raw)
        return raw

    def forget(self, number: int) -> None:
        """Batch `number` is final: states before the one it left are not reopened any more."""
        self._require_closed()
        self._require_not_ahead(number)
        while self._undos and self._undos[0][0] <= number:
            self._bytes -= len(self._undos.popleft()[1])
            self._roots.popleft()

    def rewind(self, tree: StateTree, number: int) -> bytes:
        """Take the tree back to after batch `number` for good; returns the root.

        Raises Rejected (not_found) for a state that is not kept.
        """
        self._require_closed()
        back = self._way_back(tree, number)
        self._take(tree, back, number)
        while self._newest > number:
            self._bytes -= len(self._undos.pop()[1])
            self._roots.pop()
            self._newest -= 1
        return tree.root

    @contextmanager
    def reopen(self, tree: StateTree, number: int) -> Iterator[StateTree]:
        """The tree as it was after batch `number`, to be read; at the end it is led forward again.

        Raises Rejected (not_found) for a state that is not kept, and SafetyViolation where the tree
        is not the one recorded, or was changed while it was open.
        """
        self._require_closed()
        back = self._way_back(tree, number)
        forth: Changes = {}
        self._reopened = True
        try:
            self._take(tree, back, number, forth)
            yield tree
        finally:
            changed = tree.root != self.root(number)
            self._reopened = False
            if not changed:
                self._take(tree, forth, self._newest)
        if changed:
            raise SafetyViolation("a reopened tree was changed; restore it from the leaves")

    def prove_at(self, tree: StateTree, number: int, keys: Iterable[bytes]) -> TreeProof:
        """Proof of leaves under the root after batch `number`; see `StateTree.prove`."""
        with self.reopen(tree, number):
            return tree.prove(keys)

    def prove_first_at(self, tree: StateTree, number: int, prefix: bytes, k: int) -> TreeProof:
        """Proof of the first `k` leaves under `prefix` then; see `StateTree.prove_first`."""
        with self.reopen(tree, number):
            return tree.prove_first(prefix, k)

    # --- inside

    def _append(self, undo: Undo, raw: bytes) -> None:
        self._undos.append((undo.number, raw))
        self._roots.append(undo.post_root)
        self._bytes += len(raw)

    def _way_back(self, tree: StateTree, number: int) -> Changes:
        """The values after batch `number` of all keys that changed since."""
        self._require_kept(number)
        if tree.root != self._roots[-1]:
            raise SafetyViolation(f"the tree does not stand after batch {self._newest}")
        back: Changes = {}
        for at, raw in reversed(self._undos):
            if at <= number:
                break
            back.update(decode_undo(raw).leaves)
        return back

    def _take(
        self, tree: StateTree, changes: Changes, number: int, undo: Changes | None = None
    ) -> None:
        if tree.update(changes, undo) != self.root(number):
            raise SafetyViolation(f"the kept undos do not lead to the root after batch {number}")

    def _require_kept(self, number: int) -> None:
        self._require_not_ahead(number)
        if number < self.oldest:
            raise Rejected(
                Code.NOT_FOUND,
                f"the state after batch {number} is not kept; the oldest is that of {self.oldest}",
            )

    def _require_not_ahead(self, number: int) -> None:
        if number > self._newest:
            raise Rejected(Code.NOT_FOUND, f"there is no batch {number} yet")

    def _require_closed(self) -> None:
        if self._reopened:
            raise SafetyViolation("the tree is reopened at an older batch; close that first")


def _key(leaf: tuple[bytes, bytes | None]) -> bytes:
    return leaf[0]


def _restored(raw: bytes) -> Undo:
    """A kept undo; it is our own, so damage is ours."""
    try:
        undo = decode_undo(raw)
    except Rejected as fault:
        raise SafetyViolation(f"a kept undo is damaged: {fault}") from None
    keys = [key for key, _ in undo.leaves]
    if any(low >= high for low, high in pairwise(keys)):
        raise SafetyViolation(f"the kept undo of batch {undo.number} is not in key order")
    return undo
