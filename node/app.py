"""The ledger as the application of its consensus: transactions in, blocks proposed and executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consensus import MemberSet
from node.envelopes import OpenedTransaction
from node.exits import check_force
from node.fees import earned_uusd, require_fee, spent_uusd
from node.ledger import BlockOutcome, Ledger, check_deposit
from node.mempool import Displaced, Mempool, MempoolLimits
from node.staking import check_staking
from protocol.chain import QC, Block, CommitCertificate, Member
from protocol.codec import Decoder, encode
from protocol.dispute import Cut, Prove, ShowPart
from protocol.errors import Code, Rejected
from protocol.evidence import evidence_id
from protocol.exits import ForceAction
from protocol.settlement import Deposit, Payout, PostBatch, ReportEvidence

MAX_BLOCK_TRANSACTIONS = 4096
"""Most transactions in one block."""

OPEN_BEAT_MS = 1_000
"""Longest time between blocks while a batch's window is open: the ledger's own time goes on."""

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
        self.mempool = Mempool(ledger.account, limits)
        self.max_payload_bytes = max_payload_bytes
        self._executed: list[ExecutedBlock] = []
        self._members: MemberSet | None = None
        self._finalised_height = self._proven_height = 0
        self._due_ms: int | None = None
        self._note_window()
        # Free reports in the pool: the transaction by the offence.
        self._reports: dict[bytes, bytes] = {}

    @property
    def max_transaction_bytes(self) -> int:
        """Largest encoded transaction that fits a block."""
        return self.max_payload_bytes - 2 * LIST_HEAD_BYTES

    def submit(self, raw: bytes, now_ms: int) -> tuple[bytes, bool]:
        """Take a transaction into the pool; its id, and whether it is new there.

        Raises `Rejected` where it can never take effect or does not now: too large, badly signed,
        not by a prover, a payout that is unproven or paid, evidence that does not hold, a used
        nonce, a fee that is too low or not covered; or when the pool is full.
        """
        if len(raw) > self.max_transaction_bytes:
            raise Rejected(
                Code.TRANSACTION_TOO_LARGE,
                f"a transaction has at most {self.max_transaction_bytes} bytes, not {len(raw)}",
            )
        envelopes = self.ledger.envelopes
        opened = envelopes.open(raw)
        if opened.id in self.mempool:
            return opened.id, False
        try:
            return opened.id, self._add(raw, opened, now_ms)
        except Rejected:
            envelopes.forget(opened)  # what costs nothing to send is not kept
            raise

    def _add(self, raw: bytes, opened: OpenedTransaction, now_ms: int) -> bool:
        self._check_static(opened)
        if isinstance(opened.action, Payout):
            self.ledger.check_payout(opened.action)
            self.ledger.exits.check_payout(opened.action.entry)
        elif isinstance(opened.action, PostBatch):
            self.ledger.settling.require_wanted(opened.action.header)
        elif isinstance(opened.action, ReportEvidence):
            return self._add_report(raw, opened, opened.action, now_ms)
        self._check_funded(opened)
        return self.mempool.add(raw, opened, now_ms)

    def _check_static(self, opened: OpenedTransaction) -> None:
        """What no state of the ledger can change; blocks that break it get no votes.

        Reports of evidence owe a fee only where they do not hold, which the state decides.
        """
        action = opened.action
        if not isinstance(action, ReportEvidence):
            require_fee(self.ledger.fees, opened)
        answers = isinstance(action, Prove | ShowPart) and action.challenger == opened.address
        if (
            isinstance(action, PostBatch | Cut | Prove | ShowPart)
            and not answers
            and opened.signer not in self.ledger.provers
        ):
            raise Rejected(Code.NOT_A_PROVER, "only the provers of genesis post and defend batches")
        if isinstance(action, Deposit):
            check_deposit(action)
        if isinstance(action, ForceAction):
            check_force(self.ledger.chain, action)
        check_staking(self.ledger.chain.genesis.staking, opened)

    def _check_funded(self, opened: OpenedTransaction) -> None:
        """Raise `Rejected` where the sender's next transaction spends more than there is."""
        account = self.ledger.account(opened.address)
        needed_uusd = spent_uusd(opened) - earned_uusd(opened)
        if opened.nonce == account.nonce and needed_uusd > account.balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {account.balance_uusd} uusd, "
                f"the transaction needs {needed_uusd} uusd",
            )

    def _add_report(
        self, raw: bytes, opened: OpenedTransaction, action: ReportEvidence, now_ms: int
    ) -> bool:
        """Take evidence that holds now; the pool keeps one report of an offence, as it is free.

        One that can be executed at once takes the place of one that something holds up: otherwise
        an offender's own report, of a nonce that never comes, would keep out all others.
        """
        offence = evidence_id(self.ledger.chain.chain_id, action.evidence)
        waiting = self.mempool.get(self._reports.get(offence, b""))
        if waiting is not None and (
            self.mempool.is_sure(waiting.opened) or not self.mempool.is_sure(opened)
        ):
            raise Rejected(Code.BUSY, "another report of this offence waits already")
        self.ledger.staking.check_report(action.evidence)
        new = self.mempool.add(raw, opened, now_ms)
        if waiting is not None:
            text = "another report of this offence can be executed sooner"
            self.mempool.displace(waiting.opened.id, text)
        self._reports = {key: tx for key, tx in self._reports.items() if tx in self.mempool}
        self._reports[offence] = opened.id
        return new

    # --- pace

    def _note_window(self) -> None:
        """When, by the clock, the oldest open batch's window or a deadline of the way out has
        passed; the time of the newest block where it has; None where nothing of this runs."""
        waits = (self.ledger.settling.next_due_ms(), self.ledger.exits.next_due_ms())
        left_ms = min((one for one in waits if one is not None), default=None)
        self._due_ms = None if left_ms is None else self.ledger.system().time_ms + left_ms

    def beat(self, now_ms: int) -> tuple[int | None, int | None]:
        """The pace of empty blocks that open windows ask for, and when to ask again; None: none.

        Slow while a window is open, and fast from its end until the batch is final and a committed
        header names the root that says so.
        """
        fast_ms = max(1, self.ledger.chain.genesis.ledger_pace.empty_interval_ms)
        if self._proven_height < self._finalised_height:
            return fast_ms, None
        due_ms = self._due_ms
        if due_ms is None:
            return None, None
        if due_ms <= self.ledger.system().time_ms:
            return OPEN_BEAT_MS, None  # a dispute holds it
        return (fast_ms, None) if due_ms <= now_ms else (OPEN_BEAT_MS, due_ms)

    def take_executed(self) -> list[ExecutedBlock]:
        """Blocks executed since the last call, in order."""
        executed, self._executed = self._executed, []
        return executed

    def take_displaced(self) -> list[Displaced]:
        """Transactions that left the pool without a block since the last call: replaced by one that
        pays more, evicted from a full pool, or no longer covered by their sender's balance."""
        return self.mempool.take_displaced()

    # --- called by the replica

    def has_work(self) -> bool:
        """Whether there may be something to propose."""
        return self.mempool.ready

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        """Payload on top of uncommitted ancestors; empty where nothing can be proposed, as behind
        the epoch's boundary."""
        if self._is_behind_boundary(ancestors):
            return b""
        excluded: set[bytes] = set()
        ahead: dict[bytes, tuple[int, int]] = {}
        for block in ancestors:
            for raw in decode_ledger_payload(block.payload):
                opened = self.ledger.envelopes.open(raw)
                excluded.add(opened.id)
                next_nonce, spent = ahead.get(opened.address, (0, 0))
                next_nonce = max(next_nonce, opened.nonce + 1)
                ahead[opened.address] = (next_nonce, spent + spent_uusd(opened))
        chosen = self.mempool.select(
            ahead,
            excluded,
            self.max_payload_bytes - LIST_HEAD_BYTES,
            MAX_BLOCK_TRANSACTIONS,
            LIST_HEAD_BYTES,
        )
        return encode(chosen) if chosen else b""

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        """Raise `Rejected` for a block that holds anything but signed, well-formed transactions
        that offer their fee, or any of them behind the epoch's boundary."""
        if block.payload and self._is_behind_boundary(ancestors):
            raise Rejected(Code.WRONG_EPOCH, "blocks behind an epoch's boundary carry no payload")
        if len(block.payload) > self.max_payload_bytes:
            raise Rejected(Code.FRAME_TOO_LARGE, "the payload exceeds max_payload_bytes")
        seen: set[bytes] = set()
        for raw in decode_ledger_payload(block.payload):
            opened = self.ledger.envelopes.open(raw)
            self._check_static(opened)
            if opened.id in seen:
                raise Rejected(Code.NONCE_USED, "a transaction stands twice in one block")
            seen.add(opened.id)

    def _is_behind_boundary(self, ancestors: Sequence[Block]) -> bool:
        """Whether the parent of the next block, or of these ancestors' child, ended the epoch."""
        ends_ms = self.ledger.current_leaf().ends_ms
        time_ms = ancestors[-1].header.time_ms if ancestors else self.ledger.system().time_ms
        return 0 < ends_ms <= time_ms

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        """Execute a committed block."""
        header = block.header
        transactions = decode_ledger_payload(block.payload)
        outcome = self.ledger.apply_block(header, transactions)
        senders = [self.ledger.envelopes.take(raw).address for raw in transactions]
        outdated = self.mempool.settle([result.id for result in outcome.results], senders)
        self._executed.append(ExecutedBlock(block, certificate, outcome, outdated))
        self._proven_height = header.app_height
        if outcome.finalised and not transactions:
            # Behind transactions, consensus itself goes on until their root is named.
            self._finalised_height = outcome.height
        self._note_window()

    def root(self) -> tuple[int, bytes]:
        """Height of the newest executed block and the ledger root after it."""
        return self.ledger.height, self.ledger.root

    def epoch(self) -> MemberSet | None:
        """Members of the epoch of the next block, with what it starts from and when it ends."""
        current = self.ledger.current_epoch()
        if self._members is None or self._members.epoch != current.number:
            leaf, chain_id = self.ledger.current_leaf(), self.ledger.chain.chain_id
            origin = None
            if current.number:
                origin = QC(
                    chain_id,
                    current.number,
                    current.origin_view,
                    current.origin_height,
                    current.origin_id,
                    [],
                )
            self._members = MemberSet(
                chain_id,
                [Member(one.public_key, one.stake_uusd) for one in leaf.members],
                current.number,
                origin=origin,
                ends_ms=leaf.ends_ms or None,
            )
        return self._members
