"""A validator's new key: its files after any interruption, and when the others are no quorum."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.faults import NoProgress
from client.validators import ValidatorSetView, ValidatorView
from cluster import cli, rotate_files
from cluster.rotate_files import Journal, RotationFiles, SignedWithdrawal, with_fields
from cluster.rotate_quorum import next_stakes, require_quorum
from cluster.testnet import TestnetOptions, create_testnet
from net.tls import is_usable
from node.process_peers import read_certificate
from protocol.errors import ConfigError
from protocol.genesis import Staking
from protocol.keys import Key
from store.config import JOINING, load_chain, load_config, load_process_key
from store.keyfiles import load_key
from store.ownership import claim_directory, may_sign
from store.testnet import Testnet

NAME = "validator-2"
PEER = "127.0.0.1:31999"
STEPS = ("write_atomic", "mark_restore", "sync_directory")


class Killed(Exception):
    """The command ends here, in the middle of what it does."""


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    made = create_testnet(tmp_path / "net", TestnetOptions(free_ports=True, traders=1))
    config = load_config(made.config_path(NAME))
    config.data.mkdir()
    claim_directory(config, made.chain(), load_key(config.key))
    return made


def begun(testnet: Testnet) -> tuple[RotationFiles, Journal]:
    files = RotationFiles(testnet, NAME)
    with files.lock():
        return files, files.begin(PEER)


def dying_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Have the swap end after so many of its changes."""
    left = [calls]

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*arguments)

        return call

    for name in STEPS:
        monkeypatch.setattr(rotate_files, name, dying(getattr(rotate_files, name)))
    for name in ("link", "replace"):
        monkeypatch.setattr(rotate_files.os, name, dying(getattr(os, name)))


def test_the_swap_comes_to_the_same_end_from_every_interruption(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files, journal = begun(testnet)
    old, new = files.keys(journal)
    for calls in range(40):
        directory = tmp_path / f"after-{calls}"
        shutil.copytree(testnet.directory, directory)
        tried = RotationFiles(Testnet.load(directory), NAME)
        with monkeypatch.context() as patch:
            dying_after(patch, calls)
            try:
                tried.install(journal)
                break
            except Killed:
                pass
        config = load_config(tried.testnet.config_path(NAME))
        # Whoever starts the process now: the old key signs with all of its state, or not at all.
        assert may_sign(config) == (calls == 0)
        assert [one.public for one in tried.keys(journal)] == [old.public, new.public]
        assert tried.installed(journal) == (calls == 7)
        swapped(tried, journal, old, new)
    assert calls == 8, "the changes were not interrupted"


def swapped(files: RotationFiles, journal: Journal, old: Key, new: Key) -> None:
    """Finish the swap, and start as the process does."""
    testnet = files.testnet
    retired = files.install(journal)
    assert load_key(retired).public == old.public
    assert load_key(testnet.key_path(NAME)).public == new.public
    config = load_config(testnet.config_path(NAME))
    chain = load_chain(config)
    assert (config.index, config.peer_listen) == (JOINING, PEER)
    assert load_process_key(config, chain).public == new.public
    assert config.certificate is not None
    assert is_usable(read_certificate(config.certificate, new), new.public)
    assert not may_sign(config), "the directory has not passed to the new key yet"
    assert claim_directory(config, chain, new) is False and may_sign(config)
    with pytest.raises(ConfigError, match="belongs to another process"):
        claim_directory(config, chain, old)
    assert Testnet.load(testnet.directory).process(NAME).peer == PEER
    # Once more, after the process has started: nothing changes, and it goes on signing.
    assert files.install(journal) == retired and may_sign(config)
    files.finish()
    assert files.journal() is None and files.unfinished() == []


def test_a_rotation_keeps_its_key_its_withdrawal_and_its_name(testnet: Testnet) -> None:
    files, journal = begun(testnet)
    again = RotationFiles(testnet, NAME)
    assert again.begin(PEER) == journal, "another new key would have lost the money of the first"
    signed = SignedWithdrawal("trader-00", "ab", 7, 1, 3)
    kept = Journal(journal.old, journal.new, PEER, signed)
    again.keep(kept)
    assert RotationFiles(testnet, NAME).journal() == kept
    assert RotationFiles(testnet, "validator-1").unfinished() == [NAME]
    with files.lock(), pytest.raises(ConfigError, match="one key is exchanged at a time"):
        again.lock()
    testnet.key_path(f"{NAME}-next").unlink()
    with pytest.raises(ConfigError, match="in none of the files"):
        again.keys(journal)


def test_fields_are_set_and_everything_else_stays() -> None:
    text = '# mine\nindex = 2\nlog = "index = 3"\n\n[[peers]]\nindex = 5\n'
    assert with_fields(text, {"index": "-1", "certificate": '"a"'}) == (
        'certificate = "a"\n# mine\nindex = -1\nlog = "index = 3"\n\n[[peers]]\nindex = 5\n'
    )
    assert with_fields("a = 1\n[b]\n", {"a": "2"}) == "a = 2\n[b]\n"


def test_a_configuration_that_cannot_be_changed_by_lines_is_left_alone(testnet: Testnet) -> None:
    files, journal = begun(testnet)
    path = testnet.config_path(NAME)
    text = path.read_text().replace("index = 2", "'index' = 2")
    path.write_text(text)
    with pytest.raises(ConfigError):
        files.install(journal)
    assert path.read_text() == text and not list(path.parent.glob(".*"))


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


def test_the_next_epochs_stakes_are_those_that_the_ledger_would_choose() -> None:
    def view(key: str, stake_uusd: int, *, jailed: bool = False) -> ValidatorView:
        return ValidatorView("", "", key, None, 0, stake_uusd, jailed, 0, [], "")

    rows = [view("a", 5), view("b", 9), view("c", 4), view("d", 5), view("e", 99, jailed=True)]
    found = ValidatorSetView(1, 1, 0, rows)
    rules = Staking(epoch_ms=1, min_stake_uusd=5, max_validators=2)
    assert next_stakes(found, rules) == {"b": 9, "a": 5}


def test_what_can_never_be_is_refused_at_once(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*arguments: str) -> tuple[object, str]:
        command = ["trilemma", "--testnet", str(testnet.directory), "validator", "rotate"]
        monkeypatch.setattr("sys.argv", [*command, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    for arguments, words in (
        (["validator-9"], "there is no process"),
        (["sequencer-0"], "no validator"),
        ([NAME], "under trilemma up"),
    ):
        code, err = status(*arguments)
        assert code == 2 and words in err and err.count("\n") == 1, err
    assert not testnet.key_path(f"{NAME}-next").exists()
