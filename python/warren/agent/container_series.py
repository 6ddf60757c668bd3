"""What each container on this host uses, as series with its service's name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from warren.agent.runtime.base import Usage
from warren.observe.exposition import header, label_text

__all__ = ["CONTAINERS_MAX", "OTHER", "ContainerReading", "ContainerSeries"]

CONTAINERS_MAX: Final = 4096
"""Containers with series of their own; what more there are share one set, labelled `other`."""
OTHER: Final = "other"
_LABELS: Final = ("container", "service", "slot")
_log = logging.getLogger("warren.observe")


class ContainerReading(msgspec.Struct, frozen=True, kw_only=True):
    """One container. `restarts`: of this container on this host; `oom_kills`: its attempts in which
    memory ran out; `usage`: as measured last, None for one that does not run.
    """

    service: str
    slot: int
    restarts: int
    oom_kills: int
    usage: Usage | None


_Labels = tuple[str, str, str]
_OF_OTHERS: Final = (OTHER, OTHER, OTHER)
_Rows = list[tuple[_Labels, list[ContainerReading]]]


class _Family(msgspec.Struct, frozen=True):
    """`value`: None where there is nothing to tell of a container."""

    name: str
    kind: str
    documentation: str
    value: Callable[[ContainerReading], float | None]


def _used(field: str, unit: float = 1) -> Callable[[ContainerReading], float | None]:
    def value(reading: ContainerReading) -> float | None:
        found = getattr(reading.usage, field, None)
        return None if found is None else found / unit

    return value


_FAMILIES: Final = (
    _Family("cpu_seconds", "counter", "CPU time of the container's attempt.", _used("cpu_ns", 1e9)),
    _Family(
        "restarts",
        "counter",
        "Attempts of the container on this host after the first.",
        lambda reading: reading.restarts,
    ),
    _Family(
        "oom_kills",
        "counter",
        "Attempts of the container in which the kernel killed a process for want of memory.",
        lambda reading: reading.oom_kills,
    ),
    _Family(
        "disk_read_bytes",
        "counter",
        "What the container's attempt has read from block devices.",
        _used("read_bytes"),
    ),
    _Family(
        "disk_written_bytes",
        "counter",
        "What the container's attempt has written to block devices.",
        _used("written_bytes"),
    ),
    _Family(
        "memory_bytes",
        "gauge",
        "Memory charged to the container, page cache included.",
        _used("memory_bytes"),
    ),
    _Family(
        "working_set_bytes",
        "gauge",
        "Memory of the container that cannot be dropped at once.",
        _used("working_set_bytes"),
    ),
    _Family("pids", "gauge", "Processes and threads of the container.", _used("pids")),
)
_COUNTERS: Final = tuple(it for it in _FAMILIES if it.kind == "counter")


class _Counted:
    """What those without series of their own are counted for, by family: what each has added since
    it is one of them. Never falls, though they come and go; without what nobody has told of.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self._last: dict[str, dict[str, float]] = {}

    def take(self, others: Sequence[tuple[str, ContainerReading]]) -> None:
        """What they are at now, and who they are."""
        last = {}
        for container_id, reading in others:
            at = self._last.get(container_id, {}).copy()
            for family in _COUNTERS:
                value = family.value(reading)
                if value is None:
                    continue
                # What it was at when it came stands in its own series, or is of before this daemon.
                before = at.get(family.name, value)
                grown = value - before if value >= before else value
                self.sums[family.name] = self.sums.get(family.name, 0.0) + grown
                at[family.name] = value
            last[container_id] = at
        self._last = last


class ContainerSeries(Collector):
    """Collects what `read` gives, by container id, in the scraping thread, of which there is one.

    CPU time begins anew with each attempt of a container, as counters may.
    """

    def __init__(self, read: Callable[[], Mapping[str, ContainerReading]]) -> None:
        self._read = read
        self._warned = False
        self._counted = _Counted()

    def collect(self) -> Iterator[Metric]:
        """The families as prometheus-client models them, also without a container."""
        rows = self._rows()
        for it in _FAMILIES:
            made = CounterMetricFamily if it.kind == "counter" else GaugeMetricFamily
            family = made(f"warren_container_{it.name}", it.documentation, labels=_LABELS)
            for labels, value in self._values(it, rows):
                family.add_metric(labels, value)
            yield family

    def blocks(self, *, openmetrics: bool) -> Iterator[tuple[str, bytes]]:
        """The same as text."""
        rows = self._rows()
        texts = {labels: label_text(_LABELS, labels) for labels, _ in rows}
        for it in _FAMILIES:
            family = f"warren_container_{it.name}"
            name = f"{family}_total" if it.kind == "counter" else family
            lines = [header(family if openmetrics else name, it.kind, it.documentation)]
            values = self._values(it, rows)
            lines += [f"{name}{{{texts[labels]}}} {value!r}\n" for labels, value in values]
            yield name, "".join(lines).encode()

    def _rows(self) -> _Rows:
        """By labels, in the order of ids: the same ones are in `other` from scrape to scrape."""
        readings = sorted(self._read().items())
        rows = [
            ((container_id, it.service, str(it.slot)), [it])
            for container_id, it in readings[:CONTAINERS_MAX]
        ]
        others = readings[CONTAINERS_MAX:]
        self._counted.take(others)
        if others:
            rows.append((_OF_OTHERS, [it for _, it in others]))
            if not self._warned:
                _log.warning(
                    "%d containers run here: those beyond %d share the series labelled %r",
                    len(readings),
                    CONTAINERS_MAX,
                    OTHER,
                )
            self._warned = True
        return rows

    def _values(self, family: _Family, rows: _Rows) -> Iterator[tuple[_Labels, float]]:
        for labels, readings in rows:
            if labels == _OF_OTHERS and family.kind == "counter":
                if family.name in self._counted.sums:
                    yield labels, self._counted.sums[family.name]
                continue
            known = [value for it in readings if (value := family.value(it)) is not None]
            if known:
                yield labels, float(sum(known))
