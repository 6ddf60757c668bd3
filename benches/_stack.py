"""A private containerd and one `warrend` with a tiny image, for the length of a bench."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from tests.support.containerd import Containerd, tiny_archive
from tests.support.node import WarrenNode
from warren import rpc
from warren.agent.fleet.cost import memory
from warren.pb.v1 import api_pb2

IMAGE = "docker.io/library/tiny:1"
AT_ONCE = 64
TIMEOUT_S = 60


@contextmanager
def containerd() -> Iterator[Containerd]:
    """Started by hand, ended by its process id."""
    runtime = Containerd()
    try:
        runtime.start()
        yield runtime
    finally:
        runtime.remove()


@contextmanager
def one_node(
    runtime: Containerd | None = None, *more: str, wrapper: Sequence[str] = ()
) -> Iterator[WarrenNode]:
    """A one-node cluster that has IMAGE; at the end its services are removed, all at once.

    `more`: options of the daemon; `wrapper`: the program that runs it, with its arguments.
    """
    if runtime is None:
        with containerd() as own, one_node(own, *more, wrapper=wrapper) as node:
            yield node
        return
    node = WarrenNode(runtime.address, runtime.new_namespace())
    node.wrapper = list(wrapper)
    node.up(*more)
    archive = tiny_archive(node.root / "tiny.tar", IMAGE)
    node.ctl("image", "load", "-i", str(archive))
    try:
        yield node
    finally:
        remove_services(node)
        node.close()


def memory_mib(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process."""
    found = memory(pid)
    return {"rss_mib": found.resident / 2**20, "pss_mib": found.shared_fairly / 2**20}


def remove_services(node: WarrenNode) -> None:
    """Through the API: a bench may have made thousands, and a process for each takes minutes."""
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        manager = rpc.Stub(channel, rpc.MANAGER)
        client = secrets.token_bytes(16)
        listed = manager.ListServices(api_pb2.ListServicesRequest(), timeout=TIMEOUT_S)
        under_way: deque[grpc.Future] = deque()
        for sequence, item in enumerate(listed.services, start=1):
            request = api_pb2.RemoveServiceRequest(service_id=item.service.id)
            request.request.client, request.request.sequence = client, sequence
            under_way.append(manager.RemoveService.future(request, timeout=TIMEOUT_S))
            if len(under_way) == AT_ONCE:
                under_way.popleft().result()
        for removal in under_way:
            removal.result()
