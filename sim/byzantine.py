"""Byzantine members: each a machine in the place of the replica, with the member's own key.

A behaviour runs the real replica, so that it knows views and certificates and finds itself leader
when it is, and then changes what leaves it. It signs with its own key only. What it did is counted
in the run's `bit` under its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from consensus import (
    Broadcast,
    Effect,
    Event,
    MemberSet,
    PersistBlock,
    Received,
    Replica,
    Send,
)
from protocol.chain import (
    QC,
    TC,
    Block,
    Certified,
    ConsensusMessage,
    Header,
    Proposal,
    Timeout,
    Vote,
    payload_hash,
    proposal_digest,
    timeout_digest,
    vote_digest,
)
from protocol.errors import SafetyViolation
from sim.node import Node

KNOWN = 24
"""Certificates and headers that a behaviour remembers, newest views first."""


class Byzantine:
    """Runs the replica and lets a behaviour rewrite its messages, one at a time.

    `change` gets a message with the members it was meant for and returns (member, message) pairs;
    `also` adds messages of its own after each event.
    """

    name = "byzantine"

    def __init__(self, node: Node, replica: Replica) -> None:
        self.node = node
        self.replica = replica
        self.random = node.world.kernel.stream(f"byzantine {node.name}")
        self.qcs: dict[int, QC] = {}
        self.tcs: dict[int, TC] = {}
        self.headers: dict[bytes, Header] = {}
        self.leaders: dict[bytes, int] = {}
        """Who leads on top of a certified block, as long as anybody may build on it."""
        self._stopped = False

    @property
    def members(self) -> MemberSet:
        return self.node.members

    @property
    def index(self) -> int:
        """Own place among the members, -1 in an epoch without this member."""
        found = self.members.index_of(self.node.key.public)
        return -1 if found is None else found

    def others(self) -> list[int]:
        return [member for member in range(len(self.members)) if member != self.index]

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """As `Replica.step`."""
        if self._stopped:
            return []
        if isinstance(event, Received):
            self._learn(event.message)
        try:
            effects = self.replica.step(event, now_ms)
        except SafetyViolation:
            self._stopped = True
            return []
        result: list[Effect] = []
        messages: list[tuple[int, ConsensusMessage]] = []
        for effect in effects:
            if isinstance(effect, Send):
                messages += self.change([effect.member], effect.message)
            elif isinstance(effect, Broadcast):
                self._learn(effect.message)
                messages += self.change(self.others(), effect.message)
            else:
                if isinstance(effect, PersistBlock):
                    self._remember(effect.block)
                result.append(effect)
        messages += self.also(event, now_ms)
        return result + [Send(member, message) for member, message in messages]

    def next_deadline_ms(self) -> int | None:
        """As `Replica.next_deadline_ms`."""
        return None if self._stopped else self.replica.next_deadline_ms()

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        return [(member, message) for member in members]

    def also(self, event: Event, now_ms: int) -> list[tuple[int, ConsensusMessage]]:
        return []

    # --- what behaviours are made of

    def bite(self) -> None:
        self.node.world.bite(self.name)

    def halves(self) -> tuple[list[int], list[int]]:
        """The other members in two random parts, neither empty where there are two."""
        mixed = self.random.shuffled(self.others())
        cut = self.random.between(1, max(1, len(mixed) - 1))
        return mixed[:cut], mixed[cut:]

    def sign_block(self, block: Block) -> Proposal:
        digest = proposal_digest(block.header.block_id())
        return Proposal(block, self.node.key.sign(digest))

    def vote_for(self, header: Header) -> Vote:
        block_id = header.block_id()
        place = (header.chain_id, header.epoch, header.view, header.height, block_id)
        signature = self.node.key.sign(vote_digest(*place))
        return Vote(*place, self.index, signature)

    def give_up(self, view: int, high_qc: QC, last_tc: TC | None) -> Timeout:
        chain_id, epoch = self.members.chain_id, self.members.epoch
        signature = self.node.key.sign(timeout_digest(chain_id, epoch, view, high_qc.view))
        return Timeout(chain_id, epoch, view, high_qc, self.index, signature, last_tc)

    def other_block(self, block: Block) -> Block:
        """Another sound block in the same place."""
        header = block.header
        payload = b"" if self.random.chance(500_000) else block.payload
        changed = replace(header, time_ms=header.time_ms + 1, payload_hash=payload_hash(payload))
        return replace(block, header=changed, payload=payload)

    def _remember(self, block: Block) -> None:
        self.headers[block.header.block_id()] = block.header
        while len(self.headers) > 2 * KNOWN:
            del self.headers[next(iter(self.headers))]
        self._learn_qc(block.justify)
        if block.timeout is not None:
            self._learn_tc(block.timeout)

    def _learn(self, message: ConsensusMessage) -> None:
        """Certificates are taken as they come: this machine has nothing to lose."""
        if isinstance(message, Proposal):
            self._remember(message.block)
        elif isinstance(message, Certified):
            self._learn_qc(message.qc)
            if message.tc is not None:
                self._learn_tc(message.tc)
        elif isinstance(message, Timeout):
            self._learn_qc(message.high_qc)
        self._learn_qc(self.replica.high_qc)
        node = self.replica._tree.get(self.replica.high_qc.block_id)
        if node is not None and node.id not in self.leaders:
            self.leaders[node.id] = self.replica._commits.leader_after(node)
            if len(self.leaders) > KNOWN:
                del self.leaders[next(iter(self.leaders))]

    def _learn_qc(self, qc: QC) -> None:
        if qc.epoch == self.members.epoch and qc.view not in self.qcs:
            self.qcs[qc.view] = qc
            if len(self.qcs) > KNOWN:
                del self.qcs[min(self.qcs)]

    def _learn_tc(self, tc: TC) -> None:
        if tc.epoch == self.members.epoch and tc.view not in self.tcs:
            self.tcs[tc.view] = tc
            self._learn_qc(tc.high_qc)
            if len(self.tcs) > KNOWN:
                del self.tcs[min(self.tcs)]


class EquivocatingLeader(Byzantine):
    """Proposes two blocks in one view, to different members, and votes for both."""

    name = "equivocating_leader"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        if not isinstance(message, Proposal):
            return super().change(members, message)
        self.bite()
        other = self.sign_block(self.other_block(message.block))
        first, second = self.halves()
        result: list[tuple[int, ConsensusMessage]] = [(member, message) for member in first]
        result += [(member, other) for member in second]
        result += [(member, self.vote_for(message.block.header)) for member in first]
        result += [(member, self.vote_for(other.block.header)) for member in second]
        return result


class EquivocatingVoter(Byzantine):
    """Votes for a second block in each view, and votes after it gave a view up."""

    name = "equivocating_voter"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        result = super().change(members, message)
        if isinstance(message, Vote | Timeout):
            rivals = [h for h in self.headers.values() if h.view == message.view]
            voted = message.block_id if isinstance(message, Vote) else None
            votes = [self.vote_for(h) for h in rivals if h.block_id() != voted]
            if not votes and rivals and self.random.chance(500_000):
                votes = [self.vote_for(replace(rivals[0], time_ms=rivals[0].time_ms + 1))]
            if votes:
                self.bite()
            result += [(member, vote) for vote in votes for member in self.others()]
        return result


class WithholdingLeader(Byzantine):
    """As leader proposes to nobody, or to too few, and never tells of certificates it made."""

    name = "withholding_leader"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        if isinstance(message, Certified):
            return []
        if not isinstance(message, Proposal):
            return super().change(members, message)
        self.bite()
        few = self.random.below(len(self.members) // 3 + 1)
        return super().change(self.random.sample(self.others(), few), message)


class VoteWithholding(Byzantine):
    """Never votes."""

    name = "vote_withholding"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        if isinstance(message, Vote):
            self.bite()
            return []
        return super().change(members, message)


class SelectiveSending(Byzantine):
    """Sends each message to some of those who should get it."""

    name = "selective_sending"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        chosen = [member for member in members if self.random.chance(600_000)]
        if len(chosen) < len(members):
            self.bite()
        return super().change(chosen, message)


class StaleCertificates(Byzantine):
    """Builds on old certificates and names old ones when it gives up views."""

    name = "stale_certificates"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        if isinstance(message, Proposal):
            stale = self.stale_block(message.block)
            if stale is not None:
                self.bite()
                chosen = self.sign_block(stale)
                result = super().change(members, chosen)
                return result + super().change(members, self.vote_for(stale.header))
        elif isinstance(message, Timeout):
            older = self._older_qc(message.high_qc.view)
            last_tc = self.tcs.get(message.view - 1)
            if older is not None and last_tc is not None:
                self.bite()
                return super().change(members, self.give_up(message.view, older, last_tc))
        elif isinstance(message, Certified) and self.qcs:
            return super().change(members, Certified(self.qcs[min(self.qcs)], None))
        return super().change(members, message)

    def _older_qc(self, view: int) -> QC | None:
        older = [self.qcs[known] for known in sorted(self.qcs) if known < view]
        if not older:
            return None
        # Best is one on which a block would contradict what somebody has committed.
        top = max(self.node.world.checkers.blocks)
        rivals = [qc for qc in older if qc.height < top]
        return (
            rivals[-1] if rivals and self.random.chance(700_000) else self.random.pick(older[-4:])
        )

    def stale_block(self, block: Block) -> Block | None:
        """A block of the same view on an older certificate, None where nothing opens the view."""
        header = block.header
        qc = self._older_qc(block.justify.view)
        tc = block.timeout if block.timeout is not None else self.tcs.get(header.view - 1)
        parent = None if qc is None else self.headers.get(qc.block_id)
        if qc is None or tc is None or parent is None:
            return None
        state = self._state_under(parent)
        if state is None:
            return None
        changed = replace(
            header, height=parent.height + 1, parent_id=qc.block_id, parent_view=qc.view,
            justify_hash=qc.digest(), app_height=state[0], app_root=state[1],
            payload_hash=payload_hash(b""),
            skipped=self.leaders.get(qc.block_id) if parent.view + 1 < header.view else None,
        )  # fmt: skip
        return Block(changed, b"", qc, tc)

    def _state_under(self, parent: Header) -> tuple[int, bytes] | None:
        """The application's state that a child of `parent` must name."""
        if parent.view != parent.parent_view + 1 or parent.height == 0:
            return parent.app_height, parent.app_root
        height = parent.height - 1
        root = self.node.world.checkers.roots.get(height, None if height else bytes(32))
        return None if root is None else (height, root)
