"""Create a testnet: genesis, keys, certificates and one configuration per process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import msgspec

from cluster.defaults import (
    BACKSTOP_UUSD,
    CAPACITY,
    CHALLENGER_BALANCE_UUSD,
    FAUCET_BALANCE_UUSD,
    FEES,
    INSURANCE_UUSD,
    LEDGER_PACE,
    MARKETS,
    PROVER_BALANCE_UUSD,
    SEQUENCER_PACE,
    SETTLEMENT,
    STAKING,
    TRADER_BALANCE_UUSD,
    TRADER_DEPOSIT_UUSD,
    VALIDATOR_BALANCE_UUSD,
    VALIDATOR_STAKE_UUSD,
)
from cluster.layout import (
    DEFAULT_BASE_PORT,
    LAYOUT_PORTS,
    MEMBERS_LIMIT,
    find_base_port,
    observe_port,
    peer_port,
    public_port,
)
from cluster.testnet_folder import prepare_folder
from net.tls import make_certificate
from protocol.errors import ConfigError
from protocol.genesis import (
    Capacity,
    Fees,
    Genesis,
    GenesisAccount,
    Identity,
    Limits,
    MarketConfig,
    Pace,
    Reopening,
    SettlementRules,
    Staking,
    parse_genesis,
)
from protocol.keys import Key
from store.config import Role, parse_address
from store.keyfiles import save_key
from store.testnet import (
    CONFIG_FOLDER,
    CONTAINER_DATA,
    DATA_FOLDER,
    DESCRIPTION_FILE,
    FAUCET_KEY,
    GENESIS_FILE,
    GUARDIAN_KEY,
    KEY_FOLDER,
    LOG_FOLDER,
    ORACLE_KEY,
    Description,
    Place,
    ProcessEntry,
    Testnet,
)

SEQUENCER_STAKE = 100
TRADERS_LIMIT = 10_000
TARGETS_FILE = "prometheus.json"
"""What Prometheus scrapes, for `targets/` of deploy/prometheus."""

NAMES: dict[Role, str] = {
    "node": "validator",
    "sequencer": "sequencer",
    "execution": "execution",
    "prover": "prover",
    "challenger": "challenger",
}


class TestnetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to create.

    `place` is where its processes run: on this host, where they listen on `listen_host`; in
    containers of one compose file, each known to the others by its name; or in pods, known by
    `pod_host` and with one port for all processes of a role. Clients reach them on `client_host`,
    in pods by the same names.
    With `free_ports` the base port is searched. `data_root` replaces the testnet's own ``data``
    folder; `time_ms` is the time of genesis, now where None. `staking.epoch_ms` is how long the
    validators' epochs last, 0 one epoch for ever. Validators keep `retain_blocks` blocks, 0: all.
    With `faults` its processes can be told to break themselves.
    """

    __test__ = False

    name: str = "testnet"
    validators: int = 4
    sequencers: int = 1
    executions: int = 1
    provers: int = 1
    challengers: int = 0
    traders: int = 64
    base_port: int = DEFAULT_BASE_PORT
    free_ports: bool = False
    listen_host: str = "127.0.0.1"
    client_host: str = "127.0.0.1"
    place: Place = "host"
    data_root: str = ""
    retain_blocks: int = 0
    overwrite: bool = False
    time_ms: int | None = None
    trader_balance_uusd: int = TRADER_BALANCE_UUSD
    trader_deposit_uusd: int = TRADER_DEPOSIT_UUSD
    validator_stake_uusd: int = VALIDATOR_STAKE_UUSD
    staking: Staking = STAKING
    fees: Fees = FEES
    settlement: SettlementRules = SETTLEMENT
    markets: tuple[MarketConfig, ...] = MARKETS
    ledger_pace: Pace = LEDGER_PACE
    sequencer_pace: Pace = SEQUENCER_PACE
    limits: Limits = Limits()
    capacity: Capacity = CAPACITY
    reopening: Reopening = Reopening()
    insurance_uusd: int = INSURANCE_UUSD
    backstop_uusd: int = BACKSTOP_UUSD
    faults: bool = True
    log_level: str = "info"
    log_json: bool = False

    def counts(self) -> dict[Role, int]:
        """Processes of each role."""
        return {
            "node": self.validators,
            "sequencer": self.sequencers,
            "execution": self.executions,
            "prover": self.provers,
            "challenger": self.challengers,
        }


def contained(options: TestnetOptions, place: Place) -> TestnetOptions:
    """The same for containers: processes listen on all addresses and keep their data there."""
    return msgspec.structs.replace(
        options, place=place, listen_host="0.0.0.0", data_root=str(CONTAINER_DATA), log_json=True
    )


COMPOSE_OPTIONS = contained(
    TestnetOptions(name="compose", sequencers=4, executions=2, challengers=1), "compose"
)
"""The testnet of the repository's ``docker-compose.yml``."""


def create_testnet(directory: Path | str, options: TestnetOptions | None = None) -> Testnet:
    """Create a testnet in a directory that is new, or empty, or a testnet to be overwritten.

    Raises `ConfigError` where the directory holds something else, or the options make no sense.
    """
    options = options or TestnetOptions()
    _check_options(options)
    directory = Path(directory).absolute()
    prepare_folder(directory, options.overwrite)
    base_port = options.base_port
    if options.free_ports:
        base_port = find_base_port(options.listen_host, options.counts())
    processes = process_entries(options, base_port)
    traders = [f"trader-{number:02d}" for number in range(options.traders)]
    description = Description(options.name, processes, traders)
    testnet = Testnet(directory, description)
    try:
        for folder in (CONFIG_FOLDER, DATA_FOLDER, LOG_FOLDER):
            (directory / folder).mkdir()
        (directory / KEY_FOLDER).mkdir(mode=0o700)
        keys = _make_keys(testnet)
        raw = msgspec.json.format(msgspec.json.encode(_genesis(options, testnet, keys)), indent=2)
        parse_genesis(raw)
        testnet.genesis_path.write_bytes(raw + b"\n")
        for entry in processes:
            testnet.config_path(entry.name).write_text(_config(options, testnet, entry))
        watched = {one.name: one.observe for one in processes}
        (directory / TARGETS_FILE).write_text(scrape_targets(watched))
        _write_last(directory / DESCRIPTION_FILE, description)
    except OSError as error:
        raise ConfigError(f"cannot create a testnet in {directory}: {error}") from None
    return testnet


def ensure_testnet(directory: Path | str, options: TestnetOptions | None = None) -> Testnet:
    """The testnet of this directory, created where there is none yet; raises `ConfigError`."""
    if (Path(directory) / DESCRIPTION_FILE).exists():
        return Testnet.load(directory)
    return create_testnet(directory, options)


def _check_options(options: TestnetOptions) -> None:
    if not options.name.strip() or not options.name.isprintable():
        raise ConfigError(f"a testnet has a name that can be read, not {options.name!r}")
    for role, count in options.counts().items():
        least = 0 if role == "challenger" else 1
        if not least <= count <= MEMBERS_LIMIT:
            raise ConfigError(
                f"a testnet has {least} to {MEMBERS_LIMIT} {NAMES[role]} processes, not {count}"
            )
    if not 0 <= options.traders <= TRADERS_LIMIT:
        raise ConfigError(f"a testnet has up to {TRADERS_LIMIT} traders, not {options.traders}")
    if options.retain_blocks < 0:
        raise ConfigError(f"blocks to retain: 0 for all, or more, not {options.retain_blocks}")
    if not options.free_ports and not 0 < options.base_port < 65_536 - LAYOUT_PORTS:
        raise ConfigError(f"the base port goes from 1 to {65_535 - LAYOUT_PORTS}")


def pod_host(entry: ProcessEntry) -> str:
    """The name of a process's pod, resolved by the headless service of its role."""
    return f"{entry.name}.{NAMES[entry.role]}-peers"


def process_entries(
    options: TestnetOptions, base_port: int = DEFAULT_BASE_PORT
) -> list[ProcessEntry]:
    """The processes and where clients reach them."""
    entries = []
    for role, count in options.counts().items():
        for index in range(count):
            entry = ProcessEntry(f"{NAMES[role]}-{index}", role, index, public="")
            pods = options.place == "kubernetes"
            host, place = (pod_host(entry), 0) if pods else (options.client_host, index)
            peer = peer_port(base_port, role, place)
            entries.append(
                msgspec.structs.replace(
                    entry,
                    public=_join(host, public_port(base_port, role, place)),
                    peer=_join(host, peer) if peer else "",
                    observe=_join(host, observe_port(base_port, role, place)),
                )
            )
    return entries


def _make_keys(testnet: Testnet) -> dict[str, Key]:
    names = [entry.name for entry in testnet.processes]
    keys = {}
    for name in (*names, ORACLE_KEY, GUARDIAN_KEY, FAUCET_KEY, *testnet.traders):
        keys[name] = Key.generate()
        save_key(keys[name], testnet.key_path(name))
    return keys


def _genesis(options: TestnetOptions, testnet: Testnet, keys: dict[str, Key]) -> Genesis:
    def identities(role: Role, stake: int) -> list[Identity]:
        return [
            Identity(
                name=entry.name,
                public_key=keys[entry.name].public.hex(),
                stake=stake,
                certificate=make_certificate(keys[entry.name], entry.name).hex(),
            )
            for entry in testnet.of_role(role)
        ]

    accounts = [GenesisAccount(keys[FAUCET_KEY].address.hex(), FAUCET_BALANCE_UUSD, 0)]
    accounts += [
        GenesisAccount(
            keys[trader].address.hex(), options.trader_balance_uusd, options.trader_deposit_uusd
        )
        for trader in testnet.traders
    ]
    payers: tuple[tuple[Role, int], ...] = (
        ("prover", PROVER_BALANCE_UUSD),
        ("challenger", CHALLENGER_BALANCE_UUSD),
        ("node", VALIDATOR_BALANCE_UUSD),
    )
    accounts += [
        GenesisAccount(keys[entry.name].address.hex(), balance_uusd, 0)
        for role, balance_uusd in payers
        for entry in testnet.of_role(role)
    ]
    now_ms = time.time_ns() // 1_000_000
    return Genesis(
        name=options.name,
        time_ms=now_ms if options.time_ms is None else options.time_ms,
        shard=0,
        testnet=True,
        validators=identities("node", options.validator_stake_uusd),
        sequencers=identities("sequencer", SEQUENCER_STAKE),
        provers=[keys[entry.name].public.hex() for entry in testnet.of_role("prover")],
        oracles=[keys[ORACLE_KEY].public.hex()],
        markets=list(options.markets),
        accounts=accounts,
        ledger_pace=options.ledger_pace,
        sequencer_pace=options.sequencer_pace,
        limits=options.limits,
        capacity=options.capacity,
        staking=options.staking,
        fees=options.fees,
        guardians=[keys[GUARDIAN_KEY].public.hex()],
        insurance_uusd=options.insurance_uusd,
        backstop_uusd=options.backstop_uusd,
        reopening=options.reopening,
        settlement=options.settlement,
    )


def _config(options: TestnetOptions, testnet: Testnet, entry: ProcessEntry) -> str:
    """The TOML of a process."""

    def reach(other: ProcessEntry, address: str) -> str:
        hosts = {"compose": other.name, "kubernetes": pod_host(other)}
        return _join(hosts.get(options.place, options.listen_host), parse_address(address)[1])

    def listen(address: str) -> str:
        return _join(options.listen_host, parse_address(address)[1])

    root = options.data_root or f"../{DATA_FOLDER}"
    fields: list[tuple[str, str | int | bool | list[str]]] = [
        ("role", entry.role),
        ("name", entry.name),
        ("index", 0 if entry.role == "execution" else entry.index),
        ("genesis", f"../{GENESIS_FILE}"),
        ("key", f"../{KEY_FOLDER}/{entry.name}.key"),
        ("data", f"{root}/{entry.name}"),
        ("public", listen(entry.public)),
        ("observe", listen(entry.observe)),
        ("faults", options.faults),
    ]
    if entry.peer:
        fields.append(("peer_listen", listen(entry.peer)))
    if entry.role == "node" and options.retain_blocks:
        fields.append(("retain_blocks", options.retain_blocks))
    lists: tuple[tuple[str, Role], ...] = (
        ("validators", "node"),
        ("sequencers", "sequencer"),
        ("execution", "execution"),
        ("prover", "prover"),
    )
    for field, role in lists:
        fields.append((field, [reach(other, other.public) for other in testnet.of_role(role)]))
    fields += [("log_level", options.log_level), ("log_json", options.log_json)]
    # A JSON value of these kinds is a TOML value too.
    lines = [f"{field} = {json.dumps(value)}" for field, value in fields]
    if entry.peer:
        for member in testnet.of_role(entry.role):
            address = json.dumps(reach(member, member.peer))
            lines += ["", "[[peers]]", f"name = {json.dumps(member.name)}", f"address = {address}"]
    return "\n".join(lines) + "\n"


def scrape_targets(watched: dict[str, str]) -> str:
    """What Prometheus scrapes, addresses by process, in the JSON of its file discovery."""
    found = [{"targets": [at], "labels": {"process": name}} for name, at in watched.items()]
    return json.dumps(found, indent=2) + "\n"


def _write_last(path: Path, description: Description) -> None:
    raw = msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"
    partial = path.with_suffix(".partial")
    partial.write_bytes(raw)
    os.replace(partial, path)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
