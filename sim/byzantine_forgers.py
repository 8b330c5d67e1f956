"""Byzantine members that send what should never be believed: forgeries, rubbish, old news, floods.

`Saboteur` does everything at once, and is what random schedules are made of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from consensus import Event, Received, Replica
from protocol.chain import (
    QC,
    TC,
    Block,
    BlocksRequest,
    BlocksResponse,
    Certified,
    CommitCertificate,
    ConsensusMessage,
    Header,
    Proposal,
    Remembered,
    Signature,
    Timeout,
    TimeoutSignature,
    Vote,
    payload_hash,
)
from sim.byzantine import (
    Byzantine,
    EquivocatingLeader,
    EquivocatingVoter,
    SelectiveSending,
    StaleCertificates,
    VoteWithholding,
    WithholdingLeader,
)
from sim.environment import Wrap
from sim.node import Node

FAR_VIEWS = 1_000
FLOOD = 12
OLD_MESSAGES = 64


class InvalidPayloads(Byzantine):
    """As leader proposes blocks of which nothing, or not everything, is right."""

    name = "invalid_payloads"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        if not isinstance(message, Proposal):
            return super().change(members, message)
        self.bite()
        return super().change(members, self.sign_block(self._spoilt(message.block)))

    def _spoilt(self, block: Block) -> Block:
        header = block.header
        choice = self.random.below(8)
        payload = block.payload
        if choice == 0:
            payload = b"not operations"
        elif choice == 1:
            payload = bytes(8) * 3
        elif choice == 2:
            payload = bytes(self.node.world.config.max_payload_bytes + 1)
        elif choice == 3:
            # The same operation again: a replay of what is ordered already.
            payload = b"".join(self.node.world.operations[:1]) or b"\xff"
        elif choice == 4:
            header = replace(header, app_root=header.payload_hash)
        elif choice == 5:
            header = replace(header, time_ms=header.time_ms + 3_600_000)
        elif choice == 6:
            # Too early to vote for by a little, and not to be voted for when its time has come.
            ahead_ms = self.node.world.config.max_clock_ahead_ms + 20
            header = replace(header, time_ms=header.time_ms + ahead_ms)
            payload = b"not operations"
        else:
            return replace(block, payload=block.payload + b"\0")
        header = replace(header, payload_hash=payload_hash(payload))
        return replace(block, header=header, payload=payload)


class ForgedCertificates(Byzantine):
    """Gives views up and tells of blocks with certificates that nobody signed, and answers those
    who fetch blocks with a history of its own."""

    name = "forged_certificates"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        result = super().change(members, message)
        if isinstance(message, Timeout):
            self.bite()
            view = message.view
            forged = self.forge_qc(view - 1, message.high_qc.height, message.high_qc.block_id)
            lie: ConsensusMessage = self.give_up(view, forged, self.forge_tc(view - 1, forged))
            return super().change(members, lie)
        if isinstance(message, Proposal):
            self.bite()
            return self._fork(message.block)
        if isinstance(message, Remembered):
            self.bite()
            return [(member, self._false_memory(member, message)) for member in members]
        if isinstance(message, BlocksResponse):
            history = self._history(message)
            if history is not None:
                self.bite()
                return super().change(members, history)
        if isinstance(message, Certified):
            far = message.qc.view + 1 + self.random.below(FAR_VIEWS)
            forged = self.forge_qc(far, message.qc.height, message.qc.block_id)
            result += super().change(members, Certified(message.qc, self.forge_tc(far, forged)))
        return result

    def _fork(self, block: Block) -> list[tuple[int, ConsensusMessage]]:
        """Two blocks for two parts of the members, each with a forged certificate."""
        rival = self.other_block(block)
        result: list[tuple[int, ConsensusMessage]] = []
        for part, mine in zip(self.halves(), (block, rival), strict=True):
            header = mine.header
            qc = self.forge_qc(header.view, header.height, header.block_id())
            for member in part:
                result += [(member, self.sign_block(mine)), (member, Certified(qc, None))]
        return result

    def _false_memory(self, asker: int, answer: Remembered) -> Remembered:
        """An answer that makes the asker out to have signed what it never did."""
        chain_id, epoch, qc = answer.chain_id, answer.epoch, answer.qc
        view = qc.view + 1 + self.random.below(FAR_VIEWS)
        forged = self.forge_qc(view, qc.height + 1, qc.block_id)
        vote = Vote(chain_id, epoch, view, qc.height + 1, qc.block_id, asker, bytes(32))
        timeout = Timeout(chain_id, epoch, view, qc, asker, bytes(32), None)
        high = forged if self.random.chance(500_000) else qc
        return Remembered(chain_id, epoch, answer.number, high, None, vote, timeout)

    def _history(self, answer: BlocksResponse) -> BlocksResponse | None:
        """The first block asked for in another form, certified by nobody."""
        if not answer.blocks:
            return None
        first = answer.blocks[0]
        fake = replace(self.other_block(first), timeout=None)
        header = fake.header
        qc = self.forge_qc(header.view, header.height, header.block_id())
        child = self._child(header, qc)
        child_qc = self.forge_qc(child.header.view, child.header.height, child.header.block_id())
        certificate = CommitCertificate(qc, child.header, child_qc)
        return BlocksResponse([fake, child], child_qc, certificate, answer.retained_from)

    def _child(self, parent: Header, qc: QC) -> Block:
        header = replace(
            parent, view=parent.view + 1, height=parent.height + 1, parent_id=qc.block_id,
            parent_view=parent.view, time_ms=parent.time_ms + 1, justify_hash=qc.digest(),
            payload_hash=payload_hash(b""),
        )  # fmt: skip
        return Block(header, b"", qc, None)

    def forge_qc(self, view: int, height: int, block_id: bytes) -> QC:
        """A QC with every member's place filled, and no signature in it but the own one."""
        signatures = [Signature(member, bytes(32)) for member in range(len(self.members))]
        members = self.members
        return QC(members.chain_id, members.epoch, view, height, block_id, signatures)

    def forge_tc(self, view: int, high_qc: QC) -> TC:
        """A TC of the same kind."""
        signatures = [
            TimeoutSignature(member, high_qc.view, bytes(32)) for member in range(len(self.members))
        ]
        return TC(self.members.chain_id, self.members.epoch, view, high_qc, signatures)


class Replayer(Byzantine):
    """Sends old messages again, its own and those of others."""

    name = "replayer"

    def __init__(self, node: Node, replica: Replica) -> None:
        super().__init__(node, replica)
        self._old: deque[ConsensusMessage] = deque(maxlen=OLD_MESSAGES)

    def also(self, event: Event, now_ms: int) -> list[tuple[int, ConsensusMessage]]:
        if isinstance(event, Received):
            self._old.append(event.message)
        if not self._old or not self.random.chance(300_000):
            return []
        self.bite()
        target = self.random.pick(self.others())
        return [(target, self.random.pick(self._old)) for _ in range(3)]


class Flooder(Byzantine):
    """Sends many messages that cost their receivers work: far views, requests, blocks on nothing.

    It answers nothing with more than a bounded flood, as a link's own bounds would enforce.
    """

    name = "flooder"

    def also(self, event: Event, now_ms: int) -> list[tuple[int, ConsensusMessage]]:
        if self.index < 0 or not self.headers or not self.random.chance(200_000):
            return []
        self.bite()
        target = self.random.pick(self.others())
        return [(target, self._rubbish()) for _ in range(FLOOD)]

    def _rubbish(self) -> ConsensusMessage:
        header = self.headers[next(reversed(self.headers))]
        view = header.view + 1 + self.random.below(FAR_VIEWS)
        far = replace(
            header, view=view, proposer=self.index, time_ms=header.time_ms + view,
            parent_id=view.to_bytes(32, "big"),
        )  # fmt: skip
        choice = self.random.below(4)
        if choice == 0:
            return self.vote_for(far)
        if choice == 1:
            return BlocksRequest(far.parent_id, 0, 1_000)
        if choice == 2:
            return self.give_up(view, self.replica.high_qc, None)
        return self.sign_block(Block(far, b"", self.replica.high_qc, None))


class Saboteur(StaleCertificates):
    """Draws a behaviour anew for every message: the schedule of an adversary that tries all."""

    name = "saboteur"

    def __init__(self, node: Node, replica: Replica) -> None:
        super().__init__(node, replica)
        self._parts: list[Byzantine] = [kind(node, replica) for kind in _PARTS]
        for part in self._parts:
            part.qcs, part.tcs = self.qcs, self.tcs
            part.headers, part.leaders = self.headers, self.leaders

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        if self.random.chance(400_000):
            return super().change(members, message)
        if isinstance(message, Vote) and self.random.chance(300_000):
            # A vote that everybody may count: certificates arise where nobody expects them.
            return [(member, message) for member in self.others()]
        return self.random.pick(self._parts).change(members, message)

    def also(self, event: Event, now_ms: int) -> list[tuple[int, ConsensusMessage]]:
        return [] if self.random.chance(900_000) else self._parts[-1].also(event, now_ms)


_PARTS: list[type[Byzantine]] = [
    Byzantine, EquivocatingLeader, EquivocatingVoter, WithholdingLeader, VoteWithholding,
    SelectiveSending, StaleCertificates, InvalidPayloads, ForgedCertificates, Replayer, Flooder,
]  # fmt: skip

_ALL: list[type[Byzantine]] = [*_PARTS[1:], Saboteur]

BEHAVIOURS: dict[str, Wrap] = {kind.name: kind for kind in _ALL}
"""Every behaviour by the name under which it counts what it did."""
