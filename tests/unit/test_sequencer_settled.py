"""Nothing is signed on top of an empty log before the base layer has told that it was never longer,
and a log that was longer stops its sequencer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from ledger_world import GENESIS_MS, key_of, make_chain
from shared_world import SharedWorld

from consensus import Persist, RecoveredState
from consensus.light_proofs import ProvenLeaves
from net.readiness import SILENCE_MS
from protocol.actions import ActionBatch, CancelAll, sign_batch
from protocol.chain import EMPTY_HASH, Remembered, genesis_header
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault, SafetyViolation
from protocol.genesis import Chain
from protocol.ledger_leaves import ShardLeaf, shard_key
from sequencer.machine import RecoveredSequencer, Sequencer
from sequencer.process_settled import settled_height
from sequencer.settled import SettledLog

ALICE = key_of("alice")
NOTHING = RecoveredSequencer(RecoveredState(None, None, None, []), [], [], 0, 0)
NOW_MS = GENESIS_MS + 1_000


def alone(chain: Chain, *, signs: bool = True) -> Sequencer:
    """The only sequencer, with an empty disk."""
    key = key_of("sequencer-0")
    return Sequencer(chain, 0, key, NOTHING, lambda height: None, signs=signs)


@pytest.fixture
def chain() -> Chain:
    return make_chain([(ALICE, 0, 0)], sequencers=1)


def batch(chain: Chain) -> bytes:
    return sign_batch(
        ALICE, chain.chain_id, chain.genesis.shard, ActionBatch(16, NOW_MS, 0, [CancelAll(0)])
    )


def test_an_empty_log_waits_for_the_base_layer_and_then_begins(chain: Chain) -> None:
    machine = alone(chain)
    # There is work at once: entries of the inbox to take in.
    effects = machine.start(NOW_MS) + machine.note_ledger(3, 5, NOW_MS)
    for later_ms in range(0, 60_000, 500):
        effects += machine.tick(NOW_MS + later_ms) + machine.flush(NOW_MS + later_ms)
    assert effects == [] and machine.next_deadline_ms() is None
    assert "has not told yet" in machine.settled.trouble(0)
    with pytest.raises(Rejected) as refused:
        machine.submit((1, 1), batch(chain), {ALICE.public}, NOW_MS)
    assert refused.value.code is Code.NOT_READY, "a receipt would be a promise"
    effects = machine.note_settled(0, NOW_MS + 60_000)
    assert any(isinstance(one, Persist) for one in effects)
    for later_ms in range(60_020, 61_000, 20):
        machine.tick(NOW_MS + later_ms)
    assert machine.replica.committed_height
    assert machine.settled.trouble(machine.replica.committed_height) == ""
    machine.submit((1, 1), batch(chain), {ALICE.public}, NOW_MS)


def test_the_only_sequencer_stops_where_more_is_settled_than_it_has(chain: Chain) -> None:
    machine = alone(chain)
    machine.start(NOW_MS)
    with pytest.raises(SafetyViolation, match="up to block 12, but here it ends at block 0") as why:
        machine.note_settled(12, NOW_MS)
    assert "trilemma restore" in str(why.value)
    assert machine.replica.committed_height == 0 and machine.tick(NOW_MS + 5_000) == []


def test_who_signs_nothing_waits_for_nothing(chain: Chain) -> None:
    machine = alone(chain, signs=False)
    assert not machine.settled.asks and not machine.settled.waiting


def test_a_log_with_blocks_is_compared_and_does_not_wait() -> None:
    log = SettledLog(empty=False, alone=True, signs=True)
    assert log.asks and not log.waiting
    log.told(7, 7)
    with pytest.raises(SafetyViolation, match="block 8, but here it ends at block 7"):
        log.told(8, 7)
    assert not SettledLog(empty=False, alone=False, signs=True).asks, "the others tell"


def lose(world: SharedWorld, index: int, settled: int) -> None:
    """A member starts with an empty disk, and the base layer has settled so much."""
    member = world.members[index]
    member.pooled, member.passed_by = [], {}
    member.voting, member.uncommitted, member.log = None, [], []
    member.boot(NOTHING)
    member.take(member.machine.start(world.now_ms))
    member.take(member.machine.note_settled(settled, world.now_ms))


def ordered(world: SharedWorld) -> int:
    """Let the sequencers order something; how far the log goes."""
    for _ in range(3):
        world.members[0].submit(world.batch())
        world.run(300)
    return len(world.members[0].log)


def test_sequencers_that_lost_everything_together_sign_nothing() -> None:
    """Each is told by a quorum that nobody remembers anything: that quorum forgot it, too."""
    world = SharedWorld()
    height = ordered(world)
    for index in range(len(world.members)):
        lose(world, index, settled=height)
    before = len(world.sent)
    world.members[1].submit(world.batch())
    world.run(30_000)
    assert all(not one.log and one.voting is None for one in world.members)
    says = {type(message).__name__ for _, _, message in world.sent[before:]}
    assert not says & {"Vote", "Timeout", "Proposal"} and "Remembered" in says, says
    machine = world.members[1].machine
    assert f"settled up to block {height}" in machine.settled.trouble(0)


def test_a_sequencer_that_first_starts_late_catches_up_and_then_takes_part() -> None:
    world = SharedWorld()
    late = world.members[3]
    late.up = False
    height = ordered(world)
    assert late.voting is None and not late.log
    lose(world, 3, settled=height)
    raw = world.batch()
    world.members[3].submit(raw)
    world.run(20_000)
    assert world.logs() == {tuple(late.ordered())} and raw in late.ordered()
    assert late.voting is not None, "it votes"
    assert late.machine.settled.trouble(len(late.log)) == ""


def test_one_of_four_that_lost_its_log_is_stopped_by_the_others() -> None:
    world = SharedWorld()
    height = ordered(world)
    with pytest.raises(SafetyViolation, match="the state was lost"):
        lose(world, 2, settled=height)
        world.run(20_000)


def test_an_answer_counts_only_from_who_knows_all_that_is_settled() -> None:
    world = SharedWorld()
    ordered(world)
    world.members[0].restart()
    world.run(2_000)
    answers = [one for _, _, one in world.sent if isinstance(one, Remembered) and one.qc.height]
    log = SettledLog(empty=True, alone=False, signs=True)
    log.told(answers[-1].qc.height, 0)
    assert log.counts(answers[-1])
    log.told(answers[-1].qc.height + 1, 0)
    assert not log.counts(answers[-1])


# --- asking


class Validators:
    """Give the answers of a list, one after the other, and then the last one for ever."""

    def __init__(self, *answers: ProvenLeaves | Exception) -> None:
        self._answers = list(answers)
        self.dropped = 0
        self.slept = 0

    async def leaves(self, keys: list[bytes]) -> ProvenLeaves:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def drop(self) -> None:
        self.dropped += 1

    async def sleep(self, _: int) -> None:
        self.slept += 1


def proven(chain: Chain, last_block: int, time_ms: int) -> ProvenLeaves:
    leaf = ShardLeaf(1, last_block, b"", b"", 0, 0, 0, 0)
    header = genesis_header(chain.chain_id, time_ms, EMPTY_HASH)
    return ProvenLeaves(header, {shard_key(chain.genesis.shard): encode(leaf)})


async def asked(chain: Chain, validators: Any, now_ms: int = NOW_MS) -> int:
    return await settled_height(chain, validators, validators, lambda: now_ms, validators.sleep)


async def test_the_base_layer_is_asked_until_a_validator_that_keeps_up_answers(
    chain: Chain,
) -> None:
    idle_ms = chain.genesis.ledger_pace.idle_interval_ms
    old_ms = NOW_MS - max(SILENCE_MS, 3 * idle_ms) - 1
    validators = Validators(
        ConnectionError(), TimeoutError(), RemoteFault(Code.BUSY, "later"),
        Rejected(Code.BAD_PROOF), proven(chain, 0, old_ms), proven(chain, 12, NOW_MS - 500),
    )  # fmt: skip
    assert await asked(chain, validators) == 12
    assert validators.dropped == validators.slept == 5


async def test_a_validator_without_a_block_is_believed_while_the_chain_is_new(
    chain: Chain,
) -> None:
    none = RemoteFault(Code.NOT_READY, "no ledger block is committed yet")
    assert await asked(chain, Validators(none)) == 0
    later_ms = NOW_MS + 3_600_000
    validators = Validators(none, none, proven(chain, 12, later_ms))
    assert await asked(chain, validators, later_ms) == 12, "it has lost its own, or lags behind"


async def test_a_chain_without_a_heartbeat_may_have_rested(chain: Chain) -> None:
    pace = msgspec.structs.replace(chain.genesis.ledger_pace, idle_interval_ms=0)
    genesis = msgspec.structs.replace(chain.genesis, ledger_pace=pace)
    silent = msgspec.structs.replace(chain, genesis=genesis)
    assert await asked(silent, Validators(proven(chain, 7, 1))) == 7
