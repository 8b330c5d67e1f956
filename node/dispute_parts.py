"""Witnesses that come in parts: what the side to move in a game has shown so far of its next one.

Parts come in order and in full, so that the ledger need not look at what they hold: that the whole
decides, once it is there. They stand in leaves, as whoever executes the ledger from a snapshot has
to judge the same bytes, and go with the move that they belong to, or with the game.
"""

from __future__ import annotations

from node.ledger_state import LedgerState
from protocol.dispute import (
    HASH_BYTES,
    PART_BYTES,
    DisputeLeaf,
    PartPlace,
    PartsLeaf,
    Prove,
    ShowPart,
    decode_parts,
    part_hash,
    whole_hash,
    witness_limit,
)
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.ledger_leaves import parts_key
from protocol.tree_node import MAX_VALUE_BYTES

_NONE = PartsLeaf(b"", [], 0)
_CHUNKS = PART_BYTES // MAX_VALUE_BYTES
"""Leaves that hold a part's data."""


class Parts:
    """The parts of all games of a ledger, by the keys of the games."""

    def __init__(self, state: LedgerState) -> None:
        self._state = state

    def add(self, key: bytes, game: DisputeLeaf, action: ShowPart, height: int) -> bool:
        """Keep the next part, which came at a ledger height; whether it adds to the clock, as the
        first of its place does.

        Raises `Rejected` (bad_part, wrong_type).
        """
        if len(action.whole) != HASH_BYTES:
            raise Rejected(Code.WRONG_TYPE, f"a witness is named by {HASH_BYTES} bytes")
        known = self._leaf(key)
        places = known.places if action.whole == known.whole else []
        if action.part != len(places):
            raise Rejected(
                Code.BAD_PART, f"part {len(places)} of this witness is next, not {action.part}"
            )
        if len(action.data) != PART_BYTES:
            raise Rejected(Code.BAD_PART, f"a part has {PART_BYTES} bytes, not {len(action.data)}")
        limit = witness_limit(game)
        if (len(places) + 1) * PART_BYTES >= limit:
            raise Rejected(
                Code.BAD_PART, f"a witness has at most {limit} bytes here, and ends with the move"
            )
        if not places:
            self._drop_data(key, len(known.places))
        for place in range(_CHUNKS):
            chunk = action.data[place * MAX_VALUE_BYTES : (place + 1) * MAX_VALUE_BYTES]
            self._state.write_raw(parts_key(key, 1 + action.part * _CHUNKS + place), chunk)
        after = PartsLeaf(
            action.whole, [*places, (height, part_hash(action.data))],
            max(known.paid, action.part + 1),
        )  # fmt: skip
        self._state.write(parts_key(key), after)
        return after.paid > known.paid

    def places(self, key: bytes, action: Prove) -> list[PartPlace]:
        """Where the parts came of the witness that a move ends.

        Raises `Rejected` (bad_part) where there are none of the one that it names.
        """
        if not action.whole:
            return []
        known = self._leaf(key)
        if known.whole != action.whole:
            raise Rejected(Code.BAD_PART, "no part of this witness has been shown in this game")
        return known.places

    def whole(self, key: bytes, action: Prove) -> bytes:
        """The witness that a move ends; raises `Rejected` (bad_witness) where that is not the one
        that it names."""
        count = len(self.places(key, action)) * _CHUNKS
        witness = b"".join([*(self._chunk(key, 1 + one) for one in range(count)), action.witness])
        if count and whole_hash(witness) != action.whole:
            raise Rejected(Code.BAD_WITNESS, "the parts shown are not those of the witness named")
        return witness

    def drop(self, key: bytes) -> None:
        """Forget the parts of a game."""
        known = self._leaf(key)
        if known.places:
            self._drop_data(key, len(known.places))
            self._state.erase(parts_key(key))

    def _drop_data(self, key: bytes, parts: int) -> None:
        for place in range(parts * _CHUNKS):
            self._state.erase(parts_key(key, 1 + place))

    def _leaf(self, key: bytes) -> PartsLeaf:
        raw = self._state.read(parts_key(key))
        return _NONE if raw is None else decode_parts(raw)

    def _chunk(self, key: bytes, place: int) -> bytes:
        chunk = self._state.read(parts_key(key, place))
        if chunk is None:
            raise SafetyViolation(f"a part of the witness in game {key.hex()} is missing")
        return chunk
