"""What validators answer about epochs, from their store."""

from __future__ import annotations

from typing import Any

import pytest
from light_world import LightChain

from node.queries import LedgerQueries
from protocol.chain import Block, CommitCertificate, Header, genesis_qc
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.messages import BlocksFrom, EpochRequest


def grown(epoch: int) -> LightChain:
    world = LightChain()
    world.to_epoch(epoch)
    return world


class Stored:
    """A validator's store over a made chain."""

    def __init__(self, world: LightChain) -> None:
        self.world = world

    def block(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        header = self.world.headers[height] if 0 < height < len(self.world.headers) else None
        if header is None:
            return None
        return self._block(header), self.world.certificate(header)

    def _block(self, header: Header) -> Block:
        return Block(header, b"", genesis_qc(self.world.genesis), None)

    def certificate_from(self, height: int) -> CommitCertificate | None:
        return self.world.certificate(self.world.headers[height])

    def block_run(
        self, first: int, limit: int, max_bytes: int
    ) -> tuple[list[Block], CommitCertificate | None]:
        headers = self.world.headers[first : first + limit]
        return [self._block(header) for header in headers], self.certificate_from(
            headers[-1].height
        )

    def epoch(self, number: int) -> tuple[Header, CommitCertificate, bytes] | None:
        if not 1 <= number <= len(self.world.lasts):
            return None
        last, certificate, proof = self.world.change(number)
        return last, certificate, encode(proof)


class TallLedger:
    """As much of a ledger as the questions below need."""

    def __init__(self, height: int) -> None:
        self.height = height

    def forget_undo(self, height: int) -> None:
        """Nothing is kept."""


def queries_of(world: LightChain) -> LedgerQueries:
    store: Any = Stored(world)
    ledger: Any = TallLedger(len(world.headers) - 1)
    return LedgerQueries(ledger, store)


def test_a_validator_tells_how_an_epoch_began() -> None:
    world = grown(2)
    queries = queries_of(world)
    for number in (1, 2):
        view = queries.epoch(EpochRequest(5, number))
        assert (view.request_id, view.number) == (5, number)
        assert view.header == world.lasts[number - 1]
    for number in (-1, 0, 3, 1 << 63):
        with pytest.raises(Rejected) as caught:
            queries.epoch(EpochRequest(5, number))
        assert caught.value.code == Code.WRONG_EPOCH


def test_blocks_of_one_answer_are_of_one_epoch() -> None:
    world = grown(1)
    queries = queries_of(world)
    last = world.lasts[0]
    view = queries.blocks(BlocksFrom(1, 1, 256))
    assert view.blocks[-1].header == last and view.certificate.height == last.height
    view = queries.blocks(BlocksFrom(1, last.height + 1, 256))
    assert {block.header.epoch for block in view.blocks} == {1}
    assert view.blocks[-1].header == world.headers[-1]
    # With the descendants of another epoch in the way, nothing proves these blocks.
    lacking = queries_of(world)
    lacking._store.certificate_from = lambda height: (  # type: ignore[method-assign]
        world.certificate(world.headers[-1])
    )
    with pytest.raises(SafetyViolation, match="epoch 0"):
        lacking.blocks(BlocksFrom(1, 1, 256))
