"""The paths that the daemon's metrics address serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from warren.observe import openmetrics
from warren.observe.health import COMPONENTS, Answer, Health
from warren.observe.http import (
    REFUSALS,
    Handler,
    HttpServer,
    Request,
    Response,
    text_response,
)
from warren.observe.metrics import CONTENT_TYPE, Metrics, Scraper


def routes(health: Health, works: Works, scraper: Scraper) -> dict[str, Handler]:
    """`/live`, `/health` with a page for each component, `/ready` and `/metrics`."""

    async def live() -> Answer:
        return health.live()

    async def metrics(request: Request) -> Response:
        await works.look()
        if openmetrics.accepted(request.accept):
            text = await scraper.scrape(as_openmetrics=True)
            return Response(HTTPStatus.OK, text, openmetrics.CONTENT_TYPE)
        return Response(HTTPStatus.OK, await scraper.scrape(), CONTENT_TYPE)

    return {
        **{f"/health/{name}": _component(health, name) for name in COMPONENTS},
        "/live": _probe(live),
        "/health": _probe(health.health),
        "/ready": _probe(health.ready),
        "/metrics": metrics,
    }


def declare_http(metrics: Metrics, server: HttpServer) -> None:
    """Export how busy the server is and what it refused."""
    metrics.gauge_function(
        "warren_observe_http_connections",
        "Open connections to the metrics address.",
        lambda: server.connections,
    )
    metrics.register(_Refusals(server))


class Works(Collector):
    """Whether each component of a daemon works, as `/health` says."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._found: dict[str, bool] = {}

    async def look(self) -> None:
        """On the event loop, before a scrape: at most as long as a check may take."""
        await self._health.look()
        self._found = self._health.works()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "warren_component_healthy",
            "Whether a component of this daemon works (0 or 1), as /health says.",
            labels=("component",),
        )
        for name, works in self._found.items():
            family.add_metric((name,), works)
        yield family


def _probe(ask: Callable[[], Awaitable[Answer]]) -> Handler:
    async def handler(_request: Request) -> Response:
        return _response(await ask())

    return handler


def _component(health: Health, name: str) -> Handler:
    async def handler(_request: Request) -> Response:
        answer = await health.component(name)
        if answer is None:
            return text_response(HTTPStatus.NOT_FOUND, f"this daemon has no {name} at the moment")
        return _response(answer)

    return handler


def _response(answer: Answer) -> Response:
    status = HTTPStatus.OK if answer.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(status, msgspec.json.encode(answer.body) + b"\n")


class _Refusals(Collector):
    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "warren_observe_http_refusals",
            "Connections and requests to the metrics address that no handler answered.",
            labels=("reason",),
        )
        counts = dict.fromkeys(REFUSALS, 0) | self._server.refusals.copy()
        for reason, count in sorted(counts.items()):
            family.add_metric((reason,), count)
        yield family
