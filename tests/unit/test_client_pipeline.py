"""Batches reach the sequencer in order, once accepted, over refusals and lost connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client.channel import Channel, Unreachable
from client.endpoint import Endpoint
from client.pipeline import Pipeline
from client.sdk import SUBMIT, Exchange
from client.submission import Submission
from cluster.testnet import TestnetOptions, create_testnet
from net.service import ClientSession, PublicService
from protocol.actions import ActionBatch, Cancel, batch_id, open_batch, sign_batch
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.merkle import list_proofs, list_root
from protocol.messages import Accepted, Ordered, Submit
from protocol.ordering import Receipt, receipt_digest
from store.testnet import Testnet

TRADER = Key(bytes(range(32)))


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    directory = tmp_path_factory.mktemp("pipeline") / "testnet"
    return create_testnet(directory, TestnetOptions(validators=1, traders=1, free_ports=True))


class FakeSequencer:
    """A public port that accepts what `decide` lets through, and remembers what came."""

    def __init__(self, testnet: Testnet) -> None:
        self.chain: Chain = testnet.chain()
        self.key = testnet.key("sequencer-0")
        self.address = testnet.process("sequencer-0").public
        self.received: list[int] = []
        self.decide: Callable[[int], None] = lambda nonce: None
        self.service: PublicService | None = None

    async def start(self) -> None:
        host, port = self.address.rsplit(":", 1)
        self.service = PublicService(self.chain, "sequencer", "fake", dict)
        self.service.on(Submit, self.submit)
        await self.service.start(host, int(port))

    async def stop(self) -> None:
        if self.service is not None:
            await self.service.stop()

    def submit(self, session: ClientSession, request: Submit) -> None:
        signed, batch = open_batch(request.batch)
        if signed.signer not in session.signers:
            raise Rejected(Code.SESSION_NOT_PROVEN)
        self.decide(batch.nonce_ms)
        self.received.append(batch.nonce_ms)
        session.send(Accepted(request.request_id, self.receipt(request.batch)))
        session.send(Ordered(request.request_id, 7, 0))

    def receipt(self, raw: bytes) -> Receipt:
        identity = batch_id(raw)
        root = list_root([identity])
        digest = receipt_digest(self.chain.chain_id, 5, root, 1)
        return Receipt(
            0, identity, 5, root, 0, 1, list_proofs([identity])[0], self.key.sign(digest)
        )


@asynccontextmanager
async def running(
    testnet: Testnet, patience_ms: int = 5_000
) -> AsyncIterator[tuple[FakeSequencer, Pipeline]]:
    fake = FakeSequencer(testnet)
    await fake.start()
    channel = Channel(fake.chain, "sequencer", [fake.address], patience_ms)
    await channel.add_signer(TRADER)
    pipeline = Pipeline(fake.chain, channel)
    try:
        yield fake, pipeline
    finally:
        await pipeline.close()
        await channel.close()
        await fake.stop()


def submission(chain: Chain, nonce_ms: int) -> Submission:
    raw = sign_batch(TRADER, chain.chain_id, 0, ActionBatch(16, nonce_ms, 0, [Cancel(0, 1)]))
    return Submission(raw, TRADER.public, nonce_ms, 16, 1)


async def test_batches_arrive_in_order_and_are_accepted_and_ordered(testnet: Testnet) -> None:
    async with running(testnet) as (fake, pipeline):
        sent = [submission(fake.chain, nonce) for nonce in range(1, 51)]
        for one in sent:
            await pipeline.submit(one)
        for one in sent:
            assert (await one.accepted(5_000)).batch_id == batch_id(one.raw)
            assert await one.ordered(5_000) == 7
        assert fake.received == list(range(1, 51))
        assert pipeline.unaccepted == pipeline.resent == 0


async def test_a_busy_answer_is_tried_again(testnet: Testnet) -> None:
    async with running(testnet) as (fake, pipeline):
        refusals = iter([True, True])

        def decide(_: int) -> None:
            if next(refusals, False):
                raise Rejected(Code.BUSY, "full")

        fake.decide = decide
        one = submission(fake.chain, 1)
        await pipeline.submit(one)
        await one.accepted(5_000)
        assert (pipeline.busy, one.attempts, fake.received) == (2, 3, [1])


async def test_a_refusal_reaches_who_waits_with_its_code(testnet: Testnet) -> None:
    async with running(testnet) as (fake, pipeline):

        def decide(_: int) -> None:
            raise Rejected(Code.NONCE_EXPIRED, "too old")

        fake.decide = decide
        one = submission(fake.chain, 1)
        await pipeline.submit(one)
        with pytest.raises(RemoteFault, match="nonce_expired"):
            await one.accepted(5_000)


async def test_what_was_not_accepted_is_sent_again_after_a_restart(testnet: Testnet) -> None:
    async with running(testnet) as (fake, pipeline):
        first = submission(fake.chain, 1)
        await pipeline.submit(first)
        await first.ordered(5_000)
        await fake.stop()
        later = [submission(fake.chain, nonce) for nonce in (2, 3)]
        sending = [asyncio.ensure_future(pipeline.submit(one)) for one in later]
        await asyncio.sleep(0.05)
        await fake.start()
        for one in later:
            await one.accepted(5_000)
        await asyncio.gather(*sending)
        assert fake.received == [1, 2, 3]


async def test_a_receipt_that_does_not_prove_the_batch_is_not_believed(testnet: Testnet) -> None:
    async with running(testnet) as (fake, pipeline):
        fake.key = TRADER
        one = submission(fake.chain, 1)
        await pipeline.submit(one)
        with pytest.raises(RemoteFault, match="bad_signature"):
            await one.accepted(5_000)


async def test_a_sequencer_that_stays_away_is_unreachable(testnet: Testnet) -> None:
    async with running(testnet, patience_ms=50) as (fake, pipeline):
        await fake.stop()
        with pytest.raises(Unreachable, match="trilemma up"):
            await pipeline.submit(submission(fake.chain, 1))


async def test_who_never_answered_is_waited_for_less_long(testnet: Testnet) -> None:
    async with running(testnet) as (fake, _):
        channel = Channel(
            fake.chain, "sequencer", [fake.address], 600_000, first_patience_ms=50
        )  # fmt: skip
        await channel.session()
        await fake.stop()
        await channel.close()
        waiting = asyncio.ensure_future(channel.session())
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done, "it answered before: it is waited for as long as patience says"
        waiting.cancel()
        fresh = Channel(
            fake.chain, "sequencer", [fake.address], 600_000, first_patience_ms=50
        )  # fmt: skip
        async with asyncio.timeout(60):
            with pytest.raises(Unreachable, match="is the cluster up"):
                await fresh.session()


async def test_a_signer_that_is_added_while_the_session_opens_is_proven_too(
    testnet: Testnet,
) -> None:
    other = Key(bytes(range(1, 33)))
    async with running(testnet) as (fake, _):
        channel = Channel(fake.chain, "sequencer", [fake.address], 5_000)
        await channel.add_signer(TRADER)

        async def meanwhile(endpoint: Endpoint) -> None:
            await channel.add_signer(other)

        channel.on_open.append(meanwhile)
        pipeline = Pipeline(fake.chain, channel)
        try:
            batch = ActionBatch(17, 1, 0, [Cancel(0, 1)])
            raw = sign_batch(other, fake.chain.chain_id, 0, batch)
            one = Submission(raw, other.public, 1, 17, 1)
            await pipeline.submit(one)
            assert (await one.accepted(5_000)).batch_id == batch_id(raw)
            assert one.attempts == 1
        finally:
            await pipeline.close()
            await channel.close()


async def test_a_signer_whose_proof_failed_can_be_added_again(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(testnet) as (fake, _):
        channel = Channel(fake.chain, "sequencer", [fake.address], 5_000)
        try:
            endpoint = await channel.session()
            proofs = iter([False, True])
            tried: list[bytes] = []

            async def prove(key: Key) -> None:
                tried.append(key.public)
                if not next(proofs):
                    raise TimeoutError

            monkeypatch.setattr(endpoint, "prove", prove)
            with pytest.raises(TimeoutError):
                await channel.add_signer(TRADER)
            await channel.add_signer(TRADER)
            assert tried == [TRADER.public] * 2
        finally:
            await channel.close()


# --- several sequencers


class OtherSequencer(FakeSequencer):
    """Another address of the same sequencers; `orders` says whether it tells of an order."""

    def __init__(self, testnet: Testnet, orders: bool) -> None:
        super().__init__(testnet)
        self.address = f"127.0.0.1:{free_port()}"
        self.orders = orders

    def submit(self, session: ClientSession, request: Submit) -> None:
        self.received.append(open_batch(request.batch)[1].nonce_ms)
        session.send(Accepted(request.request_id, self.receipt(request.batch)))
        if self.orders:
            session.send(Ordered(request.request_id, 9, 0))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@asynccontextmanager
async def several(
    testnet: Testnet,
) -> AsyncIterator[tuple[OtherSequencer, OtherSequencer, Pipeline]]:
    first, second = OtherSequencer(testnet, orders=False), OtherSequencer(testnet, orders=True)
    await first.start()
    await second.start()
    channel = Channel(first.chain, "sequencer", [first.address, second.address], 5_000)
    await channel.add_signer(TRADER)
    pipeline = Pipeline(first.chain, channel)
    try:
        yield first, second, pipeline
    finally:
        await pipeline.close()
        await channel.close()
        await first.stop()
        await second.stop()


async def test_what_a_dead_sequencer_had_accepted_goes_to_another_one(testnet: Testnet) -> None:
    async with several(testnet) as (first, second, pipeline):
        sent = [submission(first.chain, nonce) for nonce in range(1, 6)]
        for one in sent:
            await pipeline.submit(one)
        for one in sent:
            await one.accepted(5_000)
        await first.stop()
        for one in sent:
            assert await one.ordered(5_000) == 9
        assert first.received == second.received == [1, 2, 3, 4, 5]
        assert pipeline.moved == 0 and pipeline.resent == 5


async def test_a_sequencer_that_orders_nothing_is_left(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.pipeline.STALL_MS", 100)
    async with several(testnet) as (first, second, pipeline):
        sent = [submission(first.chain, nonce) for nonce in range(1, 4)]
        for one in sent:
            await pipeline.submit(one)
        for one in sent:
            assert await one.ordered(5_000) == 9
        assert pipeline.moved == 1
        # From here on a busy machine must not look like a sequencer that orders nothing.
        monkeypatch.setattr("client.pipeline.STALL_MS", 60_000)
        pipeline._stall_ms = 60_000
        again = submission(first.chain, 9)
        await pipeline.submit(again)
        assert await again.ordered(5_000) == 9
        assert second.received == [1, 2, 3, 9], "it stays where batches are ordered"


async def test_a_second_opinion_does_not_take_back_a_receipt(testnet: Testnet) -> None:
    async with several(testnet) as (first, second, pipeline):
        one = submission(first.chain, 1)
        await pipeline.submit(one)
        await one.accepted(5_000)

        def refuse(session: ClientSession, request: Submit) -> None:
            raise Rejected(Code.NONCE_EXPIRED, "too old")

        assert second.service is not None
        second.service.on(Submit, refuse)
        await first.stop()
        for _ in range(100):
            if one.attempts == 2:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        assert one.error is None and one.attempts == 2


# --- with which sequencer a client begins


def first_place(channel: Channel) -> int:
    return channel._next


async def test_clients_of_a_testnet_begin_with_different_sequencers(tmp_path: Path) -> None:
    options = TestnetOptions(validators=1, sequencers=4, traders=16, free_ports=True)
    found = create_testnet(tmp_path / "net", options)
    places = []
    for number in range(16):
        key = found.key(f"trader-{number:02}")
        for _ in range(2):
            async with Exchange.connect(found.directory) as exchange:
                await exchange.prove(key)
                await exchange.prove(found.key(f"trader-{(number + 1) % 16:02}"))
                places.append(first_place(exchange._channel(SUBMIT, "sequencer")))
                assert first_place(exchange.channel("sequencer")) == 0
    assert places[::2] == places[1::2], "the same client begins with the same one"
    assert len(set(places)) > 1, "sixteen random keys are of one residue once in 4^15"


async def test_addresses_that_somebody_gave_are_asked_in_their_order(testnet: Testnet) -> None:
    addresses = [f"127.0.0.1:{port}" for port in range(1, 5)]
    exchange = Exchange(testnet.chain(), {"sequencer": addresses})
    for key in (testnet.key("trader-00"), TRADER):
        await exchange.prove(key)
    assert first_place(exchange._channel(SUBMIT, "sequencer")) == 0
    channel = Channel(testnet.chain(), "sequencer", addresses, 100, 2)
    await channel.add_signer(TRADER)
    assert first_place(channel) == 2
