"""Messages about disputes: how a prover learns that it has to defend a batch."""

from __future__ import annotations

from protocol.codec import Wire

GAMES_MAX = 256
"""Most games in a `DisputesView`."""


class DisputesRequest(Wire, frozen=True, tag=36):
    """To a validator: which games wait for a move of this prover (its public key)."""

    request_id: int
    prover: bytes


class DisputesView(Wire, frozen=True, tag=97):
    """Batch and challenger (address) of games that wait for the prover, those whose clock runs out
    first in front; unproven: their leaves tell."""

    request_id: int
    games: list[tuple[int, bytes]]
