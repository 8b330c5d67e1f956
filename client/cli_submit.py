"""What commands that sign share: their options, and how a batch is sent and told."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from client.console import As, Json, emit, exchange_of, note, run

if TYPE_CHECKING:
    from client.sdk import Exchange
    from client.submission import State
    from client.trader import Trader
    from protocol.actions import Action
    from protocol.markets import MarketConfig

NUMBER_MAX = (1 << 63) - 1
TIMEOUT_MAX_S = 366 * 86_400
FIRST_TRADER = "trader-00"
STATUS_NAMES = ("done", "resting", "filled", "cancelled", "waiting", "fired")
WAITS: tuple[State, ...] = ("accepted", "ordered", "executed", "settled", "final")

Market = Annotated[str, typer.Argument(help="Symbol, such as BTC-PERP.")]
Side = Annotated[str, typer.Argument(help="buy or sell.")]
Size = Annotated[str, typer.Argument(help="In units of the base asset, such as 0.5.")]
Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0, max=TIMEOUT_MAX_S, help="Seconds to wait for the outcome."),
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


class Signed(TyperCommand):
    """A command whose arguments are numbers: one below 0 is told to be wrong as a number, instead
    of as an option that there is not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # With an h it would be taken for -h.
        ctx.ignore_unknown_options = any(re.fullmatch(r"-[.\d][^h]*", one) for one in args)
        return super().parse_args(ctx, args)


class Sending:
    """How a command submits: who signs for which account, the state that it waits for, and whether
    the result is printed as JSON. `submits` gives a command these parameters as its options."""

    def __init__(
        self,
        context: typer.Context,
        trader: As = FIRST_TRADER,
        sub: Sub = "",
        wait: Wait = "executed",
        timeout: Timeout = 30.0,
        as_json: Json = False,
    ) -> None:
        """Raises `ConfigError`: no such state, or no testnet."""
        from protocol.errors import ConfigError

        if wait not in WAITS:
            raise ConfigError(f"--wait takes {', '.join(WAITS)}, not {wait!r}")
        self.exchange = exchange_of(context)
        self._trader, self._sub = trader, sub
        self._wait, self._timeout_s, self._as_json = wait, timeout, as_json

    def submit(self, action: Action, config: MarketConfig | None = None) -> None:
        """Send an action, and print what became of it; raises `ActionRejected`."""
        self.tell(self.send_one(action, config=config), config)

    def send_one(
        self,
        action: Action | Callable[[int], Action],
        account: int | None = None,
        config: MarketConfig | None = None,
    ) -> dict[str, Any]:
        """Send an action, or what is made of the number of the account that acts (`account`, where
        it is not the signer's); its result beside what became of the batch. A refusal names the
        limits of the market `config`.

        Raises `ActionRejected`.
        """
        from client.submission import ActionRejected

        data = self._send(lambda number: [action(number) if callable(action) else action], account)
        rows = data.pop("results")
        data["order_id"] = 0
        if rows:
            row = rows[0]
            code = row.pop("code")
            if code:
                raise ActionRejected(code, refusal_text(code, config))
            data.update(row)
        return data

    def submit_all(self, actions: list[Action], config: MarketConfig) -> None:
        """Send actions as one batch, and print each result; exits with 3 where one was refused."""
        tell_all(self._send(lambda _: actions), config, as_json=self._as_json)

    def tell(
        self, data: dict[str, Any], config: MarketConfig | None = None, done: str = ""
    ) -> None:
        """Print what `send_one` returned; `done`: for people, where the action is executed."""
        tell(data, config, as_json=self._as_json, done=done)

    def _send(
        self, actions: Callable[[int], list[Action]], account: int | None = None
    ) -> dict[str, Any]:
        async def work() -> dict[str, Any]:
            from client.trader import Trader

            async with self.exchange as exchange:
                if account is None:
                    trader = await trader_of(exchange, self._trader, self._sub)
                else:
                    trader = Trader(exchange, exchange.key(self._trader), account)
                return await send(trader, actions(trader.account), self._wait, self._timeout_s)

        return run(work())


def submits(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `Sending`, as one with the options of a `Sending`."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    context, *shared = inspect.signature(Sending, eval_str=True).parameters.values()

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        sending = Sending(**{one.name: given.pop(one.name) for one in (context, *shared)})
        command(sending, **given)

    signature = inspect.Signature([context, *own, *shared])
    with_options.__signature__ = signature  # type: ignore[attr-defined]
    return with_options


def flags_of(reduce_only: bool, stp: str, stp_master: bool) -> int:
    """Order flags of the options."""
    from client.orders import order_flags

    return order_flags(reduce_only=reduce_only, stp=stp, stp_master=stp_master)


def expiry_of(text: str) -> int:
    """Milliseconds since 1970 of an `Expires` option; 0 for none."""
    from client.nonces import wall_clock_ms
    from client.orders import parse_time_ms

    return parse_time_ms(text, wall_clock_ms())


def slippage_of(text: str) -> int:
    """Parts per million of a `Slippage` option; raises `ConfigError`."""
    from client.units import percent_to_ppm
    from execution.checks import MAX_SLIPPAGE_PPM
    from protocol.errors import ConfigError

    slippage_ppm = percent_to_ppm(text)
    if not 1 <= slippage_ppm <= MAX_SLIPPAGE_PPM:
        raise ConfigError(
            f"slippage is 0.0001 to {MAX_SLIPPAGE_PPM / 10_000:g} per cent, not {text}"
        )
    return slippage_ppm


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
    trader: Trader, actions: list[Action], wait: State, timeout_s: float
) -> dict[str, Any]:
    """Send a batch and wait for a state; what became of it, with a row in ``results`` for each
    action once it is executed."""
    from protocol.actions import batch_id

    submission = await trader.batch(actions)
    identity = batch_id(submission.raw).hex()
    try:
        # What was refused is told at once: that it settles as well is of no use to anybody.
        await submission.wait(wait, int(timeout_s * 1000), while_useful=True)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; see: trilemma trace {identity}") from None
    data: dict[str, Any] = {
        "action_id": identity,
        "nonce_ms": submission.nonce_ms,
        "height": submission.height,
        "account": trader.account,
        "status": wait if submission.reached_ns(wait) else "executed",
        "latency_ms": {
            state: round(submission.latency_ms(state), 3)
            for state in WAITS
            if submission.reached_ns(state)
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


def tell(
    data: dict[str, Any], config: MarketConfig | None, *, as_json: bool, done: str = ""
) -> None:
    """Print the result of one action, and for people by which id `trilemma trace` knows it; `done`
    stands for the result where there is one."""
    text = done if done and "filled_lots" in data else result_line(data, config)
    emit(data, f"{text}\n{id_line(data)}", as_json=as_json)


def refusal_text(code: int, config: MarketConfig | None) -> str:
    """What a code means and, where the market is known, the limit that it is about."""
    from client.units import lots_to_size, ticks_to_price, uusd_to_usd
    from protocol.errors import Code
    from protocol.markets import PRICE_LIMIT
    from protocol.meanings import meaning

    if config is None:
        return meaning(code)
    least, most = (lots_to_size(config, lots) for lots in (1, config.max_order_lots))
    limits: dict[int, str] = {
        Code.BAD_SIZE: f"an order is {least} to {most}",
        Code.BAD_PRICE: f"prices are {ticks_to_price(config, 1)} to "
        f"{ticks_to_price(config, PRICE_LIMIT - 1)}",
        Code.BELOW_MIN_NOTIONAL: f"that is {uusd_to_usd(config.min_notional_uusd)} dollars",
        Code.POSITION_LIMIT: f"that is {lots_to_size(config, config.max_position_lots)}",
    }
    return meaning(code) + (f" In {config.symbol} {limits[code]}." if code in limits else "")


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

    rows = data["results"]
    lines = [result_line(row, config) for row in rows if not row["code"]]
    emit(data, "\n".join([*(lines or [data["status"]]), id_line(data)]), as_json=as_json)
    refused = [(place, row["code"]) for place, row in enumerate(rows, 1) if row["code"]]
    for place, code in refused:
        note(f"trilemma: action {place} was rejected: {refusal_text(code, config)}")
    if refused:
        raise typer.Exit(EXIT_REJECTED)
