"""What came of a simulated fleet."""

from __future__ import annotations

import statistics
from typing import Any

from warren._histogram import Histogram
from warren.agent.fleet.fleet import Fleet

__all__ = ["summary", "table"]

_MIB = 1 << 20


def summary(
    fleet: Fleet,
    *,
    connect_s: float,
    deploy_s: float,
    cpu_percent: tuple[float, float],
    memory_bytes: tuple[int, int],
    astray: int | None,
    why_not: str,
) -> dict[str, Any]:
    """Everything, by stable names; times in milliseconds or seconds as the names say.

    What is said of processes is the manager's and then this one's; CPU is of one core. `astray`:
    containers that do not run where the manager says, or run besides; None where nobody counted.
    """
    plan, seen = fleet.plan, fleet.seen
    running = fleet.count()
    per_host = fleet.per_host()
    return {
        "seed": plan.seed,
        "nodes": plan.nodes,
        "nodes_connected": seen.connected,
        "connect_s": round(connect_s, 3),
        "containers_wanted": fleet.wanted,
        "containers_running": running,
        "containers_astray": astray,
        "deploy_s": round(deploy_s, 3),
        "containers_per_second": round(plan.services * plan.replicas / deploy_s, 1)
        if deploy_s
        else 0.0,
        "why_not": why_not,
        "used_percent": {
            "cpu": _percent(running * plan.container_cpu_milli, plan.nodes * plan.node_cpu_milli),
            "memory": _percent(
                running * plan.container_memory_bytes, plan.nodes * plan.node_memory_bytes
            ),
        },
        "containers_per_node": {
            "min": min(per_host, default=0),
            "mean": round(statistics.fmean(per_host), 2) if per_host else 0.0,
            "max": max(per_host, default=0),
        },
        "assigned_ms": _milliseconds(seen.assigned),
        "placed_ms": _milliseconds(seen.placed),
        "replaced_ms": _milliseconds(seen.replaced),
        "heartbeat_deploying_ms": _milliseconds(seen.heartbeats_before),
        "heartbeat_ms": _milliseconds(seen.heartbeats),
        "container_failures": seen.failures,
        "nodes_lost": seen.hosts_lost,
        "sessions_lost": seen.sessions_lost,
        "scalings": seen.scalings,
        **{
            name: {"cpu_percent": round(cpu, 1), "memory_mib": round(held / _MIB, 1)}
            for name, cpu, held in zip(("manager", "fleet"), cpu_percent, memory_bytes, strict=True)
        },
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


def _milliseconds(histogram: Histogram) -> dict[str, float]:
    if not histogram.count:
        return {"count": 0}
    points = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        "count": histogram.count,
        **{name: round(histogram.quantile(q) * 1e3, 3) for name, q in points.items()},
    }


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    used, hosts = found["used_percent"], found["containers_per_node"]
    nodes = (
        f"{found['nodes_connected']:,} of {found['nodes']:,} connected, all after "
        f"{found['connect_s']:.1f} s; {found['nodes_lost']:,} lost since"
    )
    containers = (
        f"{found['containers_running']:,} of {found['containers_wanted']:,} run; the first in "
        f"{found['deploy_s']:.1f} s, {found['containers_per_second']:,.0f}/s"
    )
    lines = [
        ("nodes", nodes),
        ("containers", containers),
        ("used", f"CPU {used['cpu']:g} %, memory {used['memory']:g} %"),
        ("on a node", f"{hosts['min']} to {hosts['max']}, mean {hosts['mean']:g}"),
        ("asked until its host knows", _times(found["assigned_ms"])),
        ("asked until it runs", _times(found["placed_ms"])),
        ("host lost until it runs again", _times(found["replaced_ms"])),
        ("heartbeat until acknowledged", _times(found["heartbeat_ms"])),
        ("the same while all was deployed", _times(found["heartbeat_deploying_ms"])),
        ("container failures", f"{found['container_failures']:,}"),
        ("manager", _process(found["manager"])),
        ("this process", _process(found["fleet"])),
    ]
    if found["containers_astray"]:
        lines.append(("astray", f"{found['containers_astray']:,} containers"))
    if found["why_not"]:
        lines.append(("not whole", found["why_not"]))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _process(of: dict[str, float]) -> str:
    return f"{of['cpu_percent']:g} % of a core, {of['memory_mib']:g} MiB"


def _times(of: dict[str, float]) -> str:
    if not of["count"]:
        return "none"
    shown = ", ".join(f"{name} {of[name]:,.0f} ms" for name in ("p50", "p99", "max"))
    return f"{shown} ({of['count']:,} times)"
