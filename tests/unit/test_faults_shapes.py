"""Shapes of partitions, and what is flipped in files: pure, and the same from the same seed."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from cluster.faults_damage import flip_bits, set_byzantine
from cluster.faults_evidence import counters
from cluster.faults_orders import describe
from cluster.faults_plans import adding, removing
from cluster.faults_shapes import between, choose, shape, tolerated
from cluster.faults_targets import LocalTarget
from cluster.faults_wire import Told
from cluster.testnet import TestnetOptions, create_testnet
from net.injection_plan import NOTHING, Clock, Disk, Toxic
from protocol.errors import ConfigError
from store.config import load_config
from store.testnet import Testnet

SEVEN = [f"v{number}" for number in range(7)]


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    folder = tmp_path_factory.mktemp("shapes") / "testnet"
    return create_testnet(folder, TestnetOptions(traders=0, free_ports=True))


def test_groups_lose_both_ways_unless_told_otherwise() -> None:
    assert between([["a"], ["b", "c"]]) == {"a": ["b", "c"], "b": ["a"], "c": ["a"]}
    assert between([["a"], ["b", "c"]], one_way=True) == {"a": ["b", "c"]}
    assert between([["a"], ["b"], ["c"]])["b"] == ["a", "c"]
    for groups in ([["a"]], [["a"], []], [["a"], ["a", "b"]]):
        with pytest.raises(ConfigError):
            between(groups)


@pytest.mark.parametrize("count", [3, 4, 5, 7, 10])
def test_a_ring_of_majorities(count: int) -> None:
    members = SEVEN[:count] if count <= 7 else [f"v{number}" for number in range(count)]
    blocked = shape("majorities-ring", members, Random(count))
    seen = [frozenset(members) - set(blocked.get(name, [])) for name in members]
    assert all(len(one) > count // 2 for one in seen)
    if count > 3:
        assert len(set(seen)) == count
    assert all(a in blocked.get(b, []) for a, peers in blocked.items() for b in peers)


def test_named_shapes() -> None:
    halves = shape("partition-halves", SEVEN, Random(1))
    assert sorted({len(peers) for peers in halves.values()}) == [3, 4]
    one = shape("partition-one", SEVEN, Random(1))
    assert sorted(len(peers) for peers in one.values()) == [1] * 6 + [6]
    bridge = shape("bridge", SEVEN, Random(1))
    assert len(bridge) == 6
    (middle,) = set(SEVEN) - set(bridge)
    assert not any(middle in peers for peers in bridge.values())
    for name, members in (("bridge", ["a", "b"]), ("partition-one", ["a"]), ("square", SEVEN)):
        with pytest.raises(ConfigError):
            shape(name, members, Random(1))


def test_victims() -> None:
    assert [tolerated(count) for count in (1, 3, 4, 7, 10)] == [0, 0, 1, 2, 3]
    assert choose(SEVEN, "all", Random(1)) == SEVEN
    assert len(choose(SEVEN, "majority", Random(1))) == 3
    assert choose(SEVEN, "random:2", Random(5)) == choose(SEVEN, "random:2", Random(5))
    with pytest.raises(ConfigError):
        choose(SEVEN, "random:9", Random(1))


def test_plans_compose() -> None:
    toxic = Toxic(name="a", type="latency", peers=["*"], attributes={"latency_ms": 5})
    plan = NOTHING
    for fault in (toxic, Clock("b", -3), Disk("c", full=True), Disk("d", delay_ms=2)):
        plan = adding(fault)(plan)
    kinds = ["latency", "clock", "full-disk", "slow-disk"]
    assert [kind for kind, _ in describe(plan)] == kinds
    plan = removing("c")(removing("a")(plan))
    assert describe(plan) == [("clock", "-3 ms"), ("slow-disk", "2 ms a sync")]
    assert describe(adding(Clock("b", 7))(plan))[0] == ("clock", "+7 ms"), "in its place"
    told = Told(bit={
        "peers": {"x": {"lost_frames": 2}, "y": {"lost_frames": 3}},
        "disk": {"delayed_syncs": 1}, "clock_off_ms": -4,
    })  # fmt: skip
    assert counters(told) == {"lost_frames": 5, "delayed_syncs": 1, "clock_off_ms": -4}


def test_bits_are_flipped_anywhere_in_a_file(testnet: Testnet) -> None:
    data = testnet.data_path("validator-0")
    (data / "deep").mkdir(parents=True)
    before = bytes(4_096)
    (data / "deep" / "log.seg").write_bytes(before)
    (data / "LOCK").write_bytes(b"1234")
    (data / "x-shm").write_bytes(b"1234")
    target = LocalTarget(testnet)
    damage = flip_bits(target, "validator-0", Random(3), bits=5)
    after = (data / "deep" / "log.seg").read_bytes()
    flipped = sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True))
    assert (flipped, damage.path, damage.before) == (5, "deep/log.seg", before)
    assert min(offset for offset, _ in damage.places) < 3_000, "not only the tail"
    assert (data / "LOCK").read_bytes() == (data / "x-shm").read_bytes() == b"1234"
    with pytest.raises(ConfigError, match="no data file history"):
        flip_bits(target, "validator-0", Random(3), path="history")


def test_a_lie_stands_in_the_configuration(testnet: Testnet) -> None:
    entry = testnet.process("validator-1")
    path: Path = testnet.config_path("validator-1")
    honest = path.read_text()
    for mode in ("silent", "equivocates"):
        set_byzantine(testnet, entry, mode)
        assert load_config(path).byzantine == mode
    set_byzantine(testnet, entry, "")
    assert path.read_text() == honest
    with pytest.raises(ConfigError, match="silent"):
        set_byzantine(testnet, entry, "generous")
    assert path.read_text() == honest


def test_a_file_is_needed_to_do_harm() -> None:
    empty: Any = cast(Any, type("Empty", (), {"files": lambda self, name: {}})())
    with pytest.raises(ConfigError, match="could be damaged"):
        flip_bits(empty, "x", Random(1))
