"""The rules for Prometheus: promtool's verdict, and that none of them is without a test."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.rules import ALERTS, PROMETHEUS, RECORDS, recorded
from warren import rpc

TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def groups() -> Iterator[dict[str, Any]]:
    for path in TESTS:
        yield from yaml.safe_load(path.read_text())["tests"]


def seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def looks(alert: str) -> list[list[bool]]:
    """For each group that looks at an alert: whether it fires, look by look."""
    found = []
    for group in groups():
        of = [test for test in group.get("alert_rule_test", ()) if test["alertname"] == alert]
        of.sort(key=lambda test: seconds(test["eval_time"]))
        if of:
            found.append([bool(test["exp_alerts"]) for test in of])
    return found


@needs_promtool
def test_the_configuration_is_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_as_their_tests_say(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


@needs_promtool
def test_promtool_would_say_no(tmp_path: Path) -> None:
    # The rules' tests are worth what promtool's exit code is: an alert that never fires fails them.
    for name in ("alerts.yml", "recording.yml"):
        text = (PROMETHEUS / name).read_text()
        (tmp_path / name).write_text(text.replace("(warren_raft_is_leader == 1)\n", "up < 0\n"))
    (tmp_path / "tests").mkdir()
    shutil.copy(PROMETHEUS / "tests" / "members.yml", tmp_path / "tests")
    with pytest.raises(AssertionError, match="WarrenNoLeader"):
        promtool("test", "rules", tmp_path / "tests" / "members.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_seen_to_fire_to_clear_and_to_stay_silent(alert: str) -> None:
    seen = looks(alert)
    ends = [pair for look in seen for pair in pairwise(look)]
    assert (False, True) in ends, "no test sees it begin"
    assert (True, False) in ends, "no test sees it clear"
    assert any(not any(look) for look in seen), "no test sees it stay silent throughout"


@pytest.mark.parametrize("record", RECORDS)
def test_a_recorded_name_has_a_test(record: str) -> None:
    expressions = {
        test["expr"]
        for group in groups()
        for test in group.get("promql_expr_test", ())
        if test["exp_samples"]
    }
    assert record in expressions


def test_recorded_names_are_recorded() -> None:
    read = set().union(*(recorded(rule["expr"]) for rule in [*ALERTS.values(), *RECORDS.values()]))
    assert read <= RECORDS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is_and_how_urgent(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "$labels." in rule["annotations"]["summary"], "it does not say where"
    assert rule["annotations"]["description"].endswith(".")


def test_streams_are_left_out_of_latencies() -> None:
    (left_out,) = re.findall(r'method!~"([^"]+)"', (PROMETHEUS / "recording.yml").read_text())
    streams = {name for name, method in rpc.MANAGER.items() if method.server_streaming}
    assert set(left_out.split("|")) == streams


def test_targets_say_cluster_and_node() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        (files,) = job["file_sd_configs"]
        for file in files["files"]:
            targets = yaml.safe_load((PROMETHEUS / file).read_text())
            assert targets
            for entry in targets:
                assert len(entry["targets"]) == 1, "a node's label is one target's"
                assert set(entry["labels"]) == {"cluster", "node"}
