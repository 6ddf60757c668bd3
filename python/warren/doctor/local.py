"""What the host itself keeps about its daemon: log, files, versions, environment."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from warren import __version__
from warren.doctor.redact import is_secret_name

__all__ = ["LOG_BYTES_MAX", "listing", "log", "secrets_of", "versions", "wal_bytes"]

LOG_BYTES_MAX: Final = 8 << 20
_LOG_LINES_MAX: Final = 50_000
_LOG_TIMEOUT_S: Final = 20.0
_FILES_MAX: Final = 20_000
_PACKAGES: Final = ("grpcio", "protobuf", "msgspec", "uvloop", "click", "prometheus-client")


def versions() -> dict[str, Any]:
    """Of everything that Warren stands on here."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    system = platform.uname()
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        distribution = None
    return {
        "warrenctl": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "packages": packages,
        "kernel": system.release,
        "kernel_version": system.version,
        "architecture": system.machine,
        "hostname": system.node,
        "distribution": distribution,
        "cpus": os.cpu_count(),
    }


def listing(directory: Path) -> dict[str, Any]:
    """Names, kinds, sizes and modes of what is in a directory; no contents. Raises OSError."""
    rows: list[dict[str, Any]] = []
    for path, found in _walk(directory):
        if len(rows) >= _FILES_MAX:
            return {"directory": str(directory), "cut_off": True, "files": rows}
        rows.append(
            {
                "path": str(path.relative_to(directory)),
                "mode": stat.filemode(found.st_mode),
                "size_bytes": found.st_size,
                "allocated_bytes": found.st_blocks * 512,
                "modified_s": int(found.st_mtime),
            }
        )
    return {"directory": str(directory), "cut_off": False, "files": rows}


def _walk(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for name in sorted(os.listdir(directory)):
        path = directory / name
        try:
            found = path.lstat()
        except FileNotFoundError:  # the daemon has removed it
            continue
        yield path, found
        if stat.S_ISDIR(found.st_mode):
            with suppress(FileNotFoundError, PermissionError):
                yield from _walk(path)


def wal_bytes(data_dir: Path) -> int:
    """The size of a manager's log. Raises OSError."""
    return sum(found.st_size for _, found in _walk(data_dir / "raft" / "wal"))


def log(pid: int | None) -> str:
    """The daemon's newest log: the file it writes to, else journald's. Raises OSError."""
    if pid is not None:
        with suppress(OSError):
            own = Path(f"/proc/{pid}/fd/2")
            if stat.S_ISREG(own.stat().st_mode):
                return _tail(own)
    return _journal()


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - LOG_BYTES_MAX))
        if size_bytes > LOG_BYTES_MAX:
            file.readline()  # half a line
        return file.read(LOG_BYTES_MAX).decode(errors="replace")


def _journal() -> str:
    command = ["journalctl", "--unit=warrend", "--no-pager", "--quiet"]
    # With the time: an entry in journald's own fields has it nowhere else.
    command += ["--output=short-iso-precise", "--utc"]
    command += ["--reverse", f"--lines={_LOG_LINES_MAX}"]
    # Through `head`, so that the newest come first and the rest is never held.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as source:
        assert source.stdout is not None
        assert source.stderr is not None
        try:
            head = subprocess.run(
                ["head", "--bytes", str(LOG_BYTES_MAX)],
                stdin=source.stdout,
                capture_output=True,
                timeout=_LOG_TIMEOUT_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise OSError(f"journalctl gave no log: {error}") from None
        finally:
            source.kill()
        complaint = source.stderr.read(4096).decode(errors="replace").strip()
    lines = head.stdout.decode(errors="replace").splitlines()
    if not lines:
        raise OSError(
            f"journald has nothing of unit warrend; {complaint or 'is it run by systemd?'}"
        )
    return "\n".join(reversed(lines)) + "\n"


def secrets_of(pid: int | None, env: Mapping[str, str]) -> Iterable[str]:
    """Values of variables, of the daemon and of this process, that are called like secrets."""
    pairs = list(env.items())
    if pid is not None:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            words = (each.partition("=") for each in text.split("\0"))
            pairs += [(name, value) for name, equals, value in words if equals]
    return [value for name, value in pairs if is_secret_name(name)]
