"""Light client of a chain: follows its member sets from epoch to epoch with headers and proofs.

It trusts a checkpoint, and then only what members with more than two thirds of the stake signed.
The last block of an epoch, certified by that epoch's members, names a ledger root that proves the
members of the next one, so one header and one proof per epoch lead from the checkpoint to the
newest block. Keys that once were members sign whatever their later holders want, when nothing can
be taken from them any more: a set is trusted for `trusting_ms`, within which its stake can still be
slashed, and older checkpoints are refused (weak subjectivity; Buterin 2014, and Tendermint's light
client, Braithwaite et al. 2020). A chain whose member set never changes needs no such rule.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from consensus.light_proofs import ProvenLeaves
from consensus.members import MemberSet
from consensus.verify import VerifiedCache, Verifier, verify_certificate
from protocol.chain import QC, CommitCertificate, Header, Member, origin_qc
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.keys import verify
from protocol.ledger_leaves import EpochLeaf, decode_epoch, epoch_key
from protocol.light import Checkpoint
from protocol.tree_proof import TreeProof, verify_proof

MAX_AHEAD_MS = 30_000
"""A header's time may be this far above our clock: block times are at most half a second ahead of
an honest member's."""

KEPT_EPOCHS = 8
"""Epochs whose members are remembered, the current one included."""


def checkpoint_members(checkpoint: Checkpoint) -> MemberSet:
    """The member set that a checkpoint names; raises `ConfigError` where it can be none."""
    origin = None
    if checkpoint.epoch:
        origin = QC(
            checkpoint.chain_id, checkpoint.epoch, checkpoint.origin_view,
            checkpoint.origin_height, checkpoint.origin_id, [],
        )  # fmt: skip
    return MemberSet(
        checkpoint.chain_id, checkpoint.members, checkpoint.epoch,
        origin=origin, ends_ms=checkpoint.ends_ms or None,
    )  # fmt: skip


def members_after(last: Header, leaf: EpochLeaf) -> MemberSet:
    """The member set of a ledger leaf, in the epoch that starts from the block of `last`.

    Raises `Rejected(wrong_epoch)` for a leaf that is no member set of the next epoch.
    """
    number = last.epoch + 1
    if leaf.number != number:
        raise Rejected(Code.WRONG_EPOCH, f"the leaf is of epoch {leaf.number}, not {number}")
    members = [Member(one.public_key, one.stake_uusd) for one in leaf.members]
    try:
        return MemberSet(
            last.chain_id, members, number,
            origin=origin_qc(number, last, last.block_id()), ends_ms=leaf.ends_ms or None,
        )  # fmt: skip
    except ConfigError as error:
        raise Rejected(
            Code.WRONG_EPOCH, f"epoch {number} cannot have its members: {error}"
        ) from None


@dataclass(slots=True)
class _Epoch:
    """A known member set; `last_height` is that of its last block once it is over, `newest` its
    highest block that was verified."""

    members: MemberSet
    trusted_ms: int
    last_height: int | None = None
    newest: Header | None = None
    cache: VerifiedCache = field(default_factory=lambda: VerifiedCache(64))

    @property
    def first_height(self) -> int:
        origin = self.members.origin
        return 1 if origin is None else origin.height + 1

    @property
    def origin_height(self) -> int:
        return self.first_height - 1


class LightClient:
    """Verifies headers, leaves and changes of the member set; a pure machine.

    `trusting_ms`: how long a member set is trusted after it was last known to be in force. `now_ms`
    is the wall clock of every call. Every method raises `Rejected` for what it does not accept, and
    has then changed nothing; and `SafetyViolation` where the members certified two ledgers.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        trusting_ms: int,
        now_ms: int,
        verifier: Verifier = verify,
    ) -> None:
        """Raises `Rejected(untrusted_checkpoint)` for an old one, `ConfigError` for a bad one."""
        if trusting_ms < 1:
            raise ConfigError("trusting_ms must be above 0")
        self._trusting_ms = trusting_ms
        self._verifier = verifier
        self._current = _Epoch(checkpoint_members(checkpoint), checkpoint.time_ms)
        self._known = {checkpoint.epoch: self._current}
        self._newest: Header | None = None
        self._remembered: Header | None = None
        self._require_fresh(self._current, now_ms)
        if checkpoint.time_ms > now_ms + MAX_AHEAD_MS:
            raise Rejected(Code.UNTRUSTED_CHECKPOINT, "the checkpoint is from the future")

    # --- reading

    @property
    def epoch(self) -> int:
        """Number of the newest epoch that is known."""
        return self._current.members.epoch

    @property
    def members(self) -> MemberSet:
        """Members of the newest known epoch."""
        return self._current.members

    @property
    def newest(self) -> Header | None:
        """The highest header verified so far."""
        return self._newest

    @property
    def trusted_ms(self) -> int:
        """Newest time at which the current members are known to have been in force."""
        return self._current.trusted_ms

    def members_of(self, epoch: int) -> MemberSet | None:
        """Members of an epoch that is still remembered."""
        known = self._known.get(epoch)
        return None if known is None else known.members

    def checkpoint(self) -> Checkpoint:
        """From where another light client may go on."""
        members = self._current.members
        origin = members.origin
        return Checkpoint(
            members.chain_id, members.epoch, list(members.members),
            0 if origin is None else origin.height,
            0 if origin is None else origin.view,
            b"" if origin is None else origin.block_id,
            members.ends_ms or 0, self._current.trusted_ms,
        )  # fmt: skip

    def remember(self, header: Header) -> None:
        """A header that was verified in an earlier life: what contradicts it is noticed."""
        self._remembered = header
        known = self._known.get(header.epoch)
        if known is not None and known.newest is None:
            known.newest = header

    # --- verifying

    def verify_header(self, header: Header, certificate: CommitCertificate, now_ms: int) -> None:
        """Check that a block of a known epoch is final.

        Raises `Rejected`: wrong_epoch where its epoch is not known (a later one: `advance` first)
        or the block cannot be of it, untrusted_checkpoint where the members are no longer trusted,
        bad_certificate otherwise.
        """
        known = self._check_header(header, certificate, now_ms)
        self._trust_until(known, header.time_ms)
        self._note(known, header)

    def verify_leaves(
        self,
        header: Header,
        certificate: CommitCertificate,
        proof: TreeProof,
        keys: Collection[bytes],
        now_ms: int,
    ) -> dict[bytes, bytes | None]:
        """Values of ledger leaves after block `header.app_height`; None for those that are absent.

        The proof must show exactly these keys. Raises `Rejected` as `verify_header`, or bad_proof.
        """
        values = verify_proof(header.app_root, proof, keys)
        self.verify_header(header, certificate, now_ms)
        return values

    def prove(
        self,
        header: Header,
        certificate: CommitCertificate,
        proof: TreeProof,
        keys: Collection[bytes],
        now_ms: int,
    ) -> ProvenLeaves:
        """As `verify_leaves`, for typed reading."""
        return ProvenLeaves(header, self.verify_leaves(header, certificate, proof, keys, now_ms))

    # --- following

    def advance(
        self, last: Header, certificate: CommitCertificate, proof: TreeProof, now_ms: int
    ) -> MemberSet:
        """Move on to the next epoch, and return its members.

        `last`: header of the current epoch's last block, certified by its members; `proof`: of the
        `EpochLeaf` of the next number, and of nothing else, under `last.app_root`. Raises
        `Rejected`: wrong_epoch, untrusted_checkpoint, bad_certificate, bad_proof.
        """
        number = self.epoch + 1
        if last.epoch != self.epoch:
            raise Rejected(
                Code.WRONG_EPOCH,
                f"a block of epoch {last.epoch} does not end epoch {self.epoch}",
            )
        ends_ms = self.members.ends_ms
        if ends_ms is None or last.time_ms < ends_ms:
            raise Rejected(Code.WRONG_EPOCH, f"epoch {self.epoch} does not end at its block's time")
        self._check_header(last, certificate, now_ms)
        key = epoch_key(number)
        value = verify_proof(last.app_root, proof, [key])[key]
        if value is None:
            raise Rejected(Code.WRONG_EPOCH, f"the block does not end epoch {self.epoch}")
        leaf = decode_epoch(value)
        if not self._current.origin_height < leaf.boundary_height <= last.app_height < last.height:
            raise Rejected(
                Code.WRONG_EPOCH, f"block {last.height} does not name the boundary of its epoch"
            )
        if leaf.ends_ms and leaf.ends_ms <= ends_ms:
            raise Rejected(Code.WRONG_EPOCH, f"epoch {number} ends before it begins")
        members = members_after(last, leaf)
        self._begin(members, last)
        return members

    def confirm_origin(self, proven: ProvenLeaves) -> None:
        """Check against a proven `CurrentEpoch` that the epoch starts from the block we were given.

        A block of the old epoch above its last one may be certified too, as long as nothing follows
        it; only the new members say which one was the last. Raises `Rejected(wrong_epoch)`.
        """
        current = proven.current_epoch()
        origin = self.members.origin
        if current.number != self.epoch:
            raise Rejected(
                Code.WRONG_EPOCH, f"the ledger is in epoch {current.number}, we are in {self.epoch}"
            )
        if origin is not None and (origin.height, origin.view, origin.block_id) != (
            current.origin_height, current.origin_view, current.origin_id,
        ):  # fmt: skip
            raise Rejected(
                Code.WRONG_EPOCH,
                f"epoch {self.epoch} started from another block than we were given",
            )

    # --- rules

    def _check_header(self, header: Header, certificate: CommitCertificate, now_ms: int) -> _Epoch:
        """The epoch of a final block; raises `Rejected`, and changes nothing."""
        known = self._known.get(header.epoch)
        if known is None:
            raise Rejected(
                Code.WRONG_EPOCH,
                f"the block is of epoch {header.epoch}; known are {min(self._known)} to "
                f"{self.epoch}",
            )
        self._require_fresh(known, now_ms)
        if header.time_ms > now_ms + MAX_AHEAD_MS:
            raise Rejected(
                Code.BAD_CERTIFICATE,
                f"the block's time is {header.time_ms - now_ms} ms ahead of our clock",
            )
        verify_certificate(
            known.members, header, certificate, verifier=self._verifier, cache=known.cache
        )
        _require_one_ledger(known.newest, header)
        last = known.last_height
        if header.height < known.first_height or (last is not None and header.height > last):
            raise Rejected(
                Code.WRONG_EPOCH, f"block {header.height} does not lie in epoch {header.epoch}"
            )
        return known

    def _require_fresh(self, known: _Epoch, now_ms: int) -> None:
        age_ms = now_ms - known.trusted_ms
        if known.members.ends_ms is not None and age_ms > self._trusting_ms:
            raise Rejected(
                Code.UNTRUSTED_CHECKPOINT,
                f"the members of epoch {known.members.epoch} were last known to be in force "
                f"{age_ms} ms ago and are trusted for {self._trusting_ms} ms; "
                "begin from a newer checkpoint of a source that you trust",
            )

    def _trust_until(self, known: _Epoch, time_ms: int) -> None:
        """The members were in force at `time_ms`; their word beyond their epoch's end adds none."""
        ends_ms = known.members.ends_ms
        known.trusted_ms = max(
            known.trusted_ms, time_ms if ends_ms is None else min(time_ms, ends_ms)
        )

    def _begin(self, members: MemberSet, last: Header) -> None:
        self._trust_until(self._current, last.time_ms)
        self._current.last_height = last.height
        self._note(self._current, last)
        self._current = self._known[members.epoch] = _Epoch(members, last.time_ms)
        if self._remembered is not None and self._remembered.epoch == members.epoch:
            self._current.newest = self._remembered
        self._known.pop(members.epoch - KEPT_EPOCHS, None)

    def _note(self, known: _Epoch, header: Header) -> None:
        """A header was verified."""
        if known.newest is None or header.height > known.newest.height:
            known.newest = header
        if self._newest is None or header.height > self._newest.height:
            self._newest = header


def _require_one_ledger(known: Header | None, header: Header) -> None:
    """Raise `SafetyViolation` where two certified blocks of one epoch cannot be of one chain.

    Block times grow with every block, so a lower block with a later time was made by members that
    had forgotten the higher one.
    """
    if known is None or header == known:
        return
    lower, higher = sorted((known, header), key=lambda one: one.height)
    if lower.height < higher.height and lower.time_ms < higher.time_ms:
        return
    raise SafetyViolation(
        f"the validators certified two ledgers: block {known.height} of time {known.time_ms} and "
        f"block {header.height} of time {header.time_ms}, both of epoch {header.epoch}, cannot be "
        "of one chain. They lost their data and began anew, or a third of their stake lies; "
        "nothing that they show counts before people have decided which ledger is theirs"
    )
