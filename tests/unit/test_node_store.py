"""What a validator writes in one round comes back after a restart, or the process refuses."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import STATE_ROOT, LedgerWorld, key_of, make_chain

import node.store
from consensus import MemberSet, Replica, ReplicaConfig, Start, Work
from node.app import LedgerApplication
from node.queries import LedgerQueries
from node.rounds import run_round
from node.store import DATABASE_NAME, ValidatorStore
from protocol.chain import genesis_header
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.messages import BlocksFrom, HeaderRequest, InboxRequest
from protocol.settlement import Deposit, Transaction, sign_transaction, transaction_id

KEY = key_of("validator-0")


class Validator:
    """The only member of its chain: it commits by itself, round by round."""

    def __init__(self, directory: Path, chain: Chain) -> None:
        self.store = ValidatorStore(directory, chain)
        self.ledger = self.store.load_ledger(STATE_ROOT)
        self.app = LedgerApplication(self.ledger, 1 << 20)
        self.queries = LedgerQueries(self.ledger, self.store)
        members = MemberSet(chain.chain_id, [one.member() for one in chain.genesis.validators])
        genesis = genesis_header(chain.chain_id, chain.genesis.time_ms, self.store.genesis_root())
        self.replica = Replica(
            ReplicaConfig(block_interval_ms=10, empty_interval_ms=5, idle_interval_ms=50),
            members, KEY, self.app, genesis, self.store.recovered(), stored=self.store.block,
        )  # fmt: skip
        self.now_ms = max(chain.genesis.time_ms + 10_000, self.queries.tip_time_ms)
        self.round(Start())

    def round(self, *events: Start | Work) -> None:
        done = run_round(self.replica, self.app, events, self.now_ms)
        if done.batch:
            self.store.write(done.batch)
        self.queries.set_tip()

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.now_ms += 60
            self.round(Work())


@pytest.fixture
def chain() -> Chain:
    return make_chain([(key_of("alice"), 1_000, 5)])


def deposit(chain: Chain, nonce: int, amount_uusd: int = 1) -> bytes:
    key = key_of("alice")
    transaction = Transaction(nonce, Deposit(key.address, amount_uusd))
    return sign_transaction(key, chain.chain_id, transaction)


def test_everything_committed_is_there_after_a_restart(tmp_path: Path, chain: Chain) -> None:
    first = Validator(tmp_path, chain)
    for nonce in range(3):
        first.app.submit(deposit(chain, nonce), 0)
        first.run(6)
    height, root, view = first.ledger.height, first.ledger.root, first.replica.view
    assert height > 6 and first.ledger.inbox().count == 4
    proof = first.queries.inbox(InboxRequest(1, 0, 10))
    first.store.close()
    second = Validator(tmp_path, chain)
    assert (second.ledger.height, second.ledger.root) == (height, root)
    assert second.replica.view >= view
    assert second.queries.inbox(InboxRequest(1, 0, 10)) == proof
    assert second.store.outcomes_stored() == 3
    outcome = second.store.outcome(transaction_id(deposit(chain, 1)))
    assert outcome is not None and outcome.code == Code.OK
    second.app.submit(deposit(chain, 3), 0)
    second.run(6)
    assert second.ledger.height > height and second.ledger.inbox().count == 5
    second.store.close()


def test_a_round_that_was_not_written_did_not_happen(tmp_path: Path, chain: Chain) -> None:
    first = Validator(tmp_path, chain)
    first.run(5)
    height, root = first.ledger.height, first.ledger.root
    first.app.submit(deposit(chain, 0), 0)
    while first.ledger.height < height + 6:
        first.now_ms += 60
        run_round(first.replica, first.app, [Work()], first.now_ms)
    assert first.ledger.root != root
    first.store.close()
    second = Validator(tmp_path, chain)
    assert (second.ledger.height, second.ledger.root) == (height, root)
    second.store.close()


def test_blocks_and_headers_are_served_with_certificates(tmp_path: Path, chain: Chain) -> None:
    validator = Validator(tmp_path, chain)
    with pytest.raises(Rejected) as refused:
        validator.queries.header(HeaderRequest(1, 0))
    assert refused.value.code == Code.NOT_READY
    validator.run(8)
    run = validator.queries.blocks(BlocksFrom(1, 2, 3))
    assert [block.header.height for block in run.blocks] == [2, 3, 4]
    assert run.certificate.qc.block_id == run.blocks[-1].header.block_id()
    one, _ = validator.store.block_run(1, 100, 1)
    assert len(one) == 1
    view = validator.queries.header(HeaderRequest(1, 0))
    assert view.header.height == validator.ledger.height
    validator.store.close()


def test_undo_and_proposed_blocks_do_not_pile_up(tmp_path: Path, chain: Chain) -> None:
    validator = Validator(tmp_path, chain)
    for nonce in range(20):
        validator.app.submit(deposit(chain, nonce), 0)
        validator.run(3)
    validator.store.close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        counts = [
            database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("undo", "proposed", "voting")
        ]
    assert counts[0] < 40 and counts[1] <= 4 and counts[2] == 1


def test_outcomes_are_bounded(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.store, "OUTCOMES_KEPT", 4)
    validator = Validator(tmp_path, chain)
    for nonce in range(10):
        validator.app.submit(deposit(chain, nonce), 0)
        validator.run(4)
    found = [validator.store.outcome(transaction_id(deposit(chain, n))) for n in range(10)]
    assert [one is not None for one in found] == [False] * 6 + [True] * 4
    assert validator.store.outcomes_stored() == 10
    validator.store.close()


def test_an_outcome_is_final_unless_the_nonce_was_not_due(tmp_path: Path, chain: Chain) -> None:
    store = ValidatorStore(tmp_path, chain)
    early, failed, done = b"early", b"failed", b"done"
    codes = {early: Code.BAD_LEDGER_NONCE, failed: Code.INSUFFICIENT_BALANCE, done: Code.OK}
    node.store._write_outcomes(store._writer, [(i, 1, int(c), "") for i, c in codes.items()])
    for identity in codes:
        node.store._write_outcomes(store._writer, [(identity, 2, int(Code.OK), "")])
        node.store._write_outcomes(store._writer, [(identity, 3, int(Code.BAD_LEDGER_NONCE), "")])
    found = {identity: store.outcome(identity) for identity in codes}
    assert found[early] == node.store.StoredOutcome(2, int(Code.OK), "")
    assert found[failed] == node.store.StoredOutcome(1, int(Code.INSUFFICIENT_BALANCE), "")
    assert found[done] == node.store.StoredOutcome(1, int(Code.OK), "")
    store.close()


@pytest.mark.parametrize("table", ["leaves", "meta"])
def test_a_damaged_ledger_is_not_used(tmp_path: Path, chain: Chain, table: str) -> None:
    Validator(tmp_path, chain).store.close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        if table == "leaves":
            database.execute("DELETE FROM leaves WHERE substr(key, 1, 1) = x'02'")
        else:
            database.execute("UPDATE meta SET value = x'00' WHERE name = 'root'")
    database.close()
    with pytest.raises(SafetyViolation, match="root"):
        Validator(tmp_path, chain)


def test_a_database_of_another_chain_is_refused(tmp_path: Path, chain: Chain) -> None:
    Validator(tmp_path, chain).store.close()
    with pytest.raises(ConfigError, match="another chain"):
        Validator(tmp_path, LedgerWorld().chain)


def test_a_write_that_fails_is_an_error_of_the_system(tmp_path: Path, chain: Chain) -> None:
    validator = Validator(tmp_path, chain)
    validator.store._writer.close()
    with pytest.raises(OSError, match="cannot be written"):
        validator.run(5)
