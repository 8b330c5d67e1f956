"""The genesis of simulated exchanges."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from execution import Engine
from protocol.genesis import (
    Capacity,
    Chain,
    Fees,
    Genesis,
    GenesisAccount,
    Limits,
    Pace,
    SettlementRules,
    Staking,
    parse_genesis,
)
from prover.tree import StateTree
from sim import pipeline_sequencers as sequencing
from sim.actors_keys import SimKey
from sim.pipeline_venue import DOLLAR, GENESIS_MS, USUAL, Venue

STAKE_UUSD = 1_000 * DOLLAR
LEDGER_PACE = Pace(150, 40, 1_000, 500, 3_000, 1 << 20)
SEQUENCER_PACE = Pace(40, 10, 0, 500, 3_000, 1 << 20)
NO_WINDOW = SettlementRules()
STATE_ROOTS_MAX = 64
ORACLES = ["oracle", "oracle-1", "oracle-2"]
GUARDIANS = ["guardian", "guardian-1", "guardian-2"]


def make_chain(
    validators: int,
    spare: int,
    traders: int,
    epoch_ms: int,
    fees: Fees,
    venue: Venue = USUAL,
    provers: int = 1,
    settlement: SettlementRules = NO_WINDOW,
    disputers: Sequence[str] = (),
    sequencers: int = 1,
) -> Chain:
    """The genesis of a run; the last trader has money on the ledger only."""
    accounts = [
        GenesisAccount(
            SimKey(f"trader-{n}").address.hex(),
            5_000 * DOLLAR,
            venue.deposit_uusd if n < traders - 1 else 0,
        )
        for n in range(traders)
    ]
    accounts += [
        GenesisAccount(SimKey(name).address.hex(), 1_000 * DOLLAR, 0)
        for name in (
            *prover_names(provers), *(f"validator-{n}" for n in range(validators + spare)),
            *disputers,
        )
    ]  # fmt: skip
    accounts.append(GenesisAccount(SimKey("maker").address.hex(), 0, venue.maker_uusd))
    genesis = Genesis(
        name="simulated",
        time_ms=GENESIS_MS,
        shard=0,
        validators=[sequencing.identity(f"validator-{n}", STAKE_UUSD) for n in range(validators)],
        sequencers=[
            sequencing.identity(name, 1) for name in sequencing.sequencer_names(sequencers)
        ],
        provers=[SimKey(name).public.hex() for name in prover_names(provers)],
        oracles=[SimKey(name).public.hex() for name in ORACLES],
        guardians=[SimKey(name).public.hex() for name in GUARDIANS],
        markets=list(venue.markets),
        accounts=accounts,
        ledger_pace=LEDGER_PACE,
        sequencer_pace=SEQUENCER_PACE,
        limits=Limits(inbox_per_block=4),
        capacity=Capacity(busy_ppm=900_000),
        staking=Staking(epoch_ms=epoch_ms, jail_ms=1_500),
        fees=fees,
        insurance_uusd=venue.insurance_uusd,
        backstop_uusd=venue.backstop_uusd,
        liquidation=venue.liquidation,
        reopening=venue.reopening,
        cancels_first=venue.cancels_first,
        settlement=settlement,
    )
    return parse_genesis(msgspec.json.encode(genesis))


def prover_names(count: int) -> list[str]:
    """Names of the provers, in the order of their turns."""
    return ["prover", *(f"prover-{n}" for n in range(1, count))]


_STATE_ROOTS: dict[bytes, bytes] = {}


def genesis_state_root(chain: Chain) -> bytes:
    """Root of the shard's state before its first block."""
    root = _STATE_ROOTS.get(chain.chain_id)
    if root is None:
        root = StateTree(sorted(Engine(chain).leaves().items())).root
        if len(_STATE_ROOTS) >= STATE_ROOTS_MAX:
            _STATE_ROOTS.clear()
        _STATE_ROOTS[chain.chain_id] = root
    return root
