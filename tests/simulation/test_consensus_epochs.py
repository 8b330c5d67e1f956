"""Member sets that change: joining, leaving, laggards, restarts around an epoch's end."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consensus_log import EPOCH_MS, Disk, EpochLog
from consensus_world import CHAIN, START_MS

from consensus import (
    Broadcast,
    Committed,
    EpochBegan,
    Event,
    FellBehind,
    MemberSet,
    Persist,
    PersistBlock,
    Received,
    Replica,
    ReplicaConfig,
    Send,
    Start,
    Tick,
    Work,
    verify_certificate,
)
from protocol.chain import (
    QC,
    Block,
    BlocksRequest,
    BlocksResponse,
    Certified,
    CommitCertificate,
    Header,
    Signature,
    genesis_header,
    genesis_qc,
    origin_qc,
    payload_hash,
    vote_digest,
)
from sim.bank import SimKey, sim_verify
from sim.random import SplitMix64

OBSERVER = 1_000_000
CONFIG = ReplicaConfig(
    block_interval_ms=20, empty_interval_ms=5, idle_interval_ms=200, timeout_ms=150,
    timeout_max_ms=600, fetch_timeout_ms=50, fetch_limit=8, committed_window=32, prove_roots=True,
)  # fmt: skip


class EpochWorld:
    def __init__(self, plan: Sequence[Sequence[int]], seed: int = 1, loss: int = 0) -> None:
        self.random, self.loss = SplitMix64(seed), loss
        size = 1 + max(max(chosen) for chosen in plan)
        self.keys = [SimKey(str(index)) for index in range(size)]
        self.plan = plan
        self.genesis = genesis_header(CHAIN, START_MS, bytes(32))
        self.now_ms, self.sequence = START_MS, 0
        self.queue: list[tuple[int, int, int, Event]] = []
        self.raw: list[tuple[int, int, int, int, object]] = []
        self.down: set[int] = set()
        self.disks = [Disk() for _ in self.keys]
        self.apps = [EpochLog(CHAIN, START_MS, self.keys, plan) for _ in self.keys]
        self.replicas: list[Replica] = []
        self.history: dict[int, bytes] = {}
        self.began: list[list[int]] = [[] for _ in self.keys]
        self.fell_behind: list[list[int]] = [[] for _ in self.keys]
        self.sets: dict[int, MemberSet] = {0: self.apps[0].members()}
        for index in range(size):
            self.replicas.append(self.make(index))
            self.step(index, Start())

    def make(self, index: int) -> Replica:
        app, disk = self.apps[index], self.disks[index]
        # The application is executed anew from the stored chain.
        pending = app.pending
        app = self.apps[index] = EpochLog(CHAIN, START_MS, self.keys, self.plan)
        app.pending = pending
        recovered = disk.recover()
        for height in range(1, (0 if recovered is None or recovered.tip is None else
                                recovered.tip.header.height) + 1):  # fmt: skip
            app.commit(*disk.chain[height])  # type: ignore[arg-type]
        return Replica(
            CONFIG, app.members(), self.keys[index], app, self.genesis, recovered,
            stored=disk.chain.get, verifier=sim_verify,
        )  # fmt: skip

    def restart(self, index: int) -> None:
        self.down.discard(index)
        self.replicas[index] = self.make(index)
        self.step(index, Start())

    def number_of(self, receiver: int, sender: int) -> int:
        member = self.replicas[receiver].members.index_of(self.keys[sender].public)
        return OBSERVER + sender if member is None else member

    def step(self, index: int, event: Event) -> None:
        replica, disk = self.replicas[index], self.disks[index]
        before = replica.members
        for effect in replica.step(event, self.now_ms):
            if isinstance(effect, PersistBlock):
                disk.blocks[effect.block.header.block_id()] = effect.block
            elif isinstance(effect, Persist):
                disk.state = effect.state
            elif isinstance(effect, Committed):
                self.committed(index, effect)
            elif isinstance(effect, EpochBegan):
                self.began[index].append(effect.members.epoch)
                self.sets[effect.members.epoch] = effect.members
                before = effect.members
            elif isinstance(effect, FellBehind):
                self.fell_behind[index].append(effect.height)
            elif isinstance(effect, Send):
                target = effect.member
                if target >= OBSERVER:
                    self.carry(index, target - OBSERVER, effect.message)
                else:
                    keys = [key.public for key in self.keys]
                    self.carry(index, keys.index(before.keys[target]), effect.message)
            elif isinstance(effect, Broadcast):
                for other in range(len(self.keys)):
                    if other != index:
                        self.carry(index, other, effect.message)
        due = replica.next_deadline_ms()
        if due is not None:
            self.push(max(due, self.now_ms + 1), index, -1, Tick())

    def committed(self, index: int, effect: Committed) -> None:
        header = effect.block.header
        block_id = header.block_id()
        assert self.history.setdefault(header.height, block_id) == block_id
        ends = effect.certificate.height == header.height
        if ends:
            verify_certificate(
                self.sets[header.epoch], header, effect.certificate, verifier=sim_verify
            )
        self.disks[index].chain[header.height] = (
            effect.block,
            effect.certificate if ends else None,
        )

    def carry(self, source: int, target: int, message: object) -> None:
        if self.random.below(100) >= self.loss:
            self.push(self.now_ms + 1 + self.random.below(5), target, source, message)

    def push(self, at_ms: int, target: int, source: int, what: object) -> None:
        self.sequence += 1
        heapq.heappush(self.raw, (at_ms, self.sequence, target, source, what))

    def run(self, for_ms: int) -> None:
        until_ms = self.now_ms + for_ms
        ticks: dict[int, int] = {}
        while self.raw and self.raw[0][0] <= until_ms:
            at_ms, _, target, source, what = heapq.heappop(self.raw)
            self.now_ms = max(self.now_ms, at_ms)
            if target in self.down or source in self.down:
                continue
            if source < 0:
                due = self.replicas[target].next_deadline_ms()
                if due is None or due > self.now_ms or ticks.get(target) == self.now_ms:
                    continue
                ticks[target] = self.now_ms
                self.step(target, Tick())
            else:
                event = Received(self.number_of(target, source), what)  # type: ignore[arg-type]
                self.step(target, event)
        self.now_ms = until_ms

    def submit(self, op: bytes) -> None:
        for index, app in enumerate(self.apps):
            app.pending.append(op)
            if index not in self.down:
                self.step(index, Work())

    def order(self, count: int, spacing_ms: int = 40) -> None:
        for number in range(count):
            self.submit(b"%d at %d" % (number, self.now_ms))
            self.run(spacing_ms)


def test_members_join_and_leave_and_the_log_goes_on() -> None:
    world = EpochWorld([(0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4), (2, 3, 4, 5)])
    world.order(120)
    world.run(2000)
    assert max(world.sets) >= 4
    for index in range(6):
        assert len(world.apps[index].log) == 120, f"{index} has the whole log"
    for height in range(1, min(app.height for app in world.apps) + 1):
        assert height in world.history
    # The newcomer signs: it proposed blocks of its epochs.
    proposers = {
        (block.header.epoch, world.plan[min(block.header.epoch, 3)][block.header.proposer])
        for block, _ in world.disks[2].chain.values()
    }
    assert any(epoch >= 1 and key == 4 for epoch, key in proposers)
    assert any(epoch >= 3 and key == 5 for epoch, key in proposers)
    assert not any(epoch >= 2 and key == 0 for epoch, key in proposers)


def test_silent_chain_changes_its_epoch_too() -> None:
    world = EpochWorld([(0, 1, 2, 3), (1, 2, 3, 4)])
    world.run(3 * EPOCH_MS)
    assert all(app.number >= 1 for app in world.apps)


def test_member_that_slept_through_epochs_catches_up_and_votes() -> None:
    world = EpochWorld([(0, 1, 2, 3), (0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3)])
    world.run(200)
    world.down.add(3)
    world.order(100)
    assert world.apps[0].number >= 3
    world.restart(3)
    world.order(30)
    world.run(1000)
    assert len(world.apps[3].log) == 130
    assert world.replicas[3].members.epoch == world.replicas[0].members.epoch
    assert world.replicas[3].counters["votes_sent"] > 0


@pytest.mark.parametrize("seed", range(25))
def test_epochs_turn_under_loss_and_restarts(seed: int) -> None:
    world = EpochWorld([(0, 1, 2, 3), (1, 2, 3, 4), (0, 2, 3, 4), (0, 1, 3, 4)], seed, loss=10)
    for _ in range(12):
        world.order(5)
        victim = world.random.below(10)
        if victim < 5:
            world.down = {victim}
            world.order(4)
            world.restart(victim)
    world.loss = 0
    world.run(5000)
    assert all(len(app.log) == len(world.apps[0].log) for app in world.apps), seed
    assert len(set(world.apps[0].log)) == len(world.apps[0].log)
    assert all(app.number >= 2 for app in world.apps), seed


def test_genesis_origin_and_epoch_origin_are_alike() -> None:
    genesis = genesis_header(CHAIN, START_MS, bytes(32))
    assert origin_qc(0, genesis, genesis.block_id()) == genesis_qc(genesis)


def test_nothing_above_the_last_block_of_an_epoch_is_executed() -> None:
    """A pair above the last block is certified, and a peer serves both with its certificate."""
    keys = [SimKey(str(index)) for index in range(4)]
    plan = [(0, 1, 2, 3)] * 3
    app, shadow = EpochLog(CHAIN, START_MS, keys, plan), EpochLog(CHAIN, START_MS, keys, plan)
    members = app.members()
    genesis = genesis_header(CHAIN, START_MS, bytes(32))
    roots = {0: bytes(32)}

    def qc(header: Header) -> QC:
        if header.height == 0:
            return genesis_qc(genesis)
        block_id, place = header.block_id(), (header.epoch, header.view, header.height)
        digest = vote_digest(CHAIN, *place, block_id)
        return QC(CHAIN, *place, block_id, [Signature(i, keys[i].sign(digest)) for i in (0, 1, 2)])

    blocks: list[Block] = []
    parent = genesis
    # The second block is the boundary, the fourth the last: view 5 failed above it.
    for view, time_ms in ((1, 10), (2, 1_005), (3, 1_010), (4, 1_020), (6, 1_030), (7, 1_040)):
        direct = parent.height > 0 and parent.view == parent.parent_view + 1
        known = parent.height - 1 if direct else parent.app_height
        while shadow.height < known:
            shadow.commit(blocks[shadow.height], None)  # type: ignore[arg-type]
            roots[shadow.height] = shadow.digest
        justify = qc(parent)
        header = Header(
            CHAIN, 0, view, parent.height + 1, justify.block_id, parent.view, START_MS + time_ms,
            0, payload_hash(b""), justify.digest(), known, roots[known],
        )  # fmt: skip
        blocks.append(Block(header, b"", justify, None))
        parent = header
    replica = Replica(CONFIG, members, keys[3], app, genesis, verifier=sim_verify)
    now_ms = START_MS + 2_000
    replica.step(Start(), now_ms)
    effects = replica.step(Received(0, Certified(qc(parent), None)), now_ms)
    asked = [
        e.member for e in effects if isinstance(e, Send) and isinstance(e.message, BlocksRequest)
    ]
    proof = CommitCertificate(blocks[-1].justify, parent, qc(parent))
    answer = Received(asked[0], BlocksResponse(blocks, None, proof))
    effects = replica.step(answer, now_ms + 5)
    assert [e.block for e in effects if isinstance(e, Committed)] == blocks[:4]
    assert replica.members.epoch == 1
    certificate = replica.certificate
    assert certificate is not None and certificate.height == 4 and len(certificate.path) == 1
    verify_certificate(members, blocks[3].header, certificate, verifier=sim_verify)


def test_whoever_knows_only_members_that_are_gone_tells_its_shell() -> None:
    world = EpochWorld([(0, 1, 2, 3), (4, 5, 6, 7), (4, 5, 6, 8)])
    world.down.add(8)
    world.order(40)
    world.down |= {0, 1, 2, 3}
    world.restart(8)
    world.order(60)
    world.run(3000)
    assert world.fell_behind[8], "nobody that it knows answers, others speak of later epochs"
