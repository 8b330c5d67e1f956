"""Fetching a proof waits for its batch, follows the epochs, and believes neither side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from light_world import LightChain
from market_data_world import receipt
from proof_world import BATCH, OUTBOX, SUBJECTS, World

from client import proof_fetch
from client.faults import InvalidProof
from client.proof_fetch import ProofFetcher
from client.proof_file import check_under_checkpoint, show
from client.proof_kinds import KINDS, LIQUIDATION, WITHDRAWAL
from execution import leaves as lv
from protocol.codec import Wire, encode
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.ledger_leaves import FinalLeaf, SettledBatch, batch_key, final_key
from protocol.light import genesis_checkpoint
from protocol.merkle import list_proof
from protocol.messages import (
    EpochRequest,
    EpochView,
    ProofRequest,
    ProofView,
    ReceiptView,
    StateProofRequest,
    StateProofView,
    WithdrawalRequest,
    WithdrawalView,
)
from prover.tree import StateTree


class Served:
    """An exchange whose processes answer out of a world; also its channels and its questions."""

    places = 1

    def __init__(self, world: World) -> None:
        self.world = world
        self.chain = world.chain.chain
        self.questions = self
        self.asked: list[str] = []
        self.state = world.state
        self.before: list[Callable[[], None]] = []
        """Done before the next answers of a validator, one each."""

    def channel(self, role: str) -> Served:
        return self

    async def move_on(self) -> None:
        """Nobody else."""

    async def receipt(self, number: int, count: int = 0) -> ReceiptView:
        if number >= 11:
            raise RemoteFault(Code.NOT_FOUND, "there is no such receipt")
        return ReceiptView(
            1, count or 11, receipt(number), self.world.receipts.path(number, count or 11)
        )

    async def ask(
        self, answer: type[Wire], request: Callable[..., Wire], *fields: object, **_: object
    ) -> Any:
        asked = request(1, *fields)
        self.asked.append(type(asked).__name__)
        chain = self.world.chain
        if isinstance(asked, StateProofRequest):
            return StateProofView(1, BATCH, encode(self.state.prove(asked.keys)))
        if isinstance(asked, WithdrawalRequest):
            index = asked.number - OUTBOX[0].number
            if index >= len(OUTBOX):
                raise RemoteFault(Code.NOT_FOUND, f"withdrawal {asked.number} is in no batch yet")
            path = list_proof([encode(one) for one in OUTBOX], index)
            return WithdrawalView(1, BATCH, OUTBOX[index], path)
        if isinstance(asked, EpochRequest):
            header, certificate, proof = chain.change(asked.number)
            return EpochView(1, asked.number, header, certificate, encode(proof))
        assert isinstance(asked, ProofRequest)
        if self.before:
            self.before.pop(0)()
        header = chain.headers[-1]
        proof = chain.proof(header, asked.keys)
        return ProofView(1, header, chain.certificate(header), encode(proof))

    async def fetch(self, kind: str, subject: list[int], **options: Any) -> Any:
        fetcher = ProofFetcher(self, clock=lambda: self.world.chain.now_ms)  # type: ignore[arg-type]
        return await fetcher.fetch(kind, subject, options.pop("timeout_ms", 5_000), **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_fetch, "POLL_S", 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epochs", [0, 2])
async def test_what_is_fetched_holds_under_genesis(kind: str, epochs: int) -> None:
    world = World(epochs=epochs)
    found = await Served(world).fetch(kind, SUBJECTS[kind])
    assert len(found.epochs) == epochs
    chain = world.chain.chain
    checked = check_under_checkpoint(found, chain, genesis_checkpoint(chain), world.chain.now_ms)
    assert (checked.batch, checked.final) == (BATCH, True)


def unsettled() -> World:
    """A world whose batch the ledger does not know yet."""
    world = World()
    known = world.chain
    world.chain = LightChain()
    world.chain.to_epoch(0)
    assert known.chain == world.chain.chain
    return world


def settle(world: World, header: Any = None, final: int = 0) -> Callable[[], None]:
    def work() -> None:
        batch = header or world.batch
        leaves = {
            batch_key(0, BATCH): encode(SettledBatch(batch, 4, 5)),
            final_key(0): encode(FinalLeaf(final, 9, bytes(32), bytes(32), 0, 0, 7)),
        }
        world.chain.block(leaves)
        for _ in range(3):
            world.chain.block()

    return work


def nothing() -> None:
    """The ledger stays as it is."""


async def test_it_waits_until_the_batch_is_settled_and_final() -> None:
    world = unsettled()
    served = Served(world)
    served.before = [nothing, nothing, settle(world), nothing, settle(world, final=BATCH)]
    found = await served.fetch("account", [20])
    assert not show(found, served.chain).final
    # What the prover showed is kept while the ledger is asked again.
    assert served.asked.count("StateProofRequest") == 1
    assert show(await served.fetch("account", [20], final=True), served.chain).final


async def test_it_says_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match="after 0 s: withdrawal 999 is in no batch yet"):
        await Served(World()).fetch(WITHDRAWAL, [999], timeout_ms=0)


async def test_it_gives_up_in_time() -> None:
    for world, options in ((unsettled(), {}), (World(final=0), {"final": True})):
        with pytest.raises(TimeoutError, match=r"not (settled|final) after"):
            await Served(world).fetch("account", [20], timeout_ms=50, **options)


@pytest.mark.parametrize("kind", ["account", LIQUIDATION])
async def test_another_batch_than_the_provers_is_waited_for_while_it_can_be_disputed(
    kind: str,
) -> None:
    world = unsettled()
    served = Served(world)
    wrong = msgspec.structs.replace(world.batch, post_state_root=b"\x05" * 32)
    served.before = [settle(world, wrong), nothing, settle(world)]
    found = await served.fetch(kind, SUBJECTS[kind])
    assert served.asked.count("StateProofRequest") == 3
    assert show(found, served.chain).proven["account"] == 20


async def test_a_prover_that_lies_about_a_final_batch() -> None:
    served = Served(World())
    key = lv.account_key(20)
    served.state = StateTree([(key, encode(lv.AccountLeaf(b"w" * 20, 1 << 40)))])
    with pytest.raises(InvalidProof):
        await served.fetch("account", [20])


async def test_what_cannot_be_proven() -> None:
    served = Served(World())
    with pytest.raises(RemoteFault, match="no such receipt"):
        await served.fetch(LIQUIDATION, [11])
    for kind, subject in (("account", [-1]), ("position", [20, 99]), (WITHDRAWAL, [])):
        with pytest.raises(ConfigError):
            await served.fetch(kind, subject)
