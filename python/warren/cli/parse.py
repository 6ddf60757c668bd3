"""Reading what people write in flags. Pure: each function takes text and returns a value.

What cannot be read raises ValueError with a sentence that says what would do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from warren.amounts import cpu_milli, memory_bytes

__all__ = [
    "MountFlag",
    "Partition",
    "address",
    "address_text",
    "age_text",
    "binary_id",
    "count",
    "cpu_milli",
    "duration_ms",
    "env_file",
    "env_variable",
    "label",
    "member_id",
    "memory_bytes",
    "mount",
    "partition",
    "percent",
    "scale",
    "since_ms",
    "stop_timeout_ms",
]

_UINT64_MAX: Final = 2**64 - 1
_UINT32_MAX: Final = 2**32 - 1

_DURATION: Final = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)(?:\.(\d{1,3}))?s)?(?:(\d+)ms)?", re.ASCII
)
_MOUNT_KEYS: Final = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "tmpfs-size": "tmpfs-size",
    "exclusive": "exclusive",
}
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/,]+):([0-9]{1,5})", re.ASCII)
_VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRUE: Final = {"", "1", "t", "true"}
_FALSE: Final = {"0", "f", "false"}


def count(text: str) -> int:
    """A number of things: 0 or more."""
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) > _UINT32_MAX:
        raise ValueError(f"'{text}' is no count; write a whole number, 0 or more")
    return int(text)


def duration_ms(text: str) -> int:
    """Milliseconds of `10s`, `1m30s`, `500ms`; a number alone is seconds."""
    stripped = text.strip()
    match = _DURATION.fullmatch(stripped + "s" if stripped.isdigit() else stripped)
    if not stripped or not match:
        raise ValueError(f"'{text}' is no duration; write it as in 10s, 1m30s or 500ms")
    days, hours, minutes, seconds = (int(match[group] or 0) for group in (1, 2, 3, 4))
    milliseconds = int((match[5] or "").ljust(3, "0")) + int(match[6] or 0)
    total = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + milliseconds
    if total > _UINT32_MAX:
        raise ValueError(f"'{text}' is too long; the longest is 49 days")
    return total


def percent(text: str) -> int:
    """The share in `30%`, or `30`: 1 to 100."""
    stripped = text.strip().removesuffix("%").rstrip()
    if not stripped.isdecimal() or not 1 <= int(stripped) <= 100:
        raise ValueError(f"'{text}' is no share; write 1% to 100%")
    return int(stripped)


def stop_timeout_ms(text: str) -> int:
    """As `duration_ms`, but not 0, by which the schema means "not given"."""
    milliseconds = duration_ms(text)
    if milliseconds == 0:
        raise ValueError(f"'{text}' is too short; 1ms kills at once")
    return milliseconds


class Partition(NamedTuple):
    """What becomes of a container while its worker hears from no manager: `kind` is `keep`,
    `stop_after` or `singleton`; the time is 0 for `keep`."""

    kind: str
    stop_after_ms: int


def partition(text: str) -> Partition:
    """A policy of `keep`, `stop_after=30s` or `singleton=30s`."""
    kind, given, time = text.strip().partition("=")
    kind = kind.replace("-", "_")
    if kind == "keep" and not given:
        return Partition(kind, 0)
    if kind not in ("stop_after", "singleton") or not given:
        raise ValueError(
            f"'{text}' is no policy; write keep, or stop_after or singleton with a time, as in "
            "stop_after=30s"
        )
    milliseconds = duration_ms(time)
    if milliseconds == 0:
        raise ValueError(f"'{text}' would stop it at once; give it some time, as in {kind}=30s")
    return Partition(kind, milliseconds)


def address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 address stands in brackets, which are taken off."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"'{text}' is no address; write HOST:PORT, as in 10.0.0.1:2377")
    return match[1].strip("[]"), int(match[2])


def address_text(address: tuple[str, int]) -> str:
    """As `address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def member_id(text: str) -> int:
    """The id of a member of consensus: a decimal number."""
    if not re.fullmatch(r"\d+", text, re.ASCII) or not 0 < int(text) <= _UINT64_MAX:
        raise ValueError(
            f"'{text}' is no member's id; warrenctl cluster members shows them, as numbers"
        )
    return int(text)


def binary_id(text: str) -> bytes:
    """The 16 bytes of an id written as 32 hex digits, or as a UUID with its dashes."""
    try:
        identifier = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        identifier = b""
    if len(identifier) != 16:
        raise ValueError(f"'{text}' is no id; write its 32 hex digits in full")
    return identifier


def since_ms(text: str, now_ms: int) -> int:
    """Milliseconds since the epoch of a time (RFC 3339) or of a duration before `now_ms`."""
    from datetime import datetime

    try:
        return max(0, now_ms - duration_ms(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"'{text}' is neither a duration (10m) nor a time (2026-01-31T08:00:00Z)"
        ) from None
    return max(0, int(moment.timestamp() * 1000))


def label(text: str) -> tuple[str, str]:
    """Name and value of `NAME=VALUE`; without `=` the value is empty."""
    name, _, value = text.partition("=")
    if not name or name != name.strip():
        raise ValueError(f"'{text}' is no label; write NAME=VALUE")
    return name, value


def env_variable(text: str, environ: Mapping[str, str]) -> str:
    """`NAME=VALUE`; for a bare `NAME` the value that `environ` has."""
    name, equals, _ = text.partition("=")
    if not name or any(c.isspace() or c == "\0" for c in name):
        raise ValueError(f"'{text}' is no variable; write NAME=VALUE")
    if equals:
        return text
    if name not in environ:
        raise ValueError(f"{name} is not set in this shell; write {name}=VALUE")
    return f"{name}={environ[name]}"


def env_file(lines: Iterable[str], name: str, environ: Mapping[str, str]) -> list[str]:
    """The variables in a file: a `NAME=VALUE` a line; blank lines and `#` comments are skipped.

    Values are taken as they stand: quotes are part of them. `name`: of the file, for the errors.
    """
    variables = []
    for number, line in enumerate(lines, start=1):
        text = line.removeprefix("\ufeff").rstrip("\r\n").lstrip()
        if not text.strip() or text.startswith("#"):
            continue
        try:
            variables.append(env_variable(text, environ))
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: {error}") from None
    return variables


class MountFlag(NamedTuple):
    """A mount as written. `tmpfs_size_bytes` is 0 where no limit was given."""

    kind: str  # "bind", "tmpfs" or "volume"
    source: str
    target: str
    read_only: bool
    tmpfs_size_bytes: int
    exclusive: bool = False


def mount(text: str) -> MountFlag:
    """`type=bind,source=/a,target=/b[,readonly]`, `type=tmpfs,target=/b[,tmpfs-size=64m]` or
    `type=volume,source=NAME,target=/b[,readonly][,exclusive]`.
    """
    fields = _mount_fields(text)
    kind = fields.get("type", "")
    if kind not in ("bind", "tmpfs", "volume"):
        raise ValueError(f"'{text}': write type=bind, type=tmpfs or type=volume")
    target = fields.get("target", "")
    if not target.startswith("/"):
        raise ValueError(f"'{text}': write target=, an absolute path in the container")
    source = fields.get("source", "")
    if kind == "bind" and not source.startswith("/"):
        raise ValueError(f"'{text}': write source=, an absolute path on the host")
    if kind == "volume" and not _VOLUME_NAME.fullmatch(source):
        raise ValueError(f"'{text}': write source=, the name of a volume: A-Z a-z 0-9 . _ -")
    if kind != "volume" and "exclusive" in fields:
        raise ValueError(f"'{text}': exclusive goes with type=volume only")
    if kind != "tmpfs" and "tmpfs-size" in fields:
        raise ValueError(f"'{text}': tmpfs-size goes with type=tmpfs only")
    if kind == "tmpfs" and source:
        raise ValueError(f"'{text}': a tmpfs has no source")
    flags = {}
    for name in ("readonly", "exclusive"):
        flag = fields.get(name, "false").lower()
        if flag not in _TRUE | _FALSE:
            raise ValueError(f"'{text}': {name} is true or false")
        flags[name] = flag in _TRUE
    return MountFlag(
        kind=kind,
        source=source,
        target=target,
        read_only=flags["readonly"],
        tmpfs_size_bytes=memory_bytes(fields.get("tmpfs-size", "0")),
        exclusive=flags["exclusive"],
    )


def _mount_fields(text: str) -> dict[str, str]:
    # Here, so that completing a word needs neither.
    import csv
    import difflib

    fields: dict[str, str] = {}
    try:
        # A path with a comma can be quoted, as in "source=/a,b".
        parts = next(csv.reader([text]), [])
    except csv.Error:
        raise ValueError(
            f"'{text}' is no mount; write KEY=VALUE with commas between, all on one line"
        ) from None
    for part in parts:
        written, equals, value = part.partition("=")
        key = _MOUNT_KEYS.get(written.strip().lower())
        if key is None:
            near = difflib.get_close_matches(written, _MOUNT_KEYS, n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(_MOUNT_KEYS)}"
            raise ValueError(f"'{text}': unknown key '{written}'; {known}")
        if key in fields:
            raise ValueError(f"'{text}': {key} is given twice")
        if not equals and key not in ("readonly", "exclusive"):
            raise ValueError(f"'{text}': write {key}=VALUE")
        fields[key] = value
    return fields


def scale(text: str) -> tuple[str, int]:
    """Service and replicas of `web=3`."""
    name, equals, replicas = text.rpartition("=")
    if not name or not equals:
        raise ValueError(
            f"'{text}' says no number of replicas; write SERVICE=REPLICAS, as in web=3"
        )
    return name, count(replicas)


def age_text(age_ms: int) -> str:
    """A time span for people, in the largest unit of which there are two: `90s`, `5m`, `3d`."""
    seconds = max(0, age_ms) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
