"""Status values of sequencers and execution nodes as metrics."""

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
        "sequencer_events_total", "event", name, "What the sequencer counts beside consensus.",
        count=True,
    )  # fmt: skip


SEQUENCER: Table = {
    "height": gauge("log_height", "Newest ordered block."),
    "view": gauge("log_view", "Current view of the sequencers' consensus."),
    "pool": gauge("pool_batches", "Accepted batches that are not ordered yet."),
    "pool_bytes": gauge("pool_bytes", "Their size."),
    "accepted_batches": counter("accepted_batches_total", "Batches taken into the pool."),
    "accepted_actions": counter("accepted_actions_total", "Actions taken into the pool."),
    "ordered_batches": counter("ordered_batches_total", "Batches ordered."),
    "ordered_actions": counter(
        "ordered_actions_total", "Actions ordered that this sequencer had in its pool."
    ),
    "on_disconnect_held": gauge("on_disconnect_batches", "Batches kept for a disconnect."),
    "on_disconnect_submitted": counter(
        "on_disconnect_submitted_total", "Batches submitted for sessions that ended."
    ),
    "ledger_height": gauge("sequencer_ledger_height", "Ledger height that may be named in blocks."),
    "inbox_height": gauge("sequencer_inbox_height", "Ledger height named in ordered blocks."),
    "inbox_cursor": gauge("sequencer_inbox_cursor", "Inbox entries taken into ordered blocks."),
    "store_bytes": labelled("store_bytes", "store", "log", "Bytes on disk, by store."),
    "members": gauge("sequencer_members", "Sequencers of the chain."),
    "peers": gauge("peers", "Members of the own chain that can be sent to now."),
    "certificate_end_s": CERTIFICATE_END,
    "leader": NO_METRIC,
    "evidence": gauge(
        "sequencer_evidence", "Sequencers against which evidence of a double signature is kept."
    ),
    "proposals_held": _event("proposals_held"),
    "batches_passed_again": _event("batches_passed_again"),
    "passed_refused_*": labelled(
        "passed_refused_total", "code", "",
        "Batches refused that another sequencer passed on, by result code.", count=True,
    ),
    "consensus_*": labelled(
        "consensus_events_total", "event", "", "What the replica counts.", count=True
    ),
    "peer_*": labelled(
        "peer_faults_total", "reason", "", "Faults of peers on their links, by reason.", count=True
    ),
}  # fmt: skip

EXECUTION: Table = {
    "height": gauge("execution_height", "Newest executed block."),
    "ordered_height": gauge("execution_log_height", "Newest ordered block received."),
    "log_silence_ms": millis(
        "execution_log_silence_seconds",
        "Time since any sequencer has said something, were it that there is no new block.",
    ),
    "log_refused": counter(
        "execution_log_refused_total",
        "Times that a sequencer sent what does not verify, or does not follow the log.",
    ),
    "time_ms": millis(
        "execution_block_timestamp_seconds", "Time in the newest executed block's header."
    ),
    "next_seq": NO_METRIC,  # at a start it goes back to the snapshot's
    "inbox_cursor": gauge("execution_inbox_cursor", "Inbox entries executed."),
    "executed_batches": counter("executed_batches_total", "Batches executed."),
    "executed_actions": counter("executed_actions_total", "Actions executed."),
    "liquidation_receipts": NO_METRIC,  # all since genesis, where a counter has what is new
    "executed_events": counter(
        "events_total", "Events of blocks executed here for the first time."
    ),
    "executed_fills": counter("fills_total", "Fills in blocks executed here for the first time."),
    "executed_liquidations": counter(
        "liquidations_total",
        "Receipts of liquidations, every part taken over, in blocks executed here for the first "
        "time.",
    ),
    "busy_ms": Metric(
        "execution_busy_seconds_total", "Time spent executing blocks.", counter=True, parts=1000
    ),
    "leaves": gauge("state_leaves", "Leaves of the shard's state."),
    "store_bytes": NO_METRIC,  # the sum of the next three
    "history_bytes": labelled("store_bytes", "store", "history", "Bytes on disk, by store."),
    "liquidations_bytes": labelled(
        "store_bytes", "store", "liquidations", "Bytes on disk, by store."
    ),
    "snapshots_bytes": labelled("store_bytes", "store", "snapshots", "Bytes on disk, by store."),
    "money_conserved": gauge(
        "money_conserved", "Whether cash is exactly deposits less withdrawals."
    ),
    "markets": gauge("markets", "Markets of the shard."),
    "stale_markets": gauge("stale_markets", "Markets whose prices are stale or wild."),
    "accounts": gauge("accounts", "Accounts, those of the system included."),
    "accounts_below_maintenance": gauge(
        "accounts_below_maintenance", "Accounts below maintenance margin."
    ),
    "resting_orders": gauge("resting_orders", "Orders that rest in the books."),
    "waiting_triggers": gauge("waiting_triggers", "Trigger orders that wait."),
    "open_interest_uusd": gauge(
        "open_interest_uusd", "Value at the mark of all long positions together."
    ),
    "insurance_uusd": gauge("insurance_uusd", "Cash of the insurance fund, 0 where it owes."),
    "backstop_uusd": gauge("backstop_uusd", "Cash of the backstop, which may be below 0."),
    "bad_debt_uusd": gauge("bad_debt_uusd", "Bad debt that is open: what the fund owes."),
    "fees_uusd": gauge("fees_uusd", "Cash of the fee account."),
}  # fmt: skip
