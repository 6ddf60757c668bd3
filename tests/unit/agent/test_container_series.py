"""Series of containers: their values, their labels, and how many there may be."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as om_parser
from prometheus_client.parser import text_string_to_metric_families

from warren.agent import container_series
from warren.agent.container_series import CONTAINERS_MAX, ContainerReading, ContainerSeries
from warren.agent.runtime.base import Usage
from warren.observe import openmetrics


def reading(number: int) -> ContainerReading:
    return ContainerReading(
        service=f"s{number % 7}",
        slot=number,
        restarts=number % 3,
        oom_kills=number % 2,
        usage=Usage(
            cpu_ns=number * 1_000_000,
            memory_bytes=2 * number,
            working_set_bytes=number,
            pids=1,
            read_bytes=3 * number,
            written_bytes=4 * number,
        ),
    )


def readings(count: int) -> dict[str, ContainerReading]:
    return {f"{number:032x}": reading(number) for number in range(count)}


def samples(found: Mapping[str, ContainerReading]) -> dict[str, float]:
    """Ours; checked against what prometheus-client makes of the same readings."""
    text = b"".join(block for _, block in ContainerSeries(lambda: found).blocks(openmetrics=False))
    registry = CollectorRegistry()
    registry.register(ContainerSeries(lambda: found))
    theirs = generate_latest(registry).decode()
    assert parsed(text.decode()) == parsed(theirs)
    pairs = (line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#")
    return {name: float(value) for name, value in pairs}


def parsed(text: str) -> list[Metric]:
    return sorted(text_string_to_metric_families(text), key=lambda family: family.name)


def test_each_container_has_its_own() -> None:
    found = samples(readings(3))
    labels = f'{{container="{2:032x}",service="s2",slot="2"}}'
    assert found[f"warren_container_cpu_seconds_total{labels}"] == 0.002
    assert found[f"warren_container_restarts_total{labels}"] == 2
    assert found[f"warren_container_memory_bytes{labels}"] == 4
    assert found[f"warren_container_working_set_bytes{labels}"] == 2
    assert found[f"warren_container_pids{labels}"] == 1
    assert found[f"warren_container_oom_kills_total{labels}"] == 0
    assert found[f"warren_container_disk_read_bytes_total{labels}"] == 6
    assert found[f"warren_container_disk_written_bytes_total{labels}"] == 8
    assert len(found) == 3 * 8


def test_what_does_not_run_uses_nothing_and_is_still_counted() -> None:
    waiting = ContainerReading(service="web", slot=1, restarts=4, oom_kills=5, usage=None)
    labels = '{container="a",service="web",slot="1"}'
    assert samples({"a": waiting}) == {
        f"warren_container_restarts_total{labels}": 4,
        f"warren_container_oom_kills_total{labels}": 5,
    }


def test_a_kernel_that_does_not_count_the_disk() -> None:
    used = Usage(cpu_ns=1, memory_bytes=2, working_set_bytes=3, pids=4)
    it = ContainerReading(service="x", slot=1, restarts=0, oom_kills=0, usage=used)
    found = samples({"a": it})
    assert not [name for name in found if "disk" in name]
    assert len(found) == 6


def test_in_openmetrics_counters_are_named_without_total() -> None:
    series = ContainerSeries(lambda: readings(2))
    text = b"".join(block for _, block in series.blocks(openmetrics=True)) + openmetrics.EOF
    families = {it.name: it for it in om_parser.text_string_to_metric_families(text.decode())}
    assert families["warren_container_cpu_seconds"].type == "counter"
    assert [it.value for it in families["warren_container_cpu_seconds"].samples] == [0, 0.001]


def test_families_are_there_without_a_container() -> None:
    text = b"".join(block for _, block in ContainerSeries(dict).blocks(openmetrics=False))
    assert text.count(b"# TYPE warren_container_") == 8


def test_too_many_share_one_set_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = samples(readings(CONTAINERS_MAX + 10))
    assert len(found) == (CONTAINERS_MAX + 1) * 8
    labels = '{container="other",service="other",slot="other"}'
    assert found[f"warren_container_pids{labels}"] == 10
    total = sum(value for name, value in found.items() if name.startswith("warren_container_pids"))
    assert total == CONTAINERS_MAX + 10
    assert "share the series" in caplog.text


def test_what_others_are_counted_for_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has series of its own goes by the order of ids: others come and go without a restart."""
    monkeypatch.setattr(container_series, "CONTAINERS_MAX", 2)
    there: dict[str, ContainerReading] = {}
    series = ContainerSeries(lambda: there)

    def ran(restarts: int, cpu_s: int) -> ContainerReading:
        """`cpu_s` 0: it does not run."""
        used = Usage(cpu_ns=cpu_s * 10**9, memory_bytes=1, working_set_bytes=1, pids=1)
        usage = used if cpu_s else None
        return ContainerReading(service="web", slot=1, restarts=restarts, oom_kills=0, usage=usage)

    def others() -> tuple[float, float]:
        text = b"".join(block for _, block in series.blocks(openmetrics=False)).decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if 'container="other"' in line)
        found = {name.partition("{")[0]: float(value) for name, value in pairs}
        restarts, cpu_s = (f"warren_container_{it}_total" for it in ("restarts", "cpu_seconds"))
        return found[restarts], found[cpu_s]

    there = {"a": ran(0, 1), "b": ran(0, 1), "c": ran(500, 100), "d": ran(400, 100)}
    first = others()
    there |= {"c": ran(501, 102), "d": ran(400, 103)}
    assert others() == (first[0] + 1, first[1] + 5)
    del there["d"]
    assert others() == (first[0] + 1, first[1] + 5), "one of them is gone"
    there["aa"] = ran(7, 1000)
    assert others() == (first[0] + 1, first[1] + 5), "b has come to them, with the life it has had"
    there |= {"b": ran(2, 4), "c": ran(502, 1)}
    assert others() == (first[0] + 4, first[1] + 9), "c is at its next attempt"
    there["c"] = ran(502, 0)
    assert others() == (first[0] + 4, first[1] + 9), "c does not run"
    there["c"] = ran(502, 3)
    assert others() == (first[0] + 4, first[1] + 11)
    del there["b"], there["aa"]
    there["d"] = ran(0, 5)
    assert others() == (first[0] + 4, first[1] + 11), "after a time without others"
