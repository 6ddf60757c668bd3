"""`top`: rates from two looks at a metrics page, and the screen that they go to."""

from __future__ import annotations

import http.server
import json
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import NODE_ID, FakeManager, RefusalError
from tests.unit.cli.test_status import LONG, NOW_MS, asked, node, service
from warren.cli import readings, screen, top, top_screen, views_top
from warren.cli.client import Client
from warren.cli.common import Settings
from warren.cli.shapes import RatesView, TopView
from warren.errors import WarrenError
from warren.pb.v1 import node_pb2, objects_pb2


def page(requests: int, errors: int, commits: int, *, leads: int = 1) -> str:
    """What a manager says after so many."""
    done = requests + errors
    return f"""\
# TYPE warren_api_requests_total counter
warren_api_requests_total{{method="ListNodes",status="success"}} {requests}
warren_api_requests_total{{method="ListNodes",status="error"}} {errors}
warren_api_request_duration_seconds_bucket{{method="ListNodes",le="0.005"}} {done * 0.9}
warren_api_request_duration_seconds_bucket{{method="ListNodes",le="0.01"}} {done}
warren_api_request_duration_seconds_bucket{{method="ListNodes",le="+Inf"}} {done}
warren_api_request_duration_seconds_sum{{method="ListNodes"}} {done * 0.002}
warren_api_request_duration_seconds_count{{method="ListNodes"}} {done}
warren_raft_commit_duration_seconds_sum {commits * 0.001}
warren_raft_commit_duration_seconds_count {commits}
warren_raft_is_leader {leads}
warren_core_latency_seconds{{of="commit",quantile="0.5"}} 0.0007
warren_core_latency_seconds{{of="commit",quantile="0.99"}} 0.004
warren_core_latency_seconds{{of="fsync",quantile="0.99"}} 0.0
warren_containers_total{{state="running"}} 7
warren_containers_total{{state="pending"}} 0
warren_raft_commit_duration_seconds_created broken
"""


def rates(before: str, now: str, seconds: float = 2.0) -> RatesView:
    return readings.rates(readings.parse(before, 10.0), readings.parse(now, 10.0 + seconds))


def test_rates_are_what_happened_between_two_looks() -> None:
    found = rates(page(100, 0, 50), page(300, 10, 90))
    assert found.api_per_s == pytest.approx(105)
    assert found.api_errors_per_s == pytest.approx(5)
    assert found.api_mean_s == pytest.approx(0.002)
    assert found.api_p99_s == 0.01
    assert found.commits_per_s == pytest.approx(20)
    assert found.commit_mean_s == pytest.approx(0.001)
    assert (found.commit_p50_s, found.commit_p99_s) == (0.0007, 0.004)
    assert found.fsync_p99_s is None, "zero: nothing has been measured"
    assert found.containers == {"running": 7}
    assert found.leads


def test_the_daemons_own_pings_count_for_nothing() -> None:
    pings = """\
warren_api_requests_total{{method="Ping",status="success"}} {n}
warren_api_requests_total{{method="Ping",status="error"}} {n}
warren_api_request_duration_seconds_bucket{{method="Ping",le="0.001"}} {n}
warren_api_request_duration_seconds_bucket{{method="Ping",le="+Inf"}} {n}
warren_api_request_duration_seconds_sum{{method="Ping"}} {n}
warren_api_request_duration_seconds_count{{method="Ping"}} {n}
"""
    quiet = rates(page(9, 0, 5) + pings.format(n=0), page(9, 0, 5) + pings.format(n=99))
    assert (quiet.api_per_s, quiet.api_errors_per_s) == (0, 0)
    assert (quiet.api_mean_s, quiet.api_p99_s) == (None, None)


def test_a_daemon_that_was_restarted_counts_from_zero() -> None:
    found = rates(page(1000, 0, 500), page(20, 0, 4))
    assert found.api_per_s == pytest.approx(10)
    assert found.commits_per_s == pytest.approx(2)


def clocked(clock_s: float, requests: int) -> str:
    """As `page`, rendered at a time of the daemon's clock; as prometheus_client writes it."""
    return f"{page(requests, 0, 0)}warren_clock_seconds {clock_s:.6e}\n"


@pytest.mark.parametrize(
    ("clocks_s", "fetched_s", "counted_s"),
    [
        ((1000.0, 1001.5), 2.0, 1.5),  # the second was half a second old
        ((1000.0, 1002.9), 2.0, 2.9),  # the first was
        ((1000.0, 1000.4), 0.2, 0.4),
        ((1000.0, 999.0), 2.0, 2.0),  # the clock was set
        ((1000.0, 4600.0), 2.0, 2.0),
    ],
)
def test_rates_are_of_the_time_between_two_pages(
    clocks_s: tuple[float, float], fetched_s: float, counted_s: float
) -> None:
    before, now = (clocked(at_s, n) for at_s, n in zip(clocks_s, (100, 160), strict=True))
    found = rates(before, now, fetched_s)
    assert found.seconds == pytest.approx(counted_s)
    assert found.api_per_s == pytest.approx(60 / counted_s)


def test_nothing_that_happened_has_no_latency() -> None:
    found = rates(page(100, 0, 50), page(100, 0, 50))
    assert (found.api_mean_s, found.api_p99_s, found.commit_mean_s) == (None, None, None)


def test_requests_slower_than_any_bound_have_a_p99_that_is_longer() -> None:
    slow = """\
warren_api_requests_total{{method="ListNodes",status="success"}} {n}
warren_api_request_duration_seconds_bucket{{method="ListNodes",le="5.0"}} 0
warren_api_request_duration_seconds_bucket{{method="ListNodes",le="10.0"}} 0
warren_api_request_duration_seconds_bucket{{method="ListNodes",le="+Inf"}} {n}
warren_api_request_duration_seconds_sum{{method="ListNodes"}} {seconds}
warren_api_request_duration_seconds_count{{method="ListNodes"}} {n}
"""
    found = rates(slow.format(n=0, seconds=0), slow.format(n=20, seconds=240))
    assert (found.api_mean_s, found.api_p99_s, found.api_p99_over_s) == (12.0, None, 10.0)
    screen_text = "\n".join(shown(views_top.top(look(rates=found), None), 100, None))
    assert "mean 12 s  p99 > 10 s" in screen_text
    within = rates(page(0, 0, 0), page(100, 0, 0))
    assert (within.api_p99_s, within.api_p99_over_s) == (0.01, None)


def look(**fields: Any) -> views_top.Look:
    base = asked()
    given = {
        "at_s": 10.0, "at_ms": NOW_MS, "cluster": base.cluster, "members": base.members,
        "nodes": [node("w1"), node("w2")], "services": [service("web", 2, 2)], "used": {},
        "rates": None, "rates_why": "not known: no metrics", "stale": False, "no_quorum": "",
    }  # fmt: skip
    return views_top.Look(**{**given, **fields})


def shown(view: TopView, width: int, height: int | None, looks: int = 3) -> list[str]:
    trends = views_top.Trends()
    for _ in range(looks):
        trends.add(view)
    return screen.paint(top_screen.lines(view, trends, width, height), colour=False)


def test_changes_are_counted_from_the_look_before() -> None:
    before = look(services=[service("web", 2, 4), service("db", 1, 1)])
    now = look(at_s=12.0, services=[service("web", 4, 4), service("db", 1, 1)])
    view = views_top.top(now, before)
    changes = {each.name: each.running_change_per_s for each in view.services}
    assert changes == {"web": 1.0, "db": 0.0}
    assert [each.name for each in view.services] == ["web", "db"], "what changes comes first"
    assert views_top.top(now, None).services[0].running_change_per_s is None


def test_nodes_that_are_down_and_full_ones_come_first() -> None:
    full = node("full", allocated=objects_pb2.Resources(cpu_milli=3900))
    down = node("down", objects_pb2.NODE_STATUS_DOWN)
    used = {full.node.id: objects_pb2.NodeUsage(cpu_milli=1000, memory_bytes=1 << 30)}
    view = views_top.top(look(nodes=[node("idle"), full, down], used=used), None)
    assert [each.name for each in view.nodes] == ["down", "full", "idle"]
    assert (view.nodes[1].cpu_used_milli, view.nodes[2].cpu_used_milli) == (1000, None)
    text = "\n".join(shown(view, 80, None))
    assert "1/3.9/4" in text
    assert "-/0/4" in text


@pytest.mark.parametrize(("width", "height"), [(40, 24), (80, 24), (80, 50), (160, 24), (200, 50)])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    found = rates(page(100, 0, 50), page(300, 10, 90))
    many = look(
        rates=found, rates_why="",
        nodes=[node(f"node-{n:03}-with-a-rather-long-name-for-a-host") for n in range(200)],
        services=[service(f"{n:03}-{LONG}"[:63], n % 3, 2) for n in range(200)],
    )  # fmt: skip
    lines = shown(views_top.top(many, None), width, height)
    assert len(lines) <= height
    assert max(map(screen.text_width, lines)) <= width
    assert any("more nodes" in it for it in lines)
    assert any("more services" in it for it in lines)


def test_what_only_the_leader_counts_is_said_of_others() -> None:
    found = rates(page(1, 0, 1, leads=0), page(2, 0, 1, leads=0))
    assert not found.leads
    text = "\n".join(shown(views_top.top(look(rates=found), None), 80, None))
    assert "counted on the leader" in text
    assert "p50" not in text


def test_why_there_are_no_rates_is_said() -> None:
    text = "\n".join(shown(views_top.top(look(), None), 80, None))
    assert "rates: not known: no metrics" in text


def test_trends_are_bounded_and_forget_services_that_are_gone() -> None:
    trends = views_top.Trends()
    for _ in range(500):
        trends.add(views_top.top(look(), None))
    assert len(trends.running) == views_top.TREND_LOOKS
    trends.add(views_top.top(look(services=[]), None))
    assert trends.services == {}


# The command, against a manager on the wire


@pytest.fixture
def metrics() -> Iterator[str]:
    """The address of a page that counts 10 requests and 4 commits more each time it is read."""
    reads = iter(range(1, 1000))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = next(reads)
            body = page(10 * number, 0, 4 * number).encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def tell_address(manager: FakeManager, address: str) -> None:
    answer = node_pb2.GetDaemonResponse(node_id=NODE_ID, metrics_address=address)
    manager.GetDaemon = lambda _: answer  # type: ignore[method-assign]


def test_once_reads_rates_where_the_daemon_says(
    ctl: Run, manager: FakeManager, metrics: str
) -> None:
    tell_address(manager, metrics)
    done = ctl("top", "--once", "--format=json")
    view = msgspec.json.decode(done.out, type=TopView)
    assert view.rates is not None, view.rates_why
    assert view.rates.api_per_s * view.rates.seconds == pytest.approx(10)
    assert view.nodes[0].cpu_used_milli == 375
    assert (view.stale, view.rates_why) == (False, None)


def test_a_pipe_gets_one_plain_snapshot(ctl: Run, manager: FakeManager, metrics: str) -> None:
    done = ctl("top", "--metrics-address", metrics)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "p50 700 µs" in done.out
    assert len(manager.requests("GetCluster")) == 2


def test_metrics_that_cannot_be_read_are_no_failure(ctl: Run, manager: FakeManager) -> None:
    tell_address(manager, "127.0.0.1:1")
    done = ctl("top", "--once", "--format=json")
    view = json.loads(done.out)
    assert done.code == 0
    assert view["rates"] is None
    assert "no metrics at 127.0.0.1:1" in view["rates_why"]
    assert "--metrics-address" in view["rates_why"]


def test_a_page_that_is_not_new_leaves_the_rates_as_they_were(
    manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A daemon renders once a second: thirty requests a second, looked at five times.
    told = iter([clocked(1000.0, 0), clocked(1000.0, 0), clocked(1001.0, 30), clocked(1001.0, 30),
                 clocked(1002.0, 60)])  # fmt: skip
    monkeypatch.setattr(readings, "fetch", lambda _: next(told))
    settings = Settings()
    settings.host = manager.host
    seen: list[float | str | None] = []
    with Client(settings) as client:
        watch = top.Watch(client, "127.0.0.1:1")
        for _ in range(5):
            watch.again(0)
            view = watch.view()
            seen.append(view.rates_why if view.rates is None else view.rates.api_per_s)
    assert seen == ["known after the second look"] * 2 + [30.0] * 3


def test_an_older_daemon_does_not_tell_its_address(ctl: Run, manager: FakeManager) -> None:
    why = json.loads(ctl("top", "--once", "--format=json").out)["rates_why"]
    assert "does not tell where its metrics are" in why


def test_a_look_asks_once_what_all_nodes_use(ctl: Run, manager: FakeManager) -> None:
    settings = Settings()
    settings.host, manager.nodes = manager.host, 1_000
    with Client(settings) as client:
        watch = top.Watch(client, "127.0.0.1:1")
        watch.again(50)
        used = [each.cpu_used_milli for each in watch.view().nodes]
        assert used == [375] * 50 + [None] * 950, "the rows that are shown are the first"
        watch.again(1_000)
        used = [each.cpu_used_milli for each in watch.view().nodes]
        assert used == [375] * 256 + [None] * 744, "no more than one request may name"
        manager.used = None
        watch.again(50)
        assert watch.view().nodes[0].cpu_used_milli is None
        watch.again(0)
    asked = [method for method, _ in manager.seen]
    look = ["GetCluster", "ListNodes", "ListServices", "ListMembers"]
    assert asked == [*[*look, "ListNodes"] * 3, *look]


def test_after_a_failed_look_the_next_host_is_asked(
    manager: FakeManager, others: list[FakeManager]
) -> None:
    settings = Settings()
    settings.host = f"{manager.host},{others[0].host}"
    manager.refuse["GetCluster"] = deque([RefusalError("shutting_down", "it goes")])
    with Client(settings) as client:
        watch = top.Watch(client, "127.0.0.1:1")
        with pytest.raises(WarrenError, match="it goes"):
            watch.again(0)
        watch.again(0)
    assert len(others[0].requests("GetCluster")) == 1


def test_a_manager_that_hangs_is_asked_again_for_what_may_be_old(
    ctl: Run, manager: FakeManager, metrics: str
) -> None:
    manager.hangs.add("GetCluster")
    once = ("top", "--once", "--metrics-address", metrics, "--timeout=1s")
    done = ctl(*once, "--format=json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["stale"]
    manager.hangs.add("*")
    done = ctl(*once)
    assert done.code == 3
    assert "no answer in time" in done.err


def test_looking_too_often_is_refused(ctl: Run, manager: FakeManager) -> None:
    done = ctl("top", "--interval=10ms")
    assert done.code == 2
    assert "200ms or more" in done.err
