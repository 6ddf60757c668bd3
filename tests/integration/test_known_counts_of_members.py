"""Managers with known counts: what one of them sends, the others have received."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.counted import AMONG_MEMBERS, Script, load
from tests.support.hosts import Host, leader_of, three_managers
from tests.support.node import eventually
from tests.support.scrape import Within, differences, family_of, samples
from warren.pb.v1 import api_pb2

LANES = ("urgent", "log", "bulk")
PASSED_ON = 7
REFUSED = 2
LARGE = 50
LARGE_BYTES = 60_000
"""So much that each member has to make a snapshot once: a log of 2 MiB is enough for that."""
SETTLED_S = 2.5
"""Nothing happens any more: two scrapes, each at most a second old."""

Found = dict[str, float]
Expectation = dict[str, float | Within]


def test_what_members_say_to_each_other_is_counted_on_both_sides(
    hosts: Callable[..., Host], tiny_image: Path
) -> None:
    managers = three_managers(hosts)
    leader = leader_of(managers)
    follower, other = (host for host in managers if host is not leader)
    load(leader, tiny_image)
    time.sleep(SETTLED_S)
    formed = _scrapes(managers)

    _write(follower, leader)
    time.sleep(SETTLED_S)
    written = _scrapes(managers)
    for host in managers:
        grown = _growth(written[host.number], formed[host.number])
        assert grown[_forwards("answered")] == (PASSED_ON if host is follower else 0)
        assert grown["warren_snapshot_duration_seconds_count"] == 1
        # What a follower passes on is judged when it is applied: refusals are in the log as well.
        assert grown["warren_raft_log_index"] == PASSED_ON + REFUSED + LARGE
        assert grown["warren_raft_elections_total"] == 0

    fourth = hosts(4)
    fourth.join(leader.api, manager=True)
    eventually(lambda: sum(view.voter for view in leader.members().values()) == 4, "four vote")
    time.sleep(SETTLED_S)
    managers.append(fourth)
    now = _scrapes(managers)
    received = "warren_snapshot_received_bytes_total"
    sent = now[leader.number]["warren_snapshot_sent_bytes_total"]
    assert sent == sum(found[received] for found in now.values())
    assert now[fourth.number][received] > LARGE * LARGE_BYTES

    known = set()
    for host in managers:
        expected = _expected(host, follower, leader, formed.get(host.number, {}))
        found = {name: n for name, n in now[host.number].items() if _is_among_members(name)}
        assert differences(found, expected) == [], f"of host {host.number}"
        known |= {family_of(name) for name in expected}
    assert known == set(AMONG_MEMBERS)
    _nothing_was_lost_between(managers)
    _who_is_killed_is_missed(leader, other)


def _write(follower: Host, leader: Host) -> None:
    """Through one that passes on, and is refused a few; then much, through the leader."""
    script = Script(follower)
    for number in range(PASSED_ON):
        script.create(script.spec(f"small-{number}", 0))
    for number in range(REFUSED):
        again = api_pb2.CreateServiceRequest(
            request=script.request_id(), spec=script.spec(f"small-{number}", 0)
        )
        assert script.refused("CreateService", again) == "name_taken"
    script = Script(leader)
    for number in range(LARGE):
        script.create(script.spec(f"large-{number}", 0, env=["A=" + "x" * LARGE_BYTES]))


def _scrapes(hosts: Iterable[Host]) -> dict[int, Found]:
    """Of each host, by its number, in a moment in which no heartbeat of it is in a queue."""

    def at_rest(host: Host) -> Found | None:
        found = samples(host.http("/metrics")[1])
        depths = [n for name, n in found.items() if name.startswith("warren_peer_queue_depth")]
        return None if any(depths) else found

    scrapes = {}
    for host in hosts:
        found = eventually(partial(at_rest, host), f"the queues of host {host.number} are empty")
        assert found is not None
        scrapes[host.number] = found
    return scrapes


def _growth(now: Mapping[str, float], before: Mapping[str, float]) -> Found:
    return {name: value - before.get(name, 0) for name, value in now.items()}


def _is_among_members(sample: str) -> bool:
    return family_of(sample) in AMONG_MEMBERS and "_bucket{" not in sample


def _expected(host: Host, follower: Host, leader: Host, formed: Mapping[str, float]) -> Expectation:
    """Of one of four: all samples that are about the others."""
    members = host.members()
    own = members.pop(host.node_id).member.id
    peers = [str(view.member.id) for view in members.values()]
    assert str(own) not in peers
    assert len(peers) == 3
    answered, refused = (PASSED_ON, REFUSED) if host is follower else (0, 0)
    so_far = formed.get(_forwards("answered"), 0) + answered
    passed_on = Within(so_far, so_far + 1, "the fourth asks any of them to add it")
    return {
        **_of_peers(peers),
        **_of_the_leader(peers, host is leader, formed),
        **_of_frames(),
        **_of_snapshots(host),
        _forwards("answered"): passed_on,
        _forwards("refused"): formed.get(_forwards("refused"), 0) + refused,
        _forwards("unknown"): 0,
        "warren_forwards_waiting": 0,
        "warren_forwards_taken": 0,
        # Cores pass writes on themselves: this is for managers of an older release.
        'warren_api_forwarded_total{status="success"}': 0,
        'warren_api_forwarded_total{status="error"}': 0,
        "warren_api_forwarding": 0,
        "warren_raft_cut": 0,
        "warren_raft_joint": 0,
        "warren_raft_learners": 0,
        "warren_state_hash_mismatches_total": 0,
    }


def _forwards(result: str) -> str:
    return f'warren_forwards_total{{result="{result}"}}'


def _of_the_leader(peers: Iterable[str], leads: bool, formed: Mapping[str, float]) -> Expectation:
    """What only the leader knows of the others; nothing is added to it elsewhere."""
    found: Expectation = {"warren_raft_voters_silent": 0}
    for peer in peers:
        labels = f'{{peer="{peer}"}}'
        found[f"warren_raft_peer_lag_entries{labels}"] = 0
        for name in ("count", "sum"):
            sample = f"warren_peer_round_trip_seconds_{name}{labels}"
            many = Within(SETTLED_S * 10, math.inf, "a heartbeat every 50 ms")
            took = Within(1e-6, math.inf, "how long they took is the network's matter")
            before = formed.get(sample, 0)
            found[sample] = (many if name == "count" else took) if leads else before
    return found


def _of_peers(peers: Iterable[str]) -> Expectation:
    some = Within(0, math.inf, "compared in sum with what the others received")
    early = Within(0, 50, "a member is told of before it listens")
    found: Expectation = {"warren_peer_links": 3}
    for peer in peers:
        for lane in LANES:
            labels = f'{{peer="{peer}",lane="{lane}"}}'
            found |= {
                f"warren_peer_connected{labels}": 1,
                f"warren_peer_queue_depth{labels}": 0,
                f"warren_peer_queue_full_total{labels}": 0,
                f"warren_peer_expired_frames_total{labels}": 0,
                f"warren_peer_lost_frames_total{labels}": 0,
                f"warren_peer_dial_failures_total{labels}": early,
                f"warren_peer_sent_frames_total{labels}": some,
                f"warren_peer_sent_bytes_total{labels}": some,
            }
    return found


def _of_frames() -> Expectation:
    some = Within(0, math.inf, "compared in sum with what the others sent")
    refusals = ("not_a_member", "frame_length", "too_many", "not_authenticated", "other_node")
    frames = (
        "garbled", "format", "other_cluster", "other_epoch", "other_receiver", "removed",
        "wrong_data_dir", "undecodable", "too_many",
    )  # fmt: skip
    return {
        **{f'warren_peer_received_frames_total{{lane="{lane}"}}': some for lane in LANES},
        **{f'warren_peer_received_bytes_total{{lane="{lane}"}}': some for lane in LANES},
        **{
            f'warren_peer_frames_total{{direction="{direction}"}}': some
            for direction in ("received", "sent")
        },
        "warren_peer_connections_accepted_total": 3 * len(LANES),
        **{f'warren_peer_connections_refused_total{{reason="{reason}"}}': 0 for reason in refusals},
        **{f'warren_peer_frames_refused_total{{reason="{reason}"}}': 0 for reason in frames},
        "warren_peer_unaddressed_frames_total": Within(
            0, 20, "who has just joined is written to before it is known where it is"
        ),
    }


def _of_snapshots(host: Host) -> Expectation:
    files = sorted((host.data_dir / "raft" / "snap").glob("*.snap"))
    some = Within(0, math.inf, "compared with what the others received or made")
    return {
        "warren_snapshot_bytes": files[-1].stat().st_size,
        "warren_snapshot_duration_seconds_count": some,
        "warren_snapshot_duration_seconds_sum": some,
        "warren_snapshot_failures_total": 0,
        "warren_snapshot_received_bytes_total": some,
        "warren_snapshot_receiving": 0,
        "warren_snapshot_sending": 0,
        "warren_snapshot_sent_bytes_total": some,
    }


# -- both sides ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """Of all members together, on one lane."""

    sent: float
    received: float


def _traffic(scrapes: Mapping[int, Found], what: str, lane: str) -> Traffic:
    sent = received = 0.0
    for found in scrapes.values():
        for name, value in found.items():
            if f'lane="{lane}"' in name:
                sent += value * name.startswith(f"warren_peer_sent_{what}_total")
                received += value * name.startswith(f"warren_peer_received_{what}_total")
    return Traffic(sent, received)


def _nothing_was_lost_between(hosts: list[Host]) -> None:
    """Members never fall silent, so what was received lies between what was sent a moment before
    and what was sent a moment later; but for what was written into connections that broke before
    anybody read it, as some did while the fourth joined.
    """
    looks = []
    for _ in range(3):
        looks.append(_scrapes(hosts))
        time.sleep(SETTLED_S)
    for what, unread in (("frames", 10), ("bytes", 10_000)):
        for lane in LANES:
            before, between, after = (_traffic(look, what, lane) for look in looks)
            assert 0 < between.received <= after.sent, (what, lane)
            assert before.sent - unread <= between.received, (what, lane)


def _who_is_killed_is_missed(leader: Host, other: Host) -> None:
    peer = str(leader.members()[other.node_id].member.id)
    labels = [f'{{peer="{peer}",lane="{lane}"}}' for lane in LANES]
    before = samples(leader.http("/metrics")[1])
    other.kill()

    def connected() -> set[float]:
        return {leader.metric(f"warren_peer_connected{each}") for each in labels}

    eventually(lambda: connected() == {0}, "no connection is left")
    other.start()
    eventually(lambda: connected() == {1}, "it is reached again")
    time.sleep(SETTLED_S)
    grown = _growth(samples(leader.http("/metrics")[1]), before)
    assert grown["warren_peer_connections_accepted_total"] == len(LANES)
    assert all(grown[f"warren_peer_dial_failures_total{each}"] > 0 for each in labels)
    assert grown["warren_raft_leader_changes_total"] == 0
    expected = _of_snapshots(other)["warren_snapshot_bytes"]
    assert other.metric("warren_snapshot_bytes") == expected, "of the run before"
