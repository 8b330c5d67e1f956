"""Small clusters in one process: pace, catching up, restarts, single member, observers."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consensus_log import LogApp
from consensus_world import START_MS, World

from consensus import (
    Committed,
    Effect,
    Received,
    Replica,
    ReplicaConfig,
    Send,
    Start,
    Tick,
)
from consensus.effects import Event
from sim.bank import sim_verify

CONFIG = ReplicaConfig(
    block_interval_ms=20, empty_interval_ms=5, idle_interval_ms=400, timeout_ms=100
)


def counted(world: World, name: str) -> int:
    return sum(r.counters.get(name, 0) for r in world.replicas if r is not None)


def order(world: World, count: int, spacing_ms: int = 20) -> None:
    for _ in range(count):
        world.submit(b"op %d" % world.submitted)
        world.run(world.now_ms + spacing_ms)


def test_work_is_committed_everywhere_within_a_few_blocks() -> None:
    world = World(1, 4, CONFIG)
    world.run(START_MS + 1000)
    world.submit(b"order")
    # Three proposals at the empty pace and their votes; no heartbeat is waited for.
    world.run(world.now_ms + 80)
    assert [app.log for app in world.apps] == [[b"order"]] * 4


@pytest.mark.parametrize("prove_roots", [False, True])
def test_root_after_the_newest_payload_is_certified_without_a_heartbeat(prove_roots: bool) -> None:
    config = replace(CONFIG, idle_interval_ms=30_000, timeout_ms=100, prove_roots=prove_roots)
    world = World(1, 4, config)
    world.run(START_MS + 1000)
    assert all((height > 0) == prove_roots for height in world.heights())
    world.submit(b"order")
    world.run(world.now_ms + 300)
    for disk in world.disks:
        (height,) = [height for height, (block, _) in disk.chain.items() if block.payload]
        newest = disk.chain[max(disk.chain)][0].header
        assert (newest.app_height >= height) == prove_roots
    before = world.heights()
    world.run(world.now_ms + 20_000)
    assert world.heights() == before, "once all is proven, silence"


def test_idle_cluster_is_nearly_silent_and_loses_no_view() -> None:
    world = World(1, 4, CONFIG)
    world.submit(b"order")
    world.run(START_MS + 20_000)
    assert counted(world, "timeouts_sent") == 0
    proposals = counted(world, "proposals_sent")
    assert 45 <= proposals <= 55


def test_blocks_keep_their_interval_under_steady_work() -> None:
    world = World(1, 4, CONFIG)
    for number in range(40):
        world.submit(b"op %d" % number)
    world.run(START_MS + 60 * 20)
    assert [len(app.log) for app in world.apps] == [40] * 4
    times = [block.header.time_ms for block, _ in world.disks[0].chain.values() if block.payload]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) >= CONFIG.block_interval_ms


def test_dead_leader_costs_one_view_and_is_skipped_from_then_on() -> None:
    world = World(1, 4, CONFIG)
    order(world, 20, 40)
    world.crash(2)
    before = counted(world, "tcs_formed")
    order(world, 100, 40)
    world.run(world.now_ms + 1000)
    assert [len(world.apps[index].log) for index in (0, 1, 3)] == [120] * 3
    # Each of the three forms the certificate of the one failed view, or of the next: round robin.
    assert 0 < counted(world, "tcs_formed") - before <= 6


def test_member_that_was_dead_from_the_start_never_leads() -> None:
    world = World(1, 4, CONFIG)
    world.crash(2)
    order(world, 50, 40)
    world.run(world.now_ms + 1000)
    assert [len(world.apps[index].log) for index in (0, 1, 3)] == [50] * 3
    assert counted(world, "tcs_formed") == 0


def test_small_members_that_are_dead_between_large_ones_do_not_stop_the_cluster() -> None:
    # Every second turn of the round robin is a dead member's, and votes go to the next leader.
    world = World(1, 7, CONFIG, stakes=(40, 1, 40, 1, 40, 1, 1))
    for index in (1, 3, 5, 6):
        world.crash(index)
    order(world, 20, 40)
    world.run(world.now_ms + 5000)
    assert [len(world.apps[index].log) for index in (0, 2, 4)] == [20] * 3


def test_clocks_apart_and_a_dead_member_do_not_stop_the_cluster() -> None:
    # 800 ms between the fastest and the slowest clock, and every vote is needed.
    world = World(1, 4, ReplicaConfig(timeout_ms=1500, timeout_max_ms=10_000))
    world.skew_ms = [400, 0, -400, 0]
    world.crash(3)
    order(world, 5, 40)
    world.run(world.now_ms + 60_000)
    assert [len(world.apps[index].log) for index in (0, 1, 2)] == [5] * 3
    assert counted(world, "not_voted_time_ahead") > 0


def test_without_a_quorum_nothing_commits_and_with_it_everything_returns() -> None:
    world = World(1, 4, CONFIG)
    world.crash(1)
    world.crash(2)
    order(world, 5, 200)
    assert world.heights() == [0] * 4
    world.restart(1)
    world.run(world.now_ms + 5000)
    assert [len(world.apps[index].log) for index in (0, 1, 3)] == [5] * 3


def test_stake_and_not_number_makes_the_quorum() -> None:
    world = World(1, 5, CONFIG, stakes=(7, 1, 1, 1, 1))
    for index in (3, 4):
        world.crash(index)
    order(world, 5, 100)
    world.run(world.now_ms + 10_000)
    assert [len(app.log) for app in world.apps[:3]] == [5] * 3
    world = World(1, 5, CONFIG, stakes=(7, 1, 1, 1, 1))
    world.crash(0)
    order(world, 5, 100)
    assert world.heights() == [0] * 5


def test_member_far_behind_catches_up_from_other_members_disks() -> None:
    config = ReplicaConfig(
        block_interval_ms=20, empty_interval_ms=5, idle_interval_ms=400, timeout_ms=30,
        committed_window=8, fetch_limit=16,
    )  # fmt: skip
    world = World(1, 4, config)
    order(world, 5)
    world.crash(0)
    order(world, 300)
    behind = max(world.disks[0].chain)
    ahead = max(world.heights())
    assert ahead - behind > 50
    world.restart(0)
    world.run(world.now_ms + 2000)
    assert world.heights()[0] > ahead
    assert world.apps[0].log == world.apps[1].log
    replica = world.replicas[0]
    assert replica is not None and replica.counters["requests_sent"] >= 4


def test_large_blocks_travel_in_bounded_answers() -> None:
    config = ReplicaConfig(
        block_interval_ms=20, empty_interval_ms=5, idle_interval_ms=400, timeout_ms=100,
        max_response_bytes=20_000,
    )  # fmt: skip
    world = World(1, 4, config)
    world.crash(0)
    for number in range(30):
        world.submit(b"%d" % number + bytes(9_000))
        world.run(world.now_ms + 40)
    world.restart(0)
    world.run(world.now_ms + 4000)
    assert world.apps[0].log == world.apps[1].log
    assert len(world.apps[0].log) == 30


def test_cluster_restarted_at_once_resumes_with_its_state() -> None:
    world = World(1, 4, CONFIG)
    order(world, 20)
    before = world.heights()
    for index in range(4):
        world.crash(index)
    for index in range(4):
        world.restart(index)
    order(world, 10)
    world.run(world.now_ms + 1000)
    assert [len(app.log) for app in world.apps] == [30] * 4
    assert min(world.heights()) > max(before)


def single(empty_interval_ms: int = 0) -> World:
    return World(1, 1, ReplicaConfig(idle_interval_ms=None, empty_interval_ms=empty_interval_ms))


def test_single_member_commits_in_the_step_that_proposes() -> None:
    world = single()
    world.run(START_MS + 100)
    world.submit(b"order")
    assert world.apps[0].log == [b"order"]
    replica = world.replicas[0]
    assert replica is not None
    assert replica.next_deadline_ms() is None
    assert world.queue == []


def test_single_member_resumes_after_a_restart() -> None:
    world = single()
    order(world, 10)
    world.crash(0)
    world.restart(0)
    order(world, 10)
    world.run(world.now_ms + 100)
    assert len(world.apps[0].log) == 20
    assert counted(world, "timeouts_sent") == 0


def test_single_member_paces_work_by_its_block_interval() -> None:
    world = single()
    world.run(START_MS + 100)
    for number in range(10):
        world.submit(b"op %d" % number)
    assert len(world.apps[0].log) == 1
    world.run(world.now_ms + 10 * 25)
    assert len(world.apps[0].log) == 10


def pump(world: World, observer: Replica, event: Event) -> list[Effect]:
    """Step an observer, carrying its requests to members and their answers back."""
    events = [event]
    effects: list[Effect] = []
    while events:
        step = observer.step(events.pop(0), world.now_ms)
        effects += step
        for effect in step:
            if isinstance(effect, Send):
                member = world.replicas[effect.member]
                if member is None:
                    continue
                answers = member.step(Received(50, effect.message), world.now_ms)
                events += [
                    Received(effect.member, answer.message)
                    for answer in answers
                    if isinstance(answer, Send) and answer.member == 50
                ]
    return effects


def test_observer_without_a_key_follows_the_chain() -> None:
    world = World(1, 4, CONFIG)
    order(world, 40)
    app = LogApp()
    observer = Replica(CONFIG, world.members, None, app, world.genesis, verifier=sim_verify)
    world.crash(1)
    effects = pump(world, observer, Start())
    for _ in range(20):
        due = observer.next_deadline_ms()
        assert due is not None
        world.now_ms = max(world.now_ms, due)
        effects += pump(world, observer, Tick())
    heights = [e.block.header.height for e in effects if isinstance(e, Committed)]
    assert heights == list(range(1, len(heights) + 1))
    assert app.log == world.apps[0].log[: len(app.log)]
    assert len(app.log) >= 38
    assert all(isinstance(e, Send | Committed) or "Persist" in str(type(e)) for e in effects)
