"""The network of test clusters does what its words say, seen with plain sockets."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator

import pytest

from tests.cluster import network
from tests.cluster.network import Network

PORT = 4000


@pytest.fixture
def lan() -> Iterator[Network]:
    """Three hosts."""
    made = Network(f"wt{secrets.token_hex(2)}")
    try:
        made.create(["a", "b", "c"])
        yield made
    finally:
        made.remove()
        assert network.namespaces(made.tag) == []


class Mailbox:
    """A UDP socket of a host, to see one way alone."""

    def __init__(self, lan: Network, host: str) -> None:
        self.address = (lan.addresses[host], PORT)
        self.socket = network.in_namespace(
            lan.namespace(host), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        self.socket.bind(self.address)

    def reaches(self, other: Mailbox, timeout_s: float = 0.3) -> bool:
        token = secrets.token_bytes(8)
        self.socket.sendto(token, other.address)
        other.socket.settimeout(timeout_s)
        try:
            return other.socket.recv(64) == token
        except TimeoutError:
            return False


@pytest.fixture
def boxes(lan: Network) -> Iterator[dict[str, Mailbox]]:
    made = {host: Mailbox(lan, host) for host in lan.addresses}
    yield made
    for box in made.values():
        box.socket.close()


def reached(boxes: dict[str, Mailbox]) -> set[str]:
    """Which ways are open, as `ab` for a to b."""
    ways = [(a, b) for a in boxes for b in boxes if a != b]
    return {a + b for a, b in ways if boxes[a].reaches(boxes[b])}


ALL = {"ab", "ac", "ba", "bc", "ca", "cb"}


def test_cuts_and_mends(lan: Network, boxes: dict[str, Mailbox]) -> None:
    assert reached(boxes) == ALL
    lan.cut("a", "b")
    assert reached(boxes) == ALL - {"ab", "ba"}
    lan.cut_one_way("c", "a")
    assert reached(boxes) == ALL - {"ab", "ba", "ca"}
    lan.mend("a", "b")
    assert reached(boxes) == ALL - {"ca"}
    lan.heal()
    assert reached(boxes) == ALL


def round_trip_s(lan: Network, client: str, server: str, payload: bytes) -> float:
    """Seconds for `payload` to go there and come back, on a connection that stands."""
    listener = network.tcp_socket(lan.namespace(server))
    caller = network.tcp_socket(lan.namespace(client))
    with listener, caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((lan.addresses[server], PORT))
        listener.listen(1)
        caller.settimeout(10)
        caller.connect((lan.addresses[server], PORT))
        answering, _ = listener.accept()
        answering.settimeout(10)
        with answering:
            began = time.monotonic()
            for sender, receiver in ((caller, answering), (answering, caller)):
                sender.sendall(payload)
                left = len(payload)
                while left:
                    left -= len(receiver.recv(left))
            return time.monotonic() - began


def test_a_delay_holds_every_packet_back_and_loses_none(lan: Network) -> None:
    large = secrets.token_bytes(100_000)
    before_s = round_trip_s(lan, "a", "b", b"x")
    lan.delay("b", 100)
    assert round_trip_s(lan, "a", "b", b"x") >= 0.2
    assert round_trip_s(lan, "a", "b", large) >= 0.2
    assert round_trip_s(lan, "a", "c", b"x") < 0.1, "others are not held back"
    lan.delay("b", 0)
    assert round_trip_s(lan, "a", "b", b"x") < before_s + 0.1


def test_hosts_can_come_later_and_the_switch_reaches_them(lan: Network) -> None:
    lan.add("d")
    with network.tcp_socket(lan.namespace("d")) as listener:
        listener.bind((lan.addresses["d"], PORT))
        listener.listen(1)
        with network.tcp_socket(lan.switch) as caller:
            caller.settimeout(5)
            caller.connect((lan.addresses["d"], PORT))
            assert caller.getsockname()[0] == network.SWITCH_ADDRESS
