"""The log and consensus alone: commits, linearizable reads, fail-over, beside disk and etcd.

Members are bare processes around the daemon's core (the example `warren_peer`): its threads, log
and sockets, without Python or gRPC; load comes from a thread of the same process through the
core's ordinary door, one closed loop. A command is a worker's report on one container, about 300
bytes in the log; every acknowledged one is fsynced, by a majority where there are three members.
All members share one disk and the loopback interface.

- raw fdatasync: 512 bytes into a preallocated file of the same disk, in turns with the row below
- one member, 1 in flight; and 256
- three members, 256 in flight, asked at the leader
- etcd: three members of the distribution's etcd-server with its own defaults, values of 300 bytes,
  256 callers through its Go client over 16 connections to the leader (a client of another process
  over gRPC, which Warren's load does without)
- linearizable reads of three members, 64 in flight: at the leader, and spread over all three; each
  is a `GetService` of one service without containers, in a state of two services
- fail-over: kill -9 of the leader, from the last acknowledged write before to the first after, at
  whichever member; each tries a write at most every 2 ms

    python -m benches.consensus [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benches import _etcd
from benches._common import Report, arguments, raw_fdatasync
from benches._failover import fail_overs
from benches._peer import Peer, histogram, members, processor_time, rate

ROUNDS = 10
RAW = "raw fdatasync, 512 B"


@dataclass(frozen=True)
class Sizes:
    """How much is done of what."""

    single: int
    many: int
    etcd: int
    reads: int
    kills: int


FULL = Sizes(single=500, many=20_000, etcd=4_000, reads=40_000, kills=40)
QUICK = Sizes(single=20, many=300, etcd=300, reads=300, kills=2)


def rounds(work: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    return [work() for _ in range(ROUNDS)]


def one_member(report: Report, sizes: Sizes, *, quick: bool) -> None:
    """Durability of one: what it adds to the disk's own time."""
    with members(1, quick=quick) as [peer]:
        peer.ask("worker 256")
        raw, loads = None, []
        for _ in range(ROUNDS):
            raw = raw_fdatasync(peer.directory, sizes.single, raw)
            loads.append(peer.ask(f"load report {sizes.single} 1"))
        assert raw
        disk = report.latency(RAW, raw, limit=True)
        one = report.latency("one member, 1 in flight", histogram(loads), per_second=rate(loads))
        loads, cost = processor_time(
            [peer], lambda: rounds(lambda: peer.ask(f"load report {sizes.many} 256"))
        )
        report.note(f"one member, 256 in flight: {cost}")
        row = report.latency("one member, 256 in flight", histogram(loads), per_second=rate(loads))
        updates = rounds(lambda: peer.ask(f"load update {sizes.many // 4} 256"))
        report.latency("the same, service updates", histogram(updates), per_second=rate(updates))
    over_us = (one["p50"] - disk["p50"]) * 1000
    beside = f"raw fdatasync p50 {disk['p50']:.3f} ms, p99 {disk['p99']:.3f} ms"
    report.goal(
        "one member, 1 in flight", "p50 ≤ raw fdatasync + 60 µs",
        f"p50 {one['p50']:.3f} ms, raw + {over_us:.0f} µs", over_us <= 60, beside,
    )  # fmt: skip
    report.goal(
        "one member, 256 in flight", "≥ 100,000/s",
        f"{row['per_second']:,.0f}/s, p99 {row['p99']:.1f} ms", row["per_second"] >= 100_000,
        beside,
    )  # fmt: skip


def three_members(report: Report, sizes: Sizes, *, quick: bool) -> None:
    """Replicated commits in turns with etcd's, then reads, then fail-overs."""
    with members(3, quick=quick) as peers:
        leader = peers[0]
        leader.ask("worker 256")
        name = "three members, 256 in flight"
        loads, cost = processor_time(
            peers, lambda: rounds(lambda: leader.ask(f"load report {sizes.many} 256"))
        )
        report.note(f"{name}: {cost}")
        ours = report.latency(name, histogram(loads), per_second=rate(loads))
        reads_of(report, peers, sizes)
        intervals = fail_overs(peers, sizes.kills)
        times = report.latency("fail-over after kill -9", intervals, kills=intervals.count)
    report.goal(
        f"kill -9 of the leader, {intervals.count} times", "p50 ≤ 300 ms, p99 ≤ 700 ms",
        f"p50 {times['p50']:.0f} ms, p99 {times['p99']:.0f} ms",
        times["p50"] <= 300 and times["p99"] <= 700,
    )  # fmt: skip
    beside = etcd_of(report, sizes, ours["per_second"])
    report.goal(
        name, "≥ 20,000/s, p99 ≤ 30 ms",
        f"{ours['per_second']:,.0f}/s, p99 {ours['p99']:.1f} ms",
        ours["per_second"] >= 20_000 and ours["p99"] <= 30, beside,
    )  # fmt: skip


def reads_of(report: Report, peers: list[Peer], sizes: Sizes) -> None:
    loads, cost = processor_time(
        peers, lambda: rounds(lambda: peers[0].ask(f"load read {sizes.reads} 64"))
    )
    report.note(f"reads at the leader: {cost}")
    at_leader = report.latency(
        "reads at the leader, 64 in flight", histogram(loads), per_second=rate(loads)
    )
    spread: list[dict[str, Any]] = []
    per_second = []
    for _ in range(ROUNDS):
        shares = dict(zip(peers, (22, 21, 21), strict=True))
        for peer, in_flight in shares.items():
            peer.tell(f"load read {sizes.reads // 3} {in_flight}")
        answers = [peer.answer() for peer in peers]
        spread += answers
        per_second.append(sum(a["done"] for a in answers) / max(a["seconds"] for a in answers))
    everywhere = report.latency(
        "reads at all three, 64 in flight", histogram(spread),
        per_second=sum(per_second) / ROUNDS,
    )  # fmt: skip
    best = max(at_leader["per_second"], everywhere["per_second"])
    report.goal(
        "linearizable reads, three members, 64 in flight", "≥ 100,000/s",
        f"{at_leader['per_second']:,.0f}/s at the leader, "
        f"{everywhere['per_second']:,.0f}/s at all three", best >= 100_000,
    )  # fmt: skip


def etcd_of(report: Report, sizes: Sizes, ours_per_second: float) -> str:
    """The row of etcd, and how it compares, in words."""
    if why := _etcd.available():
        report.note(f"etcd was not measured: {why}")
        return "etcd was not there"
    with _etcd.three_members() as etcd:
        etcd.load(sizes.etcd, 256)
        loads = rounds(lambda: etcd.load(sizes.etcd, 256))
        reads = rounds(lambda: etcd.load(sizes.etcd, 64, "-read"))
    row = report.latency(
        f"etcd {etcd.version}, three members, 256 in flight", histogram(loads),
        per_second=rate(loads),
    )  # fmt: skip
    report.latency(
        f"etcd {etcd.version}, reads, 64 in flight", histogram(reads), per_second=rate(reads)
    )
    ratio = ours_per_second / row["per_second"]
    return f"etcd {row['per_second']:,.0f}/s, p99 {row['p99']:.1f} ms: × {ratio:.1f}"


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    sizes = QUICK if options.quick else FULL
    report = Report("commits, reads and fail-over")
    one_member(report, sizes, quick=options.quick)
    three_members(report, sizes, quick=options.quick)
    report.finish(options)


if __name__ == "__main__":
    main()
