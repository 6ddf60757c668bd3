"""Grafana's JSON of a description: the same bytes for the same description, on every machine.

The model is the classic one, which Grafana 12 and 13 import as it is and older releases nearly.
What stands here is what Grafana does not fill in by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from typing import Any, Final
from zlib import crc32

from warren.dashboards import NAMES, described
from warren.dashboards.model import COLUMNS, Dashboard, Drill, Kind, Panel, Query, Row, Variable

__all__ = ["SCHEMA_VERSION", "file_name", "made", "places", "written"]

SCHEMA_VERSION: Final = 41
"""Of Grafana's classic dashboards, as of Grafana 12."""

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_ROW_HEIGHT: Final = 1
_STATE: Final = "state"
"""The column of a table's value."""
_PALETTE: Final = {"mode": "palette-classic"}
_BY_THRESHOLD: Final = {"mode": "thresholds"}
_CLUSTER: Final = Variable("cluster", "Cluster", 'up{job=~"warren-(manager|worker)"}', False)
_FIRING: Final = 'ALERTS{cluster="$cluster", alertstate="firing"}'


def file_name(name: str) -> str:
    """What a dashboard's file is called."""
    return f"warren-{name}.json"


def written(name: str, runbooks: str = "") -> str:
    """The file of one of `NAMES`. `runbooks`: the URL under which docs/runbooks is served."""
    made_of = made(described(name), runbooks)
    return json.dumps(made_of, indent=2, ensure_ascii=False) + "\n"


def made(dashboard: Dashboard, runbooks: str = "") -> dict[str, Any]:
    """What Grafana imports. ValueError where a description cannot be laid out."""
    return {
        "id": None,
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.answers,
        "tags": ["warren"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # the cross-hair stands at the same moment in all panels
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "refresh": "30s",
        "links": [_link(described(name)) for name in NAMES if name != dashboard.name],
        "annotations": {"list": [_annotation()]},
        "templating": {"list": list(_variables(dashboard))},
        "panels": list(_panels(dashboard, runbooks)),
    }


def places(panels: Sequence[Panel], top: int) -> list[tuple[int, int]]:
    """Column and line of each panel: from left to right, under the highest where a line is full.

    ValueError where a panel has no width, no height, or is wider than the grid.
    """
    found = []
    column, line, height = 0, top, 0
    for panel in panels:
        if not 0 < panel.width <= COLUMNS or panel.height < 1:
            raise ValueError(f"panel {panel.title!r}: {panel.width} × {panel.height} cells")
        if column + panel.width > COLUMNS:
            column, line, height = 0, line + height, 0
        found.append((column, line))
        column += panel.width
        height = max(height, panel.height)
    return found


def _panels(dashboard: Dashboard, runbooks: str) -> Iterator[dict[str, Any]]:
    taken: dict[int, str] = {}
    line = 0
    for row in dashboard.rows:
        yield _heading(row, line, _identify(dashboard, row.title, taken))
        line += _ROW_HEIGHT
        spots = places(row.panels, line)
        for panel, (x, y) in zip(row.panels, spots, strict=True):
            where = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            yield _panel(panel, where, _identify(dashboard, panel.title, taken), runbooks)
            line = max(line, y + panel.height)


def _identify(dashboard: Dashboard, title: str, taken: dict[int, str]) -> int:
    """An id that stays when others come and go: links to single panels have it."""
    number = crc32(f"{dashboard.uid}/{title}".encode()) >> 1 or 1
    if number in taken:
        raise ValueError(f"{dashboard.name}: {title!r} and {taken[number]!r} need other titles")
    taken[number] = title
    return number


def _heading(row: Row, line: int, number: int) -> dict[str, Any]:
    where = {"h": _ROW_HEIGHT, "w": COLUMNS, "x": 0, "y": line}
    return {
        "id": number,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": where,
        "panels": [],
    }


def _panel(panel: Panel, where: dict[str, int], number: int, runbooks: str) -> dict[str, Any]:
    made_of: dict[str, Any] = {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": _description(panel),
        "datasource": _SOURCE,
        "gridPos": where,
        "fieldConfig": {
            "defaults": _defaults(panel, runbooks),
            "overrides": list(_overrides(panel)),
        },
        "options": _options(panel),
        "targets": [
            _target(panel, query, letter)
            for query, letter in zip(panel.queries, ascii_uppercase, strict=False)
        ],
    }
    if runbooks:
        made_of["links"] = [_page(runbooks, name) for name in panel.runbooks]
    if panel.kind is Kind.TABLE:
        made_of["transformations"] = list(_columns(panel))
    return made_of


def _description(panel: Panel) -> str:
    """The pages are named also where nobody has said under which URL they are."""
    pages = ", ".join(f"docs/runbooks/{name}.md" for name in panel.runbooks)
    return f"{panel.answers}\n\nRunbook: {pages}" if pages else panel.answers


def _target(panel: Panel, query: Query, letter: str) -> dict[str, Any]:
    now = panel.kind in (Kind.STAT, Kind.TABLE)
    return {
        "refId": letter,
        "datasource": _SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
        "instant": now,
        "range": not now,
        "format": "table" if panel.kind is Kind.TABLE else "time_series",
    }


def _defaults(panel: Panel, runbooks: str) -> dict[str, Any]:
    first = {"color": panel.below, "value": None}
    steps = [{"color": step.colour, "value": step.value} for step in panel.steps]
    graph = panel.kind is Kind.GRAPH
    made_of: dict[str, Any] = {
        "unit": panel.unit.value,
        "color": _PALETTE if graph else _BY_THRESHOLD,
        "thresholds": {"mode": "absolute", "steps": [first, *steps]},
        "mappings": _mappings(panel),
        "links": list(_links(panel, runbooks)),
        "custom": {},
    }
    if graph:
        made_of["min"] = 0
        made_of["custom"] = {
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }
    return made_of


def _overrides(panel: Panel) -> Iterator[dict[str, Any]]:
    """Of a table's columns only the value has colours: Grafana gives text the lowest one."""
    if panel.kind is Kind.TABLE and panel.words:
        yield {
            "matcher": {"id": "byName", "options": "Value"},
            "properties": [
                {"id": "displayName", "value": _STATE},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ],
        }


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.words:
        return []
    texts = {
        str(value): {"index": index, "text": text}
        for index, (value, text) in enumerate(panel.words)
    }
    return [{"type": "value", "options": texts}]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind is Kind.STAT:
        return {
            "colorMode": "background" if panel.steps else "value",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    if panel.kind is Kind.TABLE:
        worst_first = [{"displayName": _STATE, "desc": False}] if panel.words else []
        return {"cellHeight": "sm", "showHeader": True, "sortBy": worst_first}
    if panel.kind is Kind.STATES:
        return {"mergeValues": True, "showValue": "auto"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _columns(panel: Panel) -> Iterator[dict[str, Any]]:
    """Only what the panel names, in its order; then the value, where it means anything."""
    shown = [*panel.labels, "Value"] if panel.words else list(panel.labels)
    yield {"id": "filterFieldsByName", "options": {"include": {"names": shown}}}
    yield {
        "id": "organize",
        "options": {"indexByName": {name: index for index, name in enumerate(shown)}},
    }


def _page(runbooks: str, name: str) -> dict[str, Any]:
    return {
        "title": f"Runbook {name}",
        "url": f"{runbooks.rstrip('/')}/{name}.md",
        "targetBlank": True,
    }


def _links(panel: Panel, runbooks: str) -> Iterator[dict[str, Any]]:
    """Where a click on one of the panel's values leads."""
    if panel.drill:
        yield _drill(panel.drill, panel.kind)
    if runbooks and "alertname" in panel.labels:
        yield _page(runbooks, "${__data.fields.alertname}")


def _drill(drill: Drill, kind: Kind) -> dict[str, Any]:
    """The choices go along, and the moment that one looks at."""
    found = "__data.fields" if kind is Kind.TABLE else "__field.labels"
    return {
        "title": f"{described(drill.dashboard).title}: ${{{found}.{drill.label}}}",
        "url": (
            f"/d/{described(drill.dashboard).uid}?${{datasource:queryparam}}&${{cluster:queryparam}}"
            f"&var-{drill.label}=${{{found}.{drill.label}}}&${{__url_time_range}}"
        ),
        "targetBlank": False,
    }


def _link(other: Dashboard) -> dict[str, Any]:
    return {
        "type": "link",
        "title": other.name.capitalize(),
        "tooltip": other.answers,
        "url": f"/d/{other.uid}",
        "icon": "dashboard",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _annotation() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": _FIRING,
        "titleFormat": "{{alertname}}",
        "textFormat": "{{node}}",
        "step": "60s",
        "target": {"refId": "Alerts", "expr": _FIRING},
    }


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
        "current": {},
    }
    for variable in (_CLUSTER, *dashboard.variables):
        yield _variable(variable)


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.selector}, {variable.name})"
    every: dict[str, Any] = {"text": ["All"], "value": ["$__all"]}
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.title,
        "datasource": _SOURCE,
        "definition": query,
        "query": {"qryType": 1, "query": query, "refId": "variable"},
        "refresh": 2,  # whenever the time range changes: what is gone is still there in the past
        "sort": 7,  # m2 before m10
        "hide": 0,
        "multi": variable.several,
        "includeAll": variable.several,
        **({"allValue": ".+"} if variable.several else {}),
        "options": [],
        "current": every if variable.several else {},
    }
