"""What a daemon's host has to be watched for: the disk that it writes to, and its clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

from warren.observe.metrics import Metrics

__all__ = ["declare_host"]


def declare_host(metrics: Metrics, data_dir: Path) -> None:
    """Export the file system of the data directory, and the wall clock."""
    metrics.gauge_function(
        "warren_disk_size_bytes",
        "Size of the file system of the data directory.",
        lambda: _bytes(data_dir)[0],
    )
    metrics.gauge_function(
        "warren_disk_free_bytes",
        "What may still be written to the file system of the data directory.",
        lambda: _bytes(data_dir)[1],
    )
    # Less `timestamp()` of the sample, it is the difference to the clock of whoever scrapes.
    metrics.gauge_function(
        "warren_clock_seconds", "The host's wall clock, in seconds since 1970 (UTC).", time.time
    )


def _bytes(folder: Path) -> tuple[int, int]:
    of = os.statvfs(folder)
    return of.f_blocks * of.f_frsize, of.f_bavail * of.f_frsize
