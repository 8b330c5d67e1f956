"""Answers to requests for blocks: bounded when given, believed only when proven."""

from __future__ import annotations

import sys
from dataclasses import replace as replace_config
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import CONFIG, GENESIS_MS, Forge, committed, receive, sent

from consensus import Committed, PersistBlock, Replica, ReplicaConfig, Send, Tick
from consensus.blocktree import NODE_BYTES
from protocol.chain import Block, BlocksRequest, BlocksResponse, Certified, CommitCertificate
from protocol.errors import ConfigError


@pytest.fixture
def forge() -> Forge:
    return Forge()


def asking(forge: Forge, target: Block) -> Replica:
    """A fresh replica 0 that just asked member 3 for the way to a certified block."""
    replica = forge.replica(0)
    effects = receive(replica, Certified(forge.qc(target), None), 3)
    (request,) = sent(effects, BlocksRequest)
    assert request == BlocksRequest(target.header.block_id(), 0, CONFIG.fetch_limit)
    return replica


def answer(replica: Replica, blocks: list[Block], peer: int = 3, **fields: object) -> list[Block]:
    response = replace(BlocksResponse(blocks, None, None), **fields)
    return committed(receive(replica, response, peer))


def test_blocks_up_to_the_certified_one_are_taken_and_committed(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3, 4, 5])
    replica = asking(forge, blocks[-1])
    effects = receive(replica, BlocksResponse(blocks, None, None), 3)
    assert committed(effects) == blocks[:4]
    kept = [effect.block for effect in effects if isinstance(effect, PersistBlock)]
    assert kept[0] == blocks[4]
    assert replica.counters["blocks_fetched"] == 5


def test_part_of_the_way_is_proven_by_the_last_blocks_qc(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3, 4, 5, 6])
    replica = asking(forge, blocks[-1])
    assert answer(replica, blocks[:4]) == blocks[:1]
    assert replica.committed_height == 1
    assert replica._tree.get(blocks[3].header.block_id()) is None


def test_commit_certificate_proves_the_last_block(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3, 4, 5, 6])
    replica = asking(forge, blocks[-1])
    pair = forge.certificate(blocks[2], blocks[3])
    assert answer(replica, blocks[:3], certificate=pair) == blocks[:3]


def forged_answers(forge: Forge) -> dict[str, BlocksResponse]:
    blocks = forge.chain([1, 2, 3, 4, 5])
    first = forge.block(forge.root_block, 1, b"forged")
    weak = forge.block(first, 2, qc=forge.qc(first, (0, 1)))
    pair = forge.certificate(blocks[2], blocks[3])
    return {
        "nothing proves them": BlocksResponse([first, weak], None, None),
        "weak high qc": BlocksResponse([first], forge.qc(first, (0, 1)), None),
        "weak certificate": BlocksResponse(
            blocks[:3], None, replace(pair, child_qc=forge.qc(blocks[3], (0, 1)))
        ),
        "gap": BlocksResponse([blocks[0], *blocks[2:]], None, None),
        "order": BlocksResponse(blocks[::-1], None, None),
        "payload": BlocksResponse([replace(blocks[0], payload=b"x"), *blocks[1:]], None, None),
        "qc swapped": BlocksResponse(
            [*blocks[:4], replace(blocks[4], justify=forge.qc(blocks[3], (1, 2, 3)))], None, None
        ),
        "too many": BlocksResponse(forge.chain(range(1, CONFIG.fetch_limit + 3)), None, None),
    }


@pytest.mark.parametrize("name", list(forged_answers(Forge())))
def test_unproven_answer_is_refused_and_another_member_asked(forge: Forge, name: str) -> None:
    replica = asking(forge, forge.chain([1, 2, 3, 4, 5])[-1])
    effects = receive(replica, forged_answers(forge)[name], 3)
    assert committed(effects) == []
    assert replica.counters["rejected_bad_certificate"] == 1
    assert len(replica._tree.nodes) == 1
    soon_ms = GENESIS_MS + 99 + CONFIG.fetch_timeout_ms
    effects += replica.step(Tick(), soon_ms)
    (request,) = [e for e in effects if isinstance(e, Send)]
    assert request.member == 1


def test_blocks_nobody_asked_for_are_refused(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3])
    replica = asking(forge, blocks[-1])
    assert answer(replica, blocks, peer=1) == []
    assert replica.counters == {"requests_sent": 1, "rejected_not_authorised": 1}
    assert answer(replica, blocks) == blocks[:2]
    assert answer(replica, blocks) == []


def test_silent_member_is_followed_by_the_next(forge: Forge) -> None:
    replica = asking(forge, forge.chain([1, 2, 3])[-1])
    asked = []
    now = GENESIS_MS + 100
    for _ in range(4):
        now = replica._fetch.deadline_ms() or now
        asked += [
            effect.member
            for effect in replica.step(Tick(), now)
            if isinstance(effect, Send) and isinstance(effect.message, BlocksRequest)
        ]
    assert asked == [1, 2, 3, 1]


def served(replica: Replica, request: BlocksRequest) -> BlocksResponse:
    (response,) = sent(receive(replica, request, 2), BlocksResponse)
    assert isinstance(response, BlocksResponse)
    return response


def full(forge: Forge, config: ReplicaConfig, size: int) -> Replica:
    replica = forge.replica(0, config=config)
    parent = forge.root_block
    for view in range(1, 9):
        parent = forge.block(parent, view, bytes(size))
        receive(replica, forge.proposal(parent), 1 if view % 4 == 0 else view % 4)
    assert replica.committed_height == 6
    return replica


def test_answers_are_bounded_in_number_and_bytes(forge: Forge) -> None:
    replica = full(forge, CONFIG, 10)
    assert len(served(replica, BlocksRequest(b"", 0, 3)).blocks) == 3
    assert len(served(replica, BlocksRequest(b"", 0, 1 << 40)).blocks) == 7
    assert served(replica, BlocksRequest(b"", 0, -5)).blocks == []
    assert served(replica, BlocksRequest(b"", 1 << 40, 5)).blocks == []
    small = ReplicaConfig(
        timeout_ms=200, timeout_max_ms=1000, idle_interval_ms=500, max_response_bytes=12_000
    )
    assert len(served(full(forge, small, 2_000), BlocksRequest(b"", 0, 64)).blocks) == 3
    assert len(served(full(forge, small, 50_000), BlocksRequest(b"", 0, 64)).blocks) == 2


def test_answer_goes_on_to_the_block_asked_for(forge: Forge) -> None:
    replica = full(forge, CONFIG, 10)
    tip = max(replica._tree.nodes.values(), key=lambda node: node.height)
    response = served(replica, BlocksRequest(tip.id, 5, 64))
    assert [block.header.height for block in response.blocks] == [6, 7, 8]
    assert response.certificate is not None and response.certificate.qc.height == 6


def test_committed_blocks_outside_the_window_come_from_the_store(forge: Forge) -> None:
    blocks = forge.chain(list(range(1, 9)))
    config = ReplicaConfig(timeout_ms=200, idle_interval_ms=500, committed_window=2)

    def stored(height: int):  # type: ignore[no-untyped-def]
        return blocks[height - 1], forge.certificate(blocks[height - 1], blocks[height])

    for source, heights in ((stored, [1, 2, 3, 4, 5, 6, 7]), (None, [])):
        replica = forge.replica(0, config=config, stored=source)
        for block in blocks:
            view = block.header.view
            receive(replica, forge.proposal(block), 1 if view % 4 == 0 else view % 4)
        response = served(replica, BlocksRequest(b"", 0, 64))
        assert [block.header.height for block in response.blocks] == heights


def test_heavy_committed_blocks_are_kept_within_their_bytes_and_served_from_the_store(
    forge: Forge,
) -> None:
    size, bound, seen = 50_000, 400_000, 0
    config = replace_config(
        CONFIG, max_payload_bytes=size, committed_bytes=bound, max_response_bytes=4 * size
    )
    blocks = [forge.root_block]
    for view in range(1, 31):
        blocks.append(forge.block(blocks[-1], view, bytes([view]) * size))
    disk: dict[int, tuple[Block, CommitCertificate | None]] = {}
    replica = forge.replica(0, config=config, stored=disk.get)
    for block in blocks[1:]:
        for effect in receive(replica, forge.proposal(block), 1):
            if isinstance(effect, Committed):
                height = effect.block.header.height
                ended = effect.certificate.height == height
                disk[height] = effect.block, effect.certificate if ended else None
    tree, tip = replica._tree, replica.committed_height
    kept = [height for height in range(1, tip + 1) if tree.committed(height, None)]
    assert tip == 28 and kept == list(range(tip - bound // (size + NODE_BYTES) + 1, tip + 1))
    while seen < tip:
        response = served(replica, BlocksRequest(b"", seen, 64))
        first = seen + 1
        seen += len(response.blocks)
        assert response.blocks == blocks[first : seen + 1] and response.blocks
        if seen <= tip:
            assert response.certificate is not None and response.certificate.height == seen
    for height in range(1, tip + 1):
        assert tree.conflicts(bytes(32), height), "forks show also where the block has left"
        assert not tree.conflicts(blocks[height].header.block_id(), height)


def test_small_committed_blocks_are_kept_by_number(forge: Forge) -> None:
    config = replace_config(CONFIG, committed_window=3)
    tree = full(forge, config, 10)._tree
    assert [height for height in range(8) if tree.committed(height, None)] == [4, 5, 6]
    assert [height for height in range(8) if tree.conflicts(bytes(32), height)] == [4, 5, 6]


def test_memory_for_committed_blocks_holds_two_of_the_largest() -> None:
    with pytest.raises(ConfigError, match="committed_bytes"):
        ReplicaConfig(max_payload_bytes=1 << 20, committed_bytes=(2 << 20) - 1)


def test_proposal_whose_parent_is_missing_is_voted_for_once_it_came(forge: Forge) -> None:
    first, second, third = forge.chain([1, 2, 3])
    replica = forge.replica(1)
    effects = receive(replica, forge.proposal(third), 3)
    assert len(sent(effects, BlocksRequest)) == 1
    effects = receive(replica, BlocksResponse([first, second], None, None), 3)
    assert replica.counters["orphans_adopted"] == 1
    assert replica.counters["votes_sent"] == 1
    assert committed(effects) == [first]


def test_orphans_are_bounded(forge: Forge) -> None:
    replica = forge.replica(0)
    blocks = forge.chain(list(range(1, 200)))
    for block in blocks[1:]:
        receive(replica, forge.proposal(block), 1)
    assert len(replica._orphans) == CONFIG.max_orphans


def test_long_way_without_a_commit_is_fetched_in_parts(forge: Forge) -> None:
    # No two views follow each other before the end, so nothing commits on the way.
    blocks = forge.chain([1, 3, 5, 7, 9, 11, 13, 15, 17, 18])
    config = ReplicaConfig(timeout_ms=200, idle_interval_ms=500, fetch_limit=2)
    replica = forge.replica(0, config=config)
    effects = receive(replica, Certified(forge.qc(blocks[-1]), None), 3)
    now = GENESIS_MS + 100
    taken: list[Block] = []
    for _ in range(40):
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, BlocksRequest):
                above = effect.message.above_height
                part = BlocksResponse(blocks[above : above + 2], None, None)
                effects = receive(replica, part, effect.member, now)
                taken += committed(effects)
                break
        else:
            now = max(now, replica.next_deadline_ms() or now)
            effects = replica.step(Tick(), now)
    assert taken == blocks[:9]


def test_part_on_a_branch_of_another_peer_does_not_end_the_search(forge: Forge) -> None:
    """A peer that serves a dead branch first costs a round, not the way."""
    blocks = forge.chain([1, 2, 5, 6, 7, 8])
    branch = [*blocks[:2], forge.block(blocks[1], 3, b"dead")]
    replica = asking(forge, blocks[-1])
    dead = BlocksResponse(branch, forge.qc(branch[-1]), None)
    effects = receive(replica, dead, 3)
    now = GENESIS_MS + 100
    taken = committed(effects)
    for _ in range(20):
        asked = [
            effect for effect in effects
            if isinstance(effect, Send) and isinstance(effect.message, BlocksRequest)
        ]  # fmt: skip
        if asked:
            above = asked[0].message.above_height
            part = BlocksResponse(blocks[above:], None, None)
            effects = receive(replica, part, asked[0].member, now)
        else:
            now = max(now, replica.next_deadline_ms() or now)
            effects = replica.step(Tick(), now)
        taken += committed(effects)
        if len(taken) >= 5:
            break
    assert taken == blocks[:5]


def test_answer_that_comes_late_is_still_taken(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3])
    replica = asking(forge, blocks[-1])
    now = GENESIS_MS + 100 + CONFIG.fetch_timeout_ms
    replica.step(Tick(), now)
    late = receive(replica, BlocksResponse(blocks, None, None), 3, now + 1)
    assert committed(late) == blocks[:2]


def test_patience_with_answers_grows_on_a_slow_network(forge: Forge) -> None:
    replica = asking(forge, forge.chain([1, 2, 3])[-1])
    now, waits = GENESIS_MS + 100, []
    for _ in range(8):
        due = replica._fetch.deadline_ms()
        assert due is not None
        waits.append(due - now)
        now = due
        replica.step(Tick(), now)
    first = CONFIG.fetch_timeout_ms
    assert waits[:4] == [first] * 3 + [2 * first] and max(waits) <= 16 * first


def test_a_flood_of_requests_is_served_within_a_share_of_bytes(forge: Forge) -> None:
    config = replace_config(CONFIG, max_response_bytes=20_000)
    replica = full(forge, config, 10)
    answers = [
        effects
        for _ in range(200)
        if sent(effects := receive(replica, BlocksRequest(b"", 0, 64), 2), BlocksResponse)
    ]
    assert 1 < len(answers) < 40
    assert replica.counters["requests_refused"] == 200 - len(answers)
    assert sent(receive(replica, BlocksRequest(b"", 0, 64), 3), BlocksResponse), (
        "others have theirs"
    )
    later = receive(replica, BlocksRequest(b"", 0, 64), 2, GENESIS_MS + 1_100)
    assert sent(later, BlocksResponse), "the share grows again"
