"""Rates and latencies from what a daemon's metrics address says. Pure, but for the asking."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from warren.cli.shapes_status import RatesView

__all__ = ["Readings", "fetch", "parse", "rates"]

TIMEOUT_S: Final = 1.0
BYTES_MAX: Final = 16 << 20

_CLOCK: Final = "warren_clock_seconds"
# Of a page: it is kept for a second, and takes a while to render. What is further off is no age,
# but a clock that was set.
_AGE_S_MAX: Final = 2.0

# Only what is used is kept: a page may have a hundred thousand series.
_WANTED: Final = (
    "warren_api_requests_total",
    "warren_api_request_duration_seconds_bucket",
    "warren_api_request_duration_seconds_sum",
    "warren_api_request_duration_seconds_count",
    "warren_raft_commit_duration_seconds_sum",
    "warren_raft_commit_duration_seconds_count",
    "warren_raft_is_leader",
    "warren_core_latency_seconds",
    "warren_containers_scheduled_total",
    "warren_containers_failed_total",
    "warren_containers_total",
    _CLOCK,
)
# By which each daemon asks itself whether its API answers: no client's request.
_OWN: Final = ("method", "Ping")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = frozenset[tuple[str, str]]


class Readings(NamedTuple):
    """One look at the page. `at_s`: of the monotonic clock; `samples`: by name, by labels."""

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    @property
    def clock_s(self) -> float | None:
        """When the daemon rendered the page, by its own wall clock; None where it does not say."""
        return next(iter(self.samples[_CLOCK].values()), None)

    def is_page_of(self, other: Readings) -> bool:
        """Whether both looks saw the same page, as the daemon renders one about once a second."""
        return self.clock_s is not None and self.clock_s == other.clock_s


def fetch(address: str) -> str:
    """The page at `address` (host:port), or OSError, or ValueError for an answer that is none."""
    import http.client

    from warren.cli.parse import address as parsed

    host, port = parsed(address)
    # Where a daemon listens on every address, it listens on the loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        body = answer.read(BYTES_MAX)
    except http.client.HTTPException as error:
        raise ValueError(f"what answers is no metrics page ({type(error).__name__})") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"it answers with status {answer.status}")
    return body.decode(errors="replace")


def parse(text: str, at_s: float) -> Readings:
    """The samples of a page in the text format that are used here; the daemon's own pings are none.

    `at_s`: when it was fetched, of the monotonic clock.
    """
    samples: dict[str, dict[Labels, float]] = {name: {} for name in _WANTED}
    for row in text.splitlines():
        if not row.startswith(_WANTED):
            continue
        name, brace, rest = row.partition("{")
        if brace:
            words, _, value = rest.rpartition("} ")
        else:
            name, _, value = row.partition(" ")
            words = ""
        if name in samples:
            labels = frozenset(_LABEL.findall(words))
            if _OWN in labels:
                continue
            try:
                samples[name][labels] = float(value.split(" ")[0])
            except ValueError:
                continue
    return Readings(at_s, samples)


def rates(before: Readings, now: Readings) -> RatesView:
    """What happened between two looks. A counter that fell was reset: it counts from zero."""
    seconds = _seconds(before, now)
    requests = _grown(before, now, "warren_api_requests_total")
    errors = sum(n for labels, n in requests.items() if ("status", "error") in labels)
    commits = _total(before, now, "warren_raft_commit_duration_seconds_count")
    states = now.samples["warren_containers_total"]
    p99_s, p99_over_s = _p99(_grown(before, now, "warren_api_request_duration_seconds_bucket"))
    return RatesView(
        seconds=seconds,
        api_per_s=sum(requests.values()) / seconds,
        api_errors_per_s=errors / seconds,
        api_mean_s=_mean(before, now, "warren_api_request_duration_seconds"),
        api_p99_s=p99_s,
        api_p99_over_s=p99_over_s,
        leads=any(now.samples["warren_raft_is_leader"].values()),
        commits_per_s=commits / seconds,
        commit_mean_s=_mean(before, now, "warren_raft_commit_duration_seconds"),
        commit_p50_s=_quantile(now, "commit", "0.5"),
        commit_p99_s=_quantile(now, "commit", "0.99"),
        fsync_p99_s=_quantile(now, "fsync", "0.99"),
        placed_per_s=_total(before, now, "warren_containers_scheduled_total") / seconds,
        placements_failed_per_s=_total(before, now, "warren_containers_failed_total") / seconds,
        containers={dict(labels).get("state", ""): int(n) for labels, n in states.items() if n},
    )


def _seconds(before: Readings, now: Readings) -> float:
    """Between the two pages: either may have been up to a second old when it was fetched."""
    fetched_s = max(1e-9, now.at_s - before.at_s)
    if before.clock_s is None or now.clock_s is None:
        return fetched_s
    rendered_s = now.clock_s - before.clock_s
    was_set = rendered_s <= 0 or abs(rendered_s - fetched_s) > _AGE_S_MAX
    return fetched_s if was_set else rendered_s


def _grown(before: Readings, now: Readings, name: str) -> dict[Labels, float]:
    old = before.samples[name]
    grown = {}
    for labels, value in now.samples[name].items():
        earlier = old.get(labels, 0.0)
        grown[labels] = value - earlier if value >= earlier else value
    return grown


def _total(before: Readings, now: Readings, name: str) -> float:
    return sum(_grown(before, now, name).values())


def _mean(before: Readings, now: Readings, name: str) -> float | None:
    count = _total(before, now, f"{name}_count")
    return _total(before, now, f"{name}_sum") / count if count else None


def _p99(buckets: Mapping[Labels, float]) -> tuple[float | None, float | None]:
    """The bound of the first bucket that holds 99 of 100, all methods taken together; where only
    the last one does, which has none, the longest bound instead: it takes longer than that.
    """
    by_bound: dict[float, float] = {}
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        by_bound[bound] = by_bound.get(bound, 0.0) + count
    whole = max(by_bound.values(), default=0.0)
    if not whole:
        return None, None
    bounds = sorted(bound for bound in by_bound if bound != float("inf"))
    within = next((bound for bound in bounds if by_bound[bound] >= 0.99 * whole), None)
    over = bounds[-1] if within is None and bounds else None
    return within, over


def _quantile(now: Readings, of: str, quantile: str) -> float | None:
    wanted = frozenset({("of", of), ("quantile", quantile)})
    return now.samples["warren_core_latency_seconds"].get(wanted) or None
