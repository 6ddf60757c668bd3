"""Whether a restart of containerd would kill the containers.

Shims live in containerd's cgroup: unless its unit says `KillMode=process`, systemd kills them, and
every container with them, when containerd is stopped or upgraded.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

__all__ = ["DROP_IN", "check", "problem"]

DROP_IN: Final = "/etc/systemd/system/containerd.service.d/warren.conf"
_TIMEOUT_S: Final = 2.0
_COMMAND: Final = ("systemctl", "show", "containerd.service", "--property=LoadState,KillMode")


def check() -> str | None:
    """What is wrong with containerd's unit on this host, and what to do; None: nothing.

    Blocks for up to 2 s. Where systemd does not run, or does not answer, there is nothing to say.
    """
    if not Path("/run/systemd/system").is_dir():
        return None
    try:
        shown = subprocess.run(
            _COMMAND, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return problem(shown.stdout)


def problem(shown: str) -> str | None:
    """The same for the output of `systemctl show`."""
    properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if properties.get("LoadState") != "loaded" or properties.get("KillMode") == "process":
        return None
    return (
        f"containerd.service has KillMode={properties.get('KillMode', 'unknown')}: stopping "
        f"containerd would kill every container. Write to {DROP_IN}: [Service] KillMode=process; "
        "then: systemctl daemon-reload"
    )
