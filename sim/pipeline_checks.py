"""What must hold of the whole exchange, at any time and at the end; nothing asks a machine's word
where the base layer's blocks can be executed again.
"""

from __future__ import annotations

from node.app import MAX_BLOCK_TRANSACTIONS, decode_ledger_payload
from node.audit import AuditDifference, Auditor, AuditReport
from node.mempool import MempoolLimits
from node.outcomes import NOT_FINAL
from protocol.actions import actions_digest, batch_id, decode_actions, decode_signed
from protocol.batch_data import unpack_blocks
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.ledger_leaves import PAID_KIND
from protocol.messages import BlocksFrom
from protocol.ordering import decode_payload
from protocol.settlement import (
    BatchHeader,
    InboxDeposit,
    PostBatch,
    decode_signed_transaction,
    decode_transaction,
    transaction_id,
)
from prover.batcher import BATCH_BYTES_MAX
from sequencer.pool import POOL_BATCHES_MAX, POOL_BYTES_MAX
from sim.actors_process import INPUTS_MAX
from sim.actors_prover import WAITING_BYTES
from sim.actors_validator import MAX_EVENTS, SimValidator
from sim.checkers import Violation
from sim.pipeline import Exchange
from sim.pipeline_history import History
from sim.pipeline_trading import check_books, check_liquidations

AUDIT_BLOCKS = 200

PROVER_BYTES_MAX = 2 * (WAITING_BYTES + 2 * BATCH_BYTES_MAX)
"""What waits in a prover: a batch that is taken back, or settled elsewhere, comes on top."""


def check_bounds(world: Exchange) -> None:
    """Bounded memory: pools, queues and logs of every process, within what their rules say."""
    limits = MempoolLimits()
    for validator in world.validators:
        if validator.alive and validator.honest and validator.boots:
            pool = validator.app.mempool
            _bound(world, "mempool", len(pool), limits.transactions)
            _bound(world, "mempool_bytes", pool.total_bytes, limits.total_bytes)
            _bound(world, "validator_events", len(validator.events), MAX_EVENTS)
            _bound(world, "tasks", len(validator.tasks), MAX_BLOCK_TRANSACTIONS)
    for sequencer in world.sequencers:
        if sequencer.boots:
            pool_of_log = sequencer.machine.pool
            _bound(world, "pool", len(pool_of_log), POOL_BATCHES_MAX)
            _bound(world, "pool_bytes", pool_of_log.size_bytes, POOL_BYTES_MAX)
    for prover in world.provers:
        _bound(world, "prover_bytes", prover.batcher.waiting_bytes, PROVER_BYTES_MAX)
    for server in world.servers:
        _bound(world, "inputs", server.waiting_inputs, INPUTS_MAX)


def _bound(world: Exchange, what: str, value: int, most: int) -> None:
    world.history.highest(f"most_{what}", value)
    if value > most:
        raise Violation("memory", f"{what} holds {value}, at most {most} are allowed")


def check_end(world: Exchange) -> AuditReport:
    """Everything that must be true once all is settled. Returns the audit's report."""
    history, validator = world.history, world.honest()[0]
    report = audit(world, validator)
    settled, places, posted = _settled_batches(validator)
    check_receipts(history, world.chain, places)
    _check_answers(world)
    _check_money(world, posted)
    for one in world.honest():
        shard = one.ledger.shard_leaf()
        if shard.batch == validator.ledger.shard_leaf().batch and (
            shard.state_root.hex() != report.state_root
        ):
            raise Violation("root", f"{one.name} settled another state root than re-execution has")
        one.ledger.require_conserved()
        _check_finality(world, one)
    for prover in world.provers:
        batcher = prover.batcher
        if batcher.position.number == settled and batcher.tree.root.hex() != report.state_root:
            raise Violation("root", f"{prover.name} has another root than re-execution")
    check_books(world.chain, world.executions)
    check_liquidations(history.liquidations, world.executions, world.prover)
    history.count("audited_batches", report.batches)
    history.count("audited_actions", report.actions)
    return report


def _check_finality(world: Exchange, validator: SimValidator) -> None:
    """What is final is the newest batch, and nobody's bond is locked any more."""
    ledger = validator.ledger
    final, shard = ledger.final(), ledger.shard_leaf()
    if (final.batch, final.state_root, final.last_block, final.outbox_hash) != (
        shard.batch, shard.state_root, shard.last_block, shard.outbox_hash
    ):  # fmt: skip
        raise Violation("settlement", f"{validator.name} has batch {shard.batch} not final")
    forgotten = ledger.swept().batch if world.options.settlement.keep_batches else 0
    for number in range(1, shard.batch + 1):
        settled = ledger.batch(number)
        if settled is None and number <= forgotten:
            world.history.count("batches_forgotten")
            continue
        if settled is None or settled.bond_uusd:
            raise Violation("settlement", f"{validator.name} keeps the bond of batch {number}")
    if world.options.settlement.window_ms:
        world.history.highest("final_batches", final.batch)


def audit(world: Exchange, validator: SimValidator) -> AuditReport:
    """Execute everything again from the blocks of one validator."""
    auditor = Auditor(world.chain)
    try:
        while auditor.height < validator.store.height:
            request = BlocksFrom(1, auditor.height + 1, AUDIT_BLOCKS)
            view = validator.queries.blocks(request)
            auditor.add(view.blocks, view.certificate)
        return auditor.report()
    except (AuditDifference, Rejected) as difference:
        raise Violation("root", f"the audit found: {difference}") from None


def _settled_batches(
    validator: SimValidator,
) -> tuple[int, dict[bytes, list[int]], list[BatchHeader]]:
    """Number of the newest batch, the ordered heights at which each signed batch stands, and the
    headers of all batches."""
    places: dict[bytes, list[int]] = {}
    number = validator.ledger.shard_leaf().batch
    posted: dict[int, PostBatch] = {}
    for height in range(1, validator.store.height + 1):
        posted.update((action.header.number, action) for action in _settling(validator, height))
    # What stood on a lie was removed with it, and nothing may have come in its place yet.
    posted = {at: post for at, post in posted.items() if at <= number}
    if len(posted) != number:
        raise Violation("settlement", f"{len(posted)} of {number} settled batches are in blocks")
    for post in posted.values():
        for block in unpack_blocks(post.data):
            if block.payload:
                for raw in decode_payload(block.payload).batches:
                    places.setdefault(batch_id(raw), []).append(block.header.height)
    return number, places, [post.header for post in posted.values()]


def _settling(validator: SimValidator, height: int) -> list[PostBatch]:
    """The batches that took effect in a ledger block."""
    found = []
    for raw in decode_ledger_payload(validator.store.blocks[height][0].payload):
        outcome = validator.store.outcome(transaction_id(raw))
        action = decode_transaction(decode_signed_transaction(raw).payload).action
        took_effect = outcome is not None and outcome.height == height and outcome.code == Code.OK
        if isinstance(action, PostBatch) and took_effect:
            found.append(action)
    return found


def check_receipts(history: History, chain: Chain, places: dict[bytes, list[int]]) -> None:
    """Durability: what was accepted is ordered, executed and settled; notices told the truth.

    `places`: the ordered heights at which each signed batch stands, by its id.
    """
    for identity, raw in history.receipts.items():
        if identity not in places:
            raise Violation("durability", "an accepted batch is in no settled block")
        signed = decode_signed(raw)
        place = (signed.signer, decode_actions(signed.payload).nonce_ms)
        if place in history.batch_results or place in history.refused:
            continue
        # A busy sequencer leaves signatures to execution, whose refusal names no signer.
        genesis = chain.genesis
        digest = actions_digest(chain.chain_id, genesis.shard, signed.payload)
        if verify(signed.signer, signed.signature, digest):
            raise Violation("durability", "an accepted batch was never executed")
        history.count("accepted_badly_signed")
    for identity, heights in history.notices.items():
        if not heights.issubset(places.get(identity, ())):
            raise Violation("durability", f"a batch is not at the heights {heights} it was told")
    repeated = sum(len(found) > 1 for found in places.values())
    history.count("batches_ordered_twice", repeated)


def _check_answers(world: Exchange) -> None:
    """Durability: what validators said of a transaction stands in every honest one's records."""
    for identity, answer in world.history.ledger_answers.items():
        for validator in world.honest():
            kept = validator.store.outcome(identity)
            if kept is None or (kept.height != answer.height and answer.code == Code.OK):
                raise Violation("durability", f"{validator.name} lost a transaction it answered")
            if kept.code != answer.code and answer.code not in NOT_FINAL:
                raise Violation("durability", f"{validator.name} remembers another outcome")


def _check_money(world: Exchange, posted: list[BatchHeader]) -> None:
    """Deposits are credited once and payouts are made once, each of a withdrawal."""
    history = world.history
    ledger = world.honest()[0].ledger
    inbox = world.truth.inbox(ledger)
    entries = [entry for entry in inbox if isinstance(entry, InboxDeposit)]
    for entry in entries:
        done = history.deposited.get(entry.index)
        if done is None or (done.account, done.amount_uusd) != (entry.account, entry.amount_uusd):
            raise Violation("exactly_once", f"deposit {entry.index} was not credited as it stands")
    if len(history.deposited) != len(entries):
        raise Violation("conservation", "more deposits were credited than the inbox holds")
    paid = [int.from_bytes(key[-8:], "big") for key, _ in ledger.leaves() if key[:1] == PAID_KIND]
    for header in posted:
        # A batch is forgotten once all of its withdrawals are paid.
        if ledger.batch(header.number) is None:
            paid += range(header.outbox_first, header.outbox_first + header.outbox_count)
    if any(number not in history.withdrawn for number in paid):
        raise Violation("conservation", "a payout is of no withdrawal")
    if history.counters.get("payouts_paid_twice") or history.counters.get("payouts_forged"):
        raise Violation("conservation", "a withdrawal was paid twice, or a forged one was paid")
    history.count("payouts_made", len(paid))
    shard = ledger.shard_leaf()
    unpaid = sum(one.amount_uusd for n, one in history.withdrawn.items() if n not in paid)
    owed = world.execution.engine.total_cash_uusd() + unpaid
    if shard.inbox_cursor == len(entries) and shard.funds_uusd != owed:
        raise Violation("conservation", f"the bridge holds {shard.funds_uusd}, and owes {owed}")
