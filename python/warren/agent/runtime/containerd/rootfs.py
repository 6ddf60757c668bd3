"""One file of a root file system, read from the layers below it.

Nothing is mounted: a mount that a killed daemon left behind would pin the snapshot for ever. The
rules are overlayfs's: the uppermost layer that has a name decides; a character device 0:0 is a
whiteout; a directory marked opaque hides what is below it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

from warren.pb.containerd import types_pb2

FILE_BYTES_MAX: Final = 1024 * 1024
"""More than this of a file is not read: whoever needs it looks for a line in a small file."""

_SYMLINKS_MAX: Final = 16
_OPAQUE: Final = "trusted.overlay.opaque"


def layers(mounts: Sequence[types_pb2.Mount]) -> list[str]:
    """The directories of a snapshot's mounts, uppermost first; empty if they cannot be read so."""
    if len(mounts) != 1:
        return []
    mount = mounts[0]
    if mount.type == "bind":
        return [mount.source]
    if mount.type != "overlay":
        return []
    options = dict(option.partition("=")[::2] for option in mount.options)
    upper = [options["upperdir"]] if "upperdir" in options else []
    lower = options.get("lowerdir", "")
    return upper + [path for path in lower.split(":") if path]


def read(directories: Sequence[str], path: str) -> bytes:
    """The first `FILE_BYTES_MAX` bytes of the regular file at ``path``; empty if it has none."""
    pending = [part for part in path.split("/") if part]
    done: list[str] = []
    here = list(directories)
    followed = 0
    while pending:
        part = pending.pop(0)
        if part in (".", ".."):
            # `done` names no symbolic links, so that its parent is its parent.
            done = done[:-1] if part == ".." else done
            here = _descend(directories, done)
            continue
        found = _find(here, part)
        if found is None:
            return b""
        file, mode = found
        if stat.S_ISLNK(mode):
            followed += 1
            if followed > _SYMLINKS_MAX:
                return b""
            target = os.readlink(file)
            pending[:0] = [step for step in target.split("/") if step]
            done = [] if target.startswith("/") else done
            here = _descend(directories, done)
        elif stat.S_ISDIR(mode):
            here = _enter(here, part)
            done.append(part)
        elif stat.S_ISREG(mode) and not pending:
            return _content(file)
        else:
            return b""
    return b""


def _descend(directories: Sequence[str], parts: Sequence[str]) -> list[str]:
    here = list(directories)
    for part in parts:
        here = _enter(here, part)
    return here


def _find(here: Sequence[str], part: str) -> tuple[str, int] | None:
    for directory in here:
        file = os.path.join(directory, part)
        try:
            mode = os.lstat(file).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        return None if _is_whiteout(file, mode) else (file, mode)
    return None


def _enter(here: Sequence[str], part: str) -> list[str]:
    """The layers' directories of that name which are seen: down to a whiteout or opaque one."""
    entered = []
    for directory in here:
        file = os.path.join(directory, part)
        try:
            mode = os.lstat(file).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(mode):
            break
        entered.append(file)
        if _is_opaque(file):
            break
    return entered


def _is_whiteout(file: str, mode: int) -> bool:
    return stat.S_ISCHR(mode) and os.lstat(file).st_rdev == 0


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _content(file: str) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(FILE_BYTES_MAX)
