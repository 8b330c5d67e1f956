"""The rules of the house, held against every source file of the project.

Each rule is a function from a parsed file to the places that break it, so that the rules can be
tried on bad code too: a rule that finds nothing in it would be worth nothing.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    "cluster", "sim", "client", "node", "prover", "sequencer", "execution", "margin", "matching",
    "consensus", "net", "store", "protocol",
)  # fmt: skip
"""An import may only go down this list."""

PURE = {"protocol", "matching", "margin", "consensus", "sim"}
"""No clock, no network, no disk, no chance."""

MACHINES_WITH_SHELL = {"execution", "sequencer", "prover", "node"}
"""Pure but for the files of their shell."""

SHELL_FILE = re.compile(r"(process|store)(_[a-z0-9_]+)?\.py")

IMPURE_MODULES = {
    "asyncio", "concurrent", "ctypes", "fcntl", "io", "logging", "multiprocessing", "os",
    "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3",
    "ssl", "structlog", "subprocess", "sys", "tempfile", "threading", "time", "uuid", "uvloop",
}  # fmt: skip
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "id", "hash"}

INTEGERS_ONLY = {"consensus", "matching", "margin", "execution", "protocol"}

FILE_LINES = 450
FUNCTION_LINES = 70

REGISTRIES = re.compile(
    r"https?://[^\s\"'/]*(pypi|pythonhoste[d]|artifact|registry|mirror|deb\.debia[n]|debian\.org)"
    r"|/opt/(pypi|wheels)|index-url",
    re.IGNORECASE,
)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
VAGUE_NAMES = {"utils", "util", "common", "helpers", "misc"}
TEXT_SUFFIXES = {".py", ".sh", ".md", ".toml", ".yml", ".yaml", ".lock", ".txt", ".json", ""}


class Source(NamedTuple):
    """A parsed file; `path` is relative to the project, with slashes."""

    path: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return PurePosixPath(self.path).parts[0]

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def is_shell(self) -> bool:
        return SHELL_FILE.fullmatch(self.name) is not None


def parse(path: str, text: str) -> Source:
    return Source(path, text, ast.parse(text))


Rule = Callable[[Source], Iterator[str]]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def imports_go_down(source: Source) -> Iterator[str]:
    if source.package not in LAYERS:
        return
    for line, module in imports(source):
        target = module.partition(".")[0]
        if module.startswith("."):
            yield f"{line}: imports are absolute, not {module}"
        elif target in LAYERS and LAYERS.index(target) < LAYERS.index(source.package):
            yield f"{line}: {source.package} imports {module}, which stands above it"
        elif target in ("tests", "bench", "examples", "deploy"):
            yield f"{line}: a package imports {module}"


def machines_are_pure(source: Source) -> Iterator[str]:
    with_shell = source.package in MACHINES_WITH_SHELL
    if source.package not in PURE and not (with_shell and not source.is_shell):
        return
    for line, module in imports(source):
        if module.partition(".")[0] in IMPURE_MODULES:
            yield f"{line}: a pure machine imports {module}"
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in IMPURE_CALLS
        ):
            yield f"{node.lineno}: a pure machine calls {node.func.id}()"


def numbers_are_integers(source: Source) -> Iterator[str]:
    if source.package not in INTEGERS_ONLY or source.is_shell:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"{node.lineno}: the float {node.value}"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield f"{node.lineno}: true division; write // and name the rounding"
        elif isinstance(node, ast.Name) and node.id == "float":
            yield f"{node.lineno}: float"


def run_time_checks_are_no_asserts(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assert):
            yield f"{node.lineno}: assert; raise SafetyViolation or Rejected"


def errors_are_not_swallowed(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            if broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
                yield f"{node.lineno}: an except that swallows everything"


def files_and_functions_are_short(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield f"1: {lines} lines, at most {FILE_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"


def modules_say_what_they_are(source: Source) -> Iterator[str]:
    if source.name == "__init__.py" and not source.text.strip():
        return
    if not ast.get_docstring(source.tree):
        yield "1: no docstring"
    if not any(module == "__future__" for _, module in imports(source)):
        yield "1: no `from __future__ import annotations`"


def names_say_something(source: Source) -> Iterator[str]:
    for part in PurePosixPath(source.path).parts:
        if part.removesuffix(".py") in VAGUE_NAMES:
            yield f"1: {part} says nothing about what is in it"


RULES: tuple[Rule, ...] = (
    imports_go_down,
    machines_are_pure,
    numbers_are_integers,
    run_time_checks_are_no_asserts,
    errors_are_not_swallowed,
    files_and_functions_are_short,
    modules_say_what_they_are,
    names_say_something,
)


@cache
def package_sources() -> list[Source]:
    paths = [path for package in LAYERS for path in sorted((ROOT / package).rglob("*.py"))]
    return [parse(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def breaches(rule: Rule, sources: list[Source]) -> list[str]:
    return [f"{source.path}:{breach}" for source in sources for breach in rule(source)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_rule(rule: Rule) -> None:
    assert len(package_sources()) > 20
    found = breaches(rule, package_sources())
    assert not found, "\n".join(found)


GOOD = '"""What it is."""\n\nfrom __future__ import annotations\n'


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (imports_go_down, "net/a.py", "import node.ledger"),
        (imports_go_down, "store/a.py", "from net.frames import x"),
        (imports_go_down, "client/sdk.py", "def f():\n    from cluster import testnet"),
        (imports_go_down, "net/a.py", "from . import frames"),
        (imports_go_down, "protocol/a.py", "from tests import x"),
        (machines_are_pure, "matching/a.py", "import time"),
        (machines_are_pure, "consensus/a.py", "from asyncio import sleep"),
        (machines_are_pure, "execution/machine.py", "import os.path"),
        (machines_are_pure, "prover/stark/a.py", "import threading"),
        (machines_are_pure, "protocol/a.py", "open('x')"),
        (machines_are_pure, "margin/a.py", "hash('x')"),
        (numbers_are_integers, "margin/a.py", "x = 0.5"),
        (numbers_are_integers, "execution/a.py", "x = 1 / 2"),
        (numbers_are_integers, "matching/a.py", "x = 1\nx /= 2"),
        (numbers_are_integers, "protocol/a.py", "def f(x: float): ..."),
        (run_time_checks_are_no_asserts, "client/a.py", "assert True"),
        (errors_are_not_swallowed, "net/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
        (errors_are_not_swallowed, "net/a.py", "try:\n    f()\nexcept:\n    pass"),
        (files_and_functions_are_short, "net/a.py", "x = 1\n" * (FILE_LINES + 1)),
        (files_and_functions_are_short, "net/a.py", "def f():\n" + "    x\n" * FUNCTION_LINES),
        (names_say_something, "net/utils.py", "x = 1"),
        (names_say_something, "client/helpers/a.py", "x = 1"),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, path: str, code: str) -> None:
    assert list(rule(parse(path, GOOD + code))), f"{rule.__name__} missed: {code}"
    assert not list(rule(parse("net/sound.py", GOOD)))


@pytest.mark.parametrize("text", ["", "from __future__ import annotations\n", "x = 1\n"])
def test_a_module_without_docstring_is_seen(text: str) -> None:
    assert list(modules_say_what_they_are(parse("net/a.py", text)))
    assert not list(modules_say_what_they_are(parse("net/__init__.py", "")))


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (imports_go_down, "cluster/cli.py", "import client.sdk"),
        (imports_go_down, "node/process.py", "import consensus.replica, net.link, protocol.chain"),
        (machines_are_pure, "node/process.py", "import asyncio"),
        (machines_are_pure, "sequencer/process_peers.py", "import asyncio"),
        (machines_are_pure, "execution/store_snapshots.py", "import os"),
        (machines_are_pure, "cluster/supervisor.py", "import os"),
        (numbers_are_integers, "execution/process.py", "timeout_s = 0.5"),
        (numbers_are_integers, "margin/a.py", "x = 7 // 2"),
    ],
)
def test_a_rule_leaves_sound_code_alone(rule: Rule, path: str, code: str) -> None:
    assert not list(rule(parse(path, GOOD + code)))


def text_files() -> list[Path]:
    """Every text file of the project but this one, and what it ignores in git."""
    skipped = {"build", "dist", "wheels", "__pycache__"}
    files = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts)
        if hidden or skipped & set(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and path.suffix in TEXT_SUFFIXES and path != Path(__file__):
            files.append(path)
    return files


@pytest.mark.parametrize("pattern", [REGISTRIES, UNFINISHED], ids=["registries", "unfinished"])
def test_no_file_names_a_registry_or_leaves_work_undone(pattern: re.Pattern[str]) -> None:
    found = []
    for path in text_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_the_patterns_match_what_they_are_for() -> None:
    assert REGISTRIES.search("--index-url file:///x")
    assert REGISTRIES.search("https://mirror.example/debian")
    assert not REGISTRIES.search("https://peps.python.org/pep-0440/")
    assert UNFINISHED.search("# TODO: later")
    assert not UNFINISHED.search("todos")


def test_every_package_is_installed() -> None:
    listed = set(re.findall(r'"([a-z_.]+)"', (ROOT / "pyproject.toml").read_text()))
    for package in LAYERS:
        for init in (ROOT / package).rglob("__init__.py"):
            name = init.parent.relative_to(ROOT).as_posix().replace("/", ".")
            assert name in listed, f"pyproject.toml does not list the package {name}"


def test_the_lock_pins_what_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = project["project"]["dependencies"] + project["build-system"]["requires"]
    named += project["project"]["optional-dependencies"]["dev"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    missing = {re.split(r"[^A-Za-z0-9-]", text)[0] for text in named} - pinned
    assert not missing, f"run: make lock, for {sorted(missing)}"
