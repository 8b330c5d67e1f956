"""Building a block, checking a leader's proposal, and what keeps a member from voting for it."""

from __future__ import annotations

from consensus.blocktree import Node
from consensus.commits import CommitLog
from consensus.effects import ReplicaConfig
from consensus.members import MemberSet
from consensus.verify import Verifier
from protocol.chain import QC, TC, Block, Header, Proposal, payload_hash, proposal_digest
from protocol.errors import Code, Rejected, SafetyViolation


def build_block(
    view: int,
    proposer: int,
    parent: Node,
    justify: QC,
    timeout: TC | None,
    payload: bytes,
    time_ms: int,
    commits: CommitLog,
) -> Block:
    """A block of `view` on top of `parent`, which `justify` certifies; carries the TC if needed."""
    app_height = commits.implied_height(parent)
    app_root = commits.root_at(app_height)
    if app_root is None:
        raise SafetyViolation(f"the application root of height {app_height} is not known here")
    header = Header(
        parent.header.chain_id,
        justify.epoch,
        view,
        parent.height + 1,
        parent.id,
        parent.view,
        time_ms,
        proposer,
        payload_hash(payload),
        justify.digest(),
        app_height,
        app_root,
        commits.skipped(view, parent),
    )
    return Block(header, payload, justify, None if justify.view + 1 == view else timeout)


def check_proposal(
    proposal: Proposal,
    block_id: bytes,
    members: MemberSet,
    config: ReplicaConfig,
    verifier: Verifier,
) -> None:
    """Check all of a proposal that needs no other block; its certificates' signatures remain.

    Raises `Rejected`: not by a member, not the leader of a view after a failed one, oversized,
    fields that contradict each other, a view that no certificate opens, or a wrong signature.
    Whether the proposer leads on top of its parent is checked when that is here.
    """
    block = proposal.block
    header, justify, timeout = block.header, block.justify, block.timeout
    if header.proposer not in members:
        raise Rejected(Code.NOT_AUTHORISED, "the proposer is no member")
    if len(block.payload) > config.max_payload_bytes:
        raise Rejected(Code.FRAME_TOO_LARGE, "the payload exceeds max_payload_bytes")
    if (
        header.parent_id != justify.block_id
        or header.parent_view != justify.view
        or header.height != justify.height + 1
        or header.justify_hash != justify.digest()
        or header.payload_hash != payload_hash(block.payload)
    ):
        raise Rejected(Code.BAD_CERTIFICATE, "header, payload and QC do not belong together")
    if justify.view + 1 == header.view:
        if timeout is not None:
            raise Rejected(Code.BAD_CERTIFICATE, "a TC where the QC alone opens the view")
    elif header.proposer != members.leader(header.view):
        raise Rejected(Code.NOT_AUTHORISED, "the proposer does not lead this view")
    elif timeout is None or timeout.view + 1 != header.view:
        raise Rejected(Code.BAD_CERTIFICATE, "no certificate opens the block's view")
    elif not timeout.high_qc.view <= justify.view < header.view:
        raise Rejected(Code.BAD_CERTIFICATE, "the QC is below the highest one in the TC")
    key = members.keys[header.proposer]
    if not verifier(key, proposal.signature, proposal_digest(block_id)):
        raise Rejected(Code.BAD_SIGNATURE, "wrong signature under a proposal")


def check_leader(header: Header, parent: Node, commits: CommitLog) -> None:
    """Raise `Rejected` unless the proposer leads on top of a parent of the view before."""
    if header.view == parent.view + 1 and (header.proposer != commits.leader_after(parent)):
        raise Rejected(Code.NOT_AUTHORISED, "the proposer does not lead on top of this parent")


def voting_obstacle(
    node: Node, parent: Node | None, commits: CommitLog, config: ReplicaConfig, now_ms: int
) -> str | None:
    """Why not to vote for a block on a known parent: a name for the counters, or None."""
    header = node.header
    if parent is None:
        return "parent_gone"
    if header.skipped != commits.skipped(node.view, parent):
        return "skipped"
    ends_ms = commits.members.ends_ms
    if node.block.payload and ends_ms is not None and parent.header.time_ms >= ends_ms:
        return "payload_behind_boundary"
    if header.time_ms <= parent.header.time_ms:
        return "time_not_above_parent"
    if header.time_ms > now_ms + config.max_clock_ahead_ms:
        return "time_ahead"
    if header.app_height != commits.implied_height(parent):
        return "app_height"
    if header.app_root != commits.root_at(header.app_height):
        return "app_root"
    return None
