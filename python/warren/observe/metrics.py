"""The metrics of one daemon: what others declare, how it is rendered, and who may scrape how often.

A component declares its metrics when it is built, so that they are exported with zeros from the
first scrape, and absent when the component is not there. Keep the children that `labels` and
`child` give: looking them up costs more than counting.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from warren import __version__
from warren.observe import exposition, openmetrics
from warren.observe.exposition import Page, Rendering
from warren.observe.histograms import HistogramFamily, bounds_with

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OWN_SOURCE: Final = "python"

_log = logging.getLogger("warren.observe")


class _Reading(Collector):
    """One number without labels, read when asked."""

    def __init__(
        self, name: str, documentation: str, kind: type, read: Callable[[], float]
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._kind = kind
        self._read = read

    def collect(self) -> Iterator[Metric]:
        yield self._kind(self._name, self._documentation, value=self._read())


class _Table(Collector):
    """Counters with labels, read when asked."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        self._described = (name, documentation, labels)
        self._read = read

    def collect(self) -> Iterator[Metric]:
        name, documentation, labels = self._described
        family = CounterMetricFamily(name, documentation, labels=labels)
        for values, count in self._read().items():
            family.add_metric(values, count)
        yield family


class Metrics:
    """Everything that one daemon exports.

    `extra_bounds` are bucket bounds in seconds that every histogram with the default bounds gets
    in addition, such as `histograms.FINE_BOUNDS`. `registry` holds all of it, for use with
    prometheus-client.
    """

    def __init__(self, *, extra_bounds: Sequence[float] = ()) -> None:
        # prometheus-client would add a `_created` gauge to each counter that nobody asked for;
        # the switch is global to the process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self._default_bounds = bounds_with(extra_bounds)
        self._histograms: list[HistogramFamily] = []
        self._collectors: list[Collector] = []
        self._text_sources: dict[str, Callable[[], bytes]] = {}
        self._declare_own()

    def _declare_own(self) -> None:
        build = self.gauge("warren_build_info", "The running release.", ("version", "python"))
        build.labels(__version__, platform.python_version()).set(1)
        # It must not register itself: the text is made from our own list.
        self.register(ProcessCollector(registry=None))
        self.counter_function(
            "warren_histogram_rejected_total",
            "Durations that were NaN, infinite or negative, and not recorded.",
            lambda: sum(family.rejected for family in self._histograms),
        )
        self._left_out = self.counter(
            "warren_metrics_left_out_total",
            "Metric families left out of a scrape, by where they came from and why.",
            ("source", "reason"),
        )
        self._count_left_out(OWN_SOURCE)

    def _count_left_out(self, source: str) -> None:
        """From zero on, for whoever asks how much that has risen."""
        for reason in (exposition.DUPLICATE, exposition.HEADERLESS, "error"):
            self._left_out.labels(source, reason)

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Declare a counter; `name` ends in `_total`. ValueError when the name is taken."""
        counter = Counter(name, documentation, labels, registry=self.registry)
        self._collectors.append(counter)
        return counter

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Declare a gauge. ValueError when the name is taken."""
        gauge = Gauge(name, documentation, labels, registry=self.registry)
        self._collectors.append(gauge)
        return gauge

    def gauge_function(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Declare a gauge that is read at each scrape, in the scraping thread."""
        self.register(_Reading(name, documentation, GaugeMetricFamily, read))

    def counter_function(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Declare a counter that is read at each scrape, in the scraping thread."""
        self.register(_Reading(name, documentation, CounterMetricFamily, read))

    def counter_table(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        """Declare a counter that is read at each scrape, in the scraping thread: all its children.

        `read` gives them by label values; their number is the caller's to bound.
        """
        self.register(_Table(name, documentation, labels, read))

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        bounds: Sequence[float] | None = None,
        exemplar: str = "",
    ) -> HistogramFamily:
        """Declare a histogram of seconds, with the default bounds unless others are given.

        `exemplar` is the label of what `observe_with` names. ValueError when the name is taken or
        the bounds do not ascend.
        """
        family = HistogramFamily(
            name,
            documentation,
            labels,
            self._default_bounds if bounds is None else bounds,
            exemplar,
        )
        self.register(family)
        self._histograms.append(family)
        return family

    def register(self, collector: Collector) -> None:
        """Add a collector of prometheus-client's kind. It runs in the scraping thread."""
        self.registry.register(collector)
        self._collectors.append(collector)

    def add_text_source(self, source: str, read: Callable[[], bytes]) -> None:
        """Join what `read` gives, in the text format, at each scrape.

        It runs in the scraping thread. Families whose names are exported already are left out
        and counted; so is a source that raises. ValueError when `source` was added before.
        """
        if source in self._text_sources or source == OWN_SOURCE:
            raise ValueError(f"metrics source {source!r} was added before: choose another name")
        self._text_sources[source] = read
        self._count_left_out(source)

    def render(self, *, as_openmetrics: bool = False) -> bytes:
        """All metrics in Prometheus' text format, or OpenMetrics. For one worker thread."""
        with _uncollected():
            return self._render(as_openmetrics=as_openmetrics)

    def _render(self, *, as_openmetrics: bool) -> bytes:
        page, translate = Page(), openmetrics.translated if as_openmetrics else bytes
        for collector in list(self._collectors):
            try:
                if isinstance(collector, Rendering):
                    for name, block in list(collector.blocks(openmetrics=as_openmetrics)):
                        page.add(OWN_SOURCE, name.encode(), block)
                else:
                    page.add_text(OWN_SOURCE, generate_latest(collector), translate)
            except Exception as error:  # noqa: BLE001 - one fault must not cost the scrape
                self._left_out.labels(OWN_SOURCE, "error").inc()
                _log.error(
                    "a metric could not be read and is missing from this scrape",
                    extra={"error": repr(error)},
                )
        for source, read in list(self._text_sources.items()):
            try:
                text = read()
            except Exception as error:  # noqa: BLE001 - one fault must not cost the scrape
                self._left_out.labels(source, "error").inc()
                _log.error(
                    "a metrics source failed and is missing from this scrape",
                    extra={"source": source, "error": repr(error)},
                )
                continue
            page.add_text(source, text, translate)
        for (source, reason), count in page.left_out.items():
            self._left_out.labels(source, reason).inc(count)
        return page.text() + (openmetrics.EOF if as_openmetrics else b"")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Meanwhile no garbage is collected.

    A scrape makes a hundred thousand objects, none of them in a cycle. So many set off a full
    collection, which looks through everything that the process has and holds the interpreter: the
    event loop was held up for 10 ms by it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Scraper:
    """Renders metrics off the event loop, at most once at a time and once in `max_age_ms`."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_age_ms: int = 1000,
        timeout_ms: int = 10_000,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._max_age = max_age_ms / 1000
        self._timeout = timeout_ms / 1000
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="warren-scrape")
        self._running: dict[bool, asyncio.Future[bytes]] = {}
        self._last: dict[bool, tuple[float, bytes]] = {}

    async def scrape(self, *, as_openmetrics: bool = False) -> bytes:
        """The metrics as text, at most `max_age_ms` old.

        TimeoutError when rendering takes longer than `timeout_ms`; it goes on, and the next
        scrape waits for the same rendering.
        """
        last = self._last.get(as_openmetrics)
        if last is not None and self._clock() - last[0] <= self._max_age:
            return last[1]
        running = self._running.get(as_openmetrics)
        if running is None:
            # What is old is not kept while the new is made: it may be megabytes.
            self._last.clear()
            running = asyncio.get_running_loop().run_in_executor(
                self._executor, partial(self._metrics.render, as_openmetrics=as_openmetrics)
            )
            self._running[as_openmetrics] = running
            running.add_done_callback(partial(self._finished, as_openmetrics))
        # Shielded: one scraper that gives up must not cancel it for the others.
        return await asyncio.wait_for(asyncio.shield(running), self._timeout)

    def _finished(self, as_openmetrics: bool, rendered: asyncio.Future[bytes]) -> None:
        del self._running[as_openmetrics]
        if not rendered.cancelled() and rendered.exception() is None:
            self._last[as_openmetrics] = (self._clock(), rendered.result())

    def close(self) -> None:
        """Stop taking work. A rendering that is under way ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)
