"""`--testnet` stands before a command or behind it, and names one testnet."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.faults import EXIT_USAGE, explain
from cluster import cli
from cluster.testnet import TestnetOptions, create_testnet

app = typer.Typer(cls=cli.Commands)
app.callback()(cli._global_options)
cli.register(app)


def told(*arguments: str) -> str:
    """What a command complains of; it must be the user's fault."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is not None, done.output
    explained = explain(done.exception)
    assert explained is not None, (done.exception, done.output)
    assert explained[1] == EXIT_USAGE
    return explained[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--testnet", "HERE", "status"],
        ["status", "--testnet", "HERE"],
        ["status", "--testnet=HERE", "--json"],
        ["status", "HERE"],
        ["--testnet", "HERE", "validator", "list"],
        ["validator", "--testnet", "HERE", "list"],
        ["validator", "list", "--testnet", "HERE"],
        ["faults", "clock", "validator-0", "-400", "--testnet", "HERE"],
        ["withdraw", "10", "--testnet", "HERE", "--as", "trader-01"],
        ["--testnet", "HERE", "status", "--testnet", "HERE"],
        ["--testnet", "HERE/", "status", "HERE"],
    ],
)
def test_it_may_stand_anywhere(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_TESTNET", str(tmp_path / "elsewhere"))
    here = str(tmp_path / "here")
    words = told(*(one.replace("HERE", here) for one in arguments))
    assert f"there is no testnet in {here};" in words


def test_without_it_the_environment_names_the_testnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value, path in (("", ".trilemma/testnet"), ("mine", "mine")):
        monkeypatch.setenv("TRILEMMA_TESTNET", value)
        assert f"there is no testnet in {tmp_path / path};" in told("status")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--testnet", "ONE", "status", "--testnet", "TWO"],
        ["--testnet", "ONE", "--testnet", "TWO", "status"],
        ["status", "--testnet", "ONE", "--testnet", "TWO"],
        ["validator", "--testnet", "ONE", "list", "--testnet", "TWO"],
        ["--testnet", "ONE", "status", "TWO"],
        ["--testnet", "ONE", "faults", "run", "soak", "--testnet", "TWO"],
        ["--testnet", "ONE", "validator", "init", "fifth", "--testnet", "TWO"],
    ],
)
def test_two_testnets_are_refused(arguments: list[str]) -> None:
    assert told(*arguments) == "two testnets are named, ONE and TWO; name one"


def test_a_value_of_that_name_stays_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_TESTNET", str(tmp_path))
    create_testnet(tmp_path, TestnetOptions(validators=1, traders=1, free_ports=True))
    assert "'--testnet'" in told("backup", "--out", "x", "--", "--testnet")
    assert "'--testnet'" in told("withdraw", "10", "--as", "--testnet")


@pytest.mark.parametrize("command", [["demo"], ["node"], ["faults", "soak"]])
def test_a_command_that_looks_at_no_testnet_does_not_take_it(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--testnet", "net"])
    assert done.exit_code == EXIT_USAGE and "No such option" in done.output, done.output
