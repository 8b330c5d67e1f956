"""What commands that sign print of a batch: its result, and the id that `trilemma trace` takes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from client import (
    cli_account,
    cli_force,
    cli_market,
    cli_submit,
    cli_trade,
    cli_trigger,
    cli_validator,
)
from client.cli_submit import send, tell, tell_all
from client.faults import EXIT_NO_PROGRESS, EXIT_REJECTED, EXIT_USAGE, explain
from client.submission import State, Submission
from client.trace import parse_action_id
from client.units import lots_to_size, uusd_to_usd
from cluster.defaults import MARKETS
from cluster.testnet import TestnetOptions, create_testnet
from protocol.actions import CancelAll, batch_id
from protocol.errors import Code, ConfigError
from protocol.events import BatchExecuted, Result

RAW = b"a signed batch"

app = typer.Typer()
for module in (cli_account, cli_force, cli_market, cli_trade, cli_trigger, cli_validator):
    module.register(app)


class Trader:
    """Its batches get as far as it is told."""

    account = 16

    def __init__(self, state: State, *results: Result) -> None:
        self.gets(state, *results)

    def gets(self, state: State, *results: Result) -> None:
        self._state, self._results = state, list(results)

    async def batch(self, actions: list[Any]) -> Submission:
        made = Submission(RAW, bytes(32), 5, self.account, len(actions))
        made.submitted_ns = 1
        if self._results:
            results = self._results * len(actions) if len(self._results) == 1 else self._results
            made.result = BatchExecuted(self.account, bytes(32), 5, 0, results)
        made.reach(self._state)
        return made


async def sent(trader: Any, wait: State = "executed") -> dict[str, Any]:
    return await send(trader, [CancelAll(0)], wait, 0.001)


def ids(text: str) -> list[tuple[bytes, int]]:
    lines = [line.split() for line in text.splitlines()]
    return [parse_action_id(words[1]) for words in lines if words[0] == "action"]


async def test_people_read_the_id_that_trace_takes(capsys: pytest.CaptureFixture[str]) -> None:
    data = await sent(Trader("executed", Result(0, 1, 17, 0, 250)))
    row = data["results"][0]
    tell({**data, **row}, MARKETS[0], as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("resting  order 17  filled 0  remaining 0.25\n")
    assert ids(shown) == [(batch_id(RAW), 0)]
    tell({**data, **row}, MARKETS[0], as_json=True)
    assert json.loads(capsys.readouterr().out)["action_id"] == batch_id(RAW).hex()


async def test_several_orders_have_one_id_also_where_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = await sent(Trader("executed", Result(0, 1, 17), Result(Code.BAD_PRICE)))
    with pytest.raises(typer.Exit) as ended:
        tell_all(data, MARKETS[0], as_json=False)
    assert ended.value.exit_code == EXIT_REJECTED
    shown = capsys.readouterr()
    assert ids(shown.out) == [(batch_id(RAW), 0)] and "action 2 was rejected" in shown.err


async def test_a_state_that_is_not_reached_in_time_says_what_to_look_at() -> None:
    with pytest.raises(TimeoutError, match=r"is not final .*it is executed") as late:
        await sent(Trader("executed", Result(0)), "final")
    text, status = explain(late.value) or ("", 0)
    assert status == EXIT_NO_PROGRESS
    assert text.endswith(f"see: trilemma trace {batch_id(RAW).hex()}")


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TestnetOptions(validators=1, traders=1, free_ports=True)
    return create_testnet(tmp_path_factory.mktemp("cli") / "net", options).directory


ONE_ACTION = (
    "order BTC-PERP buy 1 5",
    "modify BTC-PERP 1 1 5",
    "cancel BTC-PERP 1",
    "quote BTC-PERP --bid 5:1",
    "trigger BTC-PERP buy 1 stop 5",
    "oco BTC-PERP sell 1 --price 6 --stop 5",
    "bracket BTC-PERP buy 1 5 --take-profit 6 --stop 4",
    "twap BTC-PERP buy 1 10m",
    "dead-man 60s",
    "leverage BTC-PERP 5",
    "protection BTC-PERP 5 1s",
    "transfer 10 1",
    "transfer-position BTC-PERP -1 1",
    "vote BTC-PERP halted",
)
SEVERAL = "scale BTC-PERP buy 1 5 6 --orders 2"
MORE = {
    "dead-man": {"time_ms"}, "transfer": {"to_account"}, "transfer-position": {"to_account"},
    "vote": {"market", "mode", "market_mode"},
}  # fmt: skip
"""What the JSON of a command tells besides what that of all of them does."""


@pytest.fixture
def trader(testnet: Path, monkeypatch: pytest.MonkeyPatch) -> Trader:
    """Whoever signs a command."""
    monkeypatch.setenv("TRILEMMA_TESTNET", str(testnet))
    made = Trader("executed")

    async def trader_of(*_: object) -> Trader:
        return made

    monkeypatch.setattr(cli_submit, "trader_of", trader_of)
    monkeypatch.setattr("client.trader.Trader", lambda *_: made)
    monkeypatch.setattr(cli_market, "_mode_after", lambda *_: "open")
    return made


def call(line: str, *options: str) -> Any:
    return CliRunner().invoke(app, [*shlex.split(line), *options])


@pytest.mark.parametrize("line", [*ONE_ACTION, SEVERAL])
def test_every_action_waits_for_the_state_that_it_is_told(
    line: str, trader: Trader, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []

    async def send(trader: Trader, actions: list[Any], wait: str, timeout_s: float) -> Any:
        waits.append(wait)
        return {"action_id": "", "account": trader.account, "status": wait, "results": []}

    monkeypatch.setattr(cli_submit, "send", send)
    for options in ([], ["--wait", "settled"]):
        done = call(line, *options)
        assert done.exit_code == 0, (done.exception, done.output)
    assert waits == ["executed", "settled"]
    done = call(line, "--wait", "never")
    assert isinstance(done.exception, ConfigError) and "--wait takes" in str(done.exception)


@pytest.mark.parametrize("line", ONE_ACTION)
def test_programs_read_the_same_of_every_action(line: str, trader: Trader) -> None:
    trader.gets("executed", Result(0, 0))
    told = set(json.loads(call(line, "--json").stdout))
    sent = {"action_id", "nonce_ms", "height", "account", "status", "latency_ms", "order_id"}
    assert told == sent | {"filled_lots", "remaining_lots"} | MORE.get(line.split()[0], set())
    trader.gets("accepted")
    done = call(line, "--json", "--wait", "accepted")
    assert json.loads(done.stdout)["status"] == "accepted", done.exception
    assert call(line, "--wait", "accepted").stdout.startswith("accepted\n"), "nothing is done yet"


@pytest.mark.parametrize("line", [*ONE_ACTION, SEVERAL])
def test_every_action_has_the_same_exit_statuses(line: str, trader: Trader) -> None:
    trader.gets("executed", Result(Code.BAD_PRICE))
    for wait in ("executed", "final"):
        done = call(line, "--wait", wait, "--timeout", "0.01")
        if line == SEVERAL:
            assert done.exit_code == EXIT_REJECTED and "executed" in done.stdout
        else:
            text, status = explain(done.exception) or ("", 0)
            assert status == EXIT_REJECTED and "rejected: bad_price" in text
    trader.gets("settled", Result(0, 0))
    done = call(line, "--wait", "final", "--timeout", "0.01")
    text, status = explain(done.exception) or ("", 0)
    assert status == EXIT_NO_PROGRESS and "(it is settled); see: trilemma trace " in text
    trader.gets("final", Result(0, 0))
    assert call(line, "--wait", "final").exit_code == 0


def test_whatever_submits_takes_wait() -> None:
    """Those that end with money on the other side have no state to choose."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    options = {name: {one for it in command.params for one in it.opts}
               for name, command in commands.items()}  # fmt: skip
    waits = {name for name, known in options.items() if "--wait" in known}
    assert waits == {line.split()[0] for line in (*ONE_ACTION, SEVERAL)}
    outcome = {name for name, known in options.items() if "--timeout" in known}
    assert outcome - waits == {"deposit", "withdraw"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("order BTC-PERP buy -1 5", "size '-1' must be above zero"),
        ("preview BTC-PERP buy 1 -5", "price '-5' must be above zero"),
        ("modify BTC-PERP 1 -0.5 5", "size '-0.5' must be above zero"),
        ("scale BTC-PERP buy 1 -5 6", "price '-5' must be above zero"),
        ("trigger BTC-PERP buy 1 stop -5", "price '-5' must be above zero"),
        ("twap BTC-PERP buy -1 10m", "size '-1' must be above zero"),
        ("twap BTC-PERP buy 1 -10m", "a length of time is written as"),
        ("twap BTC-PERP buy 1 -1h", "No such option: -1"),
        ("dead-man -60s", "a length of time is written as"),
        ("cancel BTC-PERP -5", "greater than or equal to 0"),
        ("leverage BTC-PERP -5", "greater than or equal to 0"),
        ("transfer -10 1", "amount '-10' must be above zero"),
        ("deposit -10", "amount '-10' must be above zero"),
        ("withdraw -10", "amount '-10' must be above zero"),
        ("force withdraw -10", "amount '-10' must be above zero"),
        ("validator bond -10 --key testnet.json", "the amount must not be negative"),
        ("transfer-position BTC-PERP 0 1", "the size must not be 0"),
        ("transfer 10 1 --wiat final", "No such option: --wiat"),
        ("order BTC-PERP buy 1 5 --timeout inf", "less than or equal to"),
        ("order BTC-PERP buy 1 5 --timeout nan", "than or equal to"),
        ("order BTC-PERP buy 1 --market --slippage 0", "slippage is 0.0001 to 50 per cent, not 0"),
        ("order BTC-PERP buy 1 --market --slippage 51", "to 50 per cent, not 51"),
        ("force close BTC-PERP buy --slippage 51", "to 50 per cent, not 51"),
        ("bracket BTC-PERP buy 1 5 --take-profit 4 --stop 6", "one exit would fire at once"),
        ("bracket BTC-PERP buy 1 5 --take-profit 5 --stop 5", "one exit would fire at once"),
        ("bracket BTC-PERP sell 1 5 --take-profit 6 --stop 4", "one exit would fire at once"),
    ],
)
def test_what_is_wrong_with_a_value_is_told(line: str, told: str, trader: Trader) -> None:
    done = call(line)
    error = explain(done.exception) if isinstance(done.exception, ConfigError) else None
    shown = " ".join(done.output.replace("│", " ").split())
    text, status = error or (shown, done.exit_code)
    assert told in text and status == EXIT_USAGE, (done.exception, done.output)


@pytest.mark.parametrize(
    "line",
    [
        "bracket BTC-PERP sell 1 5 --take-profit 4 --stop 6",
        "bracket BTC-PERP buy 1 5 --take-profit 6 --stop 7 --trailing",
        "transfer-position BTC-PERP -0.5 1",
        "order BTC-PERP buy 1 --market --slippage 50",
    ],
)
def test_what_is_right_is_sent(line: str, trader: Trader) -> None:
    trader.gets("executed", Result(0, 0))
    assert call(line).exit_code == 0


def test_every_quote_is_told_with_its_id(trader: Trader) -> None:
    trader.gets("executed", Result(0, 1, 7_677, 0, 2_000))
    lines = call("quote BTC-PERP --bid 5:1 --bid 6:0.5 --ask 7:0.5").stdout.splitlines()
    assert lines[:4] == [
        "quotes in BTC-PERP", "  order 7677  bid 0.5 at 6", "  order 7678  bid 1 at 5",
        "  order 7679  ask 0.5 at 7",
    ]  # fmt: skip
    trader.gets("executed", Result(0, 3))
    assert call("quote BTC-PERP").stdout.startswith("no quotes in BTC-PERP any more\n")


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        (Code.BAD_SIZE,
         f"an order is 0.001 to {lots_to_size(MARKETS[0], MARKETS[0].max_order_lots)}"),
        (Code.BAD_PRICE, "prices are 0.1 to 214748364.7"),
        (Code.POSITION_LIMIT,
         f"that is {lots_to_size(MARKETS[0], MARKETS[0].max_position_lots)}"),
        (Code.BELOW_MIN_NOTIONAL, f"that is {uusd_to_usd(MARKETS[0].min_notional_uusd)} dollars"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_limit_of_the_market(code: Code, limit: str, trader: Trader) -> None:
    trader.gets("executed", Result(code))
    done = call("order BTC-PERP buy 1 5")
    text, _ = explain(done.exception) or ("", 0)
    assert text.endswith(f"In BTC-PERP {limit}."), (text, done.exception)
    several = call(SEVERAL)
    assert several.stderr.count(f"In BTC-PERP {limit}.") == 2
