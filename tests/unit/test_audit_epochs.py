"""The audit follows the member set that it finds in its own ledger, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from ledger_world import key_of
from light_world import EPOCH_MS, SETS, chain_of

from consensus.light import LightClient
from execution import Engine
from node.audit import AuditDifference, Auditor
from node.genesis import genesis_ledger
from node.ledger import Ledger
from protocol.chain import (
    QC,
    Block,
    CommitCertificate,
    Header,
    Signature,
    genesis_header,
    genesis_qc,
    origin_qc,
    payload_hash,
    vote_digest,
)
from protocol.codec import encode
from protocol.errors import Code
from protocol.ledger_leaves import CURRENT_EPOCH_KEY, decode_epoch, epoch_key
from protocol.light import genesis_checkpoint
from protocol.settlement import Unbond, sign_action
from protocol.tree_proof import decode_tree_proof
from prover.tree import StateTree

replace = msgspec.structs.replace
NAMES = {key_of(name).public: name for name in SETS[0]}


class LedgerChain:
    """Base-layer blocks over a real ledger; v3 leaves the set at the end of epoch 0."""

    def __init__(self) -> None:
        self.chain = chain_of()
        state_root = StateTree(sorted(Engine(self.chain).leaves().items())).root
        self.ledger: Ledger = genesis_ledger(self.chain, state_root)
        self.genesis = genesis_header(
            self.chain.chain_id, self.chain.genesis.time_ms, self.ledger.root
        )
        self.roots = {0: self.ledger.root}
        self.members = [list(SETS[0])]
        self.blocks: list[Block] = []
        self.lasts: list[Block] = []
        self.views: list[tuple[Header, CommitCertificate, bytes]] = []

    def grow(self, epoch: int) -> LedgerChain:
        """Blocks up to the third one of an epoch."""
        leave = sign_action(key_of("v3"), self.chain, 0, Unbond(100))
        self.add(leave)
        while len(self.lasts) < epoch:
            self.add()
        for _ in range(3):
            self.add()
        return self

    def add(self, *transactions: bytes) -> Block:
        """Commit and execute the next block."""
        block = self.make(encode(list(transactions)) if transactions else b"")
        outcome = self.ledger.apply_block(block.header, transactions)
        assert [one.code for one in outcome.results] == [Code.OK] * len(transactions)
        self.blocks.append(block)
        self.roots[block.header.height] = outcome.root
        if outcome.epoch_began:
            self.lasts.append(block)
            self.members.append(
                [NAMES[one.public_key] for one in self.ledger.current_leaf().members]
            )
            proof = outcome.epoch_proof
            self.views.append((block.header, self.certificate(block.header), proof))
        return block

    def make(self, payload: bytes, parent: Block | None = None) -> Block:
        above = parent or (self.blocks[-1] if self.blocks else None)
        up = self.genesis if above is None else above.header
        first = bool(self.lasts) and above is self.lasts[-1]
        epoch = len(self.lasts) if parent is None else up.epoch
        if above is None:
            justify = genesis_qc(up)
        elif first and parent is None:
            justify = origin_qc(epoch, up, up.block_id())
        else:
            justify = self.qc(up)
        app_height = up.height if first and parent is None else max(0, up.height - 1)
        header = Header(
            self.chain.chain_id, epoch, up.view + 1, up.height + 1, up.block_id(), up.view,
            up.time_ms + 100, 0, payload_hash(payload), justify.digest(), app_height,
            self.roots[app_height],
        )  # fmt: skip
        return Block(header, payload, justify, None)

    def qc(self, header: Header, names: Sequence[str] | None = None) -> QC:
        block_id, chain_id = header.block_id(), header.chain_id
        digest = vote_digest(chain_id, header.epoch, header.view, header.height, block_id)
        voters = names or self.members[header.epoch]
        votes = [Signature(i, key_of(name).sign(digest)) for i, name in enumerate(voters)]
        return QC(chain_id, header.epoch, header.view, header.height, block_id, votes)

    def certificate(self, header: Header, names: Sequence[str] | None = None) -> CommitCertificate:
        qc = self.qc(header, names)
        child = Header(
            header.chain_id, header.epoch, header.view + 1, header.height + 1, header.block_id(),
            header.view, header.time_ms + 100, 0, payload_hash(b""), qc.digest(),
            header.app_height, header.app_root,
        )  # fmt: skip
        return CommitCertificate(qc, child, self.qc(child, names))

    def part(self, epoch: int) -> list[Block]:
        return [block for block in self.blocks if block.header.epoch == epoch]


def audited(world: LedgerChain, up_to: int) -> Auditor:
    """Everything of the epochs before `up_to`."""
    auditor = Auditor(world.chain)
    for epoch in range(up_to):
        blocks = world.part(epoch)
        auditor.add(blocks, world.certificate(blocks[-1].header))
    return auditor


def difference(auditor: Auditor, blocks: list[Block], certificate: CommitCertificate) -> str:
    with pytest.raises(AuditDifference) as caught:
        auditor.add(blocks, certificate)
    return str(caught.value)


def test_the_audit_follows_the_members_of_its_ledger() -> None:
    world = LedgerChain().grow(2)
    assert world.members == [["v0", "v1", "v2", "v3"], ["v0", "v1", "v2"], ["v0", "v1", "v2"]]
    report = audited(world, 3).report()
    assert report.epochs == 3 and report.ledger_blocks == len(world.blocks)
    assert report.ledger_root == world.ledger.root.hex()
    assert "3 epochs" in report.line()
    piecewise = Auditor(world.chain)
    for block in world.blocks:
        piecewise.add([block], world.certificate(block.header))
    assert msgspec.structs.replace(piecewise.report(), certificates=report.certificates) == report


def test_a_light_client_follows_what_the_ledger_decides() -> None:
    world = LedgerChain().grow(2)
    now_ms = world.blocks[-1].header.time_ms
    checkpoint = genesis_checkpoint(world.chain)
    genesis_epoch = decode_epoch(
        dict(genesis_ledger(world.chain, bytes(32)).leaves())[epoch_key(0)]
    )
    assert checkpoint.ends_ms == genesis_epoch.ends_ms == checkpoint.time_ms + EPOCH_MS
    client = LightClient(checkpoint, trusting_ms=60_000, now_ms=now_ms)
    for header, certificate, proof in world.views:
        client.advance(header, certificate, decode_tree_proof(proof), now_ms)
    newest = world.blocks[-1].header
    keys = [CURRENT_EPOCH_KEY]
    proof_now = world.ledger.prove_at(newest.app_height, newest.app_root, keys)
    proven = client.prove(newest, world.certificate(newest), proof_now, keys, now_ms)
    client.confirm_origin(proven)
    assert client.epoch == 2 and client.members.stakes == (100, 100, 100)


Forgery = Callable[[LedgerChain], tuple[list[Block], CommitCertificate]]


def old_votes(world: LedgerChain) -> tuple[list[Block], CommitCertificate]:
    blocks = world.part(1)
    return blocks, world.certificate(blocks[-1].header, list(SETS[0]))


def votes_for_the_origin(world: LedgerChain) -> tuple[list[Block], CommitCertificate]:
    """The first block is justified by votes of the old epoch instead of by what it starts from."""
    first = world.part(1)[0]
    last = world.lasts[0].header
    justify = replace(world.qc(last), epoch=1)
    header = replace(first.header, justify_hash=justify.digest())
    return [replace(first, header=header, justify=justify)], world.certificate(header)


def another_origin(world: LedgerChain) -> tuple[list[Block], CommitCertificate]:
    first = world.part(1)[0]
    justify = replace(first.justify, view=first.justify.view - 1)
    header = replace(first.header, justify_hash=justify.digest())
    return [replace(first, header=header, justify=justify)], world.certificate(header)


def one_epoch_too_long(world: LedgerChain) -> tuple[list[Block], CommitCertificate]:
    """A block of the old epoch above its last one, with the votes of its members."""
    late = world.make(b"", world.lasts[0])
    return [late], world.certificate(late.header)


FORGERIES: dict[str, tuple[Forgery, str]] = {
    "votes of the old members": (old_votes, "certificate of block"),
    "votes where an epoch starts": (votes_for_the_origin, "must be its origin"),
    "another origin": (another_origin, "must be its origin"),
    "an old epoch that goes on": (one_epoch_too_long, "of epoch 0, not of 1"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_epoch_is_named(kind: str) -> None:
    world = LedgerChain().grow(1)
    forge, text = FORGERIES[kind]
    assert text in difference(audited(world, 1), *forge(world))


def test_an_old_epoch_that_goes_on_within_one_part() -> None:
    world = LedgerChain().grow(1)
    late = world.make(b"", world.lasts[0])
    blocks = [*world.part(0), late]
    text = difference(audited(world, 0), blocks, world.certificate(late.header))
    assert f"block {late.header.height}" in text and "epoch 0" in text


def test_two_epochs_in_one_part_are_not_proven() -> None:
    world = LedgerChain().grow(1)
    newest = world.blocks[-1].header
    assert "of epoch 1, not of 0" in difference(
        audited(world, 0), world.blocks, world.certificate(newest)
    )


def test_a_payload_behind_the_boundary() -> None:
    world = LedgerChain().grow(1)
    boundary = decode_epoch(world.ledger.read(epoch_key(1)) or b"").boundary_height
    before = world.blocks[:boundary]
    late = world.make(encode([b"anything"]), before[-1])
    text = difference(audited(world, 0), [*before, late], world.certificate(late.header))
    assert f"block {boundary + 1}" in text and "behind the boundary" in text
