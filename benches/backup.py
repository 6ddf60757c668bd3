"""Backup of a cluster with a million containers, and restore until it serves.

The example `bench_backup` makes the state, restores it into an empty directory, and takes a backup
of the host that serves it, while reads go on; this gives its figures names. Beside them: writing as
many bytes to the same disk.

    python -m benches.backup [--containers 1000000] [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import json
import subprocess
import sys

from benches._common import Report, arguments
from benches._peer import built, workspace

CONTAINERS = 1_000_000
CONTAINERS_QUICK = 10_000
GOAL_S = 10


def main() -> None:
    """Run and print."""
    containers, rest = _containers(sys.argv[1:])
    options = arguments(__doc__ or "", rest)
    if containers is None:
        containers = CONTAINERS_QUICK if options.quick else CONTAINERS
    program = str(built("bench_backup", quick=options.quick))
    with workspace() as directory:
        done = subprocess.run(
            [program, f"--dir={directory}", f"--containers={containers}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=900,
        )
    found = json.loads(done.stdout)
    report = Report(f"a backup of {found['containers']:,} containers")
    mib, disk_s = found["bytes"] / 2**20, found["disk_s"]
    backup_s, restore_s = found["backup_s"], found["restore_s"]
    report.row("backup", s=backup_s, mib=mib, longest_read_ms=found["longest_read_ms"])
    report.row("as many bytes to the disk", s=disk_s)
    report.row("inspect", s=found["inspect_s"])
    report.row("restore until it serves", s=restore_s)
    report.goal(
        "a backup", f"≤ {GOAL_S} s", f"{backup_s:.2f} s", backup_s <= GOAL_S,
        f"the same bytes to the disk {disk_s:.2f} s",
    )  # fmt: skip
    report.goal(
        "restore until it serves", f"≤ {GOAL_S} s", f"{restore_s:.2f} s", restore_s <= GOAL_S
    )
    report.finish(options)


def _containers(argv: list[str]) -> tuple[int | None, list[str]]:
    """Takes `--containers N` out; the others have no such option."""
    rest = list(argv)
    for at, word in enumerate(rest):
        if word.startswith("--containers="):
            return int(word.partition("=")[2]), rest[:at] + rest[at + 1 :]
        if word == "--containers" and at + 1 < len(rest):
            return int(rest[at + 1]), rest[:at] + rest[at + 2 :]
    return None, rest


if __name__ == "__main__":
    main()
