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
from sim.pipeline_freeze import FREEZING, KINDS, finish_frozen
from sim.pipeline_lies import LIES
from sim.pipeline_venue import DOLLAR, STEP_MS, crashing
from sim.pipeline_venue import USUAL as USUAL_VENUE
from sim.pipeline_watch import SettlementWatch
from sim.random import SplitMix64, derive_seed
from sim.runner import Outcome, Scenario, guarded

Chosen = Callable[[SplitMix64, int], Options]
End = Callable[[Exchange], None]
FEES = Fees(base_uusd=2_000, per_kib_uusd=500)
BOUNDS_EVERY_US = 400 * US_PER_MS
LEAST_ACCEPTED = 10
SETTLING_MS = 20_000
"""Within which everything settles once nothing is disputed."""

BEHAVIOURS = (
    "equivocating_leader", "equivocating_voter", "withholding_leader", "vote_withholding",
    "selective_sending", "stale_certificates", "invalid_payloads", "forged_certificates",
    "replayer", "saboteur",
)  # fmt: skip


def settle(world: Exchange) -> None:
    """Everything heals, everything settles, and the books are checked."""
    world.heal()
    healed_us = world.kernel.now_us
    world.finish()
    world.history.highest("settled_within_ms", (world.kernel.now_us - healed_us) // US_PER_MS)
    check_end(world)


def play(
    name: str,
    chosen: Chosen,
    plan: Plan,
    seed: int,
    size: int,
    keep_trace: int,
    end: End = settle,
) -> Outcome:
    """One run: load under faults, then its end with the final checks."""
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
            watch_settlement(world)
            world.boot()
            world.kernel.after(BOUNDS_EVERY_US, watch)
            world.kernel.run(world.options.load_us)
            end(world)
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


def watch_settlement(world: Exchange) -> None:
    """Look at every ledger block, where batches can be disputed or are forgotten."""
    rules = world.options.settlement
    if not rules.window_ms and not rules.keep_batches:
        return
    honest = {one.key.address for one in world.challengers}
    watched = SettlementWatch(world.truth, world.history.count, honest)
    ledgers = {one.name: one for one in world.validators}
    world.history.looks = lambda name: watched.look(ledgers[name].ledger)


def scenario(
    name: str,
    title: str,
    bites: tuple[str, ...],
    chosen: Chosen,
    plan: Plan,
    end: End = settle,
    rare: tuple[str, ...] = (),
) -> Scenario:
    """A scenario of the whole exchange."""

    def run(seed: int, size: int, keep_trace: int) -> Outcome:
        return play(name, chosen, plan, seed, size, keep_trace, end)

    return Scenario(name, title, run, bites, rare)


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
        window_ms=4_000, clock_ms=10_000, sections=random.between(24, 64),
        prover_bond_uusd=random.between(1, 20) * DOLLAR + 1,
        challenger_bond_uusd=random.between(0, 20) * DOLLAR + 1,
    )  # fmt: skip
    provers, load_us = random.between(1, 3), 5 * US_PER_S
    steps = load_us // (STEP_MS * US_PER_MS)
    # Games that are open at the end of the load, and some time to post what they leave.
    bound_ms = rules.window_ms + 2 * rules.clock_ms + SETTLING_MS
    return Options(
        validators=size, traders=2 + random.below(2), fees=FEES, settlement=rules, provers=provers,
        lying_provers=random.between(1, provers), challengers=random.between(1, 2),
        liars=random.between(0, 2), wrong_ppm=600_000, load_us=load_us,
        patience_us=bound_ms * US_PER_MS, unhurried=4,
        venue=crashing(random, steps) if random.chance(400_000) else USUAL_VENUE,
    )  # fmt: skip


def _forgets(random: SplitMix64, size: int) -> Options:
    rules = SettlementRules(
        window_ms=random.pick((0, 3_000)), clock_ms=10_000, sections=64,
        prover_bond_uusd=5 * DOLLAR, challenger_bond_uusd=5 * DOLLAR,
        # More than settle while a prover is down: it finds remembered batches only.
        keep_batches=random.between(6, 8),
    )  # fmt: skip
    disputed = rules.window_ms > 0
    return Options(
        validators=size, traders=3, fees=FEES, settlement=rules, provers=random.between(1, 2),
        challengers=1 if disputed else 0, liars=random.below(2) if disputed else 0,
        wrong_ppm=150_000 if disputed else 0, load_us=9 * US_PER_S, patience_us=90 * US_PER_S,
        unhurried=4,
    )  # fmt: skip


def _freeze(random: SplitMix64, size: int) -> Options:
    window_ms = random.pick((0, 1_000, 2_000))
    disputed = window_ms > 0 and random.chance(400_000)
    # A side that plays may find its validator down again and again.
    clock_ms = 10_000 if disputed else 1_000
    due_ms = window_ms + 2 * clock_ms + random.between(1, 3_000)
    rules = SettlementRules(
        window_ms=window_ms, clock_ms=clock_ms, sections=64,
        prover_bond_uusd=random.between(1, 20) * DOLLAR,
        challenger_bond_uusd=random.between(0, 20) * DOLLAR,
        forced_ms=due_ms, outage_ms=random.pick((0, due_ms)), claim_ms=random.between(6_000, 9_000),
        exit_hour_ppm=random.pick((1_000_000, 200)), exit_day_ppm=1_000_000,
    )  # fmt: skip
    load_us = 5 * US_PER_S
    return Options(
        validators=size, traders=3, fees=FEES, settlement=rules, provers=random.between(1, 2),
        challengers=1 if disputed else 0, liars=random.below(2) if disputed else 0,
        wrong_ppm=400_000 if disputed else 0, claimants=random.between(1, 2), load_us=load_us,
        unhurried=3,
        patience_us=60 * US_PER_S,
        venue=crashing(random, load_us // (STEP_MS * US_PER_MS))
        if random.chance(300_000)
        else USUAL_VENUE,
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

LIED = (
    "told_any_root", "told_hides_an_account", "told_mints_in_a_step", "lies_plays",
    "lies_shaped", "lies_given_up", "witness_1_held", "descendants_removed",
    "lying_disputes", "protecting_disputes", "larger_witnesses_of_liars", "bonds_lost_by_liars",
    "games_over_with_their_batch", "several_games_on_a_batch", "several_wrong_at_once",
)  # fmt: skip
"""Of those who lie about batches."""

SELDOM_LIED = (
    "told_mints-cash", "told_drops-fill", "told_skips-price-time-priority", "told_ignores-inbox",
    "told_invents-withdrawal", "lies_on_lies", "lies_stubborn", "lies_elsewhere", "lies_late",
    "lies_garbage", "witness_2_held", "disputes_silent", "disputes_garbage", "disputes_plays",
    "disputes_elsewhere",
)  # fmt: skip
"""Kinds of lies by themselves."""

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
            "blocks_held_back", "diffs_held_back",
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
            *USUAL, "wrong_batches_posted", "wrong_batches_replaced", "disputes_wrong",
            "disputes_moved", "disputes_defended", "crashed_challenger", "crashed_prover",
            *LIED,
        ),
        _disputes,
        plans(faults.crashes(1_500, 3_000, ("challenger", "prover")), faults.forgetful),
        rare=SELDOM_LIED,
    ),
    scenario(
        "exchange-freeze", "the exchange is gone, and everybody is paid out of a frozen shard",
        (
            "accepted", "Fill", "audited_batches", "frozen_runs", "states_rebuilt",
            *(f"vanished_{kind}" for kind in KINDS), "claims_ok", "claims_already_claimed",
            "claims_no_claim", "forged_claims_bad_proof", "collects_ok", "collects_claims_open",
            "refunds_ok", "refunds_not_refundable", "frozen_payouts_ok",
            "second_collects_already_paid", "crashed_validator",
        ),
        _freeze, plans(*FREEZING, faults.crashes(1_500, 3_000, ("validator",))), finish_frozen,
    ),
    scenario(
        "exchange-forgets", "the ledger forgets old batches, their payouts and their inbox entries",
        (
            *USUAL, "batches_forgotten", "wrong_batches_posted", "wrong_batches_replaced",
            "lying_disputes", "crashed_prover", "crashed_sequencer", "crashed_execution",
            "inbox_begun_later_sequencer", "inbox_begun_later_execution",
        ),
        _forgets,
        plans(
            faults.crashes(1_500, 3_000, ("prover",)),
            faults.crashes(1_500, 3_000, ("sequencer", "execution")), faults.forgetful,
        ),
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
