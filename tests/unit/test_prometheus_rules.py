"""Each alert fires where it should and nowhere else, as Prometheus itself judges the rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
TESTS = sorted((FOLDER / "tests").glob("*.yml"))
CONFIGURATIONS = ("prometheus.yml", "kubernetes.yml")


def _promtool(*arguments: str | Path) -> None:
    """Run it; fails with what it prints."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool here; Debian has it in its package prometheus")
    done = subprocess.run(
        [program, *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _groups() -> dict[str, list[str]]:
    """Alerts by the name of their group."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {group["name"]: [rule["alert"] for rule in group["rules"]] for group in groups}


def _cases() -> dict[str, dict[str, dict[str, Any]]]:
    """Tests of the rules by their name, by the name of their file."""
    return {
        path.stem: {one["name"]: one for one in yaml.safe_load(path.read_text())["tests"]}
        for path in TESTS
    }


def test_prometheus_takes_configuration_and_rules() -> None:
    _promtool("check", "config", "prometheus.yml")
    _promtool("check", "rules", "alerts.yml")


def test_prometheus_takes_the_configuration_for_kubernetes(tmp_path: Path) -> None:
    """All but the discovery itself, which Debian leaves out of its build."""
    config = yaml.safe_load((FOLDER / "kubernetes.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs")[0]["role"] == "pod"
    config["rule_files"] = [str(FOLDER / "alerts.yml")]
    path = tmp_path / "kubernetes.yml"
    path.write_text(yaml.safe_dump(config))
    _promtool("check", "config", path)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_is_scraped_has_the_labels_that_rules_ask_for(name: str) -> None:
    config = yaml.safe_load((FOLDER / name).read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "trilemma" and config["rule_files"] == ["alerts.yml"]
    assert "process" in [rule.get("target_label") for rule in job["relabel_configs"]]
    # Rates over 30 s, as on the dashboard, need several scrapes.
    assert config["global"]["scrape_interval"] == "5s"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_fire_and_are_silent_as_they_should(path: Path) -> None:
    _promtool("test", "rules", path)


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    groups, cases = _groups(), _cases()
    assert set(cases) == set(groups)
    for group, alerts in groups.items():
        names = {f"{alert} {what}" for alert in alerts for what in ("fires", "is silent")}
        assert set(cases[group]) == names, group
        for name, case in cases[group].items():
            alert, _, what = name.partition(" ")
            moments = case["alert_rule_test"]
            assert {one["alertname"] for one in moments} == {alert}, name
            fired = [bool(one.get("exp_alerts")) for one in moments]
            # Silent first, then firing: the threshold is crossed within the test.
            assert fired == ([False, True] if what == "fires" else [False, False]), name
