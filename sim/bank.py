"""A small application for consensus runs: transfers between accounts, each executed once.

An operation is eight bytes: a number of its own, the two accounts, the amount. Without enough
money it is executed without effect. The root chains block ids and touched balances, so that two
members with one root have executed the same blocks to the same balances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256

from consensus import MemberSet
from protocol.chain import Block, CommitCertificate, Member, origin_qc
from protocol.errors import Code, Rejected

ACCOUNTS = 16
BALANCE_UUSD = 1_000
OPERATION_BYTES = 8
MAX_OPERATIONS = 64

Roster = Callable[[int], Sequence[Member]]
"""Members of an epoch, by its number."""


def encode_operation(number: int, source: int, target: int, amount_uusd: int) -> bytes:
    """Number below 2^32, accounts below `ACCOUNTS`, amount 1 to 65535."""
    return number.to_bytes(4, "big") + bytes((source, target)) + amount_uusd.to_bytes(2, "big")


def operations(payload: bytes) -> list[bytes]:
    """The operations in a payload; raises `Rejected` where it is not made of sound ones."""
    if len(payload) % OPERATION_BYTES or len(payload) > MAX_OPERATIONS * OPERATION_BYTES:
        raise Rejected(Code.MALFORMED, "no list of operations")
    found = [payload[at : at + OPERATION_BYTES] for at in range(0, len(payload), OPERATION_BYTES)]
    for operation in found:
        if operation[4] >= ACCOUNTS or operation[5] >= ACCOUNTS or operation[6:] == b"\0\0":
            raise Rejected(Code.MALFORMED, "no sound operation")
    return found


class Bank:
    """Implements `consensus.Application`; `executed` maps a number to the height it ran at."""

    def __init__(self, roster: Roster | None = None, epoch_ms: int = 0, start_ms: int = 0) -> None:
        self.height = 0
        self.digest = bytes(32)
        self.balances = [BALANCE_UUSD] * ACCOUNTS
        self.executed: dict[int, int] = {}
        self.pending: dict[int, bytes] = {}
        self.twice: list[int] = []
        self.epochs = 0
        self._roster = roster
        self._epoch_ms = epoch_ms
        self._members: MemberSet | None = None
        self._ends_ms = start_ms + epoch_ms
        self._boundary: int | None = None

    def submit(self, operation: bytes) -> None:
        """Take an operation for one of the next blocks."""
        number = int.from_bytes(operation[:4], "big")
        if number not in self.executed:
            self.pending[number] = operation

    def has_work(self) -> bool:
        return bool(self.pending)

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        taken = _numbers(ancestors)
        chosen = []
        for number, operation in self.pending.items():
            if number not in taken:
                chosen.append(operation)
                if len(chosen) == MAX_OPERATIONS:
                    break
        return b"".join(chosen)

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        if not block.payload:
            return
        taken = _numbers(ancestors)
        for operation in operations(block.payload):
            number = int.from_bytes(operation[:4], "big")
            if number in taken or number in self.executed:
                raise Rejected(Code.NONCE_USED, "the operation was ordered before")
            taken.add(number)

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        touched = b""
        self.height += 1
        for operation in operations(block.payload):
            number = int.from_bytes(operation[:4], "big")
            if number in self.executed:
                self.twice.append(number)
                continue
            self.executed[number] = self.height
            self.pending.pop(number, None)
            touched += self._transfer(operation)
        block_id = block.header.block_id()
        self.digest = sha256(self.digest + block_id + touched).digest()
        self._close_epoch(block, block_id)

    def root(self) -> tuple[int, bytes]:
        return self.height, self.digest

    def epoch(self) -> MemberSet | None:
        return self._members

    def begin(self, members: MemberSet) -> None:
        """The members of the first epoch, where members change."""
        self._members = members

    def ends_ms(self, epoch: int, from_ms: int) -> int | None:
        """When an epoch that starts at a time ends; None where members never change."""
        return None if self._roster is None else from_ms + self._epoch_ms

    def copy(self) -> Bank:
        """A snapshot: everything but the waiting operations."""
        other = Bank(self._roster, self._epoch_ms)
        other.height, other.digest = self.height, self.digest
        other.balances = list(self.balances)
        other.executed = dict(self.executed)
        other.twice = list(self.twice)
        other.epochs = self.epochs
        other._members = self._members
        other._ends_ms = self._ends_ms
        other._boundary = self._boundary
        return other

    def _transfer(self, operation: bytes) -> bytes:
        source, target = operation[4], operation[5]
        amount_uusd = int.from_bytes(operation[6:], "big")
        if self.balances[source] < amount_uusd:
            return b"\0"
        self.balances[source] -= amount_uusd
        self.balances[target] += amount_uusd
        return b"%d,%d;" % (self.balances[source], self.balances[target])

    def _close_epoch(self, block: Block, block_id: bytes) -> None:
        """The first block after the epoch's end is its boundary, the first that proves the state
        behind the boundary its last."""
        if self._roster is None or self._members is None:
            return
        header = block.header
        if self._boundary is None and header.time_ms >= self._ends_ms:
            self._boundary = header.height
        if self._boundary is None or header.app_height < self._boundary:
            return
        number = header.epoch + 1
        self._ends_ms = header.time_ms + self._epoch_ms
        self._boundary = None
        self.epochs = number
        self._members = MemberSet(
            header.chain_id, self._roster(number), number,
            origin=origin_qc(number, header, block_id), ends_ms=self._ends_ms,
        )  # fmt: skip


def _numbers(blocks: Sequence[Block]) -> set[int]:
    return {
        int.from_bytes(block.payload[at : at + 4], "big")
        for block in blocks
        for at in range(0, len(block.payload), OPERATION_BYTES)
    }


class SimKey:
    """A simulated signature: a hash under the signer's public key. Only whoever holds the object
    signs with it, which is a rule of the simulation and no cryptography."""

    def __init__(self, name: str) -> None:
        self.public = sha256(b"key " + name.encode()).digest()
        self.signed = 0

    def sign(self, digest: bytes) -> bytes:
        self.signed += 1
        return blake2b(digest, key=self.public, digest_size=32).digest()


def sim_verify(public_key: bytes, signature: bytes, digest: bytes) -> bool:
    """Whether `SimKey.sign` made this signature."""
    return signature == blake2b(digest, key=public_key, digest_size=32).digest()
