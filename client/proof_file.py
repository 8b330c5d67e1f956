"""Proof files: one thing about the exchange with everything that proves it, checked offline.

A `SettledProof` holds, from the top: the changes of the member set from an older checkpoint on, a
certified ledger header, the ledger's leaf of a settled batch, and the evidence below that batch's
roots. Whoever trusts a checkpoint checks it without asking anybody. The file is JSON: what is
proven, to be read by people, and ``proof``, the encoded `SettledProof` in hex, to be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from client.faults import InvalidProof
from client.proof_kinds import (
    KINDS,
    LIQUIDATION,
    STATE_KINDS,
    WITHDRAWAL,
    Row,
    check_subject,
    receipt_row,
    withdrawal_row,
)
from consensus.light import LightClient
from consensus.light_proofs import ProvenLeaves, require_outbox_entry
from execution.receipt_proof import ReceiptProof, decode_receipt_proof, verify_receipt_proof
from protocol.chain import CommitCertificate, Header
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Chain
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    SettledBatch,
    batch_key,
    decode_final,
    final_key,
    paid_key,
)
from protocol.light import Checkpoint
from protocol.settlement import OutboxEntry
from protocol.tree_proof import TreeProof, decode_tree_proof, verify_proof

PROOF_FILE_BYTES = 8 << 20
"""Largest proof file that is read."""

MAX_EPOCHS = 1_024
"""Most changes of the member set in one file."""

T = TypeVar("T")


class EpochChange(Wire, frozen=True):
    """How an epoch began: the last header of the one before, its certificate, and the proof of the
    new members."""

    header: Header
    certificate: CommitCertificate
    proof: TreeProof


class WithdrawalEvidence(Wire, frozen=True):
    """An outbox entry and its audit path under the batch's outbox root."""

    entry: OutboxEntry
    path: list[bytes]


class SettledProof(Wire, frozen=True):
    """Something of `kind` and what leads to it. `epochs`: changes of the member set that lead up
    to the header's epoch; `ledger_proof`: of `ledger_keys` under ``header.app_root``; `evidence`:
    an encoded `TreeProof`, `WithdrawalEvidence` or `ReceiptProof` below batch `batch`."""

    chain_id: bytes
    kind: str
    subject: list[int]
    shard: int
    batch: int
    epochs: Annotated[list[EpochChange], msgspec.Meta(max_length=MAX_EPOCHS)]
    header: Header
    certificate: CommitCertificate
    ledger_proof: TreeProof
    evidence: bytes

    @property
    def proof(self) -> ReceiptProof:
        """The evidence of a liquidation; raises `Rejected`."""
        return decode_receipt_proof(self.evidence)


_decode: Decoder[SettledProof] = Decoder(SettledProof)
_decode_withdrawal: Decoder[WithdrawalEvidence] = Decoder(WithdrawalEvidence)


class ProofFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of a proof. `final`: whether the batch was final at ledger height `ledger_height`,
    whose state the proof shows, or only settled. Hashes are in hex."""

    kind: str
    proven: dict[str, Any]
    chain_id: str
    batch: int
    final: bool
    state_root: str
    settled_height: int
    settled_time_ms: int
    ledger_height: int
    ledger_epoch: int
    ledger_time_ms: int
    proof: str


def ledger_keys(kind: str, subject: list[int], shard: int, batch: int) -> list[bytes]:
    """The ledger's leaves that a proof shows."""
    keys = [batch_key(shard, batch), final_key(shard), CURRENT_EPOCH_KEY]
    return keys + ([paid_key(shard, subject[0])] if kind == WITHDRAWAL else [])


# --- reading what a proof holds


def _proven(work: Callable[[], T]) -> T:
    try:
        return work()
    except Rejected as error:
        raise InvalidProof(error.text) from None


def show(found: SettledProof, chain: Chain) -> ProofFile:
    """What a proof shows, after checking all of it below its header, which is not checked here.

    Raises `InvalidProof`.
    """
    return _proven(lambda: _show(found, chain))


def _show(found: SettledProof, chain: Chain) -> ProofFile:
    markets = chain.genesis.markets
    if found.kind not in KINDS:
        raise Rejected(Code.BAD_PROOF, f"nothing is known of proofs of kind {found.kind!r}")
    check_subject(found.kind, found.subject, markets)
    if found.shard != chain.genesis.shard or not 1 <= found.batch < 1 << 63:
        raise Rejected(Code.BAD_PROOF, "the proof names no batch of the chain's shard")
    leaves = _ledger_leaves(found)
    settled = leaves.batch(found.shard, found.batch)
    if settled is None:
        raise Rejected(Code.BAD_PROOF, f"batch {found.batch} is not settled, the ledger says")
    raw = leaves.raw(final_key(found.shard))
    final = 0 if raw is None else decode_final(raw).batch
    paid_height = 0
    if found.kind == WITHDRAWAL:
        paid_height = leaves.paid_height(found.shard, found.subject[0]) or 0
    header = settled.header
    return ProofFile(
        kind=found.kind,
        proven=_row(found, chain, settled, header.post_state_root, paid_height),
        chain_id=found.chain_id.hex(),
        batch=found.batch,
        final=found.batch <= final,
        state_root=header.post_state_root.hex(),
        settled_height=settled.ledger_height,
        settled_time_ms=settled.ledger_time_ms,
        ledger_height=found.header.app_height,
        ledger_epoch=found.header.epoch,
        ledger_time_ms=found.header.time_ms,
        proof=encode(found).hex(),
    )


def _ledger_leaves(found: SettledProof) -> ProvenLeaves:
    keys = ledger_keys(found.kind, found.subject, found.shard, found.batch)
    return ProvenLeaves(found.header, verify_proof(found.header.app_root, found.ledger_proof, keys))


def _row(
    found: SettledProof,
    chain: Chain,
    settled: SettledBatch | None,
    state_root: bytes,
    paid_height: int,
) -> Row:
    """What the evidence says, after checking it under the batch or the state root alone."""
    markets, subject = chain.genesis.markets, found.subject
    if found.kind in STATE_KINDS:
        kind = STATE_KINDS[found.kind]
        keys = kind.keys(subject)
        leaves = verify_proof(state_root, decode_tree_proof(found.evidence), keys)
        return kind.row(markets, subject, leaves)
    if found.kind == LIQUIDATION:
        shown = decode_receipt_proof(found.evidence)
        verify_receipt_proof(state_root, shown)
        if shown.receipt.number != subject[0]:
            raise Rejected(Code.BAD_PROOF, f"receipt {shown.receipt.number} stands for another")
        return receipt_row(markets, shown.receipt)
    if settled is None:
        raise Rejected(Code.BAD_PROOF, "a withdrawal is not proven under a state root")
    evidence = _decode_withdrawal(found.evidence)
    require_outbox_entry(settled.header, evidence.entry, evidence.path)
    if evidence.entry.number != subject[0]:
        raise Rejected(Code.BAD_PROOF, f"withdrawal {evidence.entry.number} stands for another")
    return withdrawal_row(evidence.entry, paid_height)


# --- the file


def to_file(found: SettledProof, chain: Chain) -> bytes:
    """The file of a proof: JSON. Raises `InvalidProof` where it does not hold."""
    return msgspec.json.format(msgspec.json.encode(show(found, chain)), indent=2) + b"\n"


def from_file(raw: bytes, chain: Chain) -> SettledProof:
    """Parse a proof file and check everything in it below its ledger header.

    Raises `ConfigError` for a kind that is not known or another chain's file, `InvalidProof` where
    it is cut or damaged, does not hold, or tells people something else than its proof does.
    """
    try:
        kind = msgspec.json.decode(raw, type=dict[str, Any]).get("kind")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidProof(f"the file is cut or damaged: {error}") from None
    if kind not in KINDS:
        raise ConfigError(f"it is no proof file of a known kind ({', '.join(KINDS)}): {kind!r}")
    try:
        text = msgspec.json.decode(raw, type=ProofFile)
        found = _decode(bytes.fromhex(text.proof))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, Rejected) as error:
        raise InvalidProof(f"the file is cut or damaged: {error}") from None
    if found.chain_id != chain.chain_id and text.chain_id == found.chain_id.hex():
        raise ConfigError(
            "the proof is of another chain; name its testnet with --testnet or its genesis file "
            "with --genesis"
        )
    if msgspec.json.decode(msgspec.json.encode(show(found, chain)), type=ProofFile) != text:
        raise InvalidProof("the file tells something else than its proof")
    return found


# --- checking


def check_under_root(found: SettledProof, chain: Chain, state_root: bytes) -> Row:
    """Check the evidence against a state root that is trusted; raises `InvalidProof`."""
    if found.kind == WITHDRAWAL:
        raise ConfigError("a withdrawal is proven by its batch, not by a state root")
    return _proven(lambda: _row(found, chain, None, state_root, 0))


def check_under_checkpoint(
    found: SettledProof, chain: Chain, checkpoint: Checkpoint, now_ms: int
) -> ProofFile:
    """Check all of a proof against the members that a checkpoint names, without asking anybody.

    Raises `InvalidProof`, also for a file from before the checkpoint, or `ConfigError` where the
    checkpoint is too old, of another chain, or the file does not lead from it to its header.
    """
    if checkpoint.chain_id != found.header.chain_id or found.chain_id != found.header.chain_id:
        raise ConfigError("the proof is of another chain than the checkpoint")
    shown = show(found, chain)
    if found.header.epoch < checkpoint.epoch:
        raise InvalidProof(
            f"the file is stale: its header is of epoch {found.header.epoch}, from before the "
            f"checkpoint of epoch {checkpoint.epoch}; fetch it anew, or give an older checkpoint"
        )
    try:
        light = LightClient(
            checkpoint, trusting_ms=chain.genesis.staking.trusting_ms, now_ms=now_ms
        )
        for change in found.epochs:
            if change.header.epoch == light.epoch:
                light.advance(change.header, change.certificate, change.proof, now_ms)
        if light.epoch < found.header.epoch:
            raise ConfigError(
                f"the proof's header is of epoch {found.header.epoch}, the checkpoint of epoch "
                f"{checkpoint.epoch}, and the file does not lead from one to the other; take a "
                "newer checkpoint, or fetch the proof anew"
            )
        light.verify_header(found.header, found.certificate, now_ms)
        if found.header.epoch:
            light.confirm_origin(_ledger_leaves(found))
    except Rejected as error:
        if error.code == Code.UNTRUSTED_CHECKPOINT:
            raise ConfigError(error.text) from None
        raise InvalidProof(error.text) from None
    return shown
