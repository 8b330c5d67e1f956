"""A small world around an engine: accounts with money, blocks, and a mirror of its leaves."""

from __future__ import annotations

from typing import Any

import msgspec

from execution import BlockResult, Engine
from protocol.actions import ActionBatch, OraclePrice, SetMode, SignedBatch
from protocol.codec import encode
from protocol.events import BatchExecuted, Event, Result
from protocol.genesis import Chain, Genesis, Identity, Limits, MarketConfig, Pace, parse_genesis
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit

START_MS = 1_700_000_000_000
GOOD = b"\x01" * 64
BAD = b"\x02" * 64
DOLLAR = 1_000_000
ORACLES = [bytes((0xE0 + number,)) * 32 for number in range(3)]
GUARDIANS = [bytes((0xD0 + number,)) * 32 for number in range(3)]


def signer(number: int) -> bytes:
    """Public key of an account's owner in tests."""
    return number.to_bytes(32, "big")


def market(number: int, **changes: Any) -> MarketConfig:
    """A market of value 1000 uUSD per tick x lot, 10 % initial margin, mark 1000: a lot is $1."""
    fields: dict[str, Any] = {
        "market": number,
        "symbol": f"M{number}",
        "tick_uusd": 1_000_000,
        "lot_micro": 1_000,
        "initial_ppm": 100_000,
        "maintenance_ppm": 50_000,
        "taker_fee_ppm": 500,
        "maker_fee_ppm": 100,
        "min_notional_uusd": 0,
        "max_order_lots": 1_000_000,
        "max_position_lots": 10_000_000,
        "initial_price_ticks": 1_000,
    }
    return MarketConfig(**(fields | changes))


def make_chain(markets: list[MarketConfig], limits: Limits | None = None, **changes: Any) -> Chain:
    """A chain of these markets with three oracles; `changes`: further fields of genesis."""
    pace = Pace(20, 100, 1_000, 500, 5_000, 1 << 20)
    peer = Identity("v0", "11" * 32, 1, "00")
    genesis = Genesis(
        "test", START_MS, 3, [peer], [peer], [], [key.hex() for key in ORACLES], markets, [],
        pace, pace, limits or Limits(), **changes,
    )  # fmt: skip
    return parse_genesis(msgspec.json.encode(genesis))


def accept(key: bytes, signature: bytes, digest: bytes) -> bool:
    """Stands for signature checks: `GOOD` is valid for everybody."""
    return signature == GOOD and len(digest) == 32 and len(key) == 32


class World:
    """An engine and everything around it that a test needs to drive it."""

    def __init__(
        self,
        markets: list[MarketConfig] | None = None,
        limits: Limits | None = None,
        accounts: int = 4,
        dollars: int = 10_000,
        checked: bool = True,
        guardians: int = 0,
        block_ms: int = 10,
        **changes: Any,
    ) -> None:
        if guardians:
            changes["guardians"] = [key.hex() for key in GUARDIANS[:guardians]]
        markets = markets or [market(0), market(1, maker_fee_ppm=-200)]
        self.chain = make_chain(markets, limits, **changes)
        self.engine = Engine(self.chain, accept)
        self.mirror = self.engine.leaves()
        self.checked = checked
        self.block_ms = block_ms
        self.height = 0
        self.cursor = 0
        self.nonce = START_MS
        self.events: list[Event] = []
        self.last = BlockResult([], {}, [], 0)
        self.past: list[BlockResult] = []
        self.accounts = [FIRST_ACCOUNT + number for number in range(accounts)]
        if dollars:
            self.block([], [self.deposit(n, dollars * DOLLAR) for n in self.accounts])

    @property
    def time_ms(self) -> int:
        """Time of the last block."""
        return START_MS + self.height * self.block_ms

    def deposit(self, account: int, amount_uusd: int) -> InboxDeposit:
        """The next inbox entry."""
        self.cursor += 1
        return InboxDeposit(self.cursor - 1, account, address_of(signer(account)), amount_uusd)

    def fund(self, account: int, amount_uusd: int) -> InboxDeposit:
        """The next inbox entry: money that genesis gives to a fund."""
        self.cursor += 1
        return InboxDeposit(self.cursor - 1, account, bytes(20), amount_uusd)

    def batch(
        self,
        account: int,
        *actions: Any,
        by: bytes | None = None,
        nonce: int | None = None,
        expires_ms: int = 0,
        signature: bytes = GOOD,
    ) -> bytes:
        """A signed batch; nonces count up unless one is given."""
        self.nonce += 1
        nonce = self.nonce if nonce is None else nonce
        body = encode(ActionBatch(account, nonce, expires_ms, list(actions)))
        return encode(SignedBatch(1, signer(account) if by is None else by, body, signature))

    def block(self, batches: list[bytes], inbox: list[InboxDeposit] | None = None) -> BlockResult:
        """Apply a block; the changes must turn the leaves before into the leaves after."""
        self.height += 1
        result = self.engine.apply(
            self.height, self.time_ms, b"", inbox or [], self.cursor, batches
        )
        for key, value in result.changes.items():
            if value is None:
                del self.mirror[key]
            else:
                assert self.mirror.get(key) != value, "a leaf that did not change"
                self.mirror[key] = value
        if self.checked:
            assert self.mirror == self.engine.leaves()
            self.engine.check()
        self.events = result.events
        self.last = result
        self.past.append(result)
        return result

    def send(self, raw: bytes) -> BatchExecuted:
        """Apply a block of one batch and return how it was answered."""
        answers = [e for e in self.block([raw]).events if isinstance(e, BatchExecuted)]
        assert len(answers) == 1
        return answers[0]

    def act(self, account: int, *actions: Any) -> list[Result]:
        """Results of an owner's batch in a block of its own."""
        answer = self.send(self.batch(account, *actions))
        assert answer.code == 0, answer
        return answer.results

    def one(self, account: int, action: Any) -> Result:
        """Result of one action in a block of its own."""
        return self.act(account, action)[0]

    def mark(self, ticks: int, market_number: int = 0) -> None:
        """All oracles report a price."""
        self.block([self.batch(0, OraclePrice(market_number, ticks), by=o) for o in ORACLES])

    def vote(self, market_number: int, mode: int) -> None:
        """All guardians vote for a mode."""
        votes = [
            self.batch(0, SetMode(market_number, mode), by=bytes.fromhex(key))
            for key in self.chain.genesis.guardians
        ]
        self.block(votes)

    def of(self, kind: type) -> list[Any]:
        """Events of one kind in the last block."""
        return [event for event in self.events if type(event) is kind]

    def position(self, account: int, market_number: int = 0) -> tuple[int, int]:
        """(size_lots, cost_uusd) of an account."""
        for view in self.engine.account_view(0, account).positions:
            if view.market == market_number:
                return view.size_lots, view.cost_uusd
        return 0, 0

    def restore(self) -> Engine:
        """A second engine from the leaves alone, in another order."""
        return Engine.restore(self.chain, reversed(list(self.engine.leaves().items())), accept)
