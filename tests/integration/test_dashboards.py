"""Every query of the dashboards, asked of a real Prometheus that watches a real cluster."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hosts import Host, leader_of, three_managers
from tests.support.node import FOREVER, eventually
from tests.support.prometheus import Prometheus, Targets
from tests.unit.deploy.dashboards import DASHBOARDS, filled, legend_labels, queries
from warren.dashboards.model import Query

Made = Callable[..., Host]
Watch = Callable[[Targets], Prometheus]

CLUSTER = "test.example"
CHOICES = {"cluster": CLUSTER, "node": ".+", "service": ".+"}
RANGE = "10s"
"""As the rules have it here: see `Prometheus`."""
ANSWERS_DEADLINE_S = 120.0
NOWHERE = "--constraint=node.labels.zone==nowhere"


@pytest.mark.timeout(300)
def test_every_query_finds_something_and_what_its_legend_shows(
    hosts: Made, watch: Watch, tiny_image: Path
) -> None:
    managers = three_managers(hosts)
    worker = hosts(4, manager=False)
    worker.join(managers[0].api, manager=False)
    worker.wait_ready()
    every = [*managers, worker]
    for host in every:
        host.ctl("image", "load", "-i", str(tiny_image))
    leader = leader_of(managers)
    leader.ctl("service", "create", "web", "--image=tiny:1", "--replicas=4", *FOREVER)
    leader.ctl("service", "create", "crashes", "--image=tiny:1", "--detach", "--", "false")
    leader.ctl("service", "create", "lost", "--image=tiny:1", NOWHERE, "--detach")
    prometheus = watch(
        {
            "managers": {f"node-{it.number}": f"127.0.0.1:{it.metrics_port}" for it in managers},
            "workers": {"node-4": f"127.0.0.1:{worker.metrics_port}"},
        }
    )
    open_ = {
        f"{dashboard.name}: {panel.title}: {query.expression}": query
        for dashboard, panel, query in queries()
    }

    def all_are_answered() -> bool:
        # Latencies are of the last ten seconds: something has to happen in them.
        _deploy_and_remove(leader)
        for name, query in list(open_.items()):
            if _answers(prometheus, query):
                del open_[name]
        return not open_

    try:
        eventually(all_are_answered, "every query is answered", ANSWERS_DEADLINE_S)
    except AssertionError:
        pytest.fail(f"without a number: {sorted(open_)}")
    _offers_what_there_is(prometheus)
    (spare,) = prometheus.query(filled(_expression("Managers that may still be lost"), CHOICES))
    assert float(spare["value"][1]) == 1
    one = {**CHOICES, "node": "node-2|node-4"}
    (gone,) = prometheus.query(filled(_expression("Hosts that do not answer"), one))
    assert float(gone["value"][1]) == 0
    worker.kill()
    eventually(
        lambda: _values(prometheus, _expression("Hosts that do not answer"), one) == [1],
        "the dashboard shows who is gone",
    )


def _deploy_and_remove(leader: Host) -> None:
    leader.ctl("service", "create", "passing", "--image=tiny:1", *FOREVER)
    leader.ctl("service", "scale", "passing=2")
    leader.ctl("service", "rm", "passing")
    leader.refused("service", "inspect", "absent")


def _answers(prometheus: Prometheus, query: Query) -> bool:
    """Whether there are series, all with the legend's labels, and a number among them."""
    samples = prometheus.query(filled(query.expression, CHOICES, RANGE))
    for sample in samples:
        assert legend_labels(query) <= sample["metric"].keys(), query
    return any(not math.isnan(float(sample["value"][1])) for sample in samples)


def _values(prometheus: Prometheus, expression: str, choices: dict[str, str]) -> list[float]:
    samples = prometheus.query(filled(expression, choices, RANGE))
    return [float(sample["value"][1]) for sample in samples]


def _expression(title: str) -> str:
    (found,) = {query.expression for _, panel, query in queries() if panel.title == title}
    return found


def _offers_what_there_is(prometheus: Prometheus) -> None:
    """What Grafana asks for the choices of each variable."""
    offered = {}
    for dashboard in DASHBOARDS.values():
        for variable in dashboard.variables:
            which = {"match[]": filled(variable.selector, CHOICES)}
            found = prometheus.ask(f"label/{variable.name}/values", **which)
            offered[dashboard.name, variable.name] = set(found)
    managers = {"node-1", "node-2", "node-3"}
    assert offered["managers", "node"] == managers
    assert offered["workers", "node"] == managers | {"node-4"}
    assert offered["services", "service"] >= {"web"}
