"""OpenMetrics: who gets it, and that it says the same as Prometheus' own format."""

from __future__ import annotations

import time

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_om
from prometheus_client.parser import text_string_to_metric_families as parse_text

from warren.observe.catalogue import ApiMetrics, ContainerMetrics
from warren.observe.metrics import Metrics
from warren.observe.openmetrics import accepted, translated

PROMETHEUS_2 = (
    b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
    b"q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (PROMETHEUS_2, True),
        (b"application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        (b"Application/OpenMetrics-Text", True),
        (b"text/plain, application/openmetrics-text;q=0.5", False),
        (b"application/openmetrics-text;q=0.5, text/plain;q=0.5", True),
        (b"application/openmetrics-text;version=2.0.0, text/plain;q=0.1", False),
        (b"application/openmetrics-text;q=0", False),
        (b"application/openmetrics-text;q=much", False),
        (b"text/plain;version=0.0.4", False),
        (b"*/*", False),
        (b"", False),
        (b";;,=,q=1", False),
    ],
)
def test_who_gets_it(header: bytes, expected: bool) -> None:
    assert accepted(header) is expected


def test_a_counter_a_gauge_and_bounds() -> None:
    counter = b'# HELP a_total A_total b.\n# TYPE a_total counter\na_total{x="# TYPE a_total "} 1\n'
    assert translated(counter) == (
        b'# HELP a A_total b.\n# TYPE a counter\na_total{x="# TYPE a_total "} 1\n'
    )
    gauge = b"# HELP n_total N.\n# TYPE n_total gauge\nn_total 3\n"
    assert translated(gauge) == gauge
    histogram = (
        b"# HELP h H.\n# TYPE h histogram\n"
        b'h_bucket{le="0.5"} 1\nh_bucket{m="1",le="10"} 2\nh_bucket{le="+Inf"} 3\n'
        b"h_sum 4\nh_count 3\n"
    )
    assert translated(histogram) == histogram.replace(b'le="10"', b'le="10.0"')


def with_examples() -> Metrics:
    metrics = Metrics()
    api = ApiMetrics(metrics, ["CreateService", "ListServices"])
    api.method("CreateService").record(0.02, "c0ffee-1", ok=True)
    api.method("CreateService").record(0.021, "c0ffee-2", ok=True)
    api.method("CreateService").record(70.0, "c0ffee-3", ok=False)
    ContainerMetrics(metrics).start.observe_with(0.1, "ab" * 16)
    core = (
        b"# HELP warren_nodes_total Nodes.\n# TYPE warren_nodes_total gauge\nwarren_nodes_total 3\n"
        b"# HELP warren_x_total X.\n# TYPE warren_x_total counter\nwarren_x_total 5\n"
        b"# HELP warren_y_seconds Y.\n# TYPE warren_y_seconds histogram\n"
        b'warren_y_seconds_bucket{le="1"} 2\nwarren_y_seconds_bucket{le="+Inf"} 2\n'
        b"warren_y_seconds_sum 0.5\nwarren_y_seconds_count 2\n"
    )
    metrics.add_text_source("core", lambda: core)
    return metrics


def flat(families: list[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def test_both_formats_say_the_same() -> None:
    metrics = with_examples()
    ours = list(parse_om(metrics.render(as_openmetrics=True).decode()))
    text = list(parse_text(metrics.render().decode()))
    assert {it.name: (it.type, it.documentation) for it in ours} == {
        it.name: (it.type, it.documentation) for it in text
    }
    as_text = {
        (name, tuple((k, f"{v}.0" if k == "le" and v.isdigit() else v) for k, v in labels)): value
        for (name, labels), value in flat(text).items()
    }
    assert flat(ours) == as_text


def test_buckets_name_the_newest_example() -> None:
    before = time.time()
    families = {
        it.name: it for it in parse_om(with_examples().render(as_openmetrics=True).decode())
    }
    requests = families["warren_api_request_duration_seconds"].samples
    found = {
        sample.labels["le"]: sample.exemplar
        for sample in requests
        if sample.labels["method"] == "CreateService" and sample.exemplar is not None
    }
    assert {le: (it.labels, it.value) for le, it in found.items()} == {
        "0.025": ({"request_id": "c0ffee-2"}, 0.021),
        "+Inf": ({"request_id": "c0ffee-3"}, 70.0),
    }
    assert all(before - 1 < float(it.timestamp) < time.time() + 1 for it in found.values())
    [start] = [
        sample.exemplar
        for sample in families["warren_container_start_duration_seconds"].samples
        if sample.exemplar is not None
    ]
    assert start.labels == {"container_id": "ab" * 16}


def test_the_text_format_has_no_examples() -> None:
    assert b" # {" not in with_examples().render()
