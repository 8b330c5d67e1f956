"""A validator that is behind gets the ledger from peers, whatever some of them do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from snapshot_world import (
    LIMITS,
    START_MS,
    ChainArchive,
    Peer,
    SnapshotChain,
    Wires,
    honest,
    joiner,
    leaf,
)

from node.peer import (
    ChunkResponse,
    RecentResponse,
    SnapshotAnswer,
    SnapshotOffer,
    SnapshotQuestion,
)
from node.snapshot_parts import Leaves
from node.snapshot_sync import SnapshotSync, SyncLimits
from node.snapshots import (
    PIN_MS,
    REPUTATION_WINDOW,
    SnapshotBase,
    SnapshotSource,
    SyncedSnapshot,
    rewound,
)
from protocol.chain import Header
from protocol.codec import encode
from protocol.ledger_leaves import epoch_key
from protocol.tree_proof import TreeProof, decode_tree_proof
from protocol.tree_range import verify_range
from prover.tree import StateTree

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def completed(chain: SnapshotChain, sync: SnapshotSync) -> SyncedSnapshot:
    """The result, after checking all of it against the chain."""
    result = sync.result
    assert result is not None, sync.failure
    tree = chain.tree_at(result.height)
    assert result.leaves == dict(tree.iterate()) and result.root == tree.root
    assert result.tip == chain.blocks[result.height]
    assert result.certificate.height == result.height
    heights = [block.header.height for block in result.recent]
    assert heights == list(range(heights[0], result.height)) if heights else True
    assert all(block == chain.blocks[block.header.height] for block in result.recent)
    return result


def test_leaves_tip_and_recent_blocks_arrive() -> None:
    chain = SnapshotChain()
    chain.grow(40)
    source = chain.source()
    assert source.height == 30
    sync = joiner(chain, [A, B])
    wires = Wires(sync, {A: honest(source), B: honest(source)}, chain.now_ms)
    wires.run()
    result = completed(chain, sync)
    assert result.height == 30 and len(result.recent) == 29 and not sync.blamed
    assert sync.counters["chunks"] > 5
    assert min(wires.answered.values()) > 2, "both were asked for parts"


@pytest.mark.parametrize("seed", range(6))
def test_lost_messages_only_delay(seed: int) -> None:
    chain = SnapshotChain(epoch_blocks=12)
    chain.grow(60)
    source = chain.source(7)
    sync = joiner(chain, [A, B, C])
    peers = {peer: honest(source) for peer in (A, B, C)}
    Wires(sync, peers, chain.now_ms, seed, loss=0.25).run()
    completed(chain, sync)
    assert sync.counters["timeouts"] > 0 and not sync.blamed


def test_member_sets_are_followed_to_the_newest_epoch() -> None:
    chain = SnapshotChain(epoch_blocks=9)
    chain.grow(300)
    assert chain.epoch > 20, "more changes than one offer holds"
    source = chain.source(10)
    sync = joiner(chain, [A])
    Wires(sync, {A: honest(source)}, chain.now_ms).run()
    result = completed(chain, sync)
    tip = result.tip.header
    begun = [n for n, (last, _) in chain.lasts.items() if last.height <= tip.height]
    assert [number for number, *_ in result.epochs] == begun and len(begun) > 16
    assert {block.header.epoch for block in result.recent} <= {tip.epoch}


def test_the_last_block_of_an_epoch_can_be_the_tip() -> None:
    """Then the header that names it is of the next epoch, and no block below it counts there."""
    chain = SnapshotChain(epoch_blocks=10)
    while not chain.lasts:
        chain.grow(1)
    last = chain.tip
    chain.grow(1)
    source = SnapshotSource(ChainArchive(chain), SnapshotBase(0, chain.genesis_leaves), last.height)
    for height, block in sorted(chain.blocks.items()):
        source.executed(block.header, chain.changes[height], 0)
    chain.grow(2)
    # The first snapshot came early; the interval ends with the epoch's last block.
    assert source.height == last.height
    sync = joiner(chain, [A])
    Wires(sync, {A: honest(source)}, chain.now_ms).run()
    result = completed(chain, sync)
    assert result.tip.header == last and result.recent == [] and len(result.epochs) == 1


def test_no_snapshot_is_made_between_boundary_and_last_block() -> None:
    """A ledger from there could not prove the new members to others."""
    chain = SnapshotChain(epoch_blocks=10)
    chain.grow(80)
    made: set[int] = set()
    source = SnapshotSource(ChainArchive(chain), SnapshotBase(0, chain.genesis_leaves), 1)
    for height, block in sorted(chain.blocks.items()):
        source.executed(block.header, chain.changes[height], 0)
        made.add(source.height)
    lasts = {header.height: number for number, (header, _) in chain.lasts.items()}
    assert len(made) > 40 and len(lasts) > 3
    for height in made - {0}:
        tree = chain.tree_at(height)
        number = chain.blocks[height].header.epoch + 1
        assert height in lasts or tree.get(epoch_key(number)) is None


# --- peers that lie


def tampered(source: SnapshotSource, alter: Callable[[SnapshotAnswer], SnapshotAnswer]) -> Peer:
    def answer(question: SnapshotQuestion, now_ms: int) -> SnapshotAnswer | None:
        found = source.answer(b"joiner", question, now_ms)
        return None if found is None else alter(found)

    return answer


def with_proof(answer: SnapshotAnswer, alter: Callable[[TreeProof], TreeProof]) -> SnapshotAnswer:
    if isinstance(answer, ChunkResponse) and answer.proof:
        return replace(answer, proof=encode(alter(decode_tree_proof(answer.proof))))
    return answer


def wrong_leaf(answer: SnapshotAnswer) -> SnapshotAnswer:
    def alter(proof: TreeProof) -> TreeProof:
        key, value = proof.leaves[-1]
        return replace(proof, leaves=(*proof.leaves[:-1], (key, value + b"!")))

    return with_proof(answer, alter)


def other_answer(answer: SnapshotAnswer) -> SnapshotAnswer:
    """A proof that holds, but not from the start that was asked for."""
    if not isinstance(answer, ChunkResponse) or not answer.proof:
        return answer
    tree = StateTree(decode_tree_proof(answer.proof).leaves)
    return replace(answer, proof=encode(tree.prove_range(b"", 1000)))


def garbage(answer: SnapshotAnswer) -> SnapshotAnswer:
    return replace(answer, proof=b"\xc1") if isinstance(answer, ChunkResponse) else answer


def wrong_certificate(answer: SnapshotAnswer) -> SnapshotAnswer:
    if not isinstance(answer, SnapshotOffer) or answer.snapshot is None:
        return answer
    certificate = answer.snapshot.certificate
    votes = certificate.child_qc.signatures
    forged = [replace(votes[0], signature=bytes(32)), *votes[1:]]
    certificate = replace(certificate, child_qc=replace(certificate.child_qc, signatures=forged))
    return replace(answer, snapshot=replace(answer.snapshot, certificate=certificate))


def wrong_root(answer: SnapshotAnswer) -> SnapshotAnswer:
    if not isinstance(answer, SnapshotOffer) or answer.snapshot is None:
        return answer
    header = replace(answer.snapshot.header, app_root=bytes(32))
    return replace(answer, snapshot=replace(answer.snapshot, header=header))


def wrong_tip(answer: SnapshotAnswer) -> SnapshotAnswer:
    if not isinstance(answer, SnapshotOffer) or answer.snapshot is None:
        return answer
    tip = replace(answer.snapshot.tip, time_ms=answer.snapshot.tip.time_ms + 1)
    return replace(answer, snapshot=replace(answer.snapshot, tip=tip))


def wrong_recent(answer: SnapshotAnswer) -> SnapshotAnswer:
    if not isinstance(answer, RecentResponse):
        return answer
    return replace(answer, blocks=[replace(one, payload=b"forged") for one in answer.blocks])


def wrong_justify(answer: SnapshotAnswer) -> SnapshotAnswer:
    if not isinstance(answer, RecentResponse):
        return answer
    unsigned = [replace(one, justify=replace(one.justify, signatures=[])) for one in answer.blocks]
    return replace(answer, blocks=unsigned)


def bad_splits(answer: SnapshotAnswer) -> SnapshotAnswer:
    if not isinstance(answer, SnapshotOffer) or answer.snapshot is None:
        return answer
    return replace(answer, snapshot=replace(answer.snapshot, splits=[b"b", b"a"]))


def cut_members(answer: SnapshotAnswer) -> SnapshotAnswer:
    """A change of the members that the epoch before did not sign."""
    if not isinstance(answer, SnapshotOffer) or not answer.steps:
        return answer
    certificate = answer.steps[0].certificate
    few = replace(certificate.qc, signatures=certificate.qc.signatures[:2])
    step = replace(answer.steps[0], certificate=replace(certificate, qc=few))
    return replace(answer, steps=[step, *answer.steps[1:]])


def skipped_members(answer: SnapshotAnswer) -> SnapshotAnswer:
    """A snapshot of an epoch to which no change of the members leads."""
    return replace(answer, steps=[]) if isinstance(answer, SnapshotOffer) else answer


LIES = [
    wrong_leaf, other_answer, garbage, wrong_certificate, wrong_root, wrong_tip, wrong_recent,
    wrong_justify, bad_splits, cut_members, skipped_members,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_peer_that_lies_is_dropped_and_the_others_do(
    lie: Callable[[SnapshotAnswer], SnapshotAnswer],
) -> None:
    chain = SnapshotChain(epoch_blocks=20)
    chain.grow(50)
    source = chain.source()
    # The liar comes first, so that it is asked first.
    sync = joiner(chain, [A, B, C])
    peers = {A: tampered(source, lie), B: honest(source), C: honest(source)}
    Wires(sync, peers, chain.now_ms).run()
    completed(chain, sync)
    assert list(sync.blamed) == [A], lie.__name__


def hiding(chain: SnapshotChain, source: SnapshotSource, shown: int) -> Peer:
    """Serves only some leaves of each chunk, under the honest root."""
    tree = chain.tree_at(source.height)

    def alter(answer: SnapshotAnswer) -> SnapshotAnswer:
        if not isinstance(answer, ChunkResponse):
            return answer
        keys = [key for key, _ in decode_tree_proof(answer.proof).leaves]
        kept = keys[:1] if shown == 1 else [*keys[:2], *keys[3:]]
        return replace(answer, proof=encode(tree.prove(kept)))

    return tampered(source, alter)


@pytest.mark.parametrize("shown", [1, 2], ids=["truncated", "hidden in the middle"])
def test_a_peer_that_hides_leaves_is_dropped(shown: int) -> None:
    chain = SnapshotChain()
    chain.grow(40)
    source = chain.source()
    sync = joiner(chain, [A, B])
    Wires(sync, {A: hiding(chain, source, shown), B: honest(source)}, chain.now_ms).run()
    completed(chain, sync)
    assert list(sync.blamed) == [A]


def test_members_of_another_chain_of_epochs_are_refused() -> None:
    """The liar has a chain of its own, from other members of epoch 0 on."""
    chain = SnapshotChain(epoch_blocks=20)
    chain.grow(50)
    other = SnapshotChain(epoch_blocks=20, leaves=7)
    other.names = lambda epoch: [f"liar-{n}" for n in range(4)]  # type: ignore[method-assign]
    other.grow(90)
    sync = joiner(chain, [A, B])
    wires = Wires(sync, {A: honest(other.source()), B: honest(chain.source())}, other.now_ms)
    wires.run()
    completed(chain, sync)
    assert list(sync.blamed) == [A]


def test_a_block_above_the_last_one_cannot_stand_for_it() -> None:
    """It is certified too and proves the same members; only the ledger says which one counts."""
    chain = SnapshotChain(epoch_blocks=20)
    chain.grow(40)
    header, certificate, proof = chain.epoch_start(1) or pytest.fail("no epoch")
    above = replace(certificate.child, app_height=header.app_height, app_root=header.app_root)
    assert isinstance(above, Header)

    def alter(answer: SnapshotAnswer) -> SnapshotAnswer:
        if isinstance(answer, SnapshotOffer) and answer.steps:
            step = replace(
                answer.steps[0], header=above, certificate=chain.certificate(above), proof=proof
            )
            return replace(answer, steps=[step, *answer.steps[1:]])
        return answer

    source = chain.source()
    sync = joiner(chain, [A, B])
    wires = Wires(sync, {A: tampered(source, alter), B: honest(source)}, chain.now_ms, seed=3)
    # Let the liar's answer come first.
    sync.remove_peer(B)
    wires.run(lambda: sync.target_height > 0)
    sync.add_peer(B, wires.now_ms)
    wires.run()
    result = completed(chain, sync)
    assert list(sync.blamed) == [A]
    assert result.epochs[0][1] == header


# --- peers that do not help


def silent(question: SnapshotQuestion, now_ms: int) -> SnapshotAnswer | None:
    return None


def silent_after_offer(source: SnapshotSource) -> Peer:
    def answer(question: SnapshotQuestion, now_ms: int) -> SnapshotAnswer | None:
        found = source.answer(b"joiner", question, now_ms)
        return found if isinstance(found, SnapshotOffer) else None

    return answer


def offers_nothing(question: SnapshotQuestion, now_ms: int) -> SnapshotAnswer | None:
    return SnapshotOffer(0, [], None)


def test_silent_and_empty_peers_do_not_hold_it_up() -> None:
    chain = SnapshotChain()
    chain.grow(40)
    source = chain.source()
    sync = joiner(chain, [A, B, C])
    peers = {A: silent_after_offer(source), B: offers_nothing, C: honest(source)}
    wires = Wires(sync, peers, chain.now_ms)
    wires.run()
    completed(chain, sync)
    assert not sync.blamed
    # What is out at the silent one is asked of the good one at the latest after one wait.
    assert wires.now_ms - chain.now_ms < 3 * LIMITS.timeout_ms


def test_nothing_to_be_had_is_said() -> None:
    chain = SnapshotChain()
    chain.grow(40)
    sync = joiner(chain, [A, B], own_height=30)
    Wires(sync, {A: honest(chain.source()), B: offers_nothing}, chain.now_ms).run()
    assert sync.result is None and "above our own" in str(sync.failure)
    sync = joiner(chain, [A])
    wires = Wires(sync, {A: silent}, chain.now_ms)
    wires.run()
    assert sync.result is None and sync.failure is not None
    assert wires.questions < 10, "waits longer each time"


def test_members_that_are_too_old_to_trust_are_no_start() -> None:
    chain = SnapshotChain(epoch_blocks=20)
    chain.grow(50)
    sync = joiner(chain, [A], trusting_ms=1_000)
    Wires(sync, {A: honest(chain.source())}, chain.now_ms + 10_000).run()
    assert sync.result is None and "trusted" in str(sync.failure)
    assert not sync.blamed


def test_the_interval_that_ends_meanwhile_starts_it_anew() -> None:
    chain = SnapshotChain(leaves=900)
    chain.grow(40)
    source = chain.source()
    sync = joiner(chain, [A])
    wires = Wires(sync, {A: honest(source)}, chain.now_ms)
    wires.run(lambda: sync.counters.get("chunks", 0) == 3)
    before = sync.target_height
    chain.grow(40)
    for height in range(41, 81):
        source.executed(chain.blocks[height].header, chain.changes[height], wires.now_ms + PIN_MS)
    assert source.height > before
    wires.run()
    assert completed(chain, sync).height == source.height > before


def test_a_snapshot_stays_while_somebody_fetches_it_but_not_for_ever() -> None:
    chain = SnapshotChain()
    chain.grow(40)
    source = chain.source()
    sync = joiner(chain, [A])
    wires = Wires(sync, {A: honest(source)}, chain.now_ms)
    wires.run(lambda: sync.counters.get("chunks", 0) == 3)
    chain.grow(100)
    heights = []
    for height in range(41, 141):
        source.executed(chain.blocks[height].header, chain.changes[height], wires.now_ms + 10)
        heights.append(source.height)
    assert heights[:40] == [30] * 40 and source.height > 100


def test_a_crash_on_the_way_costs_only_the_way() -> None:
    chain = SnapshotChain()
    chain.grow(40)
    source = chain.source()
    first = joiner(chain, [A])
    wires = Wires(first, {A: honest(source)}, chain.now_ms)
    wires.run(lambda: first.counters.get("chunks", 0) == 3)
    second = joiner(chain, [A])
    Wires(second, {A: honest(source)}, wires.now_ms).run()
    completed(chain, second)


def test_the_cost_is_that_of_the_state_and_not_of_the_chain() -> None:
    questions = {}
    for start in (0, 100_000):
        chain = SnapshotChain(leaves=2_000, start=start)
        chain.grow(600, writes=1)
        source = chain.source(100)
        sync = joiner(chain, [A, B, C])
        wires = Wires(sync, dict.fromkeys((A, B, C), honest(source)), chain.now_ms)
        wires.run()
        result = completed(chain, sync)
        assert result.height > start + 400 and len(result.recent) > REPUTATION_WINDOW - 2
        size = sum(len(key) + len(value) for key, value in result.leaves.items())
        chunks = -(-size // LIMITS.chunk_bytes)
        assert chunks * 0.8 < sync.counters["chunks"] <= chunks + 3
        assert wires.questions <= chunks + 12
        questions[start] = wires.questions - chunks
    assert abs(questions[0] - questions[100_000]) < 10


# --- parts


def test_splits_from_a_liar_cost_little_and_change_nothing() -> None:
    tree = StateTree(leaf(number) for number in range(400))
    splits = [leaf(200)[0] + bytes((0, one)) for one in range(200)]
    leaves = Leaves(splits)
    asked = 0
    while not leaves.complete:
        start = leaves.next_start(())
        assert start is not None
        asked += 1
        leaves.take(start, *verify_range(tree.root, tree.prove_range(start, 100), start))
    assert leaves.found == dict(tree.iterate())
    assert asked < 12


def test_chunks_are_taken_in_any_order_and_more_than_once() -> None:
    tree = StateTree(leaf(number) for number in range(100))
    keys = [key for key, _ in tree.iterate()]
    leaves = Leaves([keys[20], keys[50], keys[80]])
    for start in (keys[80], keys[50], keys[60], b"", keys[80], keys[20], keys[30]):
        leaves.take(start, *verify_range(tree.root, tree.prove_range(start, 35), start))
    assert leaves.complete and len(leaves.found) == 100


@pytest.mark.parametrize("interval", [1, 3, 10])
def test_the_frozen_tree_is_that_of_its_height(interval: int) -> None:
    chain = SnapshotChain(leaves=50)
    chain.grow(60)
    base = SnapshotBase(0, chain.genesis_leaves)
    source = SnapshotSource(ChainArchive(chain), base, interval)
    heights = set()
    for height, block in sorted(chain.blocks.items()):
        source.executed(block.header, chain.changes[height], block.header.time_ms)
        if source.height:
            heights.add(source.height)
            assert source.root == chain.roots[source.height]
    assert len(heights) >= 60 // interval - 2


class BusyChain(SnapshotChain):
    """Writes the same leaves again and again, and others that stay for a block or two only."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        super().__init__(leaves=80)

    def changes_of(self, height: int, writes: int) -> dict[bytes, bytes | None]:
        random = Random(f"{self.seed}/{height}")
        changes: dict[bytes, bytes | None] = {
            leaf(random.randrange(100))[0]: random.choice((random.randbytes(40), None))
            for _ in range(writes)
        }
        changes[leaf(1_000 + height)[0]] = random.randbytes(40)
        changes[leaf(1_000 + height - random.randint(1, 2))[0]] = None
        changes[leaf(1_000 + height - 3)[0]] = None
        return changes


def test_changes_that_wait_are_no_more_than_the_leaves() -> None:
    seed = Random().randrange(1 << 32)
    print("seed", seed)
    chain = BusyChain(seed)
    chain.grow(700, writes=30)
    source = SnapshotSource(ChainArchive(chain), SnapshotBase(0, chain.genesis_leaves), 300)
    heights = set()
    for height, block in sorted(chain.blocks.items()):
        source.executed(block.header, chain.changes[height], block.header.time_ms)
        assert len(source._pending) <= 2, "blocks whose root no header names"
        assert len(source._joined) <= 110, "100 leaves, and those of the last blocks"
        heights.add(source.height)
        if source.height:
            assert source.root == chain.roots[source.height]
    assert len(heights) == 4 and max(heights) == 600


def test_a_source_goes_on_after_a_restart() -> None:
    chain = SnapshotChain(leaves=50)
    chain.grow(30)
    leaves = dict(chain.tree_at(30).iterate())
    undo = []
    for height in range(20, 31):
        before = chain.tree_at(height - 1)
        undo.append((height, {key: before.get(key) for key in chain.changes[height]}))
    tip = chain.tip
    base = rewound(leaves, undo, tip)
    source = SnapshotSource(ChainArchive(chain), base, 5)
    assert source.height == tip.app_height and source.root == chain.roots[source.height]
    chain.grow(10)
    for height in range(31, 41):
        source.executed(chain.blocks[height].header, chain.changes[height], START_MS)
    assert source.height >= 35 and source.root == chain.roots[source.height]
    short = rewound(leaves, undo[-1:], replace(tip, app_height=20))
    assert short == SnapshotBase(30, leaves), "without undo it starts at the tip, and waits"


def test_one_who_asks_too_much_is_not_answered() -> None:
    chain = SnapshotChain()
    chain.grow(40)
    source = chain.source()
    question = joiner(chain, [A]).step(chain.now_ms)[0][1]
    answers = [source.answer(A, question, START_MS) for _ in range(300)]
    assert answers[255] is not None and answers[256] is None
    assert source.answer(B, question, START_MS) is not None
    assert source.answer(A, question, START_MS + 1000) is not None


def test_limits_name_a_longest_wait() -> None:
    assert SyncLimits().timeout_max_ms < SyncLimits().give_up_ms
