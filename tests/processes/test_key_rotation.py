"""A validator's key is exchanged while people trade, with interruptions at bad moments."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from cluster_world import (
    ROOT,
    Cluster,
    SteadyTrader,
    audited,
    call,
    data,
    eventually,
    running_cluster,
)

from client.sdk import Exchange
from client.validators import ValidatorSetView, read_certificate_beside, validator_set
from cluster.rotate_fees import fees_uusd
from cluster.testnet import TestnetOptions
from protocol.genesis import Staking
from protocol.keys import Key
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView
from protocol.settlement import Bond
from store.keyfiles import load_key
from store.testnet import Testnet

USD = 1_000_000
OPTIONS = TestnetOptions(
    free_ports=True, traders=4, staking=Staking(epoch_ms=6_000, min_stake_uusd=100 * USD)
)
NAME = "validator-2"

pytestmark = pytest.mark.timeout(600)


async def killed_after(cluster: Cluster, words: str, *arguments: str) -> None:
    """Run a command, and SIGKILL it once it has said something on stderr."""
    environment = {**os.environ, "TRILEMMA_TESTNET": str(cluster.testnet.directory)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", *arguments, cwd=ROOT, env=environment,
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    said = []
    while line := (await process.stderr.readline()).decode():
        said.append(line)
        if words in line:
            break
    assert said and words in said[-1], said
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def signs(exchange: Exchange, public_key: str) -> bool:
    """Whether a member's signature is in one of the newest blocks."""
    found = await validator_set(exchange)
    (index,) = [one.index for one in found.validators if one.public_key == public_key]
    node = exchange.channel("node")
    height = (await node.ask(HeaderView, HeaderRequest, 0)).header.height
    view = await node.ask(BlocksView, BlocksFrom, max(1, height - 5), 6)
    signers = {
        (block.justify.epoch, each.member)
        for block in view.blocks
        for each in block.justify.signatures
    }
    return index is not None and (found.epoch, index) in signers


def voting(found: ValidatorSetView) -> set[str]:
    return {one.public_key for one in found.validators if one.voting_uusd}


async def refusals(cluster: Cluster) -> None:
    """What would break the quorum, or can never be, is refused before anything is changed."""
    before = sorted(path.name for path in cluster.testnet.key_path(NAME).parent.glob("*.key"))
    status, _, err = await call(cluster, "validator", "rotate", "execution-0")
    assert status == 2 and "no validator" in err
    own = cluster.testnet.process(NAME).peer
    status, _, err = await call(cluster, "validator", "rotate", NAME, "--peer", own)
    assert status == 2 and "another peer port" in err
    await cluster.supervisor.kill("validator-0")
    status, _, err = await call(cluster, "validator", "rotate", NAME)
    assert status == 4 and "without validator-0" in err, err
    assert err.count("\n") == 1
    await cluster.supervisor.restart("validator-0")
    await eventually("validator-0 is back", lambda: connected(cluster, "validator-0"))
    assert before == sorted(p.name for p in cluster.testnet.key_path(NAME).parent.glob("*.key"))


async def connected(cluster: Cluster, name: str) -> bool:
    return await cluster.number(name, "peers") == 3


async def rotated(cluster: Cluster, exchange: Exchange, payer: str, old: Key) -> tuple[Key, str]:
    """Run the command to its end; the new key, and what it told of its progress."""
    status, out, err = await call(cluster, "validator", "rotate", NAME, "--as", payer, "--json")
    assert status == 0, err
    told = json.loads(out)
    new = load_key(cluster.testnet.key_path(NAME))
    assert (told["old_address"], told["new_address"]) == (old.address.hex(), new.address.hex())
    assert (told["stake_uusd"], told["unbonding_uusd"]) == (1_000 * USD, 1_000 * USD)
    assert load_key(Path(told["retired_key"])).public == old.public
    await takes_part(cluster, exchange, old, new)
    return new, err


async def takes_part(cluster: Cluster, exchange: Exchange, old: Key, new: Key) -> None:
    """The new key is a member in the place of the old one, signs, and has its name."""
    found = await validator_set(exchange)
    assert new.public.hex() in voting(found) and old.public.hex() not in voting(found)
    assert len(voting(found)) == 4
    await eventually("the new key signs", lambda: signs(exchange, new.public.hex()))
    shown = (await data(cluster, "validator", "list"))["validators"]
    listed = {one["public_key"]: one["name"] for one in shown}
    assert listed[new.public.hex()] == NAME and listed[old.public.hex()] == ""


async def money_of_the_retired_key(cluster: Cluster, exchange: Exchange, old: Key) -> None:
    """What the old key has on the ledger can be moved away by the file that is left of it."""
    name = f"{NAME}-retired-{old.public.hex()[:8]}"
    address = exchange.key("trader-02").address
    before = (await exchange.ledger.balance(address)).balance_uusd
    for arguments in (("deposit", "900"), ("withdraw", "899", "--to", address.hex())):
        status, _, err = await call(cluster, *arguments, "--as", name)
        assert status == 0, err
    assert (await exchange.ledger.balance(address)).balance_uusd == before + 899 * USD


async def lose_state(cluster: Cluster) -> None:
    """Have the validator start without what it has signed, and end with status 5."""
    await cluster.supervisor.kill(NAME)
    await asyncio.to_thread(shutil.rmtree, cluster.testnet.data_path(NAME))
    await cluster.supervisor.restart(NAME)

    async def failed() -> bool:
        return cluster.supervisor.state(NAME) == "failed"

    await eventually(f"{NAME} sees that its state is lost", failed)
    assert cluster.supervisor.exit_status(NAME) == 5


async def test_a_key_is_exchanged_under_load_whatever_interrupts_it(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, OPTIONS) as cluster, cluster.exchange() as exchange:
        await refusals(cluster)
        trader, payer = SteadyTrader(exchange, "trader-00"), "trader-01"
        trader.start()
        before = await exchange.account_of(exchange.key(payer).address)
        command = ("validator", "rotate", NAME, "--as", payer)
        # In one second the withdrawal cannot be final.
        status, _, err = await call(cluster, *command, "--wait-s", "1")
        assert status == 4, err
        old = load_key(cluster.testnet.key_path(NAME))
        pending = load_key(cluster.testnet.key_path(f"{NAME}-next"))
        status, _, err = await call(cluster, "validator", "rotate", "validator-3", "--as", payer)
        assert status == 2 and f"rotation of {NAME} is not done" in err
        await killed_after(cluster, "pays", *command)
        await killed_after(cluster, "has bonded", *command)
        await killed_after(cluster, "old key has unbonded", *command)
        await killed_after(cluster, "has begun", *command)
        # As an interruption between the stop and the start leaves it; perhaps it did.
        status, _, err = await call(cluster, "faults", "kill", NAME)
        assert status == 0 or "is not running" in err, err
        await killed_after(cluster, "starts with its new key", *command)
        done = trader.done
        new, err = await rotated(cluster, exchange, payer, old)
        assert new.public == pending.public and "going on" in err
        trader.check()
        assert trader.done > done, "nothing was traded meanwhile"
        # However often it was begun, the stake was paid for once.
        after = await exchange.account_of(exchange.key(payer).address)
        certificate = read_certificate_beside(cluster.testnet.key_path(NAME))
        assert certificate is not None
        peer = Testnet.load(cluster.testnet.directory).process(NAME).peer
        bond = Bond(1_000 * USD, certificate, peer)
        paid_uusd = bond.amount_uusd + fees_uusd(exchange.chain, new, bond)
        assert before.cash_uusd - after.cash_uusd == paid_uusd
        await money_of_the_retired_key(cluster, exchange, old)
        # Once more, from a key that genesis does not name: one that must not sign any more.
        await lose_state(cluster)
        status, out, err = await call(cluster, *command)
        assert status == 0 and "going on" not in err, err
        newest = load_key(cluster.testnet.key_path(NAME))
        assert newest.public not in (old.public, new.public)
        assert newest.address.hex() in out and "-retired-" in out and out.count("\n") == 2
        await takes_part(cluster, exchange, new, newest)
        status, _, err = await call(cluster, "restart", "--process", NAME)
        assert status == 0, err
        testnet = Testnet.load(cluster.testnet.directory)
        assert testnet.process(NAME).peer != cluster.testnet.process(NAME).peer
        await trader.stop()
        assert (await audited(cluster)).roots_agree
