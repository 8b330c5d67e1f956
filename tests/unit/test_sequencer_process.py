"""The sequencer's shell: when the disk fails under it, and with whom it talks."""

from __future__ import annotations

import errno
from itertools import count
from pathlib import Path

import msgspec
import pytest

import sequencer.process as shell
from cluster.testnet import TestnetOptions, create_testnet
from net.tls import make_certificate
from protocol.errors import ConfigError
from protocol.genesis import parse_genesis
from sequencer.process import SequencerProcess
from store.config import load_chain, load_config, load_process_key
from store.files import ensure_directory


async def test_after_a_failed_write_no_further_step_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testnet = create_testnet(tmp_path / "net", TestnetOptions(traders=2))
    config = load_config(testnet.config_path("sequencer-0"))
    chain = load_chain(config)
    ensure_directory(config.data)
    clock = count(chain.genesis.time_ms + 1_000, 1_000)
    monkeypatch.setattr(shell, "now_ms", lambda: next(clock))
    process = SequencerProcess(config, chain, load_process_key(config, chain))
    store = process._store
    process._guarded(lambda: process._machine.start(shell.now_ms()))
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
