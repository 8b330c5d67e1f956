"""The light client follows real changes of the member set, and refuses every forged one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from ledger_world import GENESIS_MS, key_of
from light_world import EPOCH_MS, SETS, TRUSTING_MS, LightChain

from consensus.light import KEPT_EPOCHS, MAX_AHEAD_MS, LightClient, checkpoint_members
from consensus.verify import MAX_PATH
from protocol.chain import CommitCertificate, Header, Member, origin_qc
from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.ledger_leaves import CURRENT_EPOCH_KEY, EpochMember, decode_epoch, epoch_key
from protocol.light import (
    checkpoint_from_json,
    checkpoint_to_json,
    genesis_checkpoint,
)
from protocol.tree_proof import TreeProof
from prover.tree import StateTree

replace = msgspec.structs.replace
Change = tuple[Header, CommitCertificate, TreeProof]


@pytest.fixture(scope="module")
def world() -> LightChain:
    grown = LightChain()
    grown.to_epoch(2)
    return grown


def refused(code: Code, call: Callable[..., object], *args: object, text: str = "") -> None:
    with pytest.raises(Rejected) as caught:
        call(*args)
    assert caught.value.code == code, caught.value
    assert text in str(caught.value)


def in_epoch(world: LightChain, epoch: int) -> LightClient:
    client = world.client()
    for number in range(1, epoch + 1):
        client.advance(*world.change(number), world.now_ms)
    return client


# --- what is right


def test_epochs_are_followed_to_the_newest_header(world: LightChain) -> None:
    client = in_epoch(world, 2)
    newest = world.headers[-1]
    client.verify_header(newest, world.certificate(newest), world.now_ms)
    assert client.newest == newest and client.epoch == 2
    assert [one.public_key for one in client.members.members] == [
        key_of(name).public for name in SETS[2]
    ]
    assert client.members.stakes == tuple(SETS[2].values())
    last = world.lasts[1]
    assert client.members.origin == origin_qc(2, last, last.block_id())
    assert client.members.ends_ms == GENESIS_MS + 3 * EPOCH_MS


def test_a_certificate_over_a_path_proves_the_last_block(world: LightChain) -> None:
    client = world.client()
    last, _, proof = world.change(1)
    client.advance(last, world.certificate(last, above=3), proof, world.now_ms)
    assert client.epoch == 1


def test_a_checkpoint_continues_where_it_was_taken(world: LightChain) -> None:
    first = in_epoch(world, 1)
    checkpoint = checkpoint_from_json(checkpoint_to_json(first.checkpoint()))
    assert checkpoint == first.checkpoint()
    second = LightClient(checkpoint, trusting_ms=TRUSTING_MS, now_ms=world.now_ms)
    assert second.members.origin == first.members.origin
    second.advance(*world.change(2), world.now_ms)
    newest = world.headers[-1]
    second.verify_header(newest, world.certificate(newest), world.now_ms)
    aged = replace(checkpoint, time_ms=checkpoint.time_ms + 1)
    assert aged.fingerprint() == checkpoint.fingerprint()
    richer = [replace(checkpoint.members[0], stake=999), *checkpoint.members[1:]]
    assert replace(checkpoint, members=richer).fingerprint() != checkpoint.fingerprint()


def test_headers_of_past_epochs_still_verify_up_to_their_last(world: LightChain) -> None:
    client = in_epoch(world, 2)
    for header in (world.headers[1], world.lasts[0], world.lasts[1]):
        client.verify_header(header, world.certificate(header), world.now_ms)
    last = world.lasts[0]
    above = world.header_on(last, last.app_height)
    refused(
        Code.WRONG_EPOCH, client.verify_header, above, world.certificate(above), world.now_ms,
        text="does not lie in epoch 0",
    )  # fmt: skip


def test_few_past_epochs_are_remembered() -> None:
    world = LightChain(epoch_ms=300)
    world.to_epoch(KEPT_EPOCHS + 1)
    client = in_epoch(world, KEPT_EPOCHS + 1)
    assert client.members_of(1) is None and client.members_of(2) is not None
    old = world.headers[1]
    refused(
        Code.WRONG_EPOCH, client.verify_header, old, world.certificate(old), world.now_ms,
        text="known are 2 to 9",
    )  # fmt: skip


def test_the_new_members_say_which_block_was_the_last(world: LightChain) -> None:
    keys = [CURRENT_EPOCH_KEY]
    newest = world.headers[-1]
    honest = in_epoch(world, 2)
    proven = honest.prove(
        newest, world.certificate(newest), world.proof(newest, keys), keys, world.now_ms
    )
    honest.confirm_origin(proven)

    # The block above the last one is certified too and names the same members.
    last = world.lasts[1]
    later = world.header_on(last, last.app_height)
    deceived = in_epoch(world, 1)
    deceived.advance(
        later, world.certificate(later), world.proof(last, [epoch_key(2)]), world.now_ms
    )
    refused(Code.WRONG_EPOCH, deceived.confirm_origin, proven, text="another block")


def test_a_fixed_set_has_no_age_and_no_end() -> None:
    world = LightChain(epoch_ms=0)
    for _ in range(20):
        world.block()
    years_later = world.now_ms + 10**11
    client = world.client(years_later)
    newest = world.headers[-1]
    client.verify_header(newest, world.certificate(newest), years_later)
    assert client.members.ends_ms is None
    refused(
        Code.WRONG_EPOCH, client.advance, newest, world.certificate(newest),
        world.proof(newest, [epoch_key(1)]), years_later,
    )  # fmt: skip


# --- checkpoints


def test_an_old_checkpoint_is_refused(world: LightChain) -> None:
    start = genesis_checkpoint(world.chain)
    limit = start.time_ms + TRUSTING_MS
    LightClient(start, trusting_ms=TRUSTING_MS, now_ms=limit)
    with pytest.raises(Rejected) as caught:
        LightClient(start, trusting_ms=TRUSTING_MS, now_ms=limit + 1)
    assert caught.value.code == Code.UNTRUSTED_CHECKPOINT
    with pytest.raises(Rejected) as caught:
        LightClient(start, trusting_ms=TRUSTING_MS, now_ms=start.time_ms - MAX_AHEAD_MS - 1)
    assert caught.value.code == Code.UNTRUSTED_CHECKPOINT


def test_trust_runs_out_while_nothing_new_is_seen(world: LightChain) -> None:
    client = in_epoch(world, 2)
    newest = world.headers[-1]
    certificate = world.certificate(newest)
    client.verify_header(newest, certificate, world.now_ms)
    assert client.trusted_ms == newest.time_ms
    limit = newest.time_ms + TRUSTING_MS
    client.verify_header(newest, certificate, limit)
    refused(Code.UNTRUSTED_CHECKPOINT, client.verify_header, newest, certificate, limit + 1)


def test_members_do_not_renew_trust_in_themselves_beyond_their_epoch(world: LightChain) -> None:
    client = world.client()
    later = replace(world.headers[5], time_ms=GENESIS_MS + 10 * EPOCH_MS)
    client.verify_header(later, world.certificate(later), later.time_ms)
    assert client.trusted_ms == GENESIS_MS + EPOCH_MS
    too_late = GENESIS_MS + EPOCH_MS + TRUSTING_MS + 1
    refused(Code.UNTRUSTED_CHECKPOINT, client.advance, *world.change(1), too_late)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-20],
        lambda raw: raw.replace(b'"epoch": 1', b'"epoch": -1'),
        lambda raw: raw.replace(b'"epoch": 1', b'"epoch": "1"'),
        lambda raw: raw.replace(b'"public_key": "', b'"public_key": "zz', 1),
        lambda raw: raw.replace(b'"public_key": "', b'"public_key": "00', 1),
        lambda raw: raw.replace(b'"time_ms"', b'"surprise": 1, "time_ms"'),
        lambda raw: raw.replace(b'"origin_height": ', b'"origin_height": 0, "x": '),
        lambda raw: raw.replace(b'"stake": 100', b'"stake": 101', 1),
        lambda raw: raw.replace(b'"fingerprint": "', b'"fingerprint": "00'),
        lambda raw: raw.replace(b'"fingerprint"', b'"other"'),
        lambda raw: b"\xff\xfe",
    ],
)
def test_a_broken_checkpoint_file_is_named(
    world: LightChain, spoil: Callable[[bytes], bytes]
) -> None:
    raw = checkpoint_to_json(in_epoch(world, 1).checkpoint())
    assert spoil(raw) != raw
    with pytest.raises(ConfigError, match="checkpoint"):
        checkpoint_from_json(spoil(raw))


def test_a_checkpoint_without_possible_members_is_refused(world: LightChain) -> None:
    start = genesis_checkpoint(world.chain)
    twice = [start.members[0], start.members[0]]
    for members in ([], [Member(bytes(32), 0)], twice):
        with pytest.raises(ConfigError):
            checkpoint_members(replace(start, members=members))


# --- forged changes of the member set


def test_another_epochs_change_is_refused(world: LightChain) -> None:
    skipping = world.client()
    refused(Code.WRONG_EPOCH, skipping.advance, *world.change(2), world.now_ms)
    client = in_epoch(world, 1)
    refused(Code.WRONG_EPOCH, client.advance, *world.change(1), world.now_ms, text="of epoch 0")
    assert client.epoch == 1 and skipping.epoch == 0


def test_members_that_are_not_proven_are_refused(world: LightChain) -> None:
    last, certificate, proof = world.change(1)
    key = epoch_key(1)
    right = decode_epoch(world.leaves[last.app_height][key])
    mine = [EpochMember(key_of("thief").public, 400, b"", "")]
    forged = {**world.leaves[last.app_height], key: encode(replace(right, members=mine))}
    tree = StateTree(sorted(forged.items()))
    wrong_key = world.proof(world.headers[-1], [epoch_key(2)])
    superfluous = world.proof(last, [key, b"\x7e"])
    changed = replace(proof, leaves=((key, encode(replace(right, members=mine))),))
    client = world.client()
    for lie in (tree.prove([key]), wrong_key, superfluous, changed, TreeProof((), (), ())):
        refused(Code.BAD_PROOF, client.advance, last, certificate, lie, world.now_ms)
    swapped = replace(last, app_root=tree.root)
    refused(
        Code.BAD_CERTIFICATE, client.advance, swapped, certificate, tree.prove([key]), world.now_ms
    )
    assert client.epoch == 0


def test_a_block_before_the_last_ends_nothing(world: LightChain) -> None:
    client = world.client()
    early = world.headers[world.lasts[0].height - 1]
    assert early.time_ms >= GENESIS_MS + EPOCH_MS
    proof = world.proof(early, [epoch_key(1)])
    refused(Code.WRONG_EPOCH, client.advance, early, world.certificate(early), proof, world.now_ms)
    before = world.headers[4]
    refused(
        Code.WRONG_EPOCH, client.advance, before, world.certificate(before),
        world.proof(before, [epoch_key(1)]), world.now_ms, text="time",
    )  # fmt: skip


LEAVES: list[dict[str, object]] = [
    {"number": 2},
    {"boundary_height": 0},
    {"boundary_height": 1_000},
    {"members": []},
    {"members": [EpochMember(bytes(32), 0, b"", "")]},
    {"members": [EpochMember(bytes(32), 1, b"", "")] * 2},
    {"ends_ms": GENESIS_MS + EPOCH_MS},
]


@pytest.mark.parametrize("fields", LEAVES, ids=str)
def test_a_certified_leaf_must_still_make_sense(fields: dict[str, object]) -> None:
    world = LightChain()
    while world.boundary is None:
        world.block()
    right = decode_epoch(world.leaves[-1][epoch_key(1)])
    world.leaves[-1][epoch_key(1)] = encode(replace(right, **fields))
    while world.epoch == 0:
        world.block()
    world.block()
    client = world.client()
    refused(Code.WRONG_EPOCH, client.advance, *world.change(1), world.now_ms)
    assert client.epoch == 0


# --- forged certificates


def truncated(world: LightChain, last: Header) -> CommitCertificate:
    whole = world.certificate(last, above=3)
    return replace(whole, path=whole.path[:-1])


def astray(world: LightChain, last: Header) -> CommitCertificate:
    whole = world.certificate(last, above=3)
    return replace(whole, path=[whole.path[0], *world.certificate(last, above=2).path])


def holed(world: LightChain, last: Header) -> CommitCertificate:
    whole = world.certificate(last, above=3)
    return replace(whole, path=whole.path[1:])


def endless(world: LightChain, last: Header) -> CommitCertificate:
    whole = world.certificate(last, above=1)
    return replace(whole, path=whole.path * (MAX_PATH + 1))


def single(world: LightChain, last: Header) -> CommitCertificate:
    """One QC proves nothing: the child's is missing."""
    whole = world.certificate(last)
    return replace(whole, child_qc=whole.qc)


def skipped_view(world: LightChain, last: Header) -> CommitCertificate:
    qc = world.qc(last)
    child = world.header_on(last, last.app_height, view=last.view + 2, justify_hash=qc.digest())
    return CommitCertificate(qc, child, world.qc(child))


def mixed(world: LightChain, last: Header) -> CommitCertificate:
    """The pair is right, but the child's votes are of the members to come."""
    whole = world.certificate(last)
    return replace(whole, child_qc=world.qc(whole.child, names=world.sets[1]))


FORGERIES: dict[str, Callable[[LightChain, Header], CommitCertificate]] = {
    "too few votes": lambda world, last: world.certificate(last, signers=[0, 1]),
    "one vote twice": lambda world, last: world.certificate(last, signers=[0, 1, 1]),
    "votes out of order": lambda world, last: world.certificate(last, signers=[2, 1, 0]),
    "no votes": lambda world, last: world.certificate(last, signers=[]),
    "another set": lambda world, last: world.certificate(last, names=world.sets[1]),
    "votes for another epoch": lambda world, last: world.certificate(last, epoch=1),
    "another block": lambda world, last: world.certificate(world.headers[last.height - 1]),
    "single": single,
    "child of a later view": skipped_view,
    "votes of the next members": mixed,
    "truncated path": truncated,
    "path that leads astray": astray,
    "path with a hole": holed,
    "endless path": endless,
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_certificate_proves_nothing(world: LightChain, kind: str) -> None:
    client = world.client()
    last, _, proof = world.change(1)
    forged = FORGERIES[kind](world, last)
    refused(Code.BAD_CERTIFICATE, client.advance, last, forged, proof, world.now_ms)
    refused(Code.BAD_CERTIFICATE, client.verify_header, last, forged, world.now_ms)
    assert client.epoch == 0 and client.newest is None and client.trusted_ms == GENESIS_MS
    client.advance(*world.change(1), world.now_ms)


def test_votes_of_an_old_epoch_do_not_count_in_a_new_one(world: LightChain) -> None:
    client = in_epoch(world, 1)
    header = world.headers[world.lasts[0].height + 2]
    assert header.epoch == 1
    for votes in ({"names": world.sets[0]}, {"epoch": 0}, {"signers": [0, 1, 2]}):
        forged = world.certificate(header, **votes)
        refused(Code.BAD_CERTIFICATE, client.verify_header, header, forged, world.now_ms)
    by_stake = world.certificate(header, signers=[1, 2, 3])
    client.verify_header(header, by_stake, world.now_ms)


def test_headers_that_cannot_be_are_refused(world: LightChain) -> None:
    client = in_epoch(world, 1)
    header = world.headers[world.lasts[0].height + 2]
    now_ms = world.now_ms

    def verify(changed: Header, at_ms: int = now_ms) -> tuple[Any, ...]:
        return client.verify_header, changed, world.certificate(changed), at_ms

    refused(Code.WRONG_EPOCH, *verify(replace(header, epoch=7)))
    refused(Code.WRONG_EPOCH, *verify(replace(header, height=world.lasts[0].height)))
    refused(Code.BAD_CERTIFICATE, *verify(world.genesis))
    future = replace(header, time_ms=now_ms + MAX_AHEAD_MS + 1)
    refused(Code.BAD_CERTIFICATE, *verify(future), text="ahead of our clock")
    client.verify_header(future, world.certificate(future), now_ms + 1)


@pytest.mark.parametrize(
    ("height", "later_ms"), [(0, 0), (0, 1), (-1, 0), (-1, 1), (1, 0), (1, -1)]
)
def test_two_certified_blocks_that_cannot_be_of_one_chain_are_a_violation(
    world: LightChain, height: int, later_ms: int
) -> None:
    client = in_epoch(world, 1)
    header = world.headers[world.lasts[0].height + 2]
    client.verify_header(header, world.certificate(header), world.now_ms)
    other = replace(
        header, height=header.height + height, time_ms=header.time_ms + later_ms, view=99
    )
    with pytest.raises(SafetyViolation, match="two ledgers"):
        client.verify_header(other, world.certificate(other), world.now_ms)
    forged = world.certificate(other, signers=[1])
    refused(Code.BAD_CERTIFICATE, client.verify_header, other, forged, world.now_ms)
    # Another client that knows the block from an earlier life, before and in its epoch.
    for epoch in (0, 1):
        again = in_epoch(world, epoch)
        again.remember(header)
        while again.epoch < 1:
            again.advance(*world.change(1), world.now_ms)
        with pytest.raises(SafetyViolation, match="two ledgers"):
            again.verify_header(other, world.certificate(other), world.now_ms)
        again.verify_header(header, world.certificate(header), world.now_ms)


def test_blocks_come_in_any_order_and_epochs_do_not_contradict_each_other(
    world: LightChain,
) -> None:
    client = in_epoch(world, 1)
    for header in (*world.headers[3:], *reversed(world.headers[1:])):
        if header.epoch <= client.epoch:
            client.verify_header(header, world.certificate(header), world.now_ms)
