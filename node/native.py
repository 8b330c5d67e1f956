"""Native checks of batches on the ledger: signers, nonces, agents and prices of every block.

The native state of the shard after its newest batch stands in leaves of the ledger, and in memory
beside them. What an open batch changed is kept until it is final, so that it can be removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from execution.native import NativeState
from node.ledger_state import LedgerState
from protocol.codec import Decoder
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.ledger_leaves import NATIVE_KIND, native_key, native_undo_key
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from protocol.prices import BlockPrices
from protocol.settlement import InboxEntry
from prover.tree import StateTree

UNDO_PART_LEAVES = 256
"""Leaves in one part of what a batch changed, so that each is far below the largest leaf."""

Leaves = list[tuple[bytes, bytes | None]]

_decode_undo: Decoder[Leaves] = Decoder(Leaves)


class NativeChecks:
    """The native state of a ledger's shard. Without `native_checks` in genesis there is none."""

    def __init__(self, state: LedgerState) -> None:
        self._state = state
        self._prefix = NATIVE_KIND + state.shard.to_bytes(2, "big")
        leaves = list(self._stored())
        self._native = NativeState.restore(state.chain, leaves)
        self._tree = StateTree(leaves)

    def _stored(self) -> Iterator[tuple[bytes, bytes]]:
        for key in self._state.keys_of(self._prefix):
            value = self._state.read(key)
            if value is not None:
                yield key[len(self._prefix) :], value

    def take(
        self,
        number: int,
        blocks: Sequence[OrderedBlock],
        cursor: int,
        cursors: Sequence[int],
        prices: Sequence[BlockPrices],
    ) -> tuple[bytes, list[tuple[int, int]]]:
        """Follow batch `number`, which takes the inbox from `cursor` to each of `cursors`; the
        native root after it (32 bytes), and mark and funding index of each market.

        Raises `Rejected` for prices that cannot be, and then changes nothing. Without native checks
        there must be no prices, and both are empty.
        """
        if not self._state.chain.genesis.settlement.native_checks:
            if prices:
                raise Rejected(Code.BAD_PRICES, "this chain has no native checks, so no prices")
            return b"", []
        if len(prices) != len(blocks):
            raise Rejected(
                Code.BAD_PRICES, f"{len(blocks)} blocks came with the prices of {len(prices)}"
            )
        verifier = self._state.verify_signature
        try:
            for block, end, changed in zip(blocks, cursors, prices, strict=True):
                payload = OrderedPayload(0, [])
                if block.payload:
                    payload = decode_payload(block.payload)
                inbox = [self._entry(index) for index in range(cursor, end)]
                self._native.apply(block.header.time_ms, inbox, payload.batches, changed, verifier)
                cursor = end
        except Rejected:
            changes = self._native.take_changes()
            self._native.put_back({key: self._tree.get(key) for key in changes})
            raise
        self._write(number, self._native.take_changes())
        return self._tree.root, self._native.posted()

    def _entry(self, index: int) -> InboxEntry:
        placed = self._state.placed_entry(index)
        if placed is None:
            raise SafetyViolation(f"inbox entry {index} of a new batch is forgotten")
        return placed.entry

    def _write(self, number: int, changes: dict[bytes, bytes | None]) -> None:
        state, shard = self._state, self._state.shard
        undo: Leaves = [(key, self._tree.get(key)) for key in changes]
        self._tree.update(changes)
        for key, value in changes.items():
            self._put(key, value)
        if state.chain.genesis.settlement.window_ms:
            for part, start in enumerate(range(0, len(undo), UNDO_PART_LEAVES)):
                found = undo[start : start + UNDO_PART_LEAVES]
                state.write(native_undo_key(shard, number, part), found)

    def _put(self, key: bytes, value: bytes | None) -> None:
        stored = native_key(self._state.shard, key)
        if value is None:
            self._state.erase(stored)
        else:
            self._state.write_raw(stored, value)

    def _parts(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        part = 0
        while True:
            key = native_undo_key(self._state.shard, number, part)
            raw = self._state.read(key)
            if raw is None:
                return
            yield key, raw
            part += 1

    def remove(self, number: int) -> None:
        """Go back before batch `number`, the newest one."""
        undo: dict[bytes, bytes | None] = {}
        for key, raw in self._parts(number):
            undo.update(_decode_undo(raw))
            self._state.erase(key)
        self._native.put_back(undo)
        self._tree.update(undo)
        for key, value in undo.items():
            self._put(key, value)

    def forget(self, number: int) -> None:
        """Batch `number` is final: nothing leads back before it any more."""
        for key, _ in self._parts(number):
            self._state.erase(key)
