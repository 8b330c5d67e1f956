"""Whether the others are a quorum while one validator is exchanged for another."""

from __future__ import annotations

import pytest

from client.faults import NoProgress, explain
from client.validators import ValidatorSetView, ValidatorView
from cluster.rotate_quorum import next_stakes, require_quorum
from protocol.errors import ConfigError
from protocol.genesis import Staking


def test_the_others_have_to_be_a_quorum_of_the_next_epoch() -> None:
    stakes = dict.fromkeys("abcd", 100)
    names = {"b": "validator-b"}
    require_quorum(stakes, names, set("abc"), "d", "", 100)
    with pytest.raises(NoProgress, match="without validator-b"):
        require_quorum(stakes, names, set("ac"), "d", "", 100)
    with pytest.raises(NoProgress, match="without validator-b"):
        require_quorum(stakes, names, set("acd"), "d", "", 100)
    # The new one is down until the swap, even where it has bonded already.
    require_quorum({**stakes, "e": 100}, names, set("abcde"), "d", "e", 100)
    with pytest.raises(NoProgress):
        require_quorum({**stakes, "e": 100}, names, set("acde"), "d", "e", 100)
    # More than two thirds, not two thirds; by stake, not by heads.
    with pytest.raises(ConfigError, match="bond more"):
        require_quorum(dict.fromkeys("abc", 100), names, set("abc"), "c", "", 100)
    with pytest.raises(ConfigError, match="bond more"):
        require_quorum({**stakes, "d": 150}, names, set("abcd"), "d", "", 150)
    require_quorum({**stakes, "d": 149}, names, set("abcd"), "d", "", 149)
    require_quorum(dict.fromkeys("abcdefg", 100), names, set("acdef"), "g", "", 100)


def test_the_stakes_are_told_in_dollars() -> None:
    with pytest.raises(ConfigError) as refused:
        require_quorum(dict.fromkeys("abc", 1_000_000_000), {}, set("abc"), "c", "", 1_000_000_000)
    told = explain(refused.value)
    assert told is not None and "have 2000 dollars of 3000 dollars of stake" in told[0]


def test_the_next_epochs_stakes_are_those_that_the_ledger_would_choose() -> None:
    def view(key: str, stake_uusd: int, *, jailed: bool = False) -> ValidatorView:
        return ValidatorView("", "", key, None, 0, stake_uusd, jailed, 0, [], "")

    rows = [view("a", 5), view("b", 9), view("c", 4), view("d", 5), view("e", 99, jailed=True)]
    found = ValidatorSetView(1, 1, 0, rows)
    rules = Staking(epoch_ms=1, min_stake_uusd=5, max_validators=2)
    assert next_stakes(found, rules) == {"b": 9, "a": 5}
