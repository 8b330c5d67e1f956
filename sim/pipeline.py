"""The whole exchange in one Python process: validators, sequencer, execution, prover and clients.

Every process runs the machines of its package on a virtual disk, network and clock. A run is a
function of its seed: load with faults, then everything heals, then all that was accepted must
settle, and then the books are checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from node.ledger import Ledger
from protocol.genesis import (
    Fees,
    SettlementRules,
)
from sim import pipeline_sequencers as sequencing
from sim.actors_byzantine import ByzantineValidator
from sim.actors_challenger import SimChallenger
from sim.actors_claimant import Claimant
from sim.actors_execution import SimExecution
from sim.actors_keys import SimKey
from sim.actors_liars import LyingChallenger, LyingProver
from sim.actors_oracle import Guardian, Maker, Oracle, Servant, planned_votes
from sim.actors_process import Process, Setting
from sim.actors_prover import SimProver
from sim.actors_results import EventReader
from sim.actors_sequencer import SimSequencer
from sim.actors_staker import Staker
from sim.actors_trader import Trader
from sim.actors_validator import SimValidator
from sim.checkers import Stalled
from sim.disk import DiskRule
from sim.kernel import US_PER_MS, US_PER_S, Kernel
from sim.lying_truth import Truth
from sim.network import LinkRule, Network, Uniform
from sim.pipeline_genesis import (
    GUARDIANS,
    NO_WINDOW,
    ORACLES,
    genesis_state_root,
    make_chain,
    prover_names,
)
from sim.pipeline_history import History
from sim.pipeline_trading import is_calm
from sim.pipeline_venue import STEP_MS, USUAL, PricePath, Venue

AnyTrader = TypeVar("AnyTrader", bound=Trader)

NO_FEES = Fees()
CHECK_EVERY_US = 250 * US_PER_MS


@dataclass(frozen=True)
class Options:
    """What a run is made of.

    `pause_ms`: mean time between two batches of one trader. `spare`: validators that are not in
    genesis and bond later, for which epochs must have an end (`epoch_ms`). `behaviour`: that of the
    last validator of genesis, none where it is empty. `lie_ppm`: share of the prover's batches
    before which it tries something else. `executions`: execution nodes. `provers`: how many take
    turns. `settlement`: windows and bonds. `challengers` check every batch, `liars` dispute right
    ones; `wrong_ppm`: share of the batches of the first `lying_provers` before which they settle a
    lie. `claimants` get all money out of a frozen shard.
    `unhurried`: how many times rarer oracles, guardians and the maker act than they use to.
    `sequencer_behaviour`: that of the last of the `sequencers`, none where it is empty.
    """

    validators: int = 4
    traders: int = 4
    load_us: int = 6 * US_PER_S
    patience_us: int = 60 * US_PER_S
    pause_ms: int = 120
    link: LinkRule = field(default_factory=lambda: LinkRule(delay=Uniform(1_000, 8_000)))
    disk: DiskRule = field(
        default_factory=lambda: DiskRule(sync_us=1_500, sync_jitter_us=2_500, tear_ppm=300_000)
    )
    skew_us: int = 100 * US_PER_MS
    behaviour: str = ""
    lies_to_clients: bool = False
    lie_ppm: int = 0
    spare: int = 0
    epoch_ms: int = 0
    fees: Fees = NO_FEES
    executions: int = 1
    provers: int = 1
    settlement: SettlementRules = NO_WINDOW
    challengers: int = 0
    liars: int = 0
    wrong_ppm: int = 0
    lying_provers: int = 1
    sequencers: int = 1
    sequencer_behaviour: str = ""
    claimants: int = 0
    unhurried: int = 1
    venue: Venue = USUAL


def disputer_names(options: Options) -> list[str]:
    """Names of the challengers, and of those who dispute what is right."""
    return [f"challenger-{n}" for n in range(options.challengers)] + [
        f"liar-{n}" for n in range(options.liars)
    ]


def claimant_names(options: Options) -> list[str]:
    """Names of those who claim for everybody."""
    return [f"claimant-{n}" for n in range(options.claimants)]


class Exchange:
    """One run's world."""

    def __init__(self, seed: int, options: Options, keep_trace: int = 0) -> None:
        self.options = options
        self.chain = make_chain(
            options.validators, options.spare, options.traders, options.epoch_ms, options.fees,
            options.venue, options.provers, options.settlement,
            [*disputer_names(options), *claimant_names(options)],
            options.sequencers,
        )  # fmt: skip
        self.kernel = kernel = Kernel(seed, keep_trace=keep_trace, max_events=3_000_000)
        self.network = Network(kernel, options.link)
        self.history = History(kernel)
        self.setting = Setting(kernel, self.network, self.chain, self.history, options.disk)
        self.random = kernel.stream("world")
        names = [f"validator-{n}" for n in range(options.validators + options.spare)]
        self.validators = [self._validator(number, names) for number in range(len(names))]
        skew = self.skew
        self.sequencers = sequencing.make_sequencers(self, names)
        logs = [one.name for one in self.sequencers]
        nodes = ["execution", *(f"execution-{n}" for n in range(1, options.executions))]
        self.executions = [SimExecution(self.setting, node, names, logs, skew()) for node in nodes]
        self.provers = [
            (LyingProver if options.wrong_ppm and place < options.lying_provers else SimProver)(
                self.setting, one, SimKey(one), names, logs, nodes, skew()
            )
            for place, one in enumerate(prover_names(options.provers))
        ]
        self.challengers = [
            SimChallenger(self.setting, one, SimKey(one), names, skew())
            for one in disputer_names(options)[: options.challengers]
        ]
        self.liars = [
            LyingChallenger(self.setting, one, SimKey(one), names, skew(), stop_us=options.load_us)
            for one in disputer_names(options)[options.challengers :]
        ]
        self.claimants = [
            Claimant(self.setting, one, SimKey(one), names, skew())
            for one in claimant_names(options)
        ]
        self.prover = self.provers[0]
        self.prover.lie_ppm = options.lie_ppm
        self.truth = Truth(self.chain, self.history, self.furthest_ledger)
        for prover in self.provers:
            if isinstance(prover, LyingProver):
                prover.wrong_ppm, prover.stop_us = options.wrong_ppm, options.load_us
                prover.truth = self.truth
        for liar in self.liars:
            liar.truth = self.truth
        steps = options.load_us // (STEP_MS * US_PER_MS)
        self.path = PricePath(kernel.stream("prices"), options.venue, steps)
        self.traders = [self._trader(f"trader-{n}", Trader) for n in range(options.traders)]
        self.servants = self._servants()
        self.stakers = [self._staker(number, names) for number in range(len(names))]
        if not options.epoch_ms:
            self.stakers = []
        self.reader = EventReader(self.setting, "reader", nodes)
        self.servers: list[Process] = [
            *self.validators, *self.sequencers, *self.executions, *self.provers,
            *self.challengers,
        ]  # fmt: skip
        self.clients: list[Process] = [
            *self.traders, *self.servants, *self.stakers, *self.liars, *self.claimants,
            self.reader,
        ]  # fmt: skip

    def furthest_ledger(self) -> Ledger:
        """That of the honest validator that is furthest."""
        booted = [one for one in self.honest() if one.boots]
        return max((one.ledger for one in booted), key=lambda ledger: ledger.height)

    @property
    def sequencer(self) -> SimSequencer:
        """The sequencer that is furthest."""
        return sequencing.furthest(self.sequencers)

    @property
    def execution(self) -> SimExecution:
        """The execution node that is furthest."""
        return max(self.executions, key=lambda node: node.height if node.alive else -1)

    def _servants(self) -> list[Servant]:
        """Oracles, guardians and the market maker."""
        venue = self.options.venue
        until_ms = self.options.load_us // US_PER_MS
        planned = planned_votes(self.kernel.stream("votes"), len(venue.markets), until_ms)
        servants: list[Servant] = [self._trader(name, Oracle) for name in ORACLES]
        for name in GUARDIANS:
            guardian = self._trader(name, Guardian)
            guardian.votes = planned
            servants.append(guardian)
        servants.append(self._trader("maker", Maker))
        for servant in servants:
            servant.calm = self.calm
            servant.pace_ms *= self.options.unhurried
        return servants

    def skew(self) -> int:
        """How far the clock of another process is off, in microseconds."""
        most_us = self.options.skew_us
        return self.random.between(-most_us, most_us)

    def _validator(self, number: int, names: list[str]) -> SimValidator:
        options = self.options
        keys = {SimKey(name).public: name for name in names}
        root = genesis_state_root(self.chain)
        last = number == options.validators - 1
        liar = last and (options.behaviour or options.lies_to_clients)
        kind = ByzantineValidator if liar else SimValidator
        name = names[number]
        made = kind(self.setting, name, SimKey(name), keys, root, self.skew())
        if isinstance(made, ByzantineValidator):
            made.behaviour = options.behaviour
            made.honest = False
        return made

    def _staker(self, number: int, names: list[str]) -> Staker:
        return Staker(
            self.setting, f"staker-{number}", SimKey(names[number]), names,
            joins=number >= self.options.validators, stop_us=self.options.load_us,
            skew_us=self.skew(),
        )  # fmt: skip

    def _trader(self, name: str, kind: type[AnyTrader]) -> AnyTrader:
        return kind(
            self.setting,
            name,
            SimKey(name),
            [validator.name for validator in self.validators],
            [one.name for one in self.sequencers],
            [node.name for node in self.executions],
            "prover",
            venue=self.options.venue,
            path=self.path,
            pause_ms=self.options.pause_ms,
            stop_us=self.options.load_us,
            skew_us=self.skew(),
        )

    # --- the run

    def boot(self) -> None:
        """Start every process."""
        for process in (*self.servers, *self.clients):
            process.boot()

    def heal(self) -> None:
        """End every fault; whoever is down comes back."""
        self.network.heal()
        self.network.clear_links()
        self.network.set_default(self.options.link)
        for server in self.servers:
            server.doomed = False
            if not server.alive:
                server.boot()
            elif server.paused:
                server.resume()
        self.kernel.trace("healed")

    def finish(self) -> None:
        """Go on until everything is settled; raises `Stalled` where that does not come."""
        until_us = self.kernel.now_us + self.options.patience_us
        while not self.settled():
            if self.kernel.now_us >= until_us:
                raise Stalled(self.lag())
            self.kernel.run(self.kernel.now_us + CHECK_EVERY_US)

    def honest(self) -> list[SimValidator]:
        """Validators that are held to everything."""
        return [validator for validator in self.validators if validator.honest]

    def calm(self) -> bool:
        """Whether nobody waits to be sold, and all markets are open."""
        node = self.execution
        return node.alive and node.height > 0 and is_calm(node.engine)

    def settled(self) -> bool:
        """Whether everything that anybody waits for has been executed and settled everywhere."""
        history = self.history
        if any(client.busy for client in (*self.traders, *self.servants, *self.stakers)):
            return False
        if not self.calm():
            return False
        ordered = self.sequencer.store.height
        if not sequencing.all_ordered(self.sequencers) or history.executed_height < ordered:
            return False
        if any(not node.alive or node.height < ordered for node in self.executions):
            return False
        if self.reader.next_seq != self.execution.next_seq:
            return False
        entries = max(one.ledger.inbox().count for one in self.honest())
        if min(self._followed().values()) < entries:
            return False
        answered = max((one.height for one in history.ledger_answers.values()), default=0)
        for validator in self.honest():
            ledger = validator.ledger
            if not validator.alive or validator.store.height < answered:
                return False
            shard = ledger.shard_leaf()
            # What still waits in a pool may be what other validators refuse: clients know best.
            if shard.last_block < history.active_height:
                return False
            if shard.inbox_cursor < ledger.inbox().count:
                return False
            if ledger.final().batch < shard.batch:
                return False
        return all(one.store.posting is None for one in self.provers)

    def _followed(self) -> dict[str, int]:
        """Inbox entries that each process knows that takes them in."""
        followed = {one.name: one.inbox.count for one in self.sequencers}
        return followed | {one.name: one.inbox.count for one in self.executions}

    def lag(self) -> str:
        """Who waits for what."""
        waiting = [
            f"{trader.name} ({trader.open_submissions}, {trader.open_transactions}, "
            f"{trader.open_withdrawals})"
            for trader in (*self.traders, *self.servants)
            if trader.busy
        ]
        shards = [
            f"{v.name} {'up' if v.alive else 'down'} at {v.ledger.height}, batch "
            f"{v.ledger.shard_leaf().batch} (final {v.ledger.final().batch}) to block "
            f"{v.ledger.shard_leaf().last_block}, {len(v.app.mempool)} waiting"
            for v in self.honest()
        ]
        return (
            f"not settled within patience: clients {waiting}; ordered: "
            f"{sequencing.lag_of(self.sequencers)}; executed {self.history.executed_height}, "
            f"active {self.history.active_height}, reader {self.reader.next_seq} of "
            f"{self.execution.next_seq}, calm {self.calm()}; inbox {self._followed()}; "
            f"{'; '.join(shards)}"
        )

    def close(self) -> None:
        """The run is over: no coroutine goes on."""
        for process in (*self.servers, *self.clients):
            process.tasks.drop()

    def totals(self) -> dict[str, int]:
        """Everything that was counted."""
        result = dict(self.history.counters)
        parts: list[Any] = [self.network.bit]
        parts += [disk.bit for server in self.servers for disk in server.disks.values()]
        for part in parts:
            for kind, count in part.items():
                result[kind] = result.get(kind, 0) + count
        for validator in self.honest():
            machine = getattr(validator, "machine", None)
            if machine is None:
                continue
            both = (("replica_", machine.replica.counters), ("", machine.counters))
            for prefix, counters in both:
                for kind, count in counters.items():
                    result[prefix + kind] = result.get(prefix + kind, 0) + count
        return dict(sorted(result.items()))
