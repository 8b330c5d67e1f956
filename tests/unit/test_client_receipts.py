"""A receipt's file proves itself offline, and nothing in it can be changed unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from light_world import TRUSTING_MS, LightChain
from market_data_world import receipt

from client.faults import InvalidProof
from client.receipts import (
    SettledReceipt,
    check_under_checkpoint,
    check_under_root,
    from_file,
    to_file,
)
from execution import leaves as lv
from execution.receipt_proof import ReceiptProof, ReceiptTree
from execution.receipts import NO_RECEIPTS, extended
from protocol.codec import encode
from protocol.errors import ConfigError
from protocol.ledger_leaves import SettledBatch, batch_key
from protocol.light import genesis_checkpoint
from protocol.settlement import BatchHeader
from prover.tree import StateTree

COUNT, NUMBER, BATCH = 11, 6, 3


class Proven:
    """A chain on which a batch with receipts is settled."""

    def __init__(self, epochs: int = 0) -> None:
        self.chain = LightChain()
        tree, row = ReceiptTree(), NO_RECEIPTS
        for number in range(COUNT):
            tree.append(receipt(number))
            row = extended(row, receipt(number))
        self.state = StateTree(
            [(b"a" + bytes(8), b"x"), (lv.RECEIPTS_KEY, encode(row)), (b"m" + bytes(2), b"y")]
        )
        chain_id = self.chain.chain.chain_id
        self.batch = BatchHeader(
            chain_id, 0, BATCH, 5, 9, bytes(32), bytes(32), self.state.root, bytes(32), 0,
            bytes(32), 0, 0, bytes(32), 0,
        )  # fmt: skip
        if epochs:
            self.chain.to_epoch(epochs)
        key = batch_key(0, BATCH)
        self.chain.block({key: encode(SettledBatch(self.batch, 4, 5))})
        for _ in range(3):
            header = self.chain.block()
        self.receipt = SettledReceipt(
            chain_id, 0, BATCH, header, self.chain.certificate(header),
            self.chain.proof(header, [key]),
            ReceiptProof(
                receipt(NUMBER), tree.path(NUMBER, COUNT), self.state.prove([lv.RECEIPTS_KEY])
            ),
        )  # fmt: skip

    def check(self, found: SettledReceipt, now_ms: int = 0) -> int:
        checkpoint = genesis_checkpoint(self.chain.chain)
        now_ms = now_ms or self.chain.now_ms
        return check_under_checkpoint(found, checkpoint, TRUSTING_MS, now_ms).number


def test_a_file_holds_under_a_checkpoint_and_under_its_state_root() -> None:
    proven = Proven()
    raw = to_file(proven.receipt)
    found = from_file(raw)
    assert found == proven.receipt
    assert proven.check(found) == NUMBER
    assert check_under_root(found, proven.state.root) == receipt(NUMBER)
    text = json.loads(raw)
    assert text["receipt"]["number"] == NUMBER and text["batch"] == BATCH
    assert text["state_root"] == proven.state.root.hex()


Change = Callable[[SettledReceipt], SettledReceipt]


def put(**fields: object) -> Change:
    return lambda found: msgspec.structs.replace(found, **fields)


def put_proof(**fields: object) -> Change:
    return lambda found: msgspec.structs.replace(
        found, proof=msgspec.structs.replace(found.proof, **fields)
    )


@pytest.mark.parametrize(
    "change",
    [
        put_proof(receipt=receipt(NUMBER + 1)),
        put_proof(receipt=msgspec.structs.replace(receipt(NUMBER), amount_uusd=1)),
        put_proof(path=[]),
        put(batch=BATCH + 1),
        put(shard=1),
        lambda found: put(header=msgspec.structs.replace(found.header, app_root=bytes(32)))(found),
        lambda found: put(header=msgspec.structs.replace(found.header, time_ms=1))(found),
        lambda found: put_proof(list_proof=found.batch_proof)(found),
        lambda found: put(batch_proof=found.proof.list_proof)(found),
    ],
)
def test_whatever_is_changed_is_noticed(change: Change) -> None:
    proven = Proven()
    with pytest.raises(InvalidProof):
        proven.check(change(proven.receipt))


def test_a_few_votes_are_no_certificate() -> None:
    proven = Proven()
    weak = proven.chain.certificate(proven.receipt.header, signers=[0, 1])
    with pytest.raises(InvalidProof):
        proven.check(msgspec.structs.replace(proven.receipt, certificate=weak))


def test_another_state_root_proves_nothing() -> None:
    proven = Proven()
    with pytest.raises(InvalidProof, match="another root"):
        check_under_root(proven.receipt, bytes(32))


def test_what_people_read_is_what_is_proven() -> None:
    raw = to_file(Proven().receipt)
    for before, after in ((b'"rank": 0', b'"rank": 1'), (b'"batch": 3', b'"batch": 4')):
        with pytest.raises(InvalidProof, match="tells another"):
            from_file(raw.replace(before, after))
    text = json.loads(raw)
    for broken in (b"", b"{}", raw[:-9], json.dumps(text | {"proof": "zz"}).encode()):
        with pytest.raises(ConfigError, match="malformed"):
            from_file(broken)
    cut = json.dumps(text | {"proof": text["proof"][:-2]}).encode()
    with pytest.raises(ConfigError, match="malformed"):
        from_file(cut)


def test_the_checkpoint_must_be_of_the_epoch_and_young_enough() -> None:
    proven = Proven()
    with pytest.raises(ConfigError, match="trusted for"):
        proven.check(proven.receipt, proven.chain.now_ms + TRUSTING_MS)
    later = Proven(epochs=1)
    with pytest.raises(ConfigError, match="of epoch 1, the checkpoint of epoch 0"):
        later.check(later.receipt)
    light = later.chain.client()
    light.advance(*later.chain.change(1), later.chain.now_ms)
    found = check_under_checkpoint(
        later.receipt, light.checkpoint(), TRUSTING_MS, later.chain.now_ms
    )
    assert found.number == NUMBER
    other = msgspec.structs.replace(light.checkpoint(), chain_id=bytes(32))
    with pytest.raises(ConfigError, match="another chain"):
        check_under_checkpoint(later.receipt, other, TRUSTING_MS, later.chain.now_ms)
