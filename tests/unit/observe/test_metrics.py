"""The registry, the histogram families, the catalogue and the scraper."""

from __future__ import annotations

import asyncio
import gc
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from warren._histogram import DEFAULT_BOUNDS, Histogram
from warren.observe import histograms
from warren.observe.catalogue import ApiMetrics, ContainerMetrics, ServiceMetrics
from warren.observe.histograms import CHILDREN_MAX, FINE_BOUNDS, HistogramFamily
from warren.observe.loop import (
    SWITCH_INTERVAL_S,
    declare_loop_lag,
    favour_loop,
    watch_loop,
)
from warren.observe.metrics import Metrics, Scraper

CLASSIC_LES = [
    "0.005",
    "0.01",
    "0.025",
    "0.05",
    "0.1",
    "0.25",
    "0.5",
    "1",
    "2.5",
    "5",
    "10",
    "+Inf",
]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: bytes) -> Samples:
    """Every sample of a text, by name and labels; refuses a repeated one."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def one(text: bytes, name: str, **labels: str) -> float:
    return parse(text)[name, frozenset(labels.items())]


def with_everything() -> Metrics:
    metrics = Metrics()
    api = ApiMetrics(metrics, ["CreateService", "ListServices"])
    ServiceMetrics(metrics).create.observe(0.003)
    ContainerMetrics(metrics).start.observe(7.0)
    declare_loop_lag(metrics)
    api.method("CreateService").record(0.02, "cli-1", ok=True)
    api.method("CreateService").record(0.3, "cli-2", ok=False)
    return metrics


def test_the_catalogue_to_the_letter() -> None:
    text = with_everything().render().decode()
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert (
        types.items()
        >= {
            "warren_api_requests_total": "counter",
            "warren_api_request_duration_seconds": "histogram",
            "warren_service_create_duration_seconds": "histogram",
            "warren_service_update_duration_seconds": "histogram",
            "warren_service_delete_duration_seconds": "histogram",
            "warren_container_create_duration_seconds": "histogram",
            "warren_container_start_duration_seconds": "histogram",
            "warren_container_stop_duration_seconds": "histogram",
            "warren_event_loop_lag_seconds": "histogram",
            "warren_build_info": "gauge",
            "process_cpu_seconds_total": "counter",
            "process_resident_memory_bytes": "gauge",
        }.items()
    )
    assert len(types) == text.count("# TYPE ") == text.count("# HELP ")
    assert "_created" not in text


def test_everything_is_there_with_zeros_from_the_first_scrape() -> None:
    text = with_everything().render()
    for status in ("success", "error"):
        assert one(text, "warren_api_requests_total", method="ListServices", status=status) == 0
        assert one(text, "warren_api_requests_total", method="CreateService", status=status) == 1
    name = "warren_api_request_duration_seconds"
    assert one(text, f"{name}_count", method="ListServices") == 0
    assert one(text, f"{name}_bucket", method="CreateService", le="0.025") == 1
    assert one(text, f"{name}_bucket", method="CreateService", le="0.5") == 2
    assert one(text, "warren_service_update_duration_seconds_count") == 0
    assert one(text, "warren_service_create_duration_seconds_sum") == 0.003


def test_the_default_bounds_are_the_classic_ones() -> None:
    text = with_everything().render().decode()
    lines = [x for x in text.splitlines() if x.startswith("warren_service_create_") and "le=" in x]
    assert [line.split('le="')[1].split('"')[0] for line in lines] == CLASSIC_LES


def test_our_text_says_what_prometheus_client_would() -> None:
    metrics = with_everything()
    family = metrics.histogram("odd_seconds", 'A "quote", a \\ and\na line.', ("a", "b"))
    family.child('x"y\\z\n', "").observe(0.004)
    family.child("é,}", "1").observe(math.pi)
    ours = parse(metrics.render())
    theirs = parse(generate_latest(metrics.registry))
    moving = ("process_",)
    assert {k: v for k, v in ours.items() if not k[0].startswith(moving)} == {
        k: v for k, v in theirs.items() if not k[0].startswith(moving)
    }


def test_finer_buckets_come_in_addition() -> None:
    metrics = Metrics(extra_bounds=FINE_BOUNDS)
    child = metrics.histogram("fast_seconds", "Fast.").child()
    child.observe(3e-6)
    text = metrics.render()
    assert one(text, "fast_seconds_bucket", le="2.5e-06") == 0
    assert one(text, "fast_seconds_bucket", le="5e-06") == 1
    les = {dict(labels)["le"] for name, labels in parse(text) if name == "fast_seconds_bucket"}
    assert les >= set(CLASSIC_LES)
    assert len(les) == len(CLASSIC_LES) + len(FINE_BOUNDS)


def test_own_bounds_are_kept_as_they_are() -> None:
    bounds = (1, 5, 10, 30, 60, 120, 300, 600, 1800)
    metrics = Metrics(extra_bounds=FINE_BOUNDS)
    child = metrics.histogram("slow_seconds", "Slow.", bounds=bounds).child()
    assert child.bounds == bounds
    assert b'slow_seconds_bucket{le="1800"} 0\n' in metrics.render()


def test_a_name_is_declared_once() -> None:
    metrics = Metrics()
    metrics.histogram("x_seconds", "X.")
    for declare in (metrics.histogram, metrics.gauge):
        with pytest.raises(ValueError, match="x_seconds"):
            declare("x_seconds", "X.")
    with pytest.raises(ValueError, match="process_"):
        metrics.gauge("process_open_fds", "Taken.")


def test_children_are_cached_and_counted_labels_checked() -> None:
    family = HistogramFamily("x", "X.", ("method",), DEFAULT_BOUNDS)
    assert family.child("a") is family.child("a")
    assert family.child("a") is not family.child("b")
    with pytest.raises(ValueError, match="labels"):
        family.child("a", "b")
    with pytest.raises(ValueError, match="labels"):
        family.child()


def rendered(family: HistogramFamily, *, openmetrics: bool = False) -> str:
    [(name, block)] = family.blocks(openmetrics=openmetrics)
    assert name == family.name
    return block.decode()


def test_labels_cannot_eat_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "CHILDREN_MAX", 3)
    family = HistogramFamily("x", "X.", ("host", "backend"), DEFAULT_BOUNDS)
    for i in range(100):
        family.child(f"host{i}", "b").observe(1.0)
    assert family.child("host50", "b") is family.child("other", "other")
    assert family.child("other", "other").count == 97
    assert rendered(family).count("_count{") == 4
    assert CHILDREN_MAX == 4096


def test_readings_are_taken_at_the_scrape() -> None:
    metrics = Metrics()
    depth = [3.0]
    metrics.gauge_function("queue_depth", "Depth.", lambda: depth[0])
    metrics.counter_function("queue_dropped_total", "Dropped.", lambda: 2 * depth[0])
    assert one(metrics.render(), "queue_depth") == 3
    depth[0] = 4.0
    text = metrics.render()
    assert (one(text, "queue_depth"), one(text, "queue_dropped_total")) == (4, 8)


class Broken(Collector):
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("broken_before", "Half.", value=1)
        raise OSError("gone")


def test_what_cannot_be_read_is_left_out_and_counted() -> None:
    metrics = Metrics()
    metrics.gauge("fine", "Fine.").set(1)
    metrics._collectors.append(Broken())
    metrics.gauge("also_fine", "Fine.").set(1)
    text = metrics.render()
    assert (one(text, "fine"), one(text, "also_fine")) == (1, 1)
    assert b"broken" not in text
    left_out = "warren_metrics_left_out_total"
    assert one(metrics.render(), left_out, source="python", reason="error") >= 1


def test_no_garbage_is_collected_meanwhile_and_it_is_afterwards() -> None:
    metrics = Metrics()
    seen: list[bool] = []
    metrics.gauge_function("collected", "C.", lambda: seen.append(gc.isenabled()) or 0.0)
    seen.clear()
    metrics.render()
    assert seen == [False]
    assert gc.isenabled()


def test_text_sources_are_joined() -> None:
    metrics = Metrics()
    metrics.gauge("ours", "Ours.").set(1)
    metrics.add_text_source("core", lambda: b"# HELP core C.\n# TYPE core gauge\ncore 7\n")
    metrics.add_text_source("rival", lambda: b"# HELP ours O.\n# TYPE ours gauge\nours 9\n")

    def fail() -> bytes:
        raise RuntimeError("no core")

    metrics.add_text_source("failing", fail)
    metrics.render()
    text = metrics.render()
    assert (one(text, "core"), one(text, "ours")) == (7, 1)
    left_out = "warren_metrics_left_out_total"
    assert one(text, left_out, source="rival", reason="duplicate") == 1
    assert one(text, left_out, source="failing", reason="error") == 1
    for taken in ("core", "python"):
        with pytest.raises(ValueError, match="added before"):
            metrics.add_text_source(taken, lambda: b"")


def test_rejected_durations_are_exported() -> None:
    metrics = Metrics()
    metrics.histogram("x_seconds", "X.").child().observe(-1.0)
    assert one(metrics.render(), "warren_histogram_rejected_total") == 1


def test_a_scrape_of_five_thousand_series() -> None:
    metrics = Metrics()
    family = metrics.histogram("big_seconds", "Big.", ("n",))
    gauge = metrics.gauge("big_gauge", "Big.", ("n",))
    series = 0
    for i in range(300):
        family.child(str(i)).observe(i / 100)
        gauge.labels(str(i)).set(i)
        series += len(CLASSIC_LES) + 2 + 1
    samples = {k: v for k, v in parse(metrics.render()).items() if k[0].startswith("big_")}
    assert len(samples) == series == 4500
    assert sum(v for (name, _), v in samples.items() if name == "big_seconds_count") == 300


def test_rendering_while_others_observe_is_consistent() -> None:
    metrics = Metrics()
    family = metrics.histogram("busy_seconds", "Busy.", ("n",))
    children = [family.child(str(i)) for i in range(20)]
    stop = threading.Event()

    def observe() -> None:
        while not stop.is_set():
            for child in children:
                child.observe(0.001)
                child.observe(100.0)

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        for _ in range(50):
            text = metrics.render()
            samples = parse(text)
            for i in range(20):
                labels = frozenset({("n", str(i))})
                plus_inf = samples["busy_seconds_bucket", labels | {("le", "+Inf")}]
                assert samples["busy_seconds_count", labels] == plus_inf
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_can_read_it() -> None:
    # Lint findings about names are exit code 3: the names are a contract. 1 is a broken text.
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=with_everything().render(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode in (0, 3), checked.stderr


class Rendering(Metrics):
    """Renders when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0
        self.go = threading.Event()
        self.threads: set[str] = set()

    def render(self, *, as_openmetrics: bool = False) -> bytes:
        self.started += 1
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(30)
        return b"rendering %d" % self.started


def test_scrapes_are_shared_and_reused_for_a_second(run: Callable[..., Any]) -> None:
    async def main() -> None:
        now = [100.0]
        metrics = Rendering()
        scraper = Scraper(metrics, clock=lambda: now[0])
        together = [asyncio.create_task(scraper.scrape()) for _ in range(5)]
        await asyncio.sleep(0)
        together[0].cancel()
        metrics.go.set()
        assert {await task for task in together[1:]} == {b"rendering 1"}
        now[0] += 1.0
        assert await scraper.scrape() == b"rendering 1"
        now[0] += 0.001
        assert await scraper.scrape() == b"rendering 2"
        assert threading.current_thread().name not in metrics.threads
        scraper.close()

    run(main)


def test_a_scrape_that_hangs_times_out_and_is_joined(run: Callable[..., Any]) -> None:
    async def main() -> None:
        metrics = Rendering()
        scraper = Scraper(metrics, timeout_ms=20)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await scraper.scrape()
        assert metrics.started == 1
        metrics.go.set()
        await scraper._running[False]
        assert await scraper.scrape() == b"rendering 1"
        scraper.close()

    run(main)


def test_a_failed_scrape_is_not_kept(run: Callable[..., Any]) -> None:
    class Failing(Metrics):
        answers: list[bytes]

        def render(self, *, as_openmetrics: bool = False) -> bytes:
            if not self.answers:
                raise OSError("no")
            return self.answers.pop()

    async def main() -> None:
        metrics = Failing()
        metrics.answers = []
        scraper = Scraper(metrics)
        with pytest.raises(OSError, match="no"):
            await scraper.scrape()
        metrics.answers = [b"now"]
        assert await scraper.scrape() == b"now"
        scraper.close()

    run(main)


def test_the_loop_is_favoured() -> None:
    before = sys.getswitchinterval()
    try:
        favour_loop()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    finally:
        sys.setswitchinterval(before)


def test_loop_lag_is_recorded(run: Callable[..., Any]) -> None:
    async def main() -> None:
        lag = Histogram()
        watching = asyncio.create_task(watch_loop(lag, interval_ms=1))
        while lag.count < 5:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.001)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.05
        seen = lag.count
        while loop.time() < until:  # holds the loop up, as a slow callback would
            pass
        while lag.count == seen:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0)
        assert lag.max > 0.04
        watching.cancel()

    run(main)
