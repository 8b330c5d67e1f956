"""An archive of the base layer: whole, cut, damaged, gone on with, and audited offline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_world import GENESIS_MS
from pipeline_world import DOLLAR, PipelineWorld, rewrite_header

from client.audit_command import AuditOptions, audit_archive
from client.export_archive import (
    BLOCKS,
    END,
    STATE,
    Archive,
    ArchivedState,
    ArchiveWriter,
)
from client.export_command import ExportReport, export
from client.faults import InvalidProof
from node.audit import AuditReport
from node.kept_state import join_parts, parts_of
from node.rebuild import CheckedState
from protocol.actions import BUY, SELL, Order, Withdraw
from protocol.chain import CommitCertificate
from protocol.codec import Wire
from protocol.errors import ConfigError
from protocol.genesis import Staking
from protocol.light import genesis_checkpoint
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView
from prover.tree import StateTree


class Exported(PipelineWorld):
    """A chain whose every block has a certificate; a source of its blocks up to `height`."""

    places = 1

    def __init__(self, **options: Any) -> None:
        self.certificates: dict[int, CommitCertificate] = {}
        super().__init__(**options)
        self.height: int | None = None
        self.asked: list[int] = []

    @property
    def raw(self) -> bytes:
        return msgspec.json.encode(self.chain.genesis)

    def ledger_block(self, *transactions: bytes) -> Any:
        outcome = super().ledger_block(*transactions)
        self.certificates[len(self.blocks)] = self.certificate()
        return outcome

    async def ask(self, answer: type[Wire], request: Callable[..., Wire], *fields: object) -> Any:
        asked = request(1, *fields)
        newest = self.height or len(self.blocks)
        if isinstance(asked, HeaderRequest):
            header = self.blocks[newest - 1].header
            return HeaderView(1, header, self.certificates[newest])
        assert isinstance(asked, BlocksFrom)
        self.asked.append(asked.from_height)
        end = min(asked.from_height - 1 + min(asked.limit, 3), newest)
        return BlocksView(1, self.blocks[asked.from_height - 1 : end], self.certificates[end])

    async def move_on(self) -> None:
        raise AssertionError("there is nobody else")

    def export(self, path: Path, states_every: int = 0) -> ExportReport:
        return asyncio.run(export(self.chain, self.raw, self, path, states_every=states_every))

    def audit(self, path: Path, **options: Any) -> AuditReport:
        archive = Archive(path)
        chosen = AuditOptions(
            checkpoint=genesis_checkpoint(self.chain), now_ms=GENESIS_MS, **options
        )
        try:
            return asyncio.run(audit_archive(self.chain, self.raw, archive, chosen))
        finally:
            archive.close()


def grown(batches: int = 9, lie_in: int = 0, **options: Any) -> Exported:
    """Batches with trades and withdrawals, one in each ledger block, and one empty block."""
    world = Exported(**options)
    world.order(inbox_height=0)
    world.settle()
    for number in range(2, batches + 1):
        world.order(
            world.sign(world.alice, Order(0, BUY, 600_000, 3)),
            world.sign(world.bob, Order(0, SELL, 600_000, 2), Withdraw(DOLLAR, b"b" * 20)),
        )
        wrong = rewrite_header({"post_state_root": b"\x07" * 32})
        if number == lie_in:
            world.settle(wrong)
            break
        world.settle()
    world.ledger_block()
    return world


@pytest.fixture(scope="module")
def world() -> Exported:
    return grown()


def test_an_archive_holds_everything_and_is_audited_offline(
    world: Exported, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    report = world.export(path)
    assert (report.ledger_blocks, report.states, report.resumed) == (len(world.blocks), [], False)
    assert report.size_bytes == path.stat().st_size
    audited = world.audit(path)
    assert (audited.batches, audited.ledger_blocks) == (9, len(world.blocks))
    assert audited.state_root == world.batcher.tree.root.hex()
    again = world.export(tmp_path / "b")
    assert again.digest == report.digest


def test_an_export_goes_on_where_it_stopped(world: Exported, tmp_path: Path) -> None:
    path, whole = tmp_path / "a", tmp_path / "whole"
    digest = world.export(whole).digest
    world.height = 4
    first = world.export(path)
    world.height, world.asked = None, []
    assert first.ledger_blocks == 4 and Archive(path).complete
    second = world.export(path)
    assert world.asked[0] == 5 and second.resumed and second.ledger_blocks == len(world.blocks)
    assert world.audit(path).batches == 9
    # A torn tail, as after a kill, is written anew, byte for byte.
    raw = whole.read_bytes()
    records = Archive(whole).of_kind(BLOCKS)
    for cut in (records[1].offset + 5, records[2].offset - 3, len(raw) - 1):
        path.write_bytes(raw[:cut])
        with pytest.raises(InvalidProof, match="end mark is missing; finish it"):
            world.audit(path)
        assert world.export(path).digest == digest
        assert path.read_bytes() == raw


def test_every_changed_byte_is_noticed(world: Exported, tmp_path: Path) -> None:
    path = tmp_path / "a"
    world.export(path)
    raw = path.read_bytes()
    archive = Archive(path)
    spots = {record.offset + record.size // 2 for record in archive.records if record.size}
    spots |= {record.offset - 3 for record in archive.records}
    for spot in sorted(spots):
        path.write_bytes(raw[:spot] + bytes([raw[spot] ^ 1]) + raw[spot + 1 :])
        with pytest.raises((InvalidProof, ConfigError)) as caught:
            world.audit(path)
        assert "damaged" in str(caught.value)
        with pytest.raises((InvalidProof, ConfigError)):
            world.export(path)


def test_records_left_out_or_of_another_chain(world: Exported, tmp_path: Path) -> None:
    path = tmp_path / "a"
    world.export(path)
    raw = path.read_bytes()
    second = Archive(path).of_kind(BLOCKS)[1]
    third = Archive(path).of_kind(BLOCKS)[2]
    head = third.offset - second.offset - second.size
    without = raw[: second.offset - head] + raw[third.offset - head :]
    path.write_bytes(without)
    with pytest.raises(InvalidProof, match="damaged"):
        world.audit(path)
    other = grown(2, staking=Staking(epoch_ms=1_000_000))
    other.export(tmp_path / "b")
    with pytest.raises(ConfigError, match="another chain"):
        world.export(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"something else entirely")
    for action in (Archive, lambda path: ArchiveWriter(path, b"")):
        with pytest.raises(ConfigError, match="no archive"):
            action(tmp_path / "c")
    with pytest.raises(ConfigError, match="cannot read"):
        Archive(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot write"):
        world.export(tmp_path / "none" / "none")
    writer = ArchiveWriter(tmp_path / "d", world.raw)
    with pytest.raises(ConfigError, match="another export"):
        world.export(tmp_path / "d")
    writer.close()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_wrong_batch_is_named_whatever_the_way(tmp_path: Path, jobs: int) -> None:
    world = grown(8, lie_in=8)
    world.export(tmp_path / "a")
    with pytest.raises(InvalidProof, match="audit: batch 8: the posted post-state root"):
        world.audit(tmp_path / "a", jobs=jobs)
    assert world.blocks


def test_states_are_begun_from_and_split_the_work(world: Exported, tmp_path: Path) -> None:
    path = tmp_path / "a"
    report = world.export(path, states_every=2)
    assert report.states == [3, 6, 9]
    whole = world.audit(path)
    for batch in (3, 6):
        part = world.audit(path, from_batch=batch)
        assert (part.from_batch, part.batches) == (batch, 9 - batch)
        assert part.state_root == whole.state_root and part.ledger_root == whole.ledger_root
    at_end = tmp_path / "end"
    world.height = 9
    assert world.export(at_end, states_every=9).states == [9]
    world.height = None
    with pytest.raises(InvalidProof, match="nothing certifies"):
        world.audit(at_end, from_batch=9)
    with pytest.raises(ConfigError, match="has those of: 3, 6, 9"):
        world.audit(path, from_batch=4)
    both = world.audit(path, jobs=2)
    assert both == whole


def test_a_kept_state_is_begun_from(world: Exported, tmp_path: Path) -> None:
    path, file = tmp_path / "a", tmp_path / "shard.state"
    world.export(path, states_every=2)
    archive = Archive(path)
    state = archive.state(archive.of_kind(STATE)[1])
    parts = list(parts_of(StateTree(state.shard_leaves)))
    kept = CheckedState(world.chain.chain_id, state.batch, 0, [])
    file.write_bytes(join_parts(kept, parts))
    report = world.audit(path, state=file)
    assert (report.from_batch, report.batches) == (6, 3)
    assert report.state_root == world.batcher.tree.root.hex()
    with pytest.raises(ConfigError, match="is of batch 6, later than 5"):
        world.audit(path, state=file, from_batch=5)
    file.write_bytes(join_parts(msgspec.structs.replace(kept, chain_id=bytes(32)), parts))
    with pytest.raises(ConfigError, match="another chain"):
        world.audit(path, state=file)
    forged = list(parts_of(StateTree(cash_for_all(state.shard_leaves, b"a"))))
    file.write_bytes(join_parts(kept, forged))
    with pytest.raises(InvalidProof):
        world.audit(path, state=file)
    file.write_bytes(b"something else")
    with pytest.raises(ConfigError, match="no kept state"):
        world.audit(path, state=file)
    for nothing in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="no data directory"):
            world.audit(path, state=nothing)


def test_states_go_on_where_an_export_stopped(world: Exported, tmp_path: Path) -> None:
    path = tmp_path / "a"
    world.height = 5
    first = world.export(path, states_every=2)
    world.height = None
    report = world.export(path, states_every=2)
    assert (first.states, report.states) == ([3, 5], [3, 5, 8])
    assert world.audit(path, from_batch=5).newest_batch == 9


def rewritten(path: Path, change: Callable[[ArchivedState], ArchivedState]) -> None:
    """The archive anew, with other states and right checksums."""
    archive = Archive(path)
    genesis, records = archive.genesis(), archive.records
    states = {one.offset: archive.state(one) for one in archive.of_kind(STATE)}
    chunks = iter(list(archive.blocks()))
    path.unlink()
    writer = ArchiveWriter(path, genesis)
    for record in records:
        if record.kind == BLOCKS:
            chunk = next(chunks)
            writer.blocks(chunk.blocks, chunk.certificate)
        elif record.kind == STATE:
            writer.state(change(states[record.offset]))
        elif record.kind == END:
            writer.finish()
    writer.close()


def cash_for_all(leaves: list[tuple[bytes, bytes]], kind: bytes) -> list[tuple[bytes, bytes]]:
    changed = [
        (key, value[:-1] + bytes([value[-1] ^ 1])) for key, value in leaves if key[:1] == kind
    ]
    return sorted([pair for pair in leaves if pair[0][:1] != kind] + changed)


@pytest.mark.parametrize("which", ["shard_leaves", "ledger_leaves"])
@pytest.mark.parametrize("how", ["changed", "cut", "empty", "garbage"])
def test_forged_states_are_found_out(world: Exported, tmp_path: Path, which: str, how: str) -> None:
    path = tmp_path / "a"
    world.export(path, states_every=3)

    def forge(state: ArchivedState) -> ArchivedState:
        leaves = getattr(state, which)
        forged = {
            "changed": cash_for_all(leaves, b"a" if which == "shard_leaves" else b"\x02"),
            "cut": leaves[:-2],
            "empty": [],
            "garbage": [(key, b"\xc1") for key, _ in leaves],
        }
        return msgspec.structs.replace(state, **{which: forged[how]})

    rewritten(path, forge)
    assert world.audit(path).batches == 9
    with pytest.raises(InvalidProof):
        world.audit(path, from_batch=3)
    if which == "shard_leaves":
        with pytest.raises(InvalidProof, match="the archive's state after batch 3"):
            world.audit(path, jobs=2)
