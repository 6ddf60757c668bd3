"""What Grafana needs of a dashboard's file, as types; what they do not name may not be there.

Held against the types that Grafana publishes (`@grafana/schema` 13.2.3, fields that have defaults
left out): those know no `definition` of variables and no `refId` of an annotation's target, which
Grafana itself writes into what it exports.
"""

# ruff: noqa: N815 - the names of fields are Grafana's
from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Words = Annotated[str, Meta(min_length=1)]
Cells = Annotated[int, Meta(ge=0)]


class Source(Struct, forbid_unknown_fields=True):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Place(Struct, forbid_unknown_fields=True):
    h: Annotated[int, Meta(ge=1)]
    w: Annotated[int, Meta(ge=1, le=24)]
    x: Annotated[int, Meta(ge=0, le=23)]
    y: Cells


class Target(Struct, forbid_unknown_fields=True):
    refId: Annotated[str, Meta(pattern="^[A-Z]$")]
    datasource: Source
    expr: Words
    legendFormat: str
    instant: bool
    range: bool
    format: Literal["table", "time_series"]


class Link(Struct, forbid_unknown_fields=True):
    title: Words
    url: Annotated[str, Meta(pattern="^(/d/|https?://)")]
    targetBlank: bool


class Threshold(Struct, forbid_unknown_fields=True):
    color: Literal["green", "orange", "red", "text"]
    value: float | None


class Thresholds(Struct, forbid_unknown_fields=True):
    mode: Literal["absolute"]
    steps: Annotated[list[Threshold], Meta(min_length=1)]


class Defaults(Struct, forbid_unknown_fields=True):
    unit: Literal["bytes", "binBps", "short", "ops", "percentunit", "reqps", "s"]
    color: dict[str, str]
    thresholds: Thresholds
    mappings: list[dict[str, Any]]
    links: list[Link]
    custom: dict[str, Any]
    min: int | None = None


class FieldConfig(Struct, forbid_unknown_fields=True):
    defaults: Defaults
    overrides: list[dict[str, Any]]


class Transformation(Struct, forbid_unknown_fields=True):
    id: Literal["filterFieldsByName", "organize"]
    options: dict[str, Any]


class Heading(Struct, forbid_unknown_fields=True, tag_field="type", tag="row"):
    id: Annotated[int, Meta(ge=1, lt=1 << 31)]
    title: Words
    collapsed: Literal[False]
    gridPos: Place
    panels: Annotated[list[Any], Meta(max_length=0)]


class Panel(Struct, forbid_unknown_fields=True, kw_only=True):
    id: Annotated[int, Meta(ge=1, lt=1 << 31)]
    title: Words
    description: Words
    datasource: Source
    gridPos: Place
    fieldConfig: FieldConfig
    options: dict[str, Any]
    targets: Annotated[list[Target], Meta(min_length=1)]
    links: list[Link] = []
    transformations: list[Transformation] = []


class Graph(Panel, forbid_unknown_fields=True, tag_field="type", tag="timeseries"):
    pass


class Stat(Panel, forbid_unknown_fields=True, tag_field="type", tag="stat"):
    pass


class States(Panel, forbid_unknown_fields=True, tag_field="type", tag="state-timeline"):
    pass


class Table(Panel, forbid_unknown_fields=True, tag_field="type", tag="table"):
    pass


class DashboardLink(Struct, forbid_unknown_fields=True):
    type: Literal["link"]
    title: Words
    tooltip: Words
    url: Annotated[str, Meta(pattern="^/d/warren-[a-z]+$")]
    icon: Words
    tags: list[str]
    asDropdown: bool
    includeVars: Literal[True]
    keepTime: Literal[True]
    targetBlank: bool


class Annotation(Struct, forbid_unknown_fields=True):
    name: Words
    datasource: Source
    enable: bool
    hide: bool
    iconColor: Words
    expr: Words
    titleFormat: Words
    textFormat: Words
    step: Words
    target: dict[str, str]


class Annotations(Struct, forbid_unknown_fields=True, rename={"entries": "list"}):
    entries: list[Annotation]


class SourceVariable(Struct, forbid_unknown_fields=True, tag_field="type", tag="datasource"):
    name: Literal["datasource"]
    label: Words
    query: Literal["prometheus"]
    refresh: int
    hide: int
    multi: bool
    includeAll: bool
    options: list[Any]
    current: dict[str, Any]


class VariableQuery(Struct, forbid_unknown_fields=True):
    qryType: Literal[1]
    query: Annotated[str, Meta(pattern=r"^label_values\(.+, \w+\)$")]
    refId: Words


class QueryVariable(Struct, forbid_unknown_fields=True, tag_field="type", tag="query"):
    name: Annotated[str, Meta(pattern="^[a-z]+$")]
    label: Words
    datasource: Source
    definition: Words
    query: VariableQuery
    refresh: int
    sort: int
    hide: int
    multi: bool
    includeAll: bool
    options: list[Any]
    current: dict[str, Any]
    allValue: Words | UnsetType = UNSET


class Templating(Struct, forbid_unknown_fields=True, rename={"entries": "list"}):
    entries: list[SourceVariable | QueryVariable]


class TimeRange(Struct, forbid_unknown_fields=True, rename={"begin": "from"}):
    begin: Words
    to: Words


class Dashboard(Struct, forbid_unknown_fields=True):
    id: None
    uid: Annotated[str, Meta(pattern="^[a-z-]{1,40}$")]
    title: Words
    description: Words
    tags: list[str]
    schemaVersion: Annotated[int, Meta(ge=41)]
    editable: bool
    graphTooltip: int
    time: TimeRange
    timezone: Words
    refresh: Words
    links: list[DashboardLink]
    annotations: Annotations
    templating: Templating
    panels: Annotated[list[Heading | Graph | Stat | States | Table], Meta(min_length=1)]


def read(text: str | bytes) -> Dashboard:
    """msgspec.ValidationError where the types do not fit, AssertionError where more is wrong."""
    dashboard = msgspec.json.decode(text, type=Dashboard)
    faults = list(_faults(dashboard))
    assert not faults, faults
    return dashboard


def _faults(dashboard: Dashboard) -> Iterator[str]:
    """What no type can say."""
    for one, other in combinations(dashboard.panels, 2):
        if _overlap(one.gridPos, other.gridPos):
            yield f"{one.title!r} and {other.title!r} overlap"
        if one.id == other.id:
            yield f"{one.title!r} and {other.title!r} have the same id"
        if one.title == other.title:
            yield f"{one.title!r} is there twice"
    for panel in dashboard.panels:
        if panel.gridPos.x + panel.gridPos.w > 24:
            yield f"{panel.title!r} is beyond the grid"
        if isinstance(panel, Panel):
            yield from _panel_faults(panel)
    names = [variable.name for variable in dashboard.templating.entries]
    if len(names) != len(set(names)):
        yield f"a variable is there twice: {names}"


def _panel_faults(panel: Panel) -> Iterator[str]:
    ids = [target.refId for target in panel.targets]
    if len(ids) != len(set(ids)):
        yield f"{panel.title!r} has targets of the same refId"
    if any(target.instant == target.range for target in panel.targets):
        yield f"{panel.title!r} asks for both a moment and a range, or for none"
    steps = panel.fieldConfig.defaults.thresholds.steps
    values = [step.value for step in steps[1:] if step.value is not None]
    if steps[0].value is not None or values != sorted(set(values)) or len(values) < len(steps) - 1:
        yield f"{panel.title!r} has thresholds that do not rise"
    if isinstance(panel, Table) and len(panel.targets) != 1:
        yield f"{panel.title!r}: a table's columns are those of one query"


def _overlap(one: Place, other: Place) -> bool:
    beside = one.x + one.w <= other.x or other.x + other.w <= one.x
    return not (beside or one.y + one.h <= other.y or other.y + other.h <= one.y)
