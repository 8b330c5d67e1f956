"""Lies about batches that are made to be defended: one step or one block of an execution is told
otherwise, everything before and after it is right, and what is shown of it is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from execution import leaves as lv
from execution.engine import Engine
from execution.steps import Stage
from protocol.codec import encode
from protocol.dispute import STEPS_PER_BLOCK
from protocol.errors import Rejected, TrilemmaError
from protocol.genesis import Chain
from protocol.merkle import list_root
from protocol.settlement import (
    FIRST_ACCOUNT,
    BatchHeader,
    OutboxEntry,
    decode_outbox_entry,
    master_of,
)
from prover.game import BatchSteps, Player, Trace
from prover.step_input import StepInput
from prover.steps import Walk
from prover.tree import StateTree
from prover.witness import (
    NOTHING,
    Witness,
    _counting,
    accounts_of,
    added,
    decode_witness,
    execute,
)
from prover.witness_maker import Gathered, root_after
from sim.lying_engines import LIES, Given, LyingExecution, Told
from sim.lying_engines import Lie as LieAbout
from sim.lying_players import LyingPlayer
from sim.lying_truth import Truth, after, given_of
from sim.random import PPM, SplitMix64

Changes = dict[bytes, bytes | None]

TRIES = 6
"""Blocks of a batch in which a lie about a step is looked for."""

BLOCKS_TRIED, KINDS_TRIED = 2, 5
"""From how many blocks on, and in how many ways, an engine lies before it gives up."""

LIAR = b"liar" * 5
"""Address of whoever lies for money."""

SHARES_PPM = (0, 300_000, PPM)
"""Of all accounts, that a liar shows while it looks for a witness on which its lie is true."""

BATCHED = (Stage.COMMITTEE, Stage.MAKING, Stage.TAKING)
HIDEABLE = (Stage.TRIGGERS, Stage.LIQUIDATIONS, Stage.TAKING)


class NoLie(Exception):
    """The batch gives no occasion for it."""


class GaveUp(Exception):
    """A liar has nothing more to show."""


@dataclass(frozen=True)
class Lie:
    """What is told of a batch, and who plays it. `index`, `number`: the block and step told
    otherwise; a lie about a whole block is told behind its last step."""

    name: str
    header: BatchHeader
    outbox: list[OutboxEntry]
    steps: BatchSteps
    player: Player


class StepWalk(Walk):
    """Steps of a block, of which one changes something else than it ought to."""

    def __init__(
        self, chain: Chain, tree: StateTree, block: StepInput, number: int, said: Changes
    ) -> None:
        super().__init__(chain, tree, block._replace(number=0), lambda *_: True)
        self._lie = number
        self._said = said

    def pass_idle(self, upto: int) -> None:
        """As it ought to be, but for the lie."""
        super().pass_idle(min(upto, self._lie) if self.number <= self._lie else upto)

    def step(self, height: int) -> Changes:
        """Execute the next step, or tell the lie."""
        if self.number != self._lie:
            return super().step(height)
        leaves = after(list(self._tree.iterate()), self._said)
        engine = Engine.restore(self._chain, leaves, lambda *_: True)
        self._steps = self._block.steps(engine)
        return self._said


class StepLiar(Player):
    """Plays as an honest one does from states of which one is a lie. For the step of the lie it
    shows `first` if there is such a witness, then whatever makes its lie true, if it finds that;
    a `stubborn` one shows something in any case. `elsewhere`: it shows true witnesses of another
    step."""

    def __init__(self, chain: Chain, trace: Trace, random: SplitMix64) -> None:
        super().__init__(chain, trace)
        self.random = random
        self.index, self.number = -1, 0
        self.said: Changes = {}
        self.first = b""
        self.stubborn = self.elsewhere = False

    @contextmanager
    def walk(self, steps: BatchSteps, index: int) -> Iterator[Walk]:
        """The states inside a block as they are told."""
        walked: Walk
        if index != self.index:
            with super().walk(steps, index) as walked:
                yield walked
            return
        with self.trace.at(steps.header.first_block - 1 + index) as tree:
            walked = StepWalk(self.chain, tree, steps.step(index), self.number, self.said)
            try:
                yield walked
            finally:
                tree.update(walked.undo)

    def witness(self, steps: BatchSteps, position: int, before: bytes) -> bytes:
        """Its own lie, or the best that it finds to add to the other side's witness."""
        if self.elsewhere:
            other = position - 1 if position % STEPS_PER_BLOCK else position + 1
            return super().witness(steps, other, b"")
        index, number = divmod(position, STEPS_PER_BLOCK)
        if (index, number) != (self.index, self.number):
            return super().witness(steps, position, before)
        if self.first and not before:
            return self.first
        with self.walk(steps, index) as walked:
            walked.to(number)
            return self._search(walked._tree, steps.step(index, number), before)

    def _search(self, tree: StateTree, step: StepInput, before: bytes) -> bytes:
        claimed = root_after(tree, self.said)
        found = b""
        for share_ppm in SHARES_PPM:
            found = self._some(tree, step, share_ppm, before)
            if before and added(found, before) == NOTHING:
                continue
            try:
                if execute(self.chain, tree.root, found, step) == claimed:
                    return found
            except Rejected:
                continue
        if self.stubborn:
            return found
        raise GaveUp

    def _some(self, tree: StateTree, step: StepInput, share_ppm: int, before: bytes) -> bytes:
        """A witness of what another one shows, and of a share of all accounts."""
        found = Gathered(tree, step.scope(self.chain))
        if before:
            found.add(decode_witness(before))
        for key, _ in tree.iterate(lv.ACCOUNT):
            if self.random.chance(share_ppm):
                found.note([lv.parse_account_key(key)])
        return encode(found.witness(self.random.pick((0, 1, 3))))


# --- lies about a whole block


def tell_block(truth: Truth, header: BatchHeader, random: SplitMix64) -> Lie:
    """A batch of which an engine that lies executed some blocks; raises `NoLie`."""
    steps = truth.steps(header)
    for place in _places(steps, random)[:BLOCKS_TRIED]:
        for name in random.shuffled(list(LIES))[:KINDS_TRIED]:
            kind = LIES[name](LIAR)
            # Who breaks a rule all along has more occasions from the first block on.
            index = place if kind.once else 0
            leaves = truth.leaves(header.first_block + index - 1)
            engine = LyingExecution(kind, truth.chain, leaves)
            trace = _trace(truth, header)
            try:
                outbox = _go_on(truth, steps, trace, index, engine.apply)
                return _lie(name, steps, LyingPlayer(truth.chain, trace, kind), outbox)
            except (NoLie, TrilemmaError, LookupError, ArithmeticError, ValueError):
                continue
    raise NoLie


def _places(steps: BatchSteps, random: SplitMix64) -> list[int]:
    """Some of the batch's blocks, those in which much happens first."""
    sizes = [(-len(block.payload), random.next(), at) for at, block in enumerate(steps.blocks)]
    best = [at for _, _, at in sorted(sizes)[:TRIES]]
    return random.shuffled(best)


def _trace(truth: Truth, header: BatchHeader) -> Trace:
    """The liar's own, at the state before the batch."""
    return Trace(StateTree(truth.leaves(header.first_block - 1)), header.first_block - 1)


def _go_on(
    truth: Truth,
    steps: BatchSteps,
    trace: Trace,
    index: int,
    apply: Callable[[Given], Told],
) -> list[OutboxEntry]:
    """Lead the liar's trace over the batch, right up to block `index`, and from there on as it
    executes; all outbox entries."""
    first = steps.header.first_block
    outbox: list[OutboxEntry] = []
    for at in range(len(steps.blocks)):
        if at < index:
            trace.extend([truth.changes(first + at)])
            outbox += truth.outbox(first + at)
        else:
            told = apply(given_of(steps, at))
            trace.extend([told.changes])
            outbox += map(decode_outbox_entry, told.outbox)
    return outbox


def _lie(name: str, steps: BatchSteps, player: Player, outbox: list[OutboxEntry]) -> Lie:
    header = msgspec.structs.replace(
        steps.header,
        post_state_root=player.trace.roots([steps.header.last_block])[0],
        outbox_root=list_root([encode(entry) for entry in outbox]),
        outbox_count=len(outbox),
    )
    if header == steps.header:
        raise NoLie
    return Lie(name, header, outbox, steps._replace(header=header), player)


# --- lies about one step


def tell_step(truth: Truth, header: BatchHeader, hides: bool, random: SplitMix64) -> Lie:
    """A batch of which one step was executed on a part of the state (`hides`), or money appeared in
    it; raises `NoLie`."""
    steps = truth.steps(header)
    for index in _places(steps, random):
        player = StepLiar(truth.chain, _trace(truth, header), random)
        try:
            if not _find_step(truth, steps, index, player, hides):
                continue
            player.index = index
            entries = _told_step(truth, steps, player)
        except (TrilemmaError, LookupError, ArithmeticError, ValueError):
            continue
        return _lie("hides_an_account" if hides else "mints_in_a_step", steps, player, entries)
    raise NoLie


def _find_step(truth: Truth, steps: BatchSteps, index: int, player: StepLiar, hides: bool) -> bool:
    """Choose the step and what is said of it, in the player."""
    with truth.trace.at(steps.header.first_block - 1 + index) as tree:
        walked = Walk(truth.chain, tree, steps.step(index, 0), lambda *_: True)
        try:
            plan = walked._steps.plan
            # Of stages in many steps without batches the first one finds something due, if any.
            chosen = [n for n, one in enumerate(plan) if one.stage in BATCHED or not one.batch]
            for number in chosen if hides else [player.random.pick(chosen)]:
                walked.to(number)
                if not hides:
                    return _mint(tree, steps.step(index, number), number, player)
                if plan[number].stage in HIDEABLE and _hide(
                    tree, steps.step(index, number), number, player
                ):
                    return True
        finally:
            tree.update(walked.undo)
    return False


def _mint(tree: StateTree, step: StepInput, number: int, player: StepLiar) -> bool:
    changes = step.run(Engine.restore(player.chain, tree.iterate()))
    key = lv.account_key(FIRST_ACCOUNT)
    raw = changes.get(key) or tree.get(key)
    if raw is None:
        return False
    leaf = lv.decode_account(raw)
    more = encode(msgspec.structs.replace(leaf, cash_uusd=leaf.cash_uusd + 1))
    player.number, player.said = number, {**changes, key: more}
    return True


def _hide(tree: StateTree, step: StepInput, number: int, player: StepLiar) -> bool:
    engine = Engine.restore(player.chain, tree.iterate())
    changes = step.run(engine)
    for account in sorted({one for event in engine.state.events for one in _named(event)}):
        alike = {one for one in engine.state.accounts if master_of(one) == master_of(account)}
        try:
            witness = hiding(player.chain, tree, step, alike, changes)
            said = _changes_on(player.chain, witness, step)
        except (TrilemmaError, LookupError):  # it cannot even be told
            continue
        if said != changes:
            player.number, player.said, player.first = number, said, witness
            return True
    return False


def _named(event: Any) -> list[int]:
    names = [name for name in event.__struct_fields__ if name.endswith("account")]
    return [one for name in names if (one := getattr(event, name)) >= FIRST_ACCOUNT]


def hiding(
    chain: Chain, tree: StateTree, step: StepInput, hidden: set[int], changed: Changes
) -> bytes:
    """A witness of all accounts but some."""
    found = Gathered(tree, step.scope(chain))
    found._accounts -= hidden
    found.keys.update(changed)
    for key, value in tree.iterate():
        if hidden.isdisjoint(accounts_of(key, value)):
            found.keys.add(key)
            if key[:1] == lv.ACCOUNT:
                found._accounts.add(lv.parse_account_key(key))
    whole = found.witness(0)
    return encode(Witness([one for one in whole.accounts if one not in hidden], whole.proof))


def _changes_on(chain: Chain, witness: bytes, step: StepInput) -> Changes:
    """What a step changes where only a witness is there."""
    leaves = _counting(decode_witness(witness), step.scope(chain).signers)
    return step.run(Engine.restore(chain, leaves))


def _told_step(truth: Truth, steps: BatchSteps, player: StepLiar) -> list[OutboxEntry]:
    """Lead the player's trace over the batch; all outbox entries."""
    block = steps.header.first_block + player.index
    net = _whole_block(truth, steps, player)
    leaves = after(truth.leaves(block - 1), net)
    honest = LyingExecution(LieAbout(), truth.chain, leaves)

    def apply(given: Given) -> Told:
        if given.height == block:
            return Told(net, [encode(entry) for entry in truth.outbox(block)], 0)
        return honest.apply(given)

    return _go_on(truth, steps, player.trace, player.index, apply)


def _whole_block(truth: Truth, steps: BatchSteps, player: StepLiar) -> Changes:
    """What the block with the lie changes."""
    index = player.index
    with truth.trace.at(steps.header.first_block - 1 + index) as tree:
        walked = StepWalk(player.chain, tree, steps.step(index, 0), player.number, player.said)
        try:
            walked.to(STEPS_PER_BLOCK)
            return {key: tree.get(key) for key in walked.undo}
        finally:
            tree.update(walked.undo)
