"""The supervisor on stand-in processes: restarts, failures for good, kills, and its own death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import supervisor as supervising
from cluster.child import last_words, trim_log
from cluster.health import probe
from cluster.lock import SupervisorLock, stop_supervisor, supervisor_pid
from cluster.supervisor import ClusterError, Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.running import PID_FILE
from store.testnet import ProcessEntry, Testnet

PATIENCE_S = 60.0
"""A bound that ends a broken test; nothing is measured against it."""

STAND_IN = """
import os, pathlib, signal, socketserver, struct, sys
import msgspec
name, port, chain = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
here = pathlib.Path(".")
print(name, "starts", flush=True)
with (here / f"{name}.starts").open("a") as file:
    file.write("x")
end = here / f"{name}.end"
if end.exists():
    print("ends at once", flush=True)
    sys.exit(int(end.read_text()))
if (here / f"{name}.stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pack = lambda value: (lambda raw: struct.pack(">I", len(raw)) + raw)(msgspec.msgpack.encode(value))
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while header := self.rfile.read(4):
            tag, number, *_ = msgspec.msgpack.decode(self.rfile.read(*struct.unpack(">I", header)))
            if tag == 1:
                answer = [64, number, 1, chain, 0, "node", name, 5, b"c"]
            else:
                answer = [66, number, {"height": 7, "pid": os.getpid()}]
            self.wfile.write(pack(answer))
            self.wfile.flush()
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    options = TestnetOptions(validators=1, traders=0, free_ports=True)
    return create_testnet(tmp_path / "net", options)


def stand_in(testnet: Testnet) -> Callable[[ProcessEntry, Path], list[str]]:
    chain = testnet.chain().chain_id.hex()

    def command(entry: ProcessEntry, config: Path) -> list[str]:
        port = entry.public.rpartition(":")[2]
        return [sys.executable, "-c", STAND_IN, entry.name, port, chain]

    return command


def supervisor(
    testnet: Testnet, news: list[str] | None = None, grace_s: float = 30.0
) -> Supervisor:
    report = (lambda _: None) if news is None else news.append
    return Supervisor(
        testnet,
        command=stand_in(testnet),
        report=report,
        stop_grace_s=grace_s,
        backoff_first_s=0.01,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - conditions on processes and files
            await asyncio.sleep(0.01)


async def until_answers(address: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await probe(address)
                return
            except OSError:
                await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


async def test_all_processes_start_serve_and_stop(testnet: Testnet) -> None:
    running = supervisor(testnet)
    async with running:
        await running.wait_ready(PATIENCE_S)
        pids = [running.pid(entry.name) for entry in testnet.processes]
        assert len(set(pids)) == 4 and None not in pids
        for entry in testnet.processes:
            assert running.state(entry.name) == "running"
            pid_file = testnet.directory / "run" / f"{entry.name}.pid"
            assert int(pid_file.read_text()) == running.pid(entry.name)
            assert f"{entry.name} starts" in testnet.log_path(entry.name).read_text()
        assert supervisor_pid(testnet.directory) == os.getpid()
    assert all(pid is not None and is_gone(pid) for pid in pids)
    assert supervisor_pid(testnet.directory) is None
    assert list((testnet.directory / "run").iterdir()) == []


async def test_a_crashed_process_is_started_again(testnet: Testnet) -> None:
    news: list[str] = []
    async with supervisor(testnet, news) as running:
        await running.wait_ready(PATIENCE_S)
        first = running.pid("validator-0")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: running.restarts("validator-0") == 1)
        await running.wait_ready(PATIENCE_S)
        assert running.pid("validator-0") not in (None, first)
        assert running.exit_status("validator-0") == -signal.SIGKILL
        assert running.restarts("sequencer-0") == 0
    assert any("validator-0 ended with status -9" in line for line in news)


async def test_a_process_that_keeps_failing_waits_longer_each_time(testnet: Testnet) -> None:
    (testnet.directory / "prover-0.end").write_text("1")
    news: list[str] = []
    async with supervisor(testnet, news) as running:
        await until(lambda: running.restarts("prover-0") >= 3)
    waits = [line.split()[-2] for line in news if "prover-0" in line]
    assert waits[:3] == ["0.01", "0.02", "0.04"]


@pytest.mark.parametrize("status", [2, 5])
async def test_some_ends_are_for_good(testnet: Testnet, status: int) -> None:
    (testnet.directory / "validator-0.end").write_text(str(status))
    news: list[str] = []
    async with supervisor(testnet, news) as running:
        with pytest.raises(ClusterError, match=r"(?s)validator-0 \(failed\).*ends at once"):
            await running.wait_ready(PATIENCE_S)
        assert running.state("validator-0") == "failed"
        assert running.exit_status("validator-0") == status
        assert (testnet.directory / "validator-0.starts").read_text() == "x"
        # Whoever waits tells of a bad configuration, so that it is said once.
        assert any("SAFETY" in line for line in news) is (status == 5)
        assert not any("configuration" in line for line in news)
        (testnet.directory / "validator-0.end").unlink()
        await running.restart("validator-0")
        await running.wait_ready(PATIENCE_S)


async def test_a_bad_configuration_that_nobody_waits_for_is_reported(testnet: Testnet) -> None:
    (testnet.directory / "validator-0.end").write_text("2")
    news: list[str] = []
    async with supervisor(testnet, news) as running:
        await until(lambda: running.state("validator-0") == "failed")
    assert sum("validator-0 cannot use its configuration" in line for line in news) == 1


def test_last_words_are_the_closing_sentence_or_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_words(log, "prover-0") == f"it left no word in {log}"
    log.write_text("earlier\ntrilemma prover-0: port 1 is in use\n")
    assert last_words(log, "prover-0") == "port 1 is in use"
    log.write_text("trilemma prover-0: port 1 is in use\nlater\n")
    assert last_words(log, "prover-0").endswith("later")


async def test_a_killed_or_stopped_process_stays_down_until_restarted(testnet: Testnet) -> None:
    async with supervisor(testnet) as running:
        await running.wait_ready(PATIENCE_S)
        await running.kill("execution-0")
        assert running.exit_status("execution-0") == -signal.SIGKILL
        await running.stop("prover-0")
        assert running.exit_status("prover-0") == -signal.SIGTERM
        for name in ("execution-0", "prover-0"):
            assert (running.pid(name), running.state(name)) == (None, "stopped")
            await running.restart(name)
        await running.wait_ready(PATIENCE_S)
        with pytest.raises(ConfigError, match="there is no process"):
            await running.kill("nobody")


async def test_stopping_in_the_middle_of_a_start_or_a_back_off_leaves_nothing(
    testnet: Testnet,
) -> None:
    (testnet.directory / "prover-0.end").write_text("1")
    running = supervisor(testnet)
    running._backoff_first_s = PATIENCE_S
    await running.start()
    await running.stop("validator-0")
    await until(lambda: running.exit_status("prover-0") == 1)
    await running.close()
    assert [running.state(entry.name) for entry in testnet.processes] == ["stopped"] * 4
    assert [running.pid(entry.name) for entry in testnet.processes] == [None] * 4


async def test_a_process_that_ignores_the_signal_is_killed(testnet: Testnet) -> None:
    (testnet.directory / "validator-0.stubborn").touch()
    async with supervisor(testnet, grace_s=0.2) as running:
        await running.wait_ready(PATIENCE_S)
        await running.stop("validator-0")
        assert running.exit_status("validator-0") == -signal.SIGKILL


async def test_a_paused_process_can_be_stopped(testnet: Testnet) -> None:
    async with supervisor(testnet) as running:
        await running.wait_ready(PATIENCE_S)
        running.send_signal("validator-0", signal.SIGSTOP)
        await running.stop("validator-0")
        assert running.exit_status("validator-0") == -signal.SIGTERM


async def test_a_process_of_another_chain_is_not_ready(testnet: Testnet) -> None:
    running = supervisor(testnet)
    other = bytes(32).hex()
    running._command = lambda entry, config: [*stand_in(testnet)(entry, config)[:-1], other]
    async with running:
        address = testnet.process("validator-0").public
        await until_answers(address)
        with pytest.raises(ClusterError, match="serves another chain"):
            await running.wait_ready(0.5, ["validator-0"])


async def test_one_supervisor_at_a_time(testnet: Testnet) -> None:
    async with supervisor(testnet):
        with pytest.raises(ConfigError, match=f"is running already \\(pid {os.getpid()}\\)"):
            await supervisor(testnet).start()


async def test_a_pid_that_somebody_cut_is_written_again(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "RENEW_S", 0.01)
    async with supervisor(testnet):
        path = testnet.directory / PID_FILE
        path.write_text("")
        await until(lambda: path.read_text() == f"{os.getpid()}\n")


def test_a_pid_left_by_a_crash_is_not_taken_for_a_supervisor(tmp_path: Path) -> None:
    (tmp_path / PID_FILE).write_text(f"{os.getpid()}\n")
    assert supervisor_pid(tmp_path) is None
    assert stop_supervisor(tmp_path) is False
    lock = SupervisorLock(tmp_path)
    assert supervisor_pid(tmp_path) == os.getpid()
    lock.release()
    assert supervisor_pid(tmp_path) is None


RUN = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests_stand_in import stand_in
from cluster.supervisor import Supervisor
from store.testnet import Testnet
testnet = Testnet.load(sys.argv[1])
asyncio.run(Supervisor(testnet, command=stand_in(testnet)).run())
print("ended", flush=True)
"""


def start_supervisor_process(testnet: Testnet) -> subprocess.Popen[str]:
    """`Supervisor.run` in a process of its own, once it says that all serve."""
    module = testnet.directory.parent / "tests_stand_in.py"
    module.write_text(Path(__file__).read_text())
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(testnet.directory), str(module.parent)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    if process.stdout is not None:
        for line in process.stdout:
            lines.append(line)
            if "all 4 processes serve" in line:
                return process
    pytest.fail("the supervisor did not start: " + "".join(lines))


def child_pids(testnet: Testnet) -> list[int]:
    return [int(path.read_text()) for path in (testnet.directory / "run").glob("*.pid")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_supervisor_stops_the_cluster(
    testnet: Testnet, number: signal.Signals
) -> None:
    process = start_supervisor_process(testnet)
    pids = child_pids(testnet)
    assert supervisor_pid(testnet.directory) == process.pid
    if number == signal.SIGTERM:
        assert stop_supervisor(testnet.directory, PATIENCE_S) is True
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and output.endswith("ended\n")
    assert len(pids) == 4 and all(is_gone(pid) for pid in pids)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's death signal")
async def test_children_die_with_a_killed_supervisor(testnet: Testnet) -> None:
    process = start_supervisor_process(testnet)
    pids = child_pids(testnet)
    assert len(pids) == 4
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    await until(lambda: all(is_gone(pid) for pid in pids))
    assert supervisor_pid(testnet.directory) is None


# --- a full disk of logs


async def test_a_process_that_finds_no_room_to_start_is_started_later(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [OSError(28, "No space left on device")] * 2
    real = supervising.spawn

    async def spawn(command: list[str], log: Path, directory: Path) -> asyncio.subprocess.Process:
        if refusals:
            raise refusals.pop()
        return await real(command, log, directory)

    monkeypatch.setattr(supervising, "spawn", spawn)
    news: list[str] = []
    async with supervisor(testnet, news) as running:
        await running.wait_ready(PATIENCE_S)
        assert all(running.pid(entry.name) for entry in testnet.processes)
    assert sum("cannot start" in line for line in news) == 2, news


def test_a_log_without_room_for_an_older_piece_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "a.log"
    monkeypatch.setattr("cluster.child.LOG_LIMIT_BYTES", 10)

    def full(_: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    log.write_bytes(b"x" * 11)
    trim_log(log)
    assert (log.stat().st_size, log.with_suffix(".log.1").read_bytes()) == (0, b"x" * 11)
    monkeypatch.setattr("cluster.child.shutil.copyfile", full)
    log.write_bytes(b"y" * 11)
    trim_log(log)
    assert log.stat().st_size == 0 and not log.with_suffix(".log.1").exists()
