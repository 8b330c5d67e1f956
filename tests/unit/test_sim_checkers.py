"""The checkers see each broken promise when it is shown to them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from consensus import Committed, MemberSet
from protocol.chain import (
    QC,
    Block,
    CommitCertificate,
    Header,
    Member,
    Proposal,
    Signature,
    Timeout,
    Vote,
    genesis_header,
    genesis_qc,
    payload_hash,
    vote_digest,
)
from sim.bank import ACCOUNTS, Bank, SimKey, encode_operation, operations, sim_verify
from sim.checkers import Checkers, Violation, weigh

KEYS = [SimKey(f"n{index}") for index in range(4)]
CHAIN = bytes(32)
MEMBERS = MemberSet(CHAIN, [Member(key.public, 1) for key in KEYS])
GENESIS = genesis_header(CHAIN, 1_000, bytes(32))
OPERATION = encode_operation(0, 1, 2, 10)


def certify(header: Header, signers: int = 3) -> QC:
    place = (CHAIN, 0, header.view, header.height, header.block_id())
    digest = vote_digest(*place)
    return QC(*place, [Signature(i, KEYS[i].sign(digest)) for i in range(signers)])


def child(parent: Header, justify: QC, payload: bytes = b"", view: int | None = None) -> Block:
    header = Header(
        CHAIN, 0, parent.view + 1 if view is None else view, parent.height + 1, parent.block_id(),
        parent.view, parent.time_ms + 1, 0, payload_hash(payload), justify.digest(), 0, bytes(32),
    )  # fmt: skip
    return Block(header, payload, justify, None)


def commit(payload: bytes = b"", parent: Header = GENESIS, signers: int = 3) -> Committed:
    justify = genesis_qc(GENESIS) if parent is GENESIS else certify(parent)
    block = child(parent, justify, payload)
    qc = certify(block.header, signers)
    above = child(block.header, qc)
    return Committed(block, CommitCertificate(qc, above.header, certify(above.header)))


def checkers() -> Checkers:
    return Checkers(GENESIS, MEMBERS)


def vote(view: int, block_id: bytes, member: int = 0) -> Vote:
    return Vote(CHAIN, 0, view, 1, block_id, member, bytes(32))


def test_a_simulated_signature_holds_for_its_key_and_digest_alone() -> None:
    signature = KEYS[0].sign(b"digest")
    assert sim_verify(KEYS[0].public, signature, b"digest")
    assert not sim_verify(KEYS[1].public, signature, b"digest")
    assert not sim_verify(KEYS[0].public, signature, b"other")


def test_what_honest_members_do_is_no_violation() -> None:
    seen = checkers()
    first = commit(OPERATION)
    second = commit(parent=first.block.header)
    for name in ("a", "b"):
        seen.committed(name, first)
        seen.committed(name, second)
        seen.signed(name, vote(3, b"x" * 32))
        seen.signed(name, vote(3, b"x" * 32))
        seen.signed(name, Timeout(CHAIN, 0, 4, genesis_qc(GENESIS), 0, b"", None))
        seen.signed(name, vote(5, b"y" * 32))
    seen.recovered("a", {1: (first.block, None), 2: (second.block, second.certificate)})
    assert seen.certificates == 2
    assert seen.acknowledged == {0: 1}


def violation(kind: str) -> AbstractContextManager[object]:
    return pytest.raises(Violation, match=f"^{kind}:")


def test_two_blocks_at_one_height_are_seen() -> None:
    seen = checkers()
    seen.committed("a", commit())
    with violation("agreement"):
        seen.committed("b", commit(OPERATION))


def test_a_commit_that_nobody_certified_is_seen() -> None:
    with violation("agreement"):
        checkers().committed("a", commit(signers=2))


def test_a_gap_and_a_wrong_parent_are_seen() -> None:
    first = commit()
    with violation("prefix"):
        checkers().committed("a", commit(parent=first.block.header))
    seen = checkers()
    seen.committed("a", first)
    other = replace(first.block.header, time_ms=5_000)
    with violation("prefix"):
        seen.committed("a", commit(parent=other))


@pytest.mark.parametrize(
    "messages",
    [
        [vote(3, b"x" * 32), vote(3, b"y" * 32)],
        [vote(4, b"x" * 32), vote(3, b"y" * 32)],
        [Timeout(CHAIN, 0, 3, genesis_qc(GENESIS), 0, b"", None), vote(3, b"x" * 32)],
        [Proposal(commit().block, b""), Proposal(commit(OPERATION).block, b"")],
    ],
    ids=["two votes", "an older view", "a view given up", "two proposals"],
)
def test_double_signatures_are_seen_over_a_whole_life(messages: list[Vote]) -> None:
    seen = checkers()
    seen.signed("a", messages[0])
    seen.signed("b", messages[1])
    seen.recovered("a", {})
    with violation("double_signature"):
        seen.signed("a", messages[1])


def test_a_lost_commit_and_another_chain_on_the_disk_are_seen() -> None:
    seen = checkers()
    seen.committed("a", commit())
    with violation("durability"):
        seen.recovered("a", {})
    other = commit(OPERATION)
    with violation("agreement"):
        seen.recovered("b", {1: (other.block, other.certificate)})
    seen.forget("a")
    seen.recovered("a", {})


def executed(*payloads: bytes) -> Bank:
    bank = Bank()
    parent = GENESIS
    for payload in payloads:
        effect = commit(payload, parent)
        bank.commit(effect.block, effect.certificate)
        parent = effect.block.header
    return bank


def test_broken_roots_money_and_repeated_operations_are_seen() -> None:
    seen = checkers()
    seen.executed("a", executed(OPERATION))
    with violation("root"):
        seen.executed("b", executed(b""))
    rich = executed(OPERATION)
    rich.balances[0] += 1
    with violation("conservation"):
        seen.executed("a", rich)
    with violation("exactly_once"):
        checkers().executed("a", executed(OPERATION, OPERATION))


def test_a_missing_acknowledged_operation_is_seen_at_the_end() -> None:
    seen = checkers()
    seen.committed("a", commit(OPERATION))
    seen.durable_everywhere("a", executed(OPERATION))
    with violation("durability"):
        seen.durable_everywhere("b", executed(b""))


def test_evidence_against_an_honest_member_and_a_stop_are_seen() -> None:
    seen = checkers()
    seen.accused(["n3"], False)
    with violation("false_evidence"):
        seen.accused(["n0"], True)
    with violation("stopped"):
        seen.stopped("n0", ValueError("why"))


def test_a_machine_that_grows_is_seen() -> None:
    @dataclass
    class Machine:
        kept: list[list[int]] = field(default_factory=lambda: [[1, 2], [3]])

    Machine.__module__ = "consensus.machine"
    assert weigh(Machine()) == 2 + 3
    checkers().weighed("a", Machine(), 5)
    with violation("memory"):
        checkers().weighed("a", Machine(), 4)


def test_transfers_move_money_and_never_more_than_there_is() -> None:
    bank = executed(OPERATION + encode_operation(1, 3, 4, 60_000))
    assert (bank.balances[1], bank.balances[2], bank.balances[3]) == (990, 1_010, 1_000)
    assert len(bank.balances) == ACCOUNTS
    assert [len(part) for part in operations(OPERATION * 2)] == [8, 8]
