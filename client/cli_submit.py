"""What commands that sign share: their options, and how a batch is sent and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.console import emit, exchange_of, note, run

if TYPE_CHECKING:
    from client.sdk import Exchange
    from client.trader import Trader
    from protocol.actions import Action
    from protocol.markets import MarketConfig

NUMBER_MAX = (1 << 63) - 1
FIRST_TRADER = "trader-00"
STATUS_NAMES = ("done", "resting", "filled", "cancelled", "waiting", "fired")
WAITS = ("accepted", "ordered", "executed", "settled", "final")

Market = Annotated[str, typer.Argument(help="Symbol, such as BTC-PERP.")]
Side = Annotated[str, typer.Argument(help="buy or sell.")]
Size = Annotated[str, typer.Argument(help="In units of the base asset, such as 0.5.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0, help="Seconds to wait for the outcome.")
]
ClientId = Annotated[
    int, typer.Option(min=0, max=NUMBER_MAX, help="Your own id for the order; 0 for none.")
]
ReduceOnly = Annotated[
    bool, typer.Option("--reduce-only", help="Only ever make the position smaller.")
]
Stp = Annotated[
    str,
    typer.Option(
        help="Meeting one's own order: cancel-maker (the default), cancel-taker, cancel-both or "
        "decrement."
    ),
]
StpMaster = Annotated[
    bool, typer.Option("--stp-master", help="All accounts of the master count as one's own.")
]
Expires = Annotated[
    str, typer.Option(help="When what rests is cancelled: 30s, 10m, 2h, 1d, or ms since 1970.")
]
Slippage = Annotated[
    str, typer.Option(help="How far from the mark a market order may go, in per cent.")
]
Wait = Annotated[
    str, typer.Option(help="State to wait for: accepted, ordered, executed, settled or final.")
]
Sub = Annotated[
    str,
    typer.Option(
        "--sub",
        metavar="ACCOUNT",
        help="Sub-account that acts: 3, isolated 3:BTC-PERP, #NUMBER.",
    ),
]


def check_wait(wait: str) -> None:
    """Raise `ConfigError` for a state that there is not."""
    from protocol.errors import ConfigError

    if wait not in WAITS:
        raise ConfigError(f"--wait takes {', '.join(WAITS)}, not {wait!r}")


def flags_of(reduce_only: bool, stp: str, stp_master: bool) -> int:
    """Order flags of the options."""
    from client.orders import order_flags

    return order_flags(reduce_only=reduce_only, stp=stp, stp_master=stp_master)


def expiry_of(text: str) -> int:
    """Milliseconds since 1970 of an `Expires` option; 0 for none."""
    from client.nonces import wall_clock_ms
    from client.orders import parse_time_ms

    return parse_time_ms(text, wall_clock_ms())


async def trader_of(exchange: Exchange, name: str, sub: str) -> Trader:
    """The trader of a name, acting for its master account or a sub-account."""
    from client.orders import parse_account
    from client.trader import Trader

    trader = await exchange.trader(name)
    if not sub:
        return trader
    account = parse_account(sub, trader.account, exchange.chain.genesis.markets)
    return Trader(exchange, trader.key, account)


async def send(
    trader: Trader, actions: list[Action], wait: str, timeout_s: float
) -> dict[str, Any]:
    """Send a batch and wait for a state; what became of it, with a row in ``results`` for each
    action once it is executed."""
    from protocol.actions import batch_id

    submission = await trader.batch(actions)
    identity = batch_id(submission.raw).hex()
    try:
        await submission.wait(wait, int(timeout_s * 1000))  # type: ignore[arg-type]
    except TimeoutError as error:
        raise TimeoutError(f"{error}; see: trilemma trace {identity}") from None
    data: dict[str, Any] = {
        "action_id": identity,
        "nonce_ms": submission.nonce_ms,
        "height": submission.height,
        "account": trader.account,
        "status": wait,
        "latency_ms": {
            state: round(submission.latency_ms(state), 3)  # type: ignore[arg-type]
            for state in WAITS
            if submission.reached_ns(state)  # type: ignore[arg-type]
        },
        "results": [],
    }
    event = submission.result
    if event is not None and event.code:
        from client.submission import results_of

        results_of(event)
    if event is not None:
        data["results"] = [
            {
                "code": result.code,
                "status": STATUS_NAMES[result.status],
                "order_id": result.order_id,
                "filled_lots": result.filled_lots,
                "remaining_lots": result.remaining_lots,
            }
            for result in event.results
        ]
    return data


def submit_one(
    context: typer.Context,
    trader: str,
    sub: str,
    action: Action,
    wait: str,
    timeout_s: float,
    exchange: Exchange | None = None,
) -> dict[str, Any]:
    """Send one action; its result beside what became of the batch. Raises `ActionRejected`."""
    from client.submission import ActionRejected
    from protocol.meanings import meaning

    check_wait(wait)
    desk = exchange or exchange_of(context)

    async def work() -> dict[str, Any]:
        async with desk:
            return await send(await trader_of(desk, trader, sub), [action], wait, timeout_s)

    data = run(work())
    rows = data.pop("results")
    data["order_id"] = 0
    if rows:
        row = rows[0]
        code = row.pop("code")
        if code:
            raise ActionRejected(code, meaning(code))
        data.update(row)
    return data


def tell(data: dict[str, Any], config: MarketConfig | None, *, as_json: bool) -> None:
    """Print the result of one action, and for people by which id `trilemma trace` knows it."""
    emit(data, f"{result_line(data, config)}\n{id_line(data)}", as_json=as_json)


def id_line(data: dict[str, Any]) -> str:
    """What `trilemma trace` takes, for people."""
    return f"action {data['action_id']}"


def result_line(row: dict[str, Any], config: MarketConfig | None) -> str:
    """A result for people."""
    from client.units import lots_to_size

    text = str(row["status"])
    if row["order_id"]:
        text += f"  order {row['order_id']}"
    if config is not None and "filled_lots" in row:
        text += f"  filled {lots_to_size(config, row['filled_lots'])}"
        text += f"  remaining {lots_to_size(config, row['remaining_lots'])}"
    return text


def tell_all(data: dict[str, Any], config: MarketConfig, *, as_json: bool) -> None:
    """Print the results of several actions; exits with 3 where one was refused."""
    from client.faults import EXIT_REJECTED
    from protocol.meanings import meaning

    rows = data["results"]
    lines = [result_line(row, config) for row in rows if not row["code"]]
    emit(data, "\n".join([*(lines or [data["status"]]), id_line(data)]), as_json=as_json)
    refused = [(place, row["code"]) for place, row in enumerate(rows, 1) if row["code"]]
    for place, code in refused:
        note(f"trilemma: action {place} was rejected: {meaning(code)}")
    if refused:
        raise typer.Exit(EXIT_REJECTED)
