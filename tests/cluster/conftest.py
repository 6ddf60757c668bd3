"""One cluster for all tests of a module: forming one takes seconds, and tests leave it whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.cluster import Cluster
from tests.cluster.waiting import wait_until

HEAL_TIMEOUT_S = 60.0
_failed = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing here works without namespaces; say so once for each test instead of failing."""
    missing = [name for name in ("ip", "nft", "nsenter") if shutil.which(name) is None]
    if os.geteuid() == 0 and not missing:
        return
    why = f"needs root, and {' and '.join(missing) or 'root'} is missing"
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Lets the fixture know that hosts' logs are of interest."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def formed(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Three managers and three workers, or what the module's SHAPE says."""
    shape = getattr(request.module, "SHAPE", {})
    async with Cluster(**shape) as cluster:
        print(f"{shape or 'three managers, three workers'}: formed in {cluster.formed_s:.1f} s")
        await cluster.open_clients()
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(formed: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """The module's cluster, whole; afterwards healed, all daemons up, no service left."""
    yield formed
    if request.node.stash.get(_failed, False):
        formed.show_logs()
    formed.heal()
    formed.aside.clear()
    for host in formed.hosts.values():
        if not host.alive:
            await host.start()
    await formed.wait_settled(HEAL_TIMEOUT_S)

    async def empty() -> bool:
        client = formed.any_client()
        for view in await client.services():
            if not view.service.removing:
                await client.remove(view.service.spec.name)
        return not await client.services()

    await wait_until(empty, "services are gone", HEAL_TIMEOUT_S)
