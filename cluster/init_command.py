"""``trilemma init``: create a testnet, for this host, for containers or for Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.console import Directory, Json, emit, note, testnet_directory

if TYPE_CHECKING:
    from cluster.testnet import TestnetOptions
    from store.testnet import Testnet

SHOWN_ACCOUNTS = 4
KEPT_BLOCKS = 512
"""Newest blocks that no validator deletes: it recovers from them."""

BATCHES_OF_A_DAY = 172_800
CHALLENGERS = 1
"""Challengers of a testnet where nobody says how many."""

Validators = Annotated[int, typer.Option(help="Base-layer validators.")]
Sequencers = Annotated[
    int | None,
    typer.Option(help="Processes that order; 1, or 4 in containers.", show_default=False),
]
Executions = Annotated[
    int | None, typer.Option(help="Execution nodes; 1, or 2 in containers.", show_default=False)
]
Provers = Annotated[int, typer.Option(help="Processes that take turns with batches.")]
Challengers = Annotated[
    int, typer.Option(min=0, help="Processes that check every batch and dispute wrong ones.")
]
Compose = Annotated[
    Path | None,
    typer.Option("--compose", help="For containers: write this compose file.", metavar="FILE"),
]
Kubernetes = Annotated[
    Path | None,
    typer.Option("--kubernetes", help="For pods: write manifests to this folder.", metavar="DIR"),
]
Image = Annotated[str, typer.Option(help="Image of the containers or pods.")]
FirstPort = Annotated[int, typer.Option(help="First of the ports; processes use up to 239 above.")]
FreePorts = Annotated[
    bool, typer.Option("--free-ports", help="Search free ports, instead of --base-port.")
]
EpochSeconds = Annotated[
    int, typer.Option(help="Seconds of an epoch of the validator set; 0: one for ever.")
]
UnbondingSeconds = Annotated[
    int, typer.Option(help="Seconds until unbonded stake is paid; light clients trust half.")
]
JailSeconds = Annotated[int, typer.Option(help="Seconds that a convicted validator sits.")]
WindowSeconds = Annotated[
    float, typer.Option(help="Seconds in which a settled batch can be disputed; 0: it is final.")
]
ProverBond = Annotated[
    int, typer.Option(help="Dollars that a prover locks with each batch until it is final.")
]
OracleAge = Annotated[
    int, typer.Option(help="Seconds after which prices are stale; 0: never. See trilemma oracle.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a testnet that is there, with all its data.")
]
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
NativeChecked = Annotated[
    bool,
    typer.Option(
        "--native-checks",
        help="Validators check signers, nonces, agents and prices of every batch.",
    ),
]


def init(
    context: typer.Context,
    directory: Directory = None,
    name: Annotated[str, typer.Option(help="The chain's name.")] = "testnet",
    validators: Validators = 4,
    sequencers: Sequencers = None,
    executions: Executions = None,
    provers: Provers = 1,
    challengers: Challengers = CHALLENGERS,
    traders: Annotated[int, typer.Option(help="Funded accounts.")] = 64,
    compose: Compose = None,
    kubernetes: Kubernetes = None,
    image: Image = "trilemma:latest",
    base_port: FirstPort = 26_600,
    free_ports: FreePorts = False,
    epoch_s: EpochSeconds = 3_600,
    unbonding_s: UnbondingSeconds = 14 * 86_400,
    jail_s: JailSeconds = 86_400,
    window_s: WindowSeconds = 3.0,
    prover_bond: ProverBond = 1_000,
    forced_s: ForcedSeconds = 0,
    claim_s: ClaimSeconds = 86_400,
    retain_blocks: RetainBlocks = 0,
    retain_batches: RetainBatches = 0,
    native_checks: NativeChecked = False,
    oracle_age_s: OracleAge = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Create a testnet: genesis, keys, configurations, funded accounts."""
    from msgspec import structs

    from cluster.defaults import markets_of, reopening_of, settlement_of, staking_of
    from cluster.testnet import TestnetOptions, create_testnet

    contained = compose is not None or kubernetes is not None
    options = TestnetOptions(
        name=name, validators=validators, traders=traders, challengers=challengers,
        provers=provers, base_port=base_port, free_ports=free_ports,
        sequencers=(4 if contained else 1) if sequencers is None else sequencers,
        executions=(2 if contained else 1) if executions is None else executions,
        settlement=structs.replace(
            settlement_of(window_s, prover_bond, forced_s, claim_s),
            keep_batches=retain_batches, native_checks=native_checks,
        ),
        staking=staking_of(epoch_s, unbonding_s, jail_s), retain_blocks=retain_blocks,
        overwrite=overwrite, markets=markets_of(oracle_age_s),
        reopening=reopening_of(oracle_age_s),
    )  # fmt: skip
    chosen = testnet_directory(context, directory)
    if contained:
        from cluster.deployment import create_deployment

        testnet, start = create_deployment(chosen, options, compose, kubernetes, image)
    else:
        testnet = create_testnet(chosen, options)
        start = testnet.start_command
    for text in _consequences(options):
        note(text)
    data = {
        "directory": str(testnet.directory),
        "processes": {entry.name: entry.public for entry in testnet.processes},
        "traders": testnet.traders,
        "markets": [market.symbol for market in testnet.chain().genesis.markets],
    }
    emit(data, _overview(testnet, start), as_json=as_json)


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
    for what, count in (("validators", options.validators), ("sequencers", options.sequencers)):
        if 1 < count < 4:
            lines.append(f"{count} {what} tolerate no failure, no more than 1 does; 4 tolerate one")
    if not options.traders:
        lines.append("no traders: nobody has an account to place orders with")
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


def _overview(testnet: Testnet, start: str) -> str:
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
    lines += ["", f"Start it with: {start}"]
    return "\n".join(lines)
