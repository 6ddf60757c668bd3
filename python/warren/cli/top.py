"""`warrenctl top`: the cluster, live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, read_options
from warren.cli.params import Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warren.cli.client import Client
    from warren.cli.readings import Readings
    from warren.cli.shapes_status import RatesView, TopView
    from warren.cli.views_top import Look
    from warren.pb.v1 import api_pb2, objects_pb2

__all__ = ["Watch", "top"]

INTERVAL_MS: Final = 2000
_INTERVAL_MS_MIN: Final = 200
_ONCE_APART_S: Final = 1.0
_LOOK_TIMEOUT_S: Final = 5.0
_ONCE_ROWS: Final = 60
_NODES_USED_MAX: Final = 256


@click.command(cls=Command)
@click.option(
    "--interval",
    type=Parsed("duration", parse.duration_ms),
    default=INTERVAL_MS,
    help="Look again so often, as in 500ms or 5s.  [default: 2s]",
)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option(
    "--metrics-address",
    metavar="HOST:PORT",
    default="",
    help="Where rates are read.  [default: what the daemon at the socket says]",
)
@read_options
@click.pass_obj
def top(settings: Settings, interval: int, once: bool, metrics_address: str) -> None:
    """Watch the cluster live: nodes, services, containers, rates and latencies.

    Nodes: what containers use, what is held for them (reserved), and what may be; the fullest
    first. Services: those first that lack containers. Rates and latencies are those of the daemon
    that is asked, since the look before; percentiles of commits since it started. `q` or Ctrl-C
    ends it.

    With --once, with --format json or yaml, and where the output is no terminal: two looks a second
    apart, shown once.
    """
    import sys

    from warren.cli.client import Client

    if interval < _INTERVAL_MS_MIN:
        raise click.UsageError(f"--interval is {_INTERVAL_MS_MIN}ms or more")
    live = not once and settings.format == "table" and sys.stdout.isatty() and sys.stdin.isatty()
    with Client(settings, _LOOK_TIMEOUT_S) as client:
        watch = Watch(client, metrics_address)
        if live:
            _live(watch, interval / 1000)
        else:
            _once(watch, settings)


class Watch:
    """Looks at the cluster, and remembers the look before."""

    def __init__(self, client: Client, metrics_address: str) -> None:
        from warren.cli.views_top import Trends

        self._client = client
        self._metrics_address = metrics_address
        self._readings: Readings | None = None
        self._newest_rates: RatesView | None = None
        self._before: Look | None = None
        self.look: Look | None = None
        self.trends = Trends()

    def again(self, nodes_used_max: int) -> None:
        """Look once more; `nodes_used_max`: of how many nodes what they use is asked for.

        Raises WarrenError where no manager answers; the look before stays.
        """
        from warren.cli import second_look, views_top
        from warren.cli.client import Deadline

        client = self._client
        client.deadline = Deadline(client.settings.timeout_s(_LOOK_TIMEOUT_S))
        found = second_look.look(client, lambda why: self._looked(nodes_used_max, why))
        self._before, self.look = self.look, found
        self.trends.add(views_top.top(found, self._before))

    def view(self) -> TopView:
        """The newest look, with what has changed since the one before."""
        from warren.cli import views_top

        assert self.look is not None
        return views_top.top(self.look, self._before)

    def _looked(self, nodes_used_max: int, no_quorum: str) -> Look:
        import time

        from warren.cli import members, views_top
        from warren.pb.v1 import api_pb2

        call = self._client.call
        cluster = call("GetCluster", api_pb2.GetClusterRequest(), retry=False)
        nodes = call("ListNodes", api_pb2.ListNodesRequest(), retry=False)
        services = call("ListServices", api_pb2.ListServicesRequest(), retry=False)
        of_members, _ = members.all_members(self._client, nodes)
        used = self._used(views_top.worth_a_row(nodes.nodes)[:nodes_used_max])
        rates, rates_why = self._rates()
        return views_top.Look(
            at_s=time.monotonic(),
            at_ms=time.time_ns() // 1_000_000,
            cluster=cluster,
            members=of_members,
            nodes=nodes.nodes,
            services=services.services,
            used=used,
            rates=rates,
            rates_why=rates_why,
            stale=self._client.settings.stale,
            no_quorum=no_quorum,
        )

    def _used(self, nodes: Sequence[api_pb2.NodeView]) -> dict[bytes, objects_pb2.NodeUsage]:
        """What these use, by their ids; without those of which it is not known."""
        from warren.pb.v1 import api_pb2

        # The most that one request may name, far more than a screen has rows.
        request = api_pb2.ListNodesRequest(node_ids=[it.node.id for it in nodes[:_NODES_USED_MAX]])
        if not request.node_ids:
            return {}
        answer: api_pb2.ListNodesResponse = self._client.call("ListNodes", request, retry=False)
        return {it.node.id: it.used for it in answer.nodes if it.HasField("used")}

    def _rates(self) -> tuple[RatesView | None, str]:
        import time

        from warren.cli import readings
        from warren.errors import WarrenError

        before, self._readings = self._readings, None
        rates, self._newest_rates = self._newest_rates, None
        try:
            address = self._metrics_address or self._told_address()
            now = readings.parse(readings.fetch(address), time.monotonic())
        except WarrenError as error:
            return None, error.message
        except (OSError, ValueError) as error:
            return None, f"not known: no metrics at {address} ({error}); see --metrics-address"
        if before is not None and now.is_page_of(before):
            # Looked at more often than the daemon renders: nothing new is known of them.
            now = before
        elif before is not None:
            rates = readings.rates(before, now)
        self._readings, self._newest_rates = now, rates
        return (rates, "") if rates else (None, "known after the second look")

    def _told_address(self) -> str:
        from warren.errors import WarrenError
        from warren.pb.v1 import node_pb2

        try:
            daemon: node_pb2.GetDaemonResponse = self._client.call(
                "GetDaemon", node_pb2.GetDaemonRequest(), retry=False
            )
        except WarrenError as error:
            raise WarrenError(
                error.code,
                "not known: they are read at the metrics address of a daemon, which it tells only "
                "over its socket; run this on a manager's host, or name --metrics-address",
            ) from None
        if not daemon.metrics_address:
            raise WarrenError(
                "unavailable", "not known: this daemon does not tell where its metrics are; name "
                "--metrics-address",
            )  # fmt: skip
        return daemon.metrics_address


def _once(watch: Watch, settings: Settings) -> None:
    import time

    from warren.cli import render, terminal, top_screen

    width, height = terminal.size()
    asked = top_screen.nodes_shown(width, height)
    watch.again(asked)
    time.sleep(_ONCE_APART_S)
    watch.again(asked)
    view = watch.view()
    if settings.format != "table":
        render.show(settings, view)
        return
    # Below a prompt: as many rows as it takes, of a fleet no more than can be read.
    rows = max(height, _ONCE_ROWS)
    terminal.write(top_screen.lines(view, watch.trends, width, rows))


def _live(watch: Watch, interval_s: float) -> None:
    import time

    from warren.cli import terminal, top_screen
    from warren.errors import WarrenError

    watch.again(0)  # what cannot be asked at all is said on the terminal as it was
    with terminal.Live() as screen:
        said = ""
        while True:
            width, height = terminal.size()
            view = watch.view()
            screen.show(top_screen.lines(view, watch.trends, width, height - 1, said=said), height)
            if screen.wait(interval_s, (width, height)):
                return
            try:
                watch.again(top_screen.nodes_shown(width, height))
                said = ""
            except WarrenError as error:
                assert watch.look is not None
                age_s = time.monotonic() - watch.look.at_s
                said = f"no answer for {age_s:.0f} s, trying again: {error.message}"
