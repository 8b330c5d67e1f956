"""Real validators whose set changes: one joins, one leaves, one is punished and comes back."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from client.sdk import Exchange
from client.validators import (
    ValidatorSetView,
    ValidatorView,
    bond,
    read_certificate_beside,
    unbond,
    unjail,
    validator_set,
)
from cluster.join import JoiningValidator, prepare_validator
from cluster.testnet import TestnetOptions, create_testnet
from net.mesh import Peer, PeerMesh
from net.tls import client_context, server_context
from protocol.chain import Block, Header, Vote, vote_digest
from protocol.codec import encode
from protocol.errors import Code, RemoteFault
from protocol.evidence import DoubleVote
from protocol.genesis import Pace, Staking
from protocol.keys import Key
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView
from protocol.settlement import ReportEvidence
from store.config import parse_address
from store.keyfiles import load_key
from store.testnet import Testnet

ROOT = Path(__file__).parents[2]
PACE = Pace(20, 5, 150, 500, 2_000, 1 << 20)
USD = 1_000_000
STAKING = Staking(epoch_ms=3_000, min_stake_uusd=100 * USD, jail_ms=6_000)
PATIENCE_S = 60.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


class ChangingCluster:
    """Four validators of genesis and a fifth one, as child processes."""

    def __init__(self, testnet: Testnet, fifth: JoiningValidator) -> None:
        self.testnet = testnet
        self.fifth = fifth
        self.chain = testnet.chain()
        self.exchange = Exchange.connect(testnet.directory)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, config: Path) -> None:
        with self.testnet.log_path(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "node.process", str(config)],
                stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(20)

    def logs(self) -> str:
        return "\n".join(
            f"--- {name}\n{self.testnet.log_path(name).read_text()[-1500:]}"
            for name in self.processes
        )

    def require_running(self) -> None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}\n{self.logs()}"

    async def until_set(self, condition: Callable[[ValidatorSetView], bool]) -> ValidatorSetView:
        """The proven validators, once they are as wanted."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            self.require_running()
            found = await validator_set(self.exchange)
            if condition(found):
                return found
            assert asyncio.get_running_loop().time() < deadline, f"{found}\n{self.logs()}"
            await asyncio.sleep(0.1)

    async def newest(self) -> Header:
        view = await self.exchange.channel("node").ask(HeaderView, HeaderRequest, 0)
        return view.header

    async def until_height(self, height: int) -> Header:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while (header := await self.newest()).height < height:
            self.require_running()
            assert asyncio.get_running_loop().time() < deadline, f"{header}\n{self.logs()}"
            await asyncio.sleep(0.1)
        return header

    async def until_block(self, from_height: int, condition: Callable[[Block], bool]) -> int:
        """Height of the first block from a height on that is as wanted."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        height = from_height
        while asyncio.get_running_loop().time() < deadline:
            await self.until_height(height + 2)
            view = await self.exchange.channel("node").ask(BlocksView, BlocksFrom, height, 16)
            for block in view.blocks:
                if condition(block):
                    return block.header.height
            height += len(view.blocks)
        raise AssertionError(self.logs())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChangingCluster]:
    options = TestnetOptions(free_ports=True, traders=2, ledger_pace=PACE, staking=STAKING)
    directory = tmp_path_factory.mktemp("set")
    testnet = create_testnet(directory / "testnet", options)
    fifth = prepare_validator(
        directory / "fifth", testnet, key_file=testnet.key_path("trader-00"), name="fifth"
    )
    running = ChangingCluster(testnet, fifth)
    for entry in testnet.of_role("node"):
        running.start(entry.name, testnet.config_path(entry.name))
    yield running
    await running.exchange.close()
    for process in running.processes.values():
        process.kill()
        process.wait(10)


def view_of(found: ValidatorSetView, key: Key) -> ValidatorView:
    (view,) = [one for one in found.validators if one.public_key == key.public.hex()]
    return view


def voting(found: ValidatorSetView) -> set[str]:
    return {one.public_key for one in found.validators if one.voting_uusd}


async def test_a_validator_that_bonds_votes_and_leads_from_the_next_epoch_on(
    cluster: ChangingCluster,
) -> None:
    key = load_key(cluster.fifth.key_path)
    cluster.start("fifth", cluster.fifth.config_path)
    certificate = read_certificate_beside(cluster.fifth.key_path)
    done = await bond(cluster.exchange, key, 1_000 * USD, cluster.fifth.peer, certificate)
    found = await cluster.until_set(lambda one: key.public.hex() in voting(one))
    assert len(voting(found)) == 5
    joined = view_of(found, key)
    assert (joined.voting_uusd, joined.peer) == (1_000 * USD, cluster.fifth.peer)
    assert joined.index == 4, "newcomers stand behind those who stay"

    def votes(block: Block) -> bool:
        signers = [one.member for one in block.justify.signatures]
        return block.justify.epoch >= found.epoch and 4 in signers

    def leads(block: Block) -> bool:
        return block.header.epoch >= found.epoch and block.header.proposer == 4

    height = await cluster.until_block(done.height, votes)
    await cluster.until_block(height, leads)


async def test_a_validator_that_unbonds_is_not_needed_any_more(cluster: ChangingCluster) -> None:
    key = cluster.testnet.key("validator-1")
    await unbond(cluster.exchange, key, 0)
    found = await cluster.until_set(lambda one: key.public.hex() not in voting(one))
    assert len(voting(found)) == 4
    left = view_of(found, key)
    assert (left.index, left.stake_uusd) == (None, 0)
    assert [one.amount_uusd for one in left.unbonding] == [1_000 * USD]
    assert cluster.stop("validator-1") == 0
    # With one of four more away, a quorum would not be left if the one that left still counted.
    process = cluster.processes["validator-3"]
    process.send_signal(signal.SIGSTOP)
    try:
        newest = await cluster.newest()
        await cluster.until_height(newest.height + 10)
    finally:
        process.send_signal(signal.SIGCONT)


async def test_who_signs_two_blocks_in_one_view_is_punished_jailed_and_may_return(
    cluster: ChangingCluster,
) -> None:
    key, reporter = cluster.testnet.key("validator-2"), cluster.testnet.key("trader-01")
    found = await validator_set(cluster.exchange)
    accused = view_of(found, key)
    assert accused.index is not None
    votes = [
        forge_vote(cluster.chain.chain_id, found.epoch, accused.index, block_id, key)
        for block_id in (b"a" * 32, b"b" * 32)
    ]
    report = ReportEvidence(DoubleVote(*votes))
    balance_uusd = (await cluster.exchange.ledger.balance(reporter.address)).balance_uusd
    await cluster.exchange.ledger.send(reporter, report)
    with pytest.raises(RemoteFault, match="evidence_known"):
        await cluster.exchange.ledger.send(reporter, report)
    assert (await cluster.exchange.ledger.balance(reporter.address)).balance_uusd <= balance_uusd
    found = await cluster.until_set(lambda one: key.public.hex() not in voting(one))
    punished = view_of(found, key)
    assert punished.jailed and punished.stake_uusd == 950 * USD
    assert len(voting(found)) == 3
    await cluster.until_height((await cluster.newest()).height + 5)
    await back_from_jail(cluster, key)
    found = await cluster.until_set(lambda one: key.public.hex() in voting(one))
    assert view_of(found, key).voting_uusd == 950 * USD
    await cluster.until_height((await cluster.newest()).height + 5)


def forge_vote(
    chain_id: bytes, epoch: int, member: int, block_id: bytes, key: Key, view: int = 1,
    height: int = 1,
) -> Vote:  # fmt: skip
    signature = key.sign(vote_digest(chain_id, epoch, view, height, block_id))
    return Vote(chain_id, epoch, view, height, block_id, member, signature)


async def back_from_jail(cluster: ChangingCluster, key: Key) -> None:
    """Ask to be let out until the time is over."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            await unjail(cluster.exchange, key)
            return
        except RemoteFault as fault:
            assert fault.code == Code.JAILED, fault
        assert asyncio.get_running_loop().time() < deadline, cluster.logs()
        await asyncio.sleep(0.5)


async def test_a_double_vote_among_validators_is_reported_by_who_sees_it(
    cluster: ChangingCluster,
) -> None:
    """The forger has the key of validator 3, and sends one member a second vote in its name."""
    key = cluster.testnet.key("validator-3")
    identities = cluster.chain.genesis.validators
    own, other = (bytes.fromhex(identities[i].certificate) for i in (3, 0))
    mesh = PeerMesh(
        key.public, server_context(key, own, [other]), client_context(key, own, [other]), ignore,
        listen_host="127.0.0.1", listen_port=0,
    )  # fmt: skip
    host, port = parse_address(cluster.testnet.process("validator-0").peer)
    victim = bytes.fromhex(identities[0].public_key)
    mesh.set_peers(
        [Peer(victim, host, port)],
        server_context(key, own, [other]), client_context(key, own, [other]),
    )  # fmt: skip
    await mesh.start()
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    try:
        while not view_of(found := await validator_set(cluster.exchange), key).jailed:
            index = view_of(found, key).index
            header = await cluster.newest()
            view = await cluster.exchange.channel("node").ask(
                BlocksView, BlocksFrom, header.height, 1
            )
            qc = view.blocks[0].justify
            if index is not None and index in [one.member for one in qc.signatures]:
                vote = forge_vote(qc.chain_id, qc.epoch, index, b"f" * 32, key, qc.view, qc.height)
                mesh.send(victim, encode(vote))
            assert asyncio.get_running_loop().time() < deadline, cluster.logs()
            await asyncio.sleep(1.0)
    finally:
        await mesh.close()
    found = await cluster.until_set(lambda one: key.public.hex() not in voting(one))
    assert view_of(found, key).stake_uusd <= 950 * USD
    assert len(voting(found)) == 3


async def ignore(sender: bytes, frame: bytes) -> None:
    """What comes in is of no interest."""


async def test_the_command_shows_the_same_proven_set(cluster: ChangingCluster) -> None:
    command = [sys.executable, "-m", "cluster.cli", "--testnet", str(cluster.testnet.directory)]
    process = await asyncio.create_subprocess_exec(
        *command, "validator", "list", "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    data = json.loads(out)
    names = {one["name"]: one for one in data["validators"]}
    assert names["validator-1"]["index"] is None and names["validator-0"]["voting_uusd"]
    assert names[""]["public_key"] == load_key(cluster.fifth.key_path).public.hex()
    process = await asyncio.create_subprocess_exec(
        *command, "validator", "bond", "5", "--key", str(cluster.testnet.key_path("trader-01")),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    _, err = await process.communicate()
    assert process.returncode == 2 and b"give --address" in err
    assert err.count(b"\n") == 1


async def test_all_have_the_same_chain_and_survive_a_restart(cluster: ChangingCluster) -> None:
    """The fifth one recovers inside a later epoch, from its own store."""
    height = (await cluster.newest()).height
    assert cluster.stop("fifth") == 0
    cluster.start("fifth", cluster.fifth.config_path)
    await cluster.until_height(height + 20)
    ids = []
    entries = cluster.testnet.of_role("node")
    addresses = [one.public for one in entries if one.name in cluster.processes]
    for address in [*addresses, cluster.fifth.public]:
        exchange = Exchange(cluster.chain, {"node": [address]}, patience_ms=20_000)
        async with exchange:
            ids.append(await block_id_at(exchange, height + 20))
    assert len(set(ids)) == 1


async def block_id_at(exchange: Exchange, height: int) -> bytes:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            view = await exchange.channel("node").ask(HeaderView, HeaderRequest, height)
            return view.header.block_id()
        except RemoteFault as fault:
            assert fault.code == Code.NOT_FOUND
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.2)
