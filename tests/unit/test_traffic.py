"""What links carry is counted in both directions, for every kind of link, to the last byte."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import pytest
from pipeline_world import PipelineWorld
from prometheus_client.parser import text_string_to_metric_families

from net.mesh import Peer, PeerMesh
from net.metrics import Metrics
from net.rpc import Connection
from net.service import PublicService
from net.tls import client_context, make_certificate, server_context
from net.traffic import KINDS, PEERS, PUBLIC, UPSTREAMS, Traffic, traffic
from protocol.codec import encode
from protocol.keys import Key
from protocol.messages import StatusRequest


@dataclass(eq=False)
class _Session:
    link_kind: str = PUBLIC
    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0


def test_traffic_is_counted_once_over_sessions_that_come_and_go() -> None:
    counted, first, second, other = Traffic(), _Session(), _Session(), _Session("")
    for session in (first, second, other):
        counted.joined(session)
    first.bytes_in, other.bytes_in = 10, 99
    assert counted.totals()[PUBLIC]["bytes_in"] == 10
    first.bytes_in, second.bytes_in, second.frames_out = 15, 7, 2
    counted.left(first)
    counted.left(first)
    counted.left(other)
    assert counted.totals()[PUBLIC]["bytes_in"] == 22
    counted.left(second)
    assert counted.totals()[PUBLIC] == {
        "bytes_in": 22, "bytes_out": 0, "frames_in": 0, "frames_out": 2,
    }  # fmt: skip
    assert counted.totals()[PEERS]["bytes_in"] == 0


def _grown(before: dict[str, dict[str, int]], kind: str, name: str) -> int:
    return traffic.totals()[kind][name] - before[kind][name]


async def _until_carried(before: dict[str, dict[str, int]], kind: str, name: str) -> None:
    async with asyncio.timeout(20):
        while not _grown(before, kind, name):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def test_a_question_counts_on_both_ends_even_if_the_session_is_gone_at_once() -> None:
    world, port = PipelineWorld(), _free_port()
    service = PublicService(world.chain, "sequencer", "fake", dict)
    await service.start("127.0.0.1", port)
    before = traffic.totals()
    try:
        async with Connection("127.0.0.1", port) as connection:
            answer = await connection.request(encode(StatusRequest(1)), 1)
        await _until_carried(before, PUBLIC, "bytes_in")
    finally:
        await service.stop()
    for near, far in (("in", "out"), ("out", "in")):
        assert _grown(before, PUBLIC, f"frames_{near}") == 1
        assert _grown(before, UPSTREAMS, f"frames_{far}") == 1
        carried = _grown(before, UPSTREAMS, f"bytes_{far}")
        assert carried == _grown(before, PUBLIC, f"bytes_{near}") > 0
    assert _grown(before, UPSTREAMS, "bytes_in") == len(answer) + 4


async def _mesh(key: Key, certificate: bytes, other: bytes) -> PeerMesh:
    async def ignore(_key: bytes, _frame: bytes) -> None:
        return

    return PeerMesh(
        key.public, server_context(key, certificate, [other]),
        client_context(key, certificate, [other]), ignore, listen_host="127.0.0.1", listen_port=0,
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["in", "out"])
async def test_members_count_what_they_send_and_what_comes(direction: str) -> None:
    keys = [Key.generate(), Key.generate()]
    own, other = [make_certificate(key, f"member-{at}") for at, key in enumerate(keys)]
    near, far = await _mesh(keys[0], own, other), await _mesh(keys[1], other, own)
    before = traffic.totals()
    try:
        await far.start()
        near.set_peers(
            [Peer(keys[1].public, "127.0.0.1", far.port)],
            server_context(keys[0], own, [other]), client_context(keys[0], own, [other]),
        )  # fmt: skip
        far.set_peers(
            [Peer(keys[0].public, "127.0.0.1", 1)],  # it never gets through: links are one-way
            server_context(keys[1], other, [own]), client_context(keys[1], other, [own]),
        )  # fmt: skip
        await near.start()
        near.send(keys[1].public, b"\x01" * 100)
        await _until_carried(before, PEERS, f"frames_{direction}")
        assert _grown(before, PEERS, f"bytes_{direction}") == 104
    finally:
        await near.close()
        await far.close()


def test_every_kind_and_direction_is_shown() -> None:
    text = Metrics("node", dict, {}).text().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in ("trilemma_link_bytes", "trilemma_link_frames"):
        shown = {(one.labels["link"], one.labels["direction"]) for one in families[name].samples}
        assert shown == {(kind, way) for kind in KINDS for way in ("in", "out")}
