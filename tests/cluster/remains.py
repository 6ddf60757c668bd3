"""What a test cluster leaves outside of its processes' memory: finding it, removing it.

By a note in its directory, so that another process can, also after a crash: `make cluster-stop`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scripts.background import start_ticks
from tests.cluster import network
from tests.cluster.disk import mounts_below, unmount_below
from tests.support import containerd as containerds
from tests.support.containerd import Containerd

NOTE: Final = "cluster.json"
#: Of the directories of test clusters, in the system's place for temporary ones.
PREFIX: Final = "wk"
END_TIMEOUT_S: Final = 10.0


def note(root: Path, tag: str, **more: Any) -> None:
    """Writes down what is needed to remove a cluster, before anything of it is made."""
    root.mkdir(parents=True, exist_ok=True)
    owner = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
    (root / NOTE).write_text(json.dumps({"tag": tag, "owner": owner, **more}, indent=1) + "\n")


def noted(root: Path) -> dict[str, Any]:
    """What is known of the cluster in a directory; empty if there is none."""
    try:
        return dict(json.loads((root / NOTE).read_text()))
    except FileNotFoundError:
        return {}


def remove(root: Path) -> None:
    """Ends every process of the cluster in `root` and removes all that it left. Idempotent."""
    tag = noted(root).get("tag")
    if tag is not None:
        _end_processes(tag)
        if (root / "containerd").is_dir():
            _remove_containerd(root / "containerd", tag)
        unmount_below(root)
        network.remove_namespaces(tag)
    shutil.rmtree(root, ignore_errors=True)


def abandoned() -> list[Path]:
    """Directories of test clusters whose process is gone."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{NOTE}")):
        owner = noted(path.parent).get("owner")
        if owner is None or start_ticks(owner["pid"]) != owner["start_ticks"]:
            found.append(path.parent)
    return found


def left(root: Path, tag: str) -> list[str]:
    """What is still there of a cluster, a sentence each."""
    found = [f"network namespace {name}" for name in network.namespaces(tag)]
    found += [f"mount {point}" for point in mounts_below(root)]
    found += [f"process {pid}: {' '.join(words)}" for pid, words in _processes_of(root)]
    if root.exists():
        found.append(f"directory {root}")
    runc = Path("/run/containerd/runc")
    found += [f"runc state {path}" for path in runc.glob(f"{tag}-*")]
    return found


def _end_processes(tag: str) -> None:
    """Those in the cluster's network namespaces, which hold nothing else."""
    deadline = time.monotonic() + END_TIMEOUT_S
    names = network.namespaces(tag)
    while pids := [pid for name in names for pid in network.pids_in(name)]:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} of cluster {tag} do not end")
        time.sleep(0.01)


def _remove_containerd(folder: Path, tag: str) -> None:
    # Its own child or an earlier process': found by its command line, ended by its id.
    config = f"{folder}/config.toml"
    for pid, words, _ in containerds.processes():
        if os.path.basename(words[0]) == "containerd" and config in words:
            os.kill(pid, signal.SIGKILL)
            _until_ended(pid)
    running = Containerd(folder)
    for name in network.namespaces(tag):
        running.new_namespace(name)
    running.remove()


def _until_ended(pid: int) -> None:
    deadline = time.monotonic() + END_TIMEOUT_S
    while start_ticks(pid) is not None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not end")
        time.sleep(0.01)


def _processes_of(root: Path) -> Iterator[tuple[int, list[str]]]:
    for pid, words, _ in containerds.processes():
        if any(word.startswith(f"{root}/") or f"={root}/" in word for word in words):
            yield pid, words
