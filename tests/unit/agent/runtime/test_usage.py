"""What containers use, from directories that look like cgroups of either version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from warren.agent.runtime.base import Usage
from warren.agent.runtime.containerd import usage

STAT_V1 = "cache 9000\ninactive_file 1\ntotal_cache 9000\ntotal_inactive_file 3000\n"
STAT_V2 = "anon 500\nfile 9000\ninactive_anon 1\ninactive_file 3000\nactive_file 6000\n"


def v1(root: Path, container_id: str, **changes: str) -> None:
    files = {
        "cpuacct/cpuacct.usage": "1234567890\n",
        "memory/memory.usage_in_bytes": "10000\n",
        "memory/memory.stat": STAT_V1,
        "pids/pids.current": "4\n",
        "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 70\n8:0 Write 9\nTotal 79\n",
    }
    _write(root, {k.replace("/", f"/warren/{container_id}/"): v for k, v in files.items()}, changes)


def v2(root: Path, container_id: str, **changes: str) -> None:
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    files = {
        "cpu.stat": "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n",
        "memory.current": "10000\n",
        "memory.stat": STAT_V2,
        "pids.current": "4\n",
        "io.stat": "8:0 rbytes=70 wbytes=9 rios=2 wios=1 dbytes=0 dios=0\n",
    }
    _write(root, {f"warren/{container_id}/{k}": v for k, v in files.items()}, changes)


def _write(root: Path, files: dict[str, str], changes: dict[str, str]) -> None:
    for relative, text in files.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changes.get(path.name.replace(".", "_"), text))


@pytest.mark.parametrize(("make", "cpu_ns"), [(v1, 1_234_567_890), (v2, 1_234_567_000)])
def test_of_all_that_are_there(tmp_path: Path, make: Callable[..., None], cpu_ns: int) -> None:
    make(tmp_path, "a")
    make(tmp_path, "b", memory_stat="total_inactive_file 10001\ninactive_file 10001\n")
    make(tmp_path, "another_node_s")
    whole = Usage(
        cpu_ns=cpu_ns,
        memory_bytes=10_000,
        working_set_bytes=7_000,
        pids=4,
        read_bytes=70,
        written_bytes=9,
    )
    # More page cache than memory: the two files were read one after the other.
    full = msgspec.structs.replace(whole, working_set_bytes=0)
    assert usage.read_all("/warren", ["a", "b", "gone"], tmp_path) == {"a": whole, "b": full}


@pytest.mark.parametrize("make", [v1, v2])
def test_one_that_vanishes_half_way_is_left_out(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path, "a")
    make(tmp_path, "b")
    (pids,) = tmp_path.glob("**/b/pids.current")
    pids.unlink()
    assert list(usage.read_all("/warren", ["a", "b"], tmp_path)) == ["a"]


def test_what_is_no_cgroup_file_is_said(tmp_path: Path) -> None:
    v2(tmp_path, "a", memory_current="lots\n")
    with pytest.raises(ValueError, match=r"memory\.current"):
        usage.read_all("/warren", ["a"], tmp_path)


@pytest.mark.parametrize("make", [v1, v2])
def test_a_kernel_that_does_not_count_the_disk(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path, "a")
    for pattern in ("**/io.stat", "**/blkio.throttle.*"):
        for file in tmp_path.glob(pattern):
            file.unlink()
    found = usage.read_all("/warren", ["a"], tmp_path)["a"]
    assert (found.read_bytes, found.written_bytes, found.pids) == (None, None, 4)
