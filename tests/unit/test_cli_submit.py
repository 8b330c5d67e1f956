"""What commands that sign print of a batch: its result, and the id that `trilemma trace` takes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from client import cli_submit, cli_trade, cli_trigger
from client.cli_submit import send, tell, tell_all
from client.faults import EXIT_NO_PROGRESS, EXIT_REJECTED, explain
from client.submission import Submission
from client.trace import parse_action_id
from cluster.defaults import MARKETS
from cluster.testnet import TestnetOptions, create_testnet
from protocol.actions import CancelAll, batch_id
from protocol.errors import Code, ConfigError
from protocol.events import BatchExecuted, Result

RAW = b"a signed batch"

app = typer.Typer()
cli_trade.register(app)
cli_trigger.register(app)


class Trader:
    """Its batches get as far as it is told."""

    account = 16

    def __init__(self, state: Any, *results: Result) -> None:
        self._state, self._results = state, list(results)

    async def batch(self, actions: list[Any]) -> Submission:
        made = Submission(RAW, bytes(32), 5, self.account, len(actions))
        made.submitted_ns = 1
        made.reach(self._state)
        made.result = BatchExecuted(self.account, bytes(32), 5, 0, self._results)
        return made


async def sent(trader: Any, wait: str = "executed") -> dict[str, Any]:
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


@pytest.mark.parametrize(
    "line",
    [
        "order BTC-PERP buy 1 5",
        "modify BTC-PERP 1 1 5",
        "cancel BTC-PERP 1",
        "quote BTC-PERP --bid 5:1",
        "scale BTC-PERP buy 1 5 6 --orders 2",
        "trigger BTC-PERP buy 1 stop 5",
        "oco BTC-PERP sell 1 --price 6 --stop 5",
        "bracket BTC-PERP buy 1 5 --take-profit 6 --stop 4",
        "twap BTC-PERP buy 1 10m",
        "dead-man 60s",
    ],
)
def test_every_order_waits_for_the_state_that_it_is_told(
    line: str, testnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_TESTNET", str(testnet))
    waits: list[str] = []

    async def trader_of(*_: object) -> None:
        pass

    async def send(trader: None, actions: list[Any], wait: str, timeout_s: float) -> Any:
        waits.append(wait)
        return {"action_id": "", "status": wait, "results": []}

    for module in (cli_submit, cli_trade):
        monkeypatch.setattr(module, "trader_of", trader_of)
        monkeypatch.setattr(module, "send", send)
    for options in ([], ["--wait", "settled"]):
        done = CliRunner().invoke(app, [*shlex.split(line), *options])
        assert done.exit_code == 0, (done.exception, done.output)
    assert waits == ["executed", "settled"]
    done = CliRunner().invoke(app, [*shlex.split(line), "--wait", "never"])
    assert isinstance(done.exception, ConfigError) and "--wait takes" in str(done.exception)
