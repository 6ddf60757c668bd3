"""The words in which dashboards are described: rows of panels of queries; no JSON of Grafana.

Queries are PromQL over the metrics of docs/metrics.md and what deploy/prometheus records. They may
use the variables of their dashboard, as in `$cluster`, and `$__rate_interval`: a range that holds
at least four scrapes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

__all__ = [
    "COLUMNS",
    "Dashboard",
    "Drill",
    "Kind",
    "Panel",
    "Query",
    "Row",
    "Step",
    "Unit",
    "Variable",
    "leaders",
    "quantiles",
]

COLUMNS: Final = 24
"""Of Grafana's grid."""


class Kind(StrEnum):
    """How a panel draws. The values are Grafana's names of panel plugins."""

    GRAPH = "timeseries"
    STAT = "stat"
    STATES = "state-timeline"
    TABLE = "table"


class Unit(StrEnum):
    """What a panel's values are. The values are Grafana's names of units."""

    BYTES = "bytes"
    BYTES_PER_SECOND = "binBps"
    COUNT = "short"
    PER_SECOND = "ops"
    RATIO = "percentunit"
    REQUESTS_PER_SECOND = "reqps"
    SECONDS = "s"


class Query(Struct, frozen=True):
    """One expression. `legend`: a template over labels, as in `{{node}}`, or plain words."""

    expression: str
    legend: str


class Step(Struct, frozen=True):
    """From `value` on, in the panel's unit, it looks like this."""

    value: float
    colour: str


class Drill(Struct, frozen=True):
    """Where a click on a series leads: another dashboard, with its variable set to a label's value.

    The label has the variable's name.
    """

    dashboard: str
    label: str


class Panel(Struct, frozen=True, kw_only=True):
    """One question and what answers it.

    `answers`: in one sentence, what one learns here. `width` and `height` are cells of the grid.
    `below`: the colour under the first of `steps`. `words`: what to show instead of a number.
    `runbooks`: names of pages in docs/runbooks. `labels`: of a table, the columns, in their order.
    """

    title: str
    answers: str
    queries: tuple[Query, ...]
    kind: Kind = Kind.GRAPH
    unit: Unit = Unit.COUNT
    width: int = 8
    height: int = 8
    below: str = "green"
    steps: tuple[Step, ...] = ()
    stacked: bool = False
    words: tuple[tuple[int, str], ...] = ()
    runbooks: tuple[str, ...] = ()
    drill: Drill | None = None
    labels: tuple[str, ...] = ()


class Row(Struct, frozen=True):
    """Panels under one heading, from left to right."""

    title: str
    panels: tuple[Panel, ...]


class Variable(Struct, frozen=True):
    """What can be chosen at the top: values of `label` among the series of `selector`.

    `name` is also the label's. `several`: any number of values, all of them at first.
    """

    name: str
    title: str
    selector: str
    several: bool = True


class Dashboard(Struct, frozen=True, kw_only=True):
    """One page. The choice of a data source and of a cluster need no mention: all have them."""

    name: str
    title: str
    answers: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def uid(self) -> str:
        """By which Grafana knows it, in every installation."""
        return f"warren-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Of all rows."""
        return tuple(panel for row in self.rows for panel in row.panels)


def leaders(metric: str, more: str = "") -> str:
    """A gauge as the leader has it: who was cut off has an old one. `more`: further matchers."""
    return (
        f'({metric}{{cluster="$cluster"{more}}} '
        "and on (cluster, instance) (warren_raft_is_leader == 1))"
    )


def quantiles(
    histogram: str, matchers: str, of: tuple[float, ...] = (0.5, 0.99), words: str = ""
) -> tuple[Query, ...]:
    """Quantiles over all series of a histogram that `matchers` choose."""
    rates = f"sum by (le) (rate({histogram}_bucket{{{matchers}}}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({each:g}, {rates})", f"{words} p{each * 100:g}".strip())
        for each in of
    )
