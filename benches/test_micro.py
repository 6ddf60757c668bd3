"""What the daemon does most often, one operation each: `pytest benches` times and compares.

`pytest benches --benchmark-autosave`, and later `--benchmark-compare`, show what a change did on
one machine.
"""

from __future__ import annotations

import prometheus_client
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from warren import _cgroup
from warren._histogram import Histogram
from warren.observe.metrics import Metrics
from warren.pb.v1 import api_pb2, objects_pb2

VALUE_SECONDS = 0.003
STAT = b"cache 20480\nrss 40960\ninactive_file 8192\ntotal_inactive_file 8192\n"


@pytest.mark.benchmark(group="one observation")
def test_observe(benchmark: BenchmarkFixture) -> None:
    histogram = Histogram()
    benchmark(histogram.observe, VALUE_SECONDS)
    assert histogram.count > 0


@pytest.mark.benchmark(group="one observation")
def test_observe_with_prometheus_client(benchmark: BenchmarkFixture) -> None:
    histogram = prometheus_client.Histogram("bench", "Bench.", registry=None)
    benchmark(histogram.observe, VALUE_SECONDS)


@pytest.mark.benchmark(group="a cgroup's file")
def test_memory_stat(benchmark: BenchmarkFixture) -> None:
    assert benchmark(_cgroup.memory_inactive_file_bytes_v1, STAT) == 8192


@pytest.mark.benchmark(group="a scrape of 200 histograms")
def test_render(benchmark: BenchmarkFixture) -> None:
    metrics = Metrics()
    family = metrics.histogram("bench_seconds", "Bench.", ("n",))
    for number in range(200):
        family.child(str(number)).observe(VALUE_SECONDS)
    assert benchmark(metrics.render).count(b"_count") == 200


@pytest.mark.benchmark(group="a list of 1,000 containers")
def test_parse_containers(benchmark: BenchmarkFixture) -> None:
    container = objects_pb2.Container(id=b"c" * 16, service_id=b"s" * 16, slot=1, node_id=b"n" * 16)
    encoded = api_pb2.ListContainersResponse(
        containers=[api_pb2.ContainerView(container=container)] * 1000
    ).SerializeToString()
    parsed = benchmark(api_pb2.ListContainersResponse.FromString, encoded)
    assert len(parsed.containers) == 1000
