"""A sequencer that censors; and all but the validators gone for ever: money still gets out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, Cluster, eventually

from client.exit_state import ClaimFile, claim_file, rebuilt_from_validators
from client.exits import (
    ShardFrozen,
    find_payout,
    force,
    forced_withdrawal,
    freeze_of,
    pay_when_final,
    taken_in,
)
from client.sdk import Exchange
from client.submission import results_of
from cluster.supervisor import Supervisor, role_command
from cluster.testnet import TestnetOptions, create_testnet
from node.genesis import genesis_ledger
from node.process_keeper import STATE_NAME, rebuilt_from_disk
from protocol.actions import ALL_MARKETS, CancelAll, Withdraw
from protocol.errors import Code, RemoteFault
from protocol.exits import Collect, Refund
from protocol.settlement import Deposit
from store.testnet import CONFIG_FOLDER, DATA_FOLDER, Testnet

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

DOLLAR = 1_000_000
FORCED_MS = 15_000
CLAIM_MS = 20_000
TIMEOUT_MS = 120_000
CENSORED = "trader-00"
PRUNER = "validator-3"
RULES = {
    "window_ms": 1_000,
    "clock_ms": 1_000,
    "forced_ms": FORCED_MS,
    "claim_ms": CLAIM_MS,
    "forced_fee_uusd": DOLLAR,
}

CENSOR = """
import sys
from protocol.actions import decode_actions, decode_signed
from protocol.errors import Code, Rejected
from sequencer.machine import Sequencer

signer, admit = bytes.fromhex(sys.argv.pop(1)), Sequencer.submit

def submit(self, ticket, raw, signers, now_ms):
    if decode_signed(raw).signer == signer:
        raise Rejected(Code.BUSY, "not you")
    return admit(self, ticket, raw, signers, now_ms)

Sequencer.submit = submit
from cluster.cli import main
main()
"""


DEAF = """
import sys
from sequencer.machine import Sequencer

known, hear = int(sys.argv.pop(1)), Sequencer.note_ledger

def note_ledger(self, height, inbox_count, *others):
    return [] if inbox_count > known else hear(self, height, inbox_count, *others)

Sequencer.note_ledger = note_ledger
from cluster.cli import main
main()
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def censored(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A testnet whose only sequencer takes nothing from one account."""
    directory = tmp_path_factory.mktemp("way-out") / "testnet"
    testnet = lawful_testnet(directory)
    async with lying_cluster(testnet, CENSOR, testnet.key(CENSORED).public.hex()) as cluster:
        yield cluster


def lawful_testnet(directory: Path) -> Testnet:
    """A testnet with deadlines."""
    testnet = create_testnet(directory, TestnetOptions(free_ports=True, traders=4))
    genesis = json.loads(testnet.genesis_path.read_bytes())
    genesis["settlement"] = genesis.get("settlement", {}) | RULES
    testnet.genesis_path.write_text(json.dumps(genesis))
    config = testnet.directory / CONFIG_FOLDER / f"{PRUNER}.toml"
    config.write_text(f"retain_blocks = 600\n{config.read_text()}")
    return Testnet.load(directory)


@asynccontextmanager
async def lying_cluster(testnet: Testnet, program: str, argument: str) -> AsyncIterator[Cluster]:
    """Its processes, the sequencer under a program that changes it before it starts."""

    def command(entry: Any, config: Path) -> list[str]:
        usual = role_command(entry, config)
        if entry.role != "sequencer":
            return usual
        return [sys.executable, "-c", program, argument, *usual[usual.index("sequencer") :]]

    supervisor = Supervisor(testnet, command=command, report=lambda line: None)
    async with supervisor:
        await supervisor.wait_ready(DEADLINE_S)
        yield Cluster(testnet, supervisor)


async def balance(exchange: Exchange, name: str) -> int:
    return (await exchange.ledger.balance(exchange.key(name).address)).balance_uusd


async def test_a_censored_account_withdraws_through_the_base_layer(censored: Cluster) -> None:
    async with censored.exchange() as exchange:
        free = await exchange.trader("trader-01")
        assert results_of(await (await free.cancel_all()).executed())[0].code == Code.OK
        owner = await exchange.trader(CENSORED)
        submission = await owner.cancel_all()
        with pytest.raises(TimeoutError):
            await submission.wait("ordered", 2_000)
        key = owner.key
        address = b"\x0c" * 20
        forced = await force(exchange, key, Withdraw(250 * DOLLAR, address))
        entry = await forced_withdrawal(exchange, forced, owner.account, address, TIMEOUT_MS)
        assert entry.amount_uusd == 250 * DOLLAR
        await pay_when_final(exchange, exchange.key("trader-02"), entry.number, TIMEOUT_MS)
        assert (await exchange.ledger.balance(address)).balance_uusd == 250 * DOLLAR
        forced = await force(exchange, key, CancelAll(ALL_MARKETS), payer=exchange.key("trader-02"))
        view = await taken_in(exchange, forced, TIMEOUT_MS)
        assert view.header.inbox_cursor > forced.index
        assert await freeze_of(exchange) is None
        had = await balance(exchange, CENSORED)
        said = await command(censored.testnet, "force", "withdraw", "10", "--as", CENSORED)
        assert "10 dollars are paid" in said.replace(".00", "").replace(".000000", "")
        assert 8 * DOLLAR < await balance(exchange, CENSORED) - had < 10 * DOLLAR
        await command(censored.testnet, "force", "close", "0", "sell", "--as", "trader-01")
        with pytest.raises(RemoteFault, match="no settled batch"):
            await find_payout(exchange, entry.number + 2)


async def test_with_all_but_validators_gone_claims_are_paid(
    censored: Cluster, tmp_path: Path
) -> None:
    supervisor, testnet = censored.supervisor, censored.testnet
    async with censored.exchange() as exchange:
        worth = {
            name: (await exchange.account_of(exchange.key(name).address)).equity_uusd
            for name in testnet.traders
        }
        accounts = {
            name: (await exchange.ledger.balance(exchange.key(name).address)).account
            for name in testnet.traders
        }
        gone = [entry.name for entry in testnet.processes if entry.role != "node"]
        await asyncio.gather(*(supervisor.stop(name) for name in gone))
        lost = exchange.key("trader-03")
        await exchange.ledger.send(lost, Deposit(lost.address, 5 * DOLLAR))
        forced = await force(exchange, exchange.key("trader-01"), CancelAll(ALL_MARKETS))
        with pytest.raises(ShardFrozen):
            await taken_in(exchange, forced, TIMEOUT_MS)
        frozen = await freeze_of(exchange)
        assert frozen is not None
        assert frozen.state_root.hex() in await command(testnet, "freeze")

        # One validator's disk is enough for every proof; the others take the claims. It may
        # prune, and so it keeps the state that old blocks lead to.
        data = testnet.directory / DATA_FOLDER / PRUNER

        async def state_kept() -> bool:
            return await asyncio.to_thread((data / STATE_NAME).exists)

        await eventually("a state is kept", state_kept)
        assert censored.log(PRUNER).count("state not kept") == 0
        await supervisor.stop(PRUNER)
        state = await asyncio.to_thread(rebuilt_from_disk, data, exchange.chain)
        assert state.tree.root == frozen.state_root
        served = await rebuilt_from_validators(exchange)
        assert served.tree.root == frozen.state_root
        out = tmp_path / "claim.json"
        await command(testnet, "exit-proof", str(out), "--as", CENSORED, "--data", str(data))
        first = msgspec.json.decode(out.read_bytes(), type=ClaimFile)
        assert first == claim_file(state, accounts[CENSORED])
        await command(testnet, "claim", str(out), "--as", "trader-02")
        for name in testnet.traders:
            found = claim_file(state, accounts[name])
            assert found.value_uusd == worth[name]
            if name != CENSORED:
                await exchange.ledger.send(exchange.key(name), found.action())

        had = await balance(exchange, "trader-03")
        await exchange.ledger.send(exchange.key("trader-02"), Refund(forced.index - 1))
        assert await balance(exchange, "trader-03") == had + 5 * DOLLAR

        async def collected() -> bool:
            try:
                await exchange.ledger.send(
                    exchange.key("trader-02"), Collect(accounts["trader-01"])
                )
            except RemoteFault as fault:
                assert fault.code == Code.CLAIMS_OPEN
                await asyncio.sleep(1)
                return False
            return True

        before = {name: await balance(exchange, name) for name in testnet.traders}
        await eventually("claims are closed", collected, 120.0)
        assert await balance(exchange, "trader-01") == before["trader-01"] + worth["trader-01"]
        await command(testnet, "collect", "--as", CENSORED)
        fees_uusd = DOLLAR
        gained = await balance(exchange, CENSORED) - before[CENSORED]
        assert worth[CENSORED] - fees_uusd < gained <= worth[CENSORED]


async def test_a_sequencer_that_ignores_the_inbox_freezes_itself(tmp_path: Path) -> None:
    testnet = lawful_testnet(tmp_path / "testnet")
    known = genesis_ledger(testnet.chain(), bytes(32)).inbox().count
    async with (
        lying_cluster(testnet, DEAF, str(known)) as cluster,
        cluster.exchange() as exchange,
    ):
        trader = await exchange.trader("trader-00")
        await (await trader.place(0, "buy", size="0.01", price="1000")).executed()
        forced = await force(exchange, trader.key, CancelAll(ALL_MARKETS))
        with pytest.raises(ShardFrozen):
            await taken_in(exchange, forced, TIMEOUT_MS)
        # The log goes on; nobody stops because nothing settles any more.
        await (await trader.place(0, "buy", size="0.01", price="1000")).executed()
        await asyncio.sleep(3)
        state = await rebuilt_from_validators(exchange)
        await exchange.ledger.send(trader.key, state.claim(trader.account))
        for name in cluster.names:
            assert cluster.supervisor.restarts(name) == 0, cluster.log(name)[-2000:]


async def command(testnet: Testnet, *words: str) -> str:
    """Run the command line; what it prints."""
    line = [sys.executable, "-m", "cluster.cli", "--testnet", str(testnet.directory), *words]
    done = await asyncio.to_thread(
        subprocess.run, line, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
