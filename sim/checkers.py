"""What must hold in every run, checked from outside the machines.

The checkers see what honest nodes sign, what they make durable and what they execute. They know
nothing of views and locks beyond this, so a machine cannot talk them into its own mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from consensus import Committed, MemberSet, verify_certificate
from protocol.chain import (
    Block,
    CommitCertificate,
    ConsensusMessage,
    Header,
    Proposal,
    Timeout,
    Vote,
)
from protocol.errors import Rejected, TrilemmaError
from sim.bank import ACCOUNTS, BALANCE_UUSD, Bank, operations, sim_verify

MAX_WEIGHT_DEPTH = 6

Chain = Mapping[int, tuple[Block, CommitCertificate | None]]
"""Committed blocks by height, each with its certificate where it ended a commit step."""


class Violation(TrilemmaError):
    """A property of safety does not hold; `kind` names the checker."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Stalled(TrilemmaError):
    """The cluster made no progress though nothing kept it from it."""


class Checkers:
    """The properties of one run. Methods raise `Violation`.

    `on_commit` is told of each commit, for an adversary that acts on it.
    """

    def __init__(self, genesis: Header, members: MemberSet) -> None:
        self.blocks: dict[int, bytes] = {0: genesis.block_id()}
        self.roots: dict[int, bytes] = {}
        self.acknowledged: dict[int, int] = {}
        self.certificates = 0
        self.on_commit: Callable[[str, int], None] | None = None
        self._durable: dict[str, int] = {}
        self._votes: dict[tuple[str, int, int], bytes] = {}
        self._proposals: dict[tuple[str, int, int], bytes] = {}
        self._given_up: dict[tuple[str, int], int] = {}
        self._voted: dict[tuple[str, int], int] = {}
        self._sets = {members.epoch: members}

    def began(self, members: MemberSet) -> None:
        """An epoch began at some member; all must name the same set."""
        known = self._sets.setdefault(members.epoch, members)
        if known.members != members.members:
            raise Violation("agreement", f"two member sets of epoch {members.epoch}")

    def signed(self, name: str, message: ConsensusMessage) -> None:
        """An honest node sends a message: no double signature over its whole life."""
        if isinstance(message, Vote):
            place = (name, message.epoch, message.view)
            known = self._votes.get(place)
            if known is None:
                self._check_vote_is_late(name, message)
                self._votes[place] = message.block_id
            elif known != message.block_id:
                raise Violation("double_signature", f"{name} voted twice in view {message.view}")
        elif isinstance(message, Timeout):
            lane = (name, message.epoch)
            self._given_up[lane] = max(self._given_up.get(lane, 0), message.view)
        elif isinstance(message, Proposal):
            header = message.block.header
            place = (name, header.epoch, header.view)
            if self._proposals.setdefault(place, header.block_id()) != header.block_id():
                raise Violation("double_signature", f"{name} proposed twice in {header.view}")

    def _check_vote_is_late(self, name: str, vote: Vote) -> None:
        lane = (name, vote.epoch)
        if vote.view <= self._given_up.get(lane, 0):
            raise Violation("double_signature", f"{name} voted in view {vote.view} it gave up")
        if vote.view < self._voted.get(lane, 0):
            raise Violation("double_signature", f"{name} voted in view {vote.view}, then below")
        self._voted[lane] = vote.view

    def committed(self, name: str, effect: Committed) -> None:
        """An honest node has made a commit durable: agreement, prefix order, a certificate that
        proves it."""
        header = effect.block.header
        height, block_id = header.height, header.block_id()
        below = self._durable.get(name, 0)
        if height > below + 1:
            raise Violation("prefix", f"{name} commits height {height} after {below}")
        known = self.blocks.get(height)
        if known is None:
            known = self.blocks[height] = block_id
            self._check_certificate(header, effect)
        if known != block_id:
            raise Violation("agreement", f"{name} commits another block at height {height}")
        if self.blocks.get(height - 1) != header.parent_id:
            raise Violation("prefix", f"{name}'s block {height} does not extend the one below")
        self._durable[name] = max(below, height)
        if self.on_commit is not None:
            self.on_commit(name, height)
        for operation in operations(effect.block.payload):
            self.acknowledged.setdefault(int.from_bytes(operation[:4], "big"), height)

    def _check_certificate(self, header: Header, effect: Committed) -> None:
        members = self._sets.get(header.epoch)
        if members is None or effect.certificate.height != header.height:
            return
        self.certificates += 1
        try:
            verify_certificate(members, header, effect.certificate, verifier=sim_verify)
        except Rejected as error:
            raise Violation("agreement", f"height {header.height} is not proven: {error}") from None

    def executed(self, name: str, bank: Bank) -> None:
        """After an honest node executed blocks: roots, money, each operation once."""
        height, root = bank.root()
        if self.roots.setdefault(height, root) != root:
            raise Violation("root", f"{name} has another root after height {height}")
        if sum(bank.balances) != ACCOUNTS * BALANCE_UUSD or min(bank.balances) < 0:
            raise Violation("conservation", f"{name}: {sum(bank.balances)} micro-dollars")
        if bank.twice:
            raise Violation("exactly_once", f"{name} ordered operation {bank.twice[0]} twice")

    def skipped(self, name: str, height: int) -> None:
        """A node took a snapshot, and goes on above it."""
        self._durable[name] = max(self._durable.get(name, 0), height)

    def recovered(self, name: str, chain: Chain) -> None:
        """A node came back with a chain: nothing it acknowledged may be gone, and what it had
        written but not told anybody is held to agreement as well."""
        height = max(chain, default=0)
        below = self._durable.get(name, 0)
        if height < below:
            raise Violation("durability", f"{name} came back at height {height}, it had {below}")
        for above in range(below + 1, height + 1):
            if above not in chain:
                continue
            block_id = chain[above][0].header.block_id()
            if self.blocks.setdefault(above, block_id) != block_id:
                raise Violation("agreement", f"{name} holds another block at height {above}")
        self._durable[name] = height

    def forget(self, name: str) -> None:
        """A node's disk is gone or replaced; what it had promised is no longer on it."""
        self._durable.pop(name, None)

    def accused(self, names: list[str], honest: bool) -> None:
        """An honest node holds evidence against a member: an honest one never gives any."""
        if honest:
            raise Violation("false_evidence", f"there is evidence against honest {names}")

    def stopped(self, name: str, error: Exception) -> None:
        """An honest node stopped itself, which honest nodes have no reason to."""
        raise Violation("stopped", f"{name} stopped: {error}")

    def weighed(self, name: str, machine: object, most: int) -> None:
        """A machine holds at most `most` elements in all its containers."""
        weight = weigh(machine)
        if weight > most:
            raise Violation("memory", f"{name} holds {weight} elements, at most {most} are right")

    def durable_everywhere(self, name: str, bank: Bank) -> None:
        """At the end: a live honest node has executed whatever any honest one acknowledged."""
        for number in self.acknowledged:
            if number not in bank.executed:
                raise Violation("durability", f"{name} lacks acknowledged operation {number}")


def weigh(root: object) -> int:
    """Elements in the containers that a machine's own objects hold, shared wire values aside."""
    total = 0
    pending: list[tuple[Any, int]] = [(root, 0)]
    visited: list[Any] = []
    while pending:
        item, depth = pending.pop()
        if depth > MAX_WEIGHT_DEPTH or isinstance(item, str | bytes | int | Bank | None):
            continue
        if isinstance(item, dict):
            total += len(item)
            pending += [(value, depth + 1) for value in item.values()]
        elif isinstance(item, list | tuple | set | frozenset) or hasattr(item, "appendleft"):
            total += len(item)
            pending += [(value, depth + 1) for value in item]
        elif type(item).__module__.startswith("consensus."):
            if any(item is other for other in visited):
                continue
            visited.append(item)
            pending += [(value, depth + 1) for value in _fields(item)]
    return total


def _fields(item: object) -> list[Any]:
    fields = list(getattr(item, "__dict__", {}).values())
    for kind in type(item).__mro__:
        slots = getattr(kind, "__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        fields += [getattr(item, name) for name in names if hasattr(item, name)]
    return fields
