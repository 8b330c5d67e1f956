"""Failures at the command line are one sentence on stderr and an exit status, never a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from client import cli_audit
from client.channel import Unreachable
from client.export_command import ExportReport
from client.faults import InvalidProof, NoProgress, explain
from client.reports import account_data, account_lines
from client.submission import ActionRejected
from client.units import UnitError
from cluster import cli
from cluster.cli import app
from cluster.commands import register
from cluster.demo import DemoOptions, run_demo
from cluster.faults_run import RunOptions, fresh_options, run_experiment
from cluster.faults_schedule import load_experiment
from cluster.faults_targets import find_target
from cluster.launch import require_host
from cluster.lock import SupervisorLock
from cluster.testnet import Place, TestnetOptions, contained, create_testnet
from protocol.errors import (
    Code,
    ConfigError,
    Rejected,
    RemoteFault,
    SafetyViolation,
    TrilemmaError,
)
from protocol.messages_trading import AccountView, PositionView, StandingView, TriggerView, TwapView
from store.config import load_config, parse_address
from store.faults import disk
from store.files import DiskRefuses
from store.testnet import Testnet

ROOT = Path(__file__).resolve().parents[2]

if not app.registered_commands:
    register(app)


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli") / "testnet"
    create_testnet(directory, TestnetOptions(validators=1, traders=3, free_ports=True))
    return directory


@pytest.fixture(scope="module")
def whole() -> typer.Typer:
    """All commands, in this process: to start one for each takes long."""
    made = typer.Typer(cls=cli.Commands, pretty_exceptions_enable=False)
    made.callback()(cli._global_options)
    cli.register(made)
    return made


def trilemma(*arguments: str, testnet: Path | str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRILEMMA_TESTNET": str(testnet), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["order", "DOGE-PERP", "buy", "1", "1"], "there are BTC-PERP"),
        (["order", "BTC-PERP", "buy", "1", "--", "-5"], "above zero"),
        (["order", "BTC-PERP", "hold", "1", "5"], "buy or sell"),
        (["order", "BTC-PERP", "buy", "1", "60000.05"], "tick of BTC-PERP"),
        (["order", "BTC-PERP", "buy", "0.0001", "60000"], "lot of BTC-PERP"),
        (["order", "BTC-PERP", "buy", "1"], "give a PRICE"),
        (["order", "BTC-PERP", "buy", "1", "5", "--market"], "no price"),
        (["order", "BTC-PERP", "buy", "1", "5", "--tif", "day"], "time in force"),
        (
            ["order", "BTC-PERP", "buy", "1", "5", "--stp", "none"],
            "cancel-taker, cancel-both",
        ),
        (["order", "BTC-PERP", "buy", "1", "5", "--expires", "soon"], "written as 30s"),
        (["order", "BTC-PERP", "buy", "1", "--market", "--expires", "5s"], "never rests"),
        (["order", "BTC-PERP", "buy", "1", "5", "--wait", "never"], "--wait takes"),
        (["order", "BTC-PERP", "buy", "1", "5", "--client-id", str(1 << 64)], "less than or equal"),
        (["cancel", "BTC-PERP", str(1 << 64)], "less than or equal"),
        (["cancel"], "--all for everything"),
        (["cancel", "BTC-PERP", "--all"], "in all markets"),
        (["cancel", "BTC-PERP", "--client-id"], "give the client id"),
        (["modify", "BTC-PERP", "0", "1", "5"], "greater than or equal"),
        (["quote", "BTC-PERP", "--bid", "5"], "PRICE:SIZE"),
        (["scale", "BTC-PERP", "buy", "1", "5", "6", "--orders", "101"], "2 to 100"),
        (["trigger", "BTC-PERP", "buy", "1", "now", "5"], "stop, take-profit, trailing"),
        (["oco", "BTC-PERP", "buy", "1", "--stop", "5"], "give --price"),
        (["twap", "BTC-PERP", "buy", "1", "long"], "written as 30s"),
        (["transfer", "1", "x"], "sub-account"),
        (["transfer-position", "BTC-PERP", "0", "1"], "must not be 0"),
        (["candles", "BTC-PERP", "--interval", "2m"], "an interval is one of"),
        (["vote", "BTC-PERP", "shut"], "a mode is one of"),
        (["verify-receipt", "no-such-file"], "no proof file"),
        (["verify", "no-such-file"], "no proof file"),
        (["audit", "--archive", "no-such-file"], "cannot read the archive"),
        (["audit", "--archive", "pyproject.toml"], "no archive"),
        (["audit", "--data", "docs"], "no validator's data directory"),
        (["audit", "--data", "docs", "--archive", "docs"], "not both"),
        (["audit", "--from", "3"], "begins from a state"),
        (["export", "pyproject.toml"], "no archive"),
        (["export", "--out", "pyproject.toml"], "no archive"),
        (["export"], "as FILE, or with --out FILE"),
        (["export", "one", "--out", "two"], "as FILE, or with --out FILE"),
        (["exit-proof"], "as FILE, or with --out FILE"),
        (["proof", "account", "--checkpoint", "none"], "no checkpoint none"),
        (["receipt", "0", "--checkpoint", "no-such-file"], "no checkpoint"),
        (["account", "--number", "-1"], "greater than or equal"),
        (["status", "--interval-s", "0"], "greater than or equal"),
        (["withdraw", "ten"], "decimal"),
        (["protection", "BTC-PERP", "10"], "a WINDOW, such as 10 1s"),
        (["protection", "BTC-PERP", "0", "1s"], "only 0 to switch it off"),
        (["init", "net", "--validators", "0"], "1 to 20 validator processes, not 0"),
        (["withdraw", "10", "--to", "abc"], "20 bytes in hex"),
        (["init", "net", "--epoch-s", "-1"], "an epoch takes 0 to"),
        (["init", "net", "--unbonding-s", "59"], "unbonding takes 60 to"),
        (["init", "net", "--jail-s", "-1"], "jail takes 0 to"),
        (["init", "net", "--retain-blocks", "-1"], "greater than or equal"),
        (["replay", "no-such-file.csv"], "cannot read"),
        (["replay", "x.csv", "--format", "itch"], "there is: lobster"),
        (["node", "--config", "no-such-file.toml"], "cannot read the configuration"),
    ],
)
def test_what_cannot_work_is_a_usage_error(
    arguments: list[str],
    says: str,
    testnet: Path,
    whole: typer.Typer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "app", whole)
    monkeypatch.setattr(cli, "register", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["trilemma", *arguments])
    monkeypatch.setenv("TRILEMMA_TESTNET", str(testnet))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert ended.value.code == 2, err
    assert says in " ".join(err.split())
    assert out == ""


def test_a_directory_without_a_testnet_says_how_to_make_one(tmp_path: Path) -> None:
    done = trilemma("status", testnet=tmp_path)
    assert done.returncode == 2
    assert "trilemma init" in done.stderr and "Traceback" not in done.stderr


def test_a_cluster_that_does_not_run_is_reported(testnet: Path) -> None:
    done = trilemma("status", "--json", testnet=testnet)
    assert done.returncode == 1
    assert "trilemma up" in done.stderr
    rows = json.loads(done.stdout)["processes"]
    assert [row["state"] for row in rows] == ["down"] * 4


def test_init_says_how_to_start_the_testnet_that_it_made(tmp_path: Path) -> None:
    directory = tmp_path / "elsewhere"
    done = trilemma("init", "--free-ports", "--traders", "0", testnet=directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Start it with: trilemma up {directory}"


def test_up_makes_the_testnet_that_init_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Path] = []

    def launch(directory: Path, wait_s: float) -> int:
        launched.append(directory)
        return 7

    monkeypatch.setattr("cluster.launch.launch_detached", launch)
    monkeypatch.setattr("cluster.launch.require_ports", lambda testnet: None)
    up = CliRunner().invoke(app, ["up", str(tmp_path / "up"), "--detach"])
    assert up.exit_code == 0 and "made a testnet in" in up.output, up.output
    made = CliRunner().invoke(app, ["init", str(tmp_path / "init")])
    assert made.exit_code == 0, made.output
    ours, usual = Testnet.load(tmp_path / "up"), Testnet.load(tmp_path / "init")
    assert launched == [tmp_path / "up"]
    assert [one.name for one in ours.processes] == [one.name for one in usual.processes]


@pytest.mark.parametrize("field", ["public", "peer", "observe"])
@pytest.mark.parametrize("options", [[], ["--detach"]])
def test_up_names_a_port_in_use_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, options: list[str]
) -> None:
    made = create_testnet(tmp_path / "net", TestnetOptions(traders=0, free_ports=True))
    monkeypatch.setattr("cluster.launch.launch_detached", lambda *_: pytest.fail("started"))
    monkeypatch.setattr("cluster.supervisor.Supervisor", lambda *_, **__: pytest.fail("started"))
    address = getattr(made.process("validator-2"), field)
    with socket.create_server(parse_address(address)):
        done = CliRunner().invoke(app, ["up", str(made.directory), *options])
    assert isinstance(done.exception, ConfigError), done.output
    for words in (f"{address}, where validator-2 listens, is already in use", "--free-ports"):
        assert words in str(done.exception)


@pytest.mark.parametrize(
    ("place", "hint"), [("compose", "docker compose -f FILE up -d"), ("kubernetes", "Kubernetes")]
)
def test_a_testnet_of_containers_or_pods_is_not_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place, hint: str
) -> None:
    monkeypatch.setattr("cluster.faults_containers.find_containers", lambda _: None)
    monkeypatch.setattr("cluster.restart.described_containers", lambda _: {})
    monkeypatch.setattr("cluster.supervisor.Supervisor", lambda *_, **__: pytest.fail("started"))
    options = contained(TestnetOptions(traders=1, free_ports=True), place)
    made = create_testnet(tmp_path / "my net", options)
    for arguments in (["up"], ["up", "--detach"], ["restart"]):
        command, *rest = arguments
        done = CliRunner().invoke(app, [command, str(made.directory), *rest])
        assert isinstance(done.exception, ConfigError), done.output
        assert hint in str(done.exception) and "trilemma up" not in str(done.exception)
    with pytest.raises(ConfigError, match=hint) as failed:
        find_target(made)
    assert "trilemma up" not in str(failed.value)


def test_an_experiment_does_not_run_a_testnet_of_containers_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.faults_containers.find_containers", lambda _: None)
    monkeypatch.setattr("cluster.faults_run.Supervisor", lambda *_, **__: pytest.fail("started"))
    experiment = load_experiment(ROOT / "faults" / "validator-killed.toml")
    sizes = msgspec.structs.replace(fresh_options(experiment), traders=0)
    made = create_testnet(tmp_path / "net", contained(sizes, "compose"))
    running = run_experiment(experiment, RunOptions(testnet=made.directory))
    with pytest.raises(ConfigError, match="is made for compose, not for this host"):
        asyncio.run(running)


def test_data_on_another_disk_is_no_container(tmp_path: Path) -> None:
    options = TestnetOptions(traders=0, free_ports=True, data_root=str(tmp_path / "disk"))
    made = create_testnet(tmp_path / "net", options)
    assert made.place == "host"
    require_host(made)
    made.config_path("validator-0").unlink()
    assert made.place == "host"


def test_a_directory_with_a_space_is_quoted_in_what_to_type(tmp_path: Path) -> None:
    directory = tmp_path / "my testnet"
    with pytest.raises(ConfigError, match=f"trilemma init '{directory}'$"):
        Testnet.load(directory)
    made = CliRunner().invoke(app, ["init", str(directory), "--free-ports", "--traders", "0"])
    assert made.output.endswith(f"Start it with: trilemma up '{directory}'\n"), made.output
    lock = SupervisorLock(directory)
    try:
        with pytest.raises(ConfigError, match=f"trilemma down '{directory}'$"):
            SupervisorLock(directory)
        done = CliRunner().invoke(app, ["up", str(directory)])
    finally:
        lock.release()
    assert str(done.exception).endswith(f"trilemma down '{directory}'"), done.output


def test_who_does_not_answer_is_started_where_its_testnet_is(tmp_path: Path) -> None:
    directory = tmp_path / "my testnet"
    create_testnet(directory, TestnetOptions(traders=1, free_ports=True))
    done = trilemma("book", "BTC-PERP", testnet=directory)
    assert done.returncode == 4 and f"start it with: trilemma up '{directory}'" in done.stderr
    traced = trilemma("trace", "00" * 32, testnet=directory)
    assert traced.returncode == 4 and f"trilemma up '{directory}'" in traced.stderr


def test_init_takes_times_of_staking_and_says_what_follows(tmp_path: Path) -> None:
    done = trilemma(
        "init", "--free-ports", "--traders", "0", "--epoch-s", "0", "--unbonding-s", "600",
        "--jail-s", "5", "--retain-blocks", "100", "--retain-batches", "5000", "--json",
        testnet=tmp_path / "net",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in (
        "nobody can bond", "trusted for 300 s", "`trilemma audit` needs", "512 blocks",
        "5000 batches settle within a day",
    ):  # fmt: skip
        assert words in done.stderr
    made = Testnet.load(json.loads(done.stdout)["directory"])
    staking = made.chain().genesis.staking
    assert (staking.epoch_ms, staking.unbonding_ms, staking.jail_ms) == (0, 600_000, 5_000)
    assert load_config(made.config_path("validator-3")).retain_blocks == 100
    assert made.chain().genesis.settlement.keep_batches == 5_000


def test_an_account_for_programs_names_every_field_and_unit(testnet: Path) -> None:
    markets = Testnet.load(testnet).chain().genesis.markets
    held = PositionView(
        0, -500, -30_000_000_000, 600_000, -20_000_000, 600_000_000, 300_000_000, -7, 5, 700_001
    )
    view = AccountView(0, 16, bytes(20), 5_000_000, 4, 3, 2, 1, [held], 9)
    trigger = TriggerView(0, 9, 4, 1, 2, 500, 0, 10_000, 3, 1, 0, 8, 0, 600_500)
    twap = TwapView(0, 11, 0, 0, 500, 100, 0, 77, 60_000)
    standing = StandingView(0, 16, 9, [trigger], [twap], [(0, 5, 0, 0)], 88, 1, [16, 17])
    data = account_data(markets, view, [(0, 7, 8, 1, 600_010, 250)], standing)
    assert data["address"] == "00" * 20 and data["cash_uusd"] == 5_000_000
    assert data["positions"] == [
        {
            "market": "BTC-PERP", "size": "-0.5", "mark": "60000", "cost_uusd": -30_000_000_000,
            "unrealised_uusd": -20_000_000, "funding_uusd": -7, "initial_margin_uusd": 600_000_000,
            "maintenance_margin_uusd": 300_000_000, "leverage": 5, "liquidation": "70000.1",
            "stale": False,
        }
    ]  # fmt: skip
    assert data["orders"] == [
        {
            "order_id": 7, "client_id": 8, "market": "BTC-PERP", "side": "sell",
            "price": "60001", "remaining": "0.25",
        }
    ]  # fmt: skip
    assert data["triggers"] == [
        {
            "order_id": 9, "client_id": 4, "market": "BTC-PERP", "side": "sell",
            "kind": "trailing", "size": "0.003", "at": "50", "limit": "", "slippage_ppm": 10_000,
            "best": "60050", "flags": ["reduce-only"], "expires_ms": 0, "linked_with": 8,
            "waits_for": 0,
        }
    ]  # fmt: skip
    assert data["twaps"][0]["done"] == "0.1" and data["accounts"] == [16, 17]
    assert data["settings"][0]["leverage"] == 5 and data["dead_man_ms"] == 88
    for text in ("liquidation beyond 70000.1", "trailing 9", "0.1 of 0.5", "up to 5", "16, 17"):
        assert text in account_lines(markets, data)
    json.dumps(data)


def test_a_demo_that_cannot_write_its_report_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / ".trilemma").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "demo"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert ".trilemma" in done.stderr and "starting" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_demo_on_a_file_system_for_reading_names_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.demo.uvloop.run", lambda _: pytest.fail("started"))
    report = tmp_path / "demo" / "report.json"
    disk.order(read_only=True)
    try:
        with pytest.raises(ConfigError, match=f"cannot write {report}: Read-only file system"):
            run_demo(DemoOptions(report=report))
    finally:
        disk.order()


def test_ctrl_c_before_a_command_begins_is_no_traceback() -> None:
    code = (
        "from cluster import cli\n"
        "def interrupted(app, called): raise KeyboardInterrupt\n"
        "cli.register = interrupted\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("arguments", [["--version"], ["status", "--json"], ["status"]])
def test_a_result_that_cannot_be_written_is_told_as_that(
    arguments: list[str], testnet: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            cwd=ROOT, env={**os.environ, "TRILEMMA_TESTNET": str(testnet)},
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    said = done.stderr.splitlines()
    assert done.returncode == 1 and len(said) == 1, done.stderr
    assert said[0].startswith("trilemma: cannot write the output: No space left on device")
    assert "may be placed" in said[0]


CLOSINGS = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closing", CLOSINGS)
def test_a_command_with_closed_standard_files_runs_all_the_same(
    closing: str, testnet: Path
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m cluster.cli status {closing}', sys.executable],
        cwd=ROOT, env={**os.environ, "TRILEMMA_TESTNET": str(testnet)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done
    assert ("validator-0" in done.stdout) == (">&-" not in closing.replace("2>&-", ""))
    assert ("no process answers" in done.stderr) == ("2>&-" not in closing)
    assert "Assertion" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("closing", CLOSINGS)
def test_a_process_has_its_standard_files(closing: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from net.runner import run_process\n"
        "status = run_process(Path('no-such-file.toml'), 'node', None)\n"
        "[os.fstat(number) for number in range(3)]\n"
        "sys.exit(status)"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, code],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "", done


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(30, "Read-only file system", "a/b"), "cannot write a/b: Read-only file system; "),
        (DiskRefuses(28, "a/b"), "cannot write a/b: No space left on device; make room"),
        (OSError(28, "No space left on device"), "cannot write the output: No space left"),
        (OSError(13, "Permission denied", "a/b"), "Permission denied: a/b"),
        (OSError(5, "Input/output error", "a/b"), "Input/output error: a/b"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_an_error_of_the_system_names_what_it_is_about(error: OSError, says: str) -> None:
    text, status = explain(error) or ("", 0)
    assert text.startswith(says) and status == 1


def test_an_export_replaces_no_other_file(tmp_path: Path, testnet: Path) -> None:
    notes = tmp_path / "notes"
    notes.write_text("mine")
    done = trilemma("export", str(notes), testnet=testnet)
    assert done.returncode == 2 and "name another file" in done.stderr
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("resumed", [False, True])
def test_an_export_says_at_its_end_what_it_went_on_with_and_how_to_check_it(
    resumed: bool, tmp_path: Path, testnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "an archive"
    report = ExportReport(str(path), 7, 0, [], 900, resumed, "ab")
    monkeypatch.setattr("client.cli_audit._with_source", lambda *_: report)
    audits = typer.Typer()
    cli_audit.register(audits)
    done = CliRunner().invoke(audits, ["export", str(path)], obj=testnet)
    assert done.exit_code == 0, done.output
    result, check = done.output.splitlines()
    assert result.startswith(f"{path}: 7 ledger blocks")
    assert ("went on with the archive that was there" in result) == resumed
    assert check == f"check it with: trilemma audit --archive '{path}'"


def test_starting_is_quick_because_commands_import_lazily() -> None:
    heavy = ("uvloop", "cryptography", "execution.engine", "prover.tree", "client.replay")
    code = (
        "import sys; from client import cli_account, cli_flow, cli_market, cli_proof, cli_trade; "
        "from client import cli_trigger; from cluster import cli, commands; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 2),
        (UnitError("x"), 2),
        (Rejected(Code.BAD_SIZE, "x"), 3),
        (RemoteFault(Code.UNKNOWN_ACCOUNT, "x"), 3),
        (ActionRejected(Code.INSUFFICIENT_MARGIN, "x"), 3),
        (RemoteFault(Code.BUSY, "x"), 4),
        (Unreachable("x"), 4),
        (NoProgress("x"), 4),
        (TimeoutError("x"), 4),
        (ConnectionResetError("x"), 4),
        (SafetyViolation("x"), 5),
        (InvalidProof("x"), 6),
        (Rejected(Code.BAD_PROOF, "x"), 6),
        (RemoteFault(Code.BAD_CERTIFICATE, "x"), 6),
        (TrilemmaError("x"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_every_failure_has_its_exit_status(error: Exception, status: int) -> None:
    explained = explain(error)
    assert explained is not None
    text, found = explained
    assert found == status
    assert "\n" not in text and text


def test_a_bug_of_ours_is_not_hidden() -> None:
    assert explain(KeyError("x")) is None


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda one: one.stem)
def test_an_example_without_a_testnet_says_so_in_a_sentence(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TRILEMMA_TESTNET": str(tmp_path / "nowhere")}
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2) and "there is no testnet in" in done.stderr
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_an_argument_may_be_below_zero(testnet: Path) -> None:
    behind = trilemma("faults", "clock", "nobody-0", "-400", testnet=testnet)
    assert "does not run" in behind.stderr, behind.stderr
    short = trilemma("transfer-position", "BTC-PERP", "-0.5", "2", testnet=testnet)
    assert "No such option" not in short.stderr and short.returncode == 4, short.stderr
