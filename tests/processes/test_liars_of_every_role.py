"""Real processes that lie, beside provers: validators, a sequencer, an execution node. What others
have of it, and what becomes of the liar."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from cluster_world import (
    DEADLINE_S,
    ROLES,
    Cluster,
    SteadyTrader,
    audited,
    eventually,
    running_cluster,
)

from client.exits import force, taken_in
from client.sdk import Exchange
from client.submission import results_of
from client.validators import validator_set
from cluster.byzantine import check_mode, modes
from cluster.defaults import CHALLENGER_BALANCE_UUSD, SETTLEMENT
from cluster.testnet import TestnetOptions
from protocol.actions import ALL_MARKETS, CancelAll
from protocol.errors import ConfigError
from store.config import ROLES as ALL_ROLES

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

RULES = msgspec.structs.replace(SETTLEMENT, window_ms=6_000, clock_ms=5_000)
VALIDATOR, EXECUTION, DECEIVED, OTHER = "validator-3", "execution-0", "prover-0", "prover-1"
EXIT_SAFETY = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    options = TestnetOptions(
        free_ports=True, traders=4, executions=2, provers=2, challengers=1, settlement=RULES
    )
    async with running_cluster(tmp_path_factory.mktemp("liars"), options) as made:
        yield made


async def again(cluster: Cluster, name: str, **fields: str) -> None:
    """Start a process again with other lines in its configuration; empty: without them."""
    path = cluster.testnet.config_path(name)
    kept = [line for line in path.read_text().splitlines() if line.partition(" =")[0] not in fields]
    lines = [f"{field} = {value}" for field, value in fields.items() if value]
    await cluster.supervisor.stop(name)
    path.write_text("\n".join([*lines, *kept]) + "\n")
    await cluster.supervisor.restart(name)
    await cluster.supervisor.wait_ready(DEADLINE_S, [name])


async def free(exchange: Exchange, address: bytes) -> int:
    """Free money of an address on the ledger, in micro-dollars."""
    return (await exchange.ledger.balance(address)).balance_uusd


@pytest.mark.parametrize("how", modes("node"))
async def test_a_lying_validator_stops_nobody(tmp_path: Path, how: str) -> None:
    """Each in a cluster of its own: a key that lied may never sign again as if it had not."""
    async with running_cluster(tmp_path, TestnetOptions(free_ports=True, traders=1)) as cluster:
        await again(cluster, VALIDATOR, byzantine=f'"{how}"')
        await _goes_on_beside(cluster, how)


async def _goes_on_beside(cluster: Cluster, how: str) -> None:
    height = await cluster.number("validator-0", "height")
    async with cluster.exchange() as exchange:
        trader = SteadyTrader(exchange, "trader-00")
        trader.start()

        async def went_on() -> bool:
            trader.check()
            told = await cluster.number(VALIDATOR, "lies_told")
            return told > 0 and await cluster.number("validator-0", "height") > height + 8

        await eventually(f"blocks are final beside a validator that {how}", went_on)
        if how == "equivocates":

            async def jailed() -> bool:
                rows = (await validator_set(exchange)).validators
                return any(row.name == VALIDATOR and row.jailed for row in rows)

            await eventually("who signs against itself is jailed", jailed)
        await trader.stop()
    assert (await cluster.status("validator-0"))["conserved"] == "yes"


async def test_a_censored_signer_is_heard_through_the_base_layer(cluster: Cluster) -> None:
    key = cluster.testnet.key("trader-01")
    await again(cluster, "sequencer-0", byzantine=f'"censors:{key.public.hex()}"')
    async with cluster.exchange() as exchange:
        free, censored = [await exchange.trader(f"trader-{n:02}") for n in (0, 1)]
        results_of(await (await free.cancel_all()).executed())
        submission = await censored.cancel_all()
        with pytest.raises(TimeoutError):
            await submission.wait("ordered", 2_000)
        assert await cluster.number("sequencer-0", "lies_told") > 0
        forced = await force(exchange, key, CancelAll(ALL_MARKETS))
        view = await taken_in(exchange, forced, 60_000)
        assert view.header.inbox_cursor > forced.index
    await again(cluster, "sequencer-0", byzantine="")


async def test_disputes_of_what_is_right_cost_whoever_opens_them(cluster: Cluster) -> None:
    name = "challenger-0"
    removed = await cluster.number("validator-0", "removed_batches")
    await again(cluster, name, byzantine='"disputes-everything"')
    async with cluster.exchange() as exchange:
        trader = SteadyTrader(exchange, "trader-03")
        trader.start()

        async def lost() -> bool:
            trader.check()
            balance_uusd = await free(exchange, cluster.testnet.key(name).address)
            # What is open comes back; only a game that is lost halves the sum of all bonds.
            opened = await cluster.number(name, "right_batches_disputed")
            games = await cluster.number("validator-0", "open_disputes")
            held = balance_uusd + games * RULES.challenger_bond_uusd
            return opened > 0 and held <= CHALLENGER_BALANCE_UUSD - RULES.challenger_bond_uusd

        await eventually("it loses its bonds", lost)
        number = await cluster.number("validator-0", "last_batch")
        await again(cluster, name, byzantine="")

        async def final() -> bool:
            return await cluster.number("validator-0", "final_batch") >= number

        await eventually("what is right is final all the same", final)
        await trader.stop()
    assert await cluster.number("validator-0", "removed_batches") == removed


def only(cluster: Cluster, name: str) -> Exchange:
    """A client that asks one execution node alone."""
    testnet = cluster.testnet
    addresses = {role: testnet.addresses(role) for role in ROLES}
    addresses["execution"] = [testnet.process(name).public]
    return Exchange(cluster.chain, addresses, testnet=testnet, patience_ms=60_000)


async def test_a_lying_execution_node_costs_the_prover_that_trusts_it(cluster: Cluster) -> None:
    await again(cluster, EXECUTION, byzantine='"lies"')
    address = cluster.testnet.process(EXECUTION).public
    await again(cluster, DECEIVED, execution=f'["{address}"]')
    async with only(cluster, "execution-1") as exchange, only(cluster, EXECUTION) as deceived:
        trader = await exchange.trader("trader-02")
        told = (await deceived.account(trader.account)).cash_uusd
        assert told > (await exchange.account(trader.account)).cash_uusd

        async def trades() -> None:
            placed = await trader.place("BTC-PERP", "buy", size="0.01", price="10000")
            order = results_of(await placed.executed())[0].order_id
            results_of(await (await trader.cancel("BTC-PERP", order)).executed())
            await exchange.ledger.deposit(trader.key, 1_000_000)

        async def disputed() -> bool:
            await trades()
            return await cluster.number("challenger-0", "wrong_batches") > 0

        async def stopped() -> bool:
            await trades()
            return cluster.supervisor.exit_status(DECEIVED) == EXIT_SAFETY

        key = cluster.testnet.key("challenger-0").address
        had = await free(exchange, key)
        cluster.supervisor.send_signal(OTHER, signal.SIGSTOP)
        await eventually("it settles in good faith what is wrong, and is disputed", disputed)
        cluster.supervisor.send_signal(OTHER, signal.SIGCONT)
        await eventually("it sees that the chain is not what it was told, and stops", stopped, 90)
        won = await free(exchange, key) - had
    # Half of each bond that the deceived one loses, less the fees of the moves.
    assert won >= RULES.prover_bond_uusd * 2 // 5, "nothing was lost: no lie bit"
    assert await cluster.number("validator-0", "removed_batches") > 0
    report = await audited(cluster)
    assert report.roots_agree and report.money_conserved


async def test_an_unknown_lie_is_told_at_the_start(cluster: Cluster) -> None:
    name, path = "challenger-0", cluster.testnet.config_path("challenger-0")
    await cluster.supervisor.stop(name)
    honest = path.read_text()
    path.write_text('byzantine = "is-kind"\n' + honest)
    await cluster.supervisor.restart(name)

    async def failed() -> bool:
        return cluster.supervisor.state(name) == "failed"

    await eventually("it stays down", failed)
    said = cluster.log(name)
    assert "no challenger knows how to be 'is-kind'" in said and "plays-to-lose" in said
    path.write_text(honest)


async def test_modes_are_listed_and_checked(tmp_path: Path) -> None:
    for role in ALL_ROLES:
        found = modes(role)
        assert found and all(text and text[0].islower() for text in found.values())
        for name in found:
            assert check_mode(role, name) == [name]
    check_mode("prover", "mints-cash:2+answers-late")
    check_mode("sequencer", "censors:00ff")
    for text in ("", "mints-cash+drops-fill", "answers-late+answers-garbage", "mints-cash:x",
                 "answers-late:1"):  # fmt: skip
        with pytest.raises(ConfigError):
            check_mode("prover", text)
