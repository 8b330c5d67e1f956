"""The whole exchange in one Python process: validators, sequencer, execution, prover and clients.

Every process runs the machines of its package on a virtual disk, network and clock. A run is a
function of its seed: load with faults, then everything heals, then all that was accepted must
settle, and then the books are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from execution import Engine
from protocol.genesis import (
    Capacity,
    Chain,
    Fees,
    Genesis,
    GenesisAccount,
    Identity,
    Limits,
    Pace,
    SettlementRules,
    Staking,
    parse_genesis,
)
from prover.tree import StateTree
from sim.actors_byzantine import ByzantineValidator
from sim.actors_challenger import LyingChallenger, LyingProver, SimChallenger
from sim.actors_execution import SimExecution
from sim.actors_keys import SimKey
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
from sim.network import LinkRule, Network, Uniform
from sim.pipeline_history import History
from sim.pipeline_trading import is_calm
from sim.pipeline_venue import DOLLAR, GENESIS_MS, STEP_MS, USUAL, PricePath, Venue

AnyTrader = TypeVar("AnyTrader", bound=Trader)

STAKE_UUSD = 1_000 * DOLLAR
LEDGER_PACE = Pace(150, 40, 1_000, 500, 3_000, 1 << 20)
SEQUENCER_PACE = Pace(40, 10, 0, 500, 3_000, 1 << 20)
NO_FEES = Fees()
NO_WINDOW = SettlementRules()
CHECK_EVERY_US = 250 * US_PER_MS
STATE_ROOTS_MAX = 64
ORACLES = ["oracle", "oracle-1", "oracle-2"]
GUARDIANS = ["guardian", "guardian-1", "guardian-2"]


@dataclass(frozen=True)
class Options:
    """What a run is made of.

    `pause_ms`: mean time between two batches of one trader. `spare`: validators that are not in
    genesis and bond later, for which epochs must have an end (`epoch_ms`). `behaviour`: that of the
    last validator of genesis, none where it is empty. `lie_ppm`: share of the prover's batches
    before which it tries something else. `executions`: execution nodes. `provers`: how many take
    turns. `settlement`: windows and bonds. `challengers` check every batch, `liars` dispute right
    ones; `wrong_ppm`: share of the first prover's batches before which it settles a lie.
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
    venue: Venue = USUAL


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
        validators=[_identity(f"validator-{n}", STAKE_UUSD) for n in range(validators)],
        sequencers=[_identity("sequencer", 1)],
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


def disputer_names(options: Options) -> list[str]:
    """Names of the challengers, and of those who dispute what is right."""
    return [f"challenger-{n}" for n in range(options.challengers)] + [
        f"liar-{n}" for n in range(options.liars)
    ]


def _identity(name: str, stake: int) -> Identity:
    return Identity(name, SimKey(name).public.hex(), stake, "00")


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


class Exchange:
    """One run's world."""

    def __init__(self, seed: int, options: Options, keep_trace: int = 0) -> None:
        self.options = options
        self.chain = make_chain(
            options.validators, options.spare, options.traders, options.epoch_ms, options.fees,
            options.venue, options.provers, options.settlement, disputer_names(options),
        )  # fmt: skip
        self.kernel = kernel = Kernel(seed, keep_trace=keep_trace, max_events=3_000_000)
        self.network = Network(kernel, options.link)
        self.history = History(kernel)
        self.setting = Setting(kernel, self.network, self.chain, self.history, options.disk)
        self.random = kernel.stream("world")
        names = [f"validator-{n}" for n in range(options.validators + options.spare)]
        self.validators = [self._validator(number, names) for number in range(len(names))]
        skew = self._skew
        self.sequencer = SimSequencer(
            self.setting, "sequencer", 0, SimKey("sequencer"), names, skew()
        )
        nodes = ["execution", *(f"execution-{n}" for n in range(1, options.executions))]
        self.executions = [
            SimExecution(self.setting, node, names, ["sequencer"], skew()) for node in nodes
        ]
        self.provers = [
            (LyingProver if options.wrong_ppm and one == "prover" else SimProver)(
                self.setting, one, SimKey(one), names, ["sequencer"], nodes, skew()
            )
            for one in prover_names(options.provers)
        ]
        self.challengers = [
            SimChallenger(self.setting, one, SimKey(one), names, skew())
            for one in disputer_names(options)[: options.challengers]
        ]
        self.liars = [
            LyingChallenger(self.setting, one, SimKey(one), names, skew(), stop_us=options.load_us)
            for one in disputer_names(options)[options.challengers :]
        ]
        self.prover = self.provers[0]
        self.prover.lie_ppm = options.lie_ppm
        if isinstance(self.prover, LyingProver):
            self.prover.wrong_ppm, self.prover.stop_us = options.wrong_ppm, options.load_us
        steps = options.load_us // (STEP_MS * US_PER_MS)
        self.path = PricePath(kernel.stream("prices"), options.venue, steps)
        self.traders = [self._trader(f"trader-{n}", Trader) for n in range(options.traders)]
        self.servants = self._servants()
        self.stakers = [self._staker(number, names) for number in range(len(names))]
        if not options.epoch_ms:
            self.stakers = []
        self.reader = EventReader(self.setting, "reader", nodes)
        self.servers: list[Process] = [
            *self.validators, self.sequencer, *self.executions, *self.provers,
            *self.challengers,
        ]  # fmt: skip
        self.clients: list[Process] = [
            *self.traders, *self.servants, *self.stakers, *self.liars, self.reader,
        ]  # fmt: skip

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
        return servants

    def _skew(self) -> int:
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
        made = kind(self.setting, name, SimKey(name), keys, root, self._skew())
        if isinstance(made, ByzantineValidator):
            made.behaviour = options.behaviour
            made.honest = False
        return made

    def _staker(self, number: int, names: list[str]) -> Staker:
        return Staker(
            self.setting, f"staker-{number}", SimKey(names[number]), names,
            joins=number >= self.options.validators, stop_us=self.options.load_us,
            skew_us=self._skew(),
        )  # fmt: skip

    def _trader(self, name: str, kind: type[AnyTrader]) -> AnyTrader:
        return kind(
            self.setting,
            name,
            SimKey(name),
            [validator.name for validator in self.validators],
            "sequencer",
            [node.name for node in self.executions],
            "prover",
            venue=self.options.venue,
            path=self.path,
            pause_ms=self.options.pause_ms,
            stop_us=self.options.load_us,
            skew_us=self._skew(),
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
        pool, ordered = self.sequencer.machine.pool, self.sequencer.store.height
        if len(pool) or history.executed_height < ordered:
            return False
        if any(not node.alive or node.height < ordered for node in self.executions):
            return False
        if self.reader.next_seq != self.execution.next_seq:
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
            f"not settled within patience: clients {waiting}; ordered {self.sequencer.store.height}"
            f", pool {len(self.sequencer.machine.pool)}, executed {self.history.executed_height}, "
            f"active {self.history.active_height}, reader {self.reader.next_seq} of "
            f"{self.execution.next_seq}, calm {self.calm()}; {'; '.join(shards)}"
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
