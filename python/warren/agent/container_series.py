"""What each container on this host uses, as series with its service's name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTAINERS_MAX", "OTHER", "ContainerReading", "ContainerSeries"]

CONTAINERS_MAX: Final = 4096
"""Containers with series of their own; what more there are share one set, labelled `other`."""
OTHER: Final = "other"
_LABELS: Final = ("service", "slot", "container")
_log = logging.getLogger("warren.observe")


class ContainerReading(msgspec.Struct, frozen=True, kw_only=True):
    """One container, as measured last. `restarts`: of this container on this host."""

    service: str
    slot: int
    cpu_ns: int
    memory_bytes: int
    working_set_bytes: int
    pids: int
    restarts: int


class ContainerSeries(Collector):
    """Collects what `read` gives, by container id, in the scraping thread.

    CPU time begins anew with each attempt of a container, as counters may.
    """

    def __init__(self, read: Callable[[], Mapping[str, ContainerReading]]) -> None:
        self._read = read
        self._warned = False

    def collect(self) -> Iterator[Metric]:
        """The families, also without a container."""
        rows = self._rows()
        counters = (
            ("cpu_seconds", "CPU time of the container's attempt.", _cpu_seconds),
            ("restarts", "Attempts of the container on this host after the first.", _restarts),
        )
        for what, documentation, value in counters:
            counter = CounterMetricFamily(f"warren_container_{what}", documentation, labels=_LABELS)
            for labels, readings in rows:
                counter.add_metric(labels, sum(value(reading) for reading in readings))
            yield counter
        gauges = (
            ("memory_bytes", "Memory charged to the container, page cache included.", _memory),
            (
                "working_set_bytes",
                "Memory of the container that cannot be dropped at once.",
                _working_set,
            ),
            ("pids", "Processes and threads of the container.", _pids),
        )
        for what, documentation, value in gauges:
            gauge = GaugeMetricFamily(f"warren_container_{what}", documentation, labels=_LABELS)
            for labels, readings in rows:
                gauge.add_metric(labels, sum(value(reading) for reading in readings))
            yield gauge

    def _rows(self) -> list[tuple[tuple[str, str, str], list[ContainerReading]]]:
        """By labels, in the order of ids: the same ones are in `other` from scrape to scrape."""
        readings = sorted(self._read().items())
        rows = [
            ((it.service, str(it.slot), container_id), [it])
            for container_id, it in readings[:CONTAINERS_MAX]
        ]
        if others := [it for _, it in readings[CONTAINERS_MAX:]]:
            rows.append(((OTHER, OTHER, OTHER), others))
            if not self._warned:
                _log.warning(
                    "%d containers run here: those beyond %d share the series labelled %r",
                    len(readings),
                    CONTAINERS_MAX,
                    OTHER,
                )
            self._warned = True
        return rows


def _cpu_seconds(reading: ContainerReading) -> float:
    return reading.cpu_ns / 1e9


def _restarts(reading: ContainerReading) -> float:
    return reading.restarts


def _memory(reading: ContainerReading) -> float:
    return reading.memory_bytes


def _working_set(reading: ContainerReading) -> float:
    return reading.working_set_bytes


def _pids(reading: ContainerReading) -> float:
    return reading.pids
