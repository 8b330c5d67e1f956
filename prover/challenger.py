"""Checks every settled batch by executing it again, and disputes what is wrong.

A pure machine: its holder shows it proven leaves of the ledger, and hands it the data of batches
and the inbox; it says what it wants to see next and which move to make. It trusts proofs alone, and
nobody's execution but its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from execution.engine import Engine
from execution.inbox import VerifiedInbox
from execution.log import log_genesis_id
from protocol.codec import Decoder, Wire, encode
from protocol.dispute import (
    CHALLENGER,
    Contradict,
    DisputeAction,
    DisputeLeaf,
    OpenDispute,
    decode_dispute,
)
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.inbox import block_inbox_height, next_cursor
from protocol.ledger_leaves import (
    FinalLeaf,
    SettledBatch,
    ShardLeaf,
    batch_key,
    decode_batch,
    decode_final,
    decode_shard,
    dispute_key,
    final_key,
    shard_key,
)
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from protocol.settlement import EMPTY_OUTBOX_HASH
from prover.game import BatchSteps, Player, Trace
from prover.judge import contradiction_keys, contradicts
from prover.tree import StateTree
from prover.window import HELD_BYTES, Records, footprint

SEGMENT_BYTES = 4 * 1024 * 1024
"""What the blocks of a large batch that are kept together take in memory, up to a block more."""

Leaves = list[tuple[bytes, bytes]]


class FinalState(Wire, frozen=True):
    """The whole state after a final batch, to start from; `leaves` in key order."""

    chain_id: bytes
    final: FinalLeaf
    leaves: Leaves


decode_final_state: Decoder[FinalState] = Decoder(FinalState)


class Known(Wire, frozen=True):
    """What our execution says of a block: everything that a batch ending with it claims, but for
    the root."""

    block_id: bytes
    inbox_height: int
    inbox_cursor: int
    outbox_next: int
    outbox_hash: bytes


_decode_known: Decoder[Known] = Decoder(Known, canonical=False)


class Challenger:
    """Executes what the ledger settles. `address`: that of its ledger account; `records`,
    `held_bytes`: an empty log of its own for what a long window does not let it forget, and what
    stays in memory before that, see `prover.window`."""

    def __init__(
        self,
        chain: Chain,
        address: bytes,
        start: FinalState | None = None,
        records: Records | None = None,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """Raises `ConfigError` where the state to start from is not of this chain, or damaged."""
        self._chain = chain
        self._shard = chain.genesis.shard
        self.address = address
        if start is None:
            self._engine = Engine(chain)
            tree = StateTree(self._engine.leaves().items())
            final = FinalLeaf(0, 0, log_genesis_id(chain), tree.root, 0, 0, 0, EMPTY_OUTBOX_HASH)
        else:
            final = start.final
            tree = StateTree(start.leaves)
            if start.chain_id != chain.chain_id or tree.root != final.state_root:
                raise ConfigError("the challenger's stored state is of another chain, or damaged")
            self._engine = Engine.restore(chain, start.leaves)
        self._tree = tree
        self._trace = Trace(tree, final.last_block, records, held_bytes)
        self._player = Player(chain, self._trace)
        self._newest = _known(final)
        """What is known of the newest block that has been executed; of others, the trace knows."""
        self._known = {final.last_block: self._newest}
        """That of the last blocks of batches that are checked and right."""
        self._roots = {final.last_block: final.state_root}
        self._ends = {final.batch: final.last_block}
        self.final = final
        """The newest batch that is both checked and final."""
        self.next = final.batch + 1
        """Number of the batch that is checked next, or that is wrong."""
        self.settled: SettledBatch | None = None
        """The next batch as it is settled."""
        self.wrong = ""
        """What is wrong with the next batch; empty: nothing, or it is not checked yet."""
        self.lost = ""
        """A wrong batch that has become final all the same: nothing more can be checked."""
        self._steps: BatchSteps | None = None
        self.game: DisputeLeaf | None = None
        """Our open game on the next batch."""
        self.checked_batches = self.checked_blocks = self.wrong_batches = 0

    @property
    def block(self) -> int:
        """Newest ordered block that has been executed."""
        return self._trace.last

    # --- what the ledger says

    def keys(self) -> list[bytes]:
        """Ledger leaves to be shown to `look`, all of one height."""
        return [
            shard_key(self._shard), final_key(self._shard), batch_key(self._shard, self.next),
            dispute_key(self._shard, self.next, self.address),
        ]  # fmt: skip

    def look(self, read: Callable[[bytes], bytes | None]) -> None:
        """Take in the leaves of `keys` as they are proven: value, or None where absent.

        Raises `Rejected` where the ledger has no such shard, `ConfigError` where it has forgotten
        the next batch (`keep_batches`).
        """
        raw_shard, raw_final, raw_batch, raw_game = (read(key) for key in self.keys())
        if raw_shard is None or raw_final is None:
            raise Rejected(Code.WRONG_SHARD, f"the ledger has no shard {self._shard}")
        shard, final = decode_shard(raw_shard), decode_final(raw_final)
        settled = None if raw_batch is None else decode_batch(raw_batch)
        if settled != self.settled:
            self.settled, self.wrong, self._steps = settled, "", None
        self.game = None if raw_game is None else decode_dispute(raw_game)
        if final.batch >= self.next and self.wrong:
            self.lost = f"batch {self.next} is final and wrong: {self.wrong}"
        if final.batch >= self.next and settled is None and not self.lost:
            raise ConfigError(
                f"the ledger has forgotten batch {self.next}, which is final and was not checked "
                "here; start with the final state of a challenger that has kept up"
            )
        self._step_back(shard)
        self._forget(final)

    def _step_back(self, shard: ShardLeaf) -> None:
        """Batches that we have checked may have been removed, and others come in their place."""
        if self.settled is not None:
            header = self.settled.header
            before = header.first_block - 1
            if before != self._ends[self.next - 1] or header.pre_state_root != self._root(before):
                self._recheck(self.next - 1)
        elif shard.batch < self.next - 1:
            self._recheck(shard.batch + 1)
        elif shard.batch == self.next - 1:
            block = self._ends[shard.batch]
            if (self._known[block], self._root(block)) != (_known(shard), shard.state_root):
                self._recheck(shard.batch)

    def _recheck(self, number: int) -> None:
        if number <= self.final.batch:
            self.lost = f"batch {number} is final, and not what its blocks lead to"
            return
        self.next, self.settled, self.wrong, self.game = number, None, "", None
        self._steps = None

    def _forget(self, final: FinalLeaf) -> None:
        """States before a final one cannot be disputed any more."""
        number = min(final.batch, self.next - 1)
        if number <= self.final.batch or self.lost:
            return
        block = self._ends[number]
        known, root = self._known[block], self._root(block)
        if root is None:
            raise SafetyViolation(f"the state after block {block} is forgotten")
        self.final = FinalLeaf(
            number, block, known.block_id, root, known.inbox_height, known.inbox_cursor,
            known.outbox_next, known.outbox_hash,
        )  # fmt: skip
        self._trace.forget(block)
        first = self._trace.first
        self._known = {at: one for at, one in self._known.items() if at >= first}
        self._roots = {at: one for at, one in self._roots.items() if at >= first}
        self._ends = {at: one for at, one in self._ends.items() if at >= number}

    def _root(self, block: int) -> bytes | None:
        """Our state root after a block, None for one that is not executed or long final."""
        if not self._trace.first <= block <= self._trace.last:
            return None
        root = self._roots.get(block)
        if root is None:
            root = self._roots[block] = self._trace.roots([block])[0]
        return root

    # --- the data of batches

    @property
    def wants(self) -> SettledBatch | None:
        """The batch whose data is to be handed to `check`; None: nothing at present."""
        return None if self.wrong or self.lost else self.settled

    def inbox_height(self, blocks: Sequence[OrderedBlock]) -> int:
        """Ledger height up to which `check` needs the inbox.

        Raises `Rejected` where the blocks are not those of the batch in `wants`.
        """
        self._require_data(blocks)
        height = 0
        for block in blocks:
            height = block_inbox_height(block.payload, height)
        return height

    def check(self, blocks: Sequence[OrderedBlock], inbox: VerifiedInbox) -> None:
        """Execute the data of the batch in `wants`, and compare what it leads to.

        Raises `Rejected` where the blocks are not those of the batch.
        """
        settled = self._require_data(blocks)
        header = settled.header
        new = [block for block in blocks if block.header.height > self.block]
        if new:
            self._execute(new, inbox)
        self.checked_blocks += len(new)
        known = self._inside(header.first_block, header.last_block)
        end, root = known[-1], self._root(header.last_block)
        if end.block_id != header.last_block_id:
            raise SafetyViolation(f"two blocks {header.last_block} were ordered")
        if root != header.post_state_root:
            self.wrong = f"its blocks lead to the state root {(root or b'').hex()[:16]}"
        elif (end.inbox_cursor, end.outbox_next, end.outbox_hash) != (
            header.inbox_cursor, header.outbox_first + header.outbox_count, settled.outbox_hash
        ):  # fmt: skip
            self.wrong = "its header contradicts its own state about inbox or outbox"
        elif settled.prices and contradicts(settled, self._shown(settled)):
            self.wrong = "its prices contradict its own state"
        else:
            self.checked_batches += 1
            self._known[header.last_block] = end
            self._ends[header.number] = header.last_block
            self.next, self.settled, self.game = self.next + 1, None, None
            return
        self.wrong_batches += 1
        before = self._known[header.first_block - 1]
        cursors = [one.inbox_cursor for one in (before, *known)]
        entries = inbox.entries(cursors[0], cursors[-1])
        self._steps = BatchSteps(header, list(blocks), cursors, entries)

    def _inside(self, first: int, last: int) -> list[Known]:
        """What our execution says of each of these blocks."""
        return [_decode_known(note) for note in self._trace.notes(first - 1, last)]

    def _require_data(self, blocks: Sequence[OrderedBlock]) -> SettledBatch:
        settled = self.wants
        if settled is None:
            raise SafetyViolation("no batch is to be checked")
        header = settled.header
        if list_root([encode(block) for block in blocks]) != header.data_root:
            raise Rejected(Code.BAD_PROOF, f"the data is not that of batch {header.number}")
        return settled

    def _execute(self, blocks: Sequence[OrderedBlock], inbox: VerifiedInbox) -> None:
        """Execute blocks that follow on the last one executed; the inbox covers them."""
        known = self._newest
        limit = self._chain.genesis.limits.inbox_per_block
        changes: list[dict[bytes, bytes | None]] = []
        notes: list[bytes] = []
        size = 0
        for block in blocks:
            header = block.header
            payload = OrderedPayload(known.inbox_height, [])
            if block.payload:
                payload = decode_payload(block.payload)
            first = known.inbox_cursor
            cursor = next_cursor(first, inbox.count_at(payload.inbox_height), limit)
            block_id = header.block_id()
            result = self._engine.apply(
                header.height, header.time_ms, block_id, inbox.entries(first, cursor), cursor,
                payload.batches,
            )  # fmt: skip
            state = self._engine.state
            known = Known(
                block_id, payload.inbox_height, cursor, state.next_outbox, state.outbox_hash
            )
            changes.append(result.changes)
            notes.append(encode(known))
            size += footprint(result.changes.items())
            if size >= SEGMENT_BYTES or block is blocks[-1]:
                self._trace.extend(changes, notes)
                self._newest = known
                changes, notes, size = [], [], 0
        # A batch that is not final may be checked again, and disputed.
        inbox.release(self.final.inbox_cursor)

    # --- moves

    @property
    def answers(self) -> DisputeLeaf | None:
        """Our game, where the next move needs the witness that the other side has shown."""
        game = self.game
        if not self.wrong or game is None or game.turn != CHALLENGER or not game.shown:
            return None
        return game

    def move(self, before: bytes = b"") -> DisputeAction | None:
        """Our move against the next batch; None while there is nothing to do. `before`: the witness
        that `answers` asks for.

        Raises `Rejected(bad_witness)` where what a step looks at is too large to be shown.
        """
        settled = self.settled
        if not self.wrong or self.lost or settled is None:
            return None
        header = settled.header
        root = self._root(header.last_block)
        if root is None:
            raise SafetyViolation(f"the state after block {header.last_block} is forgotten")
        if root == header.post_state_root:
            return Contradict(header.number, self._shown(settled))
        if self.game is None:
            return OpenDispute(header.number, root)
        if self._steps is None:
            raise SafetyViolation(f"the data of batch {header.number} is missing")
        return self._player.challenge(self._steps, self.address, self.game, before)

    def _shown(self, settled: SettledBatch) -> bytes:
        """The proof that decides whether a batch contradicts the state that it leads to."""
        block = settled.header.last_block
        return encode(self._trace.prove(block, contradiction_keys(settled)))

    # --- starting again

    def final_state(self) -> FinalState:
        """The state after `final`, from which a later start goes on."""
        leaves = self._trace.leaves(self.final.last_block)
        return FinalState(self._chain.chain_id, self.final, leaves)


def _known(end: ShardLeaf | FinalLeaf) -> Known:
    return Known(
        end.last_block_id, end.inbox_height, end.inbox_cursor, end.outbox_next, end.outbox_hash
    )
