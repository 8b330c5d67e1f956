"""The base layer's ledger: balances, inbox, settled batches and payouts, as a pure machine.

Its state is the set of leaves of `protocol.ledger_leaves`. A block is applied whole; a transaction
that fails is recorded with its code and uses up its sender's nonce, nothing else: it stands in a
public block, so anybody could otherwise send it again, on a day when its sender no longer wants it.
Money is conserved: balances plus what the bridges hold is the supply of genesis, checked after
every block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

from consensus.members import MemberSet
from node.batches import BatchRules, check_batch
from node.envelopes import Envelopes, OpenedTransaction
from node.outcomes import BlockOutcome, LedgerCounters, TransactionResult
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import CASH_MOVE_LIMIT, Chain
from protocol.keys import ADDRESS_BYTES
from protocol.ledger_leaves import (
    ACCOUNT_KIND,
    SYSTEM_KEY,
    Account,
    InboxLeaf,
    PlacedEntry,
    SettledBatch,
    ShardLeaf,
    SystemLeaf,
    account_key,
    batch_key,
    decode_account,
    decode_batch,
    decode_inbox_leaf,
    decode_number,
    decode_placed,
    decode_shard,
    decode_system,
    entry_key,
    inbox_key,
    number_key,
    paid_key,
    shard_key,
)
from protocol.merkle import verify_list_proof
from protocol.settlement import (
    FIRST_ACCOUNT,
    Deposit,
    InboxDeposit,
    InboxEntry,
    Payout,
    PostBatch,
    extend_inbox_hash,
)
from prover.tree import StateTree, TreeProof

__all__ = ["BlockOutcome", "Ledger", "LedgerCounters", "TransactionResult", "check_deposit"]


class Ledger:
    """The ledger after some block.

    With `leaves` empty it is that of genesis. Undo information of recent blocks is kept until
    `forget_undo`, so that proofs can be given under the root that a certified header names.
    """

    def __init__(
        self,
        chain: Chain,
        leaves: Iterable[tuple[bytes, bytes]],
        height: int,
        undo: Iterable[tuple[int, dict[bytes, bytes | None]]] = (),
        envelopes: Envelopes | None = None,
    ) -> None:
        self.chain = chain
        self.shard = chain.genesis.shard
        self.height = height
        self.counters = LedgerCounters()
        self.envelopes = envelopes or Envelopes(chain.chain_id)
        self._tree = StateTree(leaves)
        self._changes: dict[bytes, bytes] = {}
        self._undo = deque(undo)
        sequencers = [identity.member() for identity in chain.genesis.sequencers]
        self._rules = BatchRules(
            chain.chain_id,
            self.shard,
            MemberSet(chain.log_id, sequencers),
            frozenset(bytes.fromhex(key) for key in chain.genesis.provers),
            chain.genesis.limits.inbox_per_block,
        )
        self._entry_heights = [
            self._placed(index).ledger_height for index in range(self.inbox().count)
        ]
        self._balances_uusd = self._count_balances()
        self.require_conserved()

    # --- reading

    @property
    def root(self) -> bytes:
        """Root of the ledger tree after the newest block (32 bytes)."""
        return self._tree.root

    @property
    def provers(self) -> frozenset[bytes]:
        """Public keys that may post batches."""
        return self._rules.provers

    def account(self, address: bytes) -> Account:
        """Balance and nonce of an address; zeros where it is unknown."""
        raw = self._get(account_key(address))
        return Account(0, 0) if raw is None else decode_account(raw)

    def account_number(self, address: bytes) -> int:
        """The address's account number in the shards, 0 if it never got a deposit."""
        raw = self._get(number_key(address))
        return 0 if raw is None else decode_number(raw)

    def inbox(self) -> InboxLeaf:
        """Entries of the inbox and their running hash."""
        return decode_inbox_leaf(self._require(inbox_key(self.shard)))

    def entries(self, first: int, limit: int, up_to_height: int) -> list[tuple[int, InboxEntry]]:
        """Inbox entries from index `first` on with their heights, none above `up_to_height`."""
        end = min(self.entries_at(up_to_height), first + limit)
        placed = [self._placed(index) for index in range(max(first, 0), end)]
        return [(entry.ledger_height, entry.entry) for entry in placed]

    def entries_at(self, height: int) -> int:
        """Number of inbox entries that came up to a ledger height."""
        return bisect_right(self._entry_heights, height)

    def shard_leaf(self) -> ShardLeaf:
        """The shard after its newest batch."""
        return decode_shard(self._require(shard_key(self.shard)))

    def system(self) -> SystemLeaf:
        """Account numbers given, and the money supply."""
        return decode_system(self._require(SYSTEM_KEY))

    def batch(self, number: int) -> SettledBatch | None:
        """A settled batch, None if there is none of this number."""
        if number < 1:
            return None
        raw = self._get(batch_key(self.shard, number))
        return None if raw is None else decode_batch(raw)

    def leaves(self) -> list[tuple[bytes, bytes]]:
        """All leaves in key order."""
        return list(self._tree.iterate())

    @property
    def conserved(self) -> bool:
        """Whether balances and what the bridge holds are the supply of genesis."""
        return self._balances_uusd + self.shard_leaf().funds_uusd == self.system().supply_uusd

    def require_conserved(self) -> None:
        """Count all money anew; raises `SafetyViolation` where it is not the supply."""
        if self._count_balances() != self._balances_uusd or not self.conserved:
            raise SafetyViolation("the ledger's balances and funds do not add up to its supply")

    def _count_balances(self) -> int:
        found = self._tree.iterate(ACCOUNT_KIND)
        return sum(decode_account(raw).balance_uusd for _, raw in found)

    # --- proofs

    def prove_at(self, height: int, root: bytes, keys: Sequence[bytes]) -> TreeProof:
        """Proof of leaves under `root`, the ledger root after the block at `height`.

        Raises `Rejected(not_retained)` for a height before what can be undone, `SafetyViolation`
        when our own ledger had another root there.
        """
        back: dict[bytes, bytes | None] = {}
        oldest = self.height
        for block_height, undo in reversed(self._undo):
            if block_height <= height:
                break
            back.update(undo)
            oldest = block_height - 1
        if not height <= self.height or oldest > height:
            raise Rejected(Code.NOT_RETAINED, f"no proofs are kept for ledger height {height}")
        forward = {key: self._tree.get(key) for key in back}
        try:
            if self._tree.update(back) != root:
                raise SafetyViolation(f"a certified header names another root for {height}")
            return self._tree.prove(keys)
        finally:
            self._tree.update(forward)

    def forget_undo(self, height: int) -> None:
        """Drop undo information that only proofs below `height` need."""
        while self._undo and self._undo[0][0] <= height:
            self._undo.popleft()

    # --- executing

    def apply_block(self, height: int, time_ms: int, transactions: Sequence[bytes]) -> BlockOutcome:
        """Execute the transactions of the next block in order."""
        if height != self.height + 1:
            raise SafetyViolation(f"block {height} came to a ledger at height {self.height}")
        outcome = BlockOutcome(height, time_ms)
        for raw in transactions:
            outcome.results.append(self._apply(raw, outcome))
        changes, self._changes = self._changes, {}
        outcome.changes = changes
        outcome.undo = {key: self._tree.get(key) for key in changes}
        self._recount(outcome)
        outcome.root = self._tree.update(changes)
        if not self.conserved:
            raise SafetyViolation(f"ledger block {height} changed the supply of money")
        self._undo.append((height, outcome.undo))
        self.height = height
        return outcome

    def _apply(self, raw: bytes, outcome: BlockOutcome) -> TransactionResult:
        try:
            opened = self.envelopes.open(raw)
            account = self._account_at_nonce(opened)
        except Rejected as error:
            return self._failed(self.envelopes.identity(raw), error)
        try:
            self._execute(opened, account, outcome)
        except Rejected as error:
            self._put(account_key(opened.address), Account(account.balance_uusd, account.nonce + 1))
            return self._failed(opened.id, error)
        self.counters.applied += 1
        return TransactionResult(opened.id, Code.OK, "")

    def _failed(self, identity: bytes, error: Rejected) -> TransactionResult:
        self.counters.failed += 1
        return TransactionResult(identity, error.code, error.text)

    def _account_at_nonce(self, opened: OpenedTransaction) -> Account:
        """The sender's account; raises `Rejected` unless the transaction is its next one."""
        account = self.account(opened.address)
        if opened.nonce != account.nonce:
            raise Rejected(
                Code.BAD_LEDGER_NONCE,
                f"the nonce is {opened.nonce}, the sender's next one is {account.nonce}",
            )
        return account

    def _execute(self, opened: OpenedTransaction, account: Account, outcome: BlockOutcome) -> None:
        """Execute one transaction; every check stands before the first write."""
        action = opened.action
        if isinstance(action, Deposit):
            self._deposit(opened, account, action, outcome)
        elif isinstance(action, PostBatch):
            self._post_batch(opened, account, action, outcome)
        elif isinstance(action, Payout):
            self._payout(opened, account, action, outcome)
        else:
            raise Rejected(Code.NOT_AUTHORISED, "the validator set of this chain is fixed")

    def _deposit(
        self, opened: OpenedTransaction, account: Account, action: Deposit, outcome: BlockOutcome
    ) -> None:
        check_deposit(action)
        if action.amount_uusd > account.balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {account.balance_uusd} uusd, the deposit {action.amount_uusd}",
            )
        self._put(
            account_key(opened.address),
            Account(account.balance_uusd - action.amount_uusd, account.nonce + 1),
        )
        outcome.entries.append(
            self._take_deposit(outcome.height, action.address, action.amount_uusd)
        )

    def _take_deposit(self, height: int, address: bytes, amount_uusd: int) -> InboxEntry:
        """Append a deposit to the inbox; the money is the bridge's from here on."""
        number = self.account_number(address)
        if not number:
            system = self.system()
            number = FIRST_ACCOUNT + system.accounts_given
            self._put(SYSTEM_KEY, SystemLeaf(system.accounts_given + 1, system.supply_uusd))
            self._put(number_key(address), number)
        inbox = self.inbox()
        entry = InboxDeposit(inbox.count, number, address, amount_uusd)
        running = extend_inbox_hash(inbox.running_hash, height, entry)
        self._put(inbox_key(self.shard), InboxLeaf(inbox.count + 1, running))
        self._put(entry_key(self.shard, inbox.count), PlacedEntry(height, entry))
        self._entry_heights.append(height)
        self._add_funds(amount_uusd)
        return entry

    def _post_batch(
        self, opened: OpenedTransaction, account: Account, action: PostBatch, outcome: BlockOutcome
    ) -> None:
        shard = check_batch(
            self._rules,
            self.shard_leaf(),
            action,
            opened.signer,
            ledger_height=self.height,
            entries_at=self.entries_at,
        )
        header = action.header
        self._put(shard_key(self.shard), shard)
        self._put(
            batch_key(self.shard, header.number),
            SettledBatch(header, outcome.height, outcome.time_ms),
        )
        self._put(account_key(opened.address), Account(account.balance_uusd, account.nonce + 1))
        outcome.batches.append(header)

    def _payout(
        self, opened: OpenedTransaction, account: Account, action: Payout, outcome: BlockOutcome
    ) -> None:
        self.check_payout(action)
        entry = action.entry
        if entry.amount_uusd > self.shard_leaf().funds_uusd:
            self.counters.underfunded_payouts += 1
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"outbox entry {entry.number} is proven, but the bridge does not hold "
                f"{entry.amount_uusd} uusd: a settled batch created money",
            )
        self._put(account_key(opened.address), Account(account.balance_uusd, account.nonce + 1))
        self._put(paid_key(self.shard, entry.number), outcome.height)
        self._add_funds(-entry.amount_uusd)
        owner = self.account(entry.address)
        self._put(
            account_key(entry.address),
            Account(owner.balance_uusd + entry.amount_uusd, owner.nonce),
        )
        outcome.payouts.append(entry)

    def check_payout(self, action: Payout) -> None:
        """Raise `Rejected` unless the entry is proven against a settled batch and unpaid."""
        entry = action.entry
        settled = self.batch(action.batch)
        if settled is None:
            raise Rejected(Code.UNKNOWN_BATCH, f"batch {action.batch} is not settled")
        header = settled.header
        index = entry.number - header.outbox_first
        if not verify_list_proof(
            header.outbox_root, encode(entry), index, header.outbox_count, action.path
        ):
            raise Rejected(
                Code.BAD_PROOF, f"the path does not lead to the outbox root of batch {action.batch}"
            )
        if len(entry.address) != ADDRESS_BYTES:
            raise Rejected(Code.WRONG_TYPE, f"an address has {ADDRESS_BYTES} bytes")
        if not 0 < entry.amount_uusd < CASH_MOVE_LIMIT:
            raise Rejected(Code.BAD_AMOUNT, f"an amount of {entry.amount_uusd} uusd is not payable")
        if self._get(paid_key(self.shard, entry.number)) is not None:
            raise Rejected(Code.ALREADY_PAID, f"outbox entry {entry.number} has been paid")

    # --- leaves

    def _get(self, key: bytes) -> bytes | None:
        value = self._changes.get(key)
        return self._tree.get(key) if value is None else value

    def _require(self, key: bytes) -> bytes:
        value = self._get(key)
        if value is None:
            raise SafetyViolation(f"ledger leaf {key.hex()} is missing")
        return value

    def _put(self, key: bytes, value: object) -> None:
        self._changes[key] = encode(value)

    def _placed(self, index: int) -> PlacedEntry:
        return decode_placed(self._require(entry_key(self.shard, index)))

    def _add_funds(self, amount_uusd: int) -> None:
        shard = self.shard_leaf()
        values = {name: getattr(shard, name) for name in shard.__struct_fields__}
        values["funds_uusd"] += amount_uusd
        self._put(shard_key(self.shard), ShardLeaf(**values))

    def _recount(self, outcome: BlockOutcome) -> None:
        """Recount the balances that changed; raises `SafetyViolation` for a negative one."""
        shard = shard_key(self.shard)
        for key, value in outcome.changes.items():
            before = outcome.undo[key]
            if key[:1] == ACCOUNT_KIND:
                held = decode_account(value).balance_uusd
                self._balances_uusd += held
                if before is not None:
                    self._balances_uusd -= decode_account(before).balance_uusd
            elif key == shard:
                held = decode_shard(value).funds_uusd
            else:
                continue
            if held < 0:
                raise SafetyViolation(f"ledger block {outcome.height} made a balance negative")


def check_deposit(action: Deposit) -> None:
    """Raise `Rejected` where a deposit can never take effect, whatever its sender holds."""
    if len(action.address) != ADDRESS_BYTES:
        raise Rejected(Code.WRONG_TYPE, f"an address has {ADDRESS_BYTES} bytes")
    if not 0 < action.amount_uusd < CASH_MOVE_LIMIT:
        raise Rejected(
            Code.BAD_AMOUNT, f"a deposit is 1 to {CASH_MOVE_LIMIT - 1} uusd, not more or less"
        )
