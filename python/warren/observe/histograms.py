"""Histogram families: Cython histograms under Prometheus names and labels.

A family is a prometheus-client collector, so that any registry can hold it. It also renders
itself as text, several times faster than prometheus-client would: a scrape shares the
interpreter with every request that is being served.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from warren._histogram import DEFAULT_BOUNDS, Histogram
from warren.observe import openmetrics as om
from warren.observe.exposition import header, label_text

_log = logging.getLogger("warren.observe")

CHILDREN_MAX: Final = 4096
OTHER: Final = "other"

FINE_BOUNDS: Final = (
    *(1e-6, 2.5e-6, 5e-6),
    *(1e-5, 2.5e-5, 5e-5),
    *(1e-4, 2.5e-4, 5e-4),
    *(1e-3, 2.5e-3),
)
"""Bucket bounds in seconds for what takes microseconds: 1 µs to 2.5 ms, three to a decade."""


_CHUNK: Final = 256
"""Children that are put into one piece of text, with the interpreter held."""


def format_bound(bound: float, *, openmetrics: bool = False) -> str:
    """An `le` label as Prometheus' Go client writes it: `0.005`, `1`, `+Inf`.

    Whole numbers are `1.0` in OpenMetrics.
    """
    text = "+Inf" if bound == math.inf else repr(float(bound))
    return text if openmetrics else text.removesuffix(".0")


def bounds_with(extra: Iterable[float]) -> tuple[float, ...]:
    """The classic default bounds and `extra` ones, in seconds, ascending."""
    return tuple(sorted({*DEFAULT_BOUNDS, *(float(bound) for bound in extra)}))


class HistogramFamily(Collector):
    """One metric name, one child histogram for each combination of label values.

    At most CHILDREN_MAX children exist; what comes later shares the child whose label values are
    all `other`, so that labels made of outside input cannot eat the memory. `exemplar` is the label
    of what `observe_with` names.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        exemplar: str = "",
    ) -> None:
        self.name = name
        self.documentation = documentation
        self._exemplar = exemplar
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._children: dict[tuple[str, ...], Histogram] = {}
        self._warned = False
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
            if not self._warned:
                self._warned = True
                _log.warning(
                    "%s has %d sets of labels: further ones share the series labelled %r",
                    self.name,
                    CHILDREN_MAX,
                    OTHER,
                )
        return self._children.setdefault(values, Histogram(self._bounds))

    @property
    def rejected(self) -> int:
        """Values that no child could record: NaN, infinite, negative."""
        return sum(child.rejected for child in list(self._children.values()))

    def collect(self) -> Iterator[Metric]:
        """The family as prometheus-client models it."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self._labels)
        les = self._les(openmetrics=False)
        for values, child in list(self._children.items()):
            cumulative, total = child.snapshot()
            buckets = [(le, float(n)) for le, n in zip(les, cumulative, strict=True)]
            family.add_metric(values, buckets, total)
        yield family

    def blocks(self, *, openmetrics: bool) -> Iterator[tuple[str, bytes]]:
        """The family as text. Safe while other threads observe."""
        les = self._les(openmetrics=openmetrics)
        pieces = [header(self.name, "histogram", self.documentation).encode()]
        children = list(self._children.items())
        for start in range(0, len(children), _CHUNK):
            lines: list[str] = []
            for values, child in children[start : start + _CHUNK]:
                self._add_lines(lines, les, values, child, openmetrics=openmetrics)
            pieces.append("".join(lines).encode())
        yield self.name, b"".join(pieces)

    def _add_lines(
        self,
        lines: list[str],
        les: list[str],
        values: tuple[str, ...],
        child: Histogram,
        *,
        openmetrics: bool,
    ) -> None:
        inner = label_text(self._labels, values)
        bucket = f'{self.name}_bucket{{{inner}{"," if inner else ""}le="'
        labels = f"{{{inner}}}" if inner else ""
        cumulative, total = child.snapshot()
        examples = child.exemplars() if openmetrics and self._exemplar else []
        if examples:
            marks = [om.exemplar(self._exemplar, found) for found in examples]
            rows = zip(les, cumulative, marks, strict=True)
            lines += [f'{bucket}{le}"}} {count}{mark}\n' for le, count, mark in rows]
        else:
            lines += [
                f'{bucket}{le}"}} {count}\n' for le, count in zip(les, cumulative, strict=True)
            ]
        lines.append(
            f"{self.name}_sum{labels} {total!r}\n{self.name}_count{labels} {cumulative[-1]}\n"
        )

    def _les(self, *, openmetrics: bool) -> list[str]:
        return [format_bound(bound, openmetrics=openmetrics) for bound in (*self._bounds, math.inf)]
