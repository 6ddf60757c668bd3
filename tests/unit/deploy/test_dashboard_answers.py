"""Every query of the dashboards over series that are made up: names, labels and joins fit.

Of each metric in docs/metrics.md there are series as two hosts would export them. promtool records
the rules over them and answers the queries; what real daemons give, the integration test asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.unit.deploy.dashboards import ANY, EXPORTED, filled, queries
from tests.unit.deploy.rules import PROMETHEUS
from tests.unit.deploy.test_prometheus import needs_promtool, promtool

EXPRESSIONS = sorted({query.expression for _, _, query in queries()})
WORTH_ASKING: Final = {
    "lane": ("urgent",),
    "role": ("hybrid",),
    "state": ("running", "pending"),
    "status": ("success", "error", "ready", "down"),
}
"""Values of labels that queries or rules ask for; of others one stands for all."""
BUCKETS: Final = {"0.1": 2, "1": 3, "+Inf": 4}
"""How fast each bucket's counter rises, per scrape."""
HOSTS: Final = (
    {"node": "m1", "instance": "10.0.0.1:9090", "job": "warren-manager"},
    {"node": "w1", "instance": "10.0.1.1:9090", "job": "warren-worker"},
)
SCRAPES: Final = 120
AT: Final = "25m"


def series() -> Iterator[dict[str, str]]:
    """All of both hosts, in promtool's notation."""
    for host in HOSTS:
        where = {"cluster": ANY["cluster"], **host}
        yield _one("up", where, "1x")
        for name, (kind, labels) in EXPORTED.items():
            values = [WORTH_ASKING.get(label, ("any",)) for label in sorted(labels)]
            for chosen in product(*values):
                has = where | dict(zip(sorted(labels), chosen, strict=True))
                yield from _family(name, kind, has)
    fires = {"alertname": "Any", "alertstate": "firing", "severity": "critical"}
    yield _one("ALERTS", {"cluster": ANY["cluster"], **HOSTS[0], **fires}, "1x")


def _family(name: str, kind: str, labels: dict[str, str]) -> Iterator[dict[str, str]]:
    if kind == "histogram":
        for bound, step in BUCKETS.items():
            yield _one(f"{name}_bucket", labels | {"le": bound}, f"0+{step}x")
        yield _one(f"{name}_count", labels, f"0+{BUCKETS['+Inf']}x")
        yield _one(f"{name}_sum", labels, "0+1x")
    elif kind == "counter":
        yield _one(name, labels, "0+1x")
    else:
        leads = name != "warren_raft_is_leader" or labels["node"] == "m1"
        yield _one(name, labels, f"{int(leads)}x")


def _one(name: str, labels: dict[str, str], values: str) -> dict[str, str]:
    inside = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": f"{values}{SCRAPES}"}


def _asked(folder: Path, expressions: list[str]) -> Path:
    """A file of tests in which each expression has a sample that is a number."""
    document: dict[str, Any] = {
        "rule_files": [str(PROMETHEUS / "recording.yml")],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": list(series()),
                "promql_expr_test": [
                    {
                        # What is not a number is not equal to itself.
                        "expr": f"count(({it}) == ({it})) > bool 0",
                        "eval_time": AT,
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for it in (filled(expression, ANY) for expression in expressions)
                ],
            }
        ],
    }
    path = folder / "answers.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@needs_promtool
def test_every_query_has_an_answer(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", _asked(tmp_path, EXPRESSIONS))


@needs_promtool
@pytest.mark.parametrize(
    "expression",
    [
        'warren_raft_term{cluster="another"}',
        'warren_raft_term{cluster="$cluster"} and on (instance) (warren_raft_is_leader == 2)',
        'warren_wal_segments{cluster="$cluster"} / warren_core_queue_limit{cluster="$cluster"}',
        "histogram_quantile(0.5, rate(warren_raft_commit_duration_seconds_count[1m])) * NaN",
    ],
)
def test_a_query_without_one_is_found(expression: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", _asked(tmp_path, [expression]))
