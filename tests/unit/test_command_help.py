"""What a new user reads: every command stands below a heading, its list entry is one sentence, each
option and argument says what it is, and every example works as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from client.channel import Unreachable
from cluster import cli
from cluster.commands import PROCESSES
from cluster.testnet import TestnetOptions, create_testnet

EXAMPLE = "Example: trilemma "

app = typer.Typer(cls=cli.Commands)
app.callback()(cli._global_options)
cli.register(app)


def commands(group: Any, path: str = "trilemma") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(commands(get_command(app)))


def examples() -> list[str]:
    lines = [line.strip() for one in ALL.values() for line in str(one.help).splitlines()]
    return [line.removeprefix(EXAMPLE) for line in lines if line.startswith(EXAMPLE)]


def test_every_command_stands_below_a_heading() -> None:
    infos = [*app.registered_commands, *app.registered_groups]
    assert len(infos) > 50 and all(one.rich_help_panel for one in infos)


@pytest.mark.parametrize("role", PROCESSES)
def test_a_process_of_a_cluster_starts_without_the_other_commands(role: str) -> None:
    few = typer.Typer()
    cli.register(few, [role])
    assert 0 < len(few.registered_commands) < len(app.registered_commands)
    assert role in [one.name for one in few.registered_commands]


@pytest.mark.parametrize("name", ALL)
def test_a_command_explains_itself(name: str) -> None:
    command = ALL[name]
    assert "\n" not in command.help.split("\n\n")[0], "the list shows the first paragraph"
    unexplained = [one.name for one in command.params if not getattr(one, "help", "")]
    assert unexplained == []


@pytest.mark.parametrize("example", examples())
def test_an_example_is_accepted_as_it_stands(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.console.COMMAND_PATIENCE_MS", 1)
    create_testnet(tmp_path, TestnetOptions(validators=1, traders=1, free_ports=True))
    done = CliRunner().invoke(app, ["--testnet", str(tmp_path), *shlex.split(example)])
    assert isinstance(done.exception, Unreachable), done.output
