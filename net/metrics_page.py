"""``docs/observability.md``, made from the tables of metrics: ``python -m net.metrics_page``."""

from __future__ import annotations

from net.metrics_table import rows

ROLES = {
    "": "Every process",
    "node": "Validators",
    "sequencer": "Sequencers",
    "execution": "Execution nodes",
    "prover": "Provers",
    "challenger": "Challengers",
}
"""Headings of the tables, by role."""

_INTRODUCTION = """\
# Observability

Every process serves three pages over HTTP at the address `observe` of its configuration (a testnet
sets one for each process; without it nothing is served). The port answers anybody who reaches it:
bind it to an address of your own network. At most 64 connections stand at once, and one without a
complete request for 30 s is closed.

| page | answer |
| --- | --- |
| `GET /metrics` | metrics in Prometheus' text format |
| `GET /healthz` | 200 while the process's loop runs; no answer within a few seconds: restart it |
| `GET /readyz` | 200 while the process serves and keeps up, else 503 and a sentence why not |

`deploy/prometheus` has a configuration for Prometheus (targets in `targets/*.json`) and alert
rules, each with a link into [operations.md](operations.md); `deploy/grafana` has a data source and
a dashboard. `trilemma status --watch` shows the same cluster on a terminal. A testnet on one
machine comes with its own list of targets, in `prometheus.json`:

```sh
cp -r deploy/prometheus watch
cp .trilemma/testnet/prometheus.json watch/targets/compose.json
prometheus --config.file=watch/prometheus.yml --web.listen-address=127.0.0.1:9090
```

What each rule makes of a healthy and of a broken cluster is tested with Prometheus' own tool:
`promtool test rules deploy/prometheus/tests/*.yml`.

## Ready, or why not

A process that is not ready still answers reads: not ready means that it does not do its part.

| role | sentence |
| --- | --- |
| validator | `catching up: N ledger blocks are missing after H` |
| validator | `no quorum: N of M validators are connected` |
| validator | `no quorum: N timeouts since block H of the ledger blocks` |
| validator | `no ledger block for N s` |
| validator | `not validating: its key is not among the members of epoch E` |
| validator | `not validating: it was restored from a backup, and needs a new key` |
| sequencer | `not taking part: it was restored from a backup, and its key must not sign` |
| sequencer | `not taking part: the base layer has not told yet how far the log is settled` |
| sequencer | `catching up: the log is settled up to block N, and ends here at block M` |
| sequencer | `catching up: ...` and `no quorum: ...`, as validators |
| sequencer, execution | `nothing was heard of the base layer for N s`; after a start: `... yet` |
| execution | `behind the ordered log at block H, which was executed N s after its order` |
| execution | `behind the ordered log at block H: N blocks wait` |
| execution | `behind the ordered log at block H: the base layer is not known up to height L` |
| execution | `the ordered log does not go on behind block N: ...`: what is sent does not follow |
| execution | `nothing was heard of the ordered log for N s`, or `... yet`: no sequencer answers |
| prover | `settlement lags: an executed block has waited for N s` |
| prover | `the ledger refuses batch B: ...` |
| prover | `settled batch B contradicts our execution; waiting for its removal` |
| challenger | `batch B is final and wrong: ...` |
| every one | `the process is stopping: something of its own broke` |

The metric `trilemma_ready` is 0 for as long as the process is not ready. A prover that hears
execution nodes contradict each other goes on; its note behind the `ok` names them, and so do a
metric, an alert and `trilemma status`.

A frozen shard is no reason to turn users away, since they need the way out: its validators are
ready, with a note behind the `ok`. The metric `trilemma_shard_frozen` and an alert say so too.

## Logs

Processes log to stderr: one line for each notable event, as JSON where the configuration says
`log_json = true` (containers), else readable on a terminal. Every line has `timestamp`, `level`,
`event`, `node` (the process's name) and `role`, and, as far as the process knows them, `height`,
`view` and `batch` of where it stands. Of one event at most 20 lines are written in 10 s; the next
one says in `suppressed` how many were left out. Keys, signatures and session challenges are never
logged.

## Metrics

All names begin with `trilemma_`. Times are in seconds, sizes in bytes, money in micro-dollars
(`_uusd`); counters end with `_total`, and most start anew with the process: what tells is their
growth. No label holds an id: no account, order, market or hash.
"""


def observability_page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for role, heading in ROLES.items():
        parts.append(f"\n### {heading}\n\n| metric | kind | labels | meaning |\n")
        parts.append("| --- | --- | --- | --- |\n")
        for row in rows(role):
            labels = f"`{row.labels}`" if row.labels else ""
            parts.append(f"| `{row.name}` | {row.kind} | {labels} | {row.help} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(observability_page(), end="")
