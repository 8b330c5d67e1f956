"""Parts of the simulated exchange: signatures, coroutines, logs, and checkers that really check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest

from consensus import MemberSet, verify_qc
from node.certificates import check_certificate
from protocol.actions import ActionBatch, Cancel, batch_id, open_batch, sign_batch
from protocol.chain import (
    QC,
    Block,
    Member,
    Signature,
    genesis_header,
    genesis_qc,
    vote_digest,
)
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.events import BatchExecuted, BlockDiff, Deposited
from protocol.keys import Key, require_signature, verify
from protocol.messages import Committed
from protocol.ordering import OrderedPayload, decode_payload
from sequencer.pool import BatchPool
from sim.actors_keys import SimKey, certificate_of, simulated_signatures
from sim.actors_process import Process, Setting
from sim.actors_stores import LOG, SimLog
from sim.actors_tasks import Promise, Pulse, Tasks
from sim.checkers import Stalled, Violation
from sim.disk import DAMAGED, Disk, DiskRule
from sim.kernel import US_PER_MS, US_PER_S, Kernel
from sim.network import Network
from sim.pipeline import Exchange, Options
from sim.pipeline_checks import check_bounds, check_end
from sim.pipeline_genesis import make_chain
from sim.pipeline_history import History
from sim.pipeline_lies import LIES

DIGEST = sha256(b"digest").digest()
QUIET = Options(load_us=2 * US_PER_S, traders=3, pause_ms=60, patience_us=20 * US_PER_S)


# --- signatures


def test_simulated_signatures_hold_everywhere_and_end_with_the_block() -> None:
    key, real = SimKey("a"), Key(bytes(range(32)))
    with simulated_signatures():
        assert verify(key.public, key.sign(DIGEST), DIGEST)
        assert not verify(key.public, key.sign(DIGEST), sha256(DIGEST).digest())
        assert not verify(SimKey("b").public, key.sign(DIGEST), DIGEST)
        # What took the verifier as a default argument long ago uses the simulated one, too.
        members = MemberSet(DIGEST, [Member(key.public, 1)])
        statement = vote_digest(DIGEST, 0, 1, 1, DIGEST)
        qc = QC(DIGEST, 0, 1, 1, DIGEST, [Signature(0, key.sign(statement))])
        verify_qc(members, qc, genesis_qc(genesis_header(DIGEST, 0, DIGEST)))
        with pytest.raises(Rejected):
            require_signature(real.public, real.sign(DIGEST), DIGEST)
    assert verify(real.public, real.sign(DIGEST), DIGEST)
    assert not verify(key.public, key.sign(DIGEST), DIGEST)


def test_simulated_signatures_end_after_an_error() -> None:
    real = Key(bytes(range(32)))
    with pytest.raises(ZeroDivisionError), simulated_signatures():
        raise ZeroDivisionError
    assert verify(real.public, real.sign(DIGEST), DIGEST)


def test_the_ledger_takes_simulated_certificates_of_their_key_only() -> None:
    key = SimKey("validator-9")
    with simulated_signatures():
        check_certificate(certificate_of(key, "node"), key.public)
        with pytest.raises(Rejected):
            check_certificate(certificate_of(SimKey("other"), "node"), key.public)


# --- coroutines


def test_coroutines_go_on_in_the_order_in_which_they_became_ready() -> None:
    tasks, pulse, seen = Tasks(), Pulse(), []

    async def work(name: str) -> None:
        seen.append(name)
        await pulse.wait()
        seen.append(name.upper())

    for name in "abc":
        tasks.spawn(work(name))
    tasks.run_ready(lambda: False)
    assert seen == ["a", "b", "c"]
    pulse.set()
    tasks.run_ready(lambda: False)
    assert seen == ["a", "b", "c", "A", "B", "C"]
    assert len(tasks) == 0


def test_dropped_coroutines_never_go_on() -> None:
    tasks, seen = Tasks(), []
    promise: Promise[int] = Promise()

    async def work() -> None:
        seen.append(await promise)

    tasks.spawn(work())
    tasks.run_ready(lambda: False)
    tasks.drop()
    promise.resolve(1)
    tasks.run_ready(lambda: False)
    assert seen == []


# --- processes and disks


class Echo(Process):
    """Writes what it gets and notes when that is durable."""

    def start(self) -> None:
        self.noted: list[str] = []

    def receive(self, source: str, message: Any) -> None:
        self.disks["d"].append(LOG, message)
        self.block_until_synced(lambda: self.noted.append(f"{self.kernel.now_us} {message}"))


def make_echo() -> tuple[Kernel, Echo]:
    kernel = Kernel(1)
    network = Network(kernel)
    chain = make_chain(4, 0, 2, 0, QUIET.fees)
    setting = Setting(kernel, network, chain, History(kernel), DiskRule(sync_us=1_000))
    echo = Echo(setting, "echo", ("d",))
    echo.boot()
    return kernel, echo


def test_a_process_that_waits_for_its_disk_takes_no_other_input() -> None:
    kernel, echo = make_echo()
    for text in ("a", "b"):
        echo._arrived("peer", text)
    kernel.run(10_000)
    assert echo.noted == ["1000 a", "2000 b"]


def test_a_crash_before_the_sync_is_over_acknowledges_nothing() -> None:
    kernel, echo = make_echo()
    echo._arrived("peer", "a")
    kernel.at(500, echo.crash)
    kernel.run(10_000)
    assert echo.noted == []


def test_a_paused_process_goes_on_with_what_came_meanwhile() -> None:
    kernel, echo = make_echo()
    echo.pause()
    echo._arrived("peer", "a")
    kernel.run(50 * US_PER_MS)
    assert echo.noted == []
    echo.resume()
    kernel.run(60 * US_PER_MS)
    assert len(echo.noted) == 1


def test_a_log_cuts_a_torn_tail_and_refuses_damage_before_it() -> None:
    disk = Disk(Kernel(1), "d")
    log = SimLog(disk, [])
    for payload in (b"one", b"two"):
        log.append(payload)
    log.flush()
    disk.append(LOG, DAMAGED)
    assert SimLog(disk, []).next_index == 2
    disk.corrupt(LOG, 0)
    with pytest.raises(Exception, match="damaged before its end"):
        SimLog(disk, [])


# --- the history sees what is wrong


def batch_event(nonce_ms: int, code: int = 0, duplicate: bool = False) -> BatchExecuted:
    return BatchExecuted(16, b"s" * 32, nonce_ms, code, [], duplicate)


def diff_of(height: int) -> BlockDiff:
    return BlockDiff(height, b"i" * 32, 0, [], [], 1)


Wrong = Callable[[History], None]
WRONG: dict[str, Wrong] = {
    "agreement": lambda h: h.committed("v", 1, b"other", b"root"),
    "root": lambda h: h.committed("v", 1, b"block", b"other"),
    "prefix": lambda h: h.ordered(1, b"other"),
    "exactly_once": lambda h: h.executed("e", [batch_event(1)], diff_of(2)),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_the_history_finds(kind: str) -> None:
    history = History(Kernel(1))
    history.committed("v", 1, b"block", b"root")
    history.ordered(1, b"block")
    history.executed("e", [batch_event(1)], diff_of(1))
    with pytest.raises(Violation, match=kind):
        WRONG[kind](history)


def test_the_history_finds_another_result_of_the_same_block() -> None:
    history = History(Kernel(1))
    history.executed("e", [batch_event(1)], diff_of(1))
    history.executed("e", [batch_event(1)], diff_of(1))
    with pytest.raises(Violation, match="root"):
        history.executed("e", [batch_event(2)], diff_of(1))


def test_the_history_finds_a_deposit_credited_twice() -> None:
    history = History(Kernel(1))
    deposited = Deposited(0, 16, b"a" * 20, 5)
    with pytest.raises(Violation, match="deposit 0 was credited twice"):
        history.executed("e", [deposited, deposited], diff_of(1))


def test_the_history_finds_a_changed_answer_but_takes_a_passing_one() -> None:
    history = History(Kernel(1))
    history.answered(Committed(1, b"t", 5, Code.BAD_LEDGER_NONCE, ""))
    history.answered(Committed(2, b"t", 7, Code.OK, ""))
    with pytest.raises(Violation, match="durability"):
        history.answered(Committed(3, b"t", 8, Code.OK, ""))


# --- the end checks see what is wrong


@pytest.fixture
def world() -> Iterator[Exchange]:
    with simulated_signatures():
        world = Exchange(5, QUIET)
        world.boot()
        world.kernel.run(QUIET.load_us)
        world.finish()
        yield world
        world.close()


def test_a_quiet_run_passes_every_check(world: Exchange) -> None:
    check_bounds(world)
    report = check_end(world)
    assert report.actions > 50
    assert report.batches >= 2
    assert report.money_conserved


def test_a_lost_receipt_is_found(world: Exchange) -> None:
    raw = next(iter(world.history.receipts.values()))
    world.history.receipts[b"x" * 32] = raw
    with pytest.raises(Violation, match="durability"):
        check_end(world)


def test_a_forgotten_ledger_answer_is_found(world: Exchange) -> None:
    answers = world.history.ledger_answers
    identity = next(one for one, answer in answers.items() if answer.code == Code.OK)
    del world.validators[1].store.outcomes[identity]
    with pytest.raises(Violation, match="validator-1 lost a transaction"):
        check_end(world)


def test_money_from_nowhere_is_found(world: Exchange) -> None:
    index, one = next(iter(world.history.deposited.items()))
    more = Deposited(one.index, one.account, one.address, one.amount_uusd + 1)
    world.history.deposited[index] = more
    with pytest.raises(Violation, match="not credited as it stands"):
        check_end(world)


def test_a_tampered_ledger_block_is_found(world: Exchange) -> None:
    store = world.validators[0].store
    block, certificate = store.blocks[3]
    store.blocks[3] = (store.blocks[4][0], certificate)
    with pytest.raises(Violation, match="audit"):
        check_end(world)
    store.blocks[3] = (block, certificate)


def test_an_overfull_pool_is_found(world: Exchange) -> None:
    world.sequencer.machine.pool._waiting.size_bytes = 1 << 40
    with pytest.raises(Violation, match="memory"):
        check_bounds(world)


def test_a_prover_that_never_comes_back_is_a_lack_of_progress() -> None:
    options = Options(load_us=US_PER_S, patience_us=3 * US_PER_S)
    with simulated_signatures():
        world = Exchange(5, options)
        world.boot()
        world.prover.crash()
        world.kernel.run(options.load_us)
        with pytest.raises(Stalled, match="not settled"):
            world.finish()
        world.close()


@pytest.mark.parametrize("name", [name for name, _ in LIES])
def test_the_ledger_refuses_each_lie_of_a_prover(name: str) -> None:
    options = Options(load_us=US_PER_S, traders=2, lie_ppm=1_000_000)
    with simulated_signatures():
        world = Exchange(9, options)
        world.prover.lies = [lie for lie in LIES if lie[0] == name]
        world.boot()
        world.kernel.run(options.load_us)
        world.finish()
        check_end(world)
        assert world.history.counters[f"lie_{name}_refused"] > 0
        world.close()


# --- what seeds have found


def test_a_sequencer_that_restarted_never_names_a_lower_inbox_height() -> None:
    """An uncommitted block of before the restart names more than is known again: a lower height
    behind it could never be settled."""
    pool = BatchPool(1 << 16, 4, height=0, inbox_height=15, inbox_cursor=3)
    header = genesis_header(DIGEST, 0, DIGEST)
    ancestor = Block(header, encode(OrderedPayload(20, [])), genesis_qc(header), None)
    raw = sign_batch(SimKey("a"), DIGEST, 0, ActionBatch(16, 1, 0, [Cancel(0, 1)]))
    pool.add(batch_id(raw), raw, *open_batch(raw))
    assert decode_payload(pool.propose([ancestor], 1)).inbox_height == 20
    assert decode_payload(pool.propose([], 1)).inbox_height == 15
