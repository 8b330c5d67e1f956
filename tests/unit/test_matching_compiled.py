"""The compiled book gives the trades, the state and the errors of the interpreted one.

Both run in processes of their own. This file is also what they run: `python FILE SEED` prints what
happens in random flows of orders.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matching import COMPILED, Book, Gate, Resting
from protocol.actions import BUY, SELL
from protocol.errors import SafetyViolation

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = 25_000

START = """\
import runpy, sys
root, folder, *arguments = sys.argv[1:]
sys.path[:0] = [root, {deploy!r}]
if folder:
    import compiled_finder
    compiled_finder.install(folder)
sys.argv = arguments
"""
RUN = START + "runpy.run_path(arguments[0], run_name='__main__')"
TELL = START + "import matching, matching.book as b; print(matching.COMPILED, hasattr(b, 'X'))"
PYTEST = (
    START
    + "import matching, pytest\n"
    + "sys.exit(pytest.main(arguments) if matching.COMPILED == bool(folder) else 99)"
)


class Trader(Gate):
    """A gate with a mind of its own: it refuses, splits, stops, and changes other orders."""

    def __init__(self, book: Book, chance: random.Random, tell: Callable[..., None]) -> None:
        self.book = book
        self.chance = chance
        self.tell = tell

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        return self.chance.choice([lots, lots, lots, self.chance.randrange(1, lots + 1), 0, -1])

    def filled(self, maker: Resting, lots: int) -> None:
        self.tell("filled", maker.order_id, lots, maker.remaining_lots)
        self._change()

    def removed(self, maker: Resting, lots: int) -> None:
        self.tell("removed", maker.order_id, lots, maker.remaining_lots)
        self._change()

    def _change(self) -> None:
        if not self.chance.randrange(5):
            for order_id in self.chance.sample(
                sorted(self.book.orders), min(1, len(self.book.orders))
            ):
                order = self.book.orders[order_id]
                if order.remaining_lots > 1 and self.chance.randrange(2):
                    self.book.reduce(order, self.chance.randrange(1, order.remaining_lots))
                    self.tell("reduced", order_id, order.remaining_lots)
                else:
                    self.tell("cancelled", order_id, self.book.cancel(order))


class Careful(Book):
    """An interpreted class that derives from the book, compiled or not."""

    def take(self, side: int, limit_ticks: int, lots: int, gate: Any, max_steps: int) -> int:
        while (left := super().take(side, limit_ticks, lots, gate, max_steps)) != lots:
            lots = left
        return left


def flow(seed: int) -> dict[str, Any]:
    """Run a random flow; returns a digest of all that happened, and how much that was."""
    chance = random.Random(seed)
    digest, events = hashlib.sha256(), 0

    def tell(*values: object) -> None:
        nonlocal events
        digest.update(repr(values).encode())
        events += 1

    book = Careful(3) if seed % 2 else Book(3)
    gate = Trader(book, chance, tell)
    for order_id in range(1, OPERATIONS):
        kind, side = chance.randrange(10), chance.choice([BUY, SELL])
        price = 1_000 + chance.randrange(-20, 20) + (-10 if side == BUY else 10)
        lots = chance.randrange(1, 100)
        if kind < 6 or not book.orders:
            if book.crosses(side, price):
                lots = book.take(side, price, lots, gate, chance.choice([1, 5, 1_000]))
                tell("left", lots)
            if lots and not book.crosses(side, price):
                book.add(Resting(3, order_id, 16, 0, side, price, lots, order_id % 4, 5, 6))
        elif kind < 9:
            for chosen in chance.sample(sorted(book.orders), min(1, len(book.orders))):
                tell("cancel", chosen, book.cancel(book.orders[chosen]))
        else:
            notional = chance.randrange(1, 1_000_000)
            tell(book.best_ticks(side), book.impact_ticks(side, notional), book.depth(side, 5))
        if not order_id % 500:
            book.check()
            tell([[(o.order_id, o.remaining_lots) for o in book.walk(s)] for s in (BUY, SELL)])
    return {"digest": digest.hexdigest(), "events": events, "live": len(book.orders)}


class Answer:
    """A gate that always gives the same answer."""

    def __init__(self, lots: int, change: Callable[[Resting], object] = lambda _: None) -> None:
        self.lots = lots
        self.change = change

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        self.change(maker)
        return self.lots

    def filled(self, maker: Resting, lots: int) -> None:
        raise KeyError("the gate's own error")

    def removed(self, maker: Resting, lots: int) -> None:
        raise ValueError("the gate's own error")


def other(order_id: int, price_ticks: int) -> Resting:
    return Resting(3, order_id, 16, 0, SELL, price_ticks, 5)


def lower_bid(book: Book) -> Any:
    return book.bids.levels[-98]


Change = Callable[[Book], object]

MISUSES: tuple[Change, ...] = (
    lambda book: book.cancel(other(4, 100)),
    lambda book: book.cancel(other(7, 100)),
    lambda book: [book.cancel(order) for order in [book.orders[1]] * 2],
    lambda book: book.reduce(book.orders[1], 5),
    lambda book: book.reduce(book.orders[1], 0),
    lambda book: book.reduce(other(7, 1), 1),
    lambda book: book.take(BUY, 100, 2, Answer(3), 9),
    lambda book: book.take(BUY, 100, 2, Answer(1, lambda maker: book.reduce(maker, 1)), 9),
    lambda book: book.take(BUY, 100, 2, Answer(0, book.cancel), 9),
    lambda book: book.take(BUY, 100, 2, Answer(0), 9),
    lambda book: book.take(BUY, 100, 2, Answer(1), 9),
    lambda book: book.impact_ticks(BUY, 0),
)

DAMAGES: tuple[Change, ...] = (
    lambda book: setattr(lower_bid(book), "lots", 11),
    lambda book: setattr(lower_bid(book), "count", 1),
    lambda book: setattr(lower_bid(book), "price_ticks", 97),
    lambda book: setattr(lower_bid(book), "rank", -97),
    lambda book: setattr(lower_bid(book), "head", 1),
    lambda book: lower_bid(book).queue.reverse(),
    lambda book: setattr(book.bids, "best", lower_bid(book)),
    lambda book: book.bids.ranks.pop(),
    lambda book: book.orders.pop(3),
    lambda book: setattr(book.orders[1], "side", SELL),
    lambda book: setattr(book.orders[1], "market", 4),
    lambda book: setattr(book.orders[1], "place", 1),
    lambda book: setattr(book.orders[1], "price_ticks", 97),
    lambda book: setattr(book.orders[1], "remaining_lots", 0),
    lambda book: book.add(Resting(3, 9, 16, 0, BUY, 100, 5)),
)


def errors() -> list[str]:
    """The errors of all misuses, and of the check after all damages; "none" where none came."""
    found = []
    for change in MISUSES + DAMAGES:
        book = Book(3)
        for order_id, side, price in ((1, BUY, 98), (2, BUY, 98), (3, BUY, 99), (4, SELL, 100)):
            book.add(Resting(3, order_id, 16, 0, side, price, 5))
        try:
            change(book)
            book.check()
        except (SafetyViolation, KeyError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
        else:
            found.append("none")
    return found


def child(code: str, root: Path, folder: str, *arguments: str) -> str:
    """What a process of its own prints, with the compiled modules of `folder`, if any."""
    command = [sys.executable, "-c", code.format(deploy=str(ROOT / "deploy"))]
    # What is installed in the environment is not what is tested here.
    done = subprocess.run(
        [*command, str(root), folder, *arguments],
        env=os.environ | {"TRILEMMA_COMPILE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compile_into(folder: Path, root: Path = ROOT, **variables: str) -> tuple[int, str]:
    """Exit status and answer of the compile step for the book."""
    command = [sys.executable, str(root / "deploy" / "compile.py"), "--into", str(folder)]
    environment = {name: v for name, v in os.environ.items() if name != "TRILEMMA_COMPILE"}
    done = subprocess.run(
        [*command, "--modules", "matching.book"],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is compiled, so that it can be edited."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", root)
    for package in ("deploy", "matching", "protocol"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("wheels", "__pycache__")
        )
    return root


@pytest.fixture(scope="module")
def compiled(project: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the sources of `project`, compiled."""
    folder = tmp_path_factory.mktemp("compiled")
    status, answer = compile_into(folder, project)
    if status == 3:
        pytest.skip(answer.strip())
    assert status == 0, answer + (folder / "log").read_text()
    return str(folder)


def test_compiled_and_interpreted_books_agree(project: Path, compiled: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    runs = [json.loads(child(RUN, project, f, __file__, str(seed))) for f in ("", compiled)]
    assert [run.pop("compiled") for run in runs] == [False, True]
    assert runs[0]["flows"] == runs[1]["flows"]
    assert min(run["events"] for run in runs[0]["flows"]) > OPERATIONS // 2
    assert runs[0]["errors"] == runs[1]["errors"]
    assert "none" not in runs[0]["errors"]


@pytest.mark.parametrize("kind", ["interpreted", "compiled"])
def test_the_tests_of_the_book_pass(
    kind: str, project: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("compiled") if kind == "compiled" else ""
    tests = str(ROOT / "tests" / "unit" / "test_matching_book.py")
    child(PYTEST, project, folder, tests, "-p", "no:cacheprovider")


def test_an_edited_source_runs_at_once_and_never_what_was_compiled_of_it(
    project: Path, compiled: str
) -> None:
    def tell() -> str:
        return child(TELL, project, compiled).strip()

    assert tell() == "True False"
    for name, addition in (("matching/book.py", "\nX = 1\n"), ("protocol/actions.py", "\n")):
        path = project / name
        content = path.read_text()
        path.write_text(content + addition)
        assert tell() == f"False {'X' in addition}", name
        path.write_text(content)
        assert tell() == "True False", name


def test_what_was_compiled_by_another_python_is_left_alone(
    project: Path, compiled: str, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(compiled, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in ({"python": "3.0.0"}, {}):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        assert child(TELL, project, str(folder)).startswith("False" if change else "True")
    (folder / "manifest.json").write_text("{")
    assert child(TELL, project, str(folder)).startswith("False")


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"TRILEMMA_COMPILE": "0"}, "TRILEMMA_COMPILE=0"),
        ({"CC": "no-such-compiler"}, "there is no C compiler (no-such-compiler)"),
    ],
)
def test_without_a_compiler_the_sources_run(
    project: Path, tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    status, answer = compile_into(tmp_path, project, **variables)
    assert status == 3
    assert answer.startswith("interpreted: matching.book (") and reason in answer
    assert answer.count("\n") == 1
    assert child(TELL, project, str(tmp_path)).startswith("False")


def test_a_folder_that_cannot_be_written_is_named_in_a_sentence(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").touch()
    status, answer = compile_into(tmp_path / "folder", project, CC="no-such-compiler")
    assert (status, answer) == (1, f"cannot write {tmp_path / 'folder'}: File exists\n")


def test_an_environment_that_is_as_it_should_be_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = importlib.util.spec_from_file_location("compile_step", ROOT / "deploy" / "compile.py")
    assert place is not None and place.loader is not None
    step = importlib.util.module_from_spec(place)
    place.loader.exec_module(step)
    folder = tmp_path / step.PACKAGE
    step.enable(folder)
    assert (folder / "__init__.py").read_text() == step.FINDER.read_text()
    assert step.PACKAGE in (tmp_path / f"{step.PACKAGE}.pth").read_text()
    assert sorted(path.suffix for path in tmp_path.rglob("*.*")) == [".pth", ".py"]
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("written again"))
    step.enable(folder)


def test_a_compiler_that_fails_leaves_the_sources_running(project: Path, tmp_path: Path) -> None:
    status, answer = compile_into(tmp_path, project, CC="false")
    if status == 3:
        pytest.skip(answer.strip())
    assert status == 1 and "the compiler failed" in answer
    assert answer.startswith("compiling the inner loops")
    assert (tmp_path / "log").read_text()
    assert child(TELL, project, str(tmp_path)).startswith("False")


if __name__ == "__main__":
    seed = int(sys.argv[1])
    report = {
        "compiled": COMPILED,
        "flows": [flow(seed + number) for number in range(2)],
        "errors": errors(),
    }
    print(json.dumps(report))
