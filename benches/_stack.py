"""A private containerd and one `warrend` with a tiny image, for the length of a bench."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.containerd import Containerd, tiny_archive
from tests.support.node import WarrenNode

IMAGE = "docker.io/library/tiny:1"


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
def one_node(runtime: Containerd | None = None) -> Iterator[WarrenNode]:
    """A one-node cluster that has IMAGE; its services are removed at the end."""
    if runtime is None:
        with containerd() as own, one_node(own) as node:
            yield node
        return
    node = WarrenNode(runtime.address, runtime.new_namespace())
    node.up()
    archive = tiny_archive(node.root / "tiny.tar", IMAGE)
    node.ctl("image", "load", "-i", str(archive))
    try:
        yield node
    finally:
        node.close()
