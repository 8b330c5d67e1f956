"""``run/`` in a testnet's directory: what the supervisor tells others, and what they ask of it.

``NAME.pid`` is there while a process runs, ``NAME.state`` says how it stands. Whoever writes
``NAME.hold`` has the supervisor keep the process down until the file is gone, even one that has
failed for good: taking a hold away always starts it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from protocol.errors import ConfigError

RUN_FOLDER = "run"


class Standing(msgspec.Struct, frozen=True):
    """How a process stands: `state` is running, waiting (to start again), held, stopped or failed;
    `restarts` counts starts after it ended by itself; `exit_status` is how it last ended."""

    state: str
    restarts: int = 0
    exit_status: int | None = None


class RunFolder:
    """The folder of one testnet. Writing raises `OSError`."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / RUN_FOLDER

    def clear(self) -> None:
        """Make the folder where there is none; what an earlier supervisor left in it is gone."""
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.iterdir():
            if path.suffix in (".pid", ".hold", ".state", ".partial"):
                path.unlink(missing_ok=True)

    def pid_path(self, name: str) -> Path:
        """Where the pid of a process stands while it runs."""
        return self._folder / f"{name}.pid"

    def pid(self, name: str) -> int | None:
        """Its pid, None where it does not run."""
        try:
            text = self.pid_path(name).read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    def hold(self, name: str) -> None:
        """Have a process kept down once it ends."""
        try:
            self._hold_path(name).touch()
        except OSError as error:
            raise ConfigError(f"cannot hold {name} down: {error.strerror}") from None

    def release(self, name: str) -> None:
        """Let a process be started again."""
        self._hold_path(name).unlink(missing_ok=True)

    def held(self, name: str) -> bool:
        """Whether somebody wants the process down."""
        return self._hold_path(name).exists()

    def tell(self, name: str, standing: Standing) -> None:
        """Write how a process stands, whole or not at all."""
        path = self._folder / f"{name}.state"
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(standing))
        os.replace(partial, path)

    def standing(self, name: str) -> Standing | None:
        """How it stands, None where no supervisor has told."""
        try:
            return msgspec.json.decode((self._folder / f"{name}.state").read_bytes(), type=Standing)
        except (OSError, msgspec.DecodeError):
            return None

    def _hold_path(self, name: str) -> Path:
        return self._folder / f"{name}.hold"
