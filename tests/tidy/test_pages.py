"""What the pages for people say is so: links lead somewhere, commands exist with their options, and
lists of faults, lies, experiments and decisions are complete."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from cluster import byzantine, cli
from cluster.faults_kinds import KINDS
from store.config import ROLES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/adr/*.md", "deploy/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh")
UsageError: Any = typer.BadParameter.__bases__[0]
"""What a command says to words that it does not take."""

ROLE_WORDS = {"node": "validator"}

app = typer.Typer(cls=cli.Commands)
app.callback()(cli._global_options)
cli.register(app)
COMMANDS: Any = get_command(app)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# --- links


def anchors(page: str) -> set[str]:
    """Where one can jump to in a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text_of(page)), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", one.lower()) for one in headings)
    return {one.strip().replace(" ", "-") for one in plain}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(text_of(page)):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.relative_to(ROOT).as_posix()), link


# --- commands


def lines_of_code(page: str) -> Iterator[str]:
    """Lines of blocks of shell, fenced or indented, without what is said about them."""
    text = text_of(page)
    for language, block in FENCED.findall(text):
        if language in SHELL:
            yield from block.splitlines()
    for line in re.findall(r"^ {4}(trilemma .*)$", FENCED.sub("", text), re.MULTILINE):
        yield re.split(r" {2,}", line)[0]


def commands(page: str) -> list[list[str]]:
    """The words of each command of ours, without its name."""
    found = []
    for line in lines_of_code(page):
        for part in re.split(r"[;&|>]", re.split(r"(?:^|\s)#", line)[0]):
            words = shlex.split(part)
            if words[:1] == ["trilemma"]:
                found.append(words[1:])
    return found


def parse(words: list[str]) -> None:
    """Have a command take its words, without doing anything; raises `UsageError`."""
    command = COMMANDS
    while words and words[0].startswith("--"):
        words = words[2:] if words[0] == "--testnet" else words[1:]
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            raise UsageError(f"there is no command {words[0]}")
        command, words = command.commands[words[0]], words[1:]
    if not hasattr(command, "commands"):
        command.make_context("trilemma", list(words))


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_are_accepted_as_they_stand(page: str) -> None:
    wrong = []
    for words in commands(page):
        try:
            parse(words)
        except UsageError as error:
            wrong.append(f"{shlex.join(words)}: {error.format_message()}")
    assert wrong == []


def test_the_pages_have_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 100


@pytest.mark.parametrize(
    "words", [["ordr"], ["order", "BTC-PERP", "--colour", "red"], ["validator", "lst"], ["claim"]]
)
def test_a_command_that_is_none_is_seen(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


# --- lists


def test_every_decision_is_listed_by_its_title() -> None:
    listed = re.findall(
        r"^\| \[(\d+)\]\(([^)]+)\) \| (.*) \|$", text_of("docs/adr/README.md"), re.M
    )
    files = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    titles = [path.read_text(encoding="utf-8").partition("\n")[0] for path in files]
    assert [name for _, name, _ in listed] == [path.name for path in files]
    assert [f"# {int(number)}. {title}" for number, _, title in listed] == titles


def test_every_experiment_is_listed_as_its_file_says() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \|$", text_of("docs/faults.md"), re.M)
    told = {name: (row, what) for name, row, what in listed}
    for path in (ROOT / "faults").glob("*.toml"):
        about = tomllib.loads(path.read_text(encoding="utf-8"))["experiment"]
        row = about.get("row") or "beside the table"
        assert told.pop(path.stem, None) == (row, about["description"]), path.stem
    assert not told


def test_every_kind_of_fault_is_listed_with_its_parameters() -> None:
    page = text_of("docs/faults.md")
    listed = re.findall(r"^- `([a-z-]+)`( \(no targets\))?(?:: (`.*))?$", page, re.M)
    told = {
        name: (not alone, dict(re.findall(r"`([a-z_]+)` \(([^)]*)\)", parameters)))
        for name, alone, parameters in listed
    }
    assert told == {
        name: (kind.targets, {one: _shown(value) for one, value in kind.parameters.items()})
        for name, kind in KINDS.items()
    }


def _shown(default: object) -> str:
    """A default as the page tells it."""
    if isinstance(default, type):
        return "required"
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if default not in ("", []) else "empty"


def test_every_lie_is_listed() -> None:
    page = text_of("docs/faults.md")
    for role in ROLES:
        line = re.search(rf"^\| {ROLE_WORDS.get(role, role)} \| (.*`.*) \|$", page, re.M)
        assert line is not None, role
        told = {one.partition(":")[0] for one in re.findall(r"`([^`+]+)`", line[1])} - {""}
        assert told == set(byzantine.modes(role)), role
