"""The metrics whose names dashboards and alerts know, by the component that owns them.

A component makes its group when it is built. Everything else that a component counts, it
declares itself through `Metrics`, named `warren_<component>_<what>_<unit>`.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter

from warren._histogram import Histogram
from warren.observe.metrics import Metrics


class ApiMethod:
    """What is counted for one API method."""

    __slots__ = ("_failed", "_observe", "_succeeded")

    def __init__(self, duration: Histogram, succeeded: Counter, failed: Counter) -> None:
        self._observe = duration.observe
        self._succeeded = succeeded
        self._failed = failed

    def record(self, seconds: float, *, ok: bool) -> None:
        """Count one finished request that took `seconds`."""
        self._observe(seconds)
        (self._succeeded if ok else self._failed).inc()


class ApiMetrics:
    """Requests to the API by method. `methods` are exported from the first scrape on."""

    def __init__(self, metrics: Metrics, methods: Iterable[str]) -> None:
        requests = metrics.counter(
            "warren_api_requests_total", "API requests answered.", ("method", "status")
        )
        self.duration = metrics.histogram(
            "warren_api_request_duration_seconds",
            "From an API request's arrival to its answer.",
            ("method",),
        )
        self._methods = {
            name: ApiMethod(
                self.duration.child(name),
                requests.labels(name, "success"),
                requests.labels(name, "error"),
            )
            for name in methods
        }

    def method(self, name: str) -> ApiMethod:
        """The counters of one method. KeyError when it is not among those declared."""
        return self._methods[name]


class ServiceMetrics:
    """How long the operations on services take."""

    def __init__(self, metrics: Metrics) -> None:
        self.create = _operation(metrics, "service", "create", "Creating a service.")
        self.update = _operation(metrics, "service", "update", "Updating a service.")
        self.delete = _operation(metrics, "service", "delete", "Deleting a service.")


class ContainerMetrics:
    """How long the operations on containers take."""

    def __init__(self, metrics: Metrics) -> None:
        self.create = _operation(
            metrics, "container", "create", "Making a container's snapshot and runtime container."
        )
        self.start = _operation(
            metrics, "container", "start", "From a container's task being created to it running."
        )
        self.stop = _operation(
            metrics, "container", "stop", "From a container being asked to stop to it being gone."
        )


def _operation(metrics: Metrics, noun: str, verb: str, documentation: str) -> Histogram:
    name = f"warren_{noun}_{verb}_duration_seconds"
    return metrics.histogram(name, documentation).child()
