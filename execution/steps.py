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


class Stage(IntEnum):
    """The parts of a block, in their order."""

    INBOX = 0
    COMMITTEE = 1
    EXPIRIES = 2
    PRICES = 3
    MAKING = 4
    FUNDING = 5
    SCHEDULES = 6
    TRIGGERS = 7
    LIQUIDATIONS = 8
    TAKING = 9
    END = 10


class Step(NamedTuple):
    """A step: of which stage, and there which batch and which of its actions."""

    stage: Stage
    batch: int = 0
    action: int = 0


def plan(work: Work) -> list[Step]:
    """The steps of a block: one for each stage, but for batches one for each action, and one for a
    committee's batch."""
    found: list[Step] = []
    for stage in Stage:
        if stage == Stage.COMMITTEE:
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
        self.plan = plan(work)
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
        for number in row.left:
            phases.triggers.note_left(state.accounts[number])

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

    def _execute(self, step: Step) -> None:
        phases, work, stage = self._phases, self._work, step.stage
        opened = batch_of(step, work)
        if stage == Stage.INBOX:
            phases.take_in(work)
        elif stage == Stage.COMMITTEE and opened is not None:
            phases.batches.run_committee(opened, self._verify)
        elif stage == Stage.EXPIRIES:
            phases.schedules.expire()
        elif stage == Stage.PRICES:
            phases.pricing.resume(self._previous_ms)
            phases.pricing.begin_block()
        elif stage == Stage.FUNDING:
            phases.funding.run()
        elif stage == Stage.SCHEDULES:
            phases.schedules.run()
        elif stage == Stage.TRIGGERS:
            phases.triggers.run()
        elif stage == Stage.LIQUIDATIONS:
            phases.liquidations.run()
        elif opened is not None:
            before = self._results if step.action else None
            self._results = phases.batches.run_action(opened, self._verify, step.action, before)
        else:
            phases.triggers.drop_unbacked(everywhere=True)

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
