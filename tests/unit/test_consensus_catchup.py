"""Far behind, several peers are asked at once; whatever one of them does, the blocks arrive."""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import CONFIG, GENESIS_MS, Forge, committed, receive, sent, verify
from test_consensus_epochs import EpochWorld

from consensus import (
    Effect,
    EpochBegan,
    Event,
    FellBehind,
    Received,
    Replica,
    ReplicaConfig,
    Send,
    Tick,
)
from consensus.blocktree import BlockTree, Node
from consensus.sync import AVOIDED_TIMEOUTS, TOLD_TIMEOUTS, Fetcher
from consensus.sync_answers import proven, serve
from consensus.sync_ranges import Buffer, Kept, PeerNote
from consensus.verify import verify_certificate
from protocol.chain import QC, Block, BlocksRequest, BlocksResponse, Certified, CommitCertificate
from protocol.errors import Rejected

SMALL = ReplicaConfig(timeout_ms=200, timeout_max_ms=1000, idle_interval_ms=500, fetch_limit=8)
RTT_MS = 10
Peer = Callable[[BlocksRequest], BlocksResponse | None]


class FlatForge(Forge):
    """Member 0 proposes everything: blocks that are fetched are proven by their votes."""

    def leader(self, parent: Block, view: int) -> int:
        return 0


@pytest.fixture
def forge() -> Forge:
    return FlatForge()


class Archive:
    """An honest peer: all blocks of a chain but the last two are committed."""

    def __init__(self, forge: Forge, blocks: Sequence[Block], config: ReplicaConfig) -> None:
        self.forge, self.blocks, self.config = forge, blocks, config
        tip = blocks[-3]
        self.tree = BlockTree(Node(tip, tip.header.block_id()), 1, 1 << 20, 64)
        for block in blocks[-2:]:
            self.tree.insert(Node(block, block.header.block_id()))
        self.high_qc = forge.qc(blocks[-1])

    def stored(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        if not 0 < height < len(self.blocks):
            return None
        block, child = self.blocks[height - 1 : height + 1]
        return block, self.forge.certificate(block, child)

    def __call__(self, request: BlocksRequest) -> BlocksResponse:
        return serve(self.tree, self.high_qc, request, self.config, self.stored)


def silent(request: BlocksRequest) -> None:
    return None


class Net:
    """Carries requests of one replica to peers that are functions, one round trip each."""

    def __init__(self, replica: Replica, peers: dict[int, Peer]) -> None:
        self.replica, self.peers = replica, peers
        self.now_ms = GENESIS_MS + 100
        self.delay_ms: dict[int, int] = {}
        self.asked: list[tuple[int, int, BlocksRequest]] = []
        self.most_in_flight = 0
        self.taken: list[Block] = []
        self.news: list[FellBehind] = []
        self._queue: list[tuple[int, int, int, BlocksResponse]] = []

    def absorb(self, effects: list[Effect]) -> None:
        self.taken += committed(effects)
        self.news += [effect for effect in effects if isinstance(effect, FellBehind)]
        for effect in effects:
            if not isinstance(effect, Send) or not isinstance(effect.message, BlocksRequest):
                continue
            peer = effect.member
            self.asked.append((self.now_ms, peer, effect.message))
            answer = self.peers[peer](effect.message)
            if answer is not None:
                due_ms = self.now_ms + self.delay_ms.get(peer, RTT_MS)
                heapq.heappush(self._queue, (due_ms, len(self.asked), peer, answer))
        fetch = self.replica._fetch
        assert len(fetch._flights) <= fetch._parallel
        self.most_in_flight = max(self.most_in_flight, len(fetch._flights))
        assert len(fetch.kept) <= fetch._parallel
        assert fetch.kept.size_bytes <= fetch.kept.capacity_bytes
        assert all(len(note.asked) <= 4 for note in fetch._peers)

    def run(self, until: Callable[[], bool], steps: int = 3_000) -> None:
        for _ in range(steps):
            if until():
                return
            due_ms = self.replica.next_deadline_ms()
            if self._queue and (due_ms is None or self._queue[0][0] <= due_ms):
                at_ms, _, peer, answer = heapq.heappop(self._queue)
                self.now_ms = max(self.now_ms, at_ms)
                self.absorb(self.replica.step(Received(peer, answer), self.now_ms))
            else:
                assert due_ms is not None, "nothing is waited for"
                self.now_ms = max(self.now_ms, due_ms)
                self.absorb(self.replica.step(Tick(), self.now_ms))
        raise AssertionError(f"{steps} steps, and the end is not in sight")

    def fetch(self, blocks: Sequence[Block]) -> int:
        """Tell of the last block's QC and run until its ancestors are committed; round trips."""
        forge_qc = next(p for p in self.peers.values() if isinstance(p, Archive)).high_qc
        start_ms = self.now_ms
        event = Received(max(self.peers), Certified(forge_qc, None))
        self.absorb(self.replica.step(event, self.now_ms))
        self.run(lambda: len(self.taken) >= len(blocks) - 1)
        assert self.taken == list(blocks[:-1])
        return (self.now_ms - start_ms) // RTT_MS


def chain_of(forge: Forge, length: int) -> list[Block]:
    return forge.chain(range(1, length + 1))


def test_ten_thousand_blocks_take_a_third_of_the_round_trips_from_three_peers(
    forge: Forge,
) -> None:
    blocks = chain_of(forge, 10_000)
    archive = Archive(forge, blocks, CONFIG)
    rounds = {}
    for usable in (1, 3):
        peers: dict[int, Peer] = {i: archive if i > 3 - usable else silent for i in (1, 2, 3)}
        net = Net(forge.replica(0), peers)
        if usable == 1:
            for peer in (1, 2):
                # Peers that are avoided throughout leave the sequential way.
                net.replica._fetch._peers[peer].avoid_until_ms = 1 << 60
        rounds[usable] = net.fetch(blocks)
        assert net.most_in_flight == usable
        assert len(net.asked) <= 10_000 // (CONFIG.fetch_limit - 1) + 3
    print("round trips by peers", rounds)
    assert rounds[1] >= 10_000 // CONFIG.fetch_limit
    assert rounds[3] <= rounds[1] // 3 + 3


def test_requests_are_for_disjoint_ranges_of_different_peers(forge: Forge) -> None:
    blocks = chain_of(forge, 60)
    archive = Archive(forge, blocks, SMALL)
    net = Net(forge.replica(0, config=SMALL), {1: archive, 2: archive, 3: archive})
    net.fetch(blocks)
    first = [(peer, request) for at_ms, peer, request in net.asked if at_ms == net.asked[0][0]]
    assert [peer for peer, _ in first] == [3, 1, 2]
    assert [request.above_height for _, request in first] == [0, 7, 14]
    assert all(request.limit == 8 for _, request in first)
    starts = [request.above_height for _, _, request in net.asked]
    assert len(set(starts)) == len(starts)


def test_close_behind_one_peer_is_asked(forge: Forge) -> None:
    blocks = chain_of(forge, 8)
    archive = Archive(forge, blocks, SMALL)
    net = Net(forge.replica(0, config=SMALL), {1: archive, 2: archive, 3: archive})
    assert net.fetch(blocks) == 1
    assert len(net.asked) == 1


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 9, 4), (30, 1, 1)])
def test_answers_may_come_in_any_order(forge: Forge, order: tuple[int, ...]) -> None:
    blocks = chain_of(forge, 200)
    archive = Archive(forge, blocks, SMALL)
    net = Net(forge.replica(0, config=SMALL), {1: archive, 2: archive, 3: archive})
    net.delay_ms = {peer: RTT_MS * weight for peer, weight in zip((1, 2, 3), order, strict=True)}
    net.fetch(blocks)
    assert not any(name.startswith("rejected") for name in net.replica.counters)


def test_silent_peers_range_goes_to_another_peer(forge: Forge) -> None:
    blocks = chain_of(forge, 300)
    archive = Archive(forge, blocks, SMALL)
    net = Net(forge.replica(0, config=SMALL), {1: archive, 2: silent, 3: archive})
    rounds = net.fetch(blocks)
    to_silent = [at_ms for at_ms, peer, _ in net.asked if peer == 2]
    gaps = [later - at for at, later in pairwise(to_silent)]
    assert all(gap >= AVOIDED_TIMEOUTS * SMALL.fetch_timeout_ms for gap in gaps)
    # Two peers do all the work but for the time in which the silent one was waited for.
    assert rounds <= 300 // 7 // 2 + 4 + len(to_silent) * SMALL.fetch_timeout_ms // RTT_MS


def branch(forge: Forge, blocks: Sequence[Block], request: BlocksRequest) -> list[Block]:
    """A certified branch beside the chain that begins in the middle of the range before."""
    parent = blocks[max(request.above_height - 2, 0)]
    dead = []
    for _ in range(request.limit + 1):
        parent = forge.block(parent, parent.header.view + 2, b"dead")
        dead.append(parent)
    return [block for block in dead if block.header.height > request.above_height][: request.limit]


def lies(forge: Forge, blocks: Sequence[Block], archive: Archive) -> dict[str, Peer]:
    def answer(change: Callable[[list[Block], BlocksRequest], list[Block]]) -> Peer:
        def spoilt(request: BlocksRequest) -> BlocksResponse:
            good = archive(request)
            return BlocksResponse(change(good.blocks, request), good.high_qc, None)

        return spoilt

    def weak(request: BlocksRequest) -> BlocksResponse:
        good = archive(request)
        parent, made = blocks[request.above_height - 1], []
        for step in range(4):
            qc = forge.qc(parent, (0, 1))
            parent = forge.block(parent, 5_000 + parent.header.view + step, b"lie", qc=qc)
            made.append(parent)
        return BlocksResponse(made, good.high_qc, None)

    def weak_certificate(request: BlocksRequest) -> BlocksResponse:
        good = archive(request)
        if good.certificate is None:
            return good
        qc = replace(good.certificate.child_qc, signatures=[])
        return replace(good, certificate=replace(good.certificate, child_qc=qc))

    def foreign(request: BlocksRequest) -> BlocksResponse:
        good = archive(request)
        made = [replace(b, header=replace(b.header, epoch=1)) for b in good.blocks]
        return BlocksResponse(made, None, None)

    return {
        "order": answer(lambda found, _: found[::-1]),
        "gap": answer(lambda found, _: found[:2] + found[3:]),
        "other range": answer(lambda _, r: list(blocks[r.above_height + 9 :][: r.limit])),
        "lower range": answer(lambda _, r: list(blocks[: r.limit])),
        "other branch": answer(lambda _, r: branch(forge, blocks, r)),
        "forged QC": weak,
        "forged certificate": weak_certificate,
        "more than asked": answer(lambda _, r: list(blocks[r.above_height :][: r.limit + 1])),
        "nothing": answer(lambda _found, _: []),
        "foreign epoch": foreign,
    }


LIES = list(lies(FlatForge(), [], None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("lead", [True, False])
def test_lying_peer_delays_and_does_not_mislead(forge: Forge, name: str, lead: bool) -> None:
    blocks = chain_of(forge, 300)
    archive = Archive(forge, blocks, SMALL)
    liar = 3 if lead else 1
    peers: dict[int, Peer] = {1: archive, 2: archive, 3: archive}
    peers[liar] = lies(forge, blocks, archive)[name]
    net = Net(forge.replica(0, config=SMALL), peers)
    rounds = net.fetch(blocks)
    assert rounds <= 60, "sequential, it would be 43"
    asked = sum(peer == liar for _, peer, _ in net.asked)
    assert asked <= 12
    if name == "foreign epoch":
        assert net.replica.counters["answers_of_another_epoch"] == asked
        assert not any(key.startswith("rejected") for key in net.replica.counters)


def test_range_of_another_branch_is_dropped_and_its_peer_avoided(forge: Forge) -> None:
    blocks = chain_of(forge, 60)
    archive = Archive(forge, blocks, SMALL)
    liar = lies(forge, blocks, archive)["other branch"]
    net = Net(forge.replica(0, config=SMALL), {1: liar, 2: archive, 3: archive})
    net.delay_ms[3] = 2 * RTT_MS
    net.fetch(blocks)
    # Two, as the second is under way before the first can be compared with what comes below it.
    assert net.replica.counters["answers_not_connected"] <= 2
    assert sum(peer == 1 for _, peer, _ in net.asked) <= 2


def test_committed_range_stays_when_what_came_below_it_was_a_dead_branch(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3, *range(20, 41)])
    archive = Archive(forge, blocks, SMALL)
    dead = [*blocks[:3]]
    for step in range(4):
        dead.append(forge.block(dead[-1], 5 + 2 * step, b"dead"))
    below = BlocksResponse(dead, forge.qc(dead[-1]), None)
    net = Net(forge.replica(0, config=SMALL), {1: archive, 2: archive, 3: lambda _: below})
    net.delay_ms[3] = 2 * RTT_MS
    net.fetch(blocks)
    assert net.replica.counters["answers_not_connected"] == 1
    starts = Counter(request.above_height for _, _, request in net.asked)
    assert len(starts) == len(net.asked) == 5, "what was kept is not asked for again"


def test_kept_answer_that_the_lead_has_overtaken_is_no_other_branch(forge: Forge) -> None:
    blocks = chain_of(forge, 60)
    archive = Archive(forge, blocks, SMALL)

    def brief(request: BlocksRequest) -> BlocksResponse:
        # One block with its certificate, and the lead's answer holds that block as well.
        good = archive(request)
        found = archive.stored(request.above_height + 1)
        assert found is not None
        return replace(good, blocks=good.blocks[:1], certificate=found[1])

    net = Net(forge.replica(0, config=SMALL), {1: brief, 2: archive, 3: archive})
    net.delay_ms[3] = 2 * RTT_MS
    net.fetch(blocks)
    assert net.replica.counters["answers_kept"] > 0
    assert "answers_not_connected" not in net.replica.counters


@pytest.mark.parametrize("size", [0, 30_000, 69_000])
def test_what_waits_for_a_silent_lead_is_bounded(forge: Forge, size: int) -> None:
    config = ReplicaConfig(
        timeout_ms=200, timeout_max_ms=1000, idle_interval_ms=500, fetch_limit=8,
        max_response_bytes=100_000, max_payload_bytes=70_000,
    )  # fmt: skip
    blocks = [forge.block(forge.root_block, 1, bytes(size))]
    for view in range(2, 200):
        blocks.append(forge.block(blocks[-1], view, bytes(size)))
    archive = Archive(forge, blocks, config)
    net = Net(forge.replica(0, config=config), {1: archive, 2: archive, 3: silent})
    event = Received(3, Certified(archive.high_qc, None))
    net.absorb(net.replica.step(event, net.now_ms))
    quiet = net.now_ms + config.fetch_timeout_ms - 1
    net.run(lambda: (net.replica.next_deadline_ms() or 0) > quiet and not net._queue)
    assert net.taken == []
    kept = net.replica._fetch.kept
    assert len(kept) == 3
    assert kept.size_bytes <= 3 * 2 * (70_000 + 1024)
    assert len(net.asked) == 1 + 3
    net.run(lambda: len(net.taken) >= len(blocks) - 1)
    assert net.taken == blocks[:-1]
    assert len(kept) == 0 and kept.size_bytes == 0


def test_buffer_holds_so_many_answers_and_bytes(forge: Forge) -> None:
    blocks = chain_of(forge, 12)

    def kept(first: int, last: int) -> Kept:
        part = blocks[first - 1 : last]
        chain = [(block.header.block_id(), block) for block in part]
        return Kept(1, chain, BlocksResponse(part, None, None))

    buffer = Buffer(2, 8_000)
    assert buffer.add(kept(5, 6)) and not buffer.add(kept(5, 7))
    assert not buffer.add(kept(7, 12)), "eight blocks count more than 8,000 bytes"
    assert buffer.add(kept(3, 4)) and not buffer.add(kept(8, 8))
    low = buffer.lowest()
    assert low is not None and (low.above, low.upto) == (2, 4)
    buffer.forget_from_below(4)
    assert buffer.spans() == [(4, 6)]
    buffer.forget_from_below(5)
    assert len(buffer) == 0 and buffer.size_bytes == 0


def test_blocks_that_came_another_way_do_not_stop_the_search(forge: Forge) -> None:
    blocks = chain_of(forge, 60)
    fetch = Fetcher(SMALL, 4, 0)
    fetch.want(forge.qc(blocks[-1]), 3)
    first = fetch.requests(0, 0)
    assert [peer for peer, _ in first] == [3, 1, 2]
    part = BlocksResponse(blocks[7:15], None, None)
    request, lead = fetch.answered(1, 1, part)
    assert request == first[1][1] and not lead
    assert fetch.keep(1, [(b.header.block_id(), b) for b in part.blocks], part, 1)
    # Eleven blocks were committed meanwhile: the lead goes on from there.
    later = dict(fetch.requests(2, 11))
    assert 11 in [request.above_height for request in later.values()]
    assert len(fetch.kept) == 0


def test_answer_larger_than_agreed_is_not_kept(forge: Forge) -> None:
    config = ReplicaConfig(
        timeout_ms=200, timeout_max_ms=1000, idle_interval_ms=500, fetch_limit=8,
        max_response_bytes=12_000, max_payload_bytes=10_000,
    )  # fmt: skip
    blocks = [forge.block(forge.root_block, 1, bytes(9_000))]
    for view in range(2, 100):
        blocks.append(forge.block(blocks[-1], view, bytes(9_000)))
    archive, greedy = Archive(forge, blocks, config), Archive(forge, blocks, SMALL)
    net = Net(forge.replica(0, config=config), {1: greedy, 2: archive, 3: archive})
    net.fetch(blocks)
    assert sum(peer == 1 for _, peer, _ in net.asked) <= 5


def at_epoch_end(forge: Forge) -> tuple[list[Block], CommitCertificate]:
    """Five blocks of one epoch, the fourth and fifth commit; a certificate for the third."""
    blocks = forge.chain([1, 3, 5, 7, 8])
    pair = forge.certificate(blocks[3], blocks[4])
    return blocks, replace(pair, path=[blocks[3].header])


def test_answer_ends_with_the_epoch_of_its_first_block(forge: Forge) -> None:
    blocks, proof = at_epoch_end(forge)
    later = [replace(b, header=replace(b.header, epoch=1)) for b in blocks[3:]]
    chain = {b.header.height: (b, None) for b in [*blocks[:3], *later]}
    chain[3] = (blocks[2], proof)  # type: ignore[assignment]
    tip = later[-1]
    tree = BlockTree(Node(tip, tip.header.block_id()), 1, 1 << 20, 64)
    qc = forge.qc(tip)
    first = serve(tree, qc, BlocksRequest(b"", 0, 64), CONFIG, chain.get)
    assert first.blocks == blocks[:3] and first.certificate == proof
    second = serve(tree, qc, BlocksRequest(b"", 3, 64), CONFIG, chain.get, 2)
    assert second.blocks == later and second.retained_from == 2


def test_uncommitted_blocks_of_the_next_epoch_do_not_follow_the_last_block(forge: Forge) -> None:
    blocks, proof = at_epoch_end(forge)
    tip = blocks[2]
    tree = BlockTree(Node(tip, tip.header.block_id()), 1, 1 << 20, 64)
    following = replace(blocks[3], header=replace(blocks[3].header, epoch=1))
    node = Node(following, following.header.block_id())
    tree.insert(node)
    stored = {1: (blocks[0], None), 2: (blocks[1], None), 3: (tip, proof)}
    answer = serve(tree, forge.qc(following), BlocksRequest(node.id, 0, 64), CONFIG, stored.get)
    assert answer.blocks == blocks[:3]


def test_certificate_with_a_path_proves_the_epochs_last_block(forge: Forge) -> None:
    blocks, proof = at_epoch_end(forge)
    request = BlocksRequest(b"", 0, 64)

    def check_certificate(header, certificate) -> None:  # type: ignore[no-untyped-def]
        verify_certificate(forge.members, header, certificate, verifier=verify)

    def no_qc(qc) -> None:  # type: ignore[no-untyped-def]
        raise AssertionError("nothing else is needed")

    # Its QC comes as the next epoch's origin, which proves nothing to who is in the old one.
    origin = replace(forge.qc(blocks[2]), epoch=1, signatures=[])
    chain = proven(BlocksResponse(blocks[:3], origin, proof), request, no_qc, check_certificate)
    assert [block for _, block in chain] == blocks[:3]
    checked: list[QC] = []
    bare = BlocksResponse(blocks[:3], origin, None)
    assert len(proven(bare, request, checked.append, check_certificate)) == 2
    assert checked == [blocks[2].justify]
    bent = replace(proof, path=[blocks[4].header])
    with pytest.raises(Rejected):
        proven(BlocksResponse(blocks[:3], origin, bent), request, no_qc, check_certificate)
    replica = forge.replica(None)
    effects = receive(replica, BlocksResponse(blocks[:3], origin, proof), 0, GENESIS_MS + 500)
    assert committed(effects) == blocks[:3]
    assert not any(key.startswith("rejected") for key in replica.counters)


def test_answer_may_not_go_on_behind_the_end_of_an_epoch(forge: Forge) -> None:
    blocks = forge.chain([1, 2, 3])
    mixed = [*blocks[:2], replace(blocks[2], header=replace(blocks[2].header, epoch=1))]
    with pytest.raises(Rejected, match="epoch"):
        proven(
            BlocksResponse(mixed, None, None), BlocksRequest(b"", 0, 64),
            lambda qc: None, lambda header, certificate: None,
        )  # fmt: skip


def poll(replica: Replica, peer: int, answer: BlocksResponse, now_ms: int) -> list[Effect]:
    """Have the observer ask, whoever is asked, and answer as `peer` if it was that one."""
    for _ in range(8):
        asked = set(replica._fetch._flights)
        if peer in asked:
            return receive(replica, answer, peer, now_ms)
        for other in asked:
            receive(replica, BlocksResponse([], None, None), other, now_ms)
        now_ms = max(now_ms, replica.next_deadline_ms() or now_ms)
        replica.step(Tick(), now_ms)
    raise AssertionError("the peer is never asked")


def told(effects: Sequence[Effect]) -> list[FellBehind]:
    return [effect for effect in effects if isinstance(effect, FellBehind)]


def test_shell_is_told_once_that_blocks_are_no_longer_served(forge: Forge) -> None:
    replica = forge.replica(None)
    gone = BlocksResponse([], None, None, 500)
    now = GENESIS_MS + 100
    times: dict[int, list[int]] = {}
    pause_ms = TOLD_TIMEOUTS * CONFIG.fetch_timeout_ms
    while now < GENESIS_MS + 3 * pause_ms:
        for peer in list(replica._fetch._flights):
            for news in told(receive(replica, gone, peer, now)):
                assert news == FellBehind(peer, 500)
                times.setdefault(peer, []).append(now)
        now = max(now, replica.next_deadline_ms() or now)
        replica.step(Tick(), now)
    assert sorted(times) == [0, 1, 2, 3]
    for moments in times.values():
        assert 2 <= len(moments) <= 3
        assert all(later - at >= pause_ms for at, later in pairwise(moments))


@pytest.mark.parametrize(("height", "expected"), [(9_999, 0), (10_000, 1)])
def test_shell_is_told_when_the_way_is_too_long(forge: Forge, height: int, expected: int) -> None:
    blocks = forge.chain([1])
    high = forge.qc_of(replace(blocks[0].header, height=height, view=height))
    replica = forge.replica(None)
    effects = poll(replica, 1, BlocksResponse([], high, None), GENESIS_MS + 100)
    assert told(effects) == [FellBehind(1, height)] * expected
    unproven = replace(high, signatures=[])
    effects = poll(forge.replica(None), 1, BlocksResponse([], unproven, None), GENESIS_MS + 100)
    assert told(effects) == []


def test_peers_that_still_have_the_blocks_are_asked_on(forge: Forge) -> None:
    blocks = chain_of(forge, 400)
    archive = Archive(forge, blocks, SMALL)

    def pruned(request: BlocksRequest) -> BlocksResponse:
        if request.above_height < 350:
            return BlocksResponse([], archive.high_qc, None, 351)
        return replace(archive(request), retained_from=351)

    net = Net(forge.replica(0, config=SMALL), {1: archive, 2: archive, 3: pruned})
    net.fetch(blocks)
    assert net.news == [FellBehind(3, 400)]
    useless = [r for _, peer, r in net.asked if peer == 3 and r.above_height < 350]
    assert len(useless) == 1
    assert any(peer == 3 and r.above_height >= 350 for _, peer, r in net.asked)


def test_retained_height_is_in_every_answer(forge: Forge) -> None:
    replica = forge.replica(0)
    (answer,) = sent(receive(replica, BlocksRequest(b"", 0, 4), 2), BlocksResponse)
    assert isinstance(answer, BlocksResponse) and answer.retained_from == 1
    replica.retained_from = lambda: 77
    (answer,) = sent(receive(replica, BlocksRequest(b"", 0, 4), 3), BlocksResponse)
    assert isinstance(answer, BlocksResponse) and answer.retained_from == 77


def test_epochs_are_passed_one_after_the_other_from_several_peers() -> None:
    world = EpochWorld([(0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3)])
    world.run(200)
    world.down.add(3)
    world.order(120)
    epochs, height = world.apps[0].number, world.apps[0].height
    assert epochs >= 4
    world.restart(3)
    before_ms = world.now_ms
    turns: list[bool] = []
    step = world.replicas[3].step

    def watched(event: Event, now_ms: int) -> list[Effect]:
        effects = step(event, now_ms)
        if any(isinstance(effect, EpochBegan) for effect in effects):
            turns.append(bool(sent(effects, BlocksRequest)))
        return effects

    world.replicas[3].step = watched  # type: ignore[method-assign]
    while world.apps[3].height < height and world.now_ms < before_ms + 3_000:
        world.run(5)
    replica = world.replicas[3]
    assert world.apps[3].height >= height
    assert replica.counters["epochs_begun"] >= epochs
    assert replica.counters["answers_kept"] > 0
    assert "answers_not_connected" not in replica.counters
    assert sum(turns) >= epochs - 2, "the next epoch's blocks are asked for at once"
    assert "rejected_bad_certificate" not in replica.counters
    # Answers hold eight blocks; some are of the epoch behind, or come when an epoch has ended.
    assert replica.counters["requests_sent"] <= height // 7 + 8 * epochs
    assert replica.counters["blocks_fetched"] >= height - 20


def test_observer_asks_on_at_once_while_there_is_news(forge: Forge) -> None:
    blocks = chain_of(forge, 40)
    replica = forge.replica(None, config=SMALL)
    effects: list[Effect] = []
    now = GENESIS_MS
    # Answers without a QC of their own name no target, as those of a later epoch do not.
    for part in (blocks[:8], blocks[7:15]):
        (peer,) = replica._fetch._flights
        effects = receive(replica, BlocksResponse(part, None, None), peer, now)
        assert len(sent(effects, BlocksRequest)) == 1
    (peer,) = replica._fetch._flights
    effects = receive(replica, BlocksResponse([], None, None), peer, now)
    assert sent(effects, BlocksRequest) == []
    replica.step(Tick(), now + SMALL.fetch_timeout_ms - 1)
    assert not replica._fetch._flights
    replica.step(Tick(), now + SMALL.fetch_timeout_ms)
    assert len(replica._fetch._flights) == 1


def test_observer_fetches_from_four_peers_at_once(forge: Forge) -> None:
    blocks = chain_of(forge, 300)
    archive = Archive(forge, blocks, SMALL)
    net = Net(forge.replica(None, config=SMALL), dict.fromkeys(range(4), archive))
    (first,) = net.replica._fetch._flights
    net.absorb(receive(net.replica, archive(BlocksRequest(b"", 0, 8)), first, net.now_ms))
    start_ms = net.now_ms
    net.run(lambda: len(net.taken) >= len(blocks) - 1)
    assert net.taken == blocks[:-1]
    assert net.most_in_flight == 4
    assert (net.now_ms - start_ms) // RTT_MS <= 300 // 7 // 4 + 4


def test_late_answer_is_not_taken_for_that_of_a_smaller_request_from_the_same_height() -> None:
    note = PeerNote()
    large, small = BlocksRequest(b"", 10, 8), BlocksRequest(b"", 10, 3)
    note.ask(large)
    note.ask(small)
    assert note.answered(11, 8) is large
    assert note.answered(11, 8) is small, "what was asked of this height, though it is too much"
    assert note.answered(11, 1) is None


def test_blocks_from_a_height_that_was_not_asked_for_use_up_no_request() -> None:
    note = PeerNote()
    request = BlocksRequest(b"", 10, 8)
    note.ask(request)
    assert note.answered(5, 8) is None
    assert note.stray() is request, "what it shows is looked at"
    assert note.stray() is None, "once"
    assert note.answered(None, 0) is request
