"""Commands about processes: init, up, down, status, demo, and one for each kind of process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.console import DEFAULT_TESTNET, Directory, Json, emit, note, run, testnet_directory

if TYPE_CHECKING:
    from cluster.testnet import TestnetOptions
    from store.testnet import Testnet

PROCESSES = {
    "node": "node.process",
    "sequencer": "sequencer.process",
    "execution": "execution.process",
    "prover": "prover.process",
    "challenger": "prover.process_challenger",
}
"""Kinds of processes, and their modules."""
SHOWN_ACCOUNTS = 4
KEPT_BLOCKS = 512
"""Newest blocks that no validator deletes: it recovers from them."""

BATCHES_OF_A_DAY = 172_800

ForcedSeconds = Annotated[
    float,
    typer.Option(
        help="Seconds that the inbox may wait before the exchange freezes; 0: an hour, or more."
    ),
]
ClaimSeconds = Annotated[
    float, typer.Option(help="Seconds in which claims on a frozen exchange register.")
]
RetainBlocks = Annotated[
    int,
    typer.Option(
        min=0, help=f"Ledger blocks that validators keep; 0: all. {KEPT_BLOCKS} stay at least."
    ),
]
RetainBatches = Annotated[
    int,
    typer.Option(min=0, help="Final batches that the ledger's state remembers; 0: all."),
]
ConfigFile = Annotated[Path, typer.Option("--config", help="The process's TOML file.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (init, up, down, status, demo):
        app.command()(command)
    for name in PROCESSES:
        app.command(name, help=f"Run one {name} process.")(_process_command(name))


def init(
    context: typer.Context,
    directory: Directory = None,
    validators: Annotated[int, typer.Option(help="Base-layer validators.")] = 4,
    traders: Annotated[int, typer.Option(help="Funded accounts.")] = 64,
    challengers: Annotated[
        int, typer.Option(min=0, help="Processes that check every batch and dispute wrong ones.")
    ] = 1,
    base_port: Annotated[int, typer.Option(help="First of the ports that are used.")] = 26_600,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Search free ports.")] = False,
    epoch_s: Annotated[
        int, typer.Option(help="Seconds of an epoch of the validator set; 0: one for ever.")
    ] = 3_600,
    unbonding_s: Annotated[
        int, typer.Option(help="Seconds until unbonded stake is paid; light clients trust half.")
    ] = 14 * 86_400,
    jail_s: Annotated[int, typer.Option(help="Seconds that a convicted validator sits.")] = 86_400,
    window_s: Annotated[
        float,
        typer.Option(help="Seconds in which a settled batch can be disputed; 0: it is final."),
    ] = 3.0,
    prover_bond: Annotated[
        int, typer.Option(help="Dollars that a prover locks with each batch until it is final.")
    ] = 1_000,
    provers: Annotated[int, typer.Option(help="Processes that take turns with batches.")] = 1,
    forced_s: ForcedSeconds = 0,
    claim_s: ClaimSeconds = 86_400,
    retain_blocks: RetainBlocks = 0,
    retain_batches: RetainBatches = 0,
    oracle_age_s: Annotated[
        int,
        typer.Option(help="Seconds after which prices are stale; 0: never. See trilemma oracle."),
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a testnet.")] = False,
    as_json: Json = False,
) -> None:
    """Create a testnet: genesis, keys, configurations, funded accounts."""
    from msgspec import structs

    from cluster.defaults import markets_of, reopening_of, settlement_of, staking_of
    from cluster.testnet import TestnetOptions, create_testnet

    options = TestnetOptions(
        validators=validators, traders=traders, challengers=challengers, base_port=base_port,
        free_ports=free_ports, provers=provers,
        settlement=structs.replace(
            settlement_of(window_s, prover_bond, forced_s, claim_s), keep_batches=retain_batches
        ),
        staking=staking_of(epoch_s, unbonding_s, jail_s), retain_blocks=retain_blocks,
        overwrite=overwrite, markets=markets_of(oracle_age_s),
        reopening=reopening_of(oracle_age_s),
    )  # fmt: skip
    chosen = testnet_directory(context, directory)
    testnet = create_testnet(chosen, options)
    for text in _consequences(options):
        note(text)
    data = {
        "directory": str(testnet.directory),
        "processes": {entry.name: entry.public for entry in testnet.processes},
        "traders": testnet.traders,
        "markets": [market.symbol for market in testnet.chain().genesis.markets],
    }
    emit(data, _overview(testnet, chosen), as_json=as_json)


def _consequences(options: TestnetOptions) -> list[str]:
    """What follows from the options and may surprise."""
    from cluster.defaults import PROVER_BALANCE_UUSD, STAKING

    staking, lines = options.staking, []
    rules = options.settlement
    affordable = PROVER_BALANCE_UUSD // max(1, rules.prover_bond_uusd)
    if rules.prover_bond_uusd and affordable < 2 + rules.window_ms * 2 // 1_000:
        lines.append(
            f"a prover's balance covers the bonds of {affordable} batches: in a window of "
            f"{rules.window_ms / 1_000:g} s settlement slows down, or pay in to its ledger address"
        )
    if not staking.epoch_ms:
        lines.append("one epoch for ever: nobody can bond or unbond")
    if staking.trusting_ms < STAKING.trusting_ms:
        lines.append(
            "what clients and processes know of the validators is trusted for "
            f"{staking.trusting_ms // 1000} s only, half of unbonding: start the testnet before "
            "that, and do not stop it for longer"
        )
    if options.retain_blocks:
        lines.append(
            "validators will delete old blocks; `trilemma audit` needs one that keeps all "
            "(retain_blocks = 0 in its configuration)"
        )
        if options.retain_blocks < KEPT_BLOCKS:
            lines.append(f"{KEPT_BLOCKS} blocks are kept at least, more than --retain-blocks")
    if 0 < rules.keep_batches < BATCHES_OF_A_DAY:
        lines.append(
            f"{rules.keep_batches} batches settle within a day: a validator that is down for "
            "longer than they last may have to take its state from another one"
        )
    return lines


def _overview(testnet: Testnet, chosen: Path) -> str:
    """Markets, accounts, ports, and how to start the testnet."""
    genesis = testnet.chain().genesis
    names = testnet.traders
    money = {account.address: account for account in genesis.accounts}
    lines = [f"testnet in {testnet.directory}", "", "Markets"]
    lines += [f"  {market.market}  {market.symbol}" for market in genesis.markets]
    lines += ["", "Funded accounts (ledger balance, deposit on its way; dollars)"]
    for name in names[:SHOWN_ACCOUNTS]:
        account = money[testnet.key(name).address.hex()]
        lines.append(
            f"  {name}  {account.address}  {account.balance_uusd // 10**6:,}"
            f"  {account.deposit_uusd // 10**6:,}"
        )
    if len(names) > SHOWN_ACCOUNTS:
        lines.append(f"  ... to {names[-1]}; keys in {testnet.key_path(names[0]).parent}")
    lines += ["", "Processes"]
    lines += [f"  {entry.name:<14}{entry.public}" for entry in testnet.processes]
    lines += [
        "",
        f"Start it with: trilemma up {'' if chosen == DEFAULT_TESTNET else chosen}".rstrip(),
    ]
    return "\n".join(lines)


def up(
    context: typer.Context,
    directory: Directory = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Return once all processes serve and accounts are funded."
        ),
    ] = False,
    wait_s: Annotated[
        float, typer.Option(min=1, help="How long processes may take to serve.")
    ] = 60.0,
) -> None:
    """Run the testnet's processes until Ctrl-C, creating the testnet if there is none."""
    from cluster.launch import launch_detached
    from cluster.lock import supervisor_pid
    from cluster.supervisor import Supervisor
    from cluster.testnet import ensure_testnet
    from protocol.errors import ConfigError

    testnet = ensure_testnet(testnet_directory(context, directory))
    if detach:
        running = supervisor_pid(testnet.directory)
        if running is not None:
            raise ConfigError(
                f"the testnet in {testnet.directory} is running already (pid {running}); "
                f"stop it with: trilemma down {testnet.directory}"
            )
        pid = launch_detached(testnet.directory, wait_s)
        note(f"the testnet runs (pid {pid}); stop it with: trilemma down {testnet.directory}")
        return
    run(Supervisor(testnet, report=note).run(wait_s))


def down(context: typer.Context, directory: Directory = None) -> None:
    """Stop the testnet's processes."""
    from cluster.lock import stop_supervisor
    from store.testnet import Testnet

    testnet = Testnet.load(testnet_directory(context, directory))
    if stop_supervisor(testnet.directory):
        note("the testnet is stopped")
    else:
        note("the testnet does not run")


def status(
    context: typer.Context,
    directory: Directory = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval_s: Annotated[
        float, typer.Option(min=0.1, help="Time over which rates are taken.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """One row per process: height, view, peers, actions per second, lag, bytes on disk."""
    from client.status import show_status
    from store.testnet import Testnet

    testnet = Testnet.load(testnet_directory(context, directory))
    answering = run(show_status(testnet, watch=watch, interval_s=interval_s, as_json=as_json))
    if not answering:
        note(f"no process answers; start the testnet with: trilemma up {testnet.directory}")
        raise typer.Exit(1)


def _process_command(name: str) -> Callable[[Path], None]:
    def process(config: ConfigFile) -> None:
        main = importlib.import_module(PROCESSES[name]).main
        raise typer.Exit(main(config))

    return process


def demo(
    seconds: Annotated[float, typer.Option(min=1.0, help="How long to send orders.")] = 20.0,
    rate: Annotated[int, typer.Option(min=1, help="Actions per second.")] = 4_000,
    seed: Annotated[int, typer.Option(help="Seed of the flow.")] = 1,
) -> None:
    """A whole exchange for half a minute: measured, settled and audited."""
    from cluster.demo import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(seconds=seconds, rate=rate, seed=seed)))
