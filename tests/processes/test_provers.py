"""Two provers, windows and bonds, as processes: turns, a death, money that waits for finality."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster_world import Cluster, eventually, running_cluster

from client.load import LoadGenerator, LoadOptions
from cluster.defaults import settlement_of
from cluster.testnet import TestnetOptions
from protocol.errors import Code, RemoteFault
from protocol.settlement import Payout

WINDOW_S = 2.0
BOND_USD = 500
OPTIONS = TestnetOptions(
    free_ports=True, traders=8, provers=2, settlement=settlement_of(WINDOW_S, BOND_USD)
)


async def everything_final(cluster: Cluster) -> None:
    async def is_final() -> bool:
        status = await cluster.status("validator-0")
        return status["final_batch"] == status["last_batch"] != 0

    await eventually("everything settled is final", is_final)


async def bonds_uusd(cluster: Cluster) -> int:
    """What both provers have on the ledger."""
    held = 0
    async with cluster.exchange() as exchange:
        for name in ("prover-0", "prover-1"):
            key = cluster.testnet.key(name)
            held += (await exchange.ledger.balance(key.address)).balance_uusd
    return held


async def run_load(cluster: Cluster, seconds: float) -> None:
    async with cluster.exchange() as exchange:
        options = LoadOptions(
            rate=200, batch=10, seconds=seconds, accounts=4, seed=3, clean_up=False
        )
        report = await LoadGenerator(exchange, options).run()
    assert report.sound and report.executed == report.settled == report.final > 0, report
    assert report.latency_ms["final"].p50 >= report.latency_ms["settled"].p50 + WINDOW_S * 900


async def test_provers_take_turns_one_dies_and_withdrawals_wait(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, OPTIONS) as cluster:
        before_uusd = await bonds_uusd(cluster)
        await run_load(cluster, 4.0)
        await everything_final(cluster)
        # All bonds are back; only fees are gone.
        assert 0 < before_uusd - await bonds_uusd(cluster) < BOND_USD * 1_000_000

        await cluster.supervisor.kill("prover-0")
        await withdraw_early_and_late(cluster)
        await run_load(cluster, 2.0)
        await cluster.supervisor.restart("prover-0")

        async def both_agree() -> bool:
            one, two = [await cluster.status(name) for name in ("prover-0", "prover-1")]
            return one["state_root"] == two["state_root"] and one["final_batch"] == one["batch"]

        await eventually("both provers stand at the same state", both_agree)
        for name in ("prover-0", "prover-1"):
            assert (await cluster.status(name))["wrong_batch"] == 0
            assert cluster.supervisor.restarts(name) == 0, cluster.log(name)[-3000:]
        assert (await cluster.status("validator-0"))["conserved"] == "yes"


async def withdraw_early_and_late(cluster: Cluster) -> None:
    """A payout before its batch is final is refused; the flow of the SDK waits and is paid."""
    async with cluster.exchange() as exchange:
        trader = await exchange.trader("trader-05")
        key = exchange.key("trader-05")
        before_uusd = (await exchange.ledger.balance(key.address)).balance_uusd
        submission = await trader.withdraw("250")
        number = (await submission.executed()).results[0].order_id

        async def known() -> bool:
            await exchange.ledger.withdrawal(number, 100)
            return True

        await eventually("the other prover settles the withdrawal", known)
        view = await exchange.ledger.withdrawal(number)
        early = Payout(view.batch, view.entry, view.path)
        if not (await exchange.ledger.batch(view.batch)).is_final:
            with pytest.raises(RemoteFault) as refused:
                await exchange.ledger.send(key, early)
            assert refused.value.code == Code.NOT_FINAL
        await asyncio.wait_for(exchange.ledger.pay_out(key, number), 60)
        paid_uusd = (await exchange.ledger.balance(key.address)).balance_uusd - before_uusd
        assert 249_000_000 < paid_uusd <= 250_000_000
