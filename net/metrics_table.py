"""Which status value is which metric, by role, and every histogram: names, units, help texts.

A status value that is none (a text, or one that others give already) is named here too, so that
nothing is left out by mistake. ``docs/observability.md`` is made from these tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from net.metrics_table_trading import EXECUTION, SEQUENCER
from net.metrics_table_types import (
    FINALITY,
    LATENCY,
    NO_METRIC,
    SETTLEMENT,
    Histograms,
    Metric,
    Table,
    counter,
    gauge,
    labelled,
    millis,
)
from net.metrics_table_validator import NODE

__all__ = [
    "HISTOGRAMS",
    "PREFIX",
    "TABLES",
    "Histograms",
    "Metric",
    "exported_names",
    "find_metric",
]

PREFIX = "trilemma_"

BUILD_INFO = gauge("build_info", "Always 1; role and version of the process are its labels.")
REJECTED = Metric(
    "rejected_requests_total", "Requests of clients refused on the public port, by result code.",
    counter=True, label="code",
)  # fmt: skip
LINK_BYTES = Metric(
    "link_bytes_total",
    "Bytes carried, by direction and kind of link (public: on the own public port; peers: members "
    "of the chain; upstreams: public ports that this process has dialled).",
    counter=True, label="link",
)  # fmt: skip
LINK_FRAMES = Metric(
    "link_frames_total", "Frames carried, by kind of link and direction.",
    counter=True, label="link",
)  # fmt: skip
UNMAPPED = gauge("unmapped_values", "Status values that no metric was made of; always 0.")
DISK_FREE = gauge("disk_free_bytes", "Free bytes of the file system with the data directory.")
READY = gauge("ready", "Whether the process serves and keeps up; `/readyz` says why not.")

EVERY_PROCESS = (BUILD_INFO, REJECTED, LINK_BYTES, LINK_FRAMES, UNMAPPED, DISK_FREE, READY)

OF_THE_PROCESS = (
    ("process_cpu_seconds_total", "counter", "CPU time, user and system."),
    ("process_resident_memory_bytes", "gauge", "Resident memory."),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory."),
    ("process_start_time_seconds", "gauge", "When the process started, since 1970."),
    ("process_open_fds", "gauge", "Open file descriptors."),
    ("process_max_fds", "gauge", "Most file descriptors that may be open."),
)
"""What Linux tells of a process."""

COMMON: Table = {
    "role": NO_METRIC,
    "name": NO_METRIC,
    "uptime_s": gauge("uptime_seconds", "Seconds since the process began to serve."),
    "sessions": gauge("sessions", "Sessions on the public port."),
    "rejected": NO_METRIC,  # `rejected_requests_total` has it by code
    "throttled": counter("throttled_reads_total", "Times a client was left unread for its pace."),
}

PROVER: Table = {
    "batch": gauge("prover_batch", "Newest batch built or followed."),
    "height": gauge("prover_log_height", "Last ordered block in the newest batch."),
    "state_root": NO_METRIC,
    "waiting_blocks": gauge("prover_waiting_blocks", "Ordered blocks that are in no batch yet."),
    "settlement_lag_ms": millis(
        "settlement_lag_seconds",
        "Age of the oldest executed block with actions that is not settled; 0 for none.",
    ),
    "root_disagreements": counter(
        "root_disagreements_total", "Settled batches that contradict our own execution."
    ),
    "final_batch": gauge("prover_final_batch", "Newest batch that is final."),
    "wrong_batch": gauge(
        "prover_wrong_batch", "Settled batch that contradicts our execution, 0 for none."
    ),
    "taken_back": counter("prover_taken_back_total", "Batches that were undone again."),
    "moves_of_defence": counter("prover_moves_total", "Moves made to defend batches in disputes."),
    "settled_batches": counter("settled_batches_total", "Batches seen settled."),
    "settled_actions": counter("settled_actions_total", "Actions in batches seen settled."),
    "data_bytes": counter("settled_data_bytes_total", "Packed data of batches seen settled."),
    "leaves": gauge("prover_state_leaves", "Leaves of the state tree."),
    "tree_ms": Metric(
        "prover_tree_seconds_total", "Time spent building batches.", counter=True, parts=1000
    ),
    "store_bytes": labelled("store_bytes", "store", "batches", "Bytes on disk, by store."),
    "disagreement": Metric(
        "prover_executions_disagree",
        "Whether execution nodes contradict each other on a block; `/readyz` names them.",
        text=True,
    ),
    "execution_disagreements": counter(
        "prover_execution_disagreements_total",
        "Results of blocks of which another execution node had said something else.",
    ),
    "refusal": Metric(
        "prover_batch_refused", "Whether the ledger refuses the next batch; the log says why.",
        text=True,
    ),
}  # fmt: skip

CHALLENGER: Table = {
    "batch": gauge("challenger_batch", "Newest batch that was executed again and is right."),
    "height": gauge("challenger_log_height", "Newest ordered block executed again."),
    "final_batch": gauge("challenger_final_batch", "Newest batch both checked and final."),
    "checked_batches": counter("challenger_checked_batches_total", "Batches found right."),
    "checked_blocks": counter("challenger_checked_blocks_total", "Ordered blocks executed again."),
    "wrong_batches": counter(
        "root_disagreements_total", "Settled batches that contradict our own execution."
    ),
    "wrong": Metric(
        "challenger_batch_wrong", "Whether the next settled batch is wrong.", text=True
    ),
    "lost": Metric(
        "challenger_lost", "Whether a wrong batch became final: nothing more can be checked.",
        text=True,
    ),
    "open_dispute": gauge("challenger_open_dispute", "Whether a dispute of ours is open."),
    "last": NO_METRIC,
    "store_bytes": labelled("store_bytes", "store", "window", "Bytes on disk, by store."),
}  # fmt: skip

TABLES: dict[str, Table] = {
    "node": NODE,
    "sequencer": SEQUENCER,
    "execution": EXECUTION,
    "prover": PROVER,
    "challenger": CHALLENGER,
}
"""Status values of each role, beside those in `COMMON`."""

HISTOGRAMS: dict[str, tuple[Histograms, ...]] = {
    "": (
        Histograms(
            "loop_lag_seconds", "How late timers of the process's loop run.", LATENCY
        ),
    ),
    "node": (
        Histograms(
            "ledger_commit_seconds",
            "From the time in a ledger block's header until it is committed and durable here.",
            LATENCY,
        ),
    ),
    "sequencer": (
        Histograms(
            "accepted_to_ordered_seconds",
            "From the receipt of a batch of actions that was submitted here to its order.",
            LATENCY,
        ),
    ),
    "execution": (
        Histograms(
            "ordered_to_executed_seconds",
            "From the time in an ordered block's header until it is executed, by action.",
            LATENCY,
        ),
    ),
    "prover": (
        Histograms(
            "executed_to_settled_seconds",
            "From an executed block's arrival at the prover until it is settled, by action.",
            SETTLEMENT,
        ),
        Histograms(
            "settled_to_final_seconds", "From a batch seen settled to the same batch final.",
            FINALITY,
        ),
    ),
}  # fmt: skip
"""Histograms by role; "" for every role."""


def find_metric(role: str, key: str) -> tuple[Metric | None, str]:
    """The metric of a status value, and the value of its label; None where there is none."""
    table = TABLES.get(role, {})
    metric = table.get(key) or COMMON.get(key)
    if metric is not None:
        return metric, metric.value
    for prefix, metric in table.items():
        if prefix.endswith("*") and key.startswith(prefix[:-1]):
            return metric, key[len(prefix) - 1 :]
    return None, ""


def metrics_of(role: str) -> list[Metric]:
    """Metrics of a role that come from its status or are every process's, without repeats."""
    found = [*EVERY_PROCESS, *COMMON.values(), *TABLES[role].values()]
    return list({metric.name: metric for metric in found if metric.name}.values())


def exported_names(role: str) -> set[str]:
    """Every name that a process of the role may show, as queries know them."""
    names = {PREFIX + metric.name for metric in metrics_of(role)}
    names |= {PREFIX + name for name, _, _ in OF_THE_PROCESS}
    for spec in (*HISTOGRAMS[""], *HISTOGRAMS.get(role, ())):
        names |= {f"{PREFIX}{spec.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


@dataclass(frozen=True, slots=True)
class Row:
    """A metric as the page shows it."""

    name: str
    kind: str
    labels: str
    help: str


def rows(role: str) -> list[Row]:
    """The metrics of a role alone, by name; of every process where it is ""."""
    if role:
        shared = {metric.name for metric in (*EVERY_PROCESS, *COMMON.values())}
        metrics = [metric for metric in metrics_of(role) if metric.name not in shared]
    else:
        metrics = [metric for metric in (*EVERY_PROCESS, *COMMON.values()) if metric.name]
    found = [
        Row(PREFIX + metric.name, metric.kind, _labels(metric), metric.help) for metric in metrics
    ]
    found += [
        Row(PREFIX + spec.name, "histogram", "", spec.help) for spec in HISTOGRAMS.get(role, ())
    ]
    if not role:
        found += [Row(PREFIX + name, kind, "", text) for name, kind, text in OF_THE_PROCESS]
    return sorted(found, key=lambda row: row.name)


def _labels(metric: Metric) -> str:
    if metric is BUILD_INFO:
        return "role, version"
    return "link, direction" if metric.label == "link" else metric.label
