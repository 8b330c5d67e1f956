"""Certificates prove what they say, or are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import CHAIN, Forge, verify

from consensus import MemberSet, VerifiedCache, verify_certificate, verify_qc, verify_tc
from protocol.chain import QC, TC, CommitCertificate, Header, Signature
from protocol.errors import Code, ConfigError, Rejected


@pytest.fixture
def forge() -> Forge:
    return Forge()


def qc_holds(forge: Forge, qc: QC) -> bool:
    try:
        verify_qc(forge.members, qc, forge.genesis_qc, verifier=verify)
    except Rejected as error:
        assert error.code == Code.BAD_CERTIFICATE
        return False
    return True


def tc_holds(forge: Forge, tc: TC) -> bool:
    try:
        verify_tc(forge.members, tc, forge.genesis_qc, verifier=verify)
    except Rejected as error:
        assert error.code == Code.BAD_CERTIFICATE
        return False
    return True


def commits(forge: Forge, header: Header, certificate: CommitCertificate) -> bool:
    try:
        verify_certificate(forge.members, header, certificate, verifier=verify)
    except Rejected as error:
        assert error.code == Code.BAD_CERTIFICATE
        return False
    return True


def test_three_of_four_equal_members_are_a_quorum(forge: Forge) -> None:
    (block,) = forge.chain([1])
    assert qc_holds(forge, forge.qc(block))
    assert qc_holds(forge, forge.qc(block, (0, 1, 2, 3)))
    assert not qc_holds(forge, forge.qc(block, (0, 1)))


def test_quorum_counts_stake_and_not_heads() -> None:
    forge = Forge((70, 10, 10, 10))
    (block,) = forge.chain([1])
    assert qc_holds(forge, forge.qc(block, (0,)))
    assert not qc_holds(forge, forge.qc(block, (1, 2, 3)))


def test_exactly_two_thirds_are_no_quorum() -> None:
    members = Forge((1, 1, 1)).members
    assert not members.quorum(2)
    assert members.quorum(3)


@pytest.mark.parametrize("signers", [(0, 0, 1), (0, 1, 1), (2, 1, 0), (0, 2, 1)])
def test_signers_must_be_distinct_and_ordered(forge: Forge, signers: tuple[int, ...]) -> None:
    (block,) = forge.chain([1])
    assert not qc_holds(forge, forge.qc(block, signers))


@pytest.mark.parametrize("member", [-1, 4, 1 << 40])
def test_unknown_signer_is_refused(forge: Forge, member: int) -> None:
    (block,) = forge.chain([1])
    qc = forge.qc(block)
    signatures = sorted([*qc.signatures, Signature(member, b"x")], key=lambda s: s.member)
    assert not qc_holds(forge, replace(qc, signatures=signatures))


def test_one_wrong_signature_spoils_the_certificate(forge: Forge) -> None:
    (block,) = forge.chain([1])
    qc = forge.qc(block, (0, 1, 2, 3))
    forged = replace(qc.signatures[3], signature=bytes(32))
    assert not qc_holds(forge, replace(qc, signatures=[*qc.signatures[:3], forged]))


@pytest.mark.parametrize("field", ["view", "height", "epoch"])
def test_every_field_of_a_qc_is_signed(forge: Forge, field: str) -> None:
    (block,) = forge.chain([1])
    qc = forge.qc(block)
    assert not qc_holds(forge, replace(qc, **{field: getattr(qc, field) + 1}))
    assert not qc_holds(forge, replace(qc, block_id=bytes(32)))
    assert not qc_holds(forge, replace(qc, chain_id=bytes(32)))


def test_genesis_is_certified_for_its_own_id_alone(forge: Forge) -> None:
    assert qc_holds(forge, forge.genesis_qc)
    assert not qc_holds(forge, replace(forge.genesis_qc, block_id=bytes(32)))
    assert not qc_holds(forge, replace(forge.genesis_qc, height=1))
    assert not qc_holds(forge, replace(forge.genesis_qc, chain_id=bytes(32)))


def test_timeout_certificate_holds(forge: Forge) -> None:
    (block,) = forge.chain([1])
    assert tc_holds(forge, forge.tc(2, [forge.genesis_qc, forge.qc(block), forge.genesis_qc]))


def test_timeout_certificate_must_carry_the_highest_qc_named(forge: Forge) -> None:
    (block,) = forge.chain([1])
    tc = forge.tc(2, [forge.genesis_qc, forge.qc(block), forge.genesis_qc])
    assert not tc_holds(forge, replace(tc, high_qc=forge.genesis_qc))


def test_timeout_certificate_cannot_lower_what_a_signer_named(forge: Forge) -> None:
    (block,) = forge.chain([1])
    tc = forge.tc(2, [forge.genesis_qc, forge.qc(block), forge.genesis_qc])
    lowered = [replace(signature, high_qc_view=0) for signature in tc.signatures]
    assert not tc_holds(forge, replace(tc, signatures=lowered, high_qc=forge.genesis_qc))


def test_timeout_certificate_needs_a_quorum_of_distinct_members(forge: Forge) -> None:
    assert not tc_holds(forge, forge.tc(1, [forge.genesis_qc] * 2, (0, 1)))
    assert not tc_holds(forge, forge.tc(1, [forge.genesis_qc] * 3, (0, 1, 1)))


def test_timeout_certificate_is_bound_to_view_and_chain(forge: Forge) -> None:
    tc = forge.tc(1, [forge.genesis_qc] * 3)
    assert not tc_holds(forge, replace(tc, view=2))
    assert not tc_holds(forge, replace(tc, chain_id=bytes(32)))
    assert not tc_holds(forge, replace(tc, epoch=1))


def test_qc_of_a_view_given_up_is_no_part_of_its_timeout_certificate(forge: Forge) -> None:
    (block,) = forge.chain([1])
    assert not tc_holds(forge, forge.tc(1, [forge.qc(block)] * 3))


def test_forged_qc_within_a_timeout_certificate_is_refused(forge: Forge) -> None:
    (block,) = forge.chain([1])
    weak = forge.qc(block, (0, 1))
    assert not tc_holds(forge, forge.tc(2, [weak] * 3))


def test_block_and_direct_child_of_the_next_view_commit(forge: Forge) -> None:
    block, child = forge.chain([1, 2])
    assert commits(forge, block.header, forge.certificate(block, child))


def test_child_two_views_above_commits_nothing(forge: Forge) -> None:
    block, child = forge.chain([1, 3])
    assert not commits(forge, block.header, forge.certificate(block, child))


def test_grandchild_commits_nothing(forge: Forge) -> None:
    block, _, grandchild = forge.chain([1, 2, 3])
    pair = CommitCertificate(forge.qc(block), grandchild.header, forge.qc(grandchild))
    assert not commits(forge, block.header, pair)


def test_certificate_commits_its_own_block_alone(forge: Forge) -> None:
    block, child = forge.chain([1, 2])
    sibling = forge.block(forge.root_block, 1, b"sibling")
    assert not commits(forge, sibling.header, forge.certificate(block, child))
    assert not commits(forge, child.header, forge.certificate(block, child))


def test_single_qc_is_no_certificate(forge: Forge) -> None:
    block, child = forge.chain([1, 2])
    qc = forge.qc(block)
    assert not commits(forge, block.header, CommitCertificate(qc, block.header, qc))
    assert not commits(forge, block.header, CommitCertificate(qc, child.header, qc))


def test_weak_qc_on_either_side_is_refused(forge: Forge) -> None:
    block, child = forge.chain([1, 2])
    pair = forge.certificate(block, child)
    weak_child = replace(pair, child_qc=forge.qc(child, (1, 2)))
    assert not commits(forge, block.header, weak_child)
    weak = forge.qc(block, (1, 2))
    dependent = forge.block(block, 2, qc=weak)
    assert not commits(forge, block.header, forge.certificate(block, dependent))


def test_child_must_name_the_very_qc(forge: Forge) -> None:
    block, child = forge.chain([1, 2])
    pair = forge.certificate(block, child)
    other = replace(pair, qc=forge.qc(block, (1, 2, 3)))
    assert not commits(forge, block.header, other)


def test_certificate_of_another_chain_is_refused(forge: Forge) -> None:
    block, child = forge.chain([1, 2])
    other = MemberSet(bytes(32), forge.members.members)
    with pytest.raises(Rejected):
        verify_certificate(other, block.header, forge.certificate(block, child), verifier=verify)


def test_genesis_has_no_certificate(forge: Forge) -> None:
    (child,) = forge.chain([1])
    assert not commits(
        forge, forge.genesis, CommitCertificate(forge.genesis_qc, child.header, forge.qc(child))
    )


def test_cache_saves_signature_checks_and_never_covers_another_certificate(forge: Forge) -> None:
    calls = 0

    def counting(public_key: bytes, signature: bytes, digest: bytes) -> bool:
        nonlocal calls
        calls += 1
        return verify(public_key, signature, digest)

    (block,) = forge.chain([1])
    qc = forge.qc(block)
    cache = VerifiedCache(2)
    origin = forge.genesis_qc
    for _ in range(5):
        verify_qc(forge.members, qc, origin, verifier=counting, cache=cache)
    assert calls == 3
    forged = replace(qc, block_id=bytes(32))
    with pytest.raises(Rejected):
        verify_qc(forge.members, forged, origin, verifier=counting, cache=cache)
    assert len(cache) == 1


def test_cache_is_bounded() -> None:
    cache = VerifiedCache(3)
    for number in range(10):
        cache.add(bytes((number,)))
    assert len(cache) == 3
    assert bytes((9,)) in cache and bytes((0,)) not in cache


def test_member_set_refuses_nonsense() -> None:
    members = Forge().members.members
    for bad in ([], [members[0], members[0]], [replace(members[0], stake=0)]):
        with pytest.raises(ConfigError):
            MemberSet(CHAIN, bad)


def test_leaders_take_turns(forge: Forge) -> None:
    assert [forge.members.leader(view) for view in range(1, 6)] == [1, 2, 3, 0, 1]
    assert forge.members.index_of(forge.keys[2].public) == 2
    assert forge.members.index_of(b"nobody") is None
