"""Creating a testnet: what lies on disk afterwards, and what is never touched."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from cryptography.x509 import load_der_x509_certificate

from cluster.defaults import (
    MAX_STAKING_S,
    MAX_WINDOW_S,
    MIN_UNBONDING_S,
    PROVER_BALANCE_UUSD,
    STAKING,
    settlement_of,
    staking_of,
)
from cluster.init_command import KEPT_BLOCKS, _consequences
from cluster.layout import used_ports
from cluster.lock import SupervisorLock
from cluster.testnet import COMPOSE_OPTIONS, TestnetOptions, create_testnet, ensure_testnet
from node.store_history import KEPT_BELOW_TIP
from protocol.errors import ConfigError
from protocol.genesis import NOTIONAL_LIMIT
from store.config import load_chain, load_config, load_process_key, parse_address
from store.testnet import Testnet

SMALL = TestnetOptions(traders=2)


def test_every_process_gets_a_configuration_that_loads(tmp_path: Path) -> None:
    options = TestnetOptions(validators=4, sequencers=4, executions=2, provers=2, traders=3)
    testnet = create_testnet(tmp_path, options)
    assert len(testnet.processes) == 12
    for entry in testnet.processes:
        config = load_config(testnet.config_path(entry.name))
        chain = load_chain(config)
        load_process_key(config, chain)
        assert (config.role, config.name, config.public) == (entry.role, entry.name, entry.public)
        assert config.data == testnet.data_path(entry.name)
        assert config.validators == testnet.addresses("node")
        assert [peer.address for peer in config.peers] == [
            other.peer for other in testnet.of_role(entry.role) if entry.peer
        ]
        assert config.peer_listen == entry.peer
    ports = [parse_address(entry.public)[1] for entry in testnet.processes]
    ports += [parse_address(entry.peer)[1] for entry in testnet.processes if entry.peer]
    ports += [parse_address(entry.observe)[1] for entry in testnet.processes]
    assert sorted(ports) == sorted(used_ports(options.base_port, options.counts()))
    assert len(set(ports)) == len(ports)


def test_genesis_funds_the_traders_and_names_the_keys(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path, SMALL)
    genesis = testnet.chain().genesis
    money = {account.address: account for account in genesis.accounts}
    assert testnet.traders == ["trader-00", "trader-01"]
    for trader in testnet.traders:
        account = money[testnet.key(trader).address.hex()]
        assert account.balance_uusd == 1_000_000 * 1_000_000
        assert account.deposit_uusd == 100_000_000 * 1_000_000
    assert money[testnet.key("faucet").address.hex()].balance_uusd > 0
    assert genesis.oracles == [testnet.key("oracle").public.hex()]
    assert genesis.provers == [testnet.key("prover-0").public.hex()]
    for identity in genesis.validators + genesis.sequencers:
        certificate = load_der_x509_certificate(bytes.fromhex(identity.certificate))
        assert certificate.public_key().public_bytes_raw().hex() == identity.public_key


def test_the_window_and_the_bonds_of_batches_can_be_chosen(tmp_path: Path) -> None:
    usual = create_testnet(tmp_path / "usual", SMALL).chain().genesis
    assert usual.settlement.window_ms == 3_000
    # Twice a second through the window, and a minute of disputes on top.
    assert 2 * 63 * usual.settlement.prover_bond_uusd < PROVER_BALANCE_UUSD
    options = TestnetOptions(traders=2, provers=2, settlement=settlement_of(0.5, 20))
    genesis = create_testnet(tmp_path / "chosen", options).chain().genesis
    assert genesis.settlement.window_ms == 500
    assert genesis.settlement.prover_bond_uusd == 20_000_000
    assert settlement_of(0, 0).window_ms == 0
    for wrong in ((-1, 1), (MAX_WINDOW_S + 1, 1), (1, -1), (1, 1 << 60)):
        with pytest.raises(ConfigError):
            settlement_of(*wrong)


def test_the_markets_leave_room_below_the_limits_of_the_engine(tmp_path: Path) -> None:
    genesis = create_testnet(tmp_path, SMALL).chain().genesis
    symbols = [market.symbol for market in genesis.markets]
    assert symbols == ["BTC-PERP", "ETH-PERP", "GOOG-PERP", "AAPL-PERP"]
    for market in genesis.markets:
        # A price may double before the largest order is refused for its notional.
        assert 2 * market.initial_price_ticks * market.max_order_lots < NOTIONAL_LIMIT
    dollars = [
        market.initial_price_ticks * market.tick_uusd / 1_000_000 for market in genesis.markets
    ]
    assert dollars == [60_000, 3_000, 577, 585]


def test_keys_are_private_and_differ(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path, SMALL)
    paths = sorted((tmp_path / "keys").iterdir())
    assert len({path.read_text() for path in paths}) == len(paths) == 7 + 2 + 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert testnet.key_path("trader-00") in paths


def test_the_description_loads_back(tmp_path: Path) -> None:
    made = create_testnet(tmp_path, SMALL)
    loaded = Testnet.load(tmp_path)
    assert loaded.processes == made.processes
    assert (loaded.name, loaded.traders) == (made.name, made.traders)
    assert loaded.process("sequencer-0").public == "127.0.0.1:26620"
    with pytest.raises(ConfigError, match="there are validator-0"):
        loaded.process("validator-9")


def test_a_directory_without_a_testnet_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trilemma init"):
        Testnet.load(tmp_path)
    (tmp_path / "testnet.json").write_text("{}")
    with pytest.raises(ConfigError, match="malformed"):
        Testnet.load(tmp_path)


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    first = create_testnet(tmp_path, SMALL).chain().chain_id
    with pytest.raises(ConfigError, match=f"is not empty.*: trilemma init {tmp_path} --overwrite$"):
        create_testnet(tmp_path, SMALL)
    assert ensure_testnet(tmp_path, SMALL).chain().chain_id == first
    (tmp_path / "data" / "state").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    again = create_testnet(tmp_path, TestnetOptions(traders=1, overwrite=True))
    assert again.chain().chain_id != first
    assert not (tmp_path / "data" / "state").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_directory_that_is_no_testnet_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "precious").write_text("mine")
    with pytest.raises(ConfigError, match="is no testnet"):
        create_testnet(tmp_path, TestnetOptions(overwrite=True))
    assert (tmp_path / "keys" / "precious").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_testnet_that_lost_its_description_is_told_from_another_folder(
    tmp_path: Path, overwrite: bool
) -> None:
    options = TestnetOptions(traders=0, overwrite=overwrite)
    create_testnet(tmp_path / "net", SMALL)
    (tmp_path / "net" / "testnet.json").unlink()
    with pytest.raises(ConfigError, match=r"has lost its testnet.json; there are config, data, "):
        create_testnet(tmp_path / "net", options)
    assert (tmp_path / "net" / "genesis.json").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(10):
        (mine / f"{number}.txt").touch()
    with pytest.raises(ConfigError, match=r"is no testnet: there are 0.txt, .*, 7.txt, \.\.\.; "):
        create_testnet(mine, options)
    assert len(list(mine.iterdir())) == 10
    with pytest.raises(ConfigError, match=r"0\.txt is a file, not a directory"):
        create_testnet(mine / "0.txt", options)


def test_a_running_testnet_is_never_overwritten(tmp_path: Path) -> None:
    create_testnet(tmp_path, SMALL)
    lock = SupervisorLock(tmp_path)
    (tmp_path / "data" / "state").write_text("kept")
    for name in ("testnet.json", "lost.json"):
        # One that has lost its description runs all the same.
        (tmp_path / "testnet.json").rename(tmp_path / name)
        for overwrite in (True, False):
            with pytest.raises(ConfigError, match=f"stop it with: trilemma down {tmp_path}$"):
                create_testnet(tmp_path, TestnetOptions(overwrite=overwrite))
    (tmp_path / "lost.json").rename(tmp_path / "testnet.json")
    assert (tmp_path / "data" / "state").read_text() == "kept"
    lock.release()
    create_testnet(tmp_path, TestnetOptions(overwrite=True, traders=0))


def test_free_ports_avoid_taken_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        draws = iter(range(taken - 10_000, taken - 8_000, 200))
        monkeypatch.setattr("cluster.layout.secrets.randbelow", lambda _: next(draws))
        testnet = create_testnet(tmp_path, TestnetOptions(free_ports=True, traders=0))
    port = parse_address(testnet.process("validator-0").public)[1]
    assert port > taken
    assert port in range(taken, taken + 2_000, 200)


def test_containers_listen_everywhere_and_use_service_names(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path, COMPOSE_OPTIONS)
    config = load_config(testnet.config_path("validator-2"))
    assert config.public == "0.0.0.0:26602"
    assert config.peer_listen == "0.0.0.0:26682"
    assert config.peers[3].address == "validator-3:26683"
    assert config.sequencers == [f"sequencer-{index}:{26_620 + index}" for index in range(4)]
    assert config.log_json
    assert config.data == Path("/data/validator-2")
    assert testnet.process("validator-2").public == "127.0.0.1:26602"


def test_validators_alone_are_told_how_many_blocks_to_keep(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path, TestnetOptions(traders=0, retain_blocks=700))
    kept = {e.role: load_config(testnet.config_path(e.name)) for e in testnet.processes}
    assert kept["node"].retain_blocks == 700
    assert "retain_blocks" not in testnet.config_path("sequencer-0").read_text()
    assert KEPT_BLOCKS == KEPT_BELOW_TIP


def test_other_times_of_staking_make_a_valid_genesis(tmp_path: Path) -> None:
    assert staking_of() == STAKING
    short = staking_of(60, 61, 0)
    assert (short.epoch_ms, short.unbonding_ms, short.jail_ms) == (60_000, 61_000, 0)
    assert (short.evidence_ms, short.trusting_ms) == (30_500, 30_500)
    long = staking_of(0, 10 * STAKING.unbonding_ms // 1_000)
    assert (long.evidence_ms, long.trusting_ms) == (STAKING.evidence_ms, STAKING.trusting_ms)
    for number, staking in enumerate((short, long, staking_of(unbonding_s=MIN_UNBONDING_S))):
        testnet = create_testnet(tmp_path / str(number), TestnetOptions(traders=0, staking=staking))
        assert testnet.chain().genesis.staking == staking


@pytest.mark.parametrize(
    ("times_s", "words"),
    [
        ((-1, 100, 0), "an epoch takes 0 to"),
        ((0, MIN_UNBONDING_S - 1, 0), "unbonding takes 60 to"),
        ((0, MAX_STAKING_S + 1, 0), "unbonding takes 60 to"),
        ((0, 100, -1), "jail takes 0 to"),
    ],
)
def test_times_of_staking_out_of_range_are_refused(
    times_s: tuple[int, int, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        staking_of(*times_s)


@pytest.mark.parametrize(
    "options",
    [
        TestnetOptions(validators=0),
        TestnetOptions(sequencers=21),
        TestnetOptions(traders=-1),
        TestnetOptions(base_port=65_500),
        TestnetOptions(retain_blocks=-1),
        TestnetOptions(name=""),
        TestnetOptions(name=" "),
        TestnetOptions(name="a\nb"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_made(
    tmp_path: Path, options: TestnetOptions
) -> None:
    with pytest.raises(ConfigError):
        create_testnet(tmp_path / "net", options)
    assert not (tmp_path / "net").exists()


def test_a_testnet_without_traders_says_so_where_one_is_named(tmp_path: Path) -> None:
    made = create_testnet(tmp_path, TestnetOptions(traders=0))
    with pytest.raises(ConfigError, match="was made without traders"):
        made.key("trader-00")
    assert any("no traders" in line for line in _consequences(TestnetOptions(traders=0)))
    assert made.key("oracle").public


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_it_is_said_of_members_that_tolerate_no_failure(count: int) -> None:
    told = _consequences(TestnetOptions(validators=4, sequencers=count))
    assert any(f"{count} sequencers tolerate no failure" in one for one in told) == (1 < count < 4)
    told = _consequences(TestnetOptions(validators=count))
    assert any(f"{count} validators tolerate no failure" in one for one in told) == (1 < count < 4)
