"""The whole pipeline without processes: ordered log, engine, prover, ledger blocks, all signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from ledger_world import GENESIS_MS, OrderedLog, key_of, make_chain

from execution import Engine
from execution.log import log_genesis_id
from node.genesis import genesis_ledger
from node.ledger import BlockOutcome, Ledger
from protocol.actions import Action, ActionBatch, sign_batch
from protocol.chain import (
    QC,
    Block,
    CommitCertificate,
    Header,
    Signature,
    genesis_header,
    genesis_qc,
    payload_hash,
    vote_digest,
)
from protocol.codec import encode
from protocol.events import BatchExecuted, BlockDiff, Event
from protocol.genesis import Chain
from protocol.inbox import next_cursor
from protocol.keys import Key
from protocol.ordering import OrderedChunk, decode_payload
from protocol.settlement import LedgerAction, PostBatch, decode_outbox_entry, sign_action
from prover.batcher import Batch, Batcher, Position
from prover.tree import StateTree

DOLLAR = 1_000_000
Lie = Callable[[PostBatch], PostBatch]


class PipelineWorld:
    """One validator, one sequencer, one prover, and two traders with deposits of genesis.

    `options` go to `ledger_world.make_chain`; or `chain` is the chain."""

    def __init__(self, **options: Any) -> None:
        self.alice, self.bob, self.prover = key_of("alice"), key_of("bob"), key_of("prover")
        deposits = [(self.alice, 1_000 * DOLLAR, 5_000 * DOLLAR), (self.bob, 0, 5_000 * DOLLAR)]
        chain = options.pop("chain", None)
        self.chain: Chain = chain or make_chain(deposits, sequencers=1, **options)
        self.step_ms = 100
        self.validator = key_of("validator-0")
        self.log = OrderedLog(self.chain)
        self.engine = Engine(self.chain)
        tree = StateTree(sorted(self.engine.leaves().items()))
        self.genesis_root = tree.root
        self.ledger: Ledger = genesis_ledger(self.chain, tree.root)
        position = Position(0, 0, log_genesis_id(self.chain), tree.root, 0, 0)
        self.batcher = Batcher(self.chain.chain_id, 0, self.prover.public, tree, position)
        self.genesis = genesis_header(
            self.chain.chain_id, self.chain.genesis.time_ms, self.ledger.root
        )
        self.blocks: list[Block] = []
        self.events: list[Event] = []
        self.named_root: bytes = self.ledger.root
        self._inbox_height = 0
        self._nonce_ms = GENESIS_MS

    # --- ordered log and execution

    def sign(self, key: Key, *actions: Action) -> bytes:
        """A signed batch of the key's account."""
        self._nonce_ms += 1
        batch = ActionBatch(self.ledger.account_number(key.address), self._nonce_ms, 0, [*actions])
        return sign_batch(key, self.chain.chain_id, 0, batch)

    def order(self, *batches: bytes, inbox_height: int | None = None) -> BlockDiff:
        """Order, commit and execute a block; gives both to the prover."""
        diff = self.execute(*batches, inbox_height=inbox_height)
        block = self.log.blocks[-1]
        self.batcher.add_chunk(OrderedChunk([block], self.log.certificate(block.header)))
        self.batcher.add_diff(diff)
        return diff

    def execute(self, *batches: bytes, inbox_height: int | None = None) -> BlockDiff:
        """Order and execute a block; returns its diff."""
        empty = inbox_height is None and not batches
        named = self._inbox_height if inbox_height is None else inbox_height
        self.log.append(None if empty else named, batches)
        block = self.log.blocks[-1]
        if block.payload:
            self._inbox_height = decode_payload(block.payload).inbox_height
        first = self.engine.inbox_cursor
        limit = self.chain.genesis.limits.inbox_per_block
        cursor = next_cursor(first, self.ledger.entries_at(self._inbox_height), limit)
        placed = self.ledger.entries(first, cursor - first, self._inbox_height)
        header = block.header
        result = self.engine.apply(
            header.height, header.time_ms, header.block_id(), [entry for _, entry in placed],
            cursor, batches,
        )  # fmt: skip
        self.events += result.events
        return BlockDiff(
            header.height, header.block_id(), cursor, list(result.changes.items()),
            [encode(entry) for entry in result.outbox], result.actions,
        )  # fmt: skip

    def codes(self) -> list[int]:
        """Codes of everything that batches did so far: of refused ones, and of their actions."""
        codes: list[int] = []
        for event in self.events:
            if isinstance(event, BatchExecuted):
                codes += [event.code] if event.code else [one.code for one in event.results]
        return codes

    # --- base layer

    def transaction(self, key: Key, action: LedgerAction) -> bytes:
        """A signed ledger transaction under the sender's next nonce."""
        nonce = self.ledger.account(key.address).nonce
        return sign_action(key, self.chain, nonce, action)

    def settle(self, lie: Lie = lambda post: post) -> tuple[Batch, BlockOutcome]:
        """Settle everything ordered so far; `lie` changes what the prover posts."""
        batch = self.batcher.build(self.batcher.end_of_next())
        assert batch.certificate is not None
        outbox = [decode_outbox_entry(raw) for raw in batch.outbox]
        post = lie(PostBatch(batch.header, batch.data, batch.certificate, outbox))
        return batch, self.ledger_block(self.transaction(self.prover, post))

    def ledger_block(self, *transactions: bytes) -> BlockOutcome:
        """Commit and execute a ledger block."""
        parent = self.blocks[-1].header if self.blocks else self.genesis
        payload = encode(list(transactions)) if transactions else b""
        justify = self.qc(parent) if self.blocks else genesis_qc(self.genesis)
        header = self._child(parent, justify, payload)
        self.blocks.append(Block(header, payload, justify, None))
        outcome = self.ledger.apply_block(header, transactions)
        self.named_root = self.ledger.root
        return outcome

    def _child(self, parent: Header, justify: QC, payload: bytes) -> Header:
        return Header(
            self.chain.chain_id, 0, parent.view + 1, parent.height + 1, parent.block_id(),
            parent.view, parent.time_ms + self.step_ms, 0, payload_hash(payload), justify.digest(),
            parent.height, self.named_root,
        )  # fmt: skip

    def qc(self, header: Header) -> QC:
        """The validator's certificate of a header."""
        block_id, chain_id = header.block_id(), self.chain.chain_id
        digest = vote_digest(chain_id, 0, header.view, header.height, block_id)
        signatures = [Signature(0, self.validator.sign(digest))]
        return QC(chain_id, 0, header.view, header.height, block_id, signatures)

    def certificate(self) -> CommitCertificate:
        """The commit certificate of the newest ledger block."""
        header = self.blocks[-1].header
        qc = self.qc(header)
        child = self._child(header, qc, b"")
        return CommitCertificate(qc, child, self.qc(child))


def rewrite_header(lie: dict[str, object]) -> Lie:
    """A prover that posts other header fields than are right."""

    def change(post: PostBatch) -> PostBatch:
        header = msgspec.structs.replace(post.header, **lie)
        return msgspec.structs.replace(post, header=header)

    return change


def all_but(blocks: Sequence[Block], index: int) -> list[Block]:
    """The blocks without one."""
    return [block for number, block in enumerate(blocks) if number != index]
