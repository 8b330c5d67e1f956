"""What commands share: where the testnet is, how results and progress are printed."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from client.sdk import Exchange

T = TypeVar("T")

DEFAULT_TESTNET = Path(".trilemma/testnet")
PROGRESS_S = 3.0
COMMAND_PATIENCE_MS = 5_000
"""How long a single command waits for a process that does not answer, and any command for one that
never did: more likely, no cluster is up."""

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout.")]
As = Annotated[
    str, typer.Option("--as", metavar="TRADER", help="Whose account, and whose key signs.")
]
SIGNED = {"ignore_unknown_options": True}
"""Context of a command with an argument that may be below 0, which would be taken for an option."""

Directory = Annotated[
    Path | None, typer.Argument(help="Testnet directory, instead of --testnet.", show_default=False)
]


def choose_testnet(context: typer.Context, given: list[Path] | None) -> None:
    """Take what `--testnet` names, before a command or behind it, for this command.

    Raises `ConfigError` where another directory is named already.
    """
    for directory in given or ():
        named = context.obj
        if isinstance(named, Path) and named.absolute() != directory.absolute():
            raise ConfigError(f"two testnets are named, {named} and {directory}; name one")
        context.obj = directory


def testnet_directory(context: typer.Context, given: Path | None = None) -> Path:
    """The directory of the command line, `given` where a command has an argument for it; raises
    `ConfigError` where the command line names two."""
    if given is not None:
        choose_testnet(context, [given])
    chosen = context.obj
    return chosen if isinstance(chosen, Path) else Path(testnet_option())


def exchange_of(
    context: typer.Context, patience_ms: int = COMMAND_PATIENCE_MS, validator: int = 0
) -> Exchange:
    """The exchange of the chosen testnet; `validator` is the one that is asked first."""
    from client.sdk import Exchange

    return Exchange.connect(
        testnet_directory(context), patience_ms=patience_ms,
        first_patience_ms=COMMAND_PATIENCE_MS, first_address=validator,
    )  # fmt: skip


def output_file(argument: Path | None, option: Path | None) -> Path:
    """The file of a command that takes it as FILE or with --out; raises `ConfigError`."""
    named = [one for one in (argument, option) if one is not None]
    if len(named) != 1:
        raise ConfigError("name the file once: as FILE, or with --out FILE")
    return named[0]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work on a fast loop."""
    import uvloop

    return uvloop.run(work)


def testnet_option() -> str:
    """Where the testnet of a command or a script is, unless it is told."""
    return os.environ.get("TRILEMMA_TESTNET") or str(DEFAULT_TESTNET)


def run_script(work: Coroutine[Any, Any, T]) -> T:
    """Run a script's work; a failure becomes one sentence and the exit status of commands."""
    from client.faults import explain

    try:
        return run(work)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        note(explained[0])
        raise SystemExit(explained[1]) from None


def note(text: str) -> None:
    """Tell progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def listed(label: str, names: Iterable[str]) -> str:
    """Names behind a label, in lines of 80 columns; no name is broken."""
    text = f"{label}: {', '.join(names)}"
    return textwrap.fill(
        text, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def every_few_seconds(text: str) -> Callable[[int, int], None]:
    """Progress for long work: a line with (done, all) every few seconds, on stderr."""
    shown = [time.monotonic()]

    def show(done: int, total: int) -> None:
        if time.monotonic() - shown[0] >= PROGRESS_S:
            shown[0] = time.monotonic()
            note(text.format(done, total))

    return show


def emit(data: object, text: str, *, as_json: bool) -> None:
    """Print a result on stdout: the data as a JSON object, or the text.

    Names tell units (`_uusd` micro-dollars, `_ms`, `_lots`); bytes are given as hex by the caller.
    """
    print(msgspec.json.encode(data).decode() if as_json else text, flush=True)
