"""A validator's key is exchanged in its container, which others know by its service's name."""

from __future__ import annotations

import os
from typing import Any

import pytest
from compose_cluster import ComposeCluster, eventually

from cluster.restart import readiness
from store.keyfiles import load_key
from store.testnet import Testnet

pytestmark = pytest.mark.timeout(1800)

NAME = "validator-2"
ROTATION_LIMIT_S = 300


def members(cluster: ComposeCluster) -> dict[str, str]:
    """Public keys of the validators that vote now, by their names."""
    shown = cluster.trilemma("validator", "list")["validators"]
    return {one["name"]: one["public_key"] for one in shown if one["voting_uusd"]}


def rotated(cluster: ComposeCluster) -> dict[str, Any]:
    command = ("validator", "rotate", NAME, "--as", "trader-01")
    told: dict[str, Any] = cluster.trilemma(*command, limit_s=ROTATION_LIMIT_S)
    return told


def takes_part(cluster: ComposeCluster) -> bool:
    """Whether the container is healthy, and its validator validates and is linked with others."""
    row = next(row for row in cluster.trilemma("status")["processes"] if row["name"] == NAME)
    health = cluster.inspected(NAME)["State"]["Health"]["Status"]
    ready = not readiness(Testnet.load(cluster.testnet), NAME)
    return ready and health == "healthy" and row["peers"] >= 3


def test_a_key_is_exchanged_in_a_container_twice(small_cluster: ComposeCluster) -> None:
    cluster = small_cluster
    container = cluster.inspected(NAME)["Id"]
    keys = [members(cluster)[NAME]]
    peers = []
    for _ in range(2):
        told = rotated(cluster)
        testnet = Testnet.load(cluster.testnet)
        path = testnet.key_path(NAME)
        keys.append(load_key(path).public.hex())
        peers.append(told["peer"])
        found = members(cluster)
        assert found[NAME] == keys[-1] and len(found) == 4
        assert keys[-2] not in found.values()
        eventually(f"{NAME} takes part", lambda: takes_part(cluster))
        # Its files are those of the user that the container runs as, its certificate in the volume.
        uid = int(cluster.docker("exec", container, "id", "-u"))
        files = [path, testnet.config_path(NAME), path.with_suffix(".crt")]
        if os.geteuid() == 0:
            assert {each.stat().st_uid for each in files} == {uid}
        assert path.stat().st_mode & 0o777 == 0o600
        inside = cluster.docker("exec", container, "stat", "-c", "%u", f"/data/{NAME}.crt")
        assert int(inside) == uid
    assert len({*keys}) == 3 and len({*peers}) == 2
    # The container is the same one; made anew, it goes on with the newest key.
    assert cluster.inspected(NAME)["Id"] == container
    cluster.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", NAME)
    assert cluster.inspected(NAME)["Id"] != container
    eventually(f"{NAME} takes part again", lambda: takes_part(cluster))
    report = cluster.trilemma("audit")
    assert report["roots_agree"] and report["money_conserved"], report
