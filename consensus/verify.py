"""Pure verification of quorum, timeout and commit certificates, for replicas and light clients.

Every function raises `Rejected(Code.BAD_CERTIFICATE, text)` when the certificate proves nothing
and returns None when it holds. Signatures stand in strictly ascending member order, which makes
the signers distinct and the encoding of one set of signers unique.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from consensus.members import MemberSet
from protocol.chain import (
    GENESIS_VIEW,
    QC,
    TC,
    CommitCertificate,
    Header,
    timeout_digest,
    vote_digest,
)
from protocol.errors import Code, Rejected
from protocol.keys import verify

Verifier = Callable[[bytes, bytes, bytes], bool]
"""(public key, signature, digest) -> whether the signature holds."""


MAX_PATH = 4_096
"""Most headers between a block and the certified descendant that proves it."""


class VerifiedCache:
    """Digests of certificates that already verified against one member set, and one's own newest
    votes, which need no check; first in, first out."""

    __slots__ = ("_capacity", "_digests", "_own")

    def __init__(self, capacity: int = 1024) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()
        self._own: deque[tuple[bytes, bytes]] = deque(maxlen=8)
        self._capacity = capacity

    def add_own(self, statement: bytes, signature: bytes) -> None:
        """Remember a vote that we signed."""
        self._own.append((statement, signature))

    def is_own(self, statement: bytes, signature: bytes) -> bool:
        """Whether we made this very signature."""
        return (statement, signature) in self._own

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, digest: bytes) -> None:
        """Remember a verified digest, dropping the oldest when full."""
        if len(self._digests) >= self._capacity:
            self._digests.popitem(last=False)
        self._digests[digest] = None


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_CERTIFICATE, text)


def verify_qc(
    members: MemberSet,
    qc: QC,
    origin: QC,
    *,
    verifier: Verifier = verify,
    cache: VerifiedCache | None = None,
) -> None:
    """Check that members with more than two thirds of the stake voted for `qc.block_id`.

    `origin` is the QC that the epoch starts from (`genesis_qc`, `origin_qc`): without signatures,
    and the only valid one of its view or below.
    """
    if qc.view <= origin.view:
        if qc != origin:
            raise _bad("a quorum certificate from before the epoch must be its origin")
        return
    _verify_votes(members, qc, verifier, cache)


def _verify_votes(
    members: MemberSet, qc: QC, verifier: Verifier, cache: VerifiedCache | None
) -> None:
    if qc.chain_id != members.chain_id or qc.epoch != members.epoch:
        raise _bad("the quorum certificate is of another chain or epoch")
    if qc.view <= GENESIS_VIEW:
        raise _bad("only genesis is certified without votes")
    digest = b""
    if cache is not None:
        digest = qc.digest()
        if digest in cache:
            return
    statement = vote_digest(qc.chain_id, qc.epoch, qc.view, qc.height, qc.block_id)
    last = -1
    stake = 0
    size = len(members)
    for signature in qc.signatures:
        if not last < signature.member < size:
            raise _bad("signers are not distinct members in ascending order")
        last = signature.member
        stake += members.stakes[last]
    if not members.quorum(stake):
        raise _bad(f"votes of {stake} stake are no quorum of {members.total_stake}")
    for signature in qc.signatures:
        if cache is not None and cache.is_own(statement, signature.signature):
            continue
        if not verifier(members.keys[signature.member], signature.signature, statement):
            raise _bad(f"the vote of member {signature.member} has a wrong signature")
    if cache is not None:
        cache.add(digest)


def verify_tc(
    members: MemberSet,
    tc: TC,
    origin: QC,
    *,
    verifier: Verifier = verify,
    cache: VerifiedCache | None = None,
) -> None:
    """Check that a quorum gave up `tc.view` and that `tc.high_qc` is the highest QC they named."""
    if tc.chain_id != members.chain_id or tc.epoch != members.epoch:
        raise _bad("the timeout certificate is of another chain or epoch")
    digest = b""
    if cache is not None:
        digest = tc.digest()
        if digest in cache:
            return
    last = -1
    stake = 0
    highest = GENESIS_VIEW - 1
    size = len(members)
    for signature in tc.signatures:
        if not last < signature.member < size:
            raise _bad("signers are not distinct members in ascending order")
        last = signature.member
        stake += members.stakes[last]
        highest = max(highest, signature.high_qc_view)
    if not members.quorum(stake):
        raise _bad(f"timeouts of {stake} stake are no quorum of {members.total_stake}")
    if tc.high_qc.view != highest or highest >= tc.view:
        raise _bad("the timeout certificate does not carry the highest QC that its signers name")
    verify_qc(members, tc.high_qc, origin, verifier=verifier, cache=cache)
    for signature in tc.signatures:
        statement = timeout_digest(tc.chain_id, tc.epoch, tc.view, signature.high_qc_view)
        if not verifier(members.keys[signature.member], signature.signature, statement):
            raise _bad(f"the timeout of member {signature.member} has a wrong signature")
    if cache is not None:
        cache.add(digest)


def verify_certificate(
    members: MemberSet,
    header: Header,
    certificate: CommitCertificate,
    *,
    verifier: Verifier = verify,
    cache: VerifiedCache | None = None,
) -> None:
    """Check that `certificate` commits the block of `header` (commit rule of Jolteon, section 3).

    The block, or the descendant that the certificate's path leads to, and that one's direct child
    of exactly one view higher are both certified. Ancestors that committed in the same step are
    proven by parent hashes down from `header`. Genesis is final by definition and has no
    certificate.
    """
    if header.chain_id != members.chain_id or header.epoch != members.epoch:
        raise _bad("the header is of another chain or epoch")
    if len(certificate.path) > MAX_PATH:
        raise _bad(f"the path of a certificate has at most {MAX_PATH} headers")
    for above in certificate.path:
        if above.parent_id != header.block_id() or above.height != header.height + 1:
            raise _bad("the certificate's path does not lead up from the block")
        header = above
    qc, child, child_qc = certificate.qc, certificate.child, certificate.child_qc
    block_id = header.block_id()
    if qc.block_id != block_id or qc.view != header.view or qc.height != header.height:
        raise _bad("the quorum certificate is for another block")
    if child.chain_id != header.chain_id or child.epoch != header.epoch:
        raise _bad("the child is of another chain or epoch")
    if child.parent_id != block_id or child.height != header.height + 1:
        raise _bad("the second block is not a child of the first")
    if child.view != header.view + 1 or child.parent_view != header.view:
        raise _bad("the child is not exactly one view above: the pair commits nothing")
    if child.justify_hash != qc.digest():
        raise _bad("the child was not justified by this quorum certificate")
    if (
        child_qc.block_id != child.block_id()
        or child_qc.view != child.view
        or child_qc.height != child.height
    ):
        raise _bad("the second quorum certificate is not for the child")
    _verify_votes(members, qc, verifier, cache)
    _verify_votes(members, child_qc, verifier, cache)
