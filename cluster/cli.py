"""The command line, ``trilemma``.

Exit statuses: 0 done, 1 failed, 2 usage or configuration, 3 rejected, 4 no progress in time,
5 safety violation, 6 invalid proof, 130 Ctrl-C.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo, TyperInfo

from client.console import choose_testnet


class Commands(TyperGroup):
    """All commands. Those that look at a testnet take `--testnet` behind their name, too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        option = next(one for one in self.params if "--testnet" in one.opts)
        for command in self.commands.values():
            _take_behind(option, command)


def _take_behind(option: Any, command: Any) -> None:
    """Give a command, or a group and its commands, an option of the root.

    Left as they are: commands without a context, which look at no testnet, and those with such an
    option of their own.
    """
    inner = getattr(command, "commands", {})
    looks = inner or "context" in inspect.signature(command.callback).parameters
    if looks and not any("--testnet" in one.opts for one in command.params):
        command.params.append(option)
    for one in inner.values():
        _take_behind(option, one)


app = typer.Typer(
    name="trilemma",
    cls=Commands,
    help="A decentralised derivatives exchange: run a testnet, trade on it, load it, audit it.",
    epilog="To begin: trilemma up --detach, then trilemma order BTC-PERP buy 0.5 59900, "
    "trilemma account, trilemma status; at the end trilemma down.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    from protocol.messages import WIRE_VERSION
    from store.migrations import FORMAT

    print(f"trilemma {version('trilemma')}, wire version {WIRE_VERSION}, store format {FORMAT}")
    raise typer.Exit()


@app.callback()
def _global_options(
    testnet: Annotated[
        list[Path] | None,
        typer.Option(
            "--testnet", metavar="DIR", callback=choose_testnet, expose_value=False,
            help="Directory of the testnet; else TRILEMMA_TESTNET names it, or it is "
            ".trilemma/testnet.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Say which release this is.", callback=_tell_version,
                           is_eager=True),
    ] = False,
) -> None:  # fmt: skip
    """Options of all commands: their callbacks do what there is to do."""


def register(app: typer.Typer, called: Sequence[str] = ()) -> None:
    """Add every command, each below the heading of its kind in the help; only those of `commands`
    where one that runs a process is `called`."""
    from cluster import commands

    if set(called) & set(commands.PROCESSES):
        commands.register(app)  # a cluster starts sooner when its processes know no others
        return
    from client import (
        cli_account,
        cli_audit,
        cli_evidence,
        cli_exit,
        cli_flow,
        cli_force,
        cli_market,
        cli_oracle,
        cli_proof,
        cli_trace,
        cli_trade,
        cli_trigger,
        cli_validator,
        light_command,
    )
    from cluster import (
        backup_command,
        faults_command,
        join_command,
        rotate_command,
        sim_command,
        stress_command,
    )

    panels = {
        "A testnet": (commands, backup_command),
        "Orders": (cli_trade, cli_trigger),
        "Accounts and money": (cli_account,),
        "Markets": (cli_market, cli_oracle),
        "Load": (cli_flow,),
        "Proofs and audits": (cli_proof, light_command, cli_trace, cli_audit, cli_evidence),
        "Where sequencers or provers fail": (cli_force, cli_exit),
        "Validators": (cli_validator,),
        "Experiments": (faults_command, sim_command, stress_command),
    }
    for panel, modules in panels.items():
        known = len(app.registered_commands), len(app.registered_groups)
        for module in modules:
            module.register(app)
        added: list[CommandInfo | TyperInfo] = [*app.registered_commands[known[0] :]]
        added += app.registered_groups[known[1] :]
        for one in added:
            one.rich_help_panel = one.rich_help_panel or panel
    for module in (join_command, rotate_command):
        module.register(cli_validator.validator_app)


def main() -> None:
    """Entry point: run a command; every failure becomes one sentence and an exit status."""
    try:
        from store.files import open_standard_files

        open_standard_files()
        register(app, sys.argv[1:2])
        try:
            app()
        finally:
            sys.stdout.flush()  # fails here, where it can be told, rather than at the very end
    except KeyboardInterrupt:
        # Commands are still being imported; one that runs ends in typer, with the same status.
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        _give_up_output()
        sys.exit(1)
    except Exception as error:
        from client.faults import explain

        explained = explain(error)
        if explained is None:
            raise
        text, status = explained
        _give_up_output()
        print(f"trilemma: {text}", file=sys.stderr)
        sys.exit(status)


def _give_up_output() -> None:
    """Drop what can no longer be written: Python would try once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
