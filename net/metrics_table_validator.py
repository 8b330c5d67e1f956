"""Status values of a validator as metrics."""

from __future__ import annotations

from net.metrics_table_types import (
    CERTIFICATE_END,
    NO_METRIC,
    Metric,
    Table,
    counter,
    gauge,
    labelled,
    millis,
)


def _event(name: str) -> Metric:
    return labelled(
        "validator_events_total", "event", name, "What the validator counts beside consensus.",
        count=True,
    )  # fmt: skip


EVENTS = (
    "gossip_refused", "questions_dropped", "unaddressed", "epochs_entered", "offences_seen",
    "offences_reported", "fell_behind", "snapshots_missed",
)  # fmt: skip

NODE: Table = {
    "height": gauge("ledger_height", "Newest ledger block that is durable."),
    "view": gauge("ledger_view", "Current view of the ledger's consensus."),
    "epoch": gauge("ledger_epoch", "Current epoch."),
    "members": gauge("ledger_members", "Validators of the epoch."),
    "validating": gauge("ledger_validating", "Whether the process is one of them."),
    "time_ms": millis(
        "ledger_block_timestamp_seconds",
        "Time in the newest ledger block's header, or of genesis before the first, since 1970.",
    ),
    "ledger_root": NO_METRIC,
    "conserved": gauge("ledger_money_conserved", "Whether the ledger's money adds up."),
    "committed_transactions": counter("ledger_transactions_total", "Transactions committed."),
    "mempool": gauge("mempool_transactions", "Transactions that wait for a block."),
    "mempool_bytes": gauge("mempool_bytes", "Their size."),
    "waiting_submissions": gauge("waiting_submissions", "Clients that wait for a transaction."),
    "peers": gauge("peers", "Members of the own chain that can be sent to now."),
    "certificate_end_s": CERTIFICATE_END,
    "inbox_entries": gauge("inbox_entries", "Entries of the shard's inbox so far."),
    "inbox_cursor": gauge("ledger_inbox_cursor", "Inbox entries taken in by settled batches."),
    "batches_settled": gauge("ledger_settled_batch", "Newest settled batch."),
    "last_batch": NO_METRIC,  # the same once more
    "last_ordered_block": gauge("ledger_settled_log_height", "Last ordered block that is settled."),
    "final_batch": gauge("ledger_final_batch", "Newest final batch."),
    "final_ordered_block": gauge("ledger_final_log_height", "Last ordered block that is final."),
    "open_disputes": gauge("ledger_open_disputes", "Disputes that are open."),
    "removed_batches": gauge("ledger_removed_batches", "Batches removed by disputes so far."),
    "frozen": gauge("shard_frozen", "Whether the shard is frozen."),
    "bridge_funds_uusd": gauge("bridge_funds_uusd", "Money that the bridge holds."),
    "underfunded_payouts": gauge(
        "ledger_underfunded_payouts", "Payouts so far that the bridge could not cover."
    ),
    "store_bytes": NO_METRIC,  # the sum of the next two
    "ledger_bytes": labelled("store_bytes", "store", "ledger", "Bytes on disk, by store."),
    "state_bytes": labelled("store_bytes", "store", "kept_state", "Bytes on disk, by store."),
    "kept_batch": gauge("ledger_kept_batch", "Final batch whose state is kept."),
    "blocks_from": gauge("ledger_retained_from_height", "Lowest ledger block that is kept."),
    "rounds": counter("validator_rounds_total", "Rounds of the validator's machine."),
    "snapshot_failure": Metric(
        "ledger_snapshot_failed", "Whether the last snapshot could not be taken.", text=True
    ),
    **{name: _event(name) for name in EVENTS},
    "rejected_*": labelled(
        "validator_rejected_total", "code", "", "Messages of peers refused, by result code.",
        count=True,
    ),
    "consensus_*": labelled(
        "consensus_events_total", "event", "", "What the replica counts.", count=True
    ),
    "peer_*": labelled(
        "peer_faults_total", "reason", "", "Faults of peers on their links, by reason.", count=True
    ),
}  # fmt: skip
"""By the name of the status value."""
