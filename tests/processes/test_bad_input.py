"""Everything a client can get wrong, at every public port, while somebody else trades on.

Each fault is answered with a code of its own and a text; no process dies, nobody else notices.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, get_args

import msgpack
import msgspec
import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, Cluster, SteadyTrader, eventually

from client.channel import Channel
from client.sdk import Exchange
from client.submission import Submission
from client.trader import Trader
from protocol import messages as wire
from protocol.actions import (
    MAX_BATCH_BYTES,
    Action,
    ActionBatch,
    ApproveAgent,
    Cancel,
    CancelClient,
    MarketOrder,
    OraclePrice,
    Order,
    Reduce,
    RevokeAgent,
    SignedBatch,
    Withdraw,
    actions_digest,
    sign_batch,
)
from protocol.codec import encode
from protocol.errors import Code, RemoteFault
from protocol.events import BatchExecuted
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.settlement import (
    Bond,
    Deposit,
    LedgerAction,
    OutboxEntry,
    Payout,
    PostBatch,
    SignedTransaction,
    Transaction,
    Unbond,
    sign_action,
    sign_transaction,
)
from store.testnet import ORACLE_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

PORTS = ["validator-0", "sequencer-0", "execution-0", "prover-0"]
SEED = 20_260_722
ERROR = 0
STEADY = "trader-31"


class RawSession:
    """A connection on which anything may be written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, cluster: Cluster, name: str) -> RawSession:
        return cls(*await asyncio.open_connection(*cluster.address(name), limit=1 << 24))

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def frame(self, body: bytes) -> None:
        await self.write(struct.pack(">I", len(body)) + body)

    async def send(self, value: Any) -> None:
        await self.frame(msgpack.packb(value))

    async def answer(self) -> list[Any]:
        async with asyncio.timeout(DEADLINE_S):
            (length,) = struct.unpack(">I", await self._reader.readexactly(4))
            value = msgpack.unpackb(await self._reader.readexactly(length), raw=False)
        assert isinstance(value, list)
        return value

    async def answer_to(self, request_id: int) -> list[Any]:
        """The answer to one request, whatever comes before it."""
        while True:
            value = await self.answer()
            if value[1] == request_id:
                return value

    async def ended(self) -> bool:
        """Whether the process closes the connection (reads on until then)."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while await self._reader.read(1 << 16):
                    pass
            except ConnectionError:
                pass
        return True

    async def close(self) -> None:
        self._writer.close()

    async def alive(self, request_id: int = 77_777) -> None:
        """The session answers on, to something right."""
        await self.send([3, request_id])
        status = await self.answer_to(request_id)
        assert status[0] == 66, status


def refusal(answer: list[Any], code: Code, request_id: int = 0) -> str:
    """Check an error frame; returns its text, which must be worth reading."""
    assert answer[:3] == [ERROR, request_id, code], answer
    assert len(answer) == 4 and len(answer[3]) >= 15, answer
    return str(answer[3])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def steady(testnet_cluster: Cluster) -> AsyncIterator[SteadyTrader]:
    """The well-behaved client, trading all the time."""
    async with testnet_cluster.exchange() as exchange:
        await exchange.account_of(exchange.key(STEADY).address, wait_ms=60_000)
        trader = SteadyTrader(exchange, STEADY)
        trader.start()
        yield trader
        await trader.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(testnet_cluster: Cluster, steady: SteadyTrader) -> AsyncIterator[Cluster]:
    """The cluster; afterwards every process is the one that it was, and trading went on."""
    before, done = testnet_cluster.pids(), steady.done
    assert all(before.values())
    yield testnet_cluster

    async def more_done() -> bool:
        steady.check()
        return steady.done > done

    await eventually("the steady client trades on", more_done)
    assert testnet_cluster.pids() == before
    assert not any(testnet_cluster.supervisor.restarts(name) for name in before)


@pytest_asyncio.fixture(loop_scope="module")
async def exchange(cluster: Cluster) -> AsyncIterator[Exchange]:
    async with cluster.exchange() as opened:
        yield opened


@pytest.fixture(scope="module")
def chain(testnet_cluster: Cluster) -> Chain:
    return testnet_cluster.chain


# --- frames


@pytest.mark.parametrize("name", PORTS)
async def test_broken_frames(cluster: Cluster, name: str) -> None:
    limit = wire.CLIENT_FRAME_BYTES
    for data, code, word in (
        (b"GET / HTTP/1.1\r\n\r\n", Code.FRAME_TOO_LARGE, str(limit)),
        (b"\xff" * 1000, Code.FRAME_TOO_LARGE, str(limit)),
        (struct.pack(">I", limit + 1), Code.FRAME_TOO_LARGE, str(limit + 1)),
        (struct.pack(">I", 0), Code.MALFORMED, "at least one byte"),
    ):
        session = await RawSession.open(cluster, name)
        await session.write(data)
        assert word in refusal(await session.answer(), code)
        assert await session.ended()
        await session.close()
    for cut in (b"\x00", struct.pack(">I", 1000), struct.pack(">I", 1000) + b"\x93\x01"):
        session = await RawSession.open(cluster, name)
        await session.write(cut)
        await session.close()


@pytest.mark.parametrize("name", PORTS)
async def test_values_that_are_no_requests(cluster: Cluster, name: str) -> None:
    limit = wire.CLIENT_FRAME_BYTES
    bomb = b"\x91" * (limit - 1) + b"\x01"
    session = await RawSession.open(cluster, name)
    for body in (
        bomb,
        b"\x92\x03" + b"\x91" * 100_000 + b"\x01",
        b"\x81\xa1a" * 50_000 + b"\x01",
        b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1",
        b"\x93\x01\x01", b"\x00" * limit, b"\x95\x01\x05\x01\xc4\x00\xa2\xff\xff",
    ):  # fmt: skip
        await session.frame(body)
        answer = await session.answer()
        assert answer[0] == ERROR and answer[2] in (Code.MALFORMED, Code.WRONG_TYPE), answer
        assert len(answer[3]) >= 15, answer
    await session.alive()
    await session.close()


@pytest.mark.parametrize("name", PORTS)
async def test_requests_with_wrong_fields(cluster: Cluster, name: str) -> None:
    session = await RawSession.open(cluster, name)
    for value, code, request_id in (
        ([250, 5], Code.UNKNOWN_MESSAGE, 5),
        ([0, 5, 1, "no error of yours"], Code.UNKNOWN_MESSAGE, 5),
        ([-1, 5], Code.UNKNOWN_MESSAGE, 5),
        ([3, 0], Code.WRONG_TYPE, 0),
        ([3, "5"], Code.WRONG_TYPE, 0),
        ([3], Code.WRONG_TYPE, 0),
        ([3, 5, 6], Code.WRONG_TYPE, 5),
        ([3, 5.0], Code.WRONG_TYPE, 0),
        ([1, 5, 1, b"", 7], Code.WRONG_TYPE, 5),
        ("text", Code.WRONG_TYPE, 0),
        ({1: 2}, Code.WRONG_TYPE, 0),
    ):
        await session.send(value)
        refusal(await session.answer(), code, request_id)
    await session.send([3, -5])
    assert (await session.answer())[::2] == [ERROR, Code.WRONG_TYPE]
    await session.alive()
    await session.close()


async def test_requests_that_belong_to_another_process(cluster: Cluster) -> None:
    for name, request, owner in (
        ("validator-0", wire.Submit(5, b"x"), "node"),
        ("sequencer-0", wire.BookRequest(5, 0, 1), "sequencer"),
        ("execution-0", wire.SubmitTransaction(5, b"x"), "execution"),
        ("prover-0", wire.SubscribeLog(5, 1), "prover"),
    ):
        session = await RawSession.open(cluster, name)
        await session.frame(encode(request))
        text = refusal(await session.answer(), Code.UNKNOWN_MESSAGE, 5)
        assert owner in text and type(request).__name__ in text
        await session.close()


@pytest.mark.parametrize("name", PORTS)
async def test_a_session_that_sends_only_rubbish_is_closed(cluster: Cluster, name: str) -> None:
    session = await RawSession.open(cluster, name)
    for _ in range(100):
        await session.send("rubbish")
    codes = [(await session.answer())[2] for _ in range(101)]
    assert codes[:100] == [Code.WRONG_TYPE] * 100 and codes[100] == Code.RATE_LIMITED
    assert await session.ended()
    await session.close()


@pytest.mark.parametrize("name", PORTS)
async def test_random_and_mutated_frames(cluster: Cluster, name: str) -> None:
    rng = random.Random(f"{SEED} {name}")
    print(f"seed {SEED}")
    good = [encode(request) for request in sample_requests()]
    for _ in range(6):
        session = await RawSession.open(cluster, name)
        for _ in range(80):
            if rng.random() < 0.3:
                body = rng.randbytes(rng.randrange(1, 300))
            else:
                mutated = bytearray(rng.choice(good))
                for _ in range(rng.randrange(1, 4)):
                    mutated[rng.randrange(len(mutated))] = rng.randrange(256)
                body = bytes(mutated[: rng.randrange(1, len(mutated) + 1)])
            await session.frame(body)
        await session.alive()
        await session.close()


def sample_requests() -> list[Any]:
    """One request of every kind."""
    requests = []
    for kind in get_args(wire.Request):
        values = [_sample(field.type) for field in msgspec.structs.fields(kind)]
        requests.append(kind(*values))
    return requests


def _sample(kind: Any) -> Any:
    known = {int: 1, bytes: b"\x01" * 32, str: "x", bool: True}
    if kind in known:
        return known[kind]
    first = get_args(kind)[0]
    if isinstance(first, type) and issubclass(first, msgspec.Struct):
        return first(*(_sample(field.type) for field in msgspec.structs.fields(first)))
    return [_sample(first)]


@pytest.mark.parametrize("name", PORTS)
async def test_every_request_with_extreme_values(cluster: Cluster, name: str) -> None:
    """Every field of every request with values at the edges: an answer, and never an accident."""
    extremes: dict[type, Sequence[Any]] = {
        int: (-(2**63), -1, 0, 2**31, 2**63 - 1, 2**63, 2**64 - 1),
        bytes: (b"", b"\x00", b"\xff" * 65_536),
        str: ("", "\u0000", "x" * 65_536),
    }
    request_id = 1
    for sample in sample_requests():
        session = await RawSession.open(cluster, name)
        for field in msgspec.structs.fields(type(sample))[1:]:
            for value in extremes.get(field.type, ([], [0] * 2_000, [b"\x01"] * 2_000)):
                request_id += 1
                changed = encode(
                    msgspec.structs.replace(sample, **{"request_id": request_id, field.name: value})
                )
                await session.frame(changed)
                await session.alive(1_000_000 + request_id)
        await session.close()
    for extreme in (2**63, 2**64 - 1):
        session = await RawSession.open(cluster, name)
        await session.alive(extreme)
        await session.close()


# --- sessions


@pytest.mark.parametrize("name", PORTS)
async def test_hello_and_authentication(cluster: Cluster, chain: Chain, name: str) -> None:
    session = await RawSession.open(cluster, name)

    async def refused(request: Any, code: Code) -> str:
        await session.frame(encode(request))
        return refusal(await session.answer(), code, request.request_id)

    assert "chain" in await refused(wire.Hello(1, 1, b"\x01" * 32, "x"), Code.WRONG_CHAIN)
    assert "use 1" in await refused(wire.Hello(2, 2, chain.chain_id, "x"), Code.WRONG_VERSION)
    await session.frame(encode(wire.Hello(3, 1, chain.chain_id, "x")))
    challenge = (await session.answer())[8]
    key = Key.generate()
    proof = key.sign(wire.session_digest(chain.chain_id, challenge))
    other = Key.generate()
    for request, code in (
        (wire.Authenticate(4, 2, key.public, proof), Code.SCHEME_UNKNOWN),
        (wire.Authenticate(5, 1, other.public, proof), Code.BAD_SIGNATURE),
        (wire.Authenticate(6, 1, key.public, proof[:-1]), Code.BAD_SIGNATURE),
        (wire.Authenticate(7, 1, key.public[:-1], proof), Code.BAD_SIGNATURE),
        (wire.Authenticate(8, 1, key.public, key.sign(challenge)), Code.BAD_SIGNATURE),
        (
            wire.Authenticate(
                9, 1, key.public, key.sign(wire.session_digest(b"\x02" * 32, challenge))
            ),
            Code.BAD_SIGNATURE,
        ),
    ):
        await refused(request, code)
    await session.frame(encode(wire.Authenticate(10, 1, key.public, proof)))
    assert await session.answer() == [65, 10]
    # The challenge is of one session: its answer is worth nothing in another.
    second = await RawSession.open(cluster, name)
    await second.frame(encode(wire.Authenticate(1, 1, key.public, proof)))
    refusal(await second.answer(), Code.BAD_SIGNATURE, 1)
    for each in (session, second):
        await each.close()


# --- submissions that the sequencer refuses


async def test_batches_that_are_not_taken(cluster: Cluster, chain: Chain) -> None:
    key, now_ms = Key.generate(), time.time_ns() // 1_000_000
    session = await RawSession.open(cluster, "sequencer-0")
    await session.frame(encode(wire.Hello(1, 1, chain.chain_id, "x")))
    challenge = (await session.answer())[8]
    order = Order(0, 0, 1_000, 1)
    good = signed(chain, key, ActionBatch(20, now_ms, 0, [order]))
    request_id = 10

    async def refused(raw: bytes, code: Code) -> str:
        nonlocal request_id
        request_id += 1
        await session.frame(encode(wire.Submit(request_id, raw)))
        return refusal(await session.answer(), code, request_id)

    assert "Authenticate" in await refused(good, Code.SESSION_NOT_PROVEN)
    proof = key.sign(wire.session_digest(chain.chain_id, challenge))
    await session.frame(encode(wire.Authenticate(2, 1, key.public, proof)))
    assert (await session.answer())[0] == 65

    envelope = msgspec.msgpack.decode(good)
    payload = envelope[2]
    day_ms = 24 * 3600 * 1000
    wide = b"\x94" + b"\xcd\x00\x14" + payload[2:]
    assert msgspec.msgpack.decode(wide) == msgspec.msgpack.decode(payload)
    for raw, code in (
        (b"", Code.MALFORMED),
        (b"\xc1", Code.MALFORMED),
        (good[:-1], Code.MALFORMED),
        (good + b"\x00", Code.MALFORMED),
        (encode("text"), Code.WRONG_TYPE),
        (encode([*envelope, 1]), Code.WRONG_TYPE),
        (encode([2, *envelope[1:]]), Code.SCHEME_UNKNOWN),
        (encode([1, key.public[:-1], *envelope[2:]]), Code.WRONG_TYPE),
        (encode([*envelope[:3], envelope[3][:-1]]), Code.WRONG_TYPE),
        (b"\xdc\x00\x04" + good[1:], Code.NON_CANONICAL),
        (envelope_of(chain, key, wide), Code.NON_CANONICAL),
        (envelope_of(chain, key, encode([20, now_ms, 0, [[99, 1]]])), Code.WRONG_TYPE),
        (envelope_of(chain, key, encode([20, "now", 0, []])), Code.WRONG_TYPE),
        (envelope_of(chain, key, encode([20, now_ms, 0, [[1, 0, 0, 1.5, 1, 0, 0]]])),
         Code.WRONG_TYPE),
        (signed(chain, key, ActionBatch(20, now_ms, 0, [])), Code.TOO_MANY_ACTIONS),
        (signed(chain, key, ActionBatch(20, now_ms, 0, [order] * 101)), Code.TOO_MANY_ACTIONS),
        (signed(chain, key, ActionBatch(20, now_ms, 0, [Withdraw(1, b"\x01" * 20_000)])),
         Code.FRAME_TOO_LARGE),
        (signed(chain, key, ActionBatch(20, now_ms - 2 * day_ms, 0, [order])),
         Code.NONCE_EXPIRED),
        (signed(chain, key, ActionBatch(20, 0, 0, [order])), Code.NONCE_EXPIRED),
        (signed(chain, key, ActionBatch(20, -(2**63), 0, [order])), Code.NONCE_EXPIRED),
        (signed(chain, key, ActionBatch(20, now_ms + day_ms + 60_000, 0, [order])),
         Code.NONCE_TOO_NEW),
        (signed(chain, key, ActionBatch(20, 2**64 - 1, 0, [order])), Code.NONCE_TOO_NEW),
    ):  # fmt: skip
        text = await refused(raw, code)
        if code == Code.TOO_MANY_ACTIONS:
            assert "1 to 100" in text
        if code == Code.FRAME_TOO_LARGE:
            assert str(MAX_BATCH_BYTES) in text
    await session.alive()
    await session.close()


def signed(chain: Chain, key: Key, batch: ActionBatch) -> bytes:
    return sign_batch(key, chain.chain_id, chain.genesis.shard, batch)


def envelope_of(chain: Chain, key: Key, payload: bytes) -> bytes:
    """A payload as it stands, rightly signed."""
    signature = key.sign(actions_digest(chain.chain_id, chain.genesis.shard, payload))
    return encode(SignedBatch(1, key.public, payload, signature))


# --- submissions that are ordered and refused in execution


async def test_actions_with_their_own_codes(exchange: Exchange) -> None:
    trader = await exchange.trader("trader-01")
    market = exchange.chain.genesis.markets[0]
    lots = market.max_order_lots
    now_ms = time.time_ns() // 1_000_000
    huge = 2**64 - 1
    cases: list[tuple[Action, Code]] = [
        (Order(9, 0, 1_000, 1), Code.UNKNOWN_MARKET),
        (Order(-1, 0, 1_000, 1), Code.UNKNOWN_MARKET),
        (Order(huge, 0, 1_000, 1), Code.UNKNOWN_MARKET),
        (Order(0, 2, 1_000, 1), Code.WRONG_TYPE),
        (Order(0, 0, 1_000, 1, 9), Code.WRONG_TYPE),
        (Order(0, 0, 0, 1), Code.BAD_PRICE),
        (Order(0, 0, -1, 1), Code.BAD_PRICE),
        (Order(0, 0, huge, 1), Code.BAD_PRICE),
        (Order(0, 0, 500_000, 0), Code.BAD_SIZE),
        (Order(0, 0, 500_000, -5), Code.BAD_SIZE),
        (Order(0, 0, 500_000, huge), Code.BAD_SIZE),
        (Order(0, 0, 500_000, lots + 1), Code.BAD_SIZE),
        (Order(0, 0, 1, 1), Code.BELOW_MIN_NOTIONAL),
        (Order(0, 0, 100_000_000, lots, 2), Code.PRICE_BAND),
        (MarketOrder(0, 0, 0, 10_000), Code.BAD_SIZE),
        (MarketOrder(9, 0, 1, 10_000), Code.UNKNOWN_MARKET),
        (MarketOrder(0, 0, 1, 0), Code.BAD_SLIPPAGE),
        (MarketOrder(0, 0, 1, huge), Code.BAD_SLIPPAGE),
        (MarketOrder(0, 0, 0, 10_000), Code.BAD_SIZE),
        (MarketOrder(0, 0, huge, 10_000), Code.BAD_SIZE),
        (Cancel(9, 1), Code.UNKNOWN_MARKET),
        (Cancel(0, huge), Code.UNKNOWN_ORDER),
        (CancelClient(0, huge), Code.UNKNOWN_ORDER),
        (Reduce(0, huge, 1), Code.UNKNOWN_ORDER),
        (Reduce(0, 1, 0), Code.BAD_SIZE),
        (Withdraw(0, b"\x01" * 20), Code.BAD_AMOUNT),
        (Withdraw(-1, b"\x01" * 20), Code.BAD_AMOUNT),
        (Withdraw(huge, b"\x01" * 20), Code.BAD_AMOUNT),
        (Withdraw(1, b"\x01" * 19), Code.WRONG_TYPE),
        (ApproveAgent(b"\x01" * 31, now_ms * 2), Code.WRONG_TYPE),
        (ApproveAgent(b"\x01" * 32, 1), Code.AGENT_EXPIRED),
        (RevokeAgent(b"\x09" * 32), Code.UNKNOWN_SIGNER),
    ]
    for _ in range(2):  # the second time everything is the same: nothing was left behind
        event = await (await trader.batch([action for action, _ in cases])).executed()
        assert event.code == 0
        for (action, code), result in zip(cases, event.results, strict=True):
            assert result.code == code, (action, Code(result.code).label)
    assert (await trader.view()).open_orders == 0
    first = Order(0, 0, 590_000, 100, 0, 4_711)
    event = await (await trader.batch([first, first, Order(0, 1, 580_000, 1, 2)])).executed()
    codes = [result.code for result in event.results]
    assert codes == [0, Code.DUPLICATE_CLIENT_ID, Code.WOULD_TAKE]
    await (await trader.cancel_client(0, 4_711)).executed()


async def test_more_money_than_there_is(exchange: Exchange) -> None:
    trader = await exchange.trader("trader-02")
    cash_uusd = (await trader.view()).cash_uusd
    key = Key.generate()
    await exchange.ledger.deposit_and_wait(exchange.key("trader-02"), 1_000_000, key.address)
    account = (await exchange.account_of(key.address)).account
    beggar = Trader(exchange, key, account)
    event = await (
        await beggar.batch([Withdraw(1_000_001, key.address), Order(0, 0, 600_000, 10)])
    ).executed()
    codes = [result.code for result in event.results]
    assert codes == [Code.INSUFFICIENT_CASH, Code.INSUFFICIENT_MARGIN]
    assert (await trader.view()).cash_uusd == cash_uusd


async def test_batches_refused_as_a_whole(exchange: Exchange) -> None:
    trader = await exchange.trader("trader-03")
    order = Order(0, 0, 1_000_000, 1)
    now_ms = time.time_ns() // 1_000_000
    stranger = Key.generate()
    for key, account, actions, expires_ms, code in (
        (stranger, 999_999, [order], 0, Code.UNKNOWN_ACCOUNT),
        (stranger, 2**64 - 1, [order], 0, Code.UNKNOWN_ACCOUNT),
        (stranger, -1, [order], 0, Code.UNKNOWN_ACCOUNT),
        (stranger, 1, [order], 0, Code.UNKNOWN_ACCOUNT),
        (stranger, trader.account, [order], 0, Code.NOT_AUTHORISED),
        (trader.key, trader.account + 1, [order], 0, Code.NOT_AUTHORISED),
        (trader.key, trader.account, [order], now_ms - 60_000, Code.ACTION_EXPIRED),
        (trader.key, trader.account, [order], -1, Code.ACTION_EXPIRED),
        (trader.key, trader.account, [order, OraclePrice(0, 1)], 0, Code.MIXED_BATCH),
        (trader.key, 0, [OraclePrice(0, 1)], 0, Code.NOT_AUTHORISED),
    ):
        event = await (
            await Trader(exchange, key, account).batch(actions, expires_ms=expires_ms)
        ).executed()
        assert (event.code, event.results) == (code, []), (account, Code(event.code).label)
    assert (await trader.view()).open_orders == 0
    event = await (await exchange.set_oracle({0: 0, 9: 5, 1: 2**63}))[0].executed()
    assert [one.code for one in event.results] == [
        Code.BAD_PRICE, Code.BAD_PRICE, Code.UNKNOWN_MARKET,
    ]  # fmt: skip
    assert exchange.key(ORACLE_KEY)


async def test_an_account_that_never_had_money(exchange: Exchange) -> None:
    with pytest.raises(RemoteFault) as caught:
        await exchange.account_of(Key.generate().address)
    assert caught.value.code == Code.UNKNOWN_ACCOUNT and "deposit" in caught.value.text
    with pytest.raises(RemoteFault) as caught:
        await exchange.account(999_999)
    assert caught.value.code == Code.UNKNOWN_ACCOUNT and "999999" in caught.value.text


async def test_a_wrong_signature_is_refused_at_once(exchange: Exchange) -> None:
    """The session has proven the key; the signature over the batch is another's all the same."""
    trader = await exchange.trader("trader-04")
    await exchange.follow()
    await exchange.prove(trader.key)
    nonce_ms = exchange.nonces(trader.key.public).take(time.time_ns() // 1_000_000)
    batch = ActionBatch(trader.account, nonce_ms, 0, [Order(0, 0, 1_000_000, 1)])
    for forge in (
        lambda payload: Key.generate().sign(actions_digest(exchange.chain.chain_id, 0, payload)),
        lambda payload: trader.key.sign(actions_digest(exchange.chain.log_id, 0, payload)),
        lambda payload: trader.key.sign(actions_digest(exchange.chain.chain_id, 1, payload)),
        lambda payload: trader.key.sign(payload),
    ):
        payload = encode(batch)
        raw = encode(SignedBatch(1, trader.key.public, payload, forge(payload)))
        submission = Submission(raw, trader.key.public, nonce_ms, trader.account, 1)
        await exchange.submit(submission)
        with pytest.raises(RemoteFault) as caught:
            await submission.accepted()
        assert caught.value.code == Code.BAD_SIGNATURE and caught.value.text
        exchange.tracker.drop(submission)
    # Nothing of that used the nonce up: whoever holds the key still has it.
    right = Submission(
        signed(exchange.chain, trader.key, batch), trader.key.public, nonce_ms, trader.account, 1
    )
    await exchange.submit(right)
    assert (await right.executed()).code == 0
    await (await trader.cancel(0, (await right.executed()).results[0].order_id)).executed()


async def test_nonces_sent_again(exchange: Exchange) -> None:
    trader = await exchange.trader("trader-05")
    placed = await trader.place(0, "buy", size="0.01", price="20000")
    first = await placed.executed()
    assert first.code == 0 and (await trader.view()).open_orders == 1
    # The same bytes: a receipt again, the first result, and no second order.
    again = Submission(placed.raw, placed.signer, placed.nonce_ms, trader.account, 1)
    await exchange.pipeline.submit(again)
    await again.accepted()
    assert await again.ordered() == placed.height
    view = await exchange.channel("execution").ask(
        wire.ResultView, wire.ResultRequest, placed.signer, placed.nonce_ms
    )
    kept = msgspec.msgpack.decode(view.event, type=BatchExecuted)
    assert kept.duplicate and kept.results == first.results
    assert (await trader.view()).open_orders == 1
    # Other content under the same nonce is refused.
    batch = ActionBatch(trader.account, placed.nonce_ms, 0, [Order(0, 0, 300_000, 2)])
    other = Submission(
        signed(exchange.chain, trader.key, batch), placed.signer, placed.nonce_ms, trader.account, 1
    )
    await exchange.submit(other)
    event = await other.executed()
    assert (event.code, event.results, event.duplicate) == (Code.NONCE_USED, [], False)
    assert (await trader.view()).open_orders == 1
    await (await trader.cancel(0, first.results[0].order_id)).executed()
    assert exchange.tracker.duplicated == 0
    with pytest.raises(RemoteFault) as caught:
        await exchange.channel("execution").ask(
            wire.ResultView, wire.ResultRequest, placed.signer, placed.nonce_ms + 10**9
        )
    assert caught.value.code == Code.NOT_FOUND


async def test_questions_that_have_no_answer(exchange: Exchange) -> None:
    for role, request, fields, code in (
        ("execution", wire.BookRequest, (9, 5), Code.UNKNOWN_MARKET),
        ("execution", wire.BookRequest, (-1, 5), Code.UNKNOWN_MARKET),
        ("execution", wire.SubscribeEvents, (2**60, []), Code.NOT_RETAINED),
        ("execution", wire.SubscribeEvents, (-1, []), Code.WRONG_TYPE),
        ("execution", wire.SubscribeEvents, (1, [16] * 1_025), Code.TOO_MANY_SUBSCRIPTIONS),
        ("execution", wire.SubscribeDiffs, (0,), Code.NOT_RETAINED),
        ("sequencer", wire.SubscribeLog, (0,), Code.NOT_RETAINED),
        ("prover", wire.WithdrawalRequest, (10**6,), Code.NOT_FOUND),
        ("prover", wire.WithdrawalRequest, (2**64 - 1,), Code.NOT_FOUND),
        ("node", wire.HeaderRequest, (10**9,), Code.NOT_FOUND),
        ("node", wire.HeaderRequest, (-1,), Code.NOT_FOUND),
        ("node", wire.BatchRequest, (0, 10**9), Code.UNKNOWN_BATCH),
        ("node", wire.BatchRequest, (5, 1), Code.WRONG_SHARD),
        ("node", wire.BalanceRequest, (b"short",), Code.WRONG_TYPE),
        ("node", wire.InboxRequest, (-1, 1), Code.WRONG_TYPE),
        ("node", wire.ProofRequest, ([],), Code.WRONG_TYPE),
    ):
        channel: Channel = exchange.channel(role)  # type: ignore[arg-type]
        with pytest.raises(RemoteFault) as caught:
            await channel.ask(wire.Done, request, *fields)
        assert caught.value.code == code, (request, fields, caught.value)
        assert len(caught.value.text) >= 15, caught.value


# --- the ledger


async def test_ledger_transactions_with_their_own_codes(exchange: Exchange, chain: Chain) -> None:
    key = exchange.key("trader-06")
    node = exchange.channel("node")
    balance = await exchange.ledger.balance(key.address)
    settled = await some_batch(exchange)
    header = settled.header
    certificate = (await node.ask(wire.HeaderView, wire.HeaderRequest, 0)).certificate
    entry = OutboxEntry(header.outbox_first, 16, key.address, 5)

    async def outcome(raw: bytes) -> tuple[int, str]:
        try:
            done = await node.ask(wire.Committed, wire.SubmitTransaction, raw, timeout_ms=30_000)
        except RemoteFault as fault:
            return fault.code, fault.text
        return done.code, done.text

    def sent(action: LedgerAction, nonce: int | None = None, by: Key = key) -> bytes:
        nonce = balance.nonce if nonce is None else nonce
        return sign_action(by, chain, nonce, action)

    deposit = Deposit(key.address, 5)
    right = sent(deposit)
    fee_uusd = chain.genesis.fees.least_uusd(len(right))
    envelope = msgspec.msgpack.decode(right, type=SignedTransaction)
    change = msgspec.structs.replace
    for raw, code in (
        (b"", Code.MALFORMED),
        (right[:-1], Code.MALFORMED),
        (encode("text"), Code.WRONG_TYPE),
        (b"\xdc\x00\x04" + right[1:], Code.NON_CANONICAL),
        (encode(change(envelope, scheme=9)), Code.SCHEME_UNKNOWN),
        (encode(change(envelope, signer=Key.generate().public)), Code.BAD_SIGNATURE),
        (sign_transaction(key, chain.log_id, Transaction(0, Deposit(key.address, 5))),
         Code.BAD_SIGNATURE),
        (sent(Deposit(key.address, 5), balance.nonce + 10_000), Code.BAD_LEDGER_NONCE),
        (sent(Deposit(key.address, 5), 2**64 - 1), Code.BAD_LEDGER_NONCE),
        (sent(Deposit(key.address, 5), -1), Code.WRONG_TYPE),
        (sign_transaction(key, chain.chain_id, Transaction(balance.nonce, deposit)),
         Code.FEE_TOO_LOW),
        (sign_transaction(key, chain.chain_id, Transaction(balance.nonce, deposit, 2**64 - 1)),
         Code.BAD_AMOUNT),
        (sent(Bond(5, b"no certificate", "host:1")), Code.BAD_CERTIFICATE),
        (sent(Unbond(-1)), Code.BAD_AMOUNT),
        (sent(Deposit(key.address, 0)), Code.BAD_AMOUNT),
        (sent(Deposit(key.address, -5)), Code.BAD_AMOUNT),
        (sent(Deposit(key.address, 2**64 - 1)), Code.BAD_AMOUNT),
        (sent(Deposit(b"short", 5)), Code.WRONG_TYPE),
        (sent(Deposit(key.address, balance.balance_uusd + 1)), Code.INSUFFICIENT_BALANCE),
        (sent(Deposit(key.address, 5), 0, Key.generate()), Code.INSUFFICIENT_BALANCE),
        (sent(Payout(10**6, entry, [])), Code.UNKNOWN_BATCH),
        (sent(Payout(2**64 - 1, entry, [])), Code.UNKNOWN_BATCH),
        (sent(Payout(-1, entry, [])), Code.UNKNOWN_BATCH),
        (sent(Payout(header.number, entry, [])), Code.BAD_PROOF),
        (sent(Payout(header.number, entry, [b"\x01" * 32] * 40)), Code.BAD_PROOF),
        (sent(Payout(header.number, change(entry, number=2**64 - 1), [])), Code.BAD_PROOF),
        (sent(PostBatch(header, b"", certificate)), Code.NOT_A_PROVER),
    ):  # fmt: skip
        got, text = await outcome(raw)
        assert got == code, (Code(got).label, text, raw[:40])
        assert len(text) >= 15, (code, text)
    assert (await exchange.ledger.balance(key.address)).nonce == balance.nonce
    assert (await outcome(right))[0] == Code.OK
    assert (await outcome(right))[0] == Code.OK, "the same bytes again: the first outcome"
    assert (await outcome(sent(Deposit(key.address, 6))))[0] == Code.BAD_LEDGER_NONCE
    after = await exchange.ledger.balance(key.address)
    left_uusd = balance.balance_uusd - 5 - fee_uusd
    assert (after.nonce, after.balance_uusd) == (balance.nonce + 1, left_uusd)


async def some_batch(exchange: Exchange) -> wire.BatchView:
    found: list[wire.BatchView] = []

    async def settled() -> bool:
        found.append(await exchange.channel("node").ask(wire.BatchView, wire.BatchRequest, 0, 0))
        return True

    await eventually("a settled batch", settled)
    return found[-1]


async def test_transactions_that_are_too_large(cluster: Cluster, chain: Chain) -> None:
    """A client's frames are small; a prover's may be large, but a transaction must fit a block."""
    session = await RawSession.open(cluster, "validator-0")
    await session.frame(encode(wire.Hello(1, 1, chain.chain_id, "x")))
    challenge = (await session.answer())[8]
    prover = cluster.testnet.key("prover-0")
    proof = prover.sign(wire.session_digest(chain.chain_id, challenge))
    await session.frame(encode(wire.Authenticate(2, 1, prover.public, proof)))
    assert (await session.answer())[0] == 65
    size = chain.genesis.ledger_pace.max_payload_bytes
    await session.frame(encode(wire.SubmitTransaction(3, b"\x00" * size)))
    assert str(size) in refusal(await session.answer(), Code.TRANSACTION_TOO_LARGE, 3)
    await session.alive()
    await session.close()
    client = await RawSession.open(cluster, "validator-0")
    await client.frame(encode(wire.SubmitTransaction(3, b"\x00" * wire.CLIENT_FRAME_BYTES)))
    refusal(await client.answer(), Code.FRAME_TOO_LARGE)
    await client.close()


async def test_nobody_else_noticed(testnet_cluster: Cluster, steady: SteadyTrader) -> None:
    """The steady client checked every single result; it was never even disconnected."""
    cluster = testnet_cluster
    await steady.stop()
    print(f"{steady.done} orders and cancels of the steady client")
    assert steady.done > 20 and steady.reconnects == 0
    for name in PORTS:
        assert "Traceback" not in cluster.log(name), cluster.log(name)[-3000:]
        assert await cluster.number(name, "rejected") > 0
    assert (await cluster.status("execution-0"))["money_conserved"] == "yes"
    assert (await cluster.status("validator-0"))["conserved"] == "yes"
