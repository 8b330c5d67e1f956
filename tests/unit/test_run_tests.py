"""All tests are run, in parts, and a part that fails is not lost among the others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "deploy/run_tests.py"
    spec = importlib.util.spec_from_file_location("run_tests", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_tests", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(module, "POLL_S", 0.01)
    return module


def test_every_file_of_tests_is_in_one_part(runner: ModuleType) -> None:
    files = [file for part in runner.all_parts() for file in part.files]
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(files) == len(set(files))
    assert set(files) == {file for file in there if not file.startswith("tests/docker/")}
    for part in runner.all_parts():
        assert part.files and part.processes == part.name.startswith("processes")


@pytest.mark.parametrize("failing", [None, "processes 3 of 8", "property 2 of 2"])
def test_all_parts_run_and_one_that_fails_is_named(
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    failing: str | None,
) -> None:
    parts = runner.all_parts()
    at_once: list[int] = []

    def start(part: object, of: ModuleType = runner) -> None:
        running = [one for one in parts if one.run is not None and one.run.poll() is None]
        at_once.append(len(running) + 1)
        others_left = any(not one.processes and one.run is None for one in parts)
        if others_left:
            assert sum(one.processes for one in running) <= of.BESIDE
        original(part)

    original = runner.Part.start
    monkeypatch.setattr(runner.Part, "start", start)
    for part in parts:
        status = 3 if part.name == failing else 0
        part.files = [f"import sys; print('this is', {part.name!r}); sys.exit({status})"]
    # What follows -c stands where pytest's files do.
    monkeypatch.setattr(runner, "PYTEST", [sys.executable, "-c"])
    assert runner.run_all(parts) == (0 if failing is None else 1)
    printed = capfdbinary.readouterr().out.decode()
    assert max(at_once) <= runner.AT_ONCE
    for part in parts:
        assert f"this is {part.name}\n" in printed
        assert f"tests: {part.name} {'FAILED' if part.name == failing else 'passed'}" in printed
    last = printed.splitlines()[-1]
    assert last == ("tests: all passed" if failing is None else f"tests: failed in {failing}")
