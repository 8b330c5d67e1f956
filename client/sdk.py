"""The exchange as one object: connect to a chain, submit, follow, ask.

Usage::

    async with Exchange.connect(".trilemma/testnet") as exchange:
        trader = await exchange.trader("trader-00")
        order = await trader.place("BTC-PERP", "buy", size="0.01", price="59000")
        print(results_of(await order.executed()))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from client.channel import START_HINT, Channel, Unreachable
from client.disconnect import CancelOnDisconnect
from client.ledger import Ledger
from client.nonces import NonceSource, wall_clock_ms
from client.pipeline import Pipeline
from client.questions import Questions
from client.stream import EventStream
from client.submission import Submission
from client.tracker import BlockWatcher, ResultTracker, follow_events, follow_ledger
from protocol.actions import ALL_MARKETS, Action, ActionBatch, SetMode, sign_batch
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.genesis import Chain, MarketConfig
from protocol.keys import Key
from protocol.messages import Status, StatusRequest
from protocol.messages_market_data import BookRequest, BookView
from protocol.messages_trading import AccountRequest, AccountView, OrdersRequest, OrdersView
from store.config import Role
from store.running import silence_hint
from store.testnet import ORACLE_KEY, Testnet

if TYPE_CHECKING:
    from client.trader import Trader

DEPOSIT_WAIT_MS = 3_000
PATIENCE_MS = 30_000
"""How long a lost process is waited for."""
SUBMIT = "submit"
"""The channel of submissions."""
WATCH_PATIENCE_MS = 500
"""How long it takes at most to learn how far another execution node is."""


class Exchange:
    """A chain's processes, as one client sees them.

    `follow()` starts the event stream and the ledger's news; submissions need it to pass beyond
    *ordered*, and the `Trader` starts it by itself.
    """

    def __init__(
        self,
        chain: Chain,
        addresses: Mapping[Role, list[str]],
        *,
        testnet: Testnet | None = None,
        patience_ms: int = PATIENCE_MS,
        first_address: int = 0,
        spread: bool = False,
        first_patience_ms: int | None = None,
    ) -> None:
        """`addresses` are asked in their order from `first_address` on; with `spread` the first
        signer's key says with which sequencer submissions begin."""
        self.chain = chain
        self.testnet = testnet
        self.tracker = ResultTracker()
        self.watchers: list[BlockWatcher] = [self.tracker.take]
        self.patience_ms = patience_ms
        self._addresses = addresses
        self._first_address = first_address
        self._spread = spread
        self._first_patience_ms = first_patience_ms
        self._channels: dict[str, Channel] = {}
        self._nonces: dict[bytes, NonceSource] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._pipeline: Pipeline | None = None
        self._stream: EventStream | None = None
        self._watch: Channel | None = None
        self._following = asyncio.Lock()
        self._problem: BaseException | None = None
        self._guards: list[CancelOnDisconnect] = []
        self.ledger = Ledger(self)
        self.questions = Questions(self)

    @classmethod
    def connect(
        cls,
        directory: Path | str,
        *,
        patience_ms: int = PATIENCE_MS,
        first_patience_ms: int | None = None,
        first_address: int = 0,
    ) -> Exchange:
        """The exchange of a testnet directory; connections open when used, and each client has its
        own first sequencer.

        `first_address`: number of the validator that is asked first. `first_patience_ms`: how long
        a process is waited for that never answered, where that is less. Raises `ConfigError`.
        """
        testnet = Testnet.load(directory)
        roles: tuple[Role, ...] = ("node", "sequencer", "execution", "prover")
        addresses = {role: testnet.addresses(role) for role in roles}
        count = len(addresses["node"])
        if first_address and not 0 < first_address < count:
            raise ConfigError(
                f"there is no validator {first_address}; their numbers are 0 to {count - 1}"
            )
        return cls(
            testnet.chain(), addresses, testnet=testnet, patience_ms=patience_ms,
            first_address=first_address, spread=True, first_patience_ms=first_patience_ms,
        )  # fmt: skip

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following and close every session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for guard in self._guards:
            await guard.stop()
        if self._pipeline is not None:
            await self._pipeline.close()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        if self._watch is not None:
            await self._watch.close()

    # --- places

    def channel(self, role: Role) -> Channel:
        """The channel for questions to a role."""
        return self._channel(role, role)

    def _channel(self, name: str, role: Role) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            hint: str | Callable[[], str] = START_HINT
            if self.testnet is not None:
                hint = partial(silence_hint, self.testnet, role)
            channel = self._channels[name] = Channel(
                self.chain, role, self._addresses.get(role, []), self.patience_ms,
                self._first_address, spread=self._spread and name == SUBMIT,
                first_patience_ms=self._first_patience_ms,
                start_hint=hint,
            )  # fmt: skip
        return channel

    def market(self, market: str | int) -> MarketConfig:
        """A market by symbol or number; raises `ConfigError` naming the known ones."""
        return self.chain.genesis.market(str(market))

    def key(self, name: str) -> Key:
        """A key of the testnet's directory, by trader's name, or ``oracle``."""
        if self.testnet is None:
            raise ConfigError("keys by name need a testnet directory; pass a Key instead")
        return self.testnet.key(name)

    def nonces(self, public_key: bytes) -> NonceSource:
        """The nonces of a signer, shared by all who sign with its key here."""
        return self._nonces.setdefault(public_key, NonceSource())

    @property
    def reconnects(self) -> int:
        """Sessions that were opened again after a loss."""
        return sum(max(0, channel.connects - 1) for channel in self._channels.values())

    # --- following

    async def follow(self, from_seq: int | None = None) -> None:
        """Follow all events and the ledger from now (or from a sequence number) on."""
        async with self._following:
            if self._stream is not None:
                return
            if from_seq is None:
                from_seq = (await self.book(0, 1)).next_seq
            self._watch = Channel(
                self.chain, "execution", self._addresses["execution"], WATCH_PATIENCE_MS
            )
            self._stream = EventStream(
                self._channel("events", "execution"), from_seq, others=self._watch
            )
            self._spawn(follow_events(self._stream, self.watchers))
            self._spawn(
                follow_ledger(
                    self._channel("ledger-news", "node"),
                    self.chain.genesis.shard,
                    self.tracker.settle_to,
                    self.tracker.finalise_to,
                )
            )

    @property
    def stream(self) -> EventStream:
        """The event stream; raises `ConfigError` before `follow`."""
        if self._stream is None:
            raise ConfigError("the exchange is not followed yet; await exchange.follow()")
        return self._stream

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._problem = self._problem or error
        failure = error if isinstance(error, Exception) else Unreachable(str(error))
        for submission in self.tracker.pending():
            submission.fail(failure)

    def check(self) -> None:
        """Raise what ended the following of the exchange, if anything did."""
        if self._problem is not None:
            raise self._problem

    # --- submitting

    @property
    def pipeline(self) -> Pipeline:
        """The ordered way to a sequencer."""
        if self._pipeline is None:
            self._pipeline = Pipeline(self.chain, self._channel(SUBMIT, "sequencer"))
        return self._pipeline

    async def prove(self, key: Key) -> None:
        """Prove a signer to the submitting session, now and after every reconnect."""
        await self._channel(SUBMIT, "sequencer").add_signer(key)

    def sign(
        self, key: Key, account: int, actions: list[Action], *, expires_ms: int = 0
    ) -> Submission:
        """Sign a batch under the signer's next nonce."""
        nonce_ms = self.nonces(key.public).take(wall_clock_ms())
        batch = ActionBatch(account, nonce_ms, expires_ms, actions)
        raw = sign_batch(key, self.chain.chain_id, self.chain.genesis.shard, batch)
        return Submission(raw, key.public, nonce_ms, account, len(actions))

    async def submit(self, submission: Submission) -> Submission:
        """Follow a signed batch and send it."""
        self.check()
        if self._stream is None:
            await self.follow()
        self.tracker.expect(submission)
        await self.pipeline.submit(submission)
        return submission

    async def cancel_on_disconnect(
        self, key: Key, account: int, market: str | int | None = None
    ) -> CancelOnDisconnect:
        """Have everything of an account cancelled, in one market or in all, when the submitting
        session ends, whatever ends it; also when this exchange is closed (see `release`).

        Raises `RemoteFault` where the sequencer refuses it. If the sequencer itself dies, a
        dead-man's switch is what holds.
        """
        number = ALL_MARKETS if market is None else self.market(market).market
        channel = self._channel(SUBMIT, "sequencer")
        guard = CancelOnDisconnect(
            self.chain, channel, self.nonces(key.public), key, account, number
        )
        await guard.arm()
        self._guards.append(guard)
        return guard

    async def trader(self, key: Key | str, account: int | None = None) -> Trader:
        """A trader for a key, or the name of one; `account` where the key is another's agent."""
        from client.trader import Trader

        signer = self.key(key) if isinstance(key, str) else key
        if account is None:
            # On a chain that has just started, the deposits of genesis are still on their way.
            account = (await self.account_of(signer.address, wait_ms=DEPOSIT_WAIT_MS)).account
        return Trader(self, signer, account)

    async def set_oracle(self, prices: dict[int, int]) -> list[Submission]:
        """Set oracle prices (market number to ticks) with the testnet's oracle key."""
        from protocol.actions import OraclePrice

        key = self.key(ORACLE_KEY)
        await self.prove(key)
        actions: list[Action] = [OraclePrice(*price) for price in sorted(prices.items())]
        return [await self.submit(self.sign(key, 0, actions))]

    async def vote_mode(self, guardian: Key, market: str | int, mode: int) -> Submission:
        """Vote as a guardian for a market's mode (`protocol.actions.OPEN`, ...)."""
        await self.prove(guardian)
        vote = SetMode(self.market(market).market, mode)
        return await self.submit(self.sign(guardian, 0, [vote]))

    # --- questions

    async def account(self, number: int) -> AccountView:
        """An account as execution sees it now; raises `RemoteFault` (unknown_account)."""
        return await self.channel("execution").ask(AccountView, AccountRequest, number, b"")

    async def account_of(self, address: bytes, wait_ms: int = 0) -> AccountView:
        """The account of an address; waits for its first deposit up to `wait_ms`."""
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            try:
                return await self.channel("execution").ask(AccountView, AccountRequest, 0, address)
            except RemoteFault as fault:
                missing = fault.code in (Code.UNKNOWN_ACCOUNT, Code.NOT_FOUND)
                if not missing or asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(0.1)

    async def book(self, market: str | int, depth: int = 10) -> BookView:
        """The best levels of a market's book."""
        number = self.market(market).market
        return await self.channel("execution").ask(BookView, BookRequest, number, depth)

    async def orders(self, account: int) -> OrdersView:
        """An account's resting orders."""
        return await self.channel("execution").ask(OrdersView, OrdersRequest, account)

    async def status(self, role: Role) -> dict[str, int | str]:
        """Status of the process of a role that this client talks to."""
        return (await self.channel(role).ask(Status, StatusRequest)).values
