"""What a crash can leave of a directory on a disk, computed from the changes made to it.

Durable is what POSIX promises, and nothing that a particular file system adds: a file's data and
length after fsync or fdatasync of the file, the names in a directory after one of the directory.
Whatever was not synced may be on the disk, or not, each sector and each name for itself; space
that a file gained but that was not written reads as zeros.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

SECTOR_BYTES = 512
DIRECTORY = 0  # the inode number of every directory

Image = dict[str, bytes | None]  # by path below the root; None: a directory


@dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes

    def sectors(self) -> list[Write]:
        """Itself in pieces, each of which a disk writes wholly or not at all."""
        pieces = []
        at, end = self.offset, self.offset + len(self.data)
        while at < end:
            stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
            piece = self.data[at - self.offset : stop - self.offset]
            pieces.append(Write(self.inode, at, piece))
            at = stop
        return pieces


@dataclass(frozen=True)
class Resize:
    inode: int
    size: int


@dataclass(frozen=True)
class Names:
    """Names that change at once: what each means afterwards, None: nothing."""

    changes: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    """fsync or fdatasync of a file."""

    inode: int


@dataclass(frozen=True)
class SyncNames:
    """fsync or fdatasync of a directory; "." is the root."""

    directory: str


@dataclass(frozen=True)
class Mark:
    """What the process said in between."""

    text: str


Change = Write | Resize | Names
Event = Change | Sync | SyncNames | Mark


class Kind(StrEnum):
    """What a crash does to changes that were not synced."""

    CLEAN = "clean"  # nothing: only the process died
    TORN = "torn"  # the last write is there in parts, every change before it wholly
    REORDERED = "reordered"  # some are there, no matter in which order they were made
    UNSYNCED = "unsynced"  # none is there


class Disk:
    """A directory that changes, and what of it would survive. `pending`: what is not durable."""

    def __init__(self, image: Mapping[str, bytes | None]) -> None:
        self.pending: list[Change] = []
        self._names = inodes(image)
        self._files = {
            inode: bytearray(image[name] or b"")
            for name, inode in self._names.items()
            if inode != DIRECTORY
        }

    def happen(self, event: Event) -> None:
        match event:
            case Write() | Resize() | Names():
                self.pending.append(event)
            case Sync(inode):
                self._settle(lambda change: not isinstance(change, Names) and change.inode == inode)
            case SyncNames(directory):
                self._settle(lambda change: isinstance(change, Names) and _is_in(directory, change))
            case Mark():
                pass

    def after(self, kind: Kind, rng: random.Random) -> Image:
        """A crash now: what is on the disk. TORN: the last thing that happened was a write."""
        match kind:
            case Kind.CLEAN:
                survivors = self.pending
            case Kind.TORN:
                *before, last = self.pending
                assert isinstance(last, Write)
                survivors = [*before, *_torn(last, rng)]
            case Kind.REORDERED:
                survivors = _some(self.pending, rng)
            case Kind.UNSYNCED:
                survivors = []
        return self._with(survivors)

    def _with(self, survivors: Iterable[Change]) -> Image:
        names, changed = dict(self._names), dict[int, bytearray]()

        def copied(inode: int) -> bytearray:
            if inode not in changed:
                changed[inode] = bytearray(self._files.get(inode, b""))
            return changed[inode]

        for change in survivors:
            _make(change, names, copied)
        files = self._files | changed
        return {
            name: None if inode == DIRECTORY else bytes(files.get(inode, b""))
            for name, inode in sorted(names.items())
            if all(names.get(above) == DIRECTORY for above in _directories_above(name))
        }

    def _settle(self, settled: Callable[[Change], bool]) -> None:
        for change in self.pending:
            if settled(change):
                _make(change, self._names, lambda inode: self._files.setdefault(inode, bytearray()))
        self.pending = [change for change in self.pending if not settled(change)]


def inodes(image: Mapping[str, bytes | None]) -> dict[str, int]:
    """The inode number that each name of an image has."""
    return {
        name: DIRECTORY if content is None else number
        for number, (name, content) in enumerate(sorted(image.items()), start=1)
    }


def lay_out(image: Image, root: Path) -> None:
    """Make `root` hold the image and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in sorted(image.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def _make(change: Change, names: dict[str, int], file: Callable[[int], bytearray]) -> None:
    match change:
        case Write(inode, offset, data):
            content = file(inode)
            content.extend(bytes(max(0, offset + len(data) - len(content))))
            content[offset : offset + len(data)] = data
        case Resize(inode, size):
            content = file(inode)
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Names(changes):
            for name, inode_or_none in changes:
                if inode_or_none is None:
                    names.pop(name, None)
                else:
                    names[name] = inode_or_none


def _torn(write: Write, rng: random.Random) -> list[Write]:
    """A part of its sectors: up to a point, or just any."""
    sectors = write.sectors()
    count = rng.randrange(1, len(sectors))
    if rng.random() < 0.5:
        return sectors[:count]
    return [sectors[index] for index in sorted(rng.sample(range(len(sectors)), count))]


def _some(changes: Iterable[Change], rng: random.Random) -> list[Change]:
    """Some of them; of writes, some sectors. Now nearly all, now nearly none."""
    chance = rng.choice((0.05, 0.5, 0.95))
    pieces: list[Change] = []
    for change in changes:
        pieces += change.sectors() if isinstance(change, Write) else [change]
    return [piece for piece in pieces if rng.random() < chance]


def _is_in(directory: str, change: Names) -> bool:
    return any(str(PurePosixPath(name).parent) == directory for name, _ in change.changes)


def _directories_above(name: str) -> list[str]:
    return [str(above) for above in PurePosixPath(name).parents if str(above) != "."]
