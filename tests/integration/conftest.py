"""One private containerd for the whole run, and what runs on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd, tiny_archive


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
