"""How long nobody can write when the leader is killed."""

from __future__ import annotations

import json
import selectors
import time

from benches._peer import Peer
from warren._histogram import Histogram

SETTLED_S = 0.3
NOBODY_S = 30


class Acknowledgements:
    """When writes were acknowledged, by member, as the processes say it one line each."""

    def __init__(self, peers: list[Peer]) -> None:
        self._selector = selectors.DefaultSelector()
        self.last: dict[Peer, float] = {}
        #: Those that are up, since they were followed.
        self.ready: set[Peer] = set()
        for peer in peers:
            self.follow(peer)

    def follow(self, peer: Peer) -> None:
        self._selector.register(peer, selectors.EVENT_READ)

    def forget(self, peer: Peer) -> None:
        """Read what a dead process had still said, and no more."""
        while lines := peer.lines():
            self._note(peer, lines)
        self._selector.unregister(peer)
        self.ready.discard(peer)

    def collect(self, seconds: float) -> Peer | None:
        """Read for at most so long; a member that acknowledged."""
        heard = None
        for key, _ in self._selector.select(seconds):
            peer: Peer = key.fileobj  # type: ignore[assignment]
            if self._note(peer, peer.lines()):
                heard = peer
        return heard

    def _note(self, peer: Peer, lines: list[bytes]) -> bool:
        said = {key for line in lines for key in json.loads(line)}
        if "ready" in said:
            self.ready.add(peer)
        if "acknowledged" in said:
            self.last[peer] = time.monotonic()
        return "acknowledged" in said


def fail_overs(peers: list[Peer], kills: int) -> Histogram:
    """Kill whoever leads, so many times; from the last write acknowledged to the next."""
    intervals = Histogram()
    for peer in peers:
        peer.tell("trickle")
    heard = Acknowledgements(peers)
    for _ in range(kills):
        leader = settled(heard, len(peers))
        leader.kill()
        heard.forget(leader)
        before, killed = heard.last.pop(leader), time.monotonic()
        heard.last.clear()
        while not heard.last:
            heard.collect(1)
            if time.monotonic() - killed > NOBODY_S:
                raise TimeoutError("nobody acknowledged a write after the leader was killed")
        intervals.observe(min(heard.last.values()) - before)
        leader.spawn()
        leader.tell("trickle")
        heard.follow(leader)
    return intervals


def settled(heard: Acknowledgements, members: int) -> Peer:
    """Who acknowledges, once all members are up and have had a while to catch up."""
    began = time.monotonic()
    until = None
    leader = None
    while until is None or time.monotonic() < until or leader is None:
        leader = heard.collect(1) or leader
        if until is None and len(heard.ready) == members:
            until = time.monotonic() + SETTLED_S
        if time.monotonic() - began > NOBODY_S:
            raise TimeoutError(f"not all of {members} members were up in time")
    return leader
