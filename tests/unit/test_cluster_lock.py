"""Who runs a testnet is told by a lock: with a damaged pid, while it is written, and read-only."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cluster import commands, lock
from cluster.lock import AlreadyRunning, PidDamaged, SupervisorLock, stop_supervisor, supervisor_pid
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.running import PID_FILE, is_supervised

app = typer.Typer()
commands.register(app)

OTHER_PID = "99999999999"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SETTLE_S", 0.0)


def while_it_waits(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something in the first pause of whoever waits for the lock or the pid."""
    left = [act]
    monkeypatch.setattr(lock, "_SETTLE_S", 600.0)
    monkeypatch.setattr("cluster.lock.time.sleep", lambda _: left.pop()() if left else None)


def failure(*arguments: str) -> BaseException:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, ConfigError), done.output
    return done.exception


@pytest.mark.parametrize("text", ["", "\n", "nobody\n"])
def test_a_testnet_whose_pid_is_damaged_runs_all_the_same(
    tmp_path: Path, text: str, quick: None
) -> None:
    directory = tmp_path / "net"
    create_testnet(directory, TestnetOptions(traders=0, free_ports=True))
    (directory / "data" / "state").write_text("kept")
    held = SupervisorLock(directory)
    try:
        (directory / PID_FILE).write_text(text)
        with pytest.raises(PidDamaged, match=r"runs, but its supervisor\.pid is damaged"):
            supervisor_pid(directory)
        with pytest.raises(PidDamaged):
            stop_supervisor(directory)
        assert is_supervised(directory)
        for arguments in (["down"], ["up", "--detach"], ["init", "--overwrite", "--free-ports"]):
            command, *rest = arguments
            assert "try again then" in str(failure(command, str(directory), *rest))
        with pytest.raises(AlreadyRunning, match="is running already; stop it with: trilemma down"):
            SupervisorLock(directory)
        assert (directory / "data" / "state").read_text() == "kept"
        held.renew()
        assert supervisor_pid(directory) == os.getpid()
    finally:
        held.release()
    held.renew()
    assert supervisor_pid(directory) is None and not is_supervised(directory)


def test_a_pid_that_is_just_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = SupervisorLock(tmp_path)
    (tmp_path / PID_FILE).write_text("")
    while_it_waits(monkeypatch, held.renew)
    assert supervisor_pid(tmp_path) == os.getpid()
    (tmp_path / PID_FILE).write_text("")
    while_it_waits(monkeypatch, held.release)
    assert supervisor_pid(tmp_path) is None


def test_the_pid_is_there_before_an_older_one_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PID_FILE).write_text(f"{OTHER_PID}\n")
    seen: list[int | None] = []
    real = os.ftruncate

    def cut(descriptor: int, length: int) -> None:
        seen.append(supervisor_pid(tmp_path))
        real(descriptor, length)

    monkeypatch.setattr("cluster.lock.os.ftruncate", cut)
    held = SupervisorLock(tmp_path)
    assert seen == [os.getpid()]
    assert (tmp_path / PID_FILE).read_text() == f"{os.getpid()}\n"
    monkeypatch.undo()
    held.release()


def test_who_only_looks_keeps_no_supervisor_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PID_FILE).touch()
    looking = os.open(tmp_path / PID_FILE, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    # Nor is one who looks taken for a supervisor.
    assert supervisor_pid(tmp_path) is None
    while_it_waits(monkeypatch, lambda: os.close(looking))
    held = SupervisorLock(tmp_path)
    assert supervisor_pid(tmp_path) == os.getpid()
    held.release()


def test_a_testnet_that_cannot_be_written_can_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = SupervisorLock(tmp_path)
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", read_only)
    assert supervisor_pid(tmp_path) == os.getpid() and is_supervised(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot lock .*: Read-only file system"):
        SupervisorLock(tmp_path)
    monkeypatch.undo()
    held.release()


def test_a_supervisor_that_finds_no_room_for_its_pid_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cluster.lock.os.pwrite", full)
    with pytest.raises(ConfigError, match=r"cannot write .*: No space left"):
        SupervisorLock(tmp_path)
    monkeypatch.undo()
    assert not is_supervised(tmp_path)
