"""A prover that was away while the ledger forgot batches that it needs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_prover_posting import BOND_UUSD, WINDOW_MS, Host, World, make_hosts, until

from protocol.errors import ConfigError
from protocol.genesis import SettlementRules
from protocol.settlement import PostBatch


def left_behind(tmp_path: Path, forgotten: int) -> tuple[World, Host, Host]:
    """A prover that went away after batch 1, and one that kept up until so many were forgotten."""
    rules = SettlementRules(window_ms=WINDOW_MS, prover_bond_uusd=BOND_UUSD, keep_batches=2)
    world = World(rules)
    one, two = make_hosts(tmp_path, world)
    world.trade()
    one.run(until(lambda: ("settled", 1) in one.told))
    for number in range(2, forgotten + 4):
        world.trade()
        two.run(until(lambda number=number: ("settled", number) in two.told))  # type: ignore[misc]
        two.run(until(lambda number=number: two.poster.final_batch == number))  # type: ignore[misc]
        if world.ledger.swept().batch == forgotten:
            break
    assert world.ledger.swept().batch == forgotten and one.store.header(1) is not None
    return world, one, two


@pytest.mark.parametrize("restart", [False, True])
def test_a_prover_that_was_away_for_too_long_says_so(tmp_path: Path, restart: bool) -> None:
    """It takes nothing back, as what is forgotten was not removed; another's data helps."""
    world, one, two = left_behind(tmp_path, 2)
    if restart:
        one = one.restart()
    with pytest.raises(ConfigError, match=r"forgotten batch [12], .*; restore a newer backup"):
        one.poster.run(one.store.posting()).send(None)
    assert one.batcher.position.number == 1
    assert one.poster.taken_back == two.poster.taken_back == 0
    number = two.batcher.position.number + 1
    two.store.close()
    one.store.close()
    shutil.copy(tmp_path / "rival" / "prover.sqlite", tmp_path / "prover" / "prover.sqlite")
    world.trade()
    again = Host(world, one.key, tmp_path / "prover")
    again.run(until(lambda: ("settled", number) in again.told))
    assert world.headers(number)[0].prover == one.key.public


def test_a_prover_whose_own_batch_is_forgotten_follows_the_next_one(tmp_path: Path) -> None:
    world, one, two = left_behind(tmp_path, 1)
    number = len(world.headers(2))
    one = one.restart()
    one.run(until(lambda: ("followed", 1 + number) in one.told))
    assert one.poster.taken_back == 0 and one.batcher.tree.root == two.batcher.tree.root


def test_a_posting_that_was_settled_and_forgotten_meanwhile_is_not_posted_again(
    tmp_path: Path,
) -> None:
    """Neither does anybody know any more whether it was settled as it is here."""
    world, one, _ = left_behind(tmp_path, 2)
    batch_1 = one.store.header(1)
    assert batch_1 is not None
    posting = PostBatch(batch_1, b"", world.log.certificate(world.log.blocks[0].header), [], [])
    with pytest.raises(ConfigError, match="forgotten batch 1"):
        one.poster.run(posting).send(None)
    assert ("posted_again", 1) not in one.told
