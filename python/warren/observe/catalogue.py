"""The metrics whose names dashboards and alerts know, by the component that owns them.

A component makes its group when it is built. Everything else that a component counts, it
declares itself through `Metrics`, named `warren_<component>_<what>_<unit>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter

from warren._histogram import Histogram
from warren.observe.metrics import Metrics

_REQUEST: Final = "request_id"
_CONTAINER: Final = "container_id"


class ApiMethod:
    """What is counted for one API method."""

    __slots__ = ("_failed", "_observe", "_succeeded")

    def __init__(self, duration: Histogram, succeeded: Counter, failed: Counter) -> None:
        self._observe = duration.observe_with
        self._succeeded = succeeded
        self._failed = failed

    def record(self, seconds: float, request_id: str, *, ok: bool) -> None:
        """Count one finished request that took `seconds`."""
        self._observe(seconds, request_id)
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
            exemplar=_REQUEST,
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
        self.create = _operation(metrics, "service", "create", "Creating a service.", _REQUEST)
        self.update = _operation(metrics, "service", "update", "Updating a service.", _REQUEST)
        self.delete = _operation(metrics, "service", "delete", "Deleting a service.", _REQUEST)


class ContainerMetrics:
    """How long the operations on containers take."""

    def __init__(self, metrics: Metrics) -> None:
        self.create = _operation(
            metrics,
            "container",
            "create",
            "Making a container's snapshot and runtime container.",
            _CONTAINER,
        )
        self.start = _operation(
            metrics,
            "container",
            "start",
            "From a container's task being created to it running.",
            _CONTAINER,
        )
        self.stop = _operation(
            metrics,
            "container",
            "stop",
            "From a container being asked to stop to it being gone.",
            _CONTAINER,
        )


def _operation(
    metrics: Metrics, noun: str, verb: str, documentation: str, exemplar: str
) -> Histogram:
    name = f"warren_{noun}_{verb}_duration_seconds"
    return metrics.histogram(name, documentation, exemplar=exemplar).child()
