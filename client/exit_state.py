"""The shard's final state without anybody who ran the shard, and the claims that it proves.

The base layer's data are executed again: as validators serve them here, from the disk of one in
`node.process_keeper`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from client.export_source import blocks_from, newest_height
from client.faults import InvalidProof
from execution.exit_value import read_exit_value
from node.app import decode_ledger_payload
from node.genesis import genesis_ledger
from node.kept_state import kept_file, needed_from
from node.process_keeper import read_kept_state
from node.rebuild import CheckedState, Progress, RebuiltState
from protocol.chain import Block
from protocol.codec import Decoder, encode
from protocol.errors import ConfigError, Rejected, SafetyViolation
from protocol.exits import Claim
from protocol.genesis import Chain
from protocol.tree_proof import decode_tree_proof
from prover.settlement import genesis as genesis_position
from store.files import write_atomic

if TYPE_CHECKING:
    from client.sdk import Exchange

decode_claim_action: Decoder[Claim] = Decoder(Claim)

CLAIM_FILE_BYTES = 1 << 20
"""Largest claim file that is read."""


class ClaimFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `trilemma exit-proof` writes: `claim` is the encoded `Claim` in hex, ready to be sent;
    the rest says what it proves. `value_uusd` below 0: the account owes."""

    chain_id: str
    account: int
    address: str
    value_uusd: int
    batch: int
    state_root: str
    claim: str

    def action(self) -> Claim:
        """The transaction's action; raises `ConfigError` for a file that was changed."""
        try:
            return decode_claim_action(bytes.fromhex(self.claim))
        except (ValueError, Rejected) as error:
            raise ConfigError(f"the claim file is damaged: {error}") from None


def claim_file(state: RebuiltState, account: int) -> ClaimFile:
    """The claim of an account under a rebuilt state, verified as the ledger will verify it.

    Raises `Rejected(unknown_account)`.
    """
    claim, root = state.claim(account), state.tree.root
    positions, values = decode_tree_proof(claim.positions), decode_tree_proof(claim.values)
    worth = read_exit_value(state.chain.genesis, root, account, positions, values)
    return ClaimFile(
        state.chain.chain_id.hex(), account, worth.address.hex(), worth.value_uusd, state.batch,
        root.hex(), encode(claim).hex(),
    )  # fmt: skip


def read_claim_file(path: Path, chain: Chain) -> ClaimFile:
    """Read a claim file; raises `ConfigError` where it is none, or of another chain."""
    try:
        with path.open("rb") as file:
            raw = file.read(CLAIM_FILE_BYTES + 1)
        found = msgspec.json.decode(raw, type=ClaimFile)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no claim file: {error}") from None
    if found.chain_id != chain.chain_id.hex():
        raise ConfigError(f"the claim in {path} is on another chain")
    return found


def read_state_file(path: Path) -> CheckedState:
    """Read a kept state; what it says is checked against the ledger by whoever uses it."""
    found = read_kept_state(path)
    if found is None:
        raise ConfigError(f"there is no kept state in {path}")
    return found


def write_state_file(path: Path, state: RebuiltState) -> None:
    """Keep a rebuilt state, so that the next one starts there; raises `OSError`."""
    if not state.batch:
        raise ConfigError("no batch is final yet, there is no state to keep")
    write_atomic(path, kept_file(state))


async def rebuilt_from_validators(
    exchange: Exchange, start: CheckedState | None = None, progress: Progress | None = None
) -> RebuiltState:
    """The final state out of the ledger blocks that validators serve, all of them executed.

    `progress`: (ledger blocks executed, all). Nothing has to be trusted: a claim is checked against
    the ledger's own root. Raises `RemoteFault(not_retained)` where nobody keeps all blocks,
    `InvalidProof` where a validator serves others than it executed.
    """
    node = exchange.channel("node")
    ledger = genesis_ledger(exchange.chain, genesis_position(exchange.chain)[1].root)
    newest = await newest_height(node)
    kept: dict[int, Block] = {}
    least, state = 0 if start is None else start.batch, None
    try:
        while ledger.height < newest:
            for block in (await blocks_from(node, ledger.height + 1)).blocks:
                outcome = ledger.apply_block(block.header, decode_ledger_payload(block.payload))
                ledger.forget_undo(block.header.height)
                if outcome.batches:
                    kept[block.header.height] = block
                if outcome.finalised and ledger.final().batch >= least:
                    # Now, as the ledger may forget the batch later.
                    state = state or RebuiltState(ledger, start)
                    state.advance(kept.get)
                    open_from = needed_from(ledger, state.batch, block.header.height)
                    kept = {at: one for at, one in kept.items() if at >= open_from}
            if progress is not None:
                progress(ledger.height, newest)
        state = state or RebuiltState(ledger, start)
        state.advance(kept.get)
    except SafetyViolation as error:
        raise InvalidProof(f"the blocks that the validator serves: {error}") from None
    return state
