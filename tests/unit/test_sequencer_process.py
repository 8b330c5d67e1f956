"""The sequencer's shell: when the disk fails under it, and with whom it talks."""

from __future__ import annotations

import errno
import json
from itertools import count
from pathlib import Path

import msgspec
import pytest
import typer
from service_world import until
from typer.testing import CliRunner, Result

import sequencer.process as shell
from client import cli_evidence
from client.faults import EXIT_INVALID_PROOF, EXIT_USAGE, explain
from cluster.testnet import TestnetOptions, create_testnet
from consensus import Broadcast, Misbehaviour
from consensus.evidence import double_vote
from net.member_links import QUEUE
from net.rpc import Connection
from net.tls import make_certificate
from protocol.chain import Certified, Vote, genesis_header, genesis_qc, vote_digest
from protocol.codec import encode
from protocol.errors import ConfigError
from protocol.evidence import DoubleVote
from protocol.genesis import parse_genesis
from protocol.messages import SubscribeLog
from protocol.settlement import InboxDeposit
from sequencer.process import SequencerProcess
from sequencer.process_evidence import KeptEvidence, evidence_files
from store.config import load_chain, load_config, load_process_key
from store.files import ensure_directory
from store.testnet import Testnet


def process_of(testnet: Testnet, name: str) -> SequencerProcess:
    config = load_config(testnet.config_path(name))
    ensure_directory(config.data)
    chain = load_chain(config)
    return SequencerProcess(config, chain, load_process_key(config, chain))


def only_process(folder: Path) -> SequencerProcess:
    """The only sequencer of a new testnet."""
    return process_of(create_testnet(folder / "net", TestnetOptions(traders=2)), "sequencer-0")


async def test_after_a_failed_write_no_further_step_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = only_process(tmp_path)
    clock = count(process._chain.genesis.time_ms + 1_000, 1_000)
    monkeypatch.setattr(shell, "now_ms", lambda: next(clock))
    store = process._store
    process._guarded(lambda: process._machine.start(shell.now_ms()))
    process._guarded(lambda: process._machine.note_settled(0, shell.now_ms()))
    process._ledger_news(0, 1)
    assert store.height > 0, "with a sound disk, news of the inbox makes blocks"

    def fail() -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "sync", fail)
        with pytest.raises(OSError, match="no space"):
            process._ledger_news(1, 300)
    height = store.height
    # There is space again, but what the machine counts on is not on the disk.
    process._ledger_news(2, 900)
    process._tick()
    process._flush()
    assert store.height == height
    store.close()


async def test_inbox_entries_that_blocks_have_taken_in_are_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = only_process(tmp_path)
    clock = count(process._chain.genesis.time_ms + 1_000, 1_000)
    monkeypatch.setattr(shell, "now_ms", lambda: next(clock))
    monkeypatch.setattr("execution.inbox.FETCH_LIMIT", 1)
    inbox = process._inbox
    process._guarded(lambda: process._machine.start(shell.now_ms()))
    process._guarded(lambda: process._machine.note_settled(0, shell.now_ms()))
    for height in range(3):
        inbox._entries.append((height, InboxDeposit(height, 16, b"\x01" * 20, 5)))
        inbox.count = inbox.covered_height = height + 1
        process._ledger_news(height, height + 1)
    assert process._machine.pool.inbox_cursor == 3
    assert not inbox._entries and inbox.count_at(3) == 3
    process._store.close()


async def test_one_of_several_sequencers_must_know_the_others(tmp_path: Path) -> None:
    options = TestnetOptions(validators=1, sequencers=4, traders=2)
    testnet = create_testnet(tmp_path / "net", options)
    config = load_config(testnet.config_path("sequencer-1"))
    chain = load_chain(config)
    ensure_directory(config.data)
    key = load_process_key(config, chain)
    for wrong in (
        msgspec.structs.replace(config, peer_listen=""),
        msgspec.structs.replace(config, peers=config.peers[:3]),
    ):
        with pytest.raises(ConfigError, match="all of them as peers"):
            SequencerProcess(wrong, chain, key)
    identities = list(chain.genesis.sequencers)
    identities[2] = msgspec.structs.replace(
        identities[2], certificate=make_certificate(key, "another").hex()
    )
    genesis = msgspec.structs.replace(chain.genesis, sequencers=identities)
    other = parse_genesis(msgspec.json.encode(genesis))
    with pytest.raises(ConfigError, match="certificate of sequencer-2"):
        SequencerProcess(config, other, key)


async def test_the_only_sequencer_has_no_links(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path / "net", TestnetOptions(validators=1, sequencers=1))
    config = load_config(testnet.config_path("sequencer-0"))
    chain = load_chain(config)
    ensure_directory(config.data)
    process = SequencerProcess(config, chain, load_process_key(config, chain))
    status = process._status()
    assert process._peers is None
    assert (status["members"], status["peers"], status["leader"]) == (1, 0, "sequencer-0")
    process._store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    options = TestnetOptions(validators=1, sequencers=4, traders=2, free_ports=True)
    return create_testnet(tmp_path_factory.mktemp("shared") / "net", options)


async def test_what_a_full_link_drops_is_counted(shared: Testnet) -> None:
    process = process_of(shared, "sequencer-0")
    chain = shared.chain()
    news = Certified(genesis_qc(genesis_header(chain.log_id, 0, b"")), None)
    for _ in range(QUEUE.max_frames):
        process._answer(Broadcast(news))
    assert "peer_frames_dropped" not in process._status()
    for _ in range(5):
        process._answer(Broadcast(news))
    assert process._status()["peer_frames_dropped"] == 3 * 5
    process._store.close()


# --- evidence


def two_votes(testnet: Testnet, member: int = 2, view: int = 17) -> DoubleVote:
    """Two votes of a sequencer in one view."""
    log_id, key = testnet.chain().log_id, testnet.key(f"sequencer-{member}")
    votes = [
        Vote(log_id, 0, view, 9, block_id, member,
             key.sign(vote_digest(log_id, 0, view, 9, block_id)))
        for block_id in (bytes(32), b"\1" * 32)
    ]  # fmt: skip
    return double_vote(*votes)


async def test_evidence_against_a_sequencer_outlives_the_process(shared: Testnet) -> None:
    process = process_of(shared, "sequencer-1")
    assert process._status()["evidence"] == 0
    process._guarded(lambda: [Misbehaviour(two_votes(shared))])
    process._guarded(lambda: [Misbehaviour(two_votes(shared, view=18))])
    process._guarded(lambda: [Misbehaviour(two_votes(shared, member=3))])
    assert process._status()["evidence"] == 2
    process._store.close()
    process = process_of(shared, "sequencer-1")
    assert process._status()["evidence"] == 2
    process._store.close()
    data = shared.data_path("sequencer-1")
    (data / "evidence" / "notes.evidence").write_text("of the operator")
    first, second = evidence_files(data)
    assert first.read_bytes() == encode(two_votes(shared)), "the first one stays"
    assert KeptEvidence(data).keep(two_votes(shared, member=3, view=99)) == second


def asked(testnet: Testnet, *arguments: str) -> Result:
    app = typer.Typer()

    @app.callback()
    def choose(context: typer.Context) -> None:
        context.obj = testnet.directory

    cli_evidence.register(app)
    return CliRunner().invoke(app, ["evidence", *arguments])


def test_the_command_shows_what_the_sequencers_have_kept(tmp_path: Path) -> None:
    options = TestnetOptions(validators=1, sequencers=4, traders=2, free_ports=True)
    testnet = create_testnet(tmp_path / "net", options)
    assert "no sequencer has kept evidence" in asked(testnet).stdout
    kept = KeptEvidence(testnet.data_path("sequencer-0")).keep(two_votes(testnet))
    found = asked(testnet)
    assert found.exit_code == 0
    assert found.stdout.startswith("sequencer-2 signed two votes in view 17 of the log: ")
    row = {"file": str(kept), "sequencer": "sequencer-2", "view": 17, "kind": "vote"}
    genesis = str(testnet.genesis_path)
    shown = asked(testnet, str(kept), "--genesis", genesis, "--json").stdout
    assert json.loads(shown) == {"evidence": [row]}


def test_the_command_believes_no_false_evidence(shared: Testnet, tmp_path: Path) -> None:
    true = two_votes(shared)
    forged = msgspec.structs.replace(true.second, signature=bytes(64))
    for raw in (b"", encode(true)[:-1], encode(msgspec.structs.replace(true, second=forged))):
        path = tmp_path / "false.evidence"
        path.write_bytes(raw)
        error = asked(shared, str(path)).exception
        assert error is not None
        text, status = explain(error) or ("", 0)
        assert status == EXIT_INVALID_PROOF and str(path) in text
    error = asked(shared, str(tmp_path / "missing")).exception
    assert error is not None
    assert (explain(error) or ("", 0))[1] == EXIT_USAGE


async def test_a_stream_of_the_log_ends_with_its_session(tmp_path: Path) -> None:
    """While nothing is ordered sessions come and go."""
    process = only_process(tmp_path)
    service = process._service
    await service.start("127.0.0.1", 0)
    assert service._server is not None
    try:
        connection = await Connection("127.0.0.1", service._server.port).open()
        connection.subscribe(encode(SubscribeLog(1, 1)), 1)
        await until(lambda: len(service._tasks) == 1)
        await connection.close()
        await until(lambda: not service._tasks)
    finally:
        await service.stop()
        process._store.close()
