"""The data directory's disk: free space, and how long a write takes to be durable.

    python -P -m warren.doctor.disk DIR

measures in a process of its own, which can be left behind: a disk that hangs holds up whoever
waits for it, and no signal ends that.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Readings, Verdict

__all__ = ["Disk", "latency", "percentile", "read_disk", "space"]

_MIB: Final = 1 << 20
_FREE_WARN: Final = 0.10
_FREE_MIN: Final = 0.02
_INODES_MIN: Final = 0.02
# What a manager needs to go on: the segment it writes, the one it prepares, and a snapshot.
_SEGMENTS: Final = 3

_WRITES_MAX: Final = 200
_WRITE_BYTES: Final = 4096
_MEASURE_S: Final = 2.0
_ANSWER_S: Final = 4.0  # a write that is under way is waited for; and Python starts
_BURIAL_S: Final = 0.2
_P99_WARN_MS: Final = 25.0
# A leader tells the others to wait for it within this; one that writes for longer is voted out.
_P99_MAX_MS: Final = 250.0


@dataclass(frozen=True, slots=True)
class Disk:
    """`directory`: what was looked at. `missing`: the directory asked for, where it is another.

    `writes_ms`: each write of 4 KiB with its fdatasync; `not_written`: why there are none.
    """

    directory: str
    missing: str
    total_bytes: int
    free_bytes: int
    inodes_total: int
    inodes_free: int
    writes_ms: tuple[float, ...]
    not_written: str


def space(found: Disk, segment_bytes: int) -> Verdict:
    """Whether there is room. `segment_bytes`: of one segment of the log."""
    share = found.free_bytes / found.total_bytes if found.total_bytes else 0.0
    words = (
        f"{found.free_bytes // _MIB:,} of {found.total_bytes // _MIB:,} MiB free ({share:.0%}) at "
        f"{found.directory}"
    )
    readings: Readings = {
        "directory": found.directory,
        "total_bytes": found.total_bytes,
        "free_bytes": found.free_bytes,
        "inodes_total": found.inodes_total,
        "inodes_free": found.inodes_free,
    }
    if found.missing:
        words += f"; {found.missing} is not there yet"
    advice = "remove unused images (warrenctl image rm), or give data_dir a larger disk"
    if found.free_bytes < _SEGMENTS * segment_bytes or share < _FREE_MIN:
        return Verdict("disk.space", FAILED, words, advice, readings)
    # Some file systems make inodes as they need them, and tell 0.
    if found.inodes_total and found.inodes_free < _INODES_MIN * found.inodes_total:
        words += f"; only {found.inodes_free:,} of {found.inodes_total:,} inodes free"
        return Verdict("disk.space", FAILED, words, advice, readings)
    if share < _FREE_WARN:
        return Verdict("disk.space", WARNING, words, advice, readings)
    return Verdict("disk.space", OK, words, "", readings)


def latency(found: Disk) -> Verdict:
    """Whether the log could be written quickly: every change waits for one such write."""
    if not found.writes_ms:
        return Verdict("disk.fdatasync", SKIPPED, found.not_written, "run this command as root")
    p50, p99 = (percentile(found.writes_ms, share) for share in (0.50, 0.99))
    longest, number = max(found.writes_ms), len(found.writes_ms)
    readings: Readings = {
        "directory": found.directory,
        "writes": number,
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
        "max_ms": round(longest, 3),
    }
    words = (
        f"{number} writes of 4 KiB with fdatasync: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
        f"max {longest:.2f} ms at {found.directory}"
    )
    advice = "put data_dir on a disk of its own, an SSD; look who else writes: iostat -x 1"
    if p99 > _P99_MAX_MS:
        return Verdict("disk.fdatasync", FAILED, words, advice, readings)
    if p99 > _P99_WARN_MS:
        return Verdict("disk.fdatasync", WARNING, words, advice, readings)
    return Verdict("disk.fdatasync", OK, words, "", readings)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` of them do not exceed. ValueError of none."""
    if not values:
        raise ValueError("no values have no percentile")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def read_disk(directory: Path, timeout_s: float = _ANSWER_S) -> Disk:
    """Measures. Raises TimeoutError where the disk does not answer, OSError where it fails."""
    probe = subprocess.Popen(
        # -P: what lies in the current directory must not be taken for Warren.
        [sys.executable, "-P", "-m", "warren.doctor.disk", str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = probe.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _leave(probe)
        raise TimeoutError(
            f"{directory} gave no answer within {timeout_s:g} s: the disk hangs, or nearly so"
        ) from None
    if probe.returncode:
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        raise OSError("".join(last) or f"the probe ended with {probe.returncode}")
    told = json.loads(out)
    return Disk(**{**told, "writes_ms": tuple(told["writes_ms"])})


def _leave(probe: subprocess.Popen[bytes]) -> None:
    """Kill it, and do not wait for long: in a call of the kernel that hangs it stays."""
    probe.kill()
    for pipe in (probe.stdout, probe.stderr):
        if pipe is not None:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        probe.wait(_BURIAL_S)


def _measure(directory: Path) -> Disk:
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    found = os.statvfs(place)
    writes_ms, why = _writes(place)
    return Disk(
        directory=str(place),
        missing="" if place == directory else str(directory),
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        inodes_total=found.f_files,
        inodes_free=found.f_favail,
        writes_ms=writes_ms,
        not_written=why,
    )


def _writes(place: Path) -> tuple[tuple[float, ...], str]:
    """Writes into a file without a name, so that nothing stays whatever happens."""
    data = os.urandom(_WRITE_BYTES)
    taken: list[float] = []
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, _WRITES_MAX * _WRITE_BYTES)
            os.fsync(file.fileno())
            ends_s = time.monotonic() + _MEASURE_S
            for number in range(_WRITES_MAX):
                began_s = time.perf_counter()
                os.pwrite(file.fileno(), data, number * _WRITE_BYTES)
                os.fdatasync(file.fileno())
                taken.append((time.perf_counter() - began_s) * 1000)
                if time.monotonic() >= ends_s:
                    break
    except OSError as error:
        return (), f"cannot write into {place}: {error.strerror}"
    return tuple(taken), ""


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(Path(sys.argv[1])))))
