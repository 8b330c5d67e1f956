"""The audit follows removed batches, names wrong ones that stay, and begins from states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future

import msgspec
import pytest
from compiled_modules import interpreted
from pipeline_world import DOLLAR, PipelineWorld, rewrite_header

from client.audit_workers import SegmentedShard
from execution.custody import Custody
from execution.leaves import COUNTERS_KEY, account_key, decode_counters
from execution.log import log_genesis_id
from node.audit import AuditDifference, Auditor, AuditReport
from node.audit_locate import ClaimedBlock
from node.audit_shard import ShardState
from node.outcomes import BlockOutcome
from node.settling import Settling
from protocol.actions import BUY, SELL, Order, Withdraw
from protocol.codec import encode
from protocol.dispute import OpenDispute
from protocol.errors import Code
from protocol.events import BlockDiff, Event
from protocol.genesis import SettlementRules
from protocol.ordering import OrderedChunk
from protocol.settlement import Deposit, PostBatch, decode_outbox_entry
from prover.batcher import Batch, Batcher, Position
from prover.settlement import genesis

WINDOW_MS = 5_000
WRONG = rewrite_header({"post_state_root": b"\x01" * 32})


class OpenWorld(PipelineWorld):
    """Batches stay open for a window; what was ordered can be batched again, in another way."""

    def __init__(self, window_ms: int = WINDOW_MS, **rules: int) -> None:
        super().__init__(settlement=SettlementRules(window_ms=window_ms, **rules))
        self.diffs: list[BlockDiff] = []
        self.told: list[list[Event]] = []

    def execute(self, *batches: bytes, inbox_height: int | None = None) -> BlockDiff:
        seen = len(self.events)
        diff = super().execute(*batches, inbox_height=inbox_height)
        self.diffs.append(diff)
        self.told.append(self.events[seen:])
        return diff

    def trade(self) -> None:
        """An ordered block with a trade and a withdrawal."""
        self.order(
            self.sign(self.alice, Order(0, BUY, 600_000, 3)),
            self.sign(self.bob, Order(0, SELL, 600_000, 2), Withdraw(DOLLAR, self.bob.address)),
        )

    def rebatched(self, *ends: int) -> list[PostBatch]:
        """Batches of the whole log that end with these ordered blocks."""
        position, tree = genesis(self.chain)
        assert position == Position(0, 0, log_genesis_id(self.chain), tree.root, 0, 0)
        batcher = Batcher(self.chain.chain_id, 0, self.prover.public, tree, position)
        for block, diff in zip(self.log.blocks, self.diffs, strict=True):
            batcher.add_chunk(OrderedChunk([block], self.log.certificate(block.header)))
            batcher.add_diff(diff)
        return [posted(batcher.build(end)) for end in ends]

    def post(self, post: PostBatch) -> BlockOutcome:
        outcome = self.ledger_block(self.transaction(self.prover, post))
        assert outcome.results[-1].code == Code.OK, outcome.results
        return outcome

    def claims(self, height: int) -> ClaimedBlock | None:
        if height > len(self.diffs):
            return None
        return ClaimedBlock(dict(self.diffs[height - 1].changes), self.told[height - 1])


def posted(batch: Batch) -> PostBatch:
    assert batch.certificate is not None
    outbox = [decode_outbox_entry(raw) for raw in batch.outbox]
    return PostBatch(batch.header, batch.data, batch.certificate, outbox)


@pytest.fixture
def removing() -> Iterator[Callable[[int, int], None]]:
    """Have ledgers remove a batch at the beginning of a ledger block, as a lost dispute does."""
    due: dict[int, int] = {}
    right = Settling.begin_block

    def begin_block(settling: Settling, outcome: BlockOutcome) -> None:
        if outcome.height in due:
            settling.remove(due[outcome.height], outcome)
        right(settling, outcome)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settling, "begin_block", begin_block)
        yield lambda height, number: due.__setitem__(height, number)


def started(world: OpenWorld) -> None:
    """Batch 1 with the deposits, and three ordered blocks with trades."""
    world.order(inbox_height=0)
    world.settle()
    for _ in range(3):
        world.trade()


def audit(world: OpenWorld, **options: object) -> AuditReport:
    auditor = Auditor(world.chain, **options)  # type: ignore[arg-type]
    auditor.add(world.blocks, world.certificate())
    return auditor.report()


def wait_for_final(world: OpenWorld) -> None:
    while world.ledger.final().batch < world.ledger.shard_leaf().batch:
        world.ledger_block()


def test_a_wrong_batch_that_was_removed_is_no_difference(
    removing: Callable[[int, int], None],
) -> None:
    world = OpenWorld()
    started(world)
    batch, _ = world.settle(WRONG)
    removing(world.ledger.height + 1, 2)
    assert world.ledger_block().removed
    world.post(posted(batch))
    world.trade()
    world.settle()
    wait_for_final(world)
    report = audit(world)
    assert (report.newest_batch, report.final_batch, report.removed_batches) == (3, 3, 1)
    assert (report.batches, report.ordered_blocks) == (4, 5)
    assert report.state_root == world.batcher.tree.root.hex()
    assert "1 batches were removed" in report.line()


@pytest.mark.parametrize("ends", [(1, 4), (1, 2, 3, 4), (1, 3, 4)])
def test_what_was_removed_may_be_batched_in_another_way(
    removing: Callable[[int, int], None], ends: tuple[int, ...]
) -> None:
    world = OpenWorld()
    started(world)
    first = world.rebatched(1, 2, 4)
    for post in first[1:]:
        world.post(post)
    removing(world.ledger.height + 1, 2)
    world.ledger_block()
    for post in world.rebatched(*ends)[1:]:
        world.post(post)
    wait_for_final(world)
    report = audit(world)
    assert (report.newest_batch, report.removed_batches) == (len(ends), 2)
    assert report.state_root == world.ledger.shard_leaf().state_root.hex()


def test_batches_removed_and_posted_anew_in_one_block(removing: Callable[[int, int], None]) -> None:
    world = OpenWorld()
    started(world)
    batch, _ = world.settle(WRONG)
    removing(world.ledger.height + 1, 2)
    world.post(posted(batch))
    wait_for_final(world)
    report = audit(world)
    assert (report.removed_batches, report.final_batch) == (1, 2)


def test_a_wrong_batch_is_named_whether_or_not_it_is_final() -> None:
    world = OpenWorld()
    started(world)
    world.settle(WRONG)
    with pytest.raises(
        AuditDifference, match=r"batch 2.*not final yet, and can be disputed"
    ) as one:
        audit(world)
    assert one.value.batch == 2
    wait_for_final(world)
    auditor = Auditor(world.chain)
    with pytest.raises(AuditDifference, match="batch 2: the posted post-state root") as two:
        auditor.add(world.blocks, world.certificate())
    assert "can be disputed" not in str(two.value)


def test_batches_on_a_wrong_one_are_not_the_first() -> None:
    world = OpenWorld()
    started(world)
    batch, _ = world.settle(WRONG)
    world.trade()
    child, _ = world.settle(rewrite_header({"pre_state_root": b"\x01" * 32}))
    assert (batch.header.number, child.header.number) == (2, 3)
    with pytest.raises(AuditDifference, match="batch 2"):
        audit(world)


@pytest.mark.parametrize("jobs", [False, True])
def test_a_dispute_that_the_prover_lets_run_out(jobs: bool) -> None:
    """Through the ledger's own rules, bonds included, and also where batches are only collected."""
    world = OpenWorld(clock_ms=400, prover_bond_uusd=0, challenger_bond_uusd=DOLLAR)
    started(world)
    batch, _ = world.settle(WRONG)
    opened = OpenDispute(2, batch.header.post_state_root)
    assert world.ledger_block(world.transaction(world.alice, opened)).results[0].code == Code.OK
    while world.ledger.shard_leaf().batch == 2:
        world.ledger_block()
    world.post(posted(batch))
    wait_for_final(world)
    if not jobs:
        assert audit(world).removed_batches == 1
        return
    shard = SegmentedShard(InLine(), msgspec.json.encode(world.chain.genesis), NoArchive(), {})  # type: ignore[arg-type]
    auditor = Auditor(world.chain, shard=shard)
    auditor.add(world.blocks, world.certificate())
    shard.finish(auditor.batches, auditor.ledger)
    report = auditor.report()
    assert (report.batches, report.removed_batches, report.final_batch) == (2, 1, 2)
    assert report.state_root == world.batcher.tree.root.hex()


class InLine:
    """A pool of no processes."""

    def submit(self, work: Callable[[object], object], task: object) -> Future[object]:
        future: Future[object] = Future()
        future.set_result(work(task))
        return future


class NoArchive:
    path = "none"


# --- where the difference is


RIGHT_DEPOSIT = Custody.deposit


def _mint(custody: Custody, entry: object) -> None:
    """The second deposit is a dollar more."""
    RIGHT_DEPOSIT(custody, entry)  # type: ignore[arg-type]
    if entry.index == 1:  # type: ignore[attr-defined]
        state = custody._state
        account = state.accounts[entry.account]  # type: ignore[attr-defined]
        account.cash_uusd += DOLLAR
        state.deposits_uusd += DOLLAR
        state.moved_uusd += DOLLAR


@interpreted
def test_the_block_step_and_leaf_of_a_difference_are_named() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Custody, "deposit", _mint)
        world = OpenWorld(0)
        world.order(inbox_height=0)
        world.trade()
        world.settle()
        world.ledger_block()
    with pytest.raises(AuditDifference) as caught:
        audit(world, claims=world.claims)
    place = caught.value.place
    assert place is not None and (place.block, place.key) == (1, account_key(17))
    assert "ordered block 1" in str(caught.value) and "account 17" in str(caught.value)
    with pytest.raises(AuditDifference, match="cannot be known"):
        audit(world)
    with pytest.raises(AuditDifference, match="cannot be known"):
        audit(world, claims=lambda height: ClaimedBlock({}, []))
    with pytest.raises(AuditDifference, match="cannot be known"):
        audit(world, claims=lambda height: None)


# --- states to begin from


def long_world() -> tuple[OpenWorld, dict[int, list[tuple[bytes, bytes]]]]:
    """Four batches of two ordered blocks, and the leaves after each ordered block."""
    world, leaves = OpenWorld(0), {}
    for batch in range(4):
        for _ in range(2):
            if batch:
                world.trade()
            else:
                world.order(inbox_height=0)
            leaves[world.engine.height] = sorted(world.engine.leaves().items())
        world.settle()
    world.ledger_block()
    return world, leaves


@pytest.mark.parametrize(
    ("height", "begins", "blocks"), [(2, 1, 6), (4, 2, 4), (5, 3, 3), (7, 4, 1), (8, 4, 0)]
)
def test_the_shard_may_begin_from_a_state(height: int, begins: int, blocks: int) -> None:
    world, leaves = long_world()
    report = audit(world, state=ShardState(0, leaves[height]))
    assert (report.from_batch, report.ordered_blocks) == (begins, blocks)
    assert report.state_root == world.batcher.tree.root.hex() and report.newest_batch == 4


@pytest.mark.parametrize("height", [4, 5])
def test_a_state_that_is_not_what_was_settled(height: int) -> None:
    world, leaves = long_world()
    counters = decode_counters(dict(leaves[height])[COUNTERS_KEY])
    later = encode(msgspec.structs.replace(counters, next_order_id=99))
    forged = [(key, later if key == COUNTERS_KEY else value) for key, value in leaves[height]]
    with pytest.raises(AuditDifference, match="batch") as caught:
        audit(world, state=ShardState(0, forged))
    assert "root" in str(caught.value)


def test_a_state_beyond_what_is_settled() -> None:
    world, _ = long_world()
    world.trade()
    leaves = sorted(world.engine.leaves().items())
    with pytest.raises(AuditDifference, match="no batch reaches ordered block 9"):
        audit(world, state=ShardState(0, leaves))


def test_a_frozen_shard_whose_open_batch_went() -> None:
    world = OpenWorld(window_ms=1_000, clock_ms=100, forced_ms=1_300)
    world.order(inbox_height=0)
    world.settle()
    wait_for_final(world)
    deposit = Deposit(world.alice.address, 9 * DOLLAR)
    world.ledger_block(world.transaction(world.alice, deposit))
    for _ in range(8):
        world.ledger_block()
    world.trade()
    world.settle()
    for _ in range(30):
        world.ledger_block()
    assert world.ledger.frozen
    report = audit(world)
    assert (report.removed_batches, report.newest_batch, report.final_batch) == (1, 1, 1)
