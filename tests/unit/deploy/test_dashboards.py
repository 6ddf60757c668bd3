"""The dashboards: their files are what the description gives, and ask for what is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.unit.deploy import grafana_schema
from tests.unit.deploy.dashboards import (
    ANY,
    DASHBOARDS,
    FILES,
    filled,
    kept,
    labels_of,
    legend_labels,
    queries,
    selectors,
    series_of,
)
from tests.unit.deploy.rules import ALERTS, PROMETHEUS
from tests.unit.deploy.test_prometheus import needs_promtool, promtool
from warren import rpc
from warren.dashboards import NAMES
from warren.dashboards.grafana import file_name, made, places, written
from warren.dashboards.model import Dashboard, Kind, Panel, Query, Row

ALL = list(queries())
EXPRESSIONS = sorted({query.expression for _, _, query in ALL})
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS.values() for panel in dashboard.panels]
PANEL_IDS = [f"{dashboard.name}/{panel.title}" for dashboard, panel in PANELS]


def panel(title: str, width: int = 8, height: int = 8) -> Panel:
    return Panel(
        title=title, answers="One.", queries=(Query("up", ""),), width=width, height=height
    )


def one_of(*panels: Panel) -> Dashboard:
    return Dashboard(name="x", title="X", answers="One.", rows=(Row("Row", panels),))


# -- the files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_what_the_description_gives(name: str) -> None:
    assert (FILES / file_name(name)).read_text() == written(name), (
        "run `warrenctl dashboard export --output deploy/grafana`"
    )


def test_there_is_no_other_file() -> None:
    assert {path.name for path in FILES.glob("*.json")} == {file_name(name) for name in NAMES}


@pytest.mark.parametrize("runbooks", ["", "https://wiki.example/runbooks/"])
@pytest.mark.parametrize("name", NAMES)
def test_grafana_can_read_it(name: str, runbooks: str) -> None:
    dashboard = grafana_schema.read(written(name, runbooks))
    assert dashboard.uid == f"warren-{name}"
    asked = [panel for panel in dashboard.panels if not isinstance(panel, grafana_schema.Heading)]
    assert [panel.title for panel in asked] == [panel.title for panel in DASHBOARDS[name].panels]


Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: it.pop("uid"),
        lambda it: it.update(uid="Über"),
        lambda it: it.update(schemaVersion=16),
        lambda it: it.update(rows=[]),
        lambda it: it["panels"][1].pop("title"),
        lambda it: it["panels"][1].update(type="graph"),
        lambda it: it["panels"][1]["targets"][0].pop("expr"),
        lambda it: it["panels"][1]["targets"][0].update(refId=""),
        lambda it: it["panels"][1]["targets"][0].update(range=True),
        lambda it: it["panels"][1]["targets"].append(it["panels"][1]["targets"][0]),
        lambda it: it["panels"][1]["gridPos"].update(w=25),
        lambda it: it["panels"][1].update(gridPos=it["panels"][2]["gridPos"]),
        lambda it: it["panels"][1].update(id=it["panels"][2]["id"]),
        lambda it: it["panels"][1]["fieldConfig"]["defaults"].update(unit="seconds"),
        lambda it: it["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["steps"].reverse(),
        lambda it: it["templating"]["list"].append(it["templating"]["list"][1]),
        lambda it: it["templating"]["list"][1]["query"].update(query="cluster"),
    ],
)
def test_the_schema_finds_what_is_wrong(spoil: Spoil) -> None:
    document = json.loads(written("cluster"))
    spoil(document)
    with pytest.raises((msgspec.ValidationError, AssertionError)):
        grafana_schema.read(json.dumps(document))


def test_grafana_is_told_how_often_is_scraped_and_where_the_files_are() -> None:
    provisioning = FILES / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "warren.yml").read_text())[
        "datasources"
    ]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "warren.yml").read_text())[
        "providers"
    ]
    page = (FILES.parents[1] / "docs" / "observability.md").read_text()
    assert f"--output {provider['options']['path']}" in page
    assert source["url"].removeprefix("http://") in page


# -- layout and ids --------------------------------------------------------------------------


def test_panels_stand_side_by_side_and_go_on_under_the_highest() -> None:
    row = [panel("a", 12, 4), panel("b", 8, 6), panel("c", 8, 4), panel("d", 24, 2)]
    assert places(row, 3) == [(0, 3), (12, 3), (0, 9), (0, 13)]


@pytest.mark.parametrize("wrong", [panel("a", 25), panel("a", 0), panel("a", 8, 0)])
def test_what_has_no_place_is_refused(wrong: Panel) -> None:
    with pytest.raises(ValueError, match="'a'"):
        places([wrong], 0)


def test_a_panel_keeps_its_id_when_others_come_before_it() -> None:
    alone = made(one_of(panel("a")))["panels"]
    both = made(one_of(panel("new"), panel("a")))["panels"]
    assert alone[1]["id"] == both[2]["id"]
    assert alone[1]["gridPos"] != both[2]["gridPos"]


def test_two_panels_of_one_title_are_refused() -> None:
    with pytest.raises(ValueError, match="other titles"):
        made(one_of(panel("a"), panel("a")))


# -- what they ask ---------------------------------------------------------------------------


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_name_and_label_exists(expression: str) -> None:
    names = series_of(expression)
    assert names
    known = set().union(*(labels_of(name) for name in names))
    for name, asked in selectors(expression):
        assert name in names
        assert asked <= labels_of(name)
        assert "cluster" in asked, f"{name} of all clusters together"
    for labels in kept(expression):
        assert labels <= known


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (le) (rate(a_bucket{b="c", d=~"$e"}[$__rate_interval]))', {"a_bucket"}),
        ('(x:y:z{a="{or}"} and on (cluster) (b == 1)) or vector(0)', {"x:y:z", "b"}),
        ("topk(10, max by (node) (a / b)) - 1e3", {"a", "b"}),
    ],
)
def test_names_are_found(expression: str, names: set[str]) -> None:
    assert series_of(expression) == names


@pytest.mark.parametrize(
    "name",
    [
        "warren_raft_is_leaders",
        "warren_raft_term_total",
        "warren_scheduling_latency_seconds",
        "cluster:nothing:p99",
    ],
)
def test_names_that_nobody_makes_are_found(name: str) -> None:
    with pytest.raises(KeyError):
        labels_of(name)


@needs_promtool
def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", _rules(tmp_path, EXPRESSIONS))


@needs_promtool
def test_promtool_would_say_no(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="could not parse expression"):
        promtool("check", "rules", _rules(tmp_path, ["sum by (node) (up"]))


def _rules(folder: Path, expressions: list[str]) -> Path:
    """A file of recording rules, because expressions alone are not checked."""
    rules = [
        {"record": f"checked:expression:number{number}", "expr": filled(expression, ANY)}
        for number, expression in enumerate(expressions)
    ]
    path = folder / "expressions.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}))
    return path


@pytest.mark.parametrize(
    ("dashboard", "query"),
    [(dashboard, query) for dashboard, _, query in ALL],
    ids=[f"{dashboard.name}/{panel.title}/{query.legend}" for dashboard, panel, query in ALL],
)
def test_a_query_heeds_what_is_chosen_and_a_legend_takes_labels_that_are_left(
    dashboard: Dashboard, query: Query
) -> None:
    chosen = {"cluster", *(variable.name for variable in dashboard.variables)}
    used = set(re.findall(r"\$([a-z]\w*)", query.expression))
    assert "cluster" in used
    assert used <= chosen
    left = kept(query.expression)[0] if " by (" in query.expression else None
    if left is None:
        left = set().union(*(labels_of(name) for name in series_of(query.expression)))
    assert legend_labels(query) <= left


def test_streams_and_the_daemons_own_pings_are_left_out_of_latencies() -> None:
    streams = {name for name, method in rpc.MANAGER.items() if method.server_streaming}
    found = [
        set(left_out.split("|"))
        for expression in EXPRESSIONS
        for left_out in re.findall(r'method!~"([^"]+)"', expression)
    ]
    assert found
    assert all(left_out == streams | {"Ping"} for left_out in found)
    bare = [
        expression
        for expression in EXPRESSIONS
        if "warren_api_request_duration_seconds_bucket" in expression and "!~" not in expression
    ]
    assert bare == []


def test_the_daemons_own_pings_are_left_out_of_requests() -> None:
    found = [each for each in EXPRESSIONS if "warren_api_requests_total" in each]
    assert found
    assert [each for each in found if 'method!="Ping"' not in each] == []


# -- what they tell --------------------------------------------------------------------------


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=PANEL_IDS)
def test_a_panel_says_what_it_answers(dashboard: Dashboard, panel: Panel) -> None:
    assert re.fullmatch(r"[A-Z][^.]+\.", panel.answers), "one sentence"
    assert len(panel.queries) <= 3
    if panel.kind is Kind.TABLE:
        assert panel.labels
        known = set().union(*(labels_of(name) for name in series_of(panel.queries[0].expression)))
        assert set(panel.labels) <= known
    else:
        assert all(query.legend for query in panel.queries)


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=PANEL_IDS)
def test_a_panel_turns_red_where_its_alert_fires(dashboard: Dashboard, panel: Panel) -> None:
    assert set(panel.runbooks) <= ALERTS.keys()
    limits = {
        float(number)
        for name in panel.runbooks
        for number in re.findall(r"[<>]=? (\d[\d.]*)", ALERTS[name]["expr"])
    }
    # A count of what must not be is red from one on, and so is a missing leader.
    assert {step.value for step in panel.steps} <= limits | {0.0, 1.0}


def test_every_runbook_is_named_somewhere() -> None:
    assert {name for _, panel in PANELS for name in panel.runbooks} == ALERTS.keys()


def test_runbooks_are_linked_where_their_url_is_known() -> None:
    page = "https://wiki.example/runbooks"
    for name in NAMES:
        document = json.loads(written(name, page + "/"))
        for shown, asked in zip(
            [panel for panel in document["panels"] if panel["type"] != "row"],
            DASHBOARDS[name].panels,
            strict=True,
        ):
            assert [link["url"] for link in shown["links"]] == [
                f"{page}/{runbook}.md" for runbook in asked.runbooks
            ]
    assert page not in written("cluster")
    assert f"{page}/${{__data.fields.alertname}}.md" in written("cluster", page)


def test_one_gets_from_each_to_all_others_and_clicks_lead_down() -> None:
    for name in NAMES:
        links = {link["url"] for link in json.loads(written(name))["links"]}
        assert links == {f"/d/warren-{other}" for other in NAMES if other != name}
    steps = {(dashboard.name, panel.drill.dashboard) for dashboard, panel in PANELS if panel.drill}
    assert steps >= {
        ("cluster", "managers"),
        ("cluster", "workers"),
        ("managers", "workers"),
        ("workers", "services"),
    }


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=PANEL_IDS)
def test_a_click_leads_to_a_choice_that_is_there(dashboard: Dashboard, panel: Panel) -> None:
    if panel.drill is None:
        return
    there = DASHBOARDS[panel.drill.dashboard]
    assert panel.drill.label in {variable.name for variable in there.variables}
    if panel.kind is Kind.TABLE:
        assert panel.drill.label in panel.labels
    else:
        assert all(panel.drill.label in legend_labels(query) for query in panel.queries)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_variables_take_their_values_from_labels_that_are_there(dashboard: Dashboard) -> None:
    for variable in dashboard.variables:
        (name,) = series_of(variable.selector)
        assert variable.name in labels_of(name)
        ((_, asked),) = selectors(variable.selector)
        assert asked <= labels_of(name)
