"""A validator's new key: its files after any interruption, its steps on the ledger, its cost."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from rotation_world import NAME, PEER, Killed, Life, World, begun, claimed_testnet, files_of

from client.faults import NoProgress
from client.units import usd_to_uusd
from cluster import cli, rotate_files, rotate_places
from cluster.defaults import FEES
from cluster.rotate import Rotation
from cluster.rotate_fees import fee_uusd, fees_uusd
from cluster.rotate_files import Journal, RotationFiles, SignedWithdrawal, with_fields
from cluster.rotate_places import command
from net.tls import is_usable
from node.process_peers import read_certificate
from protocol.actions import Withdraw
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.genesis import Fees
from protocol.keys import Key
from protocol.settlement import Bond, OutboxEntry, Payout, Unbond, sign_action
from store.config import JOINING, load_chain, load_config, load_process_key
from store.keyfiles import load_key
from store.ownership import claim_directory, may_sign
from store.testnet import Testnet

STEPS = (
    (rotate_files, "write_atomic"), (rotate_files, "sync_directory"),
    (rotate_places, "mark_restore"), (os, "link"), (os, "replace"),
)  # fmt: skip


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    return claimed_testnet(tmp_path)


def test_the_swap_comes_to_the_same_end_from_every_interruption(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files, journal = begun(testnet)
    old, new = files.keys(journal)
    for calls in range(40):
        directory = tmp_path / f"after-{calls}"
        shutil.copytree(testnet.directory, directory)
        tried = files_of(Testnet.load(directory))
        with monkeypatch.context() as patch:
            Life(calls).bounds(patch, STEPS)
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
    again = files_of(testnet)
    assert again.begin(PEER) == journal, "another new key would have lost the money of the first"
    signed = SignedWithdrawal("trader-00", "ab", 7, 1, 3)
    kept = Journal(journal.old, journal.new, PEER, signed)
    again.keep(kept)
    assert files_of(testnet).journal() == kept
    assert files_of(testnet, "validator-1").unfinished() == [NAME]
    with files.lock(), pytest.raises(ConfigError, match="one key is exchanged at a time"):
        again.lock()
    testnet.key_path(f"{NAME}-next").unlink()
    with pytest.raises(ConfigError, match="in none of the files"):
        again.keys(journal)


def test_a_new_key_that_was_not_written_to_its_end_is_made_anew(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: Key, path: Path) -> None:
        path.touch(0o600)
        raise Killed

    files = files_of(testnet)
    with monkeypatch.context() as patch, files.lock():
        patch.setattr(rotate_files, "save_key", save)
        with pytest.raises(Killed):
            files.begin(PEER)
    with files.lock():
        journal = files.begin(PEER)
    assert files.keys(journal)[1].public.hex() == journal.new
    names = {path.name for path in files.key_path.parent.glob(f"{NAME}*")}
    assert names == {f"{NAME}.key", f"{NAME}-next.key"}
    assert testnet.key_path(f"{NAME}-next").stat().st_mode & 0o777 == 0o600


# --- the steps on the ledger


async def test_a_set_that_changed_while_the_money_came_is_looked_at_again(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(testnet, monkeypatch)

    async def others_fail(*_: object) -> None:
        world.has_quorum = False

    async def bonded_before(*_: object) -> None:
        world.stakes[world.journal.new] = 1_000

    monkeypatch.setattr(Rotation, "_fund", others_fail)
    with pytest.raises(NoProgress):
        await world.change_stakes()
    assert world.told == [], "nobody's stake has moved"
    world.has_quorum = True
    monkeypatch.setattr(Rotation, "_fund", bonded_before)
    await world.change_stakes()
    assert world.told == ["unbond"], "what was sent before an interruption came in meanwhile"
    await world.change_stakes()
    assert world.stakes == {world.journal.old: 0, world.journal.new: 1_000}


async def test_the_same_command_goes_on_after_the_swap_with_the_port_that_it_names(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(testnet, monkeypatch)
    world.files.install(world.journal)

    async def reached(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Rotation, "_change_stakes", reached)
    with pytest.raises(Killed):
        await world.rotation(PEER).run()
    world.files.finish()
    with pytest.raises(ConfigError, match="another peer port"):
        await world.rotation(PEER).run()


async def test_a_peer_port_that_somebody_has_is_refused(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(testnet, monkeypatch)
    testnet.key_path(f"{NAME}-next").unlink()
    world.files.finish()
    for entry in testnet.processes:
        for address in filter(None, (entry.public, entry.peer, entry.observe)):
            port = address.rpartition(":")[2]
            with pytest.raises(ConfigError, match=f"than {port}, which {entry.name} has"):
                await world.rotation(f"localhost:{port}")._begin()
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match=f"at port {port}: Address already in use"):
            await world.rotation(f"127.0.0.1:{port}")._begin()
    assert not testnet.key_path(f"{NAME}-next").exists() and world.files.journal() is None


async def test_a_rotation_that_goes_on_has_the_peer_that_it_began_with(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(testnet, monkeypatch)
    with pytest.raises(ConfigError, match=f"dialled at {PEER}; go on with that"):
        await world.rotation("127.0.0.1:31998").run()
    assert world.told == [] and world.files.journal() == world.journal


async def test_what_was_paid_already_is_no_obstacle(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fund = Rotation._fund
    world = World(testnet, monkeypatch)
    code = Code.ALREADY_PAID

    async def pay_out(_: Key, number: int, __: int) -> None:
        assert number == 5
        world.balances[world.new.address] = 10**9
        raise RemoteFault(code, "")

    monkeypatch.setattr(world.exchange.ledger, "pay_out", pay_out)
    signed = SignedWithdrawal("trader-00", "ab", 7, 1, 3, number=5)
    journal = Journal(world.journal.old, world.journal.new, PEER, signed)
    await fund(world.rotation(), journal, world.new, 1_000)
    code = Code.BAD_PROOF
    world.balances[world.new.address] = 0
    with pytest.raises(RemoteFault):
        await fund(world.rotation(), journal, world.new, 1_000)


async def test_a_stake_that_grew_since_it_was_paid_for_says_what_to_send(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fund = Rotation._fund
    world = World(testnet, monkeypatch)
    has_uusd, stake_uusd = 1_000_000, 5_000_000

    async def pay_out(*_: object) -> None:
        world.balances[world.new.address] = has_uusd

    monkeypatch.setattr(world.exchange.ledger, "pay_out", pay_out)
    signed = SignedWithdrawal("trader-00", "ab", 7, 1, 3, number=5)
    journal = Journal(world.journal.old, world.journal.new, PEER, signed)
    with pytest.raises(ConfigError) as refused:
        await fund(world.rotation(), journal, world.new, stake_uusd)
    *_, hint = str(refused.value).partition("trilemma ")
    words = shlex.split(hint)
    assert words[:3] == ["--testnet", str(testnet.directory), "withdraw"]
    assert words[4:] == ["--to", world.new.address.hex(), "--as", "trader-00"]
    world.balances[world.new.address] = has_uusd + usd_to_uusd(words[3])
    await fund(world.rotation(), journal, world.new, stake_uusd)


# --- what it costs


async def test_a_key_that_cannot_pay_for_its_unbonding_changes_nothing(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(testnet, monkeypatch)
    least_uusd = fee_uusd(world.exchange.chain, world.old, Unbond(1_000))
    world.balances[world.old.address] = least_uusd - 1
    words = f"withdraw 1 --to {world.old.address.hex()} --as trader-00"
    with pytest.raises(ConfigError, match=words):
        await world.change_stakes()
    assert world.told == [], "the stake has not been paid for twice"
    testnet.key_path(f"{NAME}-next").unlink()
    world.files.finish()
    with pytest.raises(ConfigError, match=words):
        await world.rotation()._begin()
    assert not testnet.key_path(f"{NAME}-next").exists() and world.files.journal() is None
    world.balances[world.old.address] = least_uusd
    with pytest.raises(ConfigError, match="no key of 'nobody'"):
        await world.rotation(payer="nobody")._begin()
    assert world.files.journal() is None
    assert await world.rotation()._begin() == world.files.journal()


async def test_the_new_key_gets_its_stake_and_fees_and_pays_for_the_payout_itself(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fund = Rotation._fund
    world = World(testnet, monkeypatch)
    exchange, asked = world.exchange, []
    fees = fees_uusd(exchange.chain, world.new, bond_of(world.files, world.new, 1_000))

    async def trader(_: Key) -> SimpleNamespace:
        return SimpleNamespace(account=1)

    async def book(*_: int) -> SimpleNamespace:
        return SimpleNamespace(next_seq=1)

    async def withdrawn(_: Rotation, __: Journal, signed: SignedWithdrawal, ___: Key) -> object:
        return msgspec.structs.replace(signed, number=9)

    async def pay_out(key: Key, number: int, _: int) -> None:
        assert key.public == world.new.public and number == 9
        world.balances[world.new.address] = 1_000 + fees

    def sign(_: Key, __: int, actions: list[Withdraw]) -> SimpleNamespace:
        asked.extend(actions)
        return SimpleNamespace(raw=b"", nonce_ms=1)

    for name, made_up in (("trader", trader), ("book", book), ("sign", sign)):
        monkeypatch.setattr(exchange, name, made_up)
    monkeypatch.setattr(exchange.ledger, "pay_out", pay_out)
    monkeypatch.setattr(Rotation, "_withdraw", withdrawn)
    world.balances[world.new.address] = 7
    await fund(world.rotation(), world.journal, world.new, 1_000)
    assert asked == [Withdraw(1_000 + fees - 7, world.new.address)]
    # After the payout, whose fee is gone from it, there is nothing to pay for.
    world.balances[world.new.address] = 1_000 + fees - fees // 10
    await fund(world.rotation(), world.journal, world.new, 1_000)
    assert len(asked) == 1


def bond_of(files: RotationFiles, key: Key, stake_uusd: int) -> Bond:
    return Bond(stake_uusd, files.certificate(key), PEER)


def test_fees_are_those_of_genesis(testnet: Testnet) -> None:
    files, journal = begun(testnet)
    _, new = files.keys(journal)
    bond, chain = bond_of(files, new, 10**9), testnet.chain()
    for fees in (Fees(), Fees(base_uusd=7), Fees(3_000_000, 5_000), FEES):
        genesis = msgspec.structs.replace(chain.genesis, fees=fees)
        priced = msgspec.structs.replace(chain, genesis=genesis)
        for nonce in (0, 1, 1_000_000):
            size = len(sign_action(new, priced, nonce, bond))
            assert fee_uusd(priced, new, bond) == fees.least_uusd(size)
        payout = Payout(9, OutboxEntry(9, 1, new.address, 10**9), [bytes(32)] * 20)
        steps = payout, bond, Unbond(10**9)
        assert fees_uusd(priced, new, bond) >= 5 * sum(fee_uusd(priced, new, one) for one in steps)
        assert (fees_uusd(priced, new, bond) == 0) == (fees == Fees())


# --- the configuration, and the command


def test_a_hint_can_be_typed_as_it_stands(
    tmp_path: Path, testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRILEMMA_TESTNET", raising=False)
    monkeypatch.chdir(tmp_path)
    spaced = tmp_path / "my net"
    testnet.directory.rename(spaced)
    words = ["validator", "bond", "--key", "a b"]
    hint = command(Testnet.load(spaced), *words)
    assert shlex.split(hint) == ["trilemma", "--testnet", str(spaced), *words]
    usual = tmp_path / ".trilemma" / "testnet"
    usual.parent.mkdir()
    spaced.rename(usual)
    assert command(Testnet.load(usual), "status") == "trilemma status"
    monkeypatch.setenv("TRILEMMA_TESTNET", str(spaced))
    assert command(Testnet.load(usual), "status") == f"trilemma --testnet {usual} status"


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
