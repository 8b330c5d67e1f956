"""Liquidation receipts with everything that proves them, from the base layer down.

A `SettledReceipt` holds, from the top: a certified ledger header, the batch that is settled under
it, the batch's state, and the receipt in it. Whoever trusts the members of the header's epoch, or
the state root alone, checks it without asking anybody.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from client.faults import InvalidProof
from client.light import VerifiedLedger
from consensus.light import LightClient
from execution import leaves as lv
from execution.receipt_proof import ReceiptProof, verify_receipt_proof
from protocol.chain import CommitCertificate, Header
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault
from protocol.events import Receipt
from protocol.ledger_leaves import SettledBatch, batch_key, decode_batch
from protocol.light import Checkpoint
from protocol.messages import ProofRequest, ProofView, StateProofRequest, StateProofView
from protocol.tree_proof import TreeProof, decode_tree_proof, verify_proof

if TYPE_CHECKING:
    from client.sdk import Exchange

POLL_S = 0.2
RECEIPT_FILE_BYTES = 8 << 20
"""Largest receipt file that is read."""

_NOT_YET = frozenset((Code.NOT_READY, Code.UNKNOWN_BATCH))


class SettledReceipt(Wire, frozen=True):
    """A receipt and what leads to it. `batch_proof`: of the leaf of batch `batch` of the shard,
    under `header.app_root`; `proof`: under that batch's state root."""

    chain_id: bytes
    shard: int
    batch: int
    header: Header
    certificate: CommitCertificate
    batch_proof: TreeProof
    proof: ReceiptProof

    @property
    def settled(self) -> SettledBatch:
        """The batch as the header's ledger root has it; raises `Rejected(bad_proof)`."""
        return settled_batch(self.header, self.batch_proof, self.shard, self.batch)


_decode: Decoder[SettledReceipt] = Decoder(SettledReceipt)


class ReceiptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of a receipt: to be read by people, and ``proof``, the encoded `SettledReceipt` in
    hex, to be checked."""

    receipt: dict[str, int]
    chain_id: str
    batch: int
    state_root: str
    ledger_height: int
    ledger_epoch: int
    proof: str


def settled_batch(header: Header, proof: TreeProof, shard: int, number: int) -> SettledBatch:
    """A settled batch under a ledger header; raises `Rejected` (unknown_batch, bad_proof)."""
    key = batch_key(shard, number)
    value = verify_proof(header.app_root, proof, [key])[key]
    if value is None:
        raise Rejected(Code.UNKNOWN_BATCH, f"batch {number} is not settled yet")
    settled = decode_batch(value)
    if (settled.header.shard, settled.header.number) != (shard, number):
        raise Rejected(Code.BAD_PROOF, f"the leaf of batch {number} holds another batch")
    return settled


# --- the file


def to_file(found: SettledReceipt) -> bytes:
    """The receipt's file: JSON."""
    text = ReceiptFile(
        msgspec.structs.asdict(found.proof.receipt),
        found.chain_id.hex(),
        found.batch,
        found.settled.header.post_state_root.hex(),
        found.header.height,
        found.header.epoch,
        encode(found).hex(),
    )
    return msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n"


def from_file(raw: bytes) -> SettledReceipt:
    """Parse a receipt's file.

    Raises `ConfigError` where it is none, `InvalidProof` where it does not tell people what its
    proof is of.
    """
    try:
        text = msgspec.json.decode(raw, type=ReceiptFile)
        found = _decode(bytes.fromhex(text.proof))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, Rejected) as error:
        raise ConfigError(f"the receipt file is malformed: {error}") from None
    try:
        written = to_file(found)
    except Rejected as error:
        raise InvalidProof(str(error)) from None
    if msgspec.json.decode(written, type=ReceiptFile) != text:
        raise InvalidProof("the file tells another receipt than the one that its proof is of")
    return found


# --- checking


def check_under_root(found: SettledReceipt, state_root: bytes) -> Receipt:
    """Check a receipt against a state root that is trusted; raises `InvalidProof`."""
    try:
        verify_receipt_proof(state_root, found.proof)
    except Rejected as error:
        raise InvalidProof(str(error)) from None
    return found.proof.receipt


def check_under_checkpoint(
    found: SettledReceipt, checkpoint: Checkpoint, trusting_ms: int, now_ms: int
) -> Receipt:
    """Check a receipt against the members that a checkpoint names, without asking anybody.

    Raises `InvalidProof`, or `ConfigError` where the checkpoint is too old, of another chain, or of
    another epoch than the receipt's header.
    """
    if checkpoint.chain_id != found.header.chain_id:
        raise ConfigError("the receipt is of another chain than the checkpoint")
    if checkpoint.epoch != found.header.epoch:
        raise ConfigError(
            f"the receipt's header is of epoch {found.header.epoch}, the checkpoint of epoch "
            f"{checkpoint.epoch}; take a checkpoint of that epoch, fetch the receipt anew, or give "
            "a --state-root that you trust"
        )
    try:
        light = LightClient(checkpoint, trusting_ms=trusting_ms, now_ms=now_ms)
        light.verify_header(found.header, found.certificate, now_ms)
        settled = found.settled
        verify_receipt_proof(settled.header.post_state_root, found.proof)
    except Rejected as error:
        if error.code == Code.UNTRUSTED_CHECKPOINT:
            raise ConfigError(error.text) from None
        raise InvalidProof(str(error)) from None
    return found.proof.receipt


# --- fetching


async def fetch_receipt(
    exchange: Exchange,
    number: int,
    timeout_ms: int = 120_000,
    checkpoint: Path | None = None,
) -> SettledReceipt:
    """A receipt with its proofs, all checked; waits until a batch that holds it is settled.

    Raises `RemoteFault` where there is no such receipt, `InvalidProof`, `TimeoutError`.
    """
    await exchange.questions.receipt(number)
    ledger = VerifiedLedger(exchange, checkpoint, keep=False)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    while True:
        found = await _try(exchange, ledger, number)
        if found is not None:
            return found
        if loop.time() >= deadline:
            raise TimeoutError(f"receipt {number} is not settled after {timeout_ms / 1000:g} s")
        await asyncio.sleep(POLL_S)


async def _try(exchange: Exchange, ledger: VerifiedLedger, number: int) -> SettledReceipt | None:
    """The receipt, None while it is in no settled batch."""
    chain = exchange.chain
    shard = chain.genesis.shard
    try:
        shown = await exchange.channel("prover").ask(
            StateProofView, StateProofRequest, [lv.RECEIPTS_KEY]
        )
        view: Any = await exchange.channel("node").ask(
            ProofView, ProofRequest, [batch_key(shard, shown.batch)]
        )
    except RemoteFault as fault:
        if fault.code not in _NOT_YET:
            raise
        return None
    try:
        await ledger.light.verify(view.header, view.certificate)
        batch_proof = decode_tree_proof(view.proof)
        settled = settled_batch(view.header, batch_proof, shard, shown.batch)
        list_proof = decode_tree_proof(shown.proof)
        root = settled.header.post_state_root
        value = verify_proof(root, list_proof, [lv.RECEIPTS_KEY])[lv.RECEIPTS_KEY]
    except Rejected as error:
        if error.code == Code.UNKNOWN_BATCH:
            return None
        raise InvalidProof(str(error)) from None
    count = 0 if value is None else lv.decode_receipts(value).count
    if count <= number:
        return None
    told = await exchange.questions.receipt(number, count)
    found = SettledReceipt(
        chain.chain_id, shard, shown.batch, view.header, view.certificate, batch_proof,
        ReceiptProof(told.receipt, told.path, list_proof),
    )  # fmt: skip
    receipt = check_under_root(found, root)
    if receipt.number != number:
        raise InvalidProof(f"receipt {receipt.number} was shown for {number}")
    return found
