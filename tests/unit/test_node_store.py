"""What a validator writes in one round comes back after a restart, or the process refuses."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import STATE_ROOT, LedgerWorld, key_of, make_chain

import node.snapshots
import node.store
from consensus import MemberSet, ReplicaConfig
from consensus.verify import verify_certificate
from node import machine, store_history
from node.app import ExecutedBlock, LedgerApplication
from node.outcomes import BlockOutcome
from node.queries import LedgerQueries
from node.snapshot_sync import SnapshotSync, SyncLimits
from node.snapshots import SnapshotSource, SyncedSnapshot, checkpoint_of
from node.store import DATABASE_NAME, ValidatorStore, WriteBatch
from protocol.chain import QC, Block, CommitCertificate, Header
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.ledger_leaves import account_key
from protocol.messages import BlocksFrom, HeaderRequest, InboxRequest
from protocol.settlement import Deposit, Transaction, sign_transaction, transaction_id

KEY = key_of("validator-0")


class Validator:
    """The only member of its chain: it commits by itself, round by round."""

    def __init__(self, directory: Path, chain: Chain, retain_blocks: int = 0) -> None:
        self.store = ValidatorStore(directory, chain)
        self.ledger = self.store.load_ledger(STATE_ROOT)
        self.app = LedgerApplication(self.ledger, 1 << 20)
        self.queries = LedgerQueries(self.ledger, self.store)
        self.source = SnapshotSource(self.store, self.store.snapshot_base(), 10, chunk_bytes=256)
        self.machine = machine.Validator(
            chain, KEY, self.app, self.store.genesis_root(), self.store.recovered(),
            config=ReplicaConfig(block_interval_ms=10, empty_interval_ms=5, idle_interval_ms=50),
            stored=self.store.block, snapshots=self.source, retain_blocks=retain_blocks,
        )  # fmt: skip
        self.now_ms = max(chain.genesis.time_ms + 10_000, self.queries.tip_time_ms)
        self.round()

    def round(self) -> WriteBatch:
        done = self.machine.run([], self.now_ms)
        if done.batch:
            self.store.write(done.batch)
        self.queries.set_tip()
        return done.batch

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.now_ms += 60
            self.round()


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
    height, root, view = first.ledger.height, first.ledger.root, first.machine.replica.view
    assert height > 6 and first.ledger.inbox().count == 4
    proof = first.queries.inbox(InboxRequest(1, 0, 10))
    first.store.close()
    second = Validator(tmp_path, chain)
    assert (second.ledger.height, second.ledger.root) == (height, root)
    assert second.machine.replica.view >= view
    assert second.queries.inbox(InboxRequest(1, 0, 10)) == proof
    assert second.store.outcomes_stored() == 3
    outcome = second.store.outcome(transaction_id(deposit(chain, 1)))
    assert outcome is not None and outcome.code == Code.OK
    second.app.submit(deposit(chain, 3), 0)
    second.run(6)
    assert second.ledger.height > height and second.ledger.inbox().count == 5
    second.store.close()


def test_the_newest_blocks_time_is_that_of_genesis_before_the_first(
    tmp_path: Path, chain: Chain
) -> None:
    """Whoever subtracts it from the clock gets the age of the chain, and not that of Unix."""
    store = ValidatorStore(tmp_path, chain)
    queries = LedgerQueries(store.load_ledger(STATE_ROOT), store)
    assert queries.tip_time_ms == chain.genesis.time_ms > 0
    store.close()
    validator = Validator(tmp_path, chain)
    validator.run(5)
    stored = validator.store.block(validator.ledger.height)
    assert stored is not None
    assert validator.queries.tip_time_ms == stored[0].header.time_ms > chain.genesis.time_ms
    validator.store.close()


def test_a_round_that_was_not_written_did_not_happen(tmp_path: Path, chain: Chain) -> None:
    first = Validator(tmp_path, chain)
    first.run(5)
    height, root = first.ledger.height, first.ledger.root
    first.app.submit(deposit(chain, 0), 0)
    while first.ledger.height < height + 6:
        first.now_ms += 60
        first.machine.run([], first.now_ms)
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


# --- certificates, epochs and deleted leaves


def made_block(parent: Header, number: int) -> Block:
    header = Header(
        parent.chain_id, 0, parent.view + 1, parent.height + 1, parent.block_id(), parent.view,
        parent.time_ms + 10, 0, bytes(32), bytes(32), max(parent.height - 1, 0), bytes(32),
    )  # fmt: skip
    qc = QC(parent.chain_id, 0, parent.view, parent.height, parent.block_id(), [])
    return Block(header, b"payload %d" % number, qc, None)


def made_certificate(block: Block, path: int = 0) -> CommitCertificate:
    """Proves the block over so many headers above it; nobody signed it."""
    headers: list[Header] = []
    top = block
    for number in range(path):
        top = made_block(top.header, number)
        headers.append(top.header)
    header = top.header
    qc = QC(header.chain_id, 0, header.view, header.height, header.block_id(), [])
    return CommitCertificate(qc, made_block(header, 0).header, qc, headers)


def step(blocks: list[Block], path: int = 0) -> list[ExecutedBlock]:
    """Blocks that committed together."""
    certificate = made_certificate(blocks[-1], path)
    return [
        ExecutedBlock(block, certificate, BlockOutcome(block.header.height, 0), [])
        for block in blocks
    ]


def blocks_on(chain: Chain, count: int) -> list[Block]:
    parent = Header(
        chain.chain_id, 0, 0, 0, bytes(32), 0, 0, 0, bytes(32), bytes(32), 0, bytes(32)
    )  # fmt: skip
    blocks = []
    for number in range(count):
        blocks.append(made_block(parent, number))
        parent = blocks[-1].header
    return blocks


def test_every_block_has_a_certificate_of_its_own_height(tmp_path: Path, chain: Chain) -> None:
    store = ValidatorStore(tmp_path, chain)
    store.load_ledger(STATE_ROOT)
    blocks = blocks_on(chain, 7)
    store.write(WriteBatch(executed=step(blocks[:3])))
    store.write(WriteBatch(executed=step(blocks[3:6], path=2)))
    for block in blocks[:6]:
        header = block.header
        found, certificate = store.proven(header.height) or pytest.fail("no proof")
        assert found == block and certificate.height == header.height
        above = header
        for one in certificate.path:
            assert one.parent_id == above.block_id()
            above = one
        assert certificate.qc.block_id == above.block_id()
    assert store.proven(7) is None and store.proven(0) is None
    # What the replica recovers from is the tip with its own certificate.
    assert store.block(6) == (blocks[5], made_certificate(blocks[5], 2))
    recovered = store.recovered()
    assert recovered is not None and recovered.certificate == made_certificate(blocks[5], 2)
    store.close()


def test_real_certificates_over_a_path_verify(tmp_path: Path, chain: Chain) -> None:
    validator = Validator(tmp_path, chain)
    validator.run(9)
    database = validator.store._writer
    database.execute("UPDATE blocks SET certificate = NULL WHERE height IN (3, 4)")
    members = MemberSet(chain.chain_id, [one.member() for one in chain.genesis.validators])
    for height in range(1, 6):
        block, certificate = validator.store.proven(height) or pytest.fail("no proof")
        verify_certificate(members, block.header, certificate)
        assert len(certificate.path) == {3: 2, 4: 1}.get(height, 0)
    validator.store.close()


def test_epochs_are_stored_with_the_block_that_began_them(tmp_path: Path, chain: Chain) -> None:
    store = ValidatorStore(tmp_path, chain)
    store.load_ledger(STATE_ROOT)
    blocks = blocks_on(chain, 5)
    done = step(blocks[:4], path=1)
    done[-1].outcome.epoch_began, done[-1].outcome.epoch_proof = 1, b"proof"
    store.write(WriteBatch(executed=done))
    assert store.epoch(1) == (blocks[3].header, made_certificate(blocks[3], 1), b"proof")
    assert store.epoch(2) is None
    late = step(blocks[4:])
    late[0].outcome.epoch_began, late[0].outcome.epoch_proof = 2, b"proof"
    wrong = ExecutedBlock(late[0].block, made_certificate(blocks[3]), late[0].outcome, [])
    with pytest.raises(SafetyViolation, match="commit step"):
        store.write(WriteBatch(executed=[wrong]))
    assert store.block(5) is None
    store.close()


def test_a_deleted_leaf_is_gone_after_a_restart(tmp_path: Path, chain: Chain) -> None:
    store = ValidatorStore(tmp_path, chain)
    ledger = store.load_ledger(STATE_ROOT)
    key = account_key(key_of("nobody").address)
    for height, value in ((1, b"something"), (2, None)):
        done = step(blocks_on(chain, 2)[height - 1 : height])
        done[0].outcome.changes = {key: value}
        done[0].outcome.root = ledger.root
        store.write(WriteBatch(executed=done))
        stored = [found for found, _ in store.snapshot_base().leaves.items() if found == key]
        assert stored == ([key] if value else [])
    store.close()


def test_a_database_of_an_older_version_is_named(tmp_path: Path, chain: Chain) -> None:
    ValidatorStore(tmp_path, chain).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        database.execute("PRAGMA user_version=1")
    database.close()
    with pytest.raises(ConfigError, match="schema version 1, this program needs 2"):
        ValidatorStore(tmp_path, chain)


# --- pruning


def test_pruned_blocks_are_gone_and_the_rest_recovers(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_history, "KEPT_BELOW_TIP", 8)
    monkeypatch.setattr(node.snapshots, "REPUTATION_WINDOW", 6)
    first = Validator(tmp_path, chain, retain_blocks=5)
    first.run(60)
    height, root, source = first.ledger.height, first.ledger.root, first.source
    assert height > 40 and source.height >= 30
    retained = first.store.retained_from()
    tip, _ = first.store.block(source.height) or pytest.fail("the snapshot's block is gone")
    assert 10 < retained <= tip.header.app_height - 5, "all that a snapshot's receiver asks for"
    assert first.store.block(retained - 1) is None and first.store.proven(retained) is not None
    assert first.store.block_run(1, 10, 1 << 20) == ([], None)
    with pytest.raises(Rejected):
        first.queries.blocks(BlocksFrom(1, 1, 3))
    assert first.queries.blocks(BlocksFrom(1, retained, 3)).blocks
    first.store.close()
    second = Validator(tmp_path, chain, retain_blocks=5)
    assert (second.ledger.height, second.ledger.root) == (height, root)
    assert second.source.height >= source.height, "there is a snapshot again at once"
    second.run(20)
    assert second.ledger.height > height and second.store.retained_from() > retained
    second.store.close()


def test_what_recovery_needs_is_never_pruned(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_history, "KEPT_BELOW_TIP", 8)
    monkeypatch.setattr(node.snapshots, "REPUTATION_WINDOW", 20)
    monkeypatch.setattr(store_history, "PRUNED_AT_ONCE", 4)
    monkeypatch.setattr(node.store, "PRUNED_AT_ONCE", 4)
    store = ValidatorStore(tmp_path, chain)
    store.load_ledger(STATE_ROOT)
    assert store.prune(10) == 0 and store.retained_from() == 1
    blocks = blocks_on(chain, 60)
    store.write(WriteBatch(executed=step(blocks[:50])))
    store.write(WriteBatch(prune_below=1_000_000))
    assert store.retained_from() == 5, "only some in one transaction"
    for block in blocks[50:]:
        store.write(WriteBatch(executed=step([block])))
    while store.prune(1_000_000):
        pass
    # The window of 20 up to the height that the tip names, which is 58.
    assert store.retained_from() == 39
    assert store.prune(1_000_000) == 0
    store.close()


# --- snapshots put in place


def synced(validator: Validator) -> SyncedSnapshot:
    """What somebody without blocks fetches from a validator."""
    members = validator.machine.members
    genesis_ms = validator.machine.chain.genesis.time_ms
    limits = SyncLimits(chunk_bytes=256)
    sync = SnapshotSync(
        checkpoint_of(members, genesis_ms), 0, [KEY.public], validator.now_ms,
        trusting_ms=1 << 60, limits=limits,
    )  # fmt: skip
    todo = sync.step(validator.now_ms)
    while todo:
        _, question = todo.pop(0)
        answer = validator.source.answer(b"joiner", question, validator.now_ms)
        assert answer is not None
        todo += sync.receive(KEY.public, answer, validator.now_ms)
    assert sync.result is not None, (sync.failure, sync.blamed)
    return sync.result


def test_a_validator_goes_on_from_a_snapshot(tmp_path: Path, chain: Chain) -> None:
    """Voting state and outcomes are those that stood there; all else is the snapshot's."""
    (tmp_path / "ahead").mkdir()
    (tmp_path / "behind").mkdir()
    behind = Validator(tmp_path / "behind", chain)
    behind.run(4)
    behind.store.close()
    ahead = Validator(tmp_path / "ahead", chain)
    for nonce in range(8):
        ahead.app.submit(deposit(chain, nonce), 0)
        ahead.run(4)
    snapshot = synced(ahead)
    assert len(snapshot.recent) == snapshot.height - 1 > behind.ledger.height

    store = ValidatorStore(tmp_path / "behind", chain)
    before = store.recovered()
    store.install_snapshot(snapshot)
    after = store.recovered()
    assert before is not None and after is not None and before.voting_state is not None
    assert after.voting_state == before.voting_state
    assert (after.tip, after.certificate) == (snapshot.tip, snapshot.certificate)
    ledger = store.load_ledger(STATE_ROOT)
    assert (ledger.height, ledger.root) == (snapshot.height, snapshot.root)
    assert store.retained_from() == snapshot.recent[0].header.height
    with pytest.raises(Rejected) as refused:
        ledger.prove_at(snapshot.tip.header.app_height, bytes(32), [b"x"])
    assert refused.value.code == Code.NOT_RETAINED
    with pytest.raises(SafetyViolation, match="forward"):
        store.install_snapshot(snapshot)
    # Nothing leads back to a state that a header names: the next block brings a snapshot.
    assert SnapshotSource(store, store.snapshot_base()).height == 0
    ahead.store.close()
    store.close()


def test_blocks_follow_on_top_of_a_snapshot(tmp_path: Path, chain: Chain) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = Validator(tmp_path / "old", chain)
    for nonce in range(8):
        old.app.submit(deposit(chain, nonce), 0)
        old.run(4)
    snapshot = synced(old)
    old.run(15)
    store = ValidatorStore(tmp_path / "new", chain)
    store.load_ledger(STATE_ROOT)
    store.install_snapshot(snapshot)
    app = LedgerApplication(store.load_ledger(STATE_ROOT), 1 << 20)
    source = SnapshotSource(store, store.snapshot_base(), 10)
    for height in range(snapshot.height + 1, old.ledger.height + 1):
        block, certificate = old.store.proven(height) or pytest.fail("no block")
        app.commit(block, certificate)
        done = app.take_executed()
        store.write(WriteBatch(executed=done))
        source.executed(block.header, done[0].outcome.changes, 0)
    assert store.load_ledger(STATE_ROOT).root == app.ledger.root == old.ledger.root
    assert source.height > snapshot.height, "it serves a snapshot of its own"
    assert store.snapshot_base().height == block.header.app_height, "undo leads back again"
    old.store.close()
    store.close()


@pytest.mark.parametrize("statement", range(7))
def test_a_crash_while_a_snapshot_is_put_in_place_leaves_all_as_it_was(
    tmp_path: Path, chain: Chain, statement: int
) -> None:
    (tmp_path / "ahead").mkdir()
    (tmp_path / "behind").mkdir()
    behind = Validator(tmp_path / "behind", chain)
    behind.run(4)
    height, root = behind.ledger.height, behind.ledger.root
    ahead = Validator(tmp_path / "ahead", chain)
    ahead.run(30)
    snapshot = synced(ahead)
    ahead.store.close()
    store = behind.store
    done = 0

    def crash(event: int, *_: object) -> int:
        nonlocal done
        if event in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE):
            done += 1
        return sqlite3.SQLITE_DENY if done > statement else sqlite3.SQLITE_OK

    store._writer.set_authorizer(crash)
    with pytest.raises(OSError, match="cannot be written"):
        store.install_snapshot(snapshot)
    store.close()
    again = Validator(tmp_path / "behind", chain)
    assert (again.ledger.height, again.ledger.root) == (height, root)
    again.store.install_snapshot(snapshot)
    assert again.store.load_ledger(STATE_ROOT).root == snapshot.root
    again.store.close()
