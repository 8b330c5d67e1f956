"""The sequencer's shell when the disk fails under it."""

from __future__ import annotations

import errno
from itertools import count
from pathlib import Path

import pytest

import sequencer.process as shell
from cluster.testnet import TestnetOptions, create_testnet
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
