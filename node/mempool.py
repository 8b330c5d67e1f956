"""Transactions that wait for a block: by fee, each sender's in nonce order; bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from sortedcontainers import SortedList

from node.envelopes import OpenedTransaction
from node.fees import earned_uusd, fee_rate, is_urgent, spent_uusd
from protocol.errors import Code, Rejected
from protocol.ledger_leaves import Account

AccountOf = Callable[[bytes], Account]
"""Ledger balance and next nonce of an address."""

MAX_VICTIMS = 16
"""Most transactions that make room for one."""

DISPLACED_KEPT = 4_096
"""Most ids of displaced transactions that wait to be told."""


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """Bounds: transactions and bytes in all, transactions per sender, and how long one may wait.

    A quarter of the pool is left to batches and evidence, so that settlement goes on whatever
    clients send. What cannot be executed yet, as an earlier nonce of its sender is missing, costs
    its sender nothing: it is taken while the pool is less than half full. A fee counts as higher
    when it exceeds the other by `replace_percent`.
    """

    transactions: int = 10_000
    total_bytes: int = 32 * 1024 * 1024
    per_sender: int = 64
    wait_ms: int = 60_000
    replace_percent: int = 10


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction in the pool and when it came."""

    raw: bytes
    opened: OpenedTransaction
    since_ms: int


@dataclass(frozen=True, slots=True)
class Displaced:
    """A transaction that left the pool without a block, and what its submitter is told."""

    id: bytes
    code: Code
    text: str


@dataclass(slots=True)
class _Sender:
    """What waits of one sender: ids by nonce, their fees, all that they spend, and its place when
    the pool is full: the lowest rate first, of equals the last to come; None: never evicted."""

    ids: dict[int, bytes] = field(default_factory=dict)
    fees_uusd: int = 0
    spent_uusd: int = 0
    place: tuple[int, int, bytes] | None = None


class Mempool:
    """The pool. Senders' next transactions are served by fee per byte; of equals, whose sender has
    waited longest. Batches and evidence come first, as the exchange waits for them.

    The fees of all that a sender has here never exceed its balance, so whoever fills the pool pays
    for it once blocks have room. Who makes others leave must cover what it spends beside them too.
    """

    def __init__(self, account_of: AccountOf, limits: MempoolLimits | None = None) -> None:
        self._account_of = account_of
        self._limits = limits or MempoolLimits()
        self._waiting: dict[bytes, Waiting] = {}
        self._senders: dict[bytes, _Sender] = {}
        # Senders whose next nonce is here, with the number of their turn.
        self._ready: dict[bytes, int] = {}
        self._turns = 0
        self._places: SortedList[tuple[int, int, bytes]] = SortedList()
        self._displaced: deque[Displaced] = deque(maxlen=DISPLACED_KEPT)
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identity: object) -> bool:
        return identity in self._waiting

    @property
    def ready(self) -> bool:
        """Whether some sender's next transaction is here."""
        return bool(self._ready)

    def get(self, identity: bytes) -> Waiting | None:
        """A waiting transaction by id."""
        return self._waiting.get(identity)

    def is_sure(self, opened: OpenedTransaction) -> bool:
        """Whether nothing holds it up: what has to come before it is here, and as urgent."""
        sender = self._senders.get(opened.address, _Sender())
        before = range(self._account_of(opened.address).nonce, opened.nonce)
        ids = [sender.ids.get(nonce) for nonce in before]
        return all(one is not None and is_urgent(self._waiting[one].opened) for one in ids)

    def displace(self, identity: bytes, text: str) -> None:
        """Drop a transaction for the sake of another one; nothing where it is not here."""
        if identity in self._waiting:
            self._displace(identity, Code.BUSY, text)

    def take_displaced(self) -> list[Displaced]:
        """What was replaced, evicted or has lost its fee since the last call."""
        displaced = list(self._displaced)
        self._displaced.clear()
        return displaced

    # --- coming

    def add(self, raw: bytes, opened: OpenedTransaction, now_ms: int) -> bool:
        """Take a transaction; False where it is here already.

        It replaces the one with its sender and nonce where it pays more, and in a full pool those
        that pay less. Raises `Rejected` (bad_ledger_nonce, fee_too_low, insufficient_balance,
        busy).
        """
        if opened.id in self._waiting:
            return False
        account = self._account_of(opened.address)
        limits = self._limits
        if not account.nonce <= opened.nonce < account.nonce + limits.per_sender:
            raise Rejected(
                Code.BAD_LEDGER_NONCE,
                f"the nonce is {opened.nonce}, the sender's next one is {account.nonce}; "
                f"at most {limits.per_sender} may wait",
            )
        sender = self._senders.get(opened.address, _Sender())
        old = self._replaced(sender, opened)
        fees_uusd = sender.fees_uusd + opened.fee_uusd - (old.opened.fee_uusd if old else 0)
        self._require_covered(opened, account, fees_uusd)
        victims = self._make_room(opened, account.nonce, sender, old)
        old_uusd = spent_uusd(old.opened) if old else 0
        if victims or (old is not None and spent_uusd(opened) > old_uusd):
            # Else a sender could drive others out and then spend what was to pay for that.
            spent = sender.spent_uusd + spent_uusd(opened) - old_uusd
            self._require_covered(opened, account, spent)
        for identity in victims:
            self._displace(identity, Code.BUSY, "the pool is full of what pays more")
        if old is not None:
            self._displace(
                old.opened.id, Code.BAD_LEDGER_NONCE, "another one with this nonce pays more"
            )
        self._insert(Waiting(raw, opened, now_ms), account.nonce)
        return True

    def _insert(self, waiting: Waiting, next_nonce: int) -> None:
        opened = waiting.opened
        self._waiting[opened.id] = waiting
        sender = self._senders.setdefault(opened.address, _Sender())
        sender.ids[opened.nonce] = opened.id
        sender.fees_uusd += opened.fee_uusd
        sender.spent_uusd += spent_uusd(opened)
        self.total_bytes += opened.size_bytes
        self._place(opened.address, sender)
        if opened.nonce == next_nonce and opened.address not in self._ready:
            self._take_turn(opened.address)

    def _replaced(self, sender: _Sender, opened: OpenedTransaction) -> Waiting | None:
        """The transaction whose place this one takes; raises `Rejected` unless it pays more."""
        identity = sender.ids.get(opened.nonce)
        if identity is None:
            return None
        old = self._waiting[identity]
        fee_uusd, percent = old.opened.fee_uusd, self._limits.replace_percent
        if opened.fee_uusd <= fee_uusd or 100 * opened.fee_uusd < (100 + percent) * fee_uusd:
            raise Rejected(
                Code.FEE_TOO_LOW,
                f"another transaction with nonce {opened.nonce} waits already; to replace it, pay "
                f"at least {percent}% more than its {fee_uusd} uusd",
            )
        return old

    def _require_covered(
        self, opened: OpenedTransaction, account: Account, needed_uusd: int
    ) -> None:
        balance_uusd = account.balance_uusd
        if opened.nonce == account.nonce:
            balance_uusd += earned_uusd(opened)
        if opened.fee_uusd and needed_uusd > balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {account.balance_uusd} uusd, what waits with this transaction "
                f"needs {needed_uusd} uusd",
            )

    def _make_room(
        self, opened: OpenedTransaction, next_nonce: int, sender: _Sender, old: Waiting | None
    ) -> list[bytes]:
        """Ids of what has to leave for a transaction; raises `Rejected(busy)`."""
        count = len(self._waiting) - (old is not None)
        size_bytes = self.total_bytes - (old.opened.size_bytes if old else 0) + opened.size_bytes
        quarters, whose = 4, "the pool of waiting transactions"
        gap = any(nonce not in sender.ids for nonce in range(next_nonce, opened.nonce))
        if gap:
            quarters, whose = 2, f"nonce {next_nonce} is missing, and the pool's half for such"
        elif not is_urgent(opened):
            quarters = 3
        victims: list[bytes] = []
        if self._fits(count, size_bytes, quarters):
            return victims
        if quarters == 3:
            worth = min((fee_rate(opened), *self._rates(sender, opened.nonce)))
            for victim in self._cheapest(worth, opened.address):
                victims.append(victim.id)
                count -= 1
                size_bytes -= victim.size_bytes
                if self._fits(count, size_bytes, quarters):
                    return victims
        raise Rejected(Code.BUSY, f"{whose} is full; try again later, or with a higher fee")

    def _cheapest(self, worth: int, spared: bytes) -> Iterator[OpenedTransaction]:
        """What may leave for a transaction of this rate, each sender's last ones first."""
        left = MAX_VICTIMS
        below = (worth, -self._turns - 1, b"")
        for _, _, address in self._places.irange(maximum=below, inclusive=(True, False)):
            if address == spared:
                continue
            ids = self._senders[address].ids
            for nonce in sorted(ids, reverse=True)[:left]:
                yield self._waiting[ids[nonce]].opened
                left -= 1
            if not left:
                return

    def _fits(self, count: int, size_bytes: int, quarters: int) -> bool:
        limits = self._limits
        return (
            4 * count < quarters * limits.transactions
            and 4 * size_bytes <= quarters * limits.total_bytes
        )

    def _rates(self, sender: _Sender, below: int | None = None) -> list[int]:
        return [
            fee_rate(self._waiting[identity].opened)
            for nonce, identity in sender.ids.items()
            if below is None or nonce < below
        ]

    def _place(self, address: bytes, sender: _Sender) -> None:
        """Where a sender stands when the pool is full: a transaction is worth no more than those
        that have to come before it. Whoever waits with something urgent is not touched."""
        if sender.place is not None:
            self._places.remove(sender.place)
            sender.place = None
        waiting = [self._waiting[identity].opened for identity in sender.ids.values()]
        if waiting and not any(map(is_urgent, waiting)):
            self._turns += 1
            sender.place = (min(map(fee_rate, waiting)), -self._turns, address)
            self._places.add(sender.place)

    # --- going

    def settle(self, identities: Iterable[bytes], senders: Iterable[bytes]) -> list[bytes]:
        """A block was executed: drop its transactions, and what its senders' nonces outdate.

        Returns the ids of the latter. What their balances no longer cover is displaced.
        """
        outdated = []
        for identity in identities:
            self._drop(identity)
        for address in dict.fromkeys(senders):
            account = self._account_of(address)
            sender = self._senders.get(address, _Sender())
            for nonce, identity in list(sender.ids.items()):
                if nonce < account.nonce:
                    self._drop(identity)
                    outdated.append(identity)
            self._trim(sender, account)
            self._refresh(address)
        return outdated

    def _trim(self, sender: _Sender, account: Account) -> None:
        """Displace a sender's last transactions until its balance covers the fees of the others."""
        balance_uusd = account.balance_uusd
        head = sender.ids.get(account.nonce)
        if head is not None:
            balance_uusd += earned_uusd(self._waiting[head].opened)
        for nonce in sorted(sender.ids, reverse=True):
            if sender.fees_uusd <= balance_uusd:
                return
            text = f"the balance, {account.balance_uusd} uusd, no longer covers the fee"
            self._displace(sender.ids[nonce], Code.INSUFFICIENT_BALANCE, text)

    def expire(self, now_ms: int) -> list[bytes]:
        """Drop what waited too long; returns the ids."""
        expired = []
        for identity, waiting in self._waiting.items():
            if waiting.since_ms + self._limits.wait_ms > now_ms:
                break
            expired.append(identity)
        for identity in expired:
            address = self._waiting[identity].opened.address
            self._drop(identity)
            self._refresh(address)
        return expired

    def _displace(self, identity: bytes, code: Code, text: str) -> None:
        address = self._waiting[identity].opened.address
        self._drop(identity)
        if address in self._ready:
            next_nonce = self._account_of(address).nonce
            if next_nonce not in self._senders[address].ids:
                del self._ready[address]
        self._displaced.append(Displaced(identity, code, text))

    def _drop(self, identity: bytes) -> None:
        waiting = self._waiting.pop(identity, None)
        if waiting is None:
            return
        opened = waiting.opened
        self.total_bytes -= opened.size_bytes
        sender = self._senders[opened.address]
        del sender.ids[opened.nonce]
        sender.fees_uusd -= opened.fee_uusd
        sender.spent_uusd -= spent_uusd(opened)
        self._place(opened.address, sender)
        if not sender.ids:
            del self._senders[opened.address]
            self._ready.pop(opened.address, None)

    def _refresh(self, address: bytes) -> None:
        """Whether the sender can be served; one that was served goes behind its equals."""
        self._ready.pop(address, None)
        sender = self._senders.get(address)
        if sender is not None and self._account_of(address).nonce in sender.ids:
            self._take_turn(address)

    def _take_turn(self, address: bytes) -> None:
        self._turns += 1
        self._ready[address] = self._turns

    # --- being chosen

    def select(
        self,
        ahead: Mapping[bytes, tuple[int, int]],
        excluded: Collection[bytes],
        max_bytes: int,
        max_count: int,
        overhead_bytes: int,
    ) -> list[bytes]:
        """Encoded transactions for a block, each sender's in nonce order.

        `ahead`: next nonces of senders with transactions in uncommitted blocks, and the most that
        those spend; `excluded`: ids of those. Each costs its size plus `overhead_bytes`. None
        is chosen whose fee may be spent by then: it would stand in the block for nothing.
        """
        chosen: list[bytes] = []
        left = max_bytes
        # (urgent first, highest rate, turn, address, nonce, balance at least)
        heads: list[tuple[bool, int, int, bytes, int, int]] = []
        for address, turn in self._ready.items():
            account = self._account_of(address)
            nonce, spent = ahead.get(address, (account.nonce, 0))
            self._queue(heads, turn, address, nonce, account.balance_uusd - spent)
        heapify(heads)
        while heads and len(chosen) < max_count:
            _, _, turn, address, nonce, balance_uusd = heappop(heads)
            waiting = self._waiting[self._senders[address].ids[nonce]]
            opened = waiting.opened
            cost = opened.size_bytes + overhead_bytes
            if opened.id in excluded or cost > left:
                continue
            chosen.append(waiting.raw)
            left -= cost
            # What it earns may not come, or come too late to be counted on.
            balance_uusd = max(0, balance_uusd - spent_uusd(opened))
            following: list[tuple[bool, int, int, bytes, int, int]] = []
            self._queue(following, turn, address, nonce + 1, balance_uusd)
            for head in following:
                heappush(heads, head)
        return chosen

    def _queue(
        self,
        heads: list[tuple[bool, int, int, bytes, int, int]],
        turn: int,
        address: bytes,
        nonce: int,
        balance_uusd: int,
    ) -> None:
        """Append a sender's transaction of this nonce where it is here and its fee is sure."""
        identity = self._senders[address].ids.get(nonce)
        if identity is None:
            return
        opened = self._waiting[identity].opened
        if not opened.fee_uusd or opened.fee_uusd <= balance_uusd + earned_uusd(opened):
            place = (not is_urgent(opened), -fee_rate(opened))
            heads.append((*place, turn, address, nonce, balance_uusd))
