"""The table [clients] of a process's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.client_limits import ClientLimits
from store.config import load_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    testnet = create_testnet(tmp_path / "net", TestnetOptions(validators=1, traders=1))
    return testnet.config_path("sequencer-0")


def with_table(config: Path, *lines: str) -> Path:
    config.write_text(config.read_text() + "\n[clients]\n" + "\n".join(lines) + "\n")
    return config


def test_limits_are_the_defaults_unless_the_table_says_otherwise(config: Path) -> None:
    assert load_config(config).clients == ClientLimits()
    found = load_config(with_table(config, "requests_per_s = 50", "host_busy_ppm = 250000")).clients
    assert found == ClientLimits(requests_per_s=50, host_busy_ppm=250_000)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("requests_per_s = -1", "clients.requests_per_s must not be negative"),
        ("sessions = 0", "clients.sessions must be at least 1"),
        ("burst_s = 0", "clients.burst_s must be at least 1"),
        ("requests_per_second = 5", "requests_per_second"),
        ('sessions = "many"', "Expected `int`"),
    ],
)
def test_limits_that_make_no_sense_are_refused(config: Path, line: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(with_table(config, line))
