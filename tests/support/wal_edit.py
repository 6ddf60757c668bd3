"""A log that was changed on the disk with all checksums right: as bad memory may write it.

The format is that of docs/wal-format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HEADER_BYTES: Final = 4096
FRAME_HEAD_BYTES: Final = 32
ENTRY: Final = 1
_WORD: Final = (1 << 64) - 1
_CASTAGNOLI: Final = 0x82F63B78


def falsify(folder: Path, old: bytes, new: bytes) -> int:
    """Put `new` for `old`, which has the same length, into each entry of a log of one segment; in
    how many. The daemon must not run.
    """
    assert len(old) == len(new)
    (segment,) = folder.glob("*.wal")
    data = bytearray(segment.read_bytes())
    (seed,) = struct.unpack_from("<I", data, HEADER_BYTES - 4)
    masked = memoryview(data)[HEADER_BYTES:]
    _mask(masked, seed)
    changed, previous = 0, seed
    for frame in list(_frames(masked, seed)):
        if frame[12] == ENTRY and old in bytes(frame):
            at = bytes(frame).index(old, FRAME_HEAD_BYTES)
            frame[at : at + len(old)] = new
            changed += 1
        frame[4:8] = struct.pack("<I", previous)
        previous = _crc32c(frame[4:], seed)
        frame[:4] = struct.pack("<I", previous)
    _mask(masked, seed)
    segment.write_bytes(data)
    return changed


def _frames(data: memoryview, seed: int) -> Iterator[memoryview]:
    """Those that are whole, from the first on."""
    at = 0
    while True:
        checksum, _, payload_bytes = struct.unpack_from("<III", data, at)
        end = at + FRAME_HEAD_BYTES + -(-payload_bytes // 8) * 8
        if end > len(data) or _crc32c(data[at + 4 : end], seed) != checksum:
            return
        yield data[at:end]
        at = end


def _mask(data: memoryview, seed: int) -> None:
    """XOR each word with its pad: masks what is plain, and the other way round."""
    words = data.cast("Q")
    first = seed << 32 | HEADER_BYTES // 8
    for number in range(len(words)):
        words[number] ^= _pad(first + number)


def _pad(number: int) -> int:
    mixed = (number + 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _WORD
    return mixed ^ mixed >> 31


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_TABLE: Final = [_table_entry(byte) for byte in range(256)]


def _crc32c(data: memoryview, before: int) -> int:
    """Of `data` after what has the checksum `before`."""
    crc = before ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
