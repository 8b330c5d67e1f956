"""A rotation that gets no money in time, and one that is given up."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from rotation_world import NAME, PEER, World, claimed_testnet

from client.faults import NoProgress
from client.ledger import NotFinalYet, TransactionRejected
from cluster import rotate_abandon, rotate_files
from cluster.rotate import Rotation
from cluster.rotate_abandon import Abandoned, abandon, text
from cluster.rotate_fees import fee_uusd
from cluster.rotate_files import Journal, SignedWithdrawal
from cluster.rotate_places import LocalPlace
from protocol.errors import Code, ConfigError
from protocol.keys import Key
from protocol.settlement import Deposit
from store.keyfiles import load_key
from store.testnet import Testnet


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    return claimed_testnet(tmp_path)


@pytest.mark.parametrize(
    "late", [NotFinalYet("withdrawal 5 is settled", 5), TimeoutError("not settled")]
)
async def test_money_that_does_not_come_in_time_is_waited_for_with_the_same_command(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, late: TimeoutError
) -> None:
    fund = Rotation._fund
    world = World(testnet, monkeypatch)

    async def pay_out(*_: object) -> None:
        raise late

    monkeypatch.setattr(world.exchange.ledger, "pay_out", pay_out)
    signed = SignedWithdrawal("trader-00", "ab", 7, 1, 3, number=5)
    journal = Journal(world.journal.old, world.journal.new, PEER, signed)
    with pytest.raises(NoProgress) as told:
        await fund(world.rotation(), journal, world.new, 1_000)
    assert "payout" not in str(told.value) and "settled" in str(told.value)
    typed = str(told.value).rpartition("go on with: ")[2]
    assert shlex.split(typed) == [
        "trilemma", "--testnet", str(testnet.directory), "validator", "rotate", NAME
    ]  # fmt: skip


# --- given up


class Returning(World):
    """A ledger whose keys can deposit what they have."""

    def __init__(self, testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(testnet, monkeypatch)
        self.place = LocalPlace(testnet, NAME)
        self.bonds_first = False
        self.deposits: list[tuple[int, bytes]] = []
        monkeypatch.setattr(rotate_abandon, "validator_set", self.found)
        monkeypatch.setattr(self.exchange.ledger, "deposit", self.deposit)

    async def deposit(self, key: Key, amount_uusd: int, address: bytes) -> None:
        assert key.public == self.new.public
        if self.bonds_first:
            raise TransactionRejected(Code.BAD_LEDGER_NONCE, "the bond came first")
        self.deposits.append((amount_uusd, address))
        self.balances[key.address] -= amount_uusd + fee_uusd(
            self.exchange.chain, key, Deposit(address, amount_uusd)
        )

    def paid(self, number: int) -> None:
        """A withdrawal is kept, of this number."""
        signed = SignedWithdrawal("trader-00", "ab", 7, 1, 3, number)
        self.files.keep(Journal(self.journal.old, self.journal.new, PEER, signed))

    async def abandon(self) -> Abandoned:
        return await abandon(self.exchange, self.place, payer="trader-00", report=self.told.append)


@pytest.fixture
def world(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> Returning:
    return Returning(testnet, monkeypatch)


async def test_money_of_the_new_key_goes_back_to_who_paid_it(world: Returning) -> None:
    world.paid(2)
    world.balances[world.new.address] = 1_000_003_400
    done = await world.abandon()
    trader = world.exchange.key("trader-00")
    assert world.deposits == [(done.returned_uusd, trader.address)]
    assert 0 <= world.balances[world.new.address] < 1_000 < done.returned_uusd
    assert not done.may_come and len(world.told) == 1
    assert world.files.journal() is None and world.files.unfinished() == []
    assert load_key(Path(done.key)).public == world.new.public, "money may come to it"
    assert load_key(world.files.key_path).public == world.old.public
    typed = text(done, world.place)
    assert done.key in typed and "deposit" not in typed
    # The next rotation has a key of its own.
    assert world.files.begin(PEER).new != world.journal.new
    world.files.finish()
    with pytest.raises(ConfigError, match=f"no rotation of {NAME} is under way"):
        await world.abandon()


@pytest.mark.parametrize("number", [0, 2])
async def test_money_that_is_still_to_come_is_told(world: Returning, number: int) -> None:
    world.paid(number)
    done = await world.abandon()
    assert (done.returned_uusd, done.withdrawal, done.may_come) == (0, number, True)
    typed = text(done, world.place)
    assert ("payout 2" in typed) == bool(number)
    name = Path(done.key).stem
    assert f"deposit AMOUNT --as {name}" in typed
    assert world.exchange.key(name).public == world.new.public, "the command finds the key"


async def test_a_key_with_stake_is_not_given_up(
    world: Returning, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.stakes[world.journal.new] = 500
    with pytest.raises(ConfigError) as refused:
        await world.abandon()
    words = shlex.split(str(refused.value).rpartition(": ")[2])
    path = str(world.files.testnet.key_path(f"{NAME}-next"))
    assert words[3:] == ["validator", "unbond", "all", "--key", path]
    world.stakes[world.journal.old] = 0
    with pytest.raises(ConfigError) as refused:
        await world.abandon()
    assert "unbond" not in str(refused.value) and f"rotate {NAME}" in str(refused.value)
    world.stakes[world.journal.new] = 0
    # A bond that was sent before the last command was killed, and comes first.
    world.balances[world.new.address], world.bonds_first = 10**9, True
    with pytest.raises(TransactionRejected):
        await world.abandon()
    world.balances[world.new.address] = 0

    async def bonds(*_: object) -> int:
        world.stakes[world.journal.new] = 500
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(rotate_abandon, "_give_back", bonds)
        with pytest.raises(ConfigError, match="has its stake already"):
            await world.abandon()
    assert world.files.journal() == world.journal and world.deposits == []


async def test_a_key_that_is_in_use_is_not_given_up(world: Returning) -> None:
    world.files.install(world.journal)
    with pytest.raises(ConfigError, match="bring the rotation to its end"):
        await world.abandon()
    assert load_key(world.files.key_path).public == world.new.public


async def test_one_that_is_killed_as_it_gives_up_leaves_the_key_to_the_next(
    world: Returning, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(rotate_files.os, "replace", killed)
        with pytest.raises(Killed):
            await world.abandon()
    assert world.files.unfinished() == []
    assert world.files.begin(PEER).new == world.journal.new
