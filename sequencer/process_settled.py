"""Asks the base layer how far the log is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from execution.process_light import CHECKPOINT_NAME, Asks, LightFollower
from net.clock import now_ms
from net.readiness import SILENCE_MS
from net.upstream import Upstream
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.ledger_leaves import shard_key
from store.config import ProcessConfig, parse_address

RETRY_MS = 200


async def settled_height(
    chain: Chain,
    light: LightFollower,
    upstream: Asks,
    clock: Callable[[], int],
    sleep_ms: Callable[[int], Awaitable[None]],
) -> int:
    """The newest block of the log that the base layer has settled, 0 for none.

    Asks one validator after the other until one of them proves it under a header of now: one that
    lags behind would not know. Genesis is such a header, too, of which nothing has to be proven.
    Raises `ConfigError` as `LightFollower`.
    """
    genesis = chain.genesis
    idle_ms = genesis.ledger_pace.idle_interval_ms

    def is_of_now(time_ms: int) -> bool:
        # A chain without a heartbeat may rest for as long as it likes.
        return not idle_ms or clock() - time_ms <= max(SILENCE_MS, 3 * idle_ms)

    while True:
        try:
            proven = await light.leaves([shard_key(genesis.shard)])
            if is_of_now(proven.header.time_ms):
                leaf = proven.shard(genesis.shard)
                return 0 if leaf is None else leaf.last_block
        except RemoteFault as fault:
            if fault.code == Code.NOT_READY and is_of_now(genesis.time_ms):
                return 0  # no ledger block is committed yet
        except (ConnectionError, TimeoutError, EOFError, Rejected):
            pass  # another one is asked
        await upstream.drop()
        await sleep_ms(RETRY_MS)


async def ask_settled_height(config: ProcessConfig, chain: Chain) -> int:
    """The same of the validators that a process is configured with."""
    validators = [parse_address(one) for one in config.validators]
    upstream = Upstream(validators, chain.chain_id, config.name)
    light = LightFollower(chain, upstream, config.data / CHECKPOINT_NAME, keep=False)
    try:
        return await settled_height(
            chain, light, upstream, now_ms, lambda pause_ms: asyncio.sleep(pause_ms / 1000)
        )
    finally:
        await upstream.drop()
