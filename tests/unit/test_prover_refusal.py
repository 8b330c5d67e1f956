"""A prover that cannot pay says whom to pay, and does not fill its log with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import Code
from prover import process as prover_process
from prover.process import COMPLAINT_INTERVAL_MS, ProverProcess, refusal_text
from store.config import load_config


def test_only_a_fee_that_is_not_covered_asks_for_money() -> None:
    address = bytes(range(20))
    text = refusal_text(Code.INSUFFICIENT_BALANCE, "the balance is 0", address)
    assert text.startswith("the balance is 0; ")
    assert f"trilemma withdraw AMOUNT --to {address.hex()}" in text
    assert refusal_text(Code.BAD_PROOF, "wrong", address) == "wrong"


def test_the_refusal_is_logged_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TestnetOptions(validators=1, traders=1, free_ports=True)
    testnet = create_testnet(tmp_path / "testnet", options)
    key = testnet.key("prover-0")
    testnet.data_path("prover-0").mkdir(parents=True)
    prover = ProverProcess(load_config(testnet.config_path("prover-0")), testnet.chain(), key)
    now_ms = 5
    monkeypatch.setattr(prover_process, "_now_ms", lambda: now_ms)
    with capture_logs() as logs:
        for _ in range(3):
            prover._refuse(7, Code.INSUFFICIENT_BALANCE, "no money")
            now_ms += COMPLAINT_INTERVAL_MS // 2
    assert [entry["event"] for entry in logs] == ["batch refused"] * 2
    assert all(key.address.hex() in entry["error"] for entry in logs)
    assert key.address.hex() in str(prover._status()["refusal"])
    prover._store.close()
