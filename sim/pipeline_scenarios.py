"""Scenarios of the whole exchange."""

from __future__ import annotations

from collections.abc import Callable

from protocol.genesis import Fees, SettlementRules
from sim import pipeline_faults as faults
from sim.actors_keys import simulated_signatures
from sim.checkers import Violation
from sim.kernel import US_PER_MS, US_PER_S
from sim.network import LinkRule, Uniform
from sim.pipeline import Exchange, Options
from sim.pipeline_checks import check_bounds, check_end
from sim.pipeline_faults import Plan, plans
from sim.pipeline_lies import LIES
from sim.pipeline_venue import DOLLAR, STEP_MS, crashing
from sim.random import SplitMix64, derive_seed
from sim.runner import Outcome, Scenario, guarded

Chosen = Callable[[SplitMix64, int], Options]
FEES = Fees(base_uusd=2_000, per_kib_uusd=500)
BOUNDS_EVERY_US = 400 * US_PER_MS
LEAST_ACCEPTED = 10
BEHAVIOURS = (
    "equivocating_leader", "equivocating_voter", "withholding_leader", "vote_withholding",
    "selective_sending", "stale_certificates", "invalid_payloads", "forged_certificates",
    "replayer", "saboteur",
)  # fmt: skip


def play(name: str, chosen: Chosen, plan: Plan, seed: int, size: int, keep_trace: int) -> Outcome:
    """One run: load under faults, healing, settling, and the final checks."""
    derived = derive_seed(seed, name)
    outcome = Outcome(name, seed, size)
    with simulated_signatures():
        world = Exchange(derived, chosen(SplitMix64(derived), size), keep_trace)
        world.prover.lies = list(LIES)

        def watch() -> None:
            check_bounds(world)
            world.kernel.after(BOUNDS_EVERY_US, watch)

        def body() -> None:
            plan(world)
            world.boot()
            world.kernel.after(BOUNDS_EVERY_US, watch)
            world.kernel.run(world.options.load_us)
            world.heal()
            world.finish()
            check_end(world)
            if world.history.counters.get("accepted", 0) < LEAST_ACCEPTED:
                raise Violation("liveness", "hardly anything was accepted in the whole run")

        guarded(outcome, body)
        outcome.bit = world.totals()
        world.close()
    kernel = world.kernel
    outcome.virtual_us, outcome.events = kernel.now_us, kernel.events
    outcome.blocks = max(world.history.ledger, default=0) + world.history.executed_height
    kernel.trace("end", world.network.sent, world.network.delivered, outcome.violation)
    outcome.trace_hash, outcome.lines = kernel.trace_hash(), kernel.lines
    return outcome


def scenario(name: str, title: str, bites: tuple[str, ...], chosen: Chosen, plan: Plan) -> Scenario:
    """A scenario of the whole exchange."""

    def run(seed: int, size: int, keep_trace: int) -> Outcome:
        return play(name, chosen, plan, seed, size, keep_trace)

    return Scenario(name, title, run, bites)


def _windows(random: SplitMix64) -> SettlementRules:
    """No window at all, or one of some length with bonds."""
    return SettlementRules(
        window_ms=random.pick((0, 600, 1_500, 3_000)),
        prover_bond_uusd=random.between(0, 30) * DOLLAR,
    )


def _steady(random: SplitMix64, size: int) -> Options:
    link = LinkRule(delay=Uniform(1_000, 8_000), loss_ppm=5_000, duplicate_ppm=5_000)
    return Options(
        validators=size, link=link, settlement=_windows(random), provers=random.between(1, 2)
    )


def _plain(random: SplitMix64, size: int) -> Options:
    return Options(validators=size, settlement=_windows(random), provers=random.between(1, 3))


def _byzantine(random: SplitMix64, size: int) -> Options:
    return Options(
        validators=size, behaviour=random.pick(BEHAVIOURS), lies_to_clients=True, lie_ppm=600_000,
        epoch_ms=random.pick((0, 2_000)), fees=FEES, settlement=_windows(random),
    )  # fmt: skip


def _epochs(random: SplitMix64, size: int) -> Options:
    return Options(
        validators=size, spare=random.between(1, 2), epoch_ms=random.between(1_000, 2_500),
        fees=FEES, load_us=8 * US_PER_S, settlement=_windows(random),
    )  # fmt: skip


def _disputes(random: SplitMix64, size: int) -> Options:
    rules = SettlementRules(
        window_ms=6_000, clock_ms=12_000, sections=random.between(24, 64),
        prover_bond_uusd=random.between(1, 20) * DOLLAR + 1,
        challenger_bond_uusd=random.between(0, 20) * DOLLAR + 1,
    )  # fmt: skip
    return Options(
        validators=size, fees=FEES, settlement=rules, provers=random.between(1, 2),
        challengers=random.between(1, 2), liars=random.between(1, 2), wrong_ppm=500_000,
        load_us=8 * US_PER_S, patience_us=120 * US_PER_S,
    )  # fmt: skip


def _crash(random: SplitMix64, size: int) -> Options:
    load_us = 7 * US_PER_S
    venue = crashing(random, load_us // (STEP_MS * US_PER_MS))
    return Options(
        validators=size, traders=6, executions=3, load_us=load_us, pause_ms=70, venue=venue
    )


USUAL = (
    "accepted", "Fill", "payouts_made", "duplicates_answered", "audited_batches", "triggered",
    "forced_executed",
)  # fmt: skip

_ALL = [
    scenario(
        "exchange", "the whole exchange under load, with a little loss",
        (*USUAL, "lost", "repeated", "newcomers", "ledger_refused_already_paid"), _steady,
        plans(faults.slow_links, faults.forgetful),
    ),
    scenario(
        "exchange-crashes", "processes of every kind die and come back, disks lose their tails",
        (
            *USUAL, "crashed_validator", "crashed_sequencer", "crashed_execution",
            "crashed_prover", "crashed_in_sync", "unsynced_lost", "torn", "snapshots_restored",
            "blocks_executed_again", "batches_posted_again", "recovered_batches",
        ),
        _plain, plans(faults.crashes(), faults.blackout, faults.pauses, faults.forgetful),
    ),
    scenario(
        "exchange-partition", "processes and clients are cut off from each other and heal",
        (*USUAL, "partitioned", "reordered", "slow_links", "submissions_repeated"),
        _plain, plans(faults.partitions, faults.weather, faults.slow_links, faults.forgetful),
    ),
    scenario(
        "exchange-byzantine", "one validator lies to all, the prover posts wrong data",
        (*USUAL, "inbox_lies", "inbox_rejected", "lies_refused", "prover_lies", "proofs_rejected"),
        _byzantine, plans(faults.weather, faults.crashes(800, 2_500), faults.forgetful),
    ),
    scenario(
        "exchange-disputes", "provers settle lies, and right batches are disputed",
        (
            *USUAL, "wrong_batches_posted", "disputes_wrong", "disputes_moved", "disputes_defended",
            "lying_disputes", "lies_defended", "crashed_challenger", "crashed_prover",
        ),
        _disputes,
        plans(faults.crashes(1_500, 3_000, ("challenger", "prover")), faults.forgetful),
    ),
    scenario(
        "exchange-epochs", "validators join and leave while the exchange runs and processes die",
        (*USUAL, "epochs_entered", "bonded", "stake_added", "unbonded", "crashed_validator"),
        _epochs, plans(faults.weather, faults.crashes(500, 1_500), faults.forgetful),
    ),
    scenario(
        "exchange-crash", "prices crash while execution nodes die and come back",
        (
            *USUAL, "liquidated", "LiquidationEnded", "sold_in_book", "taken_by_backstop",
            "deleveraged", "funded", "TwapChanged", "Expired", "market_stale",
            "crashed_execution", "crashed_in_sync", "snapshots_restored", "blocks_executed_again",
        ),
        _crash,
        plans(
            faults.crashes(100, 600, ("execution",)), faults.crashes(1_000, 4_000),
            faults.forgetful,
        ),
    ),
]  # fmt: skip

PIPELINE_SCENARIOS: dict[str, Scenario] = {one.name: one for one in _ALL}
"""Scenarios of the whole exchange by name."""
