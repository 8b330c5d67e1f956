"""How to reach the processes of a running testnet: on this machine, or in containers.

`find_target` looks which it is. Methods block for as long as the thing takes, so that an event loop
calls them in a thread; they raise `ConfigError` for what the caller could have known, and
`FaultFailed` where a process does not do as it was told.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cluster.faults_hold import RunFolder
from protocol.errors import ConfigError, TrilemmaError
from store.running import is_supervised
from store.testnet import Testnet

RUNNING, PAUSED, DOWN = "running", "paused", "down"
TAKEN = "taken"
"""How a process stands for a fault while another one has it."""

ACT_S = 20.0
"""How long a process may take to end, stop or start when it is told so."""

HELD_S = ACT_S + 30.0
"""How long until the supervisor sees that a process is held: it may wait for its back-off."""

_POLL_S = 0.02


class FaultFailed(TrilemmaError):
    """A process did not do in time what it was told (exit 1)."""


class NotRunning(ConfigError):
    """Something was to be done to a process that only one that runs can suffer; `state` is how it
    stands instead, as far as one knows."""

    def __init__(self, name: str, state: str = DOWN) -> None:
        down = f"is not running; start it with: trilemma faults restart {name}"
        others = {
            PAUSED: f"is paused; let it go on with: trilemma faults resume {name}",
            TAKEN: "is stopped or started by another fault",
        }
        super().__init__(f"{name} {others.get(state, down)}")


class AlreadyRuns(ConfigError):
    """A process was to be started that is not down."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} runs already")


class TestnetDown(ConfigError):
    """Nothing of a testnet runs here."""

    __test__ = False

    def __init__(self, testnet: Testnet) -> None:
        super().__init__(
            f"the testnet in {testnet.directory} does not run: there is neither a supervisor nor a "
            f"container of it; {testnet.start_hint}"
        )


class Target(Protocol):
    """The processes of one running testnet.

    Whatever is done to a process raises `NotRunning` where it is not, or no longer, as that needs
    it: another fault, a crash or a stop for safety's sake may come first at any instant.
    """

    kind: str
    testnet: Testnet

    def state(self, name: str) -> str:
        """running, paused or down."""

    def identity(self, name: str) -> str:
        """What changes with every start of the process; empty while it is down."""

    def exit_status(self, name: str) -> int | None:
        """How it last ended, where that is known."""

    def kill(self, name: str) -> None:
        """SIGKILL, and keep it down until `start`."""

    def stop(self, name: str) -> None:
        """SIGTERM, and keep it down until `start`."""

    def start(self, name: str) -> None:
        """Start a process that is down; returns once it runs, not once it serves. Raises
        `AlreadyRuns`."""

    def keep_down(self, name: str) -> None:
        """Have a process be down until `start`, whether it is so already or just comes back."""

    def crash(self, name: str) -> None:
        """SIGKILL, as a crash: whoever supervises it starts it again."""

    def pause(self, name: str) -> None:
        """SIGSTOP, or its like."""

    def resume(self, name: str) -> None:
        """Undo a pause."""

    def files(self, name: str) -> dict[str, int]:
        """Its data files by path inside the data directory, with their sizes in bytes."""

    def read_file(self, name: str, path: str) -> bytes:
        """A data file of a process that is down."""

    def write_file(self, name: str, path: str, raw: bytes) -> None:
        """Write a data file of a process that is down, whether it is there or not."""

    def remove_file(self, name: str, path: str) -> None:
        """Remove a data file of a process that is down."""

    def sets_network(self) -> bool:
        """Whether `disconnect` and `connect` work."""

    def disconnect(self, name: str) -> None:
        """Take the process off its network."""

    def connect(self, name: str) -> None:
        """Put it back."""


def find_target(testnet: Testnet) -> Target:
    """The running testnet's processes; raises `ConfigError` where none run."""
    if is_supervised(testnet.directory):
        return LocalTarget(testnet)
    from cluster.faults_containers import find_containers

    containers = find_containers(testnet)
    if containers is not None:
        return containers
    raise TestnetDown(testnet)


def until(what: str, holds: Callable[[], bool], timeout_s: float = ACT_S) -> None:
    """Wait until something holds; raises `FaultFailed` that names it."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise FaultFailed(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_S)


class LocalTarget:
    """Processes of a supervisor on this machine, perhaps in another process than this one."""

    kind = "local"

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet
        self._run = RunFolder(testnet.directory)

    def state(self, name: str) -> str:
        """running, paused or down."""
        self.testnet.process(name)
        pid = self._run.pid(name)
        if pid is None:
            return DOWN
        letter = process_state(pid)
        if letter in ("T", "t"):
            return PAUSED
        return DOWN if letter in ("", "Z", "X") else RUNNING

    def identity(self, name: str) -> str:
        """Its pid."""
        return "" if self.state(name) == DOWN else str(self._run.pid(name))

    def exit_status(self, name: str) -> int | None:
        """How it last ended, as its supervisor saw it."""
        standing = self._run.standing(name)
        return None if standing is None else standing.exit_status

    def kill(self, name: str) -> None:
        """SIGKILL, and hold it down."""
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """SIGTERM, and hold it down."""
        self._end(name, signal.SIGTERM)

    def keep_down(self, name: str) -> None:
        """Hold a process that failed, or waits to be started again."""
        self._hold(name, signal.SIGTERM)

    def crash(self, name: str) -> None:
        """SIGKILL; the supervisor starts it again after its back-off."""
        pid = self._signal(name, signal.SIGKILL)
        until(f"{name} is gone", lambda: self._run.pid(name) != pid or self.state(name) == DOWN)

    def start(self, name: str) -> None:
        """Take the hold away and wait until it runs."""
        if self.state(name) != DOWN:
            raise AlreadyRuns(name)
        # A process that failed for good, or waits for its back-off: only a hold that goes away
        # starts it at once.
        self._run.hold(name)
        try:
            until(
                f"the supervisor has {name} held (now {self._stands(name)})",
                lambda: self._stands(name) == "held" or self.state(name) != DOWN,
                HELD_S,
            )
        finally:
            self._run.release(name)
        until(f"{name} starts", lambda: self._stands(name) not in ("held", "waiting"))
        if self._stands(name) == "failed":
            from cluster.faults_ready import last_line  # it imports this module

            status = self.exit_status(name)
            raise FaultFailed(f"{name} ended at once with status {status}{last_line(self, name)}")

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        state = self.state(name)
        if state != RUNNING:
            raise NotRunning(name, state)
        self._signal(name, signal.SIGSTOP)
        until(f"{name} is paused", lambda: self.state(name) != RUNNING)
        if self.state(name) == DOWN:
            raise NotRunning(name)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._signal(name, signal.SIGCONT)
        until(f"{name} goes on", lambda: self.state(name) != PAUSED)

    def files(self, name: str) -> dict[str, int]:
        """Its data files, with their sizes."""
        root = self._data(name)
        found = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.stat().st_size for path in found}

    def read_file(self, name: str, path: str) -> bytes:
        """A data file."""
        return (self._data(name) / path).read_bytes()

    def write_file(self, name: str, path: str, raw: bytes) -> None:
        """Write a data file."""
        (self._data(name) / path).write_bytes(raw)

    def remove_file(self, name: str, path: str) -> None:
        """Remove a data file."""
        (self._data(name) / path).unlink(missing_ok=True)

    def sets_network(self) -> bool:
        """Processes of one machine share its network."""
        return False

    def disconnect(self, name: str) -> None:
        """Not here."""
        raise ConfigError(
            f"{name} shares this machine's network; use a partition instead of a disconnect"
        )

    def connect(self, name: str) -> None:
        """Not here."""
        self.disconnect(name)

    def _data(self, name: str) -> Path:
        self.testnet.process(name)
        root = self.testnet.data_path(name)
        if not root.is_dir():
            raise ConfigError(f"{name} has no data in {root}")
        return root

    def _end(self, name: str, number: signal.Signals) -> None:
        # One that waits for its back-off is taken too: it stays down.
        if self.state(name) == DOWN and self._stands(name) != "waiting":
            raise NotRunning(name)
        self._hold(name, number)

    def _hold(self, name: str, number: signal.Signals) -> None:
        """Hold a process down; what runs of it, or starts in this instant, gets the signal."""
        told = set[int]()

        def held() -> bool:
            pid = self._run.pid(name)
            if pid is not None and pid not in told:
                told.add(pid)
                for each in (number, signal.SIGCONT):
                    send_signal(pid, each)
            return self._stands(name) == "held"

        self._run.hold(name)
        try:
            until(f"the supervisor has {name} held (now {self._stands(name)})", held, HELD_S)
        except FaultFailed:
            self._run.release(name)
            raise

    def _signal(self, name: str, number: signal.Signals) -> int:
        pid = self._run.pid(name)
        if self.state(name) == DOWN or pid is None:
            raise NotRunning(name)
        send_signal(pid, number)
        return pid

    def _stands(self, name: str) -> str:
        standing = self._run.standing(name)
        return "unknown" if standing is None else standing.state


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have gone; raises `ConfigError` where that is not allowed."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ConfigError(f"the process {pid} belongs to another user") from None


def process_state(pid: int) -> str:
    """The letter of a process's state (T: stopped); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except (OSError, IndexError):
        return ""
    import subprocess

    done = subprocess.run(
        ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()[:1]
