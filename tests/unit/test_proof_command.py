"""What `trilemma proof` prints and writes, and the commands that are the same by another name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from proof_world import BATCH, World
from typer.testing import CliRunner

from client import cli_proof
from protocol.errors import ConfigError

app = typer.Typer()
app.callback()(lambda: None)
cli_proof.register(app)


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    def fetched(exchange: object, kind: str, *_: object) -> Any:
        return made.proof(kind)

    monkeypatch.setattr(cli_proof, "exchange_of", lambda _: SimpleNamespace(chain=made.chain.chain))
    monkeypatch.setattr(cli_proof, "_fetched", fetched)
    return made


def printed(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_without_a_file_the_proof_itself_is_the_one_object_on_stdout() -> None:
    out, err = printed("proof", "account")
    assert json.loads(out)["kind"] == "account" and json.loads(out)["proof"] and err == ""
    assert printed("proof", "account", "--json") == (out, "")


def test_a_file_is_written_and_told(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    text, err = printed("proof", "account", "--out", str(path))
    assert f"in batch {BATCH}, settled in ledger block" in text and "{" not in text
    assert f"trilemma verify {path}" in err
    written = json.loads(path.read_text())
    told = json.loads(printed("proof", "account", "--out", str(path), "--json")[0])
    assert told.pop("file") == str(path) and written.pop("proof")
    assert told == written


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "account.json"
    done = CliRunner().invoke(app, ["proof", "account", "--out", str(path)])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"cannot write {path}: No such file or directory"


def test_a_number_below_zero_is_told_to_be_wrong_as_a_number() -> None:
    for words in (["proof", "order"], ["receipt"]):
        done = CliRunner().invoke(app, [*words, "-1"])
        assert done.exit_code == 2 and "No such option" not in done.output


@pytest.mark.parametrize(
    ("alias", "of"),
    [(["receipt", "3"], ["proof", "liquidation", "3"]), (["verify-receipt"], ["verify"])],
)
def test_the_old_names_are_the_same_and_say_so(
    tmp_path: Path, world: World, alias: list[str], of: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    help_text = printed(alias[0], "--help")[0]
    assert f"The same as: trilemma {' '.join(of[:2]).removesuffix(' 3')}" in help_text
    path = tmp_path / "proof.json"
    printed("proof", "liquidation", "3", "--out", str(path))
    end = [str(path), "--state-root", world.state.root.hex()] if of == ["verify"] else []
    monkeypatch.setattr(cli_proof, "chain_of", lambda *_: world.chain.chain)
    assert printed(*alias, *end) == printed(*of, *end)
