"""The metrics whose names dashboards and alerts know, by the component that owns them.

A component makes its group when it is built. Everything else that a component counts, it
declares itself through `Metrics`, named `warren_<component>_<what>_<unit>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from warren._histogram import Histogram
from warren.observe.metrics import Metrics

_REQUEST: Final = "request_id"
_CONTAINER: Final = "container_id"


class ApiMethod:
    """What is counted for one API method; by one thread, the event loop's."""

    __slots__ = ("_observe", "failed", "succeeded")

    def __init__(self, duration: Histogram) -> None:
        self._observe = duration.observe_with
        self.succeeded = 0
        self.failed = 0

    def record(self, seconds: float, request_id: str, *, ok: bool) -> None:
        """Count one finished request that took `seconds`."""
        self._observe(seconds, request_id)
        if ok:
            self.succeeded += 1
        else:
            self.failed += 1


class ApiMetrics:
    """Requests to the API by method. `methods` are exported from the first scrape on."""

    def __init__(self, metrics: Metrics, methods: Iterable[str]) -> None:
        self.duration = metrics.histogram(
            "warren_api_request_duration_seconds",
            "From an API request's arrival to its answer.",
            ("method",),
            exemplar=_REQUEST,
        )
        self._methods = {name: ApiMethod(self.duration.child(name)) for name in methods}
        metrics.counter_table(
            "warren_api_requests_total",
            "API requests answered, or given up by those who asked.",
            ("method", "status"),
            self._requests,
        )

    def method(self, name: str) -> ApiMethod:
        """The counters of one method. KeyError when it is not among those declared."""
        return self._methods[name]

    def _requests(self) -> dict[tuple[str, ...], float]:
        counts: dict[tuple[str, ...], float] = {}
        for name, method in self._methods.items():
            counts[name, "success"] = method.succeeded
            counts[name, "error"] = method.failed
        return counts


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
