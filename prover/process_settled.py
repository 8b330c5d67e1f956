"""What the ledger has settled, as it proves it to the prover: no validator is believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from execution.process_light import Asks, LightFollower, wall_clock_ms
from protocol.errors import Code, RemoteFault, SafetyViolation
from protocol.genesis import Chain
from protocol.ledger_leaves import batch_key
from protocol.settlement import BatchHeader

POLL_S = 0.05
"""Until a certified header names the root after a batch, proofs show the ledger without it."""

_log = structlog.get_logger()


class SettledBatches:
    """Settled batches of the shard, each proven under a certified ledger root.

    `checkpoint`: file from which the ledger's members are followed. Raises `ConfigError` where they
    are not to be trusted any more.
    """

    def __init__(
        self,
        chain: Chain,
        upstream: Asks,
        checkpoint: Path | None = None,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._shard = chain.genesis.shard
        self._light = LightFollower(chain, upstream, checkpoint, clock)

    async def stay_fresh(self) -> None:
        """Run beside everything else, as `LightFollower.stay_fresh`."""
        await self._light.stay_fresh()

    async def header(self, number: int) -> BatchHeader | None:
        """A settled batch, None where it is proven not to be settled.

        Raises `Rejected` where an answer does not verify, and what asking raises.
        """
        settled = (await self._light.leaves([batch_key(self._shard, number)])).batch(
            self._shard, number
        )
        return None if settled is None else settled.header

    async def wait(self, posted: BatchHeader, attempts: int = 100) -> bool:
        """Wait until a batch of ours is proven settled; False where it is not after all attempts.

        Raises `SafetyViolation` where another batch of its number is settled, else as `header`.
        """
        for _ in range(attempts):
            found = await self._ready(posted.number)
            if found is not None:
                if found != posted:
                    raise SafetyViolation(f"another batch {posted.number} is settled than ours")
                return True
            await asyncio.sleep(POLL_S)
        _log.warning("batch is not proven settled", number=posted.number)
        return False

    async def _ready(self, number: int) -> BatchHeader | None:
        try:
            return await self.header(number)
        except RemoteFault as fault:
            if fault.code != Code.NOT_READY:
                raise
            return None
