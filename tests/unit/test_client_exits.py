"""Claim files and kept states: what the command line writes, reads back, and refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from exit_world import ExitWorld, traded

from client import exit_state, exits
from client.exit_state import (
    CLAIM_FILE_BYTES,
    claim_file,
    read_claim_file,
    read_state_file,
    write_state_file,
)
from client.exits import find_payout, pay_when_final
from client.sdk import Exchange
from node.rebuild import CheckedState, RebuiltState
from protocol.actions import Withdraw
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.messages import BatchRequest, BatchView, BlocksFrom, BlocksView
from protocol.settlement import OutboxEntry, Payout


def test_a_claim_file_says_what_the_ledger_then_pays(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world)
    state = world.rebuilt()
    found = claim_file(state, world.account("alice"))
    worth = world.engine.account_view(0, world.account("alice")).equity_uusd
    assert (found.value_uusd, found.batch) == (worth, world.ledger.final().batch)
    assert found.address == world.keys["alice"].address.hex()
    path = tmp_path / "claim.json"
    path.write_bytes(msgspec.json.encode(found))
    again = read_claim_file(path, world.chain)
    assert again == found and again.action() == state.claim(world.account("alice"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no claim file"),
        (b"{}", "no claim file"),
        (b"[" * 9, "no claim file"),
        (b"\xff", "no claim file"),
        (b" " * (CLAIM_FILE_BYTES + 1), "no claim file"),
    ],
)
def test_what_is_no_claim_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "claim.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_claim_file(path, ExitWorld().chain)


def test_a_missing_foreign_or_damaged_claim_file_is_told(tmp_path: Path) -> None:
    world = ExitWorld()
    path = tmp_path / "claim.json"
    with pytest.raises(ConfigError, match="cannot read"):
        read_claim_file(path, world.chain)
    found = claim_file(world.rebuilt(), 16)
    path.write_bytes(msgspec.json.encode(found))
    with pytest.raises(ConfigError, match="another chain"):
        read_claim_file(path, ExitWorld(forced_ms=99_000).chain)
    for claim in ("zz", "c0", found.claim[:-2]):
        with pytest.raises(ConfigError, match="damaged"):
            msgspec.structs.replace(found, claim=claim).action()


def test_a_state_is_kept_in_a_file_and_gone_on_from(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world, 1)
    path = tmp_path / "state"
    with pytest.raises(ConfigError, match="no kept state"):
        read_state_file(path)
    write_state_file(path, world.rebuilt())
    traded(world, 1)
    state = RebuiltState(world.ledger, read_state_file(path))
    assert state.batch == 2
    state.advance(world.block_at)
    assert state.tree.root == world.ledger.final().state_root
    assert world.force("alice") == Code.OK


class Validator:
    """Answers a client's questions out of a world, as `client.channel.Channel` would."""

    places = 1

    def __init__(self, world: ExitWorld) -> None:
        self.world = world
        self.asked = 0

    async def ask(self, answer: type, request: type, *fields: Any) -> Any:
        self.asked += 1
        ledger = self.world.ledger
        if request is BatchRequest:
            settled = ledger.batch(fields[1] or ledger.shard_leaf().batch)
            assert settled is not None
            return BatchView(1, settled.header, settled.ledger_height, settled.ledger_time_ms)
        assert request is BlocksFrom
        block = self.world.block_at(fields[0])
        assert block is not None
        return BlocksView(1, [block], self.world.certificate())


class Client:
    """What `client.exits` needs of an exchange."""

    def __init__(self, world: ExitWorld) -> None:
        self.chain, self.node = world.chain, Validator(world)
        self.ledger = self

    def channel(self, role: str) -> Validator:
        assert role == "node"
        return self.node

    async def newest_batch(self) -> BatchView:
        return await self.node.ask(BatchView, BatchRequest, 0, 0)  # type: ignore[no-any-return]


async def test_payouts_are_found_in_whichever_batch_posted_them() -> None:
    world = ExitWorld()
    client: Any = Client(world)
    with pytest.raises(RemoteFault, match="no settled batch"):
        await find_payout(client, 0)
    amounts = []
    for count in (2, 0, 0, 1, 3, 0):
        for _ in range(count):
            amounts.append(1_000 + len(amounts))
            world.take_in(world.signed("alice", Withdraw(amounts[-1], b"\x03" * 20)))
        world.order()
        world.settle_all()
    for number, amount in enumerate(amounts):
        client.node.asked = 0
        payout = await find_payout(client, number)
        assert payout == world.payout(number) and payout.entry.amount_uusd == amount
        assert client.node.asked <= 6
        assert world.act("bob", payout) == Code.OK
    with pytest.raises(RemoteFault, match="no settled batch"):
        await find_payout(client, len(amounts))


async def test_a_payout_waits_only_where_its_batch_is_not_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finals, told, sent = [2, 2, 3], list[int](), list[object]()

    async def found(exchange: object, number: int) -> Payout:
        if number:
            raise RemoteFault(Code.NOT_FOUND, "no settled batch")
        return Payout(3, OutboxEntry(0, 16, bytes(20), 5), [])

    async def final(exchange: object) -> Any:
        return SimpleNamespace(batch=finals.pop(0) if len(finals) > 1 else finals[0])

    async def send(key: object, payout: object) -> None:
        sent.append(payout)

    monkeypatch.setattr(exits, "find_payout", found)
    monkeypatch.setattr(exits, "final_of", final)
    monkeypatch.setattr(exits, "POLL_S", 0)
    client: Any = SimpleNamespace(ledger=SimpleNamespace(send=send))
    key: Any = None
    with pytest.raises(RemoteFault, match="no settled batch"):
        await pay_when_final(client, key, 1, waiting=told.append)
    assert told == []
    await pay_when_final(client, key, 0, waiting=told.append)
    assert (told, len(sent)) == ([3], 1)
    await pay_when_final(client, key, 0, waiting=told.append)
    assert (told, len(sent)) == ([3], 2)


@pytest.mark.parametrize("window_ms", [0, 700])
@pytest.mark.parametrize("begun", [False, True])
async def test_blocks_are_executed_before_the_ledger_forgets_their_batches(
    monkeypatch: pytest.MonkeyPatch, window_ms: int, begun: bool
) -> None:
    world = ExitWorld(keep_batches=1, window_ms=window_ms, clock_ms=10)
    world.pass_ms(window_ms)
    traded(world, 2)
    world.pass_ms(window_ms + 500)
    final, leaves = world.ledger.final(), list(world.batcher.tree.iterate())
    state_then = CheckedState(world.chain.chain_id, final.batch, final.inbox_height, leaves)
    start = state_then if begun else None
    traded(world, 4)
    world.pass_ms(window_ms + 500)
    for number in range(6):
        assert world.act("dave", world.payout(number)) == Code.OK
    assert [world.ledger.batch(number) is None for number in range(1, 8)] == [True] * 6 + [False]

    async def newest(node: object) -> int:
        return len(world.blocks)

    async def served(node: object, first: int) -> BlocksView:
        return BlocksView(1, world.blocks[first - 1 : first + 2], world.certificate())

    monkeypatch.setattr(exit_state, "newest_height", newest)
    monkeypatch.setattr(exit_state, "blocks_from", served)
    exchange = SimpleNamespace(chain=world.chain, channel=lambda role: role)
    state = await exit_state.rebuilt_from_validators(cast(Exchange, exchange), start)
    assert state.tree.root == world.ledger.final().state_root
    assert state.batch == world.ledger.final().batch
