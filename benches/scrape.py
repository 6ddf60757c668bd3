"""What a scrape of 100,000 series costs a daemon that has other things to do.

A daemon's metrics server on a loop of its own kind, with as many histograms by label, containers
and text from elsewhere as make up the series. Another process scrapes it, in both formats, with
and without gzip. Meanwhile the loop sets itself timers 1 ms ahead: how late they fire is what a
request would have waited. `idle` is the same loop before the first scrape.

Memory is how far the resident set's peak rises above where it stood, from one scrape's beginning
to its end.

    python -m benches.scrape [--json] [--quick]
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import uvloop

from benches._common import Report, arguments
from warren._histogram import Histogram
from warren.agent.container_series import ContainerReading, ContainerSeries
from warren.agent.runtime.base import Usage
from warren.observe.endpoints import Works, routes
from warren.observe.health import Health
from warren.observe.http import HttpServer
from warren.observe.loop import favour_loop
from warren.observe.metrics import Metrics, Scraper

SERIES: Final = 100_000
_CONTAINERS: Final = 4_096
_A_CONTAINER: Final = 8
_A_CHILD: Final = 14
_TICK_S: Final = 0.001
_OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
_SCRAPE: Final = """
import sys, time, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Accept": sys.argv[2]})
if sys.argv[3]: request.add_header("Accept-Encoding", sys.argv[3])
began = time.perf_counter()
with urllib.request.urlopen(request, timeout=60) as answer: size = len(answer.read())
print(time.perf_counter() - began, size)
"""


def reading(number: int) -> ContainerReading:
    """A container with values of a usual length."""
    used = Usage(
        cpu_ns=number * 1_234_567_891,
        memory_bytes=number << 20,
        working_set_bytes=number << 19,
        pids=number % 40,
        read_bytes=number << 12,
        written_bytes=number << 13,
    )
    return ContainerReading(
        service=f"service-{number % 97}", slot=number, restarts=number % 3, oom_kills=0, usage=used
    )


def filled(series: int) -> Metrics:
    """Metrics of about `series` series."""
    metrics = Metrics()
    containers = {
        f"{number:032x}": reading(number) for number in range(min(_CONTAINERS, series // 20))
    }
    metrics.register(ContainerSeries(lambda: containers))
    left = series - len(containers) * _A_CONTAINER
    family = metrics.histogram(
        "bench_request_seconds", "Requests.", ("host", "backend"), exemplar="request_id"
    )
    for number in range(left // 2 // _A_CHILD):
        child = family.child(f"host-{number % 50}.example", f"backend-{number}")
        for step in range(8):
            child.observe_with(0.003 * 3**step, f"{number:032x}-{step}")
    left -= left // 2
    name = "bench_core_total"
    lines = [f'{name}{{peer="{number}"}} {number * 7919}\n' for number in range(left)]
    text = f"# HELP {name} From elsewhere.\n# TYPE {name} counter\n{''.join(lines)}".encode()
    metrics.add_text_source("bench", lambda: text)
    return metrics


async def watch(late: Histogram, stop: asyncio.Event) -> None:
    """How late timers fire, until told to stop."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        late.observe(max(0.0, loop.time() - due))


async def scraped(url: str, accept: str, coding: str) -> tuple[float, int]:
    """Seconds and bytes of one scrape by another process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SCRAPE, url, accept, coding, stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    seconds, size = out.split()
    return float(seconds), int(size)


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


def _forget_peak() -> int:
    """What is resident now, in KiB; the peak begins there (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_kib("VmRSS")


async def bench(report: Report, series: int, rounds: int) -> None:
    """Run and fill the report."""
    metrics = filled(series)
    scraper = Scraper(metrics, max_age_ms=0)
    health = Health("bench")
    works = Works(health)
    metrics.register(works)
    server = HttpServer(routes(health, works, scraper))
    _, port = await server.listen("127.0.0.1:0")
    url = f"http://127.0.0.1:{port}/metrics"
    favour_loop()
    idle, stop = Histogram(), asyncio.Event()
    watching = asyncio.create_task(watch(idle, stop))
    await asyncio.sleep(rounds * 0.5)
    stop.set()
    await watching
    report.latency("event loop, idle", idle, limit=True)
    worst, most = 0.0, 0
    for name, accept, coding in (
        ("text", "text/plain", ""),
        ("text, gzip", "text/plain", "gzip"),
        ("OpenMetrics", _OPENMETRICS, ""),
        ("OpenMetrics, gzip", _OPENMETRICS, "gzip"),
    ):
        late, took, size, risen = Histogram(), Histogram(), 0, 0
        for _ in range(rounds):
            before, stop = _forget_peak(), asyncio.Event()
            watching = asyncio.create_task(watch(late, stop))
            seconds, size = await scraped(url, accept, coding)
            stop.set()
            await watching
            took.observe(seconds)
            risen = max(risen, _status_kib("VmHWM") - before)
        report.latency(f"scrape, {name}", took)
        report.row(f"scrape, {name}: size", MiB=size / (1 << 20))
        report.row(f"scrape, {name}: memory", MiB=risen / 1024)
        report.latency(f"event loop, {name}", late)
        worst, most = max(worst, late.max), max(most, risen)
    text = metrics.render()
    lines = sum(not line.startswith(b"#") for line in text.splitlines())
    report.row("series", count=lines)
    beside = f"idle {idle.max * 1e3:.1f} ms"
    report.goal("a scrape delays the loop", "10 ms", f"{worst * 1e3:.1f} ms", worst <= 0.01, beside)
    risen_mib = most / 1024
    report.goal("a scrape takes memory", "64 MiB", f"{risen_mib:.0f} MiB", risen_mib <= 64)
    scraper.close()
    await server.close()


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    series, rounds = (5_000, 1) if options.quick else (SERIES, 10)
    report = Report("a scrape, and what runs beside it")
    began = time.perf_counter()
    uvloop.run(bench(report, series, rounds))
    report.row("all of it", seconds=time.perf_counter() - began)
    report.finish(options)


if __name__ == "__main__":
    main()
