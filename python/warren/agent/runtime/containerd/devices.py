"""Device nodes of this host, as the runtime spec wants them."""

from __future__ import annotations

import os
import stat

from warren.agent.runtime.base import DevicePath, RuntimeRefused
from warren.agent.runtime.containerd.spec import DeviceNode


def device_node(path: DevicePath) -> DeviceNode:
    """What the device is, through links. Raises RuntimeRefused where it is none, or not there."""
    try:
        found = os.stat(path.host)
    except OSError as error:
        raise RuntimeRefused(
            f"the device {path.host} of this host cannot be had: {error.strerror}; load its "
            "driver, or take it out of `devices` in the configuration",
            permanent=False,
        ) from error
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        raise RuntimeRefused(
            f"{path.host} is no device; correct `devices` in the configuration of this host",
            permanent=True,
        )
    return DeviceNode(
        path=path.target,
        kind=kind,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )
