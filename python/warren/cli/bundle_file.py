"""The file of `warrenctl debug bundle`: redacted, bounded, complete under its name or not there."""

from __future__ import annotations

import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from warren.cli.shapes import BundleEntry
from warren.doctor.redact import Redactor
from warren.errors import WarrenError

__all__ = ["ENTRY_BYTES_MAX", "TOTAL_BYTES_MAX", "BundleFile"]

TOTAL_BYTES_MAX: Final = 64 << 20
"""Of all entries together, before compression."""
ENTRY_BYTES_MAX: Final = 16 << 20

_FOLDER: Final = "warren-debug"
_MODE: Final = 0o600
_RESERVED_BYTES: Final = 1 << 20  # for errors.txt, which comes last


class BundleFile:
    """Takes entries into `FILE.part`; `finish` gives it its name. Left before, nothing stays.

    Everything that goes in goes through `redactor`. `time_s`: what the entries have as theirs.
    `errors` becomes errors.txt. Raises WarrenError `failed` where the file cannot be written.
    """

    def __init__(self, path: Path, redactor: Redactor, time_s: int) -> None:
        if path.exists():
            raise WarrenError("failed", f"{path} exists; remove it, or name another file")
        self.path = path
        self.entries: list[BundleEntry] = []
        self.errors: list[str] = []
        self._redactor = redactor
        self._time_s = time_s
        self._left_bytes = TOTAL_BYTES_MAX - _RESERVED_BYTES
        self._part = path.with_name(path.name + ".part")
        try:
            self._part.unlink(missing_ok=True)
            # Not through a link that somebody has put there, and never readable for others.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._part, flags, _MODE), "wb")
        except OSError as error:
            raise WarrenError("failed", f"cannot write {self._part}: {error.strerror}") from None
        self._tar = tarfile.open(fileobj=self._file, mode="w:gz")  # noqa: SIM115 - see __exit__

    def __enter__(self) -> BundleFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # First, because on a full disk both closes fail: what they still hold has no room. Nothing
        # is lost by that: `finish` has written everything out, and without it nothing stays.
        with suppress(OSError):
            self._part.unlink(missing_ok=True)
        with suppress(OSError):
            self._tar.close()
        with suppress(OSError):
            self._file.close()

    def note(self, name: str, why: str) -> None:
        """Say in errors.txt what could not be had."""
        self.errors.append(self._redactor.text(f"{name}: {why}"))

    def add_data(self, name: str, data: Any) -> None:
        """Nested data as JSON; what is too large is left out, because half of it is none."""
        encoded = self._redactor.json(data).encode("utf-8", "surrogatepass")
        if len(encoded) > min(ENTRY_BYTES_MAX, self._left_bytes):
            self.note(name, f"left out: {len(encoded):,} bytes are more than there is room for")
            return
        self._write(name, encoded)

    def add_text(self, name: str, text: str, *, newest: bool = False) -> None:
        """Text; of what is too large the beginning, or with `newest` the end."""
        encoded = self._redactor.lines(text).encode("utf-8", "surrogatepass")
        room = min(ENTRY_BYTES_MAX, self._left_bytes)
        if len(encoded) > room:
            end = "end" if newest else "beginning"
            self.note(name, f"only the {end}: {len(encoded):,} bytes are more than {room:,}")
            encoded = encoded[len(encoded) - room :] if newest else encoded[:room]
        self._write(name, encoded)

    def finish(self) -> int:
        """Write errors.txt and give the file its name; its size in bytes."""
        self._left_bytes += _RESERVED_BYTES
        text = "".join(f"{line}\n" for line in self.errors) or "everything could be had\n"
        self._write("errors.txt", text.encode("utf-8", "replace")[:_RESERVED_BYTES])
        try:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            size_bytes = os.fstat(self._file.fileno()).st_size
            os.link(self._part, self.path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            raise WarrenError("failed", f"{self.path} exists; name another file") from None
        except OSError as error:
            raise WarrenError("failed", f"cannot write {self.path}: {error.strerror}") from None
        return size_bytes

    def _write(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(f"{_FOLDER}/{name}")
        member.size = len(data)
        member.mode = _MODE
        member.mtime = self._time_s
        try:
            self._tar.addfile(member, io.BytesIO(data))
        except OSError as error:
            raise WarrenError("failed", f"cannot write {self._part}: {error.strerror}") from None
        self._left_bytes -= len(data)
        self.entries.append(BundleEntry(name, len(data)))
