"""Histogram families: Cython histograms under Prometheus names and labels.

A family is a prometheus-client collector, so that any registry can hold it. It also renders
itself as text, several times faster than prometheus-client would: a scrape shares the
interpreter with every request that is being served.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from warren._histogram import DEFAULT_BOUNDS, Histogram

CHILDREN_MAX: Final = 4096
OTHER: Final = "other"

FINE_BOUNDS: Final = (
    *(1e-6, 2.5e-6, 5e-6),
    *(1e-5, 2.5e-5, 5e-5),
    *(1e-4, 2.5e-4, 5e-4),
    *(1e-3, 2.5e-3),
)
"""Bucket bounds in seconds for what takes microseconds: 1 µs to 2.5 ms, three to a decade."""


def format_bound(bound: float) -> str:
    """An `le` label as Prometheus' Go client writes it: `0.005`, `1`, `+Inf`."""
    return "+Inf" if bound == math.inf else repr(float(bound)).removesuffix(".0")


def escape_label(value: str) -> str:
    """A label value for the text format (Prometheus exposition format 0.0.4)."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def escape_help(text: str) -> str:
    """A help text for the text format."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def bounds_with(extra: Iterable[float]) -> tuple[float, ...]:
    """The classic default bounds and `extra` ones, in seconds, ascending."""
    return tuple(sorted({*DEFAULT_BOUNDS, *(float(bound) for bound in extra)}))


class HistogramFamily(Collector):
    """One metric name, one child histogram for each combination of label values.

    At most CHILDREN_MAX children exist; what comes later shares the child whose label values are
    all `other`, so that labels made of outside input cannot eat the memory.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self.name = name
        self.documentation = documentation
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._les = [format_bound(bound) for bound in (*self._bounds, math.inf)]
        self._children: dict[tuple[str, ...], Histogram] = {}
        self._prefixes: dict[tuple[str, ...], list[str]] = {}
        if not self._labels:
            self.child()

    def child(self, *values: str) -> Histogram:
        """The histogram for these label values, made when first asked for. Keep it: looking it up
        costs more than observing. ValueError when the number of values is wrong.
        """
        found = self._children.get(values)
        return found if found is not None else self._add(values)

    def _add(self, values: tuple[str, ...]) -> Histogram:
        if len(values) != len(self._labels):
            raise ValueError(
                f"{self.name} has the labels {self._labels}, got {len(values)} values: {values}"
            )
        if len(self._children) >= CHILDREN_MAX:
            values = (OTHER,) * len(self._labels)
        return self._children.setdefault(values, Histogram(self._bounds))

    @property
    def rejected(self) -> int:
        """Values that no child could record: NaN, infinite, negative."""
        return sum(child.rejected for child in list(self._children.values()))

    def collect(self) -> Iterator[Metric]:
        """The family as prometheus-client models it."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            cumulative, total = child.snapshot()
            buckets = [(le, float(n)) for le, n in zip(self._les, cumulative, strict=True)]
            family.add_metric(values, buckets, total)
        yield family

    def text(self) -> str:
        """The family in the text format. Safe while other threads observe."""
        lines = [
            f"# HELP {self.name} {escape_help(self.documentation)}\n# TYPE {self.name} histogram\n"
        ]
        for values, child in list(self._children.items()):
            cumulative, total = child.snapshot()
            *bucket_prefixes, sum_prefix, count_prefix = self._line_prefixes(values)
            lines += [f"{p}{n}\n" for p, n in zip(bucket_prefixes, cumulative, strict=True)]
            lines.append(f"{sum_prefix}{total!r}\n{count_prefix}{cumulative[-1]}\n")
        return "".join(lines)

    def _line_prefixes(self, values: tuple[str, ...]) -> list[str]:
        """What stands before the number on each of a child's lines."""
        found = self._prefixes.get(values)
        if found is not None:
            return found
        pairs = [
            f'{label}="{escape_label(value)}"'
            for label, value in zip(self._labels, values, strict=True)
        ]
        labels = f"{{{','.join(pairs)}}}" if pairs else ""
        le_labels = [",".join([*pairs, f'le="{le}"']) for le in self._les]
        made = [f"{self.name}_bucket{{{inner}}} " for inner in le_labels]
        made += [f"{self.name}_sum{labels} ", f"{self.name}_count{labels} "]
        self._prefixes[values] = made
        return made
