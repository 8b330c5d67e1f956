"""Four real validators on loopback: commit, answer, survive kills, restarts and garbage."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from cluster.testnet import TestnetOptions, create_testnet
from consensus import MemberSet, verify_certificate
from net.rpc import Connection
from net.upstream import say_hello
from node.store import DATABASE_NAME
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, RemoteFault
from protocol.genesis import Pace
from protocol.keys import Key
from protocol.ledger_leaves import account_key, decode_account, decode_inbox_leaf, inbox_key
from protocol.messages import (
    BalanceRequest,
    BalanceView,
    BatchRequest,
    BlocksFrom,
    BlocksView,
    Committed,
    HeaderRequest,
    HeaderView,
    InboxRequest,
    InboxView,
    LedgerNews,
    ProofRequest,
    ProofView,
    Status,
    StatusRequest,
    SubmitTransaction,
    SubscribeLedger,
    decode_answer,
)
from protocol.settlement import (
    EMPTY_INBOX_HASH,
    Deposit,
    extend_inbox_hash,
    sign_action,
)
from prover.tree import TreeProof, verify_proof
from store.config import parse_address
from store.testnet import Testnet

A = TypeVar("A", bound=Wire)
ROOT = Path(__file__).parents[2]
PACE = Pace(20, 5, 150, 400, 2_000, 1 << 20)
decode_proof: Decoder[TreeProof] = Decoder(TreeProof)


class Cluster:
    """The validators of a testnet as child processes."""

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet
        self.chain = testnet.chain()
        self.members = MemberSet(
            self.chain.chain_id, [one.member() for one in self.chain.genesis.validators]
        )
        self.entries = testnet.of_role("node")
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *indexes: int) -> None:
        for index in indexes:
            name = self.entries[index].name
            with self.testnet.log_path(name).open("ab") as log:
                self.processes[index] = subprocess.Popen(
                    [sys.executable, "-m", "node.process", str(self.testnet.config_path(name))],
                    stderr=log,
                    stdout=log,
                    cwd=ROOT,
                )

    def kill(self, index: int) -> None:
        process = self.processes.pop(index)
        process.kill()
        process.wait(10)

    def stop(self, index: int) -> int:
        process = self.processes.pop(index)
        process.send_signal(signal.SIGTERM)
        return process.wait(20)

    async def connect(self, index: int) -> Connection:
        """A greeted connection; waits for the process to listen."""
        for _ in range(400):
            connection = Connection(*parse_address(self.entries[index].public))
            try:
                await connection.open()
                await say_hello(connection, self.chain.chain_id, "test")
                return connection
            except ConnectionError:
                await asyncio.sleep(0.05)
        raise AssertionError(self.testnet.log_path(self.entries[index].name).read_text()[-2000:])

    def deposit(self, key: Key, nonce: int, amount_uusd: int) -> bytes:
        action = Deposit(key.address, amount_uusd)
        return sign_action(key, self.chain, nonce, action)


async def ask(connection: Connection, kind: type[A], request: type[Wire], *fields: object) -> A:
    """One request and its answer of the expected type."""
    request_id = connection.next_request_id()
    frame = await connection.request(encode(request(request_id, *fields)), request_id, 20_000)
    answer = decode_answer(frame)
    assert isinstance(answer, kind)
    return answer


async def submit(connection: Connection, raw: bytes) -> Committed:
    return await ask(connection, Committed, SubmitTransaction, raw)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = TestnetOptions(free_ports=True, traders=4, executions=1, ledger_pace=PACE)
    running = Cluster(create_testnet(tmp_path_factory.mktemp("net") / "testnet", options))
    running.start(0, 1, 2, 3)
    yield running
    for index in list(running.processes):
        running.kill(index)


@pytest.fixture
async def connection(cluster: Cluster) -> AsyncIterator[Connection]:
    opened = await cluster.connect(0)
    yield opened
    await opened.close()


async def heights_reach(cluster: Cluster, height: int) -> None:
    """Wait until every running validator has committed a height."""
    for index in cluster.processes:
        link = await cluster.connect(index)
        for _ in range(300):
            status = await ask(link, Status, StatusRequest)
            if int(status.values["height"]) >= height:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"validator {index} stays below height {height}")
        await link.close()


async def roots_agree(cluster: Cluster) -> int:
    """Every running validator names the same block at every common height; gives the height."""
    chains = []
    for index in cluster.processes:
        link = await cluster.connect(index)
        ids: list[bytes] = []
        while True:
            try:
                view = await ask(link, BlocksView, BlocksFrom, len(ids) + 1, 256)
            except RemoteFault as fault:
                assert fault.code == Code.NOT_FOUND
                break
            ids += [block.header.block_id() for block in view.blocks]
        chains.append(ids)
        await link.close()
    common = min(map(len, chains))
    assert common > 0
    assert all(ids[:common] == chains[0][:common] for ids in chains)
    return common


async def test_a_deposit_commits_everywhere_and_a_repeat_gets_the_same_answer(
    cluster: Cluster, connection: Connection
) -> None:
    key = cluster.testnet.key("faucet")
    raw = cluster.deposit(key, 0, 1_000)
    done = await submit(connection, raw)
    assert (done.code, done.height > 0) == (Code.OK, True)
    assert await submit(connection, raw) == msgspec.structs.replace(
        done, request_id=done.request_id + 1
    )
    await heights_reach(cluster, done.height)
    for index in range(4):
        other = await cluster.connect(index)
        view = await ask(other, BalanceView, BalanceRequest, key.address)
        assert (view.nonce, view.account > 0) == (1, True)
        assert msgspec.structs.replace(await submit(other, raw), request_id=0) == (
            msgspec.structs.replace(done, request_id=0)
        )
        await other.close()


async def test_inbox_and_balances_are_proven_under_a_certified_header(
    cluster: Cluster, connection: Connection
) -> None:
    view = await ask(connection, InboxView, InboxRequest, 0, 4096)
    verify_certificate(cluster.members, view.header, view.certificate)
    leaves = verify_proof(view.header.app_root, decode_proof(view.proof), [inbox_key(0)])
    raw = leaves[inbox_key(0)]
    assert raw is not None
    leaf = decode_inbox_leaf(raw)
    running = EMPTY_INBOX_HASH
    for height, entry in view.entries:
        running = extend_inbox_hash(running, height, entry)
    assert (len(view.entries), running) == (leaf.count, leaf.running_hash)
    assert leaf.count > 4
    key = account_key(cluster.testnet.key("trader-00").address)
    proof = await ask(connection, ProofView, ProofRequest, [key])
    verify_certificate(cluster.members, proof.header, proof.certificate)
    value = verify_proof(proof.header.app_root, decode_proof(proof.proof), [key])[key]
    assert value is not None
    accounts = {one.address: one for one in cluster.chain.genesis.accounts}
    assert decode_account(value).balance_uusd == accounts[key[1:].hex()].balance_uusd


async def test_headers_blocks_and_news_follow_the_chain(
    cluster: Cluster, connection: Connection
) -> None:
    request_id = connection.next_request_id()
    news = connection.subscribe(encode(SubscribeLedger(request_id)), request_id)
    seen = [decode_answer(await news.get()) for _ in range(4)]
    heights = [one.height for one in seen if isinstance(one, LedgerNews)]
    assert heights == list(range(heights[0], heights[0] + 4))
    news.close()
    newest = await ask(connection, HeaderView, HeaderRequest, 0)
    verify_certificate(cluster.members, newest.header, newest.certificate)
    first = await ask(connection, HeaderView, HeaderRequest, 1)
    assert first.header.height == 1 <= first.certificate.qc.height
    blocks = await ask(connection, BlocksView, BlocksFrom, 1, 10)
    assert [block.header.height for block in blocks.blocks] == list(
        range(1, len(blocks.blocks) + 1)
    )
    verify_certificate(cluster.members, blocks.blocks[-1].header, blocks.certificate)
    for request, code in (
        (HeaderRequest(9, 1 << 40), Code.NOT_FOUND),
        (HeaderRequest(9, -1), Code.NOT_FOUND),
        (BatchRequest(9, 0, 0), Code.UNKNOWN_BATCH),
        (BatchRequest(9, 5, 1), Code.WRONG_SHARD),
        (BalanceRequest(9, b"short"), Code.WRONG_TYPE),
        (BlocksFrom(9, 1 << 62, 5), Code.NOT_FOUND),
        (InboxRequest(9, -1, 5), Code.WRONG_TYPE),
        (ProofRequest(9, []), Code.WRONG_TYPE),
        (SubmitTransaction(9, b"\xc1"), Code.MALFORMED),
        (SubmitTransaction(9, bytes(200_000)), Code.WRONG_TYPE),
    ):
        with pytest.raises(RemoteFault) as refused:
            await connection.request(encode(request), 9)
        assert refused.value.code == code, request


async def test_transactions_are_passed_on_to_every_validator_and_wait_for_their_turn(
    cluster: Cluster, connection: Connection
) -> None:
    key = cluster.testnet.key("trader-03")
    second = asyncio.ensure_future(submit(connection, cluster.deposit(key, 1, 5)))
    for index in range(4):
        link = await cluster.connect(index)
        for _ in range(200):
            if (await ask(link, Status, StatusRequest)).values["mempool"] == 1:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"validator {index} never heard of the transaction")
        await link.close()
    assert not second.done()
    other = await cluster.connect(3)
    first = await submit(other, cluster.deposit(key, 0, 5))
    await other.close()
    assert (first.code, (await second).code) == (Code.OK, Code.OK)


async def test_garbage_on_the_public_and_the_peer_port_changes_nothing(cluster: Cluster) -> None:
    for address in (cluster.entries[1].public, cluster.entries[1].peer):
        for garbage in (b"\xff" * 64, b"\x00\x00\x00\x03\xc1\xc1\xc1", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(parse_address(address), 5) as raw:
                raw.sendall(garbage)
    link = await cluster.connect(1)
    status = await ask(link, Status, StatusRequest)
    assert status.values["conserved"] == "yes"
    await link.close()
    await heights_reach(cluster, int(status.values["height"]) + 3)


async def test_a_validator_killed_under_load_catches_up_and_nothing_is_lost(
    cluster: Cluster, connection: Connection
) -> None:
    key = cluster.testnet.key("trader-01")
    acknowledged = []
    for nonce in range(30):
        raw = cluster.deposit(key, nonce, 1 + nonce)
        under_way = asyncio.ensure_future(submit(connection, raw))
        if nonce == 5:
            cluster.kill(2)
        elif nonce == 9:
            cluster.start(2)
        acknowledged.append(await under_way)
    assert [one.code for one in acknowledged] == [Code.OK] * 30
    await heights_reach(cluster, acknowledged[-1].height)
    assert await roots_agree(cluster) >= acknowledged[-1].height
    link = await cluster.connect(2)
    view = await ask(link, BalanceView, BalanceRequest, key.address)
    assert view.nonce == 30
    await link.close()


async def test_all_four_restart_with_what_was_acknowledged(cluster: Cluster) -> None:
    key = cluster.testnet.key("trader-02")
    link = await cluster.connect(3)
    done = [await submit(link, cluster.deposit(key, nonce, 5)) for nonce in range(3)]
    await link.close()
    for index in (0, 1):
        cluster.kill(index)
    for index in (2, 3):
        assert cluster.stop(index) == 0
    cluster.start(0, 1, 2, 3)
    link = await cluster.connect(3)
    view = await ask(link, BalanceView, BalanceRequest, key.address)
    assert view.ledger_height >= done[-1].height and view.nonce == 3
    again = await submit(link, cluster.deposit(key, 2, 5))
    assert (again.code, again.height) == (Code.OK, done[-1].height)
    more = await submit(link, cluster.deposit(key, 3, 5))
    assert more.code == Code.OK
    await link.close()
    await heights_reach(cluster, more.height)
    assert await roots_agree(cluster) >= more.height


def test_a_damaged_ledger_stops_the_process_with_its_own_status(cluster: Cluster) -> None:
    name = cluster.entries[3].name
    cluster.stop(3)
    with sqlite3.connect(cluster.testnet.data_path(name) / DATABASE_NAME) as database:
        database.execute("DELETE FROM leaves WHERE substr(key, 1, 1) = x'02'")
    database.close()
    cluster.start(3)
    assert cluster.processes.pop(3).wait(60) == 5


def test_a_port_in_use_and_a_missing_file_end_with_one_sentence(
    cluster: Cluster, tmp_path: Path
) -> None:
    name = cluster.entries[0].name
    text = cluster.testnet.config_path(name).read_text()
    text = text.replace('"../', f'"{cluster.testnet.directory}/')
    text = text.replace(f"data/{name}", "data/other")
    (tmp_path / "node.toml").write_text(text)
    for path, words in ((tmp_path / "node.toml", "already in use"), (tmp_path / "x.toml", "read")):
        done = subprocess.run(
            [sys.executable, "-m", "node.process", str(path)],
            capture_output=True, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2
        assert words in done.stderr and done.stderr.count("\n") == 1
