"""One private containerd for the whole run, and what runs on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bench import Bench, bench_on
from tests.support.certificates import Authority
from tests.support.containerd import Containerd, tiny_archive
from tests.support.disk import small_file_system
from tests.support.hosts import Host
from tests.support.node import WarrenNode
from tests.support.prometheus import PROGRAM, Prometheus, Targets


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """A containerd that is always there; tests keep apart by namespace."""
    yield from _containerd()


@pytest.fixture
def own_containerd() -> Iterator[Containerd]:
    """A containerd that a test may stop and start."""
    yield from _containerd()


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of docker.io/library/tiny:1: busybox, the users root and web."""
    return tiny_archive(tmp_path_factory.mktemp("images") / "tiny.tar", "docker.io/library/tiny:1")


@pytest.fixture
def node(containerd: Containerd, tiny_image: Path) -> Iterator[WarrenNode]:
    """A one-node cluster that has the tiny image. Afterwards nothing may be left of it."""
    node = WarrenNode(containerd.address, containerd.new_namespace())
    node.up()
    node.ctl("image", "load", "-i", str(tiny_image))
    yield node
    node.close()
    containerd.assert_nothing_left(node.namespace)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 48 MiB of its own."""
    with small_file_system() as mount:
        yield mount


@pytest.fixture
async def bench(containerd: Containerd, tmp_path: Path, tiny_image: Path) -> AsyncIterator[Bench]:
    """Fails the test if anything is left in the end."""
    async for made in bench_on(containerd, tmp_path, tiny_image):
        yield made


@pytest.fixture
async def own_bench(
    own_containerd: Containerd, tmp_path: Path, tiny_image: Path
) -> AsyncIterator[Bench]:
    """With a containerd that the test may stop."""
    async for made in bench_on(own_containerd, tmp_path, tiny_image):
        yield made


def _containerd() -> Iterator[Containerd]:
    missing = [name for name in ("containerd", "runc") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, and {' and '.join(missing) or 'root'} is missing")
    running = Containerd()
    running.start()
    try:
        yield running
    finally:
        running.remove()


@pytest.fixture
def hosts(containerd: Containerd, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Makes started hosts; each ends with the test, whatever became of it."""
    authority = Authority(tmp_path / "ca")
    made: list[Host] = []

    def make(number: int, *, manager: bool = True, started: bool = True) -> Host:
        host = Host(containerd, authority, number, manager=manager)
        made.append(host)
        if started:
            host.start()
        return host

    yield make
    for host in made:
        print(f"--- host {host.number}\n{host.log()[-6000:]}")  # shown if the test fails
        host.discard()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[[Targets], Prometheus]]:
    """Makes a started Prometheus of targets; it ends with the test."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    made: list[Prometheus] = []

    def make(targets: Targets) -> Prometheus:
        made.append(Prometheus(tmp_path / "prometheus", "test.example", targets))
        made[-1].start()
        return made[-1]

    yield make
    for prometheus in made:
        prometheus.stop()
