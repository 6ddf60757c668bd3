"""From the system calls of a process to the changes that they made to a directory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.support.crash_disk import (
    DIRECTORY,
    Event,
    Mark,
    Names,
    Resize,
    Sync,
    SyncNames,
    Write,
    inodes,
)
from tests.support.strace import Call, data, path


class Recorder:
    """Follows the directory `root`. What is written to the file `marks` is no change but a Mark.

    Files there are written at given offsets, or by appending alone. A call that changes them in
    a way that is not modelled fails the test instead of being overlooked.
    """

    def __init__(self, root: Path, marks: Path, image: Mapping[str, bytes | None]) -> None:
        self._root = root
        self._marks = str(marks)
        self._names = inodes(image)
        self._sizes = {self._names[name]: len(content or b"") for name, content in image.items()}
        self._new_inode = itertools.count(len(image) + 1)

    def events(self, calls: Iterable[Call]) -> list[Event]:
        """In order, without those that changed nothing here."""
        return [event for call in calls for event in self._events(call)]

    def _events(self, call: Call) -> Sequence[Event]:
        handler = getattr(self, f"_{call.name}", None)
        if handler is not None:
            return list(handler(call.args))
        root = str(self._root).encode().hex()
        named = "".join(call.args).replace("\\x", "")
        assert root not in named, f"{call.name} on {self._root} is not modelled"
        return ()

    def _name(self, arg: str, directory: str | None = None) -> str | None:
        """Below the root, "." for the root itself, None for anywhere else and deleted files."""
        if arg.endswith("(deleted)"):
            return None
        full = Path(path(directory) if directory else "/", path(arg))
        return str(full.relative_to(self._root)) if full.is_relative_to(self._root) else None

    def _openat(self, args: Sequence[str]) -> Iterable[Event]:
        name = self._name(args[1], args[0])
        if name is None or "O_CREAT" not in args[2]:
            assert name is None or "O_TRUNC" not in args[2], "truncation without creation"
            return
        if name not in self._names:
            inode = self._names[name] = next(self._new_inode)
            self._sizes[inode] = 0
            yield Names(((name, inode),))
        elif "O_TRUNC" in args[2]:
            self._sizes[self._names[name]] = 0
            yield Resize(self._names[name], 0)

    def _pwrite64(self, args: Sequence[str]) -> Iterable[Event]:
        if (name := self._name(args[0])) is not None:
            yield self._write_at(self._names[name], int(args[3]), data(args[1]))

    def _write(self, args: Sequence[str]) -> Iterable[Event]:
        if args[0].endswith("(deleted)"):
            return
        if path(args[0]) == self._marks:
            yield Mark(data(args[1]).decode())
        elif (name := self._name(args[0])) is not None:
            inode = self._names[name]
            yield self._write_at(inode, self._sizes[inode], data(args[1]))

    def _write_at(self, inode: int, offset: int, content: bytes) -> Write:
        self._sizes[inode] = max(self._sizes[inode], offset + len(content))
        return Write(inode, offset, content)

    def _ftruncate(self, args: Sequence[str]) -> Iterable[Event]:
        if (name := self._name(args[0])) is not None:
            self._sizes[self._names[name]] = int(args[1])
            yield Resize(self._names[name], int(args[1]))

    def _fsync(self, args: Sequence[str]) -> Iterable[Event]:
        if (name := self._name(args[0])) is not None:
            is_directory = name == "." or self._names[name] == DIRECTORY
            yield SyncNames(name) if is_directory else Sync(self._names[name])

    _fdatasync = _fsync

    def _mkdir(self, args: Sequence[str]) -> Iterable[Event]:
        if (name := self._name(args[0])) is not None:
            self._names[name] = DIRECTORY
            yield Names(((name, DIRECTORY),))

    def _unlink(self, args: Sequence[str]) -> Iterable[Event]:
        if (name := self._name(args[0])) is not None:
            del self._names[name]
            yield Names(((name, None),))

    _rmdir = _unlink

    def _rename(self, args: Sequence[str]) -> Iterable[Event]:
        old, new = self._name(args[0]), self._name(args[1])
        assert (old is None) == (new is None), "a rename across the root is not modelled"
        if old is not None and new is not None:
            self._names[new] = self._names.pop(old)
            yield Names(((old, None), (new, self._names[new])))
