"""Commands for proofs: fetch one as a file, and check such a file offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import FIRST_TRADER, NUMBER_MAX, Market, Signed, Sub, Timeout
from client.console import As, Json, emit, exchange_of, note, run, testnet_directory

if TYPE_CHECKING:
    from client.proof_file import ProofFile, SettledProof
    from client.sdk import Exchange
    from protocol.genesis import Chain

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write the file there, and tell what it proves; else print it."),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Trust this checkpoint, instead of genesis."),
]
GenesisFile = Annotated[
    Path | None, typer.Option("--genesis", help="Genesis file, instead of the testnet's.")
]
Final = Annotated[
    bool, typer.Option("--final", help="Wait until nothing can remove the batch any more.")
]
AccountNumber = Annotated[
    int | None,
    typer.Argument(min=0, max=NUMBER_MAX, help="Account by number, instead of the trader's."),
]

proof_app = typer.Typer(
    name="proof",
    help="Fetch a file that proves something: account, position, order, market, withdrawal or "
    "liquidation. Check it with: trilemma verify FILE",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (account, position, order, market, withdrawal, liquidation):
        proof_app.command(cls=Signed)(command)
    app.add_typer(proof_app)
    app.command()(verify)
    receipt = app.command("receipt", cls=Signed, help="The same as: trilemma proof liquidation.")
    receipt(liquidation)
    app.command("verify-receipt", help="The same as: trilemma verify.")(verify)


def account(
    context: typer.Context,
    number: AccountNumber = None,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    out: Out = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Prove an account's address and cash, or that there is no such account."""

    async def subject(exchange: Exchange) -> list[int]:
        return [await _account(exchange, number, trader, sub)]

    deliver(context, "account", subject, out, final, checkpoint, timeout, as_json)


def position(
    context: typer.Context,
    symbol: Market,
    number: AccountNumber = None,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    out: Out = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Prove an account's position in a market, or that it has none."""

    async def subject(exchange: Exchange) -> list[int]:
        found = exchange.market(symbol).market
        return [await _account(exchange, number, trader, sub), found]

    deliver(context, "position", subject, out, final, checkpoint, timeout, as_json)


def order(
    context: typer.Context,
    order_id: Annotated[int, typer.Argument(min=1, max=NUMBER_MAX, help="Id of the order.")],
    out: Out = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Prove that an order rests at its price, or that it does not."""
    from protocol.errors import ConfigError
    from protocol.messages_trading import KIND_ORDER

    async def subject(exchange: Exchange) -> list[int]:
        told = await exchange.questions.order_status(order_id)
        if told.kind != KIND_ORDER or not told.price_ticks:
            raise ConfigError(f"{order_id} is no limit order, so it never rested")
        return [told.market, told.side, told.price_ticks, told.order_id]

    deliver(context, "order", subject, out, final, checkpoint, timeout, as_json)


def market(
    context: typer.Context,
    symbol: Market,
    out: Out = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Prove a market's prices, mode, open interest and funding index."""

    async def subject(exchange: Exchange) -> list[int]:
        return [exchange.market(symbol).market]

    deliver(context, "market", subject, out, final, checkpoint, timeout, as_json)


def withdrawal(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=0, max=NUMBER_MAX, help="The withdrawal's number.")],
    out: Out = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Prove a withdrawal, and whether the base layer has paid it."""

    async def subject(exchange: Exchange) -> list[int]:
        return [number]

    deliver(context, "withdrawal", subject, out, final, checkpoint, timeout, as_json)


def liquidation(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=0, max=NUMBER_MAX, help="The receipt's number.")],
    out: Out = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Prove a liquidation receipt."""

    async def subject(exchange: Exchange) -> list[int]:
        return [number]

    deliver(context, "liquidation", subject, out, final, checkpoint, timeout, as_json)


async def _account(exchange: Exchange, number: int | None, trader: str, sub: str) -> int:
    from client.cli_submit import trader_of

    return (await trader_of(exchange, trader, sub)).account if number is None else number


def deliver(
    context: typer.Context,
    kind: str,
    subject: Any,
    out: Path | None,
    final: bool,
    checkpoint: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Fetch a proof, check it, and print its file (which is JSON as it is) or write it."""
    from client.proof_file import show, to_file
    from client.proof_kinds import row_text

    exchange = exchange_of(context)
    found = _fetched(exchange, kind, subject, final, checkpoint, timeout_s)
    raw = to_file(found, exchange.chain)
    if out is None:
        print(raw.decode(), end="", flush=True)
        return
    write_result(out, raw)
    note(f"proof of kind {kind} written to {out}; check it with: trilemma verify {out}")
    shown = show(found, exchange.chain)
    text = f"{row_text(kind, exchange.chain.genesis.markets, shown.proven)}\n{where_text(shown)}"
    emit(proof_data(shown) | {"file": str(out)}, text, as_json=as_json)


def write_result(path: Path, raw: bytes) -> None:
    """Write the file that a command was asked for; raises `ConfigError` where that cannot be."""
    from protocol.errors import ConfigError
    from store.files import write_atomic

    try:
        write_atomic(path, raw)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _fetched(
    exchange: Exchange,
    kind: str,
    subject: Any,
    final: bool,
    checkpoint: Path | None,
    timeout_s: float,
) -> SettledProof:
    """Fetch a proof; `subject(exchange)` finds out what it is of."""
    from client.proof_fetch import ProofFetcher
    from protocol.errors import ConfigError

    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"there is no checkpoint {checkpoint}")

    async def work() -> SettledProof:
        async with exchange:
            fetcher = ProofFetcher(exchange, checkpoint)
            numbers = await subject(exchange)
            return await fetcher.fetch(kind, numbers, int(timeout_s * 1000), final=final)

    return run(work())


def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File that `trilemma proof` wrote.")],
    checkpoint: CheckpointFile = None,
    genesis: GenesisFile = None,
    state_root: Annotated[
        str, typer.Option("--state-root", metavar="HEX", help="Trust this state root instead.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check a proof file without asking anybody.

    Against a checkpoint (that of genesis if none is given) or a state root. Exits with 6 where it
    does not hold."""
    data, text = _verified(context, file, checkpoint, genesis, state_root)
    emit(data, text, as_json=as_json)


def _verified(
    context: typer.Context,
    file: Path,
    checkpoint: Path | None,
    genesis: Path | None,
    state_root: str,
) -> tuple[dict[str, Any], str]:
    """A checked proof file as data and for people."""
    from client.nonces import wall_clock_ms
    from client.proof_file import (
        PROOF_FILE_BYTES,
        check_under_checkpoint,
        check_under_root,
        from_file,
    )
    from client.proof_kinds import row_text
    from execution.process_light import load_checkpoint
    from protocol.errors import ConfigError

    if checkpoint is not None and state_root:
        raise ConfigError("give a --checkpoint or a --state-root, not both")
    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"there is no checkpoint {checkpoint}")
    if not file.is_file() or file.stat().st_size > PROOF_FILE_BYTES:
        raise ConfigError(f"there is no proof file {file}")
    chain = chain_of(context, genesis)
    found = from_file(file.read_bytes(), chain)
    markets = chain.genesis.markets
    if state_root:
        row = check_under_root(found, chain, root_of(state_root))
        text = f"{row_text(found.kind, markets, row)}\nholds under the given state root"
        return {"kind": found.kind, "proven": row, "state_root": state_root}, text
    trusted = load_checkpoint(chain, checkpoint)
    checked = check_under_checkpoint(found, chain, trusted, wall_clock_ms())
    text = (
        f"{row_text(found.kind, markets, checked.proven)}\n{where_text(checked)}\n"
        f"holds under members of epoch {trusted.epoch}, checkpoint {trusted.fingerprint().hex()}"
    )
    return proof_data(checked) | {"checkpoint": trusted.fingerprint().hex()}, text


def chain_of(context: typer.Context, genesis: Path | None) -> Chain:
    """The chain of a genesis file, or of the testnet; raises `ConfigError`."""
    from store.config import read_chain
    from store.testnet import Testnet

    if genesis is not None:
        return read_chain(genesis)
    return Testnet.load(testnet_directory(context)).chain()


def proof_data(shown: ProofFile) -> dict[str, Any]:
    """A proof for programs, without the proof itself."""
    from msgspec.structs import asdict

    return {name: value for name, value in asdict(shown).items() if name != "proof"}


def where_text(shown: ProofFile) -> str:
    """Where and when a proof's batch was settled, and whether it is final."""
    from client.units import utc

    state = "final" if shown.final else "settled, but not final: a dispute can still remove it"
    return (
        f"in batch {shown.batch}, settled in ledger block {shown.settled_height} at "
        f"{utc(shown.settled_time_ms)}, state root {shown.state_root}\n"
        f"at ledger height {shown.ledger_height}, which the header of {utc(shown.ledger_time_ms)} "
        f"names, the batch is {state}"
    )


def root_of(text: str) -> bytes:
    """A state root in hex; raises `ConfigError`."""
    from protocol.errors import ConfigError

    try:
        root = bytes.fromhex(text)
    except ValueError:
        root = b""
    if len(root) != 32:
        raise ConfigError("a state root is 32 bytes in hex")
    return root
