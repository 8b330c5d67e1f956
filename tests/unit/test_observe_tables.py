"""Every status value is a metric, the page names all, and alerts and panels ask for no other."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from net.metrics_page import observability_page
from net.metrics_table import (
    COMMON,
    PREFIX,
    TABLES,
    exported_names,
    find_metric,
    metrics_of,
    rows,
)

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
EVERY_NAME = set().union(*(exported_names(role) for role in TABLES))
BASE_UNITS = ("_seconds", "_bytes", "_uusd", "_total", "_seconds_total", "_bytes_total")


# --- tables


def _status_keys(path: Path) -> set[str]:
    """Names of the status values in the source of a process."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name in ("_status", "market_health"):
            for node in ast.walk(function):
                keys = node.keys if isinstance(node, ast.Dict) else []
                if isinstance(node, ast.Subscript):
                    keys = [node.slice]
                found |= {
                    key.value
                    for key in keys
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
    return found


@pytest.mark.parametrize(
    ("role", "files"),
    [
        ("node", ["node/process.py"]),
        ("sequencer", ["sequencer/process.py"]),
        ("execution", ["execution/process.py", "execution/process_health.py"]),
        ("prover", ["prover/process.py"]),
        ("challenger", ["prover/process_challenger.py"]),
    ],
)
def test_every_status_value_has_its_place_in_the_tables(role: str, files: list[str]) -> None:
    keys = set().union(*(_status_keys(ROOT / file) for file in files))
    assert len(keys) >= 10
    missing = sorted(key for key in keys if find_metric(role, key)[0] is None)
    assert not missing, f"name these in net/metrics_table*.py: {missing}"
    dead = {key for key in TABLES[role] if not key.endswith("*")} - keys
    counted = {key for key in dead if TABLES[role][key].label == "event"}
    assert dead == counted, "the table names status values that the process does not have"


def test_families_of_status_values_have_their_place_too() -> None:
    assert find_metric("node", "consensus_votes_sent")[1] == "votes_sent"
    assert find_metric("node", "peers")[1] == ""
    assert find_metric("sequencer", "peer_unknown_member")[1] == "unknown_member"
    assert find_metric("node", "rejected_busy")[0] != find_metric("node", "rejected")[0]


@pytest.mark.parametrize("role", sorted(TABLES))
def test_names_and_units_are_prometheus_own(role: str) -> None:
    for metric in metrics_of(role):
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z]", metric.name), metric
        assert metric.name.endswith("_total") == metric.counter, metric
        assert metric.help.endswith(".") and metric.help[0].isupper(), metric
        assert not re.search(r"_(ms|us|ns|kb|mb|s|pct|ppm)(_|$)", metric.name), metric
    for key, metric in {**COMMON, **TABLES[role]}.items():
        if metric.name and key.endswith(("_ms", "_s")):
            assert metric.name.endswith(("_seconds", "_seconds_total")), metric
        if metric.name and key.endswith(("_bytes", "_uusd")):
            assert metric.name.endswith(BASE_UNITS), metric


def test_the_page_is_the_present_one() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    assert page == observability_page(), "write it again: python -m net.metrics_page"
    assert all(row.name in page for role in ("", *TABLES) for row in rows(role))


# --- alerts and dashboard


def _used(expression: str) -> set[str]:
    return set(re.findall(r"\btrilemma_[a-z0-9_]+", expression))


def _rules() -> list[dict[str, object]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "trilemma.json").read_text())
    found = [str(rule["expr"]) for rule in _rules()]
    for panel in board["panels"]:
        found += [target["expr"] for target in panel.get("targets", ())]
    return found


def test_alerts_and_panels_ask_for_metrics_that_exist() -> None:
    expressions = _expressions()
    assert len(expressions) > 80
    for expression in expressions:
        unknown = _used(expression) - EVERY_NAME
        assert not unknown, (expression, unknown)
        assert _used(expression) or "up{" in expression, expression


def test_expressions_are_balanced_and_take_rates_of_counters_alone() -> None:
    gauges = {PREFIX + one.name for role in TABLES for one in metrics_of(role) if not one.counter}
    for expression in _expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression
        for name in re.findall(r"\b(?:rate|increase)\((trilemma_\w+)", expression):
            heights = name.endswith(("_height", "_batch"))  # they only grow
            assert name not in gauges or heights, expression
        for name in re.findall(r"\b(?:deriv|delta|predict_linear)\((trilemma_\w+)", expression):
            assert name in gauges, expression


def test_every_alert_says_what_and_where_to_read_on() -> None:
    names = set()
    for rule in _rules():
        names.add(rule["alert"])
        notes, labels = rule["annotations"], rule["labels"]
        assert isinstance(notes, dict) and isinstance(labels, dict)
        assert len(notes["summary"]) > 10
        assert re.fullmatch(r"docs/operations\.md#[a-z-]+", notes["runbook_url"]), rule
        assert labels["severity"] in ("warning", "critical")
    wanted = {
        "ProcessDown", "NoLedgerProgress", "NoOrdering", "SettlementLag", "RootDisagreement",
        "StaleOracle", "DiskGrowth", "OpenDispute", "ShardFrozen", "BadDebt",
    }  # fmt: skip
    assert wanted <= names


def test_alerts_lead_to_chapters_of_the_runbook() -> None:
    path = ROOT / "docs" / "operations.md"
    if not path.exists():
        pytest.skip("there is no docs/operations.md")
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings}
    for rule in _rules():
        notes = rule["annotations"]
        assert isinstance(notes, dict)
        assert str(notes["runbook_url"]).partition("#")[2] in anchors, rule["alert"]


def test_grafana_finds_its_data_source() -> None:
    sources = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    board = (DEPLOY / "grafana" / "dashboards" / "trilemma.json").read_text()
    used = {
        panel["datasource"]["uid"] for panel in json.loads(board)["panels"] if "targets" in panel
    }
    assert used == {source["uid"] for source in sources["datasources"]}
