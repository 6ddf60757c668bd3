"""The dashboards' queries as their tests look at them: with variables' values, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from tests.support.metrics_page import PAGE
from tests.unit.deploy.rules import RECORDS, ROOT
from warren.dashboards import NAMES, described
from warren.dashboards.model import Dashboard, Panel, Query

FILES: Final = ROOT / "deploy" / "grafana"
DASHBOARDS: Final = {name: described(name) for name in NAMES}

TARGET_LABELS: Final = {"cluster", "node", "instance", "job"}
"""Of every series that is scraped as deploy/prometheus says."""
OWN: Final = {
    "up": TARGET_LABELS,
    "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"},
}
"""What Prometheus itself makes, with those of its labels that alerts have mostly."""

_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) \|", re.MULTILINE)
_STREAM = re.compile(r"_(bucket|sum|count)$")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BY = re.compile(r"\b(?:by|on) \(([\w, ]+)\)")
_NAME = re.compile(r"(?<![\w:.$])([a-zA-Z_][\w:]*)(?![\w:]| *\()")
_SELECTOR = re.compile(r"([a-zA-Z_][\w:]*)\{([^}]*)\}")
_WORDS: Final = {"and", "or", "unless", "by", "on", "without", "ignoring", "bool", "offset"}


def exported() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of each metric of daemons, by name, as docs/metrics.md has them."""
    return {
        name: (kind, set(labels.split(", ")) - {""})
        for name, kind, labels in _ROW.findall(PAGE.read_text())
    }


EXPORTED: Final = exported()


def labels_of(series: str) -> set[str]:
    """Which labels the series of a name may have. KeyError: nobody makes such a series."""
    if series in OWN:
        return OWN[series]
    if series in RECORDS:
        # The level of a recorded name says which labels are left.
        level = series.split(":")[0]
        known = {"instance": {"cluster", "instance", "node"}, "cluster": {"cluster"}}
        return known.get(level) or set(level.split("_"))
    family = _STREAM.sub("", series)
    if family != series and EXPORTED.get(family, ("",))[0] == "histogram":
        return EXPORTED[family][1] | TARGET_LABELS | {"le"}
    kind, labels = EXPORTED[series]
    if kind == "histogram":
        raise KeyError(f"{series} is a histogram: ask for its _bucket, _sum or _count")
    return labels | TARGET_LABELS


def series_of(expression: str) -> set[str]:
    """The names that an expression reads; KeyError of `labels_of` tells those that are none."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", _BY.sub("", _STRING.sub('""', expression)))
    return {name for name in _NAME.findall(bare) if name not in _WORDS}


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each name with labels that are asked for."""
    for name, matchers in _SELECTOR.findall(_STRING.sub('""', expression)):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def kept(expression: str) -> list[set[str]]:
    """The labels of each `by` and `on`."""
    return [set(found.split(", ")) for found in _BY.findall(expression)]


def legend_labels(query: Query) -> set[str]:
    """What a legend takes from the series."""
    return set(re.findall(r"\{\{(\w+)\}\}", query.legend))


def queries() -> Iterator[tuple[Dashboard, Panel, Query]]:
    """All of all dashboards."""
    for dashboard in DASHBOARDS.values():
        for panel in dashboard.panels:
            for query in panel.queries:
                yield dashboard, panel, query


def filled(expression: str, values: Mapping[str, str], range_: str = "1m") -> str:
    """What Prometheus is asked: variables have values, ranges a length.

    KeyError of a variable without a value.
    """
    expression = expression.replace("$__rate_interval", range_)
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


ANY: Final = {"cluster": "test.example", "node": ".+", "service": ".+"}
