"""The ledger as the application of its consensus: transactions in, blocks proposed and executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consensus import MemberSet
from node.envelopes import OpenedTransaction
from node.ledger import BlockOutcome, Ledger, check_deposit
from node.mempool import Mempool, MempoolLimits
from protocol.chain import Block, CommitCertificate
from protocol.codec import Decoder, encode
from protocol.errors import Code, Rejected
from protocol.settlement import Deposit, Payout, PostBatch

MAX_BLOCK_TRANSACTIONS = 4096
"""Most transactions in one block."""

LIST_HEAD_BYTES = 5
"""Most bytes that MessagePack puts before a list, and before each byte string in it."""

_decode_list: Decoder[list[bytes]] = Decoder(list[bytes])


def decode_ledger_payload(payload: bytes) -> list[bytes]:
    """The encoded transactions of a block; empty bytes stand for none.

    Raises `Rejected` (malformed, wrong_type, non_canonical, too_many_actions).
    """
    if not payload:
        return []
    transactions = _decode_list(payload)
    if not 1 <= len(transactions) <= MAX_BLOCK_TRANSACTIONS:
        raise Rejected(
            Code.TOO_MANY_ACTIONS, f"a block holds 1 to {MAX_BLOCK_TRANSACTIONS} transactions"
        )
    return transactions


@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """A committed block and what it did. `outdated` are ids of waiting transactions whose nonce
    another one has used."""

    block: Block
    certificate: CommitCertificate
    outcome: BlockOutcome
    outdated: list[bytes]


class LedgerApplication:
    """What the replica drives; `max_payload_bytes` bounds the blocks that it proposes."""

    def __init__(
        self, ledger: Ledger, max_payload_bytes: int, limits: MempoolLimits | None = None
    ) -> None:
        self.ledger = ledger
        self.mempool = Mempool(lambda address: ledger.account(address).nonce, limits)
        self.max_payload_bytes = max_payload_bytes
        self._executed: list[ExecutedBlock] = []

    @property
    def max_transaction_bytes(self) -> int:
        """Largest encoded transaction that fits a block."""
        return self.max_payload_bytes - 2 * LIST_HEAD_BYTES

    def submit(self, raw: bytes, now_ms: int) -> tuple[bytes, bool]:
        """Take a transaction into the pool; its id, and whether it is new there.

        Raises `Rejected` where it can never take effect or does not now: too large, badly signed,
        not by a prover, a payout that is unproven or paid, a used nonce; or when the pool is full.
        """
        if len(raw) > self.max_transaction_bytes:
            raise Rejected(
                Code.TRANSACTION_TOO_LARGE,
                f"a transaction has at most {self.max_transaction_bytes} bytes, not {len(raw)}",
            )
        opened = self.ledger.envelopes.open(raw)
        if opened.id in self.mempool:
            return opened.id, False
        self._check_static(opened)
        if isinstance(opened.action, Payout):
            self.ledger.check_payout(opened.action)
        elif isinstance(opened.action, Deposit):
            self._check_funded(opened, opened.action)
        return opened.id, self.mempool.add(raw, opened, now_ms)

    def _check_static(self, opened: OpenedTransaction) -> None:
        """What no state of the ledger can change; blocks that break it get no votes."""
        if isinstance(opened.action, PostBatch) and opened.signer not in self.ledger.provers:
            raise Rejected(Code.NOT_A_PROVER, "only the provers of genesis post batches")
        if isinstance(opened.action, Deposit):
            check_deposit(opened.action)

    def _check_funded(self, opened: OpenedTransaction, action: Deposit) -> None:
        account = self.ledger.account(opened.address)
        if opened.nonce == account.nonce and action.amount_uusd > account.balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {account.balance_uusd} uusd, the deposit {action.amount_uusd}",
            )

    def take_executed(self) -> list[ExecutedBlock]:
        """Blocks executed since the last call, in order."""
        executed, self._executed = self._executed, []
        return executed

    # --- called by the replica

    def has_work(self) -> bool:
        """Whether there may be something to propose."""
        return self.mempool.ready

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        """Payload on top of uncommitted ancestors; empty where nothing can be proposed."""
        excluded: set[bytes] = set()
        ahead: dict[bytes, int] = {}
        for block in ancestors:
            for raw in decode_ledger_payload(block.payload):
                opened = self.ledger.envelopes.open(raw)
                excluded.add(opened.id)
                next_nonce = opened.nonce + 1
                if next_nonce > ahead.get(opened.address, 0):
                    ahead[opened.address] = next_nonce
        chosen = self.mempool.select(
            ahead,
            excluded,
            self.max_payload_bytes - LIST_HEAD_BYTES,
            MAX_BLOCK_TRANSACTIONS,
            LIST_HEAD_BYTES,
        )
        return encode(chosen) if chosen else b""

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        """Raise `Rejected` for a block that holds anything but signed, well-formed transactions."""
        if len(block.payload) > self.max_payload_bytes:
            raise Rejected(Code.FRAME_TOO_LARGE, "the payload exceeds max_payload_bytes")
        seen: set[bytes] = set()
        for raw in decode_ledger_payload(block.payload):
            opened = self.ledger.envelopes.open(raw)
            self._check_static(opened)
            if opened.id in seen:
                raise Rejected(Code.NONCE_USED, "a transaction stands twice in one block")
            seen.add(opened.id)

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        """Execute a committed block."""
        header = block.header
        transactions = decode_ledger_payload(block.payload)
        outcome = self.ledger.apply_block(header.height, header.time_ms, transactions)
        senders = [self.ledger.envelopes.open(raw).address for raw in transactions]
        outdated = self.mempool.settle([result.id for result in outcome.results], senders)
        self._executed.append(ExecutedBlock(block, certificate, outcome, outdated))

    def root(self) -> tuple[int, bytes]:
        """Height of the newest executed block and the ledger root after it."""
        return self.ledger.height, self.ledger.root

    def epoch(self) -> MemberSet | None:
        """Members of the epoch of the next block."""
        return None
