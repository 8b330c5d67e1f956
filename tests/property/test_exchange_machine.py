"""A state machine over engine and naive exchange: a failure shrinks to the fewest actions."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from naive_chains import CHAINS
from naive_duel import Duel
from naive_moves import Moves

RUNS = int(os.environ.get("TRILEMMA_EXCHANGE_RUNS", "1"))

CHANCE = st.integers(0, 1 << 32).map(random.Random)
"""What a rule draws from: a failure shrinks by its steps, which is what one wants to read."""


class Exchange(RuleBasedStateMachine):
    """Each rule is a block; `Duel.block` compares everything after it."""

    @initialize(name=st.sampled_from(sorted(CHAINS)), rng=CHANCE, prelude=st.integers(0, 40))
    def start(self, name: str, rng: random.Random, prelude: int) -> None:
        make, dollars = CHAINS[name]
        self.duel = Duel(make(), dollars=dollars)
        moves = Moves(self.duel, rng)
        for _ in range(prelude):
            moves.block(1, 2)

    def block(self, rng: random.Random, *kinds: str) -> None:
        moves = Moves(self.duel, rng)
        self.duel.block([moves.batch(1, kinds) for _ in range(rng.randint(1, 2))])

    @rule(rng=CHANCE)
    def limit(self, rng: random.Random) -> None:
        self.block(rng, "limit")

    @rule(rng=CHANCE)
    def limits(self, rng: random.Random) -> None:
        self.block(rng, "limit", "limit", "quote")

    @rule(rng=CHANCE)
    def takers(self, rng: random.Random) -> None:
        self.block(rng, "market", "limit", "kill")

    @rule(rng=CHANCE)
    def changes(self, rng: random.Random) -> None:
        self.block(rng, "modify", "reduce", "quote", "protection", "leverage")

    @rule(rng=CHANCE)
    def cancels(self, rng: random.Random) -> None:
        self.block(rng, "cancel", "client", "all")

    @rule(rng=CHANCE)
    def transfers(self, rng: random.Random) -> None:
        self.block(rng, "transfer", "position", "withdraw")

    @rule(rng=CHANCE)
    def waiting(self, rng: random.Random) -> None:
        self.block(rng, "trigger", "oco", "bracket", "twap", "switch")

    @rule(rng=CHANCE)
    def marks(self, rng: random.Random) -> None:
        self.duel.block(Moves(self.duel, rng).marks())

    @rule(rng=CHANCE)
    def votes(self, rng: random.Random) -> None:
        self.duel.block(Moves(self.duel, rng).votes())

    @rule(wait_ms=st.sampled_from([0, 10, 5_000, 30_000]))
    def nothing(self, wait_ms: int) -> None:
        self.duel.block([], wait_ms=wait_ms)

    @rule()
    def restart(self) -> None:
        self.duel.restart()


Exchange.TestCase.settings = settings(
    max_examples=100 * RUNS,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestExchange = Exchange.TestCase
