"""The Unix socket of the API: who may be there before us, and who may use it."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from warren.errors import StartupError

__all__ = ["bind_mode", "give_to_group", "prepare"]

_PATH_MAX_BYTES: Final = 107  # sun_path of unix(7), without its final zero
_CONNECT_TIMEOUT_S: Final = 1.0


def prepare(path: Path) -> None:
    """Make the way free for binding `path`: its directory exists, nothing living is there.

    A second server would bind a live Unix socket without an error and take it over, so a
    connection is tried first. Raises StartupError with what is in the way.
    """
    if len(os.fsencode(path)) > _PATH_MAX_BYTES:
        raise StartupError(
            f"the socket's path {path} has more than {_PATH_MAX_BYTES} bytes, which Linux does not "
            "allow; name a shorter one (socket)"
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartupError(f"cannot use socket {path}: {error.strerror} (socket)") from None
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"{path} exists and is no socket; remove it, or name another (socket)")
    if _answers(path):
        raise StartupError(
            f"another process serves {path}; stop it first, or name another socket (socket)"
        )
    path.unlink(missing_ok=True)


@contextmanager
def bind_mode() -> Iterator[None]:
    """While it lasts, a socket that is bound gets mode 0660: there is no moment with a wider one.

    The umask belongs to the process: nothing else may create files meanwhile.
    """
    before = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(before)


def give_to_group(path: Path, group: str) -> str | None:
    """Let members of `group` use the socket; returns a sentence where that was not possible."""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        return (
            f"there is no group `{group}`, so only this user can use {path}; to let others in: "
            f"groupadd {group}, add them to it, and restart warrend"
        )
    except PermissionError:
        return f"not allowed to give {path} to group `{group}`; only this user can use it"
    return None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # full backlog, no permission: somebody is there
            return True
    return True
