"""A block as a sequence of steps: each is a function of the state before it and of the block.

Between two steps everything is in leaves, also what a block else carries in memory: `ProgressLeaf`
and what has been realised. So a step can be executed by itself, on the whole state or on a part of
it, and all steps together change the state as the block does. That is for disputes; an engine that
executes whole blocks never makes steps.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from execution import leaves as lv
from execution.admission import Opened, VerifySignature
from execution.phases import Phases, Work
from execution.state import State
from protocol.errors import SafetyViolation
from protocol.events import Result
from protocol.genesis import Genesis


class Stage(IntEnum):
    """The parts of a block, in their order."""

    INBOX = 0
    COMMITTEE = 1
    EXPIRIES = 2
    PRICES = 3
    MAKING = 4
    FUNDING = 5
    CLOSED = 6
    SWITCHES = 7
    SLICES = 8
    MARKS = 9
    TRIGGERS = 10
    LIQUIDATIONS = 11
    UNWINDING = 12
    TAKING = 13
    LEFT = 14
    UNBACKED = 15
    END = 16


class Step(NamedTuple):
    """A step: of which stage, and there which batch and which of its actions; in a stage of many
    steps without batches, `batch` is its number."""

    stage: Stage
    batch: int = 0
    action: int = 0


def plan(work: Work, genesis: Genesis) -> list[Step]:
    """The steps of a block: one for each stage, but for batches one for each action, and one for a
    committee's batch. What a block does for many accounts is split, so that no step is about more
    of them than an action may be: there is a step for each slice and trigger that the block might
    execute, one for each market in which the backstop unwinds, one for each account that something
    may leave, one for as many expiries as an action has fills, and for as many accounts without
    what their triggers reduce as it has refusals. Most of these find nothing due."""
    limits = genesis.limits
    found: list[Step] = []
    many = {
        Stage.EXPIRIES: -(-limits.expiries_per_block // limits.fills_per_action),
        Stage.CLOSED: -(-limits.expiries_per_block // limits.fills_per_action),
        Stage.SLICES: limits.triggers_per_block,
        Stage.TRIGGERS: limits.triggers_per_block,
        Stage.UNWINDING: len(genesis.markets),
        Stage.LEFT: len(work.left()),
        Stage.UNBACKED: -(-limits.triggers_per_block // limits.refusals_per_action),
    }
    for stage in Stage:
        if stage in many:
            found += [Step(stage, number) for number in range(many[stage])]
        elif stage == Stage.COMMITTEE:
            found += [Step(stage, number) for number in range(len(work.committee))]
        elif stage in (Stage.MAKING, Stage.TAKING):
            batches = work.making if stage == Stage.MAKING else work.taking
            for number, opened in enumerate(batches):
                actions = 1 if opened.batch is None else len(opened.batch.actions)
                found += [Step(stage, number, action) for action in range(actions)]
        else:
            found.append(Step(stage))
    return found


def batch_of(step: Step, work: Work) -> Opened | None:
    """The batch that a step is about, if it is about one."""
    if step.stage == Stage.COMMITTEE:
        return work.committee[step.batch]
    if step.stage == Stage.MAKING:
        return work.making[step.batch]
    return work.taking[step.batch] if step.stage == Stage.TAKING else None


class Steps:
    """Executes the steps of one block on the state of an engine.

    Made on a state between two blocks, or between two steps of this block; then it goes on there.
    Raises `SafetyViolation` where the state is elsewhere.
    """

    def __init__(
        self, state: State, phases: Phases, verify: VerifySignature, time_ms: int, work: Work
    ) -> None:
        self._state = state
        self._phases = phases
        self._verify = verify
        self._time_ms = time_ms
        self._work = work
        self.plan = plan(work, state.chain.genesis)
        self._left = work.left()
        self._results: list[Result] | None = None
        self.done = 0
        """How many steps are done; behind the last one 0 again."""
        self._previous_ms = state.time_ms
        row = state.progress.get(lv.PROGRESS_KEY)
        if row is not None:
            self._resume(row)

    def _resume(self, row: lv.ProgressLeaf) -> None:
        """Go on where the leaves stand."""
        state, phases = self._state, self._phases
        if not 0 < row.steps < len(self.plan) or state.time_ms != self._time_ms:
            raise SafetyViolation(f"the state is between the steps {row.steps} of another block")
        self.done, self._previous_ms, self._results = row.steps, row.previous_ms, row.results
        state.fills_left, state.looks_left = row.fills_left, row.looks_left
        state.realised_uusd = {
            lv.parse_position_key(key): one.uusd
            for key, one in sorted(state.realised_now.rows.items())
        }
        phases.schedules.left = row.expiries_left
        phases.triggers.left = dict.fromkeys(row.left)

    def run(self, height: int) -> dict[bytes, bytes | None]:
        """Execute the next step of the block of this height; the leaves that it changed."""
        state = self._state
        if not self.done:
            state.begin(height, self._time_ms)
        step = self.plan[self.done]
        self._execute(step)
        self._phases.fees.fold()
        state.volume_uusd = {}
        self.done += 1
        if step.stage == Stage.END:
            self._phases.realised.fold()
            self._forget()
        else:
            self._keep()
        return state.flush()

    def pass_idle(self, upto: int) -> dict[bytes, bytes | None]:
        """Pass by the next steps for which nothing is due, up to before step `upto`, all at once;
        the leaves that they change."""
        before = self.done
        while self.done < upto and self._is_idle(self.plan[self.done]):
            self.done += 1
        if self.done == before:
            return {}
        self._keep()
        return self._state.flush()

    def _is_idle(self, step: Step) -> bool:
        phases, stage = self._phases, step.stage
        if stage == Stage.EXPIRIES:
            return step.batch > 0 and not phases.schedules.expires()
        if stage == Stage.CLOSED:
            return not phases.schedules.closes()
        if stage == Stage.SLICES:
            return not phases.schedules.twaps.due()
        if stage == Stage.UNWINDING:
            return not phases.liquidations.backstop.unwinds()
        if stage == Stage.LEFT:
            return self._left[step.batch] not in phases.triggers.left
        if stage == Stage.UNBACKED:
            return not phases.triggers.idle()
        return stage == Stage.TRIGGERS and not phases.triggers.due()

    def _execute(self, step: Step) -> None:
        phases, work, stage = self._phases, self._work, step.stage
        most = self._state.limits.fills_per_action
        opened = batch_of(step, work)
        if stage == Stage.INBOX:
            phases.take_in(work)
        elif stage == Stage.COMMITTEE and opened is not None:
            phases.batches.run_committee(opened, self._verify)
        elif stage == Stage.EXPIRIES:
            if not step.batch:
                phases.schedules.begin()
            phases.schedules.expire(most)
        elif stage == Stage.PRICES:
            phases.pricing.resume(self._previous_ms)
            phases.pricing.begin_block()
        elif stage == Stage.FUNDING:
            phases.funding.run()
        elif stage == Stage.CLOSED:
            phases.schedules.close(most)
        elif stage == Stage.SWITCHES:
            phases.schedules.switches.run()
        elif stage == Stage.SLICES:
            if phases.schedules.twaps.due():
                phases.schedules.twaps.run_next()
        elif stage == Stage.MARKS:
            phases.triggers.book.follow_marks()
        elif stage == Stage.TRIGGERS:
            if phases.triggers.due():
                phases.triggers.run_next()
        elif stage == Stage.LIQUIDATIONS:
            phases.liquidations.run()
        elif opened is not None:
            before = self._results if step.action else None
            self._results = phases.batches.run_action(opened, self._verify, step.action, before)
        elif stage == Stage.UNWINDING:
            if phases.liquidations.backstop.unwinds():
                phases.liquidations.backstop.unwind_in(self._state.markets[step.batch])
        elif stage == Stage.LEFT:
            phases.triggers.drop_left(self._left[step.batch])
        elif stage == Stage.UNBACKED:
            limits = self._state.limits
            done = step.batch * limits.refusals_per_action
            left = limits.triggers_per_block - done
            phases.triggers.drop_first_idle(min(limits.refusals_per_action, left))

    def _keep(self) -> None:
        """Put down what the block carries."""
        state, phases = self._state, self._phases
        for (master, market), uusd in state.realised_uusd.items():
            state.realised_now.put(lv.realised_now_key(master, market), lv.RealisedNowLeaf(uusd))
        row = lv.ProgressLeaf(
            self.done, self._previous_ms, state.fills_left, state.looks_left,
            phases.schedules.left, self._results, sorted(phases.triggers.left),
        )  # fmt: skip
        state.progress.put(lv.PROGRESS_KEY, row)

    def _forget(self) -> None:
        state = self._state
        self.done, self._results = 0, None
        state.progress.drop(lv.PROGRESS_KEY)
        for key in list(state.realised_now.rows):
            state.realised_now.drop(key)
