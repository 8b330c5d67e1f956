"""What the ledger has settled, as it proves it to the prover: no validator is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from consensus.light_proofs import ProvenLeaves
from execution.process_light import Asks, LightFollower, wall_clock_ms
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.ledger_leaves import batch_key, decode_final, final_key
from protocol.settlement import BatchHeader
from prover.posting import Standing


class SettledBatches:
    """Settled batches of the shard, each proven under a certified ledger root.

    `checkpoint`: file from which the ledger's members are followed. `least_height`: ledger height
    below which an answer is of no use. Raises `ConfigError` where the members are not to be trusted
    any more.
    """

    def __init__(
        self,
        chain: Chain,
        upstream: Asks,
        checkpoint: Path | None = None,
        clock: Callable[[], int] = wall_clock_ms,
        least_height: int = 0,
    ) -> None:
        self._shard = chain.genesis.shard
        self._light = LightFollower(chain, upstream, checkpoint, clock)
        self._height = least_height

    async def stay_fresh(self) -> None:
        """Run beside everything else, as `LightFollower.stay_fresh`."""
        await self._light.stay_fresh()

    async def leaves(self, keys: Sequence[bytes]) -> ProvenLeaves:
        """Any ledger leaves; raises as `header`."""
        return await self._light.leaves(keys)

    async def header(self, number: int) -> BatchHeader | None:
        """A settled batch, None where it is proven not to be settled.

        Raises `Rejected` where an answer does not verify, and what asking raises.
        """
        settled = (await self._light.leaves([batch_key(self._shard, number)])).batch(
            self._shard, number
        )
        return None if settled is None else settled.header

    async def standing(self, numbers: Sequence[int]) -> Standing:
        """What is final, and which of these batches are settled; raises as `header`.

        A validator that shows an older state than another one did before lags, and is not heard:
        what it does not know yet would look as if it had been removed.
        """
        keys = [final_key(self._shard), *(batch_key(self._shard, one) for one in numbers)]
        leaves = await self._light.leaves(keys)
        if leaves.height < self._height:
            raise Rejected(Code.NOT_READY, f"the validator lags, at ledger height {leaves.height}")
        self._height = leaves.height
        raw = leaves.raw(final_key(self._shard))
        if raw is None:
            raise Rejected(Code.BAD_PROOF, "the ledger names no final batch")
        found = {one: leaves.batch(self._shard, one) for one in numbers}
        headers = {one: None if leaf is None else leaf.header for one, leaf in found.items()}
        return Standing(leaves.height, decode_final(raw), headers)
