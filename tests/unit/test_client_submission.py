"""Submissions pass their states in order, and results are matched once."""

from __future__ import annotations

import pytest

from client.submission import ActionRejected, Submission, results_of
from client.tracker import ResultTracker
from protocol.errors import Code, RemoteFault
from protocol.events import BatchExecuted, BlockEvents, Result

SIGNER = bytes(32)


def submission(nonce_ms: int = 1) -> Submission:
    made = Submission(b"raw", SIGNER, nonce_ms, 16, 2)
    made.submitted_ns = 1
    return made


def executed(*nonces: int, height: int = 5, duplicate: bool = False) -> BlockEvents:
    events = [BatchExecuted(16, SIGNER, nonce, 0, [Result(0)], duplicate) for nonce in nonces]
    return BlockEvents(height, 0, 1, 1 + len(events), [], list(events))


async def test_a_later_state_implies_the_earlier_ones_and_wakes_their_waiters() -> None:
    one = submission()
    seen: list[str] = []
    one.on_reach = lambda _, state: seen.append(state)
    one.reach("accepted", 5)
    one.reach("executed", 9)
    assert seen == ["accepted", "ordered", "executed"]
    assert (one.accepted_ns, one.ordered_ns, one.executed_ns, one.settled_ns) == (5, 9, 9, 0)
    await one.wait("ordered", timeout_ms=1)
    one.reach("ordered", 20)
    assert one.ordered_ns == 9


async def test_a_refused_batch_raises_for_everybody_who_waits() -> None:
    one = submission()
    one.fail(RemoteFault(Code.NONCE_EXPIRED, "too old"))
    with pytest.raises(RemoteFault, match="nonce_expired"):
        await one.wait("executed", timeout_ms=1)


async def test_a_state_not_reached_in_time_says_what_was_reached() -> None:
    one = submission()
    one.reach("accepted", 5)
    with pytest.raises(TimeoutError, match="it is accepted"):
        await one.wait("settled", timeout_ms=1)


def test_results_are_matched_by_signer_and_nonce() -> None:
    tracker = ResultTracker()
    first, second = submission(1), submission(2)
    tracker.expect(first)
    tracker.expect(second)
    tracker.take(executed(2))
    assert second.executed_ns and second.height == 5 and not first.executed_ns
    assert tracker.pending() == [first]


def test_a_second_execution_is_counted_but_a_duplicate_answer_is_not() -> None:
    tracker = ResultTracker()
    tracker.expect(submission(1))
    tracker.take(executed(1))
    tracker.take(executed(1, height=6, duplicate=True))
    # Ordered again when its results are forgotten: its nonce is too old then.
    late = BatchExecuted(16, SIGNER, 1, Code.NONCE_EXPIRED, [], False)
    tracker.take(BlockEvents(6, 0, 2, 3, [], [late]))
    assert tracker.duplicated == 0
    tracker.take(executed(1, height=7))
    assert tracker.duplicated == 1


def test_settlement_reaches_what_was_executed_up_to_its_block() -> None:
    tracker = ResultTracker()
    batches = {height: submission(height) for height in (3, 4, 6)}
    for height, batch in batches.items():
        tracker.expect(batch)
        tracker.take(executed(height, height=height))
    tracker.settle_to(4)
    assert [bool(batch.settled_ns) for batch in batches.values()] == [True, True, False]
    late = submission(9)
    tracker.expect(late)
    tracker.take(executed(9, height=4))
    assert late.settled_ns
    tracker.settle_to(3)
    assert tracker.settled_height == 4 and tracker.unsettled == 1


def test_what_is_settled_becomes_final_in_its_turn() -> None:
    tracker = ResultTracker()
    batches = {height: submission(height) for height in (3, 4, 6)}
    for height, batch in batches.items():
        tracker.expect(batch)
        tracker.take(executed(height, height=height))
    tracker.settle_to(4)
    tracker.finalise_to(3)
    assert [bool(batch.final_ns) for batch in batches.values()] == [True, False, False]
    tracker.finalise_to(6)
    assert all(batch.settled_ns and batch.final_ns for batch in batches.values())
    assert tracker.unsettled == 0
    late = submission(9)
    tracker.expect(late)
    tracker.take(executed(9, height=6))
    assert late.final_ns >= late.settled_ns > 0


def test_refused_actions_raise_with_their_code() -> None:
    with pytest.raises(ActionRejected, match="unknown_account"):
        results_of(BatchExecuted(16, SIGNER, 1, Code.UNKNOWN_ACCOUNT, []))
    with pytest.raises(ActionRejected, match="bad_price: action 2"):
        results_of(BatchExecuted(16, SIGNER, 1, 0, [Result(0), Result(Code.BAD_PRICE)]))
    assert results_of(BatchExecuted(16, SIGNER, 1, 0, [Result(0)])) == [Result(0)]


@pytest.mark.parametrize(
    ("code", "codes", "refused"),
    [
        (0, [0], False),
        (0, [0, Code.BAD_PRICE], False),
        (0, [Code.BAD_PRICE, Code.BAD_SIZE], True),
        (Code.NONCE_EXPIRED, [], True),
    ],
)
async def test_what_was_refused_is_not_waited_for_while_that_is_of_no_use(
    code: int, codes: list[int], refused: bool
) -> None:
    one = submission()
    one.result = BatchExecuted(16, SIGNER, 1, code, [Result(found) for found in codes])
    one.reach("executed", 5)
    assert one.refused == refused and not submission().refused
    for state in ("settled", "final"):
        if refused:
            await one.wait(state, timeout_ms=1, while_useful=True)
        else:
            with pytest.raises(TimeoutError, match=f"not {state} .*it is executed"):
                await one.wait(state, timeout_ms=1, while_useful=True)
        with pytest.raises(TimeoutError, match=f"not {state}"):
            await one.wait(state, timeout_ms=1)
