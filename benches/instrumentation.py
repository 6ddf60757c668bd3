"""What measuring itself costs Warren: the same load with instrumentation on and off, in turns.

One process is asked throughout, and its measuring is turned off and on again between short rounds:
on, off, off, on, and so forth, so that what changes slowly meets both. Each round is compared with
its neighbour; the cost is the median of these ratios, and its spread the 95 % interval of that
median, by ranks.

- service create, and empty RPC: 64 callers on a real daemon (`benches._switched`); what a round
  creates is removed before the next one
- commit: a bare member (`warren_peer`), 256 commands of 300 bytes in flight
- one `observe`, from Python and in Rust, and all that one request has of it in Python

Off, the core reads no clock for a histogram, and writes none of its histograms, gauges of the state
and counts of the log; the daemon neither counts nor times requests. What stays is, of the core, the
clock that it decides by, and of the daemon two readings of the clock a request, and `observe_with`
of the duration of a create.

    python -m benches.instrumentation [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import grpc.aio
import uvloop

from benches import _switched
from benches._common import Report, arguments
from benches._peer import Peer, built, members, rate
from benches._peer import histogram as merged
from benches._stack import IMAGE, one_node
from benches.histogram import best_ns
from tests.support.node import WarrenNode
from warren import rpc
from warren._histogram import Histogram
from warren.observe.catalogue import ApiMetrics
from warren.observe.metrics import Metrics
from warren.pb.v1 import api_pb2, commands_pb2

CALLERS, IN_FLIGHT = 64, 256
CREATE, COMMIT = f"service create, {CALLERS} callers", f"commit, {IN_FLIGHT} in flight"
GOAL_PERCENT = 2.0
PYTHON_GOAL_NS, RUST_GOAL_NS = 80, 15
#: Of the normal distribution: 95 % lie within so many standard deviations.
DEVIATIONS = 1.96


@dataclass(frozen=True)
class Sizes:
    """Pairs of rounds, and calls in each. A round of commits is short and depends on the disk: its
    median takes more pairs."""

    pairs: int
    creates: int
    pings: int
    commit_pairs: int
    commits: int


FULL = Sizes(pairs=150, creates=256, pings=512, commit_pairs=600, commits=10_000)
QUICK = Sizes(pairs=2, creates=64, pings=64, commit_pairs=2, commits=300)


@dataclass(frozen=True)
class Round:
    """Calls a second, and the processor time of the process that was asked, for each."""

    per_second: float
    cpu_us: float


@dataclass
class Turns:
    """Rounds of one load, in pairs, and all their latencies."""

    pairs: list[tuple[Round, Round]] = field(default_factory=list)
    latencies: dict[bool, Histogram] = field(
        default_factory=lambda: {True: Histogram(), False: Histogram()}
    )

    async def take(
        self,
        pairs: int,
        switch: Callable[[bool], None],
        work: Callable[[Histogram], Awaitable[Round]],
    ) -> Turns:
        """So many pairs; at the end it is on again."""
        await work(Histogram())  # which nobody looks at: everything has been used once then
        for number in range(pairs):
            found: dict[bool, Round] = {}
            for on in (True, False) if number % 2 == 0 else (False, True):
                switch(on)
                found[on] = await work(self.latencies[on])
            self.pairs.append((found[True], found[False]))
        switch(True)
        return self

    def report(self, report: Report, name: str) -> None:
        """Rows of both, one of the ratios, and the goal."""
        for on, word in ((False, "off"), (True, "on")):
            mine = [pair[0 if on else 1] for pair in self.pairs]
            report.latency(
                f"{name}, {word}", self.latencies[on],
                per_second=median(one.per_second for one in mine),
                cpu_us=median(one.cpu_us for one in mine),
            )  # fmt: skip
        speed = Spread.of([on.per_second / off.per_second for on, off in self.pairs])
        work = Spread.of([on.cpu_us / off.cpu_us for on, off in self.pairs])
        report.row(
            f"{name}: on against off",
            per_second_ratio=speed.middle, low=speed.low, high=speed.high,
            cpu_ratio=work.middle, cpu_low=work.low, cpu_high=work.high,
        )  # fmt: skip
        cost = Spread(*(100 * (1 - x) for x in (speed.middle, speed.high, speed.low)))
        more = Spread(*(100 * (x - 1) for x in (work.middle, work.low, work.high)))
        report.headline[f"{name} cost_percent"] = cost.middle
        if cost.high - cost.low > GOAL_PERCENT:
            report.note(
                f"{name}: the spread is wider than the goal; run it where nothing else runs"
            )
        report.goal(
            f"{name}: what instrumentation costs", f"≤ {GOAL_PERCENT:g} % of throughput",
            f"{cost}", cost.middle <= GOAL_PERCENT, f"processor time of the process {more}",
        )  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """A median, and where the true one lies in 95 of 100 cases."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """How many values lie below the true median is binomial: a rank, give or take √n."""
        ranked = sorted(values)
        off = math.ceil(DEVIATIONS * math.sqrt(len(ranked)) / 2)
        first = max(0, len(ranked) // 2 - off)
        last = min(len(ranked) - 1, (len(ranked) - 1) // 2 + off)
        return cls(median(ranked), ranked[first], ranked[last])

    def __str__(self) -> str:
        return f"{self.middle:.2f} % ({self.low:.2f} to {self.high:.2f})"


class Client:
    """64 callers on one channel."""

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self._pid = pid
        self._manager = rpc.Stub(channel, rpc.MANAGER)
        self._client = secrets.token_bytes(16)
        self._sequence = 0
        self._made: list[bytes] = []

    async def round(self, act: Callable[[], Awaitable[None]], calls: int, into: Histogram) -> Round:
        """As many calls by all callers together."""

        async def caller() -> None:
            for _ in range(calls // CALLERS):
                began = time.perf_counter()
                await act()
                into.observe(time.perf_counter() - began)

        spent_ns, began = cpu_ns(self._pid), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        seconds = time.perf_counter() - began
        return Round(calls / seconds, (cpu_ns(self._pid) - spent_ns) / calls / 1e3)

    async def creates(self, calls: int, into: Histogram) -> Round:
        """Services without replicas, gone again afterwards."""
        found = await self.round(self._create_one, calls, into)
        made, self._made = self._made, []
        for start in range(0, len(made), CALLERS):
            await asyncio.gather(*map(self._remove_one, made[start : start + CALLERS]))
        return found

    async def pings(self, calls: int, into: Histogram) -> Round:
        return await self.round(self._ping_one, calls, into)

    def _number(self, request: commands_pb2.RequestId) -> str:
        self._sequence += 1
        request.client, request.sequence = self._client, self._sequence
        return f"s{self._sequence}"

    async def _create_one(self) -> None:
        request = api_pb2.CreateServiceRequest()
        request.spec.name = self._number(request.request)
        request.spec.mode = 1  # type: ignore[assignment]  # SERVICE_MODE_REPLICATED
        request.spec.container.image = IMAGE
        self._made.append((await self._manager.CreateService(request, timeout=30)).service_id)

    async def _remove_one(self, service_id: bytes) -> None:
        request = api_pb2.RemoveServiceRequest(service_id=service_id)
        self._number(request.request)
        await self._manager.RemoveService(request, timeout=30)

    async def _ping_one(self) -> None:
        await self._manager.Ping(api_pb2.PingRequest(), timeout=30)


def cpu_ns(pid: int) -> int:
    """Processor time of all its threads that live."""
    spent_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            spent_ns += int((task / "schedstat").read_text().split()[0])
    return spent_ns


async def api(node: WarrenNode, switch: Path, sizes: Sizes) -> dict[str, Turns]:
    """Both loads on the daemon."""
    async with grpc.aio.insecure_channel(f"unix:{node.socket}") as channel:
        client = Client(channel, node.pid)
        tell = partial(_switched.tell, switch)
        creates, pings = partial(client.creates, sizes.creates), partial(client.pings, sizes.pings)
        return {
            CREATE: await Turns().take(sizes.pairs, tell, creates),
            f"empty RPC, {CALLERS} callers": await Turns().take(sizes.pairs, tell, pings),
        }


def check_counts(node: WarrenNode, sizes: Sizes) -> None:
    """The daemon has counted the rounds with instrumentation, the first one too, and no others.

    Raises RuntimeError. The daemon's own pings may be among them, which are fewer than a round's.
    """
    for method, calls in (("CreateService", sizes.creates), ("Ping", sizes.pings)):
        name = f'warren_api_requests_total{{method="{method}",status="success"}}'
        counted, expected = node.metric(name), calls * (sizes.pairs + 1)
        if not expected <= counted < expected + calls:
            raise RuntimeError(f"{counted:g} calls of {method} were counted, not {expected}")


def commits_counted(peer: Peer) -> int:
    page: str = peer.ask("metrics")
    name = "warren_raft_commit_duration_seconds_count "
    return next(int(x.removeprefix(name)) for x in page.splitlines() if x.startswith(name))


async def commits(peer: Peer, sizes: Sizes) -> Turns:
    """The load on the bare member. Raises RuntimeError where the switch does not work."""
    peer.ask("worker 256")

    def switch(on: bool) -> None:
        peer.ask(f"measure {'on' if on else 'off'}")

    async def work(into: Histogram) -> Round:
        _, before_ns = peer.cpu_ns()
        load = peer.ask(f"load report {sizes.commits} {IN_FLIGHT}")
        _, after_ns = peer.cpu_ns()
        into.merge(merged([load]))
        return Round(rate([load]), (after_ns - before_ns) / load["done"] / 1e3)

    before = commits_counted(peer)
    taken = await Turns().take(sizes.commit_pairs, switch, work)
    counted, on = commits_counted(peer) - before, sizes.commits * (sizes.commit_pairs + 1)
    # A few of the cluster's own are among them, and the last step's may still be missing.
    if not on - IN_FLIGHT <= counted <= on + sizes.commits / 2:
        raise RuntimeError(f"{counted} commits were counted, not {on}")
    return taken


def observations(report: Report, *, quick: bool) -> None:
    """Nanoseconds of one `observe` in each language, and of what a request has of it."""
    calls, repeats = (2_000, 3) if quick else (100_000, 50)
    duration, count = Histogram(), ApiMetrics(Metrics(), ["Ping"]).method("Ping")
    names = {"clock": time.perf_counter, "count": count, "f": abs}
    names |= {"observe": duration.observe, "observe_with": duration.observe_with}
    statements = {
        "empty call from Python": "f(0.003)",
        "observe from Python": "observe(0.003)",
        "the same, with an exemplar": "observe_with(0.003, 'request')",
        "all of one create in Python": (
            "t = clock(); t = clock() - t; count.record(t, 'request', ok=True); "
            "observe_with(t, 'request')"
        ),
    }
    # In turns, so that a busy machine disturbs all alike; the best of each.
    best = dict.fromkeys(statements, math.inf)
    for _ in range(repeats):
        for name, statement in statements.items():
            best[name] = min(best[name], best_ns(statement, dict(names), calls, 1))
    for name, ns in best.items():
        report.row(name, ns=ns)
    done = subprocess.run(
        [str(built("bench_histogram", quick=quick)), *(["--quick"] if quick else [])],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    rust = json.loads(done.stdout)
    report.row("observe in Rust", ns=rust["observe_ns"])
    report.row("reading the clock in Rust", ns=rust["clock_ns"])
    python = best["observe from Python"]
    empty, clock = best["empty call from Python"], rust["clock_ns"]
    for what, goal_ns, ns, beside in (
        ("observe from Python", PYTHON_GOAL_NS, python, f"empty call {empty:.0f} ns"),
        ("observe in Rust", RUST_GOAL_NS, rust["observe_ns"], f"reading the clock {clock:.0f} ns"),
    ):
        report.goal(what, f"≤ {goal_ns} ns", f"{ns:.1f} ns", ns <= goal_ns, beside)
    by_parts(report, CREATE, best["all of one create in Python"])


def by_parts(report: Report, name: str, ns: float) -> None:
    """A cost that a busy machine cannot hide, beside the one that was measured as a whole."""
    of_us = report.rows[f"{name}, off"]["cpu_us"]
    report.note(
        f"{name}: what is measured of each takes {ns:.0f} ns, "
        f"{ns / 10 / of_us:.2f} % of the {of_us:.1f} µs of processor time that it takes without"
    )


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    sizes = QUICK if options.quick else FULL
    report = Report("what instrumentation costs")
    with members(1, quick=options.quick) as [peer]:
        asyncio.run(commits(peer, sizes)).report(report, COMMIT)
    switch = Path(f"/tmp/warren-switch-{secrets.token_hex(4)}")
    program = [sys.executable, "-m", "benches._switched", str(switch)]
    try:
        with one_node(None, "--log-level=info", wrapper=program) as node:
            for name, taken in uvloop.run(api(node, switch, sizes)).items():
                taken.report(report, name)
            check_counts(node, sizes)
    finally:
        switch.unlink(missing_ok=True)
    observations(report, quick=options.quick)
    report.finish(options)


if __name__ == "__main__":
    main()
