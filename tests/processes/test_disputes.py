"""Real processes: a prover that lies is disputed, and one that is disputed for nothing defends
itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster_world import Cluster, SteadyTrader, audited, eventually, running_cluster

from cluster.defaults import SETTLEMENT
from cluster.testnet import TestnetOptions
from net.upstream import Upstream
from protocol.dispute import OpenDispute
from protocol.errors import Code
from protocol.messages import BalanceRequest, BalanceView, Committed, SubmitTransaction
from protocol.settlement import PostBatch, sign_action
from prover.process import ProverProcess
from store.config import load_chain, load_config, load_process_key, parse_address

RULES = msgspec.structs.replace(SETTLEMENT, window_ms=12_000, clock_ms=30_000)
WRONG = b"\x5a" * 32


class LyingProver(ProverProcess):
    """Settles one batch whose root is of nothing, and goes on as if it had not been him."""

    lied = 0

    async def submit(self, posting: PostBatch) -> Committed:
        if not self.lied:
            header = msgspec.structs.replace(posting.header, post_state_root=WRONG)
            answer = await super().submit(msgspec.structs.replace(posting, header=header))
            if answer.code == Code.OK:
                self.lied = header.number
            return answer
        return await super().submit(posting)


async def dispute_for_nothing(cluster: Cluster, number: int) -> int:
    """A trader disputes a batch that is right; the code of its transaction."""
    key = cluster.testnet.key("trader-01")
    nodes = [parse_address(one.public) for one in cluster.testnet.of_role("node")]
    ledger = Upstream(nodes, cluster.chain.chain_id, "liar")
    try:
        balance = await ledger.ask(
            BalanceView, lambda request_id: BalanceRequest(request_id, key.address)
        )
        raw = sign_action(key, cluster.chain, balance.nonce, OpenDispute(number, WRONG))
        answer = await ledger.ask(
            Committed, lambda request_id: SubmitTransaction(request_id, raw), 20_000
        )
        return answer.code
    finally:
        await ledger.drop()


async def lie_and_be_caught(cluster: Cluster) -> None:
    """Put a lying prover in the place of the honest one until its lie is gone."""
    await cluster.supervisor.stop("prover-0")
    config = load_config(cluster.testnet.config_path("prover-0"))
    chain = load_chain(config)
    liar = LyingProver(config, chain, load_process_key(config, chain))
    stop = asyncio.Event()
    serving = asyncio.ensure_future(liar.serve(stop))
    try:

        async def caught() -> bool:
            if serving.done():
                serving.result()
            seen = await cluster.status("challenger-0")
            return bool(liar.lied) and int(seen["batch"]) > liar.lied

        await eventually("the lie is removed and the right batch checked", caught, 90)
        assert await cluster.number("challenger-0", "wrong_batches") == 1
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


@pytest.mark.timeout(240)
async def test_lies_are_disputed_and_right_batches_defended(tmp_path: Path) -> None:
    options: Any = TestnetOptions(free_ports=True, traders=4, challengers=1, settlement=RULES)
    async with running_cluster(tmp_path, options) as cluster, cluster.exchange() as exchange:
        trader = SteadyTrader(exchange, "trader-00")
        trader.start()

        async def checked() -> bool:
            return await cluster.number("challenger-0", "checked_batches") >= 3

        await eventually("the challenger checks batches", checked)
        number = await cluster.number("challenger-0", "batch")
        assert await dispute_for_nothing(cluster, number) == Code.OK

        async def defended() -> bool:
            final = await cluster.number("prover-0", "final_batch")
            return final >= number and await cluster.number("prover-0", "moves_of_defence") > 0

        await eventually("the prover defends its batch, which becomes final", defended, 90)
        assert await cluster.number("challenger-0", "wrong_batches") == 0
        challenger = cluster.supervisor.pid("challenger-0")
        assert challenger is not None
        os.kill(challenger, signal.SIGKILL)  # it comes back and checks everything again
        await lie_and_be_caught(cluster)
        trader.check()
        await trader.stop()
        await audited(cluster)
