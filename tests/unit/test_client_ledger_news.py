"""News of settled and final batches come on though the validator that tells them hangs."""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from client.tracker import follow_ledger
from protocol.codec import encode
from protocol.errors import Code, RemoteFault
from protocol.messages import LedgerNews, Status, StatusRequest, SubscribeLedger


class Validator:
    """Gives the news that it has and then none; `hangs` where it answers nothing else."""

    def __init__(self, final_blocks: list[int], *, hangs: bool = False) -> None:
        self.frames = [encode(LedgerNews(1, one, one, 0, [], one)) for one in final_blocks]
        self.hangs = hangs
        self.asked = 0

    def next_request_id(self) -> int:
        return 1

    def subscribe(self, frame: bytes, request_id: int) -> Validator:
        assert frame == encode(SubscribeLedger(request_id))
        return self

    async def get(self) -> bytes:
        if not self.frames:
            await asyncio.get_running_loop().create_future()
        return self.frames.pop(0)

    async def ask(self, *_: Any) -> Any:
        raise RemoteFault(Code.NOT_FOUND, "no batch yet")

    async def request(self, frame: bytes, request_id: int, timeout_ms: int) -> bytes:
        assert frame == encode(StatusRequest(request_id))
        self.asked += 1
        if self.hangs:
            raise TimeoutError
        return encode(Status(request_id, {}))


class Nodes:
    """A channel to several validators."""

    def __init__(self, validators: list[Validator]) -> None:
        self._validators = validators
        self.at = 0

    @property
    def places(self) -> int:
        return len(self._validators)

    async def session(self) -> Validator:
        return self._validators[self.at]

    async def move_on(self) -> None:
        self.at = (self.at + 1) % self.places


def follow(
    validators: list[Validator], until: Callable[[list[int]], bool]
) -> tuple[int, list[int]]:
    """Which validator is followed once `until` holds of the final blocks that were told."""
    final: list[int] = []
    nodes: Any = Nodes(validators)

    async def work() -> None:
        following = asyncio.ensure_future(
            follow_ledger(nodes, 0, lambda block: None, final.append, wait_s=0.0)
        )
        while not until(final):
            await asyncio.sleep(0.001)
        following.cancel()

    asyncio.run(asyncio.wait_for(work(), 10))
    return nodes.at, final


@pytest.fixture(autouse=True)
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("net.upstream.QUIET_S", 0.001)


def test_a_validator_that_hangs_is_left_for_the_next() -> None:
    hung, other = Validator([3], hangs=True), Validator([7])
    assert follow([hung, other], lambda final: 7 in final) == (1, [3, 7])
    assert hung.asked == 1


def test_a_validator_of_an_idle_ledger_is_not_left() -> None:
    idle = Validator([3])
    assert follow([idle, Validator([7])], lambda _: idle.asked >= 3) == (0, [3])


def test_the_only_validator_is_waited_for() -> None:
    only, looks = Validator([3], hangs=True), iter(range(20))
    assert follow([only], lambda _: next(looks, None) is None) == (0, [3])
    assert only.asked == 0
