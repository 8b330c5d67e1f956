"""What commands print for people: what happened, in 80 columns, without lines that say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from client import cli_account, cli_market, cli_submit, cli_validator
from client.console import listed
from client.validators import UnbondingView, ValidatorSetView, ValidatorView
from cluster import faults_command
from cluster.defaults import MARKETS
from cluster.faults_kinds import KINDS
from cluster.faults_orders import ActiveFault
from cluster.testnet import TestnetOptions, create_testnet
from protocol.actions import HALTED, OPEN

app = typer.Typer()
for module in (cli_account, cli_market):
    module.register(app)


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TestnetOptions(validators=1, traders=1, free_ports=True)
    return create_testnet(tmp_path_factory.mktemp("texts") / "net", options).directory


def call(testnet: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command prints that gets its action executed in block 9."""
    monkeypatch.setenv("TRILEMMA_TESTNET", str(testnet))

    async def trader_of(*_: object) -> Any:
        return type("Trader", (), {"account": 16})

    async def send(trader: Any, actions: list[Any], wait: str, timeout_s: float) -> dict[str, Any]:
        row = {"code": 0, "status": "done", "order_id": 0, "filled_lots": 0, "remaining_lots": 0}
        return {"action_id": "ab:0", "account": 16, "height": 9, "status": wait, "results": [row]}

    monkeypatch.setattr(cli_submit, "trader_of", trader_of)
    monkeypatch.setattr(cli_submit, "send", send)
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, (done.exception, done.output)
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("transfer", "1.50", "9"), "moved 1.5 dollars to account 16 sub-account 9"),
        (("transfer", "1", "insurance"), "moved 1 dollar to account insurance"),
        (
            ("transfer-position", "BTC-PERP", "-0.5", "1"),
            "moved -0.5 BTC-PERP to account 16 sub-account 1",
        ),
    ],
)
def test_what_was_moved_is_told(
    testnet: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    assert call(testnet, monkeypatch, *words) == told


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (HALTED, ", which is halted now"),
        (OPEN, ", which is open still; more than half of 3 guardians must agree"),
        (None, ""),
    ],
)
def test_a_vote_tells_whether_the_mode_changed(
    testnet: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None, told: str
) -> None:
    heights = [8, 8, 9]

    async def ask(self: Any, *_: object) -> Any:
        if mode is None:
            raise TimeoutError
        height = heights.pop(0)
        # Before the vote is executed there, the mode is that of before.
        market = type("Stats", (), {"mode": mode if height == 9 else HALTED ^ OPEN ^ mode})
        return type("View", (), {"height": height, "markets": [market]})

    monkeypatch.setattr("client.channel.Channel.ask", ask)
    guardians = ["aa" * 32, "bb" * 32, "cc" * 32]
    monkeypatch.setattr(cli_market, "_guardians", lambda _: len(guardians))
    shown = call(testnet, monkeypatch, "vote", "BTC-PERP", "halted")
    assert shown == f"voted for halted in BTC-PERP{told}"


def test_a_book_names_its_columns() -> None:
    def level(price: str) -> dict[str, Any]:
        return {"price": price, "size": "0.25", "orders": 3}

    data = {"market": "BTC-PERP", "mark": "5", "asks": [level("6"), level("7")],
            "bids": [level("4")]}  # fmt: skip
    head, names, *rows = cli_market._book_text(data).splitlines()
    assert head == "BTC-PERP  mark 5"
    assert [row.split() for row in rows] == [
        ["ask", "7", "0.25", "3"], ["ask", "6", "0.25", "3"], ["bid", "4", "0.25", "3"]
    ]  # fmt: skip
    assert names.split() == ["side", "price", "size", "orders"]
    ends = [(line.index("0.25") + 4, len(line)) for line in rows]
    assert ends == [(names.index("size") + 4, len(names))] * 3, "below their names"
    empty = {**data, "asks": [], "bids": []}
    assert cli_market._book_text(empty).endswith("no order rests")


def test_an_account_shows_nothing_that_is_nothing() -> None:
    from client.reports import account_lines

    def held(market: str, size: str, unrealised: int = 0) -> dict[str, Any]:
        return {"market": market, "size": size, "unrealised_uusd": unrealised, "funding_uusd": 0,
                "liquidation": "", "stale": False}  # fmt: skip

    def exit_of(order: int, size: str) -> dict[str, Any]:
        return {"order_id": order + 1, "client_id": 0, "market": "BTC-PERP", "side": "sell",
                "kind": "take-profit", "size": size, "at": "6", "limit": "",
                "waits_for": order}  # fmt: skip

    data: dict[str, Any] = {
        "account": 16, "address": "", "cash_uusd": 1, "equity_uusd": 1, "initial_margin_uusd": 0,
        "maintenance_margin_uusd": 0, "orders": [], "twaps": [], "settings": [], "dead_man_ms": 0,
        "accounts": [16],
        "positions": [held("BTC-PERP", "0"), held("ETH-PERP", "0", 5), held("SOL-PERP", "-1")],
        "triggers": [exit_of(12, "0"), exit_of(14, "0.5"), exit_of(0, "0")],
    }  # fmt: skip
    before = repr(data)
    text = account_lines(MARKETS, cli_account._shown(data))
    assert "BTC-PERP  0" not in text and "ETH-PERP  0  unrealised 0.000005" in text
    assert "SOL-PERP  -1" in text
    assert "take-profit 13  BTC-PERP sell what order 12 fills at 6" in text
    assert "take-profit 15  BTC-PERP sell 0.5 at 6" in text
    assert "take-profit 1 " not in text
    assert repr(data) == before, "programs read all of it"


def test_validators_fit_80_columns() -> None:
    jailed = "jailed until 2023-11-14 22:13:20 UTC of the ledger's time"
    validators = [
        ValidatorView(
            f"validator-{number}", f"{number}f" * 20, "", number, 1_234_567_890_123,
            1_234_567_890_123, number == 1, 1_700_000_000_000 * (number == 1),
            [UnbondingView(1_234_567_890_123, 0)], "",
        )
        for number in range(10)
    ]  # fmt: skip
    text = cli_validator._table(ValidatorSetView(3, 12_345, 1_700_000_000_000, validators))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["validator", "votes", "stake", "unbonding", "state"]
    money = ["1234567.890123"] * 3
    assert lines[2].split() == ["validator-0", *money, "validates"]
    assert [line.strip() for line in lines[3:7]] == [
        "0f" * 20, lines[4].strip(), "1f" * 20, jailed
    ]  # fmt: skip


def test_a_list_breaks_between_names() -> None:
    lines = listed("kinds", sorted(KINDS)).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines) == f"kinds: {', '.join(sorted(KINDS))}"


@pytest.mark.parametrize(
    ("suffered", "options", "kinds"), [(True, [], False), (True, ["--kinds"], True),
                                      (False, [], True)],
)  # fmt: skip
def test_kinds_of_faults_are_listed_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, suffered: bool, options: list[str], kinds: bool
) -> None:
    found = [ActiveFault("validator-0", "delay", "200 ms")] if suffered else []

    class Quiet:
        async def active(self) -> list[ActiveFault]:
            return found

    monkeypatch.setattr(faults_command, "_nemesis", lambda _: Quiet())
    done = CliRunner().invoke(faults_command.faults_app, ["list", *options])
    assert done.exit_code == 0, done.exception
    assert ("validator-0" in done.stdout, "\nkinds: " in done.stdout) == (suffered, kinds)
