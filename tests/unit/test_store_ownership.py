"""Whose a data directory is, and who may sign after a restore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ledger_world import key_of, make_chain
from shared_world import SharedWorld

from consensus import Persist
from consensus.effects import Effect
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Chain
from sequencer.effects import RecoveredSequencer
from sequencer.machine import Sequencer
from store import ownership
from store.config import ProcessConfig, Role
from store.ownership import (
    UNFINISHED,
    UNSIGNING,
    claim_directory,
    mark_restore,
    may_sign,
    restored_as,
)

ONE, TWO = key_of("one"), key_of("two")


class Killed(Exception):
    """The process ends here."""


@pytest.fixture
def chain() -> Chain:
    return make_chain([])


def config(data: Path, role: Role = "node") -> ProcessConfig:
    return ProcessConfig(role, "name", 0, Path("g"), Path("k"), data, "127.0.0.1:1")


def test_a_directory_belongs_to_its_first_owner(tmp_path: Path, chain: Chain) -> None:
    assert claim_directory(config(tmp_path), chain, ONE)
    assert not claim_directory(config(tmp_path), chain, ONE)
    with pytest.raises(ConfigError, match="another process of this chain"):
        claim_directory(config(tmp_path), chain, TWO)
    with pytest.raises(ConfigError, match="another process of this chain"):
        claim_directory(config(tmp_path, "prover"), chain, ONE)
    other = make_chain([(ONE, 1, 0)])
    with pytest.raises(ConfigError, match="another chain"):
        claim_directory(config(tmp_path), other, ONE)


def test_an_unfinished_restore_does_not_start(tmp_path: Path, chain: Chain) -> None:
    mark_restore(tmp_path, UNFINISHED)
    with pytest.raises(ConfigError, match="did not finish; empty the directory"):
        claim_directory(config(tmp_path), chain, ONE)


def test_after_a_restore_the_old_key_signs_nothing_and_a_new_one_does(
    tmp_path: Path, chain: Chain
) -> None:
    claim_directory(config(tmp_path), chain, ONE)
    assert may_sign(config(tmp_path))
    mark_restore(tmp_path, UNSIGNING)
    claim_directory(config(tmp_path), chain, ONE)
    assert not may_sign(config(tmp_path))
    with pytest.raises(ConfigError, match="another process"):
        claim_directory(config(tmp_path, "sequencer"), chain, TWO)
    claim_directory(config(tmp_path), chain, TWO)
    assert may_sign(config(tmp_path)) and restored_as(tmp_path) == ""
    with pytest.raises(ConfigError, match="another process"):
        claim_directory(config(tmp_path), chain, ONE)


@pytest.mark.parametrize("changes", range(4))
def test_a_new_key_signs_however_its_first_start_ended(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    claim_directory(config(tmp_path), chain, ONE)
    mark_restore(tmp_path, UNSIGNING)
    left = [changes]

    def dying(change: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            change(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_atomic", "forget_restore"):
            patch.setattr(ownership, name, dying(getattr(ownership, name)))
        if changes < 3:
            with pytest.raises(Killed):
                claim_directory(config(tmp_path), chain, TWO)
        else:
            claim_directory(config(tmp_path), chain, TWO)
    assert may_sign(config(tmp_path)) == (changes == 3)
    if changes < 2:
        claim_directory(config(tmp_path), chain, ONE)
        assert not may_sign(config(tmp_path)), "the key of the backup"
    else:
        with pytest.raises(ConfigError, match="another process"):
            claim_directory(config(tmp_path), chain, ONE)
    claim_directory(config(tmp_path), chain, TWO)
    assert may_sign(config(tmp_path))


def test_a_backup_of_the_new_key_signs_nothing(tmp_path: Path, chain: Chain) -> None:
    claim_directory(config(tmp_path), chain, ONE)
    mark_restore(tmp_path, UNSIGNING)
    claim_directory(config(tmp_path), chain, TWO)
    mark_restore(tmp_path, UNSIGNING)
    claim_directory(config(tmp_path), chain, TWO)
    assert not may_sign(config(tmp_path))


def test_a_restored_sequencer_follows_the_others_and_signs_nothing() -> None:
    world = SharedWorld()
    for _ in range(3):
        world.members[0].submit(world.batch())
        world.run(300)
    member = world.members[3]
    lost = world.batch()
    member.pooled.append(lost)  # it had promised this one when it was backed up
    member.voting, member.uncommitted = None, []
    signed: list[Effect] = []

    def boot(recovered: RecoveredSequencer) -> None:
        member.machine = Sequencer(
            world.chain, 3, key_of("sequencer-3"), recovered, member.stored, signs=False
        )

    def take(effects: list[Effect]) -> list[Effect]:
        signed.extend(one for one in effects if isinstance(one, Persist))
        return kept(effects)

    kept, member.take, member.boot = member.take, take, boot
    member.restart()
    before = len(world.sent)
    raw = world.batch()
    world.members[1].submit(raw)
    world.run(20_000)
    assert world.logs() == {tuple(member.ordered())} and {raw, lost} <= set(member.ordered())
    assert signed == [] and member.voting is None
    says = {type(message).__name__ for sender, _, message in world.sent[before:] if sender == 3}
    assert not says & {"Vote", "TimeoutVote", "Timeout", "Proposal"}, says
    with pytest.raises(Rejected) as refused:
        member.submit(world.batch())
    assert refused.value.code is Code.NOT_READY
