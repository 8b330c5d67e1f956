"""Run a testnet's processes: start, restart with back-off, kill on purpose, stop.

A process that ends with exit status 2 (configuration) or 5 (safety) stays down, since another
start would end the same way or do harm; every other end but an asked one is followed by a start
after 1, 2, 4, up to 30 seconds. A process that somebody holds down (`cluster.faults_hold`) waits
until the hold is gone, and then starts at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.child import last_words, log_tail, signal_child, spawn, trim_log
from cluster.faults_hold import RunFolder, Standing
from cluster.health import probe
from cluster.lock import RENEW_S, SupervisorLock
from protocol.errors import ConfigError, TrilemmaError
from store.testnet import ProcessEntry, Testnet

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_SAFETY = 5
BACKOFF_FIRST_S = 1.0
BACKOFF_LAST_S = 30.0
STABLE_S = 30.0
"""A process that ran this long starts again at the first back-off."""
MISSING = (FileNotFoundError, PermissionError, NotADirectoryError)
"""Why a program can never be started as it is configured."""

_PROBE_PAUSE_S = 0.05
_HOLD_POLL_S = 0.1

Command = Callable[[ProcessEntry, Path], list[str]]
"""The command line of a process, from its entry and its configuration file."""


class ClusterError(TrilemmaError):
    """A process of the cluster did not start, or did not serve in time."""


def role_command(entry: ProcessEntry, config: Path) -> list[str]:
    """The command line of a real process."""
    return [sys.executable, "-m", "cluster.cli", entry.role, "--config", str(config)]


class Child:
    """One supervised process: `state` is running, waiting (to start again), held down by somebody,
    stopped or failed."""

    def __init__(self, entry: ProcessEntry) -> None:
        self.entry = entry
        self.state = "stopped"
        self.restarts = 0
        self.exit_status: int | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.wanted = False
        self.awaited = 0
        self.wake = asyncio.Event()


class Supervisor:
    """Runs the processes of one testnet. Use `start` and `close`, or `run` for both.

    `report` takes one line of news at a time. `stop_grace_s` is how long a process may take to
    end after SIGTERM before it is killed.
    """

    def __init__(
        self,
        testnet: Testnet,
        *,
        command: Command = role_command,
        stop_grace_s: float = 8.0,
        backoff_first_s: float = BACKOFF_FIRST_S,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.testnet = testnet
        self._command = command
        self._grace_s = stop_grace_s
        self._backoff_first_s = backoff_first_s
        self._report = report or _print
        self._children = {entry.name: Child(entry) for entry in testnet.processes}
        self._folder = RunFolder(testnet.directory)
        self._lock: SupervisorLock | None = None
        self._housekeeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start every process; raises `ConfigError` where another supervisor runs them."""
        self._lock = SupervisorLock(self.testnet.directory)
        self._folder.clear()
        self._housekeeper = asyncio.create_task(self._keep_house())
        for name in self._children:
            self._launch(self._child(name))

    async def close(self) -> None:
        """Stop every process, all at once, and give the directory free."""
        await asyncio.gather(*(self.stop(name) for name in self._children))
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            self._housekeeper = None
        if self._lock is not None:
            self._folder.clear()
            self._lock.release()
            self._lock = None

    async def run(self, ready_timeout_s: float = 60.0) -> None:
        """Start, tell when all serve, and stop at SIGINT, SIGTERM or SIGHUP.

        Raises `ClusterError`, with everything stopped, where not all serve in time.
        """
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, asked.set)
        waiters: list[asyncio.Task[object]] = []
        try:
            await self.start()
            stop = asyncio.create_task(asked.wait())
            ready = asyncio.create_task(self.wait_ready(ready_timeout_s))
            waiters = [stop, ready]
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                await ready
                self._report(f"all {len(self._children)} processes serve")
                await stop
            self._report("stopping")
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
            await self.close()
            for number in signals:
                loop.remove_signal_handler(number)

    # --- one process

    def pid(self, name: str) -> int | None:
        """The pid of a running process, or None."""
        process = self._child(name).process
        return process.pid if process is not None and process.returncode is None else None

    def state(self, name: str) -> str:
        """running, waiting (to start again), held (down), stopped, or failed (for good)."""
        return self._child(name).state

    def restarts(self, name: str) -> int:
        """How often it was started again after it ended by itself."""
        return self._child(name).restarts

    def exit_status(self, name: str) -> int | None:
        """How it last ended: its exit status, negative for a signal; None before it ever did."""
        return self._child(name).exit_status

    async def stop(self, name: str) -> None:
        """Ask a process to end (SIGTERM), kill it after the grace, and leave it down."""
        await self._end(self._child(name), signal.SIGTERM)

    async def kill(self, name: str) -> None:
        """Kill a process at once (SIGKILL) and leave it down until `restart`."""
        await self._end(self._child(name), signal.SIGKILL)

    async def restart(self, name: str) -> None:
        """Start a process that is down, or stop it and start it again; a hold on it is gone."""
        await self.stop(name)
        self._folder.release(name)
        self._launch(self._child(name))

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a running process a signal, as SIGSTOP and SIGCONT for a pause."""
        process = self._child(name).process
        if process is not None:
            signal_child(process, number)

    async def wait_ready(self, timeout_s: float = 60.0, names: list[str] | None = None) -> None:
        """Wait until these processes (all of them by default) answer on their public ports.

        Raises `ClusterError` with the end of its log for one that fails, or is not up in time.
        """
        chain_id = self.testnet.chain().chain_id
        names = list(self._children) if names is None else names
        waiting = [self._wait_one(self._child(name), chain_id, timeout_s) for name in names]
        tasks = [asyncio.ensure_future(each) for each in waiting]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- inside

    def _child(self, name: str) -> Child:
        self.testnet.process(name)
        return self._children[name]

    def _launch(self, child: Child) -> None:
        if self._lock is None:
            raise ConfigError("the supervisor is not started")
        child.wanted = True
        child.wake.clear()
        self._stand(child, "waiting")
        child.keeper = asyncio.create_task(self._keep(child))

    async def _keep(self, child: Child) -> None:
        """Run a process until it is no longer wanted, or has failed for good."""
        loop = asyncio.get_running_loop()
        backoff_s = self._backoff_first_s
        while child.wanted:
            if self._folder.held(child.entry.name):
                await self._keep_down(child)
                continue
            started = loop.time()
            status = await self._run_once(child)
            child.exit_status = status
            if not child.wanted:
                break
            if self._folder.held(child.entry.name):
                continue
            if status in (EXIT_CONFIG, EXIT_SAFETY):
                self._stand(child, "failed")
                self._report_failure(child, status)
                await self._until(child, held=True)
                continue
            if loop.time() - started >= STABLE_S:
                backoff_s = self._backoff_first_s
            self._stand(child, "waiting")
            self._report(
                f"{child.entry.name} ended with status {status}, see "
                f"{self.testnet.log_path(child.entry.name)}; starting again in {backoff_s:g} s"
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until(child, held=True), backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)
            child.restarts += child.wanted
        self._stand(child, "stopped")

    async def _keep_down(self, child: Child) -> None:
        self._stand(child, "held")
        self._report(f"{child.entry.name} is held down")
        await self._until(child, held=False)
        if child.wanted:
            self._report(f"{child.entry.name} starts again")

    async def _until(self, child: Child, *, held: bool) -> None:
        """Wait until the process is held, or no longer held, or not wanted any more."""
        while child.wanted and self._folder.held(child.entry.name) != held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wake.wait(), _HOLD_POLL_S)

    def _stand(self, child: Child, state: str) -> None:
        child.state = state
        try:
            self._folder.tell(child.entry.name, Standing(state, child.restarts, child.exit_status))
        except OSError as error:
            self._report(f"cannot write the state of {child.entry.name}: {error.strerror}")

    async def _run_once(self, child: Child) -> int:
        name = child.entry.name
        command = self._command(child.entry, self.testnet.config_path(name))
        pid_path = self._folder.pid_path(name)
        try:
            process = await spawn(command, self.testnet.log_path(name), self.testnet.directory)
        except OSError as error:
            self._report(f"cannot start {name}: {error}")
            # What the system lacks now (room, memory) it may have later.
            return EXIT_CONFIG if isinstance(error, MISSING) else EXIT_FAILED
        child.process = process
        self._stand(child, "running")
        if not child.wanted:
            # Asked to end while it was being started: `_end` had no process to signal yet.
            signal_child(process, signal.SIGKILL)
        try:
            pid_path.write_text(f"{process.pid}\n")
            return await process.wait()
        except OSError as error:
            self._report(f"cannot write {pid_path}: {error.strerror}")
            return await process.wait()
        finally:
            pid_path.unlink(missing_ok=True)

    async def _end(self, child: Child, number: signal.Signals) -> None:
        child.wanted = False
        child.wake.set()
        keeper, process = child.keeper, child.process
        if keeper is None:
            return
        if process is not None and process.returncode is None:
            # A paused process acts on SIGTERM only once it goes on.
            for each in (number, signal.SIGCONT):
                signal_child(process, each)
            done, _ = await asyncio.wait({keeper}, timeout=self._grace_s)
            if not done:
                self._report(f"{child.entry.name} ignored SIGTERM; killing it")
                signal_child(process, signal.SIGKILL)
        await asyncio.wait({keeper})
        self._stand(child, "stopped")

    def _report_failure(self, child: Child, status: int) -> None:
        name = child.entry.name
        log = self.testnet.log_path(name)
        if status == EXIT_SAFETY:
            self._report(f"SAFETY: {name} saw an invariant broken and stays down; see {log}")
            self._report(log_tail(log))
        elif not child.awaited:  # else whoever waits for it tells
            words = last_words(log, name)
            self._report(f"{name} cannot use its configuration and stays down: {words}")

    async def _wait_one(self, child: Child, chain_id: bytes, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        name = child.entry.name
        log = self.testnet.log_path(name)
        trouble = "no answer"
        child.awaited += 1
        try:
            while loop.time() < deadline and child.state not in ("failed", "stopped"):
                try:
                    await probe(child.entry.public, chain_id)
                    return
                except (OSError, TrilemmaError) as error:
                    trouble = str(error) or trouble
                await asyncio.sleep(_PROBE_PAUSE_S)
        finally:
            child.awaited -= 1
        if child.state == "failed":
            raise ClusterError(f"{name} (failed) did not start: {last_words(log, name)}")
        raise ClusterError(
            f"{name} ({child.state}) does not serve: {trouble}\n{log_tail(log)}".rstrip()
        )

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            if self._lock is not None:
                with contextlib.suppress(OSError):  # no room now; there may be at the next turn
                    self._lock.renew()
            for name in self._children:
                trim_log(self.testnet.log_path(name))


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # a log on a full disk must not stop the supervisor
        print(line, file=sys.stderr, flush=True)
