"""Content coding of answers: gzip, for those who ask for it (RFC 9110, section 12.5.3)."""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import Executor
from typing import Final

__all__ = ["WORTH_IT_BYTES", "accepts_gzip", "gzipped"]

WORTH_IT_BYTES: Final = 1024
"""Shorter bodies are sent as they are."""
# The text of metrics is so repetitive that more effort saves little of it, and takes three times as
# long.
_LEVEL: Final = 1
_GZIP_FORMAT: Final = 16 + zlib.MAX_WBITS


def accepts_gzip(header: bytes) -> bool:
    """Whether an `Accept-Encoding` header, empty where there is none, allows gzip.

    What is malformed allows nothing: the answer can always be sent as it is.
    """
    allowed: dict[bytes, bool] = {}
    for part in header.lower().split(b","):
        coding, *parameters = (piece.strip() for piece in part.split(b";"))
        allowed[coding] = all(_counts(parameter) for parameter in parameters)
    return allowed.get(b"gzip", allowed.get(b"x-gzip", allowed.get(b"*", False)))


def _counts(parameter: bytes) -> bool:
    """False for a weight of zero, and for what is no weight."""
    name, _, value = parameter.partition(b"=")
    if name.strip() != b"q":
        return False
    try:
        return float(value) > 0
    except ValueError:
        return False


async def gzipped(body: bytes, executor: Executor) -> bytes:
    """The body in gzip's format, made in a thread of `executor` without the interpreter."""
    return await asyncio.get_running_loop().run_in_executor(executor, _gzip, body)


def _gzip(body: bytes) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    return stream.compress(body) + stream.flush()
