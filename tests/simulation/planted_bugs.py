"""Bugs to plant in the consensus, one rule removed by each, for the simulator to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import consensus.core
import consensus.ordering
from consensus.commits import CommitLog
from consensus.members import MemberSet
from consensus.safety import Safety
from protocol.chain import CommitCertificate
from protocol.errors import Rejected
from sim.environment import Environment

Plant = Callable[[pytest.MonkeyPatch], None]


def no_lock(patch: pytest.MonkeyPatch) -> None:
    """Any certified block may be built on after a failed view, however old it is."""

    def justified(self: Safety, block: Any) -> bool:
        view, qc, tc = block.header.view, block.justify, block.timeout
        return qc.view + 1 == view or (tc is not None and tc.view + 1 == view and qc.view < view)

    check_proposal = consensus.ordering.check_proposal

    def check(*arguments: Any) -> None:
        try:
            check_proposal(*arguments)
        except Rejected as error:
            if "below the highest one in the TC" not in error.text:
                raise

    patch.setattr(Safety, "justified", justified)
    patch.setattr(consensus.ordering, "check_proposal", check)


def any_child_commits(patch: pytest.MonkeyPatch) -> None:
    """A block commits with a certified child of any later view."""

    def certified(self: Any, node: Any, qc: Any) -> None:
        header = node.header
        if getattr(self, "next_members", None) is not None or header.height == 0:
            return
        parent = self.tree.nodes.get(header.parent_id)
        if header.height - 1 > self.tree.tip.height and parent is not None:
            self.commit(parent, CommitCertificate(node.block.justify, header, qc))

    patch.setattr(CommitLog, "certified", certified)


def send_before_sync(patch: pytest.MonkeyPatch) -> None:
    """The shell sends what a step says before what it stores is durable."""
    patch.setattr(Environment, "persist_first", False)


def unchecked_certificates(patch: pytest.MonkeyPatch) -> None:
    """Certificates are believed without looking at their signatures."""

    def believe(*arguments: Any, **keywords: Any) -> None:
        return None

    for name in ("verify_qc", "verify_tc", "verify_certificate"):
        patch.setattr(consensus.core, name, believe)


def half_is_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """Half of the stake makes a certificate."""

    def quorum(self: MemberSet, stake: int) -> bool:
        return 2 * stake >= self.total_stake

    patch.setattr(MemberSet, "quorum", quorum)


BUGS: dict[str, Plant] = {
    "no_lock": no_lock,
    "any_child_commits": any_child_commits,
    "send_before_sync": send_before_sync,
    "unchecked_certificates": unchecked_certificates,
    "half_is_a_quorum": half_is_a_quorum,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """With a bug in place."""
    with pytest.MonkeyPatch.context() as patch:
        BUGS[name](patch)
        yield
