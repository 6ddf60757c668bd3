"""The kernel: its version, and whether it has what containers and their networks stand on."""

from __future__ import annotations

import ctypes
import errno
import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Readings, Verdict

__all__ = [
    "FEATURES",
    "Feature",
    "IoUring",
    "Presence",
    "feature",
    "io_uring",
    "presence",
    "read_io_uring",
    "read_presence",
    "version",
]

_OLDEST: Final = (5, 10)
_CONFIG_BYTES_MAX: Final = 4 << 20
# The same on all architectures since all new system calls share their numbers (Linux 5.1).
_SYS_IO_URING_SETUP: Final = 425


@dataclass(frozen=True, slots=True)
class Feature:
    """One driver: `module` as modprobe has it, `option` as the kernel's configuration does."""

    name: str
    module: str
    option: str
    needed: bool
    use: str


FEATURES: Final = (
    Feature("overlayfs", "overlay", "CONFIG_OVERLAY_FS", True, "root file systems of containers"),
    Feature("bridge", "bridge", "CONFIG_BRIDGE", False, "networks of containers"),
    Feature("veth", "veth", "CONFIG_VETH", False, "networks of containers"),
    Feature("nftables", "nf_tables", "CONFIG_NF_TABLES", False, "published ports"),
    Feature("vxlan", "vxlan", "CONFIG_VXLAN", False, "networks across hosts"),
)


@dataclass(frozen=True, slots=True)
class Presence:
    """Where a driver is. `configured`: `y`, `m` or `n`; None where no configuration was found.

    `loaded`: in the kernel now; `loadable`: a file that modprobe would find, or built in; None
    where the kernel's modules have no directory here.
    """

    loaded: bool
    loadable: bool | None
    configured: str | None


def version(release: str) -> Verdict:
    """Of the kernel's release as `uname -r` has it."""
    match = re.match(r"(\d+)\.(\d+)", release)
    readings: Readings = {"release": release}
    if match is None:
        return Verdict("kernel", SKIPPED, f"cannot read release {release!r}", "", readings)
    if (int(match[1]), int(match[2])) < _OLDEST:
        return Verdict(
            "kernel",
            WARNING,
            f"Linux {release} is older than {_OLDEST[0]}.{_OLDEST[1]}",
            "upgrade the kernel: Warren is not tried on older ones",
            readings,
        )
    return Verdict("kernel", OK, f"Linux {release}", "", readings)


def presence(
    module: str, option: str, *, loaded: bool, modules: str | None, config: str | None
) -> Presence:
    """From what files say. `modules`: modules.dep and modules.builtin; `config`: the kernel's."""
    loadable = None
    if modules is not None:
        name = re.escape(module).replace("_", "[-_]")
        loadable = (
            re.search(rf"^(?:[^:\n]*/)?{name}\.ko(\.\w+)?(:|$)", modules, re.MULTILINE) is not None
        )
    configured = None
    if config is not None:
        match = re.search(rf"^{option}=([ym])$", config, re.MULTILINE)
        configured = match[1] if match else "n"
    return Presence(loaded, loadable, configured)


def feature(what: Feature, found: Presence) -> Verdict:
    """Whether a driver is there, or would be once it is needed."""
    name = f"kernel.{what.name}"
    readings: Readings = {
        "loaded": found.loaded,
        "loadable": found.loadable,
        "configured": found.configured,
    }
    if found.loaded or found.configured == "y":
        return Verdict(name, OK, "in the kernel", "", readings)
    if found.loadable:
        return Verdict(name, OK, f"module {what.module} can be loaded", "", readings)
    absent = found.configured == "n" or found.loadable is False
    if not absent:
        words = "not loaded, and neither modules nor a configuration of this kernel are here to ask"
        advice = f"try it: modprobe {what.module}"
        return Verdict(name, WARNING, words, advice, readings)
    return Verdict(
        name,
        FAILED if what.needed else WARNING,
        f"this kernel has no {what.module}, which is for {what.use}",
        f"install a kernel with {what.option}, or its package of extra modules",
        readings,
    )


@dataclass(frozen=True, slots=True)
class IoUring:
    """`error`: of a setup that had to fail: EFAULT says it is there. `disabled`: the sysctl."""

    error: int
    disabled: int | None


def io_uring(found: IoUring) -> Verdict:
    """Whether this process may use it. Nothing needs it: writes go another way without."""
    readings: Readings = {
        "errno": errno.errorcode.get(found.error, "0"),
        "disabled": found.disabled,
    }
    if found.error in (errno.EFAULT, errno.EINVAL, 0):
        return Verdict("kernel.io_uring", OK, "can be used", "", readings)
    words = "this kernel has none" if found.error == errno.ENOSYS else "it is forbidden here"
    if found.disabled:
        words = f"it is switched off (kernel.io_uring_disabled = {found.disabled})"
    return Verdict(
        "kernel.io_uring", OK, f"{words}; nothing in this release needs it", "", readings
    )


def read_presence(what: Feature, root: Path = Path("/")) -> Presence:
    """Looks at the modules, file systems and configuration of the running kernel."""
    release = os.uname().release
    loaded = (root / "sys/module" / what.module).exists()
    if what.module == "overlay":
        systems = _text(root / "proc/filesystems") or ""
        loaded = loaded or re.search(r"\boverlay$", systems, re.MULTILINE) is not None
    folder = root / "lib/modules" / release
    parts = [_text(folder / "modules.dep"), _text(folder / "modules.builtin")]
    known = [part for part in parts if part is not None]
    return presence(
        what.module,
        what.option,
        loaded=loaded,
        modules="\n".join(known) if known else None,
        config=_config(root, release),
    )


def read_io_uring(root: Path = Path("/")) -> IoUring:
    """Asks for a ring at address 0, so that none is made."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    made = libc.syscall(_SYS_IO_URING_SETUP, 1, None)
    error = ctypes.get_errno() if made < 0 else 0
    if made >= 0:
        os.close(made)
    text = _text(root / "proc/sys/kernel/io_uring_disabled")
    return IoUring(error, int(text) if text is not None else None)


def _config(root: Path, release: str) -> str | None:
    try:
        with gzip.open(root / "proc/config.gz", "rt", encoding="ascii", errors="replace") as file:
            return file.read(_CONFIG_BYTES_MAX)
    except (OSError, EOFError, zlib.error):
        return _text(root / "boot" / f"config-{release}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
