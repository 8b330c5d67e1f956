"""Bytes on the disk of a validator over many orders, of one that keeps all and of one that prunes.

    python -m bench.state_growth [--orders 1000000] [--retain 600] [--keep 300] [--batches 0]
                                 [--json FILE] [--svg FILE] [--folder DIR]

One process without sockets: the load generator's flow, signed, in ordered blocks of 20 ms; the
engine; the prover's batches, two a second; a ledger that checks and settles them, three blocks to a
batch; and two validators' stores on disk that take the same blocks. The one that prunes keeps the
state of the prover's tree before older data go, and at the end its disk alone must give the final
state, executed with every signature.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from bench.state_growth_plot import plot
from client.load_flow import Flow
from cluster.defaults import FEES, LEDGER_PACE, MARKETS, SEQUENCER_PACE, SETTLEMENT, USD
from execution import Engine
from execution.log import log_genesis_id
from node.app import ExecutedBlock
from node.genesis import genesis_ledger
from node.kept_state import join_parts, needed_from, parts_of
from node.process_keeper import STATE_NAME, rebuilt_from_disk
from node.rebuild import CheckedState
from node.store import ValidatorStore, WriteBatch
from protocol.actions import ActionBatch, MarketOrder, OraclePrice, Order, sign_batch
from protocol.chain import (
    EMPTY_HASH,
    QC,
    Block,
    CommitCertificate,
    Header,
    Signature,
    genesis_header,
    payload_hash,
    vote_digest,
)
from protocol.codec import encode
from protocol.errors import SafetyViolation
from protocol.events import BlockDiff
from protocol.genesis import Chain, Genesis, GenesisAccount, Identity, Limits, parse_genesis
from protocol.inbox import next_cursor
from protocol.keys import Key
from protocol.ordering import OrderedBlock, OrderedChunk, OrderedPayload
from protocol.settlement import LedgerAction, PostBatch, decode_outbox_entry, sign_action
from prover.batcher import Batch, Batcher, Position
from prover.tree import StateTree
from store.files import write_atomic

START_MS = 1_700_000_000_000
ACCOUNTS = 256
ACTIONS_PER_BATCH = 20
BATCHES_PER_BLOCK = 20
BLOCK_MS = 20
BLOCKS_PER_SETTLEMENT = 25
LEDGER_BLOCKS = 3
"""Ledger blocks for each batch: the one that holds it, and those that certify it."""
SAMPLE_ORDERS = 250_000


def _key(name: str) -> Key:
    return Key(name.encode().ljust(32, b"\0"))


def make_chain(keep_batches: int = 0) -> Chain:
    """Four validators and sequencers, one prover, the markets of a testnet, and rich traders; a
    ledger that remembers so many batches (0: all)."""

    def members(role: str) -> list[Identity]:
        keys = {f"{role}-{number}": _key(f"{role}-{number}") for number in range(4)}
        return [Identity(name, key.public.hex(), 100, "00") for name, key in keys.items()]

    traders = [
        GenesisAccount(_key(f"trader-{number}").address.hex(), 0, 1_000_000 * USD)
        for number in range(ACCOUNTS)
    ]
    genesis = Genesis(
        name="state-growth", time_ms=START_MS, shard=0, validators=members("validator"),
        sequencers=members("sequencer"), provers=[_key("prover").public.hex()],
        oracles=[_key("oracle").public.hex()], markets=list(MARKETS),
        accounts=[*traders, GenesisAccount(_key("prover").address.hex(), 1_000_000 * USD, 0)],
        ledger_pace=LEDGER_PACE, sequencer_pace=SEQUENCER_PACE, fees=FEES,
        # What is settled is final, so that the prover's tree is that of the final state.
        settlement=msgspec.structs.replace(SETTLEMENT, window_ms=0, keep_batches=keep_batches),
        limits=Limits(inbox_per_block=1_000),
    )  # fmt: skip
    return parse_genesis(msgspec.json.encode(genesis))


class Pipeline:
    """Flow, log, engine, prover and ledger; `settle` gives the ledger blocks of the next batch."""

    def __init__(self, seed: int, keep_batches: int) -> None:
        self.chain = chain = make_chain(keep_batches)
        self.orders = self.actions = self.data_bytes = self.batches = 0
        self._random = Random(seed)
        self._starts = [(one, one.initial_price_ticks) for one in chain.genesis.markets]
        self._flow = Flow(
            seed, self._starts, accounts=ACCOUNTS, batch=ACTIONS_PER_BATCH, taker_share=0.2,
            first_client_id=START_MS << 8,
        )  # fmt: skip
        self._keys = [_key(f"trader-{number}") for number in range(ACCOUNTS)]
        self._sequencers = [_key(f"sequencer-{number}") for number in range(4)]
        # Whatever is signed here is signed well; every signature is checked at the end.
        self._engine = Engine(chain, lambda *_: True)
        tree = StateTree(sorted(self._engine.leaves().items()))
        self.genesis_root = tree.root
        self.ledger = genesis_ledger(chain, tree.root)
        self._numbers = [self.ledger.account_number(key.address) for key in self._keys]
        position = Position(0, 0, log_genesis_id(chain), tree.root, 0, 0)
        bond_uusd = chain.genesis.settlement.prover_bond_uusd
        self._batcher = Batcher(
            chain.chain_id, 0, _key("prover").public, tree, position, bond_uusd=bond_uusd
        )
        self._last = genesis_header(chain.log_id, START_MS, EMPTY_HASH)
        self._tip = genesis_header(chain.chain_id, START_MS, self.ledger.root)
        self._roots = [self.ledger.root]
        self._nonce_ms = START_MS

    @property
    def tree(self) -> StateTree:
        """The shard's state."""
        return self._batcher.tree

    def settle(self) -> list[ExecutedBlock]:
        """Order, execute and settle one batch."""
        for _ in range(BLOCKS_PER_SETTLEMENT):
            self._order()
        batch = self._batcher.build(self._batcher.end_of_next())
        done = [self._ledger_block([self._post(batch)])]
        if done[0].outcome.results[-1].code:
            raise SafetyViolation(f"a batch was refused: {done[0].outcome.results[-1].text}")
        self.data_bytes += len(batch.data)
        self.batches += 1
        return done + [self._ledger_block([]) for _ in range(LEDGER_BLOCKS - 1)]

    def _sign(self, key: Key, account: int, actions: list[Any]) -> bytes:
        self._nonce_ms = max(self._nonce_ms + 1, self._last.time_ms)
        batch = ActionBatch(account, self._nonce_ms, 0, actions)
        return sign_batch(key, self.chain.chain_id, 0, batch)

    def _order(self) -> None:
        """One block of the log, through the engine and to the prover."""
        raws = []
        if self._last.height % (1_000 // BLOCK_MS) == 0:
            prices = [OraclePrice(market.market, ticks) for market, ticks in self._starts]
            raws.append(self._sign(_key("oracle"), 0, prices))
        for _ in range(BATCHES_PER_BLOCK):
            number, actions = self._flow.next_batch()
            self.actions += len(actions)
            self.orders += sum(isinstance(one, Order | MarketOrder) for one in actions)
            raws.append(self._sign(self._keys[number], self._numbers[number], actions))
        payload = encode(OrderedPayload(0, raws))
        block = OrderedBlock(self._child(self._last, payload), payload)
        self._last = header = block.header
        first = self._engine.inbox_cursor
        limit = self.chain.genesis.limits.inbox_per_block
        cursor = next_cursor(first, self.ledger.entries_at(0), limit)
        entries = [entry for _, entry in self.ledger.entries(first, cursor - first, 0)]
        result = self._engine.apply(
            header.height, header.time_ms, header.block_id(), entries, cursor, raws
        )
        self._batcher.add_chunk(OrderedChunk([block], self._certificate(header)))
        self._batcher.add_diff(
            BlockDiff(
                header.height, header.block_id(), cursor, list(result.changes.items()),
                [encode(entry) for entry in result.outbox], result.actions,
            )
        )  # fmt: skip

    def _child(self, parent: Header, payload: bytes) -> Header:
        return Header(
            self.chain.log_id, 0, parent.view + 1, parent.height + 1, parent.block_id(),
            parent.view, parent.time_ms + BLOCK_MS, parent.view % 4, payload_hash(payload),
            EMPTY_HASH, 0, EMPTY_HASH,
        )  # fmt: skip

    def _certificate(self, header: Header) -> CommitCertificate:
        """What a quorum of sequencers signs; only a batch's last block needs one."""
        quorum = header.height % BLOCKS_PER_SETTLEMENT == 0
        signers = self._sequencers[:3] if quorum else []
        qc = self._qc(header, signers)
        child = msgspec.structs.replace(self._child(header, b""), justify_hash=qc.digest())
        return CommitCertificate(qc, child, self._qc(child, signers))

    def _qc(self, header: Header, signers: list[Key]) -> QC:
        block_id = header.block_id()
        digest = vote_digest(self.chain.log_id, 0, header.view, header.height, block_id)
        signatures = [Signature(n, key.sign(digest)) for n, key in enumerate(signers)]
        return QC(self.chain.log_id, 0, header.view, header.height, block_id, signatures)

    # --- base layer

    def _post(self, batch: Batch) -> bytes:
        if batch.certificate is None:
            raise SafetyViolation("a batch ends with a block that is not certified")
        outbox = [decode_outbox_entry(raw) for raw in batch.outbox]
        action: LedgerAction = PostBatch(batch.header, batch.data, batch.certificate, outbox)
        prover = _key("prover")
        return sign_action(prover, self.chain, self.ledger.account(prover.address).nonce, action)

    def _ledger_block(self, transactions: list[bytes]) -> ExecutedBlock:
        """The next ledger block; nobody here checks the validators' signatures, which are noise."""
        parent, payload = self._tip, encode(transactions) if transactions else b""
        justify = self._noise(parent)
        app_height = max(0, parent.height - 1)
        header = Header(
            self.chain.chain_id, 0, parent.view + 1, parent.height + 1, parent.block_id(),
            parent.view, parent.time_ms + BLOCK_MS * BLOCKS_PER_SETTLEMENT // LEDGER_BLOCKS, 0,
            payload_hash(payload), justify.digest(), app_height, self._roots[app_height],
        )  # fmt: skip
        outcome = self.ledger.apply_block(header, transactions)
        self.ledger.forget_undo(app_height)
        self._roots.append(outcome.root)
        self._tip = header
        block = Block(header, payload, justify, None)
        certificate = CommitCertificate(self._noise(header), header, self._noise(header))
        return ExecutedBlock(block, certificate, outcome, [])

    def _noise(self, header: Header) -> QC:
        signatures = [Signature(n, self._random.randbytes(64)) for n in range(3)]
        return QC(self.chain.chain_id, 0, header.view, header.height, header.block_id(), signatures)


class Disk:
    """The data directory of a validator; with `retain` blocks it prunes, and keeps the state behind
    what goes whenever so many blocks have come since."""

    def __init__(
        self, folder: Path, genesis_root: bytes, chain: Chain, retain: int, every: int
    ) -> None:
        folder.mkdir(parents=True)
        self._folder, self._chain = folder, chain
        self._retain, self._every = retain, every
        self._store = ValidatorStore(folder, chain)
        self._store.load_ledger(genesis_root)
        self._kept = self._kept_at = 0
        self.keep_s, self.state_bytes = 0.0, 0

    def write(self, done: list[ExecutedBlock], pipeline: Pipeline) -> None:
        """Take blocks; what may go then goes."""
        height = done[-1].block.header.height
        batch = WriteBatch(executed=done)
        if self._retain:
            below = max(0, height - self._retain + 1)
            batch.prune_below = needed_from(pipeline.ledger, self._kept, below)
        self._store.write(batch)
        if self._retain and height >= self._kept_at + self._every:
            begin = time.perf_counter()
            final = pipeline.ledger.final()
            state = CheckedState(self._chain.chain_id, final.batch, final.inbox_height, [])
            file = join_parts(state, list(parts_of(pipeline.tree)))
            write_atomic(self._folder / STATE_NAME, file)
            self._kept, self._kept_at, self.state_bytes = final.batch, height, len(file)
            self.keep_s += time.perf_counter() - begin

    def proves(self, pipeline: Pipeline) -> float:
        """Seconds in which the disk alone gives the final state; raises where it does not."""
        begin = time.perf_counter()
        state = rebuilt_from_disk(self._folder, self._chain)
        if state.tree.root != pipeline.tree.root:
            raise SafetyViolation("the disk gives another state than the prover has")
        return time.perf_counter() - begin

    @property
    def stored_bytes(self) -> int:
        """All files of the directory."""
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class Sample(msgspec.Struct, frozen=True):
    """Bytes on disk after so many orders (and actions: orders and cancels), and the batches' data
    so far."""

    orders: int
    actions: int
    batches: int
    ledger_height: int
    data_bytes: int
    all_bytes: int
    pruned_bytes: int


def sample(pipeline: Pipeline, whole: Disk, pruned: Disk) -> Sample:
    """How it stands."""
    return Sample(
        pipeline.orders, pipeline.actions, pipeline.batches, pipeline.ledger.height,
        pipeline.data_bytes, whole.stored_bytes, pruned.stored_bytes,
    )  # fmt: skip


def measure(
    orders: int, retain: int, every: int, seed: int, folder: Path, keep_batches: int = 0
) -> dict[str, Any]:
    """Run `orders` orders; the samples, and what they cost."""
    pipeline = Pipeline(seed, keep_batches)
    whole = Disk(folder / "all", pipeline.genesis_root, pipeline.chain, 0, 0)
    pruned = Disk(folder / "pruned", pipeline.genesis_root, pipeline.chain, retain, every)
    begin = time.perf_counter()
    samples = [sample(pipeline, whole, pruned)]
    while pipeline.orders < orders:
        done = pipeline.settle()
        whole.write(done, pipeline)
        pruned.write(done, pipeline)
        if pipeline.orders >= samples[-1].orders + SAMPLE_ORDERS:
            samples.append(sample(pipeline, whole, pruned))
            passed_s = time.perf_counter() - begin
            print(f"{passed_s:7.0f} s  {samples[-1]}", file=sys.stderr, flush=True)
    if samples[-1].orders < pipeline.orders:
        samples.append(sample(pipeline, whole, pruned))
    figures = {
        "seed": seed, "retain_blocks": retain, "keep_every_blocks": every,
        "keep_batches": keep_batches,
        "accounts": ACCOUNTS, "leaves": len(pipeline.tree), "seconds": round(
            time.perf_counter() - begin
        ),
        "keep_seconds": round(pruned.keep_s), "state_bytes": pruned.state_bytes,
        "proof_seconds": round(pruned.proves(pipeline)),
        "samples": [msgspec.to_builtins(one) for one in samples],
    }  # fmt: skip
    whole.close()
    pruned.close()
    return figures


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--retain", type=int, default=600, help="blocks that pruning keeps")
    parser.add_argument("--keep", type=int, default=300, help="blocks between kept states")
    parser.add_argument("--batches", type=int, default=0, help="that the ledger remembers; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--folder", type=Path, help="for the stores; a temporary one by default")
    options = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)
    with tempfile.TemporaryDirectory(prefix="trilemma-growth-", dir=options.folder) as folder:
        figures = measure(
            options.orders, options.retain, options.keep, options.seed, Path(folder),
            options.batches,
        )  # fmt: skip
    text = json.dumps(figures, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)
    if options.svg:
        options.svg.write_bytes(plot(figures))


if __name__ == "__main__":
    main()
