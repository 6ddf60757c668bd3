"""Series of containers: their values, their labels, and how many there may be."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from warren.agent.container_series import CONTAINERS_MAX, ContainerReading, ContainerSeries


def reading(number: int) -> ContainerReading:
    return ContainerReading(
        service=f"s{number % 7}",
        slot=number,
        cpu_ns=number * 1_000_000,
        memory_bytes=2 * number,
        working_set_bytes=number,
        pids=1,
        restarts=number % 3,
    )


def samples(count: int) -> dict[str, float]:
    registry = CollectorRegistry()
    readings = {f"{number:032x}": reading(number) for number in range(count)}
    registry.register(ContainerSeries(lambda: readings))
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_each_container_has_its_own() -> None:
    found = samples(3)
    labels = f'{{container="{2:032x}",service="s2",slot="2"}}'
    assert found[f"warren_container_cpu_seconds_total{labels}"] == 0.002
    assert found[f"warren_container_restarts_total{labels}"] == 2
    assert found[f"warren_container_memory_bytes{labels}"] == 4
    assert found[f"warren_container_working_set_bytes{labels}"] == 2
    assert found[f"warren_container_pids{labels}"] == 1
    assert len(found) == 3 * 5


def test_families_are_there_without_a_container() -> None:
    registry = CollectorRegistry()
    registry.register(ContainerSeries(dict))
    text = generate_latest(registry).decode()
    assert text.count("# TYPE warren_container_") == 5


def test_too_many_share_one_set_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = samples(CONTAINERS_MAX + 10)
    assert len(found) == (CONTAINERS_MAX + 1) * 5
    labels = '{container="other",service="other",slot="other"}'
    assert found[f"warren_container_pids{labels}"] == 10
    total = sum(value for name, value in found.items() if name.startswith("warren_container_pids"))
    assert total == CONTAINERS_MAX + 10
    assert "share the series" in caplog.text
