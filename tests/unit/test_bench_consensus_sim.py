"""The simulated consensus bench: what it charges, what it counts, and that a seed decides all."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from bench.consensus_model import Batch, Cluster, Costs, Meter, Setting
from bench.consensus_sim import BenchFailed, Plan, Run, measure
from sim.kernel import Kernel

LAN = Setting(4, "lan", 25_000)
SHORT = Plan(blocks=40, seconds=30.0)
FREE = Costs(0, 0, 0, 0, 0, 0, 0)


def run(setting: Setting = LAN, crashes: str = "none", plan: Plan = SHORT) -> Run:
    return measure(setting, crashes, plan)


def test_a_seed_decides_a_run() -> None:
    first, second = (msgspec.structs.replace(run(), wall_s=0.0) for _ in range(2))
    assert first == second
    other = run(replace(LAN, seed=2))
    assert other.quorum_ms != first.quorum_ms or other.window_s != first.window_s


def test_figures_fit_together() -> None:
    found = run()
    assert found.blocks >= SHORT.blocks - 1
    assert found.views_failed == 0
    assert found.payload_bytes_per_s == pytest.approx(25_000 * found.blocks / found.window_s, 0.01)
    assert found.quorum_ms["p50"] <= found.all_ms["p50"] < found.pool_ms["p50"]


def test_a_commit_takes_four_delays_and_a_bit() -> None:
    """Proposal, vote, next proposal, its vote, and the certificate that commits at the others."""
    setting = replace(LAN, net="world", costs=FREE)
    found = run(setting, plan=Plan(blocks=10))
    # The shortest of the delays is 32 ms, the longest 136 ms and 5 %.
    assert 5 * 32 <= found.all_ms["p50"] <= 5 * 143


def test_a_leader_cannot_send_faster_than_its_line() -> None:
    slow = replace(LAN, payload_bytes=1_000_000, rate=10_000_000, costs=FREE, timeout_ms=5_000)
    found = run(slow, plan=Plan(blocks=10))
    # Three others need the payload, so a block takes 300 ms of the leader's line.
    assert 2.5 < found.blocks_per_s <= 3.34


def test_signatures_cost_what_they_are_said_to() -> None:
    usual = run(replace(LAN, costs=FREE))
    dear = run(replace(LAN, costs=replace(FREE, verify_us=20_000)))
    # A view waits for the votes that its leader checks, and for who checks the proposal.
    assert usual.quorum_ms["p50"] + 100 < dear.quorum_ms["p50"]
    assert dear.cpu_us_per_block > 4 * 20_000


def test_a_dead_member_costs_views_under_reputation_only_once() -> None:
    load = run(crashes="load")
    assert 1 <= load.views_failed <= 2
    assert load.longest_gap_ms >= LAN.timeout_ms
    turns = run(crashes="load", plan=Plan(blocks=40, leaders="round-robin"))
    assert turns.views_failed >= 8
    assert turns.payload_bytes_per_s < load.payload_bytes_per_s


def test_members_that_never_run_are_not_waited_for() -> None:
    found = run(crashes="start")
    assert found.views_failed == 0
    assert found.blocks >= SHORT.blocks - 1


def test_a_cluster_without_a_quorum_commits_nothing() -> None:
    cluster = Cluster(LAN)
    cluster.boot(["n0", "n1"])
    cluster.run_until(1, 5_000_000)
    assert cluster.height() == 0


def test_a_window_without_commits_is_an_error() -> None:
    with pytest.raises(BenchFailed):
        run(plan=Plan(seconds=0.001))


def test_a_batch_counts_where_it_is_final_at_every_live_member() -> None:
    meter = Meter(Kernel(1))
    meter.batches = [
        Batch(None, 0, {"a": 5, "b": 9}),
        Batch(0, 3, {"a": 6}),
        Batch(3, 4, {"a": 10, "b": 11}),
    ]
    assert meter.finished(["a", "b"], 0, 10) == meter.batches[:1]
    assert meter.finished(["a"], 5, 10) == meter.batches[1:]
